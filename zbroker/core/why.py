"""Why a job is not running, or what became of it, from the broker's own state, with the figures.

Each reason is a map: ``code``, ``text`` for people, and what the text tells as numbers. They stand in the order in
which the broker asks them, so the first is what has to change first.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import edges, history, rows
from zbroker.core.entities import Found, Peer, Queue
from zbroker.core.rows import Change
from zbroker.core.shown import Row, finished, live
from zbroker.core.state import State
from zbroker.core.states import State as JobState
from zclient.protocol.messages import Outcome


def why(state: State, found: Found | None, ended: history.Ended | None) -> Row:
    """The answer for a live job, or for one that history holds."""
    if found is None:
        assert ended is not None
        row = finished(ended)
        reasons = [_over(row)]
    else:
        row = live(state, found)
        reasons = list(_REASONS[found.state](state, found, row))
    return {
        "id": row["id"],
        "queue": row["queue"],
        "state": row["state"],
        "reasons": reasons,
        "attempts": row["attempts"],
    }


def _reason(code: str, text: str, **figures: Any) -> Row:
    return {"code": code, "text": text, **figures}


def _span(ms: float) -> str:
    """A duration for people: two figures of it are enough."""
    seconds = max(0.0, ms / 1000)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} d"


# ---- waiting


def _scheduled(state: State, found: Found, row: Row) -> Iterator[Row]:
    change = found.changed()
    wait_ms = max(0, change.due_ms - state.wall)
    figures = {"due_at": change.due_ms, "wait_ms": wait_ms}
    if change.outcome == Outcome.SNOOZE:
        yield _reason("snoozed", f"its handler put it off; it goes on in {_span(wait_ms)}", **figures)
    elif change.runs:
        text = f"attempt {change.runs} of {row['max_attempts']} failed; the next is in {_span(wait_ms)}"
        yield _reason("backoff", text, attempt=change.runs, max_attempts=row["max_attempts"], **figures)
    else:
        yield _reason("delayed", f"it is delayed; it may run in {_span(wait_ms)}", **figures)
    if found.queue.paused:
        yield _paused(found.queue)


def _blocked(state: State, found: Found, row: Row) -> Iterator[Row]:
    parents = edges.waits_for(state, found)
    named = [one.decode() for one in parents[: limits.WHY_NAMED]]
    told = ", ".join(f"{one.decode()} ({edges.state_of(state, one)})" for one in parents[: limits.WHY_NAMED])
    more = f" and {len(parents) - limits.WHY_NAMED} more" if len(parents) > limits.WHY_NAMED else ""
    total = len(dict.fromkeys(found.header.options["after"]))
    text = f"it waits for {len(parents)} of {total} jobs: {told}{more}"
    yield _reason("parents", text, pending=len(parents), waits_for=named)


def _ready(state: State, found: Found, row: Row) -> Iterator[Row]:
    queue = found.queue
    held = list(_held_back(state, found))
    yield from held
    yield from _workers(state, queue)
    ahead, is_more = _ahead(state, found)
    lanes = len(queue.ring)
    are = "1 job of its lane is" if ahead == 1 else f"{ahead} jobs of its lane are"
    text = f"{'more than ' if is_more else ''}{are} before it"
    if lanes > 1:
        text += f", and {lanes} lanes have turns"
    if not held and not is_more:
        text = f"next in line: about position {ahead * max(1, lanes) + 1}; {text}"
    yield _reason("position", text, ahead=ahead, is_more=is_more, lanes=lanes, position=ahead * max(1, lanes) + 1)


def _held_back(state: State, found: Found) -> Iterator[Row]:
    """What keeps the job's queue or key from going on."""
    queue, policy = found.queue, found.queue.policy
    if queue.paused:
        yield _paused(queue)
    if state.draining:
        yield _reason("stopping", "the broker is stopping")
    leased = queue.counts.jobs[JobState.LEASED]
    if policy.in_flight_limit and leased >= policy.in_flight_limit:
        text = f"in-flight limit {leased}/{policy.in_flight_limit} of queue {queue.name} is reached"
        yield _reason("in_flight_limit", text, in_flight=leased, limit=policy.in_flight_limit)
    if queue.rate is not None and not queue.rate.free(queue.used_until, state.now):
        wait_ms = max(0, queue.rate.next_at(queue.used_until) - state.now)
        yield _reason("rate", f"rate limit of queue {queue.name}: next job in {_span(wait_ms)}", wait_ms=wait_ms)
    yield from _held_by_key(state, found)
    if found.changed().losses:
        losses = found.changed().losses
        text = f"it lost {losses} worker{'s' if losses > 1 else ''}, so it waits for one that holds nothing else"
        yield _reason("suspect", text, losses=losses)


