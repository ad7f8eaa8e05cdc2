"""Batches: jobs that are counted together. A batch is a row; a job belongs to it by an option in its header.

It owns the rows of ``batches``, and what a job's coming and going does to them. What follows from the counters
(callbacks, children, the end) is for ``callbacks.py`` to say, once in each tick: a batch that a tick touches is in
`State.counted` until then, and its row is written once.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from zbroker.core import rows
from zbroker.core.policy import Options
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zclient.protocol import limits as wire

CALLBACKS = ("on_done", "on_settled", "on_death")
"""The callbacks that a batch may have, in the order of the bits of `Batch.has` and `Batch.fired`."""

DONE, DEAD, GONE = "done", "dead", "cancelled"
"""How a job of a batch ended, and how a batch did. `GONE` is whatever brings nobody back: cancelled, replaced, purged,
dropped, expired where the queue drops such jobs."""


@dataclass(slots=True)
class Batch:
    """A batch, as its row keeps it. Times are Unix milliseconds."""

    id: bytes
    name: str
    workflow: bytes  # of which it is a step; empty if it is none
    step: int
    open: bool  # others may still be added by anybody
    keeps_results: bool
    has: int  # which callbacks it has, as bits
    created_ms: int
    total: int = 0
    done: int = 0
    dead: int = 0
    cancelled: int = 0
    fired: int = 0  # which callbacks are stored
    died: bool = False  # a job of it died, whatever became of that one
    is_parent: bool = False  # others wait, or waited, for it
    end: str = ""  # how it ended, as its children were told; empty while it goes on
    over_ms: int = 0  # since when; 0 while it goes on

    @property
    def is_settled(self) -> bool:
        """Nobody can be added, and each of its jobs is done, dead or cancelled."""
        return not self.open and self.total == self.done + self.dead + self.cancelled

    @property
    def state(self) -> str:
        return "open" if self.open else self.end or "running"

    def row(self) -> bytes:
        return rows.pack(  # type: ignore[no-any-return]
            (
                self.name,
                self.workflow,
                self.step,
                self.open,
                self.keeps_results,
                self.has,
                self.created_ms,
                self.total,
                self.done,
                self.dead,
                self.cancelled,
                self.fired,
                self.died,
                self.is_parent,
                self.end,
                self.over_ms,
            )
        )


def decode(identifier: bytes, value: bytes) -> Batch:
    """A batch from its row."""
    return Batch(identifier, *rows.unpack(value))


# ---- finding one


def look(state: State, identifier: bytes) -> Batch | None:
    """The batch of this id, to be read only."""
    batch = state.counted.get(identifier)
    if batch is not None:
        return batch
    value = state.view.get("batches", identifier)
    return decode(identifier, value) if value is not None else None


def touch(state: State, identifier: bytes) -> Batch:
    """The batch of this id, to be changed: its row is written at the end of the tick."""
    batch = look(state, identifier)
    if batch is None:
        raise AssertionError(f"the batch {identifier!r} has jobs, and no row")
    state.counted[identifier] = batch
    return batch


# ---- jobs come and go


def judge(state: State, identifier: bytes, own: bytes | None) -> None:
    """Raises `Refusal` if nobody may add jobs to the batch. ``own``: the one that the sender's own job belongs to; it
    goes on at least as long as that job."""
    batch = look(state, identifier)
    text = identifier.decode(errors="backslashreplace")
    if batch is None:
        raise Refusal("unknown_batch", f"nobody has opened a batch {text!r}", id=text)
    if not batch.open and (identifier != own or is_stopped(state, batch.workflow)):
        raise Refusal("batch_closed", f"the batch {text!r} is closed", id=text)


def is_stopped(state: State, workflow: bytes) -> bool:
    """Whether somebody cancelled the workflow."""
    return state.view.get("workflows", rows.stopped_key(workflow)) is not None


def join(state: State, identifier: bytes, ids: list[bytes]) -> None:
    """New jobs are of the batch. Those of a step that did not come with its workflow have a row each, since their ids
    do not tell."""
    batch = touch(state, identifier)
    batch.total += len(ids)
    if batch.workflow:
        added = state.tick.rows["batches"]
        added.update((rows.added_key(identifier, job), b"") for job in ids)


def ended(state: State, identifier: bytes, job: bytes, how: str, result: bytes | None, *, was_dead: bool) -> None:
    """A job of the batch is over."""
    batch = touch(state, identifier)
    if was_dead:
        batch.dead -= 1
    if how == DONE:
        batch.done += 1
    elif how == DEAD:
        batch.dead += 1
        batch.died = True
    else:
        batch.cancelled += 1
    if batch.keeps_results:
        value = how[:2].encode() + (result or b"") if how == DONE else how[:2].encode()
        state.tick.rows["batches"][rows.result_key(identifier, job)] = value


def replayed(state: State, options: Options, job: bytes) -> None:
    """A dead job goes on; so does its batch, if it has one."""
    identifier = options.get("batch")
    if identifier is None:
        return
    batch = touch(state, identifier)
    batch.dead -= 1
    if batch.keeps_results:
        state.tick.rows["batches"][rows.result_key(identifier, job)] = None


# ---- what people see


def told(state: State, batch: Batch) -> dict[str, Any]:
    """A batch as people see it."""
    callbacks = callbacks_of(state, batch)
    return {
        "id": batch.id,
        "name": batch.name,
        "workflow": batch.workflow or None,
        "step": batch.step if batch.workflow else None,
        "state": batch.state,
        "open": batch.open,
        "total": batch.total,
        "done": batch.done,
        "dead": batch.dead,
        "cancelled": batch.cancelled,
        "created": batch.created_ms,
        "over": batch.over_ms or None,
        "keeps_results": batch.keeps_results,
        "callbacks": {name: callback["queue"] for name, callback in callbacks.items()},
        "fired": [name for bit, name in enumerate(CALLBACKS) if batch.fired >> bit & 1],
    }


def callbacks_of(state: State, batch: Batch) -> dict[str, dict[str, Any]]:
    """Its callbacks by name: queue, options, payload."""
    value = state.view.get("batches", rows.callbacks_key(batch.id)) if batch.has else None
    return rows.unpack(value) if value is not None else {}


def result_of(state: State, identifier: bytes, job: bytes) -> tuple[str, bytes | None] | None:
    """How one job ended and what it returned, if the batch keeps that and it is over."""
    value = state.view.get("batches", rows.result_key(identifier, job))
    return (_ENDS[value[:2]], value[2:] or None) if value is not None else None


def results(state: State, identifier: bytes, after: bytes) -> list[tuple[bytes, str, bytes | None]]:
    """How the next jobs of a batch that keeps results ended, and what they returned, in the order of their ids; as many
    as a message carries, and none at the end."""
    page: list[tuple[bytes, str, bytes | None]] = []
    size = 0
    start = rows.result_key(identifier, after) + (b"\0" if after else b"")
    for key, value in islice(state.view.scan("batches", start, rows.beyond_results(identifier)), wire.MAX_PAGE):
        if size >= wire.MESSAGE_BYTES:
            break
        page.append((key[len(identifier) + 1 :], _ENDS[value[:2]], value[2:] or None))
        size += len(value) + wire.MAX_ID_BYTES
    return page


_ENDS = {end[:2].encode(): end for end in (DONE, DEAD, GONE)}
