"""Orders: what people and programs tell the broker to change. Each is applied once; long ones go on in slices.

A long order is a row in ``meta`` until it is through, so a restart goes on where it stopped: its step and the row's
new cursor are in one commit.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core import history, leave, rows
from zbroker.core.put import Refusal
from zbroker.core.state import Found, Queue, State, Steps
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Cancel
from zclient.protocol.record import header_of


def order(state: State, verb: str, arguments: dict[str, Any]) -> Any:
    """Apply an order and return its answer; `Refusal` if it cannot be."""
    handler = _VERBS.get(verb)
    if handler is None:
        raise Refusal("not_found", f"no such order: {verb!r:.40}")
    return handler(state, arguments)


# ---- arguments


def queue_of(state: State, arguments: dict[str, Any]) -> Queue:
    name = arguments.get("queue")
    queue = state.queues.get(name) if isinstance(name, str) else None
    if queue is None:
        raise Refusal("not_found", f"no queue {name!r:.140}")
    return queue


def id_of(arguments: dict[str, Any]) -> bytes:
    identifier = arguments.get("id")
    if type(identifier) is not bytes:
        raise Refusal("invalid", "id is bytes")
    fault = wire.id_fault(identifier)
    if fault:
        raise Refusal("invalid", fault)
    return identifier


def ids_of(arguments: dict[str, Any]) -> list[bytes]:
    ids = arguments["ids"]
    if type(ids) is not list or not ids or len(ids) > wire.MAX_ORDER_IDS:
        raise Refusal("invalid", f"ids is a list of 1 to {wire.MAX_ORDER_IDS} ids")
    return [id_of({"id": identifier}) for identifier in ids]


def no_such_job(identifier: bytes) -> Refusal:
    return Refusal("not_found", f"no job {identifier.decode()!r}")


# ---- single jobs


def cancel(state: State, arguments: dict[str, Any]) -> dict[str, str]:
    """A waiting job is cancelled at once; a running one is told, and is cancelled unless it is done."""
    identifier = id_of(arguments)
    found = state.find(identifier)
    if found is None:
        ended = history.find(state, identifier)
        if ended is None:
            raise no_such_job(identifier)
        return {"state": ended.row.state}
    if found.state is JobState.DEAD:
        return {"state": found.state}
    if found.delivery is not None:
        change = found.changed()._replace(cancel=True)
        state.write_change(identifier, change)
        found.delivery.changes[identifier] = change
        state.send(found.delivery.peer, Cancel(found.delivery.fence, [identifier]))
        return {"state": JobState.LEASED}
    _cancel_waiting(state, found, "cancelled")
    return {"state": JobState.CANCELLED}


def _cancel_waiting(state: State, found: Found, reason: str) -> None:
    state.erase(found.id, changed=found.change is not None, external=found.header.external)
    found.queue.suspects.discard((leave.place_of(found.header)[0], found.sequence, found.id))
    if not found.queue.suspects:
        state.unreserve(found.queue)
    state.move(found.queue, found.state, Event.CANCEL)
    changes = {found.id: rows.encode_change(found.change)} if found.change else None
    history.add(
        state,
        found.queue,
        JobState.CANCELLED,
        [found.id],
        [found.header.created_ms],
        changes=changes,
        reason=reason,
    )
    history.tell(state, found.id, JobState.CANCELLED, None, {"reason": reason})


def replay_one(state: State, identifier: bytes) -> bool:
    """A dead job becomes ready at the end of its lane, with all its attempts anew; false if it is not dead."""
    found = state.find(identifier)
    if found is None or found.state is not JobState.DEAD or found.change is None:
        return False
    queue, change = found.queue, found.change
    state.tick.rows["dead"][rows.dead_key(queue.name, change.ended_ms, identifier)] = None
    first = queue.sequences(1)
    change = change._replace(
        state=JobState.READY, sequence=first, runs=0, losses=0, losses_alone=0, reason="", ended_ms=0, cancel=False
    )
    state.write_change(identifier, change)
    state.move(queue, JobState.DEAD, Event.REPLAY)
    queue.ring.add(leave.place_of(found.header), first, [identifier], state.tick)
    state.hot[queue] = None
    return True


def drop_one(state: State, identifier: bytes) -> bool:
    """Nothing of a dead job is kept; false if it is not dead."""
    found = state.find(identifier)
    if found is None or found.state is not JobState.DEAD or found.change is None:
        return False
    state.tick.rows["dead"][rows.dead_key(found.queue.name, found.change.ended_ms, identifier)] = None
    state.erase(identifier, changed=True, external=found.header.external)
    state.move(found.queue, JobState.DEAD, Event.DROP)
    return True


# ---- queues


def pause(state: State, arguments: dict[str, Any]) -> dict[str, bool]:
    queue = queue_of(state, arguments)
    queue.paused = True
    state.unreserve(queue)
    state.touched[queue] = None
    return {"paused": True}


def resume(state: State, arguments: dict[str, Any]) -> dict[str, bool]:
    queue = queue_of(state, arguments)
    queue.paused = False
    state.touched[queue] = None
    state.hot[queue] = None
    return {"paused": False}


def purge(state: State, arguments: dict[str, Any]) -> dict[str, int]:
    """Every ready job of the queue is void from now on; a sweep removes what is left of them."""
    queue = queue_of(state, arguments)
    refuse_if_busy(state)  # before anything is changed: a refused order has no effect
    jobs = queue.counts.jobs[JobState.READY]
    queue.floor = queue.next_sequence
    queue.ring.forget(queue.floor)
    queue.suspects.clear()
    state.unreserve(queue)
    state.move(queue, JobState.READY, Event.PURGE, jobs)
    if jobs:
        begin(state, Work("purge", queue.name, b"", queue.floor, 0))
    state.notice("info", "queue purged", queue=queue.name, jobs=jobs)
    return {"purged": jobs}


# ---- long orders


class Work(NamedTuple):
    """A long order as its row keeps it."""

    kind: str  # "purge", "replay", "drop"
    queue: str
    cursor: bytes  # the key that it goes on from
    until: int  # purge: the floor; others: the wall clock when it was ordered
    rate: int  # replay: jobs a second; 0: as fast as may be


def refuse_if_busy(state: State) -> None:
    if len(state.works) + len(state.resting) >= limits.MAX_WORKS:
        raise Refusal("busy", "too many long orders and listings are under way", retry_after_ms=1000)


def begin(state: State, work: Work) -> int:
    """Write the order's row and start it; returns its number."""
    refuse_if_busy(state)
    state.next_work += 1
    number = state.next_work
    state.tick.rows["meta"][_work_key(number)] = rows.pack(work)
    go_on(state, number, work)
    return number


