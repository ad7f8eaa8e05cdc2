"""Finished jobs: written in blocks with the tick that ended them, found by id, trimmed by age and count.

The index from id to block is in memory and bounded by `Settings.keep_done_count`. After a start it is read back from
the newest block to the oldest, as slow work; until then a question about a job that is not found waits.
"""

from itertools import islice
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core import rows
from zbroker.core.rows import HistoryRow
from zbroker.core.state import Peer, Queue, State, Steps
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
) -> None:
    """Jobs that ended together: one row, and one more for each large result."""
    if state.settings.keep_done_count == 0 or state.settings.keep_done_ms == 0:
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
    row = HistoryRow(state.wall, queue.name, ended, fence, worker, ids, created_ms, kept, changes or {}, reason)
    state.tick.rows["history"][key] = rows.pack(row)
    index.block_of.update(dict.fromkeys(ids, key))
    index.blocks.append((key, state.wall, ids))
    index.jobs += len(ids)


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
    if not index.complete:
        return
    oldest = state.wall - state.settings.keep_done_ms
    most = state.settings.keep_done_count
    for _ in range(limits.STEP_ROWS + 2 * index.n):  # at least as fast as they come
        if not index.blocks:
            return
        key, ended_ms, ids = index.blocks[0]
        if index.jobs - len(ids) < most and ended_ms > oldest:
            return
        index.blocks.popleft()
        index.jobs -= len(ids)
        _forget(state, key, ids)


def trim_due(state: State) -> int | None:
    """Wall time at which the oldest block is to go, if any."""
    blocks = state.history.blocks
    return blocks[0][1] + state.settings.keep_done_ms if blocks and state.history.complete else None


def _forget(state: State, key: bytes, ids: list[bytes]) -> None:
    value = state.view.get("history", key)
    state.tick.rows["history"][key] = None
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
    blocks: list[tuple[bytes, int, list[bytes]]] = []
    while page := list(islice(state.view.scan("history", b"", stop, backwards=True), limits.STEP_ROWS)):
        for key, value in page:
            row = HistoryRow(*rows.unpack(value))
            blocks.append((key, row.ended_ms, row.ids))
            for identifier in row.ids:
                index.block_of.setdefault(identifier, key)
            index.jobs += len(row.ids)
        stop = page[-1][0]
        yield None
    index.blocks.extendleft(blocks)
    index.complete = True


# ---- telling those who wait


def tell(state: State, identifier: bytes, ended: str, result: bytes | None, cause: dict[str, Any] | None) -> None:
    """Push the end of a job to every peer that watches it."""
    watchers = state.watchers.pop(identifier, None)
    for peer in watchers or ():
        peer.watched.discard(identifier)
        state.tick.end(peer.route, (identifier, ended, result, cause))


def unwatch(state: State, peer: Peer, identifiers: list[bytes]) -> None:
    for identifier in identifiers:
        peer.watched.discard(identifier)
        watchers = state.watchers.get(identifier)
        if watchers is not None:
            watchers.pop(peer, None)
            if not watchers:
                del state.watchers[identifier]


def end_of(ended: Ended) -> tuple[bytes, str, bytes | None, dict[str, Any] | None]:
    """What FINISHED says of a job that history holds."""
    cause = {"reason": ended.row.reason} if ended.row.reason else None
    return (ended.id, ended.row.state, ended.result, cause)
