"""Batches as people open and see them: jobs that belong together, counted, with jobs that come when they are over.

It turns what a caller says into the arguments of the orders, and answers into `BatchStatus`. It sends nothing; the
handles that people hold are in `zclient.batchhandles`. (`zclient.batches` is about the PUTs of `send_many`.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from zclient.composition import Step, display_name
from zclient.errors import InvalidArgument
from zclient.handles import text_of
from zclient.jobs import id_bytes, moment, new_id
from zclient.protocol import plans
from zclient.session import Session
from zclient.verbs import PageAfter, Procedure, Verb, pages
from zclient.workflows import OVER, in_state, until_over

BATCH_STATES = ("open", "running", *OVER)
CALLBACKS = ("on_done", "on_settled", "on_death")


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A batch as the broker told it.

    ``state`` is ``open`` until it is closed, then ``running`` until all its jobs are done, dead or cancelled, then
    ``done``, ``dead`` (some are) or ``cancelled`` (some are). ``callbacks`` are the queues of its callbacks by name,
    and ``fired`` names those whose job there is. Points in time are datetimes in UTC.
    """

    id: str
    name: str
    state: str
    total: int
    done: int
    dead: int
    cancelled: int
    created_at: datetime | None = None
    over_at: datetime | None = None
    keeps_results: bool = False
    callbacks: Mapping[str, str] = field(default_factory=dict)
    fired: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether jobs may still be added."""
        return self.state == "open"

    @property
    def fraction(self) -> float:
        """The share of its jobs that is done, 0 to 1; while it is open, of those that it has by now."""
        return self.done / self.total if self.total else float(not self.open)

    @property
    def is_over(self) -> bool:
        """Whether it is closed, and all its jobs are done, dead or cancelled."""
        return self.state in OVER

    @classmethod
    def from_wire(cls, row: dict[str, Any]) -> "BatchStatus":
        """From the answer to ``batch``, or a row of ``batches``."""
        return cls(
            id=text_of(row["id"]) or "",
            name=row["name"],
            state=row["state"],
            total=row["total"],
            done=row["done"],
            dead=row["dead"],
            cancelled=row["cancelled"],
            created_at=moment(row.get("created")),
            over_at=moment(row.get("over")),
            keeps_results=bool(row.get("keeps_results")),
            callbacks=dict(row.get("callbacks") or {}),
            fired=tuple(row.get("fired") or ()),
        )


def batch_id(identifier: Any) -> bytes:
    """The id of a batch as it travels; from a text or a handle."""
    encoded = id_bytes(identifier)
    if not plans.is_step_id(encoded) and (fault := plans.batch_id_fault(encoded)):
        raise InvalidArgument(fault)
    return encoded


def batch_arguments(name: Any, identifier: Any, keep_results: Any, **callbacks: Any) -> dict[str, Any]:
    """What the broker is told of a batch that is opened; `InvalidArgument` for what none can be."""
    given = new_id() if identifier is None else id_bytes(identifier)
    if fault := plans.batch_id_fault(given):
        raise InvalidArgument(fault)
    told = {kind: _callback(kind, callback) for kind, callback in callbacks.items() if callback is not None}
    return {"id": given, "name": display_name(name, "batch"), "keep_results": bool(keep_results), **told}


def _callback(kind: str, callback: Any) -> dict[str, Any]:
    if not isinstance(callback, Step):
        raise InvalidArgument(f"{kind}: a job to send, such as step('report', payload), not {callback!r:.60}")
    if callback.rule is not None or callback.name is not None:
        raise InvalidArgument(f"{kind}: a callback has no name and no on_parent_death, which are for workflows")
    return {"queue": callback.run.queue, "options": callback.run.options, "payload": callback.run.payloads[0]}


# ---- verbs


def opening(arguments: dict[str, Any]) -> Verb[BatchStatus]:
    """Open a batch; once for the same id."""
    return Verb("order", "open_batch", arguments, BatchStatus.from_wire)


def closing(identifier: bytes) -> Verb[BatchStatus]:
    """Close a batch: it takes no more jobs, but for those that its own jobs add."""
    return Verb("order", "close_batch", {"id": identifier}, BatchStatus.from_wire)


def shown(identifier: bytes) -> Verb[BatchStatus]:
    """One batch."""
    return Verb("ask", "batch", {"id": identifier}, BatchStatus.from_wire)


def listed(state: str | None) -> PageAfter[BatchStatus]:
    """The pages of all batches, newest first."""
    return pages("batches", in_state(state, BATCH_STATES), "batches", BatchStatus.from_wire)


def waiting(
    session: Session, now: float, identifier: bytes, timeout_ms: float, answer_ms: float
) -> Procedure[BatchStatus]:
    """Wait for the end of a batch; how it is then. ``answer_ms`` is for the question about that."""
    what = f"batch {text_of(identifier)}"
    return (yield from until_over(session, identifier, now + timeout_ms, what, shown(identifier), answer_ms))
