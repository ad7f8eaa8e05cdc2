"""Workflows that were sent: how the broker tells of them, and how their ends and results are waited for and read.

Procedures and verbs, as in `zclient.verbs`; the handles that people hold are in `zclient.workflowhandles`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from zclient.errors import (
    BrokerUnreachable,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    NotFound,
    ResultExpired,
    ResultTimeout,
    ZError,
)
from zclient.handles import JobStatus, text_of
from zclient.jobs import IdRun, IdRuns, decode_payload, id_bytes, moment
from zclient.protocol import plans
from zclient.requests import Request
from zclient.session import Session
from zclient.verbs import Bulk, PageAfter, Procedure, Verb, Wait, asking, pages, show

T = TypeVar("T")


class Ending(Protocol):
    """A workflow or a batch, as the broker told it."""

    @property
    def is_over(self) -> bool: ...


Status = TypeVar("Status", bound=Ending)

OVER = ("done", "dead", "cancelled")
WORKFLOW_STATES = ("coming", "running", *OVER)


@dataclass(frozen=True, slots=True)
class StepStatus:
    """A step as the broker told it. ``id`` is that of the batch that it is: jobs may be ``after`` it.

    ``state`` is ``coming`` or ``blocked`` until the steps in ``after`` are done, then ``running``, then ``done``,
    ``dead`` or ``cancelled``. ``total`` counts its jobs, those that its own jobs added included. ``single``: it is one
    job, whose result stands for itself. ``inputs`` are those of ``after`` that it names itself, whose results its jobs
    read; it waits for the others since it is after a step without jobs, which is after them.
    """

    name: str
    state: str
    total: int
    done: int
    dead: int
    cancelled: int
    after: tuple[str, ...] = ()
    on_parent_death: str = "wait"
    single: bool = False
    jobs: int = 0
    inputs: tuple[str, ...] = ()
    id: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it is done, dead or cancelled."""
        return self.state in OVER

    @property
    def fraction(self) -> float:
        """The share of its jobs that is done, 0 to 1."""
        return self.done / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class WorkflowSummary:
    """A workflow as a listing tells it.

    ``state`` is ``running``, ``done``, ``dead`` (some jobs are, and nothing goes on without a retry), ``cancelled``, or
    ``coming`` while not all of it has reached the broker. Points in time are datetimes in UTC.
    """

    id: str
    name: str
    state: str
    jobs: int
    created_at: datetime | None
    over_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether it is done, dead or cancelled."""
        return self.state in OVER

    @classmethod
    def from_wire(cls, row: dict[str, Any]) -> "WorkflowSummary":
        """From a row of ``workflows``."""
        return cls(**_facts(row), jobs=row["jobs"])


@dataclass(frozen=True, slots=True)
class WorkflowStatus(WorkflowSummary):
    """A workflow with its steps by name, as the broker told it; ``jobs`` counts those that jobs added as well."""

    steps: Mapping[str, StepStatus]

    @property
    def done(self) -> int:
        """How many of its jobs are done."""
        return sum(step.done for step in self.steps.values())

    @property
    def dead(self) -> int:
        """How many of its jobs are dead."""
        return sum(step.dead for step in self.steps.values())

    @property
    def cancelled(self) -> int:
        """How many of its jobs were cancelled."""
        return sum(step.cancelled for step in self.steps.values())

    @property
    def fraction(self) -> float:
        """The share of its jobs that is done, 0 to 1."""
        return self.done / self.jobs if self.jobs else 1.0

    @classmethod
    def from_wire(cls, row: dict[str, Any]) -> "WorkflowStatus":
        """From the answer to ``workflow``."""
        names = [step["name"] for step in row["steps"]]
        identifier = bytes(row["id"])
        steps = {
            step["name"]: StepStatus(
                name=step["name"],
                state=step["state"],
                total=step["total"],
                done=step["done"],
                dead=step["dead"],
                cancelled=step["cancelled"],
                after=tuple(names[place] for place in step["after"]),
                on_parent_death=step["rule"],
                single=step["single"],
                jobs=step["jobs"],
                inputs=tuple(names[place] for place in step["inputs"]),
                id=plans.step_id(identifier, place).decode(),
            )
            for place, step in enumerate(row["steps"])
        }
        return cls(**_facts(row), jobs=sum(step.total for step in steps.values()), steps=steps)


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    """What a listing tells as well."""
    return {
        "id": text_of(row["id"]) or "",
        "name": row["name"],
        "state": row["state"],
        "created_at": moment(row["created"]),
        "over_at": moment(row["over"]),
    }


# ---- verbs


def workflow_id(identifier: Any) -> bytes:
    """The id of a workflow as it travels; from a text or a handle."""
    encoded = id_bytes(identifier)
    if fault := plans.workflow_id_fault(encoded):
        raise InvalidArgument(fault)
    return encoded


def shown(identifier: bytes) -> Verb[WorkflowStatus]:
    """One workflow with its steps."""
    return Verb("ask", "workflow", {"id": identifier}, WorkflowStatus.from_wire)


def cancelled(identifier: bytes) -> Verb[str]:
    """Cancel all of a workflow that is not over; its state then."""
    return Verb("order", "cancel_workflow", {"id": identifier}, lambda value: str(value["state"]))


def retried(identifier: bytes) -> Verb[Bulk]:
    """Replay the dead jobs of a workflow; how many they are."""
    arguments = {"id": identifier}
    return Verb("order", "retry_workflow", arguments, lambda value: Bulk(int(value["dead"]), int(value["work"])))


def listed(state: str | None) -> PageAfter[WorkflowSummary]:
    """The pages of all workflows, newest first."""
    return pages("workflows", in_state(state, WORKFLOW_STATES), "workflows", WorkflowSummary.from_wire)


def in_state(state: str | None, states: tuple[str, ...]) -> dict[str, Any]:
    """What a listing is narrowed to by a state, if one is given."""
    if state is not None and state not in states:
        raise InvalidArgument(f"state: one of {', '.join(states)}, not {state!r:.60}")
    return {} if state is None else {"state": state}


class Member(NamedTuple):
    """A job of a step or batch that is over: its id, how it ended, and what it returned, encoded."""

    id: str
    state: str
    result_bytes: bytes | None

    @property
    def value(self) -> Any:
        """What it returned. Of one that is not done: the error, `JobFailed` or `JobCancelled`, not raised."""
        if self.state == "done":
            return None if self.result_bytes is None else decode_payload(self.result_bytes)
        if self.state == "dead":
            return JobFailed(f"job {self.id} is dead", id=self.id)
        return JobCancelled(f"job {self.id} was cancelled", id=self.id)


def members(batch: bytes, after: bytes) -> Verb[list[Member]]:
    """The next members of a step or batch that are over, in the order of their ids; none at the end."""

    def decode(value: Any) -> list[Member]:
        return [Member(text_of(identifier) or "", state, result) for identifier, state, result in value]

    return Verb("ask", "results", {"id": batch, "after": after}, decode)


def batch_of(status: WorkflowStatus, name: str) -> bytes:
    """The id of the batch that a step is."""
    step_of(status, name)
    return plans.step_id(status.id.encode(), list(status.steps).index(name))


def jobs_of(status: WorkflowStatus, name: str) -> IdRuns:
    """The ids of a step's jobs, as it was sent: those of one run, since the last seven digits count."""
    return IdRuns([IdRun(batch_of(status, name) + b"0", 0, status.steps[name].jobs)])