def go_on(state: State, number: int, work: Work) -> None:
    """Run a long order from its cursor on."""
    step = {"purge": _sweep, "replay": _replay_some, "drop": _drop_some}[work.kind]
    state.work(_run(state, number, work, step))


def _run(state: State, number: int, work: Work, step: Callable[[State, Work], Work | None]) -> Steps:
    after: Work | None = work
    while after is not None:
        work = after
        after = step(state, work)
        if after is not None and after is not work:
            state.tick.rows["meta"][_work_key(number)] = rows.pack(after)
        yield state.now + 1000 * _share(work) // work.rate if work.rate else None
    state.tick.rows["meta"][_work_key(number)] = None
    state.notice("info", f"{work.kind} finished", queue=work.queue)


def _work_key(number: int) -> bytes:
    return rows.META_WORK + rows.number8(number)


def _sweep(state: State, work: Work) -> Work | None:
    """Remove the rows of jobs below the floor of a purge, and those of ghosts on the way."""
    queue = state.queue(work.queue)
    start = work.cursor or rows.queue_prefix(work.queue)
    stop = rows.beyond(rows.queue_prefix(work.queue))
    handled = 0
    for key, value in state.view.scan("ready", start, stop):
        rank, lane_key, first, _ = rows.split_ready_key(work.queue, key)
        if first >= work.until:  # the rest of this lane is younger than the purge
            return work._replace(cursor=rows.beyond(rows.lane_prefix(work.queue, rank, lane_key)))
        ids = rows.unpack(value)
        _void(state, queue, ids, first)
        state.tick.rows["ready"][key] = None
        handled += len(ids)
        if handled >= limits.STEP_ROWS:
            return work._replace(cursor=key + b"\0")
    return None


