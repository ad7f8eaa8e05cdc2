"""Finished jobs: written in blocks with the tick that ended them, found by id, trimmed by age and count.

The index from id to block is in memory and bounded by `Settings.keep_done_count`; how long they are kept is for each
queue to say. After a start it is read back from the newest block to the oldest, as slow work; until then a question
about a job that is not found waits.
"""

from collections import deque
from heapq import heappop, heappush
from itertools import islice
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core import rows
from zbroker.core.entities import NEVER, Peer, Queue
from zbroker.core.rows import HistoryRow
from zbroker.core.state import State, Steps
from zbroker.core.states import State as JobState


class Ended(NamedTuple):
    """One finished job, as history tells it."""

    id: bytes
    row: HistoryRow
    created_ms: int
    result: bytes | None
    change: rows.Change | None


def holds(state: State, identifier: bytes) -> bool:
    return identifier in state.history.block_of


def add(
    state: State,
    queue: Queue,
    ended: JobState,
    ids: list[bytes],
    created_ms: list[int],
    *,
    fence: int = 0,
    worker: str = "",
    results: list[bytes | None] | None = None,
    changes: dict[bytes, bytes] | None = None,
    reason: str = "",
    digests: dict[bytes, bytes] | None = None,
    started_ms: int = 0,
) -> None:
    """Jobs that ended together: one row, and one more for each large result."""
    if state.settings.keep_done_count == 0 or queue.policy.keep_done_ms == 0:
        change = rows.decode_change(changes[ids[0]]) if reason == "parent" and changes else None
        state.recent.add(state.now, ids, ended, results, _cause_of(reason, change))
        return
    index = state.history
    kept: list[bytes | bool | None] | None = None
    if results is not None and any(results):
        kept = list(results)
        for position, result in enumerate(results):
            if result is not None and len(result) > limits.INLINE_RESULT_BYTES:
                state.tick.rows["results"][ids[position]] = result
                kept[position] = True
    key = rows.history_key(state.tick.number, index.n)
    index.n += 1
    told = (changes or {}, reason, digests or {}, started_ms)
    row = HistoryRow(state.wall, queue.name, ended, fence, worker, ids, created_ms, kept, *told)
    state.tick.rows["history"][key] = rows.pack(row)
    index.block_of.update(dict.fromkeys(ids, key))
    index.blocks[key] = (queue.name, ids, kept is not None and True in kept)
    index.jobs += len(ids)
    index.of_queue.setdefault(queue.name, deque()).append((state.wall, key))
    _look_at(state, queue.name, state.wall + queue.policy.keep_done_ms)


def find(state: State, identifier: bytes) -> Ended | None:
    key = state.history.block_of.get(identifier)
    if key is None:
        return None
    value = state.view.get("history", key)
    if value is None:
        return None
    return ended_in(state, HistoryRow(*rows.unpack(value)), identifier)


def ended_in(state: State, row: HistoryRow, identifier: bytes) -> Ended:
    position = row.ids.index(identifier)
    result = row.results[position] if row.results else None
    if result is True:
        result = state.view.get("results", identifier)
    encoded = row.changes.get(identifier)
    change = rows.decode_change(encoded) if encoded is not None else None
    return Ended(identifier, row, row.created_ms[position], result or None, change)


# ---- trimming


def trim(state: State) -> None:
    """Delete the oldest blocks beyond the limits of age and count; a bounded number in one turn."""
    index = state.history
    state.recent.trim(state.now)
    if not index.complete:
        return
    most = state.settings.keep_done_count
    budget = limits.STEP_ROWS + 2 * index.n  # at least as fast as they come
    while budget and index.blocks:
        name, ids, _ = next(iter(index.blocks.values()))
        if index.jobs - len(ids) < most:
            break
        _forget_oldest(state, name)
        budget -= 1
    while budget and index.due and index.due[0][0] <= state.wall:
        at, name = heappop(index.due)
        if index.due_at.get(name) == at:
            del index.due_at[name]
            budget = _trim_queue(state, name, budget)


def _trim_queue(state: State, name: str, budget: int) -> int:
    """Delete the blocks of a queue that are too old; what is left of the budget."""
    keep_ms = state.queue(name).policy.keep_done_ms
    while of_queue := state.history.of_queue.get(name):
        ended_ms, _ = of_queue[0]
        if not budget or ended_ms + keep_ms > state.wall:
            _look_at(state, name, ended_ms + keep_ms)
            break
        _forget_oldest(state, name)
        budget -= 1
    return budget


