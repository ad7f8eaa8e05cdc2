"""Listings: pages of jobs by queue, state, time and what they died of. They run in slices, a step at a time."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import composed, dead, history, rows
from zbroker.core.entities import Peer
from zbroker.core.orders import queue_of, text_of, time_of
from zbroker.core.refusal import Refusal
from zbroker.core.rows import HistoryRow
from zbroker.core.shown import Row, finished, live
from zbroker.core.state import State, Steps
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Answer

EDGES_OF_A_ROW = 16
"""Edges that are looked at for a blocked job as if they were one row more."""


def begin(state: State, peer: Peer, number: int, verb: str, arguments: dict[str, Any]) -> None:
    """Start a listing; its answer is sent when the page is there. `Refusal` for arguments that cannot be."""
    limit = _limit(arguments)
    if verb == "dead_groups":
        queue = queue_of(state, arguments).name if arguments.get("queue") is not None else None
        state.work(_list_groups(state, peer, number, queue, limit))
    else:
        found = LISTINGS[verb](state, arguments)
        state.work(_list(state, peer, peer.route, number, found, limit, _NAMES.get(verb, "jobs")))


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
    found: Iterator[tuple[Row | None, Any]],
    limit: int,
    name: str,
) -> Steps:
    """Collect a page, a step at a time; the cursor is where the next one begins. Large rows make a page shorter."""
    size = 0
    page: list[Row] = []
    cursor: Any = None
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
    state.send(peer, Answer(number, {name: page, "cursor": cursor}))


def _list_groups(state: State, peer: Peer, number: int, queue: str | None, limit: int) -> Steps:
    """Dead jobs by what they died of, the most common first."""
    groups: dict[dead.Died, dead.Group] = {}
    route = peer.route
    for _ in dead.grouped(state, queue, groups):
        yield None
        if peer.route is None or peer.route != route:
            return
    told = sorted(groups.items(), key=lambda item: -item[1].jobs)[:limit]
    state.send(peer, Answer(number, [_group_row(died, group) for died, group in told]))


def _group_row(died: dead.Died, group: dead.Group) -> Row:
    queue, reason, error, text = died
    return {
        "queue": queue,
        "reason": reason,
        "error": error,
        "text": text,
        "jobs": group.jobs,
        "first_at": group.first_ms,
        "last_at": group.last_ms,
        "example": group.example,
    }


# ---- which rows


def _list_jobs(state: State, arguments: dict[str, Any]) -> Iterator[tuple[Row | None, list[Any]]]:
    """Jobs of a queue, or of all, in one state, or in all; rows that count no more come as None."""
    wanted = arguments.get("state")
    if wanted is not None and (type(wanted) is not str or wanted not in _STAGES):
        raise Refusal("invalid", f"state is one of {', '.join(_STAGES)}, not {wanted!r:.40}")
    queue = queue_of(state, arguments).name if arguments.get("queue") is not None else None
    stage, start = _cursor(arguments)
    if wanted == "dead" and queue is not None and not start:  # they lie in the order of time: nobody looks at the rest
        stage, start = "dead", [rows.dead_key(queue, time_of(arguments, "since", 0), b""), 0]
    found = _stages(state, queue, wanted, stage, start)
    if "since" not in arguments and "until" not in arguments:
        return found
    since, until = time_of(arguments, "since", 0), time_of(arguments, "until", 1 << 52)
    return _selected(found, lambda row: since <= _time_in(row) < until)


def _time_in(row: Row) -> int:
    """When it was over, else when it came."""
    return int(row["finished_at"] if "finished_at" in row else row["created_at"])


def _list_dead(state: State, arguments: dict[str, Any]) -> Iterator[tuple[Row | None, list[Any]]]:
    """Dead jobs, or those of them that died of the same."""
    reason, error = text_of(arguments, "reason"), text_of(arguments, "error")
    found = _list_jobs(state, {**arguments, "state": "dead"})
    if not reason and not error:
        return found
    return _selected(found, lambda row: dead.is_same(row["reason"], row["error"], reason, error))


def _selected(
    found: Iterator[tuple[Row | None, list[Any]]], is_wanted: Callable[[Row], bool]
) -> Iterator[tuple[Row | None, list[Any]]]:
    for row, position in found:
        yield row if row is not None and is_wanted(row) else None, position


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


def _blocked(state: State, queue: str | None, start: bytes, _n: int, _wanted: set[str]) -> Listing:
    """Each under the first of its parents that it waits for. Those that it has to look at before count as rows."""
    for key, value in _entries(state, "edges", start + b"\0" if start else b"", b"\xff"):
        parent, _zero, child = key.partition(b"\0")
        found = state.find(child) if child and not value else None
        counts = found is not None and found.state is JobState.BLOCKED and queue in (None, found.queue.name)
        looked = 0
        if counts:
            others = found.header.options["after"]  # type: ignore[union-attr]
            waits = (n for n, one in enumerate(others) if state.view.get("edges", rows.edge_key(one, child)) == b"")
            looked = next(waits, 0)
            counts = others[looked] == parent
        yield live(state, found) if found is not None and counts else None, key, 0
        for _ in range(looked // EDGES_OF_A_ROW):
            yield None, key, 0


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
    "blocked": _blocked,
    "dead": _dead,
    "done": _history,
    "cancelled": _history,
}


LISTINGS: dict[str, Callable[[State, dict[str, Any]], Iterator[tuple[Row | None, Any]]]] = {
    "list": _list_jobs,
    "dead": _list_dead,
    "batches": composed.list_batches,
    "workflows": composed.list_workflows,
}

_NAMES = {"batches": "batches", "workflows": "workflows"}
"""Of what a page consists, where these are not jobs."""
