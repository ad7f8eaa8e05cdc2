"""Questions: what people and programs ask of the broker. They change nothing, and long ones run in slices."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import history, leave, rows
from zbroker.core.orders import id_of, no_such_job, queue_of, refuse_if_busy
from zbroker.core.put import Refusal
from zbroker.core.rows import Change, HistoryRow
from zbroker.core.state import Found, Peer, Queue, State, Steps
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Answer, Ask, Failure
from zclient.protocol.record import payload_of

Row = dict[str, Any]


def ask(state: State, peer: Peer, message: Ask) -> None:
    """Answer, at once or, where the answer takes a while, when it is there."""
    verb, arguments, number = message.verb, message.arguments, message.number
    if verb in _LISTINGS:
        refuse_if_busy(state)
        state.work(_list(state, peer, peer.route, number, _LISTINGS[verb](state, arguments), _limit(arguments)))
    elif verb == "show" and not state.history.complete:
        refuse_if_busy(state)
        state.work(_show_later(state, peer, number, arguments))
    elif verb in _VERBS:
        answer = _VERBS[verb](state, arguments)
        if verb == "show":
            state.tick.bytes_out += len(answer["payload"] or b"") + len(answer["result"] or b"")
        state.send(peer, Answer(number, answer))
    else:
        raise Refusal("not_found", f"no such question: {verb!r:.40}")


# ---- one job


def show(state: State, arguments: dict[str, Any]) -> Row:
    identifier = id_of(arguments)
    found = state.find(identifier)
    if found is not None:
        row = live(state, found)
        external = found.header.external
        row["payload"] = state.view.get("payloads", identifier) if external else payload_of(found.record)
        row["result"] = None
        return row
    ended = history.find(state, identifier)
    if ended is None:
        raise no_such_job(identifier)
    return {**finished(ended), "payload": None, "result": ended.result}


def _show_later(state: State, peer: Peer, number: int, arguments: dict[str, Any]) -> Steps:
    """A job that is not there may be in the history that is still being read back."""
    while not state.history.complete:
        if state.find(id_of(arguments)) is not None or history.holds(state, id_of(arguments)):
            break
        yield None
    try:
        state.send(peer, Answer(number, show(state, arguments)))
    except Refusal as refusal:
        state.send(peer, Failure(number, refusal.code, refusal.text, refusal.details))


def live(state: State, found: Found) -> Row:
    """A live job as people see it."""
    options = found.header.options
    change = found.change or Change(found.state, 0)
    delivery = found.delivery
    row = {
        "id": found.id,
        "queue": found.queue.name,
        "state": found.state,
        "priority": options.get("priority", 0),
        "key": options.get("key"),
        "headers": options.get("headers", {}),
        "max_attempts": options.get("max_attempts", found.queue.policy.max_attempts),
        "created_at": found.header.created_ms,
        "sequence": found.sequence,
        "cancel_requested": change.cancel,
        **_past(change),
    }
    if delivery is not None:
        row["attempt"] = change.runs + 1
        row["worker"] = delivery.peer.name
        row["fence"] = delivery.fence
        row["started_at"] = delivery.started_ms
        row["lease_ms"] = max(0, delivery.deadline - state.now)
    if found.state is JobState.SCHEDULED:
        row["due_at"] = change.due_ms
    if found.state is JobState.DEAD:
        row["reason"] = change.reason
        row["finished_at"] = change.ended_ms
    return row


def finished(ended: history.Ended) -> Row:
    """A finished job as people see it."""
    row = ended.row
    change = ended.change or Change(JobState.DONE, 0)
    return {
        "id": ended.id,
        "queue": row.queue,
        "state": row.state,
        "created_at": ended.created_ms,
        "finished_at": row.ended_ms,
        "worker": row.worker,
        "fence": row.fence,
        "reason": row.reason,
        "cancel_requested": change.cancel,
        **_past(change),
        "attempt": change.runs + (1 if row.state == JobState.DONE else 0),
    }


def _past(change: Change) -> Row:
    attempts = [attempt._asdict() for attempt in change.attempts]
    return {
        "attempt": change.runs,
        "attempts": attempts,
        "losses": change.losses,
        "error": attempts[-1]["error"] if attempts else None,
    }


def end_of(state: State, identifier: bytes) -> tuple[bytes, str, bytes | None, dict[str, Any] | None] | None:
    """What FINISHED says of a job, or None while it goes on."""
    found = state.find(identifier)
    if found is not None:
        if found.state is JobState.DEAD and found.change is not None:
            return (identifier, JobState.DEAD, None, leave.cause_of(found.change))
        return None
    ended = history.find(state, identifier)
    return history.end_of(ended) if ended is not None else (identifier, "unknown", None, None)


def watch_later(state: State) -> Steps:
    """Tell the watchers of jobs that were not found, once the history is read back."""
    while not state.history.complete:
        yield None
    asked, state.history.asked = state.history.asked, {}
    for position, identifier in enumerate(asked, 1):
        end = end_of(state, identifier)
        if end is not None:
            history.tell(state, *end)
        if position % limits.STEP_ROWS == 0:
            yield None


# ---- listings


def _limit(arguments: dict[str, Any]) -> int:
    limit = arguments.get("limit", 100)
    if type(limit) is not int or not 1 <= limit <= wire.MAX_PAGE:
        raise Refusal("invalid", f"limit is a whole number from 1 to {wire.MAX_PAGE}, not {limit!r:.40}")
    return limit


def _list(
    state: State,
    peer: Peer,
    route: bytes | None,
    number: int,
    found: Iterator[tuple[Row | None, list[Any]]],
    limit: int,
) -> Steps:
    """Collect a page, a step at a time; the cursor is where the next one begins. Large rows make a page shorter."""
    size = 0
    page: list[Row] = []
    cursor: list[Any] | None = None
    for seen, (row, position) in enumerate(found, 1):
        if row is not None:
            if len(page) == limit or size >= wire.MESSAGE_BYTES:
                break
            page.append(row)
            size += len(rows.pack(row))
            cursor = position
        if seen % limits.STEP_ROWS == 0:
            yield None
            if peer.route is None or peer.route != route:
                return  # nobody waits for it
    else:
        cursor = None
    state.send(peer, Answer(number, {"jobs": page, "cursor": cursor}))


def _list_jobs(state: State, arguments: dict[str, Any]) -> Iterator[tuple[Row | None, list[Any]]]:
    """Jobs of a queue, or of all, in one state, or in all; rows that count no more come as None."""
    wanted = arguments.get("state")
    if wanted is not None and (type(wanted) is not str or wanted not in _STAGES):
        raise Refusal("invalid", f"state is one of {', '.join(_STAGES)}, not {wanted!r:.40}")
    queue = queue_of(state, arguments).name if arguments.get("queue") is not None else None
    stage, start = _cursor(arguments)
    return _stages(state, queue, wanted, stage, start)


def _cursor(arguments: dict[str, Any]) -> tuple[str, list[Any]]:
    cursor = arguments.get("cursor")
    if cursor is None:
        return "", []
    kinds = [type(part) for part in cursor] if type(cursor) is list else []
    if kinds != [str, bytes, int] or cursor[0] not in _STAGES:
        raise Refusal("invalid", "that is not a cursor of a listing")
    return cursor[0], cursor[1:]


def _stages(
    state: State, queue: str | None, wanted: str | None, stage: str, start: list[Any]
) -> Iterator[tuple[Row | None, list[Any]]]:
    names = [wanted] if wanted is not None else [name for name in _STAGES if name != "cancelled"]
    if wanted is None and stage:
        names = names[names.index(stage) :] if stage in names else names
    for name in names:
        key, n = start if start and name == stage else (b"", -1)
        states = {wanted} if wanted in ("done", "cancelled") else {"done", "cancelled"}
        for row, at, position in _STAGES[name](state, queue, key, n, states):
            yield row, [name, at, position]


Listing = Iterator[tuple[Row | None, bytes, int]]


def _leased(state: State, queue: str | None, start: bytes, _: int, _wanted: set[str]) -> Listing:
    for identifier in sorted(identifier for identifier in state.leased if identifier > start):
        found = state.find(identifier)
        counts = found is not None and found.state is JobState.LEASED and queue in (None, found.queue.name)
        yield live(state, found) if found is not None and counts else None, identifier, 0


def _entries(state: State, space: str, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Rows of a keyspace in small scans, since the rows change between the steps."""
    while page := list(islice(state.view.scan(space, start, stop), limits.STEP_ROWS)):
        yield from page
        start = page[-1][0] + b"\0"