# ---- procedures


def waiting(
    session: Session, now: float, identifier: bytes, timeout_ms: float, answer_ms: float
) -> Procedure[WorkflowStatus]:
    """Wait for the end of a workflow; how it is then. ``answer_ms`` is for the question about that."""
    what = f"workflow {text_of(identifier)}"
    return (yield from until_over(session, identifier, now + timeout_ms, what, shown(identifier), answer_ms))


def until_over(
    session: Session, identifier: bytes, until_ms: float, what: str, verb: Verb[Status], answer_ms: float
) -> Procedure[Status]:
    """Wait for the end of a workflow or batch, and ask how it is then."""
    while True:
        yield from ended(session, [identifier], until_ms, what)
        status = yield from known(session, what, verb, answer_ms)
        if status.is_over:  # else it was retried, or a dead job of it replayed, meanwhile
            return status


def collected(
    session: Session, now: float, identifier: bytes, name: str | None, timeout_ms: float, answer_ms: float
) -> Procedure[Any]:
    """Wait for the end of a workflow, and return the results of its steps by name; with a name, of that step alone.

    Raises what became of it instead: `JobFailed` names a step with dead jobs, `JobCancelled` one with cancelled jobs.
    """
    until_ms = now + timeout_ms
    if name is None:
        status = yield from waiting(session, now, identifier, timeout_ms, answer_ms)
        chosen = list(status.steps.values())
    else:
        status = yield from _with_step(session, identifier, name, until_ms, answer_ms)
        chosen = [status.steps[name]]
    yield from _judged(session, status, chosen, answer_ms)
    results = {}
    for step in chosen:
        try:
            results[step.name] = yield from _gathered(session, batch_of(status, step.name), step, answer_ms)
        except NotFound:
            raise ResultExpired(f"the results of workflow {status.id} are kept no longer") from None
    return results if name is None else results[name]


