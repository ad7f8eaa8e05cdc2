"""`zbroker doctor`, the part that a running broker is asked for: peers, queues, leases, dead jobs.

It is an ordinary client, and changes nothing. Each question is bounded, however much the broker has; what is left out
for that is said.
"""

import math
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from zbroker.doctor import Finding, Grade, skew
from zclient import Client
from zclient.durations import format_duration, parse_duration
from zclient.handles import JobStatus

RUNS = 20_000
"""Finished jobs, the latest, whose run times are looked at."""

LEAST_RUNS = 20
"""Runs of a queue below which nothing is said of its lease."""

QUEUES = 100
"""Queues that are asked about one by one: those with the most runs, or the most dead jobs."""

NAMED = 5
"""Queues, or versions, that a text names; of more it tells the number."""

GROWING = timedelta(hours=1)
"""Jobs that died within this are new."""

MANY_DEAD = 1000
"""Dead jobs of a queue that are counted one by one; of more it is said that there are more."""


def look_at_broker(client: Client) -> list[Finding]:
    """The findings about a broker. Raises what asking it raises."""
    asked = time.time() * 1000
    stats = client.stats()
    answered = time.time() * 1000
    queues = client.queues()
    now = datetime.fromtimestamp(stats["told_at"] / 1000, UTC)
    return [
        _broker(stats),
        skew(stats["told_at"], asked, answered),
        _versions(stats["version"], client.versions()),
        _unserved(queues),
        _leases(client, now),
        _dead(client, queues, now),
    ]


def _broker(stats: dict[str, Any]) -> Finding:
    """Whether it takes jobs."""
    figures = {name: stats[name] for name in ("epoch", "peers", "workers", "disk_low", "draining")}
    if stats["disk_low"]:
        return Finding("broker", Grade.BAD, "it takes no jobs, since its disk is nearly full", figures)
    if stats["draining"]:
        return Finding("broker", Grade.WARNING, "it is about to stop, and delivers no more", figures)
    return Finding("broker", Grade.OK, f"it answers; {stats['peers']} peers, {stats['workers']} workers", figures)


def _versions(own: str, peers: list[dict[str, Any]]) -> Finding:
    """Peers of another version than the broker's; those that do not say which are none of ours, or very old."""
    others = [row for row in peers if row["version"] not in (own, "")]
    figures = {"broker": own, "peers": peers}
    if others:
        told = _named(f"{row['peers']} of {row['version']}, such as {row['example']}" for row in others)
        return Finding("versions", Grade.WARNING, f"the broker is of version {own}, and of its peers {told}", figures)
    return Finding("versions", Grade.OK, f"broker and peers are of version {own}", figures)


def _unserved(queues: list[dict[str, Any]]) -> Finding:
    """Queues with jobs that are ready, and nobody who could take them."""
    found = [row for row in queues if row["ready"] and not row["workers"] and not row["paused"]]
    figures = {"queues": {row["queue"]: row["ready"] for row in found[:QUEUES]}, "number": len(found)}
    if found:
        told = _named(f"{row['queue']} ({row['ready']} jobs ready)" for row in found)
        return Finding("unserved", Grade.WARNING, f"nobody serves {told}", figures)
    paused = [row["queue"] for row in queues if row["ready"] and row["paused"]]
    if paused:
        return Finding("unserved", Grade.NOTE, f"paused, with jobs that are ready: {_named(paused)}", figures)
    return Finding("unserved", Grade.OK, "every queue with jobs that are ready is served", figures)


# ---- leases


def _leases(client: Client, now: datetime) -> Finding:
    """Queues whose jobs are longer with a worker than their lease lasts, one in a hundred at least."""
    took_ms: defaultdict[str, list[float]] = defaultdict(list)
    for job in client.jobs(state="done", limit=RUNS):
        _add(took_ms, job, job.finished_at)
    for job in client.jobs(state="leased", limit=MANY_DEAD):
        _add(took_ms, job, now)  # so long already
    busiest = sorted(took_ms, key=lambda queue: -len(took_ms[queue]))[:QUEUES]
    figures: dict[str, Any] = {}
    short: list[str] = []
    for queue in busiest:
        runs = sorted(took_ms[queue])
        p99_ms = runs[math.ceil(0.99 * len(runs)) - 1]
        lease_ms = parse_duration(client.queue(queue)["policy"]["lease"].value) * 1000
        figures[queue] = {"runs": len(runs), "p99_ms": round(p99_ms), "lease_ms": round(lease_ms)}
        if len(runs) >= LEAST_RUNS and p99_ms > lease_ms:
            told = format_duration(round(p99_ms) / 1000)
            short.append(f"{queue} (p99 of {len(runs)} runs {told}, lease {format_duration(lease_ms / 1000)})")
    if short:
        text = f"shorter than what jobs take, so that whoever cannot renew loses them: {_named(short)}"
        return Finding("leases", Grade.WARNING, text, figures)
    return Finding("leases", Grade.OK, f"long enough for what was run lately in {len(figures)} queues", figures)


def _add(took_ms: defaultdict[str, list[float]], job: JobStatus, ended: datetime | None) -> None:
    if job.started_at is not None and ended is not None:
        took_ms[job.queue].append((ended - job.started_at) / timedelta(milliseconds=1))


# ---- dead jobs


def _dead(client: Client, queues: list[dict[str, Any]], now: datetime) -> Finding:
    """Queues in which jobs died lately."""
    most = sorted((row for row in queues if row["dead"]), key=lambda row: -row["dead"])[:QUEUES]
    figures: dict[str, Any] = {}
    growing: list[str] = []
    for row in most:
        queue, dead = row["queue"], row["dead"]
        lately = sum(1 for _ in client.jobs(queue, state="dead", since=now - GROWING, limit=MANY_DEAD))
        figures[queue] = {"dead": dead, "lately": lately}
        if lately:
            more = " or more" if lately == MANY_DEAD else ""
            growing.append(f"{queue} (of {dead} dead jobs {lately}{more} within the last hour)")
    if growing:
        return Finding("dead", Grade.WARNING, f"dead jobs become more in {_named(growing)}", figures)
    total = sum(row["dead"] for row in queues)
    return Finding("dead", Grade.OK, f"{total} dead jobs, none of them of the last hour", figures)


def _named(told: Any) -> str:
    """A list for people, not too long."""
    texts = list(told)
    more = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {more} more" if more > 0 else "")