def _held_by_key(state: State, found: Found) -> Iterator[Row]:
    queue, keys = found.queue, found.queue.ring.keys
    key = found.place[1]
    name = f"key {key.decode()!r}" if key else "jobs without a key"
    running = keys.running.get(key, 0)
    if keys.limit and running >= keys.limit and found.id not in keys.kept:
        holders = _holders(state, queue, key)
        text = f"key limit {running}/{keys.limit} of {name}, held by {', '.join(holders) or 'jobs that run'}"
        yield _reason("key_limit", text, key=key.decode(), in_flight=running, limit=keys.limit, held_by=holders)
    elif keys.rate is not None and not keys.room(key, state.now):
        wait_ms = max(0, (keys.next_at(key) or state.now) - state.now)
        yield _reason("key_rate", f"rate limit of {name}: next job in {_span(wait_ms)}", wait_ms=wait_ms)


def _holders(state: State, queue: Queue, key: bytes) -> list[str]:
    """Some of the jobs that count against the limit of a key: the one that it waits for, and those that run."""
    kept = queue.ring.keys.kept
    prefix = rows.heads_prefix(queue.name, key)
    heads = islice(state.view.scan("heads", prefix, rows.beyond(prefix)), limits.WHY_NAMED)
    waiting = [rows.split_head_key(row_key)[2] for row_key, _ in heads]
    waiting = waiting or [identifier for _, _, identifier in islice(queue.suspects, limits.STEP_ROWS)]
    found = [identifier.decode() for identifier in waiting if kept.get(identifier) == key]
    most = min(limits.WHY_NAMED, queue.ring.keys.running[key])
    looked = 0
    for delivery in state.deliveries.values():
        if len(found) >= most or looked >= limits.WHY_LOOKED:
            break
        if delivery.queue is not queue:
            continue
        looked += len(delivery.ids)
        for identifier in delivery.ids:
            header = delivery.special.get(identifier)
            its_key = header.options.get("key", "").encode() if header is not None else b""
            if its_key == key and state.leased.get(identifier) is delivery:
                found.append(identifier.decode())
    return found[:most]


def _paused(queue: Queue) -> Row:
    return _reason("paused", f"queue {queue.name} is paused")


def _workers(state: State, queue: Queue) -> Iterator[Row]:
    """Whether a worker could take the job."""
    if not queue.workers:
        if not queue.served_ms:
            yield _reason("no_worker", f"no worker serves queue {queue.name}, and none ever did")
            return
        gone_ms = max(0, state.wall - queue.served_ms)
        text = f"no worker serves queue {queue.name}; the last one left {_span(gone_ms)} ago"
        yield _reason("no_worker", text, gone_ms=gone_ms)
        return
    if any(peer.credit > 0 for peer in queue.free):
        return
    told = sorted(queue.workers, key=lambda peer: peer.name)
    named = [f"{peer.name} ({_busy(peer)})" for peer in told[: limits.WHY_NAMED]]
    more = f" and {len(told) - len(named)} more" if len(told) > len(named) else ""
    workers = [
        {"name": peer.name, "leased": peer.unsettled, "capacity": peer.capacity, "why": _busy(peer)}
        for peer in told[: limits.WHY_NAMED]
    ]
    yield _reason("no_credit", f"no worker of queue {queue.name} has room: {', '.join(named)}{more}", workers=workers)


def _busy(peer: Peer) -> str:
    if not peer.capacity:
        return "takes no jobs now"
    if peer.wedged:
        return "let a lease run out, and was not heard of since"
    if peer.congested_until:
        return "its connection is full"
    if peer.alone or peer.reserved:
        return f"{peer.unsettled}/{peer.capacity}, kept for a job that lost a worker before"
    return f"{peer.unsettled}/{peer.capacity}"