def _with_step(
    session: Session, identifier: bytes, name: str, until_ms: float, answer_ms: float
) -> Procedure[WorkflowStatus]:
    """Wait until a step of a workflow is over, or all of it, and tell how the workflow is then."""
    while True:
        status = yield from _status(session, identifier, answer_ms)
        if step_of(status, name).is_over or status.is_over:
            return status
        batch = batch_of(status, name)
        yield from ended(session, [batch, identifier], until_ms, f"step {name} of workflow {status.id}")


def ended(session: Session, ids: list[bytes], until_ms: float, what: str) -> Procedure[None]:
    """Wait for the end of one of several workflows or batches; `ResultTimeout` if none ends."""
    requests = [session.watch(identifier) for identifier in ids]
    try:
        while not any(request.done for request in requests):
            now = yield Wait(requests, until_ms)  # at least one look, also where there is no time
            if now >= until_ms:
                break
    finally:
        for request in requests:
            if not request.done:
                session.give_up(request)
    if not any(request.value is not None for request in requests):
        raise _late(session, requests, what)


def _late(session: Session, requests: list[Request], what: str) -> Exception:
    for request in requests:
        if isinstance(request.error, ZError) and not isinstance(request.error, BrokerUnreachable):
            return request.error.with_traceback(None)
    if not any(request.sent for request in requests):
        return session.unreachable()
    return ResultTimeout(f"{what} did not end in time; it goes on")


def asked(session: Session, verb: Verb[T], answer_ms: float) -> Procedure[T]:
    """The answer to a question that comes in the middle of a procedure: its time begins now."""
    now = yield Wait((), 0.0)
    return (yield from asking(session, now, verb, answer_ms))


def known(session: Session, what: str, verb: Verb[T], answer_ms: float) -> Procedure[T]:
    """How something is that may be kept no longer."""
    try:
        return (yield from asked(session, verb, answer_ms))
    except NotFound:
        raise ResultExpired(f"the broker knows no {what}, or keeps it no longer") from None


def _status(session: Session, identifier: bytes, answer_ms: float) -> Procedure[WorkflowStatus]:
    return (yield from known(session, f"workflow {text_of(identifier)}", shown(identifier), answer_ms))


def step_of(status: WorkflowStatus, name: str) -> StepStatus:
    """The step of this name; `InvalidArgument` if there is none."""
    if name not in status.steps:
        raise InvalidArgument(f"workflow {status.id} has no step {name!r:.60}; it has {', '.join(status.steps)}")
    return status.steps[name]


def _judged(session: Session, status: WorkflowStatus, chosen: list[StepStatus], answer_ms: float) -> Procedure[None]:
    """Raise why the results of these steps cannot be had; nothing if all of them are done."""
    if all(step.state == "done" for step in chosen):
        return
    name = f"workflow {status.id} ({status.name})"
    bad = next((step for step in (*chosen, *status.steps.values()) if step.dead), None)
    if bad is None or status.state == "cancelled":
        lost = next((step for step in (*chosen, *status.steps.values()) if step.cancelled), None)
        if lost is None:
            raise JobCancelled(f"{name} was cancelled", id=status.id)
        told = f"step {lost.name} of {name}: {lost.cancelled} of {lost.total} jobs were cancelled"
        raise JobCancelled(told, id=status.id, step=lost.name)
    job = yield from _first_dead(session, status, bad, answer_ms)
    text = f"step {bad.name} of {name}: {bad.dead} of {bad.total} jobs are dead"
    if job is None:
        raise JobFailed(text, step=bad.name)
    error = job.error or {}
    told = ": ".join(str(error[part]) for part in ("type", "text") if error.get(part))
    text += f", such as {job.id} ({job.reason})" + (f": {told}" if told else "")
    raise JobFailed(text, reason=job.reason or "", error=error, step=bad.name, id=job.id, attempts=job.attempts)


def _first_dead(
    session: Session, status: WorkflowStatus, step: StepStatus, answer_ms: float
) -> Procedure[JobStatus | None]:
    """The first dead job of a step, as far as the broker still tells."""
    batch, after = batch_of(status, step.name), b""
    try:
        while found := (yield from asked(session, members(batch, after), answer_ms)):
            for member in found:
                if member.state == "dead":
                    return (yield from asked(session, show(member.id), answer_ms))
            after = found[-1].id.encode()
    except NotFound:
        return None  # It was dropped or replayed meanwhile.
    return None


def _gathered(session: Session, batch: bytes, step: StepStatus, answer_ms: float) -> Procedure[Any]:
    """The result of a step that is done: a value, or all of them in their order."""
    values: list[Any] = []
    after = b""
    while len(values) < (1 if step.single else step.total):
        found = yield from asked(session, members(batch, after), answer_ms)
        if not found:
            break
        values += [member.value for member in found]
        after = found[-1].id.encode()
    if step.single:
        return values[0] if values else None
    return values
