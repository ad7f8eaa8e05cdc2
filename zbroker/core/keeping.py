"""How long batches and workflows are kept: a day after their end, and as long as they have dead jobs, or children."""

from zbroker import limits
from zbroker.core import batches, callbacks, edges, flowing, rows, workflows, works
from zbroker.core.state import State
from zclient.protocol import limits as wire

AGAIN_MS = 1_000
"""When it is tried again where as much slow work is under way as may be."""

WEIGHT = 20
"""So many jobs of another timer one batch or workflow that is looked at counts for."""


def fire(state: State, due_ms: int, timer: rows.TimerRow) -> int:
    """The timer of a batch or a workflow: it goes if its time has come, in slices. Returns how many jobs of another
    timer that weighs."""
    callbacks.settle(state)
    if works.is_busy(state):
        callbacks.keep_until(state, timer.key, state.wall + AGAIN_MS)
    elif len(timer.key) == wire.WORKFLOW_ID_BYTES:
        _look_at_workflow(state, timer.key)
    else:
        _look_at_batch(state, timer.key)
    return WEIGHT


def _look_at_batch(state: State, identifier: bytes) -> None:
    batch = batches.look(state, identifier)
    if batch is None or not batch.end or batch.dead or batch.over_ms + limits.BATCH_KEPT_MS > state.wall:
        return  # it goes on, or has another timer, or will have one when its dead jobs are gone
    if edges.has_children(state, identifier):
        callbacks.keep_until(state, identifier, state.wall + limits.BATCH_KEPT_MS)
    else:
        works.begin(state, works.Work("forget", "", b"", 0, 0, ids=[identifier]))


def _look_at_workflow(state: State, identifier: bytes) -> None:
    flow = workflows.look(state, identifier)
    if flow is None:
        return
    if flow.state == workflows.COMING:
        if flow.came_ms + limits.STAGED_KEPT_MS <= state.wall:
            told = {"parts": flow.parts, "came": len(flow.taken)}
            state.notice("warning", "workflow incomplete", workflow=identifier.decode(), **told)
            flowing.forget(state, flow)
    elif flow.state in (edges.DONE, edges.GONE) and flow.over_ms + limits.BATCH_KEPT_MS <= state.wall:
        if any(batch.dead for batch in workflows.batches_of(state, flow)):
            callbacks.keep_until(state, identifier, state.wall + limits.BATCH_KEPT_MS)
        else:
            flowing.forget(state, flow)