def _look_at(state: State, name: str, at: int) -> None:
    """Look at the queue's oldest block at this time, if not before."""
    index = state.history
    if at < index.due_at.get(name, NEVER):
        index.due_at[name] = at
        heappush(index.due, (at, name))


def kept_anew(state: State, queue: Queue) -> None:
    """What the queue keeps has changed: look when its oldest block is to go."""
    of_queue = state.history.of_queue.get(queue.name)
    if of_queue:
        _look_at(state, queue.name, of_queue[0][0] + queue.policy.keep_done_ms)


def trim_due(state: State) -> int | None:
    """Wall time at which the next block is to go, if any."""
    index = state.history
    return index.due[0][0] if index.due and index.complete else None


def _forget_oldest(state: State, name: str) -> None:
    """Delete the oldest block of a queue. The oldest of all is the oldest of its own queue."""
    of_queue = state.history.of_queue[name]
    _, key = of_queue.popleft()
    if not of_queue:
        del state.history.of_queue[name]
    _, ids, has_large = state.history.blocks.pop(key)
    value = state.view.get("history", key) if has_large else None
    state.tick.rows["history"][key] = None
    state.history.jobs -= len(ids)
    block_of = state.history.block_of
    for identifier in ids:
        if block_of.get(identifier) == key:
            del block_of[identifier]
    if value is not None:
        row = HistoryRow(*rows.unpack(value))
        for identifier, result in zip(row.ids, row.results or (), strict=False):
            if result is True:
                state.tick.rows["results"][identifier] = None


# ---- reading back after a start


def read_back(state: State) -> Steps:
    """Fill the index from the newest block to the oldest, a step at a time."""
    index = state.history
    stop = rows.history_key(state.tick.number, 0)
    while page := list(islice(state.view.scan("history", b"", stop, backwards=True), limits.STEP_ROWS)):
        for key, value in page:
            row = HistoryRow(*rows.unpack(value))
            index.blocks[key] = (row.queue, row.ids, row.results is not None and True in row.results)
            index.blocks.move_to_end(key, last=False)
            index.of_queue.setdefault(row.queue, deque()).appendleft((row.ended_ms, key))
            for identifier in row.ids:
                index.block_of.setdefault(identifier, key)
            index.jobs += len(row.ids)
        stop = page[-1][0]
        yield None
    index.complete = True
    index.due.clear()
    index.due_at.clear()
    for name in index.of_queue:
        kept_anew(state, state.queue(name))


# ---- telling those who wait


def watch(state: State, peer: Peer, identifier: bytes, *, changes: bool) -> None:
    """Tell the peer the end of a job, or its changes as well."""
    peer.watched.add(identifier)
    state.watchers.setdefault(identifier, {})[peer] = None
    if changes:
        state.followers.setdefault(identifier, {})[peer] = None
        newcomers = state.changed.setdefault(identifier, {})
        if newcomers is not None:
            newcomers[peer] = None  # it is told at once how the job is now


def tell(state: State, identifier: bytes, ended: str, result: bytes | None, cause: dict[str, Any] | None) -> None:
    """Push the end of a job to every peer that watches it."""
    if state.streams:
        state.end_stream(identifier)
    watchers = state.watchers.pop(identifier, None)
    state.followers.pop(identifier, None)
    for peer in watchers or ():
        peer.watched.discard(identifier)
        state.tick.end(peer.route, (identifier, ended, result, cause))


def tell_dropped(state: State, identifier: bytes) -> None:
    """Push the end of a job that expired, in a queue that keeps nothing of such."""
    cause = _cause_of("expired", None)
    state.recent.add(state.now, [identifier], JobState.DEAD, None, cause)
    tell(state, identifier, JobState.DEAD, None, cause)


def unwatch(state: State, peer: Peer, identifiers: list[bytes]) -> None:
    for identifier in identifiers:
        peer.watched.discard(identifier)
        for told in (state.watchers, state.followers):
            peers = told.get(identifier)
            if peers is not None:
                peers.pop(peer, None)
                if not peers:
                    del told[identifier]


def end_of(ended: Ended) -> tuple[bytes, str, bytes | None, dict[str, Any] | None]:
    """What FINISHED says of a job that history holds."""
    return (ended.id, ended.row.state, ended.result, _cause_of(ended.row.reason, ended.change))


def _cause_of(reason: str, change: rows.Change | None) -> dict[str, Any] | None:
    cause: dict[str, Any] | None = {"reason": reason} if reason else None
    if cause is not None and reason == "parent" and change is not None:
        cause["parent"] = change.reason.encode()
    return cause
