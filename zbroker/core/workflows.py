"""Workflows: batches that come after each other, sent as one. What is known of the whole, and when it is over.

It owns the rows of ``workflows``. A step is a batch, whose counters say how far it is; the workflow keeps how each of
its steps has ended. How one comes in and is cancelled or tried again stands in ``flowing.py``.
"""

from dataclasses import dataclass, field
from typing import Any

from zbroker.core import batches, history, rows
from zbroker.core.batches import DEAD, DONE, GONE, Batch
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zclient.protocol.plans import Step, in_order, step_id

COMING, RUNNING = "coming", "running"

ENDS = ("", DONE, DEAD, GONE)
"""How a step has ended, by its code in a workflow's row."""

_GOES_ON, _, _DEAD, _GONE = range(4)


@dataclass(slots=True)
class Workflow:
    """A workflow, as its row keeps it. Times are Unix milliseconds."""

    id: bytes
    name: str
    created_ms: int
    parts: int  # in which it comes
    jobs: int  # as it was sent
    steps: int
    state: str = COMING
    over_ms: int = 0  # since when; 0 while it goes on
    came_ms: int = 0  # the latest part
    taken: list[bytes] = field(default_factory=list)  # digests of the parts that came
    came: list[int] = field(default_factory=list)  # while it comes: how many jobs of each step did
    ends: bytes = b""  # how each step has ended
    retries: int = 0  # orders to retry it that are under way
    coming: dict[str, tuple[int, int]] = field(default_factory=dict)  # while it comes: as `put.Coming`

    def row(self) -> bytes:
        return rows.pack(  # type: ignore[no-any-return]
            (
                self.name,
                self.created_ms,
                self.parts,
                self.jobs,
                self.steps,
                self.state,
                self.over_ms,
                self.came_ms,
                self.taken,
                self.came,
                self.ends,
                self.retries,
                self.coming,
            )
        )


def decode(identifier: bytes, value: bytes) -> Workflow:
    """A workflow from its row."""
    return Workflow(identifier, *rows.unpack(value))


def look(state: State, identifier: bytes) -> Workflow | None:
    """The workflow of this id, to be read only."""
    flow = state.flows.get(identifier)
    if flow is not None:
        return flow
    value = state.view.get("workflows", identifier)
    return decode(identifier, value) if value is not None else None


def needed(state: State, identifier: Any) -> Workflow:
    """The same; `Refusal` if there is none."""
    flow = look(state, identifier) if type(identifier) is bytes else None
    if flow is None:
        text = identifier.decode(errors="backslashreplace") if type(identifier) is bytes else identifier
        raise Refusal("not_found", f"no workflow {text!r:.80}")
    return flow


def plan_of(state: State, identifier: bytes) -> list[Step]:
    """The steps of a workflow that is there."""
    return [Step(*step) for step in rows.unpack(state.view.get("workflows", rows.plan_key(identifier)) or b"\x90")]


def save(state: State, flow: Workflow) -> None:
    state.tick.rows["workflows"][flow.id] = flow.row()


# ---- its steps end


def step_ends(state: State, batch: Batch) -> None:
    """A step is over, or over in another way, or goes on after a replay."""
    flow = look(state, batch.workflow)
    if flow is None:
        return  # it is being removed
    flow.ends = b"%b%c%b" % (flow.ends[: batch.step], ENDS.index(batch.end), flow.ends[batch.step + 1 :])
    state.flows[flow.id] = flow


def settle(state: State, flow: Workflow) -> bool:
    """How the whole is, now that steps of it have ended; its row. Whether it is over, so that it need not be kept."""
    before = flow.state
    flow.state = _state_of(state, flow)
    if flow.state != before:
        flow.over_ms = state.wall if flow.state != RUNNING else 0
        if flow.state != RUNNING:
            history.tell(state, flow.id, flow.state, None, None)
    save(state, flow)
    return flow.state in (DONE, GONE)


def _state_of(state: State, flow: Workflow) -> str:
    """It is over when nothing of it can go on by itself: each step is settled, or held by one that is dead."""
    if flow.retries:
        return RUNNING
    is_over = _GOES_ON not in flow.ends
    if not is_over and _DEAD in flow.ends and not batches.is_stopped(state, flow.id):
        is_over = all(end != _GOES_ON or held for end, held in zip(flow.ends, _held(state, flow), strict=True))
    if not is_over:
        return RUNNING
    if _DEAD not in flow.ends and _GONE not in flow.ends:
        return DONE
    return DEAD if _DEAD in flow.ends and not batches.is_stopped(state, flow.id) else GONE


def _held(state: State, flow: Workflow) -> list[bool]:
    """Which steps wait for a dead one, or for one that does: none of their jobs can run before a replay."""
    steps = plan_of(state, flow.id)
    held = [False] * len(steps)
    for place in in_order([step.after for step in steps]):
        step = steps[place]
        if flow.ends[place] == _GOES_ON:
            held[place] = any(
                held[other] or (flow.ends[other] == _DEAD and step.rule == "wait") for other in step.after
            )
    return held


# ---- what people see


def told(state: State, flow: Workflow) -> dict[str, Any]:
    """A workflow as a listing tells it."""
    return {
        "id": flow.id,
        "name": flow.name,
        "state": flow.state,
        "created": flow.created_ms,
        "over": flow.over_ms or None,
        "jobs": flow.jobs,
        "parts": flow.parts,
        "came": len(flow.taken),
        "stopped": batches.is_stopped(state, flow.id),
    }


def told_with_steps(state: State, flow: Workflow) -> dict[str, Any]:
    """The same with how each step is."""
    steps = plan_of(state, flow.id)
    counted = batches_of(state, flow)
    found: list[Batch | None] = list(counted) if counted else [None] * len(steps)
    return {
        **told(state, flow),
        "steps": [
            {
                "name": step.name,
                "jobs": step.jobs,
                "single": step.single,
                "after": step.after,
                "inputs": step.inputs,
                "rule": step.rule,
                "state": _state_of_step(flow, step, batch),
                "total": batch.total if batch is not None else step.jobs,
                "done": batch.done if batch is not None else 0,
                "dead": batch.dead if batch is not None else 0,
                "cancelled": batch.cancelled if batch is not None else 0,
            }
            for step, batch in zip(steps, found, strict=True)
        ],
    }


def batches_of(state: State, flow: Workflow) -> list[Batch]:
    """The batches of its steps; none while it comes."""
    ids = [step_id(flow.id, place) for place in range(flow.steps)] if flow.state != COMING else []
    values = state.view.get_many("batches", ids) if ids else []
    return [batches.decode(identifier, value or b"") for identifier, value in zip(ids, values, strict=True)]


def _state_of_step(flow: Workflow, step: Step, batch: Batch | None) -> str:
    """A step is blocked while it waits for others."""
    if batch is None:
        return COMING
    if batch.end:
        return batch.end
    waits = (_GOES_ON, _DEAD) if step.rule == "wait" else (_GOES_ON,)
    return "blocked" if any(flow.ends[other] in waits for other in step.after) else RUNNING