def _ready(state: State, queue: str | None, start: bytes, n: int, wanted: set[str]) -> Listing:
    begin = start or (rows.queue_prefix(queue) if queue else b"")
    stop = rows.beyond(rows.queue_prefix(queue)) if queue else b"\xff"
    for key, value in _entries(state, "ready", begin, stop):
        name = key[: key.index(b"\0")].decode()
        rank, lane_key, first, returned = rows.split_ready_key(name, key)
        prefix = rows.lane_prefix(name, rank, lane_key)
        for position, identifier in enumerate(rows.unpack(value)):
            if key == start and position <= n:
                continue
            found = state.find(identifier)
            counts = found is not None and found.state is JobState.READY and found.sequence == first + position
            counts = counts and found.queue.name == name  # type: ignore[union-attr]
            if counts and not returned and found.change is not None:  # type: ignore[union-attr]
                back = prefix + rows.number8(first + position) + rows.RETURNED
                counts = state.view.get("ready", back) is None  # else it came back, and is told by that row
            yield live(state, found) if found is not None and counts else None, key, position


def _scheduled(state: State, queue: str | None, start: bytes, n: int, wanted: set[str]) -> Listing:
    for key, value in _entries(state, "timers", start, b"\xff"):
        timer = rows.TimerRow(*rows.unpack(value))
        if queue not in (None, timer.queue):
            yield None, key, 0
            continue
        for position, identifier in enumerate(timer.ids):
            if key == start and position <= n:
                continue
            found = state.find(identifier)
            counts = found is not None and found.state is JobState.SCHEDULED
            counts = counts and found.changed().due_ms == rows.due_of(key)  # type: ignore[union-attr]
            yield live(state, found) if found is not None and counts else None, key, position