def _void(state: State, queue: Queue, ids: list[bytes], first: int) -> None:
    """Erase those of the entries that still counted when the purge came."""
    for sequence, (identifier, record, change) in enumerate(state.read(ids), first):
        if record is None or not state.is_ready(queue, identifier, record, change, sequence):
            continue
        external = header_of(record).external
        state.erase(identifier, changed=change is not None, external=external)
        history.tell(state, identifier, JobState.CANCELLED, None, {"reason": "purged"})


def _dead_rows(state: State, work: Work) -> Iterator[tuple[bytes, bytes]]:
    """The queue's dead jobs from the cursor on that died before the order: key, id."""
    prefix = rows.queue_prefix(work.queue)
    stop = prefix + rows.number8(work.until + 1)
    for key, _ in state.view.scan("dead", work.cursor or prefix, stop):
        yield key, rows.split_dead_key(key)[2]


def _share(work: Work) -> int:
    """Jobs in one step of a replay: a twentieth of a second's worth where it has a rate."""
    return min(limits.STEP_ROWS, max(1, work.rate // 20)) if work.rate else limits.STEP_ROWS


def _replay_some(state: State, work: Work) -> Work | None:
    return _each_dead(state, work, replay_one, _share(work))


def _drop_some(state: State, work: Work) -> Work | None:
    return _each_dead(state, work, drop_one, limits.STEP_ROWS)


def _each_dead(state: State, work: Work, act: Callable[[State, bytes], bool], most: int) -> Work | None:
    for handled, (key, identifier) in enumerate(_dead_rows(state, work), 1):
        act(state, identifier)
        if handled == most:
            return work._replace(cursor=key + b"\0")
    return None


def replay(state: State, arguments: dict[str, Any]) -> dict[str, int]:
    if "ids" in arguments:
        return {"replayed": _chosen(state, ids_of(arguments), replay_one)}
    rate = arguments.get("rate", 0)
    if type(rate) is not int or not 0 <= rate <= 1_000_000:
        raise Refusal("invalid", f"rate is jobs a second, a whole number from 1 to 1000000, not {rate!r:.40}")
    queue = queue_of(state, arguments)
    return {"work": begin(state, Work("replay", queue.name, b"", state.wall, rate)), **_dead_count(queue)}


def drop(state: State, arguments: dict[str, Any]) -> dict[str, int]:
    if "ids" in arguments:
        return {"dropped": _chosen(state, ids_of(arguments), drop_one)}
    queue = queue_of(state, arguments)
    return {"work": begin(state, Work("drop", queue.name, b"", state.wall, 0)), **_dead_count(queue)}


def _dead_count(queue: Queue) -> dict[str, int]:
    return {"dead": queue.counts.jobs[JobState.DEAD]}


def _chosen(state: State, ids: list[bytes], act: Callable[[State, bytes], bool]) -> int:
    """Act on every one of the ids, or, if one is not dead, on none."""
    for identifier in ids:
        found = state.find(identifier)
        if found is None or found.state is not JobState.DEAD:
            raise Refusal("not_found", f"no dead job {identifier.decode()!r}")
    return sum(act(state, identifier) for identifier in dict.fromkeys(ids))


_VERBS: dict[str, Callable[[State, dict[str, Any]], Any]] = {
    "cancel": cancel,
    "purge": purge,
    "pause": pause,
    "resume": resume,
    "replay": replay,
    "drop": drop,
}
