"""What the tests of schedules share: a broker with a calendar, and a schedule of every minute."""

from __future__ import annotations

from typing import Any

from tests.core.harness import WALL, Bench, Peer
from zbroker.calendar import Calendar
from zclient.protocol import messages as m

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 24 * 3_600_000
FIRST = WALL + 40_000
"""The first whole minute behind the start of a bench."""


def bench_of(**settings: Any) -> Bench:
    """A broker whose workers hold their jobs for long."""
    return Bench(calendar=Calendar(), policy={"lease_ms": DAY}, **settings)


def person(bench: Bench) -> Peer:
    """Somebody new, with orders that nobody else numbered so."""
    return bench.producer(f"person {bench.now} {len(bench.routes)} {bench.turns}"[:16])


def add(peer: Peer, name: str = "s", **changes: Any) -> dict[str, Any]:
    """Set a schedule of every minute."""
    told = {"name": name, "cron": "* * * * *", "queue": "q", "payload": b"p"} | changes
    if "every" in told:
        told.pop("cron")
    answer: dict[str, Any] = peer.order("set_schedule", **told)
    return answer


def refused(peer: Peer, verb: str = "set_schedule", **changes: Any) -> m.Failure:
    told = {"name": "s", "cron": "* * * * *", "queue": "q", "payload": b"p"} | changes
    number = peer.next_number()
    return peer.refused(m.Order(number, number, verb, told))


def one(peer: Peer, name: str = "s") -> dict[str, Any]:
    """What the broker tells of a schedule."""
    (found,) = [row for row in peer.ask("schedules") if row["name"] == name]
    return dict(found)


def made(bench: Bench, name: str = "s") -> list[int]:
    """When the occurrences were whose jobs were put and still wait, in order."""
    prefix = f"{name}@".encode()
    ids = [key.removeprefix(prefix) for key, _ in bench.store.scan("jobs", prefix, prefix + b"\xff")]
    return sorted(int(time) for time in ids if time.isdigit())


def put(bench: Bench, queue: str = "q") -> int:
    """How many jobs a queue was ever given."""
    found = bench.core.state.queues.get(queue)
    return found.counts.totals["put"] if found is not None else 0