def _dead(state: State, queue: str | None, start: bytes, _: int, _wanted: set[str]) -> Listing:
    begin = start + b"\0" if start else rows.queue_prefix(queue) if queue else b""
    stop = rows.beyond(rows.queue_prefix(queue)) if queue else b"\xff"
    for key, _reason in _entries(state, "dead", begin, stop):
        found = state.find(rows.split_dead_key(key)[2])
        counts = found is not None and found.state is JobState.DEAD
        yield live(state, found) if found is not None and counts else None, key, 0


def _history(state: State, queue: str | None, start: bytes, n: int, states: set[str]) -> Listing:
    """Newest first."""
    stop = start + b"\0" if start else b"\xff"
    while page := list(islice(state.view.scan("history", b"", stop, backwards=True), limits.STEP_ROWS)):
        stop = page[-1][0]
        for key, value in page:
            row = HistoryRow(*rows.unpack(value))
            if queue not in (None, row.queue) or row.state not in states:
                yield None, key, 0
                continue
            for position, identifier in enumerate(row.ids):
                if key != start or position > n:
                    yield finished(history.ended_in(state, row, identifier)), key, position


_STAGES: dict[str, Callable[[State, str | None, bytes, int, set[str]], Listing]] = {
    "leased": _leased,
    "ready": _ready,
    "scheduled": _scheduled,
    "dead": _dead,
    "done": _history,
    "cancelled": _history,
}


def _list_dead(state: State, arguments: dict[str, Any]) -> Iterator[tuple[Row | None, list[Any]]]:
    return _list_jobs(state, {**arguments, "state": "dead"})


_LISTINGS: dict[str, Callable[[State, dict[str, Any]], Iterator[tuple[Row | None, list[Any]]]]] = {
    "list": _list_jobs,
    "dead": _list_dead,
}


# ---- queues, workers, the whole


def _queue_row(queue: Queue) -> Row:
    return {
        "queue": queue.name,
        **{job_state.value: jobs for job_state, jobs in queue.counts.jobs.items()},
        "paused": queue.paused,
        "workers": len(queue.workers),
        "totals": queue.counts.totals,
        "created_at": queue.created_ms,
    }


def _queues(state: State, arguments: dict[str, Any]) -> list[Row]:
    return [_queue_row(state.queues[name]) for name in sorted(state.queues)]


def _queue(state: State, arguments: dict[str, Any]) -> Row:
    queue = queue_of(state, arguments)
    policy = queue.policy
    return {**_queue_row(queue), "policy": {name: getattr(policy, name) for name in policy.__dataclass_fields__}}


def _workers(state: State, arguments: dict[str, Any]) -> list[Row]:
    return [
        {
            "id": peer.incarnation.hex(),
            "name": peer.name,
            "queues": [queue.name for queue in peer.queues],
            "capacity": peer.capacity,
            "leased": peer.unsettled,
            "connected": peer.route is not None,
            "connected_for_ms": state.now - peer.joined_ms if peer.route is not None else 0,
            "info": peer.info,
        }
        for peer in sorted(state.peers.values(), key=lambda peer: peer.name)
        if peer.queues or peer.deliveries
    ]


def _stats(state: State, arguments: dict[str, Any]) -> Row:
    jobs: dict[str, int] = {}
    totals: dict[str, int] = {}
    for queue in state.queues.values():
        for job_state, number in queue.counts.jobs.items():
            jobs[job_state.value] = jobs.get(job_state.value, 0) + number
        for name, number in queue.counts.totals.items():
            totals[name] = totals.get(name, 0) + number
    return {
        "broker": state.broker.hex(),
        "epoch": state.epoch,
        "tick": state.tick.number,
        "queues": len(state.queues),
        "peers": len(state.routes),
        "workers": sum(1 for peer in state.routes.values() if peer.queues),
        "jobs": jobs,
        "totals": totals,
        "finished_kept": state.history.jobs,
        "in_memory": {"entries": state.budget.jobs, "lanes": state.budget.lanes, "record_bytes": state.fresh_bytes},
        "slow_work": len(state.works) + len(state.resting),
        "longest_turn_ms": round(state.longest_turn_ms, 3),
        "turns": dict(zip([f"{ms} ms" for ms in limits.TURN_BOUNDS_MS] + ["longer"], state.turns, strict=True)),
        "disk_low": state.disk_low,
        "draining": state.draining,
        "counters": dict(state.counters),
    }


_VERBS: dict[str, Callable[[State, dict[str, Any]], Any]] = {
    "show": show,
    "queues": _queues,
    "queue": _queue,
    "workers": _workers,
    "stats": _stats,
}
