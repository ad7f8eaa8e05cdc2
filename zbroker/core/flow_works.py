"""What of workflows and batches takes long, a slice at a time: storing the jobs, cancelling, replaying, removing.

Each function does one step of an order as ``works.py`` keeps it, and returns the order as it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from zbroker import limits
from zbroker.core import batches, callbacks, dead, edges, history, rows, waiting, workflows
from zbroker.core.put import judge_group, store
from zbroker.core.state import State
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Group
from zclient.protocol.plans import job_ids, step_id

if TYPE_CHECKING:
    from zbroker.core.works import Stepped, Work

CANCEL_ROWS = 16
"""Jobs that one step cancels: each costs as much as four that are replayed."""

FORGET_BYTES = 1024 * 1024
"""Bytes of results that one step reads to delete them."""


# ---- storing


def store_groups(state: State, groups: list[Group]) -> None:
    """Store jobs of a workflow that is there; they are counted already. An id that another job has taken since the
    parts came is none of the workflow's: it counts as cancelled."""
    for group in groups:
        taken = state.view.get_many("jobs", group.ids)
        if any(record is not None for record in taken):
            _cancel_all(state, group, [one for one, record in zip(group.ids, taken, strict=True) if record is not None])
            free = [place for place, record in enumerate(taken) if record is None]
            group = group._replace(ids=[group.ids[n] for n in free], payloads=[group.payloads[n] for n in free])
        if group.ids:
            store(state, group, judge_group(state, group, closed=True))


def _cancel_all(state: State, group: Group, ids: list[bytes]) -> None:
    """Jobs of the workflow that are never stored."""
    for identifier in ids:
        batches.ended(state, group.options["batch"], identifier, edges.GONE, None, was_dead=False)


def store_some(state: State, work: Work) -> Stepped:
    """Store the jobs of a row, and delete it. Of a workflow that was cancelled meanwhile they end here."""
    (identifier,) = work.ids
    start = work.cursor or rows.staged_prefix(identifier)
    found = next(state.view.scan("workflows", start, rows.beyond(rows.staged_prefix(identifier))), None)
    if found is None:
        return None, 0
    key, value = found
    groups = [Group(*group) for group in rows.unpack(value)]
    if not batches.is_stopped(state, identifier):
        store_groups(state, groups)
    else:
        for group in groups:
            _never_stored(state, group)
    state.tick.rows["workflows"][key] = None
    return work._replace(cursor=key + b"\0"), 0


def _never_stored(state: State, group: Group) -> None:
    _cancel_all(state, group, group.ids)
    created = [state.wall] * len(group.ids)
    history.add(state, state.queue(group.queue), JobState.CANCELLED, group.ids, created, reason="cancelled")
    for identifier in group.ids:
        history.tell(state, identifier, JobState.CANCELLED, None, {"reason": "cancelled"})


# ---- cancel and retry: over the jobs of all steps


def cancel_some(state: State, work: Work) -> Stepped:
    """The next jobs that are not over, from the last step to the first: children go before others release them."""
    ids, after = _page(state, work, CANCEL_ROWS, lambda batch: not batch.end, backwards=True)
    for identifier in ids:
        found = state.find(identifier)
        if found is None or found.state is JobState.DEAD:
            continue
        if found.delivery is None:
            waiting.cancel(state, found, "cancelled")
        elif not found.changed().cancel:
            waiting.wish_away(state, found)
    return after, 0


def retry_some(state: State, work: Work) -> Stepped:
    """The next jobs that are dead, from the first step to the last, unless somebody cancels it meanwhile."""
    after: Work | None = None
    if not batches.is_stopped(state, work.ids[0]):
        ids, after = _page(state, work, limits.STEP_ROWS, lambda batch: batch.dead > 0, backwards=False)
        for identifier in ids:
            dead.replay_one(state, identifier)
    flow = workflows.look(state, work.ids[0])
    if after is None and flow is not None:
        flow.retries -= 1
        state.flows[flow.id] = flow
    return after, 0


def _page(
    state: State, work: Work, most: int, is_wanted: Callable[[batches.Batch], bool], *, backwards: bool
) -> tuple[list[bytes], Work | None]:
    """The next jobs of a workflow, of those steps that are wanted, and the order behind them: it goes on from the job
    ``until`` of the step that the cursor says, or, behind those that came with the workflow, from one added later."""
    flow = workflows.look(state, work.ids[0])
    for _ in range(limits.STEP_ROWS):
        turn, added = int.from_bytes(work.cursor[:2], "big"), work.cursor[2:]
        if flow is None or turn >= flow.steps:
            return [], None
        place = flow.steps - 1 - turn if backwards else turn
        batch = batches.look(state, step_id(flow.id, place))
        if batch is not None and is_wanted(batch):
            if work.until < batch.total:  # those that were added are counted in, and found by their rows
                stop = min(work.until + most, batch.total)
                return job_ids(flow.id, place, work.until, stop - work.until), work._replace(
                    cursor=work.cursor[:2] or bytes(2), until=stop
                )
            start = rows.added_key(batch.id, added) + b"\0"
            page = [key for key, _ in islice(state.view.scan("batches", start, rows.beyond_batch(batch.id)), most)]
            if page:
                ids = [key[len(batch.id) + 1 :] for key in page]
                return ids, work._replace(cursor=work.cursor[:2] + ids[-1])
        work = work._replace(cursor=(turn + 1).to_bytes(2, "big"), until=0)
    return [], work


# ---- removing


def forget_some(state: State, work: Work) -> Stepped:
    """Delete some rows of a batch, or of a workflow that is gone already: its steps from the last to the first, then
    what it has beside them. The own row of a batch, and the plan of a workflow, go last: so nobody takes the id anew
    before."""
    (identifier,) = work.ids
    is_batch = len(identifier) != wire.WORKFLOW_ID_BYTES
    if is_batch:
        return _forget_rows(state, work, "batches", identifier, rows.beyond_batch(identifier), None)
    if work.until:
        owner = step_id(identifier, work.until - 1)
        after = work._replace(cursor=b"", until=work.until - 1)
        return _forget_rows(state, work, "batches", owner, rows.beyond_batch(owner), after)
    return _forget_rows(state, work, "workflows", identifier, rows.beyond_workflow(identifier), None)


def _forget_rows(
    state: State, work: Work, space: str, owner: bytes, stop: bytes, after: Work | None
) -> tuple[Work | None, int]:
    if owner in state.counted:
        return work, 0  # its row is written at the end of the tick
    size = 0
    start = work.cursor or owner + b"\0"
    keep_last = rows.plan_key(owner)
    for n, (key, value) in enumerate(state.view.scan(space, start, stop)):
        if n == limits.STEP_ROWS or size >= FORGET_BYTES:
            return work._replace(cursor=key), 0
        size += len(value)
        if space == "batches" or key != keep_last:
            state.tick.rows[space][key] = None
    if space == "workflows":
        state.tick.rows[space][keep_last] = None
        return after, 0
    state.tick.rows[space][owner] = None
    if after is None:
        callbacks.count(state, -1)
    return after, 0
