"""Questions about batches and workflows: one of them, pages of all, the results of one, and how one has ended."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from zbroker.core import batches, callbacks, workflows
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zclient.protocol import limits as wire
from zclient.protocol.plans import STEP_ID_BYTES

PAGE_ROWS = 16
"""Rows read at once for a listing: those beside the own row of a batch or workflow are passed over."""

BATCH_STATES = ("open", "running", "done", "dead", "cancelled")
WORKFLOW_STATES = ("coming", "running", "done", "dead", "cancelled")

Row = dict[str, Any]
Listing = Iterator[tuple[Row | None, Any]]


# ---- one


def batch(state: State, arguments: Row) -> Row:
    return batches.told(state, callbacks.batch_of(state, arguments))


def workflow(state: State, arguments: Row) -> Row:
    callbacks.settle(state)
    return workflows.told_with_steps(state, workflows.needed(state, arguments.get("id")))


def results(state: State, arguments: Row) -> list[tuple[bytes, str, bytes | None]]:
    """How the jobs of a batch that are over ended, and what they returned, behind the job ``after``."""
    found, after = callbacks.batch_of(state, arguments), arguments.get("after", b"")
    if type(after) is not bytes or len(after) > wire.MAX_ID_BYTES:
        raise Refusal("invalid", "after is the id of a job, or empty")
    if not found.keeps_results:
        raise Refusal("invalid", f"the batch {found.id.decode()!r} keeps no results")
    return batches.results(state, found.id, after)


def end_of(state: State, identifier: bytes) -> tuple[bytes, str, bytes | None, None] | None:
    """What FINISHED says of a batch or a workflow, and of a job of one that is not stored yet, or of which history says
    nothing any more; None while it goes on; `unknown` if there is none."""
    batch = batches.look(state, identifier)
    if batch is not None:
        return (identifier, batch.end, None, None) if batch.end else None
    batch = batches.look(state, identifier[:STEP_ID_BYTES]) if len(identifier) == wire.MADE_ID_BYTES else None
    if batch is not None:
        told = batches.result_of(state, batch.id, identifier)
        if told is not None or not batch.is_settled:
            return (identifier, *told, None) if told is not None else None
    flow = workflows.look(state, identifier) if len(identifier) == wire.WORKFLOW_ID_BYTES else None
    if flow is None:
        return (identifier, "unknown", None, None)
    return (identifier, flow.state, None, None) if flow.over_ms else None


# ---- pages, newest first: ids begin with the time


def list_batches(state: State, arguments: Row) -> Listing:
    """Those that somebody opened; the steps of workflows are told with these."""
    return _batches(state, *_selection(arguments, BATCH_STATES))


def list_workflows(state: State, arguments: Row) -> Listing:
    """All, without their steps."""
    return _workflows(state, *_selection(arguments, WORKFLOW_STATES))


def _batches(state: State, wanted: str | None, start: bytes) -> Listing:
    for identifier, value in _own_rows(state, "batches", start):
        found = batches.decode(identifier, value) if value is not None else None
        is_wanted = found is not None and wanted in (None, found.state)
        yield batches.told(state, found) if found is not None and is_wanted else None, identifier


def _workflows(state: State, wanted: str | None, start: bytes) -> Listing:
    for identifier, value in _own_rows(state, "workflows", start):
        flow = workflows.decode(identifier, value) if value is not None else None
        is_wanted = flow is not None and wanted in (None, flow.state)
        yield workflows.told(state, flow) if flow is not None and is_wanted else None, identifier


def _selection(arguments: Row, states: tuple[str, ...]) -> tuple[str | None, bytes]:
    """The state that is wanted, and the key before which the page begins."""
    wanted, cursor = arguments.get("state"), arguments.get("cursor")
    if wanted is not None and wanted not in states:
        raise Refusal("invalid", f"state is one of {', '.join(states)}, not {wanted!r:.40}")
    if cursor is not None and (type(cursor) is not bytes or not cursor):
        raise Refusal("invalid", "that is not a cursor of a listing")
    return wanted, cursor or b"\xff"


def _own_rows(state: State, space: str, stop: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """The rows of batches or workflows themselves before a key, newest first; a None where others were passed over."""
    while page := _page(state, space, stop):
        for key, value in page:
            owner = _owner(space, key)
            if owner == key:
                stop = key
                yield key, value
            else:
                is_step = space == "batches" and len(owner) == wire.WORKFLOW_ID_BYTES
                stop = owner if is_step else owner + b"\0"  # its own row comes next
                yield stop, None


def _page(state: State, space: str, stop: bytes) -> list[tuple[bytes, bytes]]:
    """The next rows, up to the first that is not a batch's or workflow's own: of results no more than one is read."""
    page: list[tuple[bytes, bytes]] = []
    for key, value in islice(state.view.scan(space, b"", stop, backwards=True), PAGE_ROWS):
        page.append((key, value))
        if _owner(space, key) != key:
            break
    return page


def _owner(space: str, key: bytes) -> bytes:
    """Whose row it is: the batch's, the workflow's, or, of a step, the workflow's id."""
    if space == "workflows":
        return key[: wire.WORKFLOW_ID_BYTES]
    is_step = len(key) == STEP_ID_BYTES or key[STEP_ID_BYTES] < 3
    return key[: wire.WORKFLOW_ID_BYTES] if is_step else key[: wire.MADE_ID_BYTES]