def _ahead(state: State, found: Found) -> tuple[int, bool]:
    """How many places of its lane before the job are taken, by ghosts too, and whether there may be more."""
    queue = found.queue
    prefix = rows.lane_prefix(queue.name, *found.place)
    start, stop = prefix + rows.number8(queue.floor), prefix + rows.number8(found.sequence)
    ahead = reach = 0
    gone = queue.ring.head_of(found.place) or 0  # the first of a block may be gone, and the block still there
    for blocks, (key, value) in enumerate(state.view.scan("ready", start, stop)):
        if blocks == limits.WHY_BLOCKS:
            return ahead, True
        first = int.from_bytes(key[len(prefix) :][:8], "big")
        if len(key) > len(prefix) + 8:  # it came back; its place in a block may be counted already
            ahead += not gone <= first < reach
        else:
            reach = min(first + len(rows.unpack(value)), found.sequence)
            ahead += max(0, reach - max(first, gone))
    return ahead, False


# ---- running


def _leased(state: State, found: Found, row: Row) -> Iterator[Row]:
    delivery, change = found.delivery, found.changed()
    assert delivery is not None
    peer = delivery.peer
    since_ms = max(0, state.wall - delivery.started_ms)
    lease_ms = max(0, delivery.deadline - state.now)
    text = f"{peer.name} runs it for {_span(since_ms)}, attempt {row['attempt']}; its lease ends in {_span(lease_ms)}"
    yield _reason(
        "running",
        text,
        worker=peer.name,
        since_ms=since_ms,
        lease_ms=lease_ms,
        attempt=row["attempt"],
        fence=delivery.fence,
    )
    if peer.route is None:
        yield _reason("worker_silent", f"the connection of {peer.name} is gone; it may come back")
    yield from _progress(state, change, peer, delivery.started_ms)
    yield from _reader(state, found)
    if change.cancel:
        yield _reason("cancel_requested", "its worker was told to end it")


def _reader(state: State, found: Found) -> Iterator[Row]:
    stream = state.streams.get(found.id)
    if stream is None or found.delivery is None:
        return
    if stream.peer is None:
        left_ms = max(0, stream.until - state.now)
        yield _reason("no_reader", f"nobody reads it; it is cancelled in {_span(left_ms)}", left_ms=left_ms)
        return
    is_of_run = stream.fence in (0, found.delivery.fence)
    have, more = (stream.have, stream.upto - stream.have) if is_of_run else (0, 0)
    text = f"{stream.peer.name} reads it: it has {have} of its values, and takes {more} more"
    yield _reason("reader", text, reader=stream.peer.name, have=have, more=more)


def _progress(state: State, change: Change, peer: Peer, started_ms: int) -> Iterator[Row]:
    if change.progress is None or change.progress[2] < started_ms:
        return
    fraction, told, at = change.progress
    age_ms = max(0, state.wall - at)
    done = f"{fraction:.0%}" if fraction is not None else ""
    said = ", ".join(part for part in (done, told) if part) or "something"
    alive = "" if peer.route is None else ", and its worker is alive"
    text = f"last progress {_span(age_ms)} ago: {said}{alive}"
    yield _reason("progress", text, fraction=fraction, told=told, age_ms=age_ms)


# ---- over


def _dead(state: State, found: Found, row: Row) -> Iterator[Row]:
    yield _over(row)


def _over(row: Row) -> Row:
    error = row.get("error") or {}
    told = ": ".join(str(error[part]) for part in ("type", "text") if error.get(part))
    attempts = f"{row['attempt']} attempt{'' if row['attempt'] == 1 else 's'}"
    because = row.get("reason") or "no reason given"
    if row.get("parent"):
        because += f" {row['parent'].decode()}"
    texts = {
        "done": f"it was done by {row.get('worker') or 'a worker'}, attempt {row['attempt']}",
        "cancelled": f"it was cancelled ({because})",
        "dead": f"it is dead ({row.get('reason')}) after {attempts}" + (f"; {told}" if told else ""),
    }
    state = str(row["state"])
    if state == "done" and row.get("cancel_requested"):
        texts["done"] += "; somebody wished it cancelled before"
    return _reason(state, texts[state], finished_at=row.get("finished_at"), reason=row.get("reason"))


_REASONS = {
    JobState.SCHEDULED: _scheduled,
    JobState.BLOCKED: _blocked,
    JobState.READY: _ready,
    JobState.LEASED: _leased,
    JobState.DEAD: _dead,
}
