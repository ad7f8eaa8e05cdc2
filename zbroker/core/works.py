"""Long orders: purge, replay and drop of many jobs, and those about workflows, in slices between other work.

A long order is a row in ``meta`` until it is through, so a restart goes on where it stopped: its step and the row's
new cursor are in one commit.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from zbroker import limits
from zbroker.core import backfill, dead, edges, flow_works, history, rows, unique
from zbroker.core.entities import Queue
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.states import State as JobState
from zclient.protocol.record import header_of


class Work(NamedTuple):
    """A long order as its row keeps it."""

    kind: str  # one of _KINDS, or "backfill"
    queue: str  # empty where the jobs are named
    cursor: bytes  # the key that it goes on from; backfill: the offset
    until: int  # purge: the floor; backfill: the offset before which it ends; others: when jobs died at the latest
    rate: int  # replay: jobs a second; 0: as fast as may be
    reason: str = ""  # of those that died of it; empty: of whatever; backfill: the pattern of the binding
    error: str = ""  # of those whose last error was of this type; likewise
    ids: list[bytes] = []  # noqa: RUF012 (nobody changes it): the jobs that are left, or the workflow, named


def is_busy(state: State) -> bool:
    """Whether as much slow work is under way as may be."""
    return len(state.works) + len(state.resting) >= limits.MAX_WORKS


def refuse_if_busy(state: State) -> None:
    """Raises `Refusal` if as much slow work is under way as may be."""
    if is_busy(state):
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
    if work.kind == "backfill":
        state.work(backfill.run(state, work, partial(_save, state, number)))
        return
    step = _KINDS[work.kind]
    if step in (_replay_some, _drop_some) and work.queue:
        queue = state.queue(work.queue)
        queue.dies_from = max(queue.dies_from, work.until + 1)  # a job that dies again is not for this order
    state.work(_run(state, number, work, step))


Stepped = tuple[Work | None, int]
"""The order as it goes on after a step, or None at its end; and on how many jobs the step acted."""


def _run(state: State, number: int, work: Work, step: Callable[[State, Work], Stepped]) -> Steps:
    after: Work | None = work
    while after is not None:
        work = after
        after, acted = step(state, work)
        _save(state, number, after)
        yield state.now + 1000 * acted // work.rate if work.rate and acted else None
    if work.kind in ("purge", "replay", "drop"):
        state.notice("info", f"{work.kind} finished", queue=work.queue)


def _save(state: State, number: int, work: Work | None) -> None:
    """Write the order's row as it goes on, or take it away at its end."""
    state.tick.rows["meta"][_work_key(number)] = rows.pack(work) if work is not None else None


def _work_key(number: int) -> bytes:
    return rows.META_WORK + rows.number8(number)


# ---- purge


def _sweep(state: State, work: Work) -> Stepped:
    """Remove the rows of jobs below the floor of a purge, and those of ghosts on the way."""
    queue = state.queue(work.queue)
    start = work.cursor or rows.queue_prefix(work.queue)
    stop = rows.beyond(rows.queue_prefix(work.queue))
    handled = 0
    for key, value in state.view.scan("ready", start, stop):
        rank, lane_key, first, _ = rows.split_ready_key(work.queue, key)
        if first >= work.until:  # the rest of this lane is younger than the purge
            return work._replace(cursor=rows.beyond(rows.lane_prefix(work.queue, rank, lane_key))), handled
        ids = rows.unpack(value)
        _void(state, queue, ids, first)
        state.tick.rows["ready"][key] = None
        handled += len(ids)
        if handled >= limits.STEP_ROWS:
            return work._replace(cursor=key + b"\0"), handled
    return None, handled


def _void(state: State, queue: Queue, ids: list[bytes], first: int) -> None:
    """Erase those of the entries that still counted when the purge came."""
    for sequence, (identifier, record, change) in enumerate(state.read(ids), first):
        if record is None or not state.is_ready(queue, identifier, record, change, sequence):
            continue
        header = header_of(record)
        unique.release(state, queue.name, identifier, header.options)
        edges.over(state, identifier, header.options, change, edges.GONE)
        state.erase(identifier, changed=change is not None, external=header.external)
        history.tell(state, identifier, JobState.CANCELLED, None, {"reason": "purged"})


# ---- replay and drop


def _share(work: Work) -> int:
    """Jobs in one step of a replay: a twentieth of a second's worth where it has a rate."""
    return min(limits.STEP_ROWS, max(1, work.rate // 20)) if work.rate else limits.STEP_ROWS


def _replay_some(state: State, work: Work) -> Stepped:
    return _each_dead(state, work, dead.replay_one, _share(work))


def _drop_some(state: State, work: Work) -> Stepped:
    return _each_dead(state, work, dead.drop_one, limits.STEP_ROWS)


def _each_dead(state: State, work: Work, act: Callable[[State, bytes], bool], most: int) -> Stepped:
    """Act on the next jobs of the order. Those that it is not for are looked at and left, more of them in one step than
    are acted on."""
    acted = 0
    if work.ids:
        for identifier in work.ids[:most]:
            acted += act(state, identifier)
        return (work._replace(ids=work.ids[most:]) if work.ids[most:] else None), acted
    for seen, (key, identifier) in enumerate(_dead_rows(state, work), 1):
        if _is_for(state, work, identifier):
            acted += act(state, identifier)
        if acted == most or seen == limits.STEP_ROWS:
            return work._replace(cursor=key + b"\0"), acted
    return None, acted


def _dead_rows(state: State, work: Work) -> Iterator[tuple[bytes, bytes]]:
    """The queue's dead jobs from the cursor on that died before the order: key, id."""
    prefix = rows.queue_prefix(work.queue)
    stop = prefix + rows.number8(work.until + 1)
    for key, _ in state.view.scan("dead", work.cursor or prefix, stop):
        yield key, rows.split_dead_key(key)[2]


def _is_for(state: State, work: Work, identifier: bytes) -> bool:
    """Whether the job died of what the order says, if it says anything."""
    if not (work.reason or work.error):
        return True
    found = state.find(identifier)
    return found is not None and found.change is not None and dead.is_of(found.change, work.reason, work.error)


_KINDS: dict[str, Callable[[State, Work], Stepped]] = {
    "purge": _sweep,
    "replay": _replay_some,
    "drop": _drop_some,
    "store_workflow": flow_works.store_some,
    "cancel_workflow": flow_works.cancel_some,
    "retry_workflow": flow_works.retry_some,
    "forget": flow_works.forget_some,
}
