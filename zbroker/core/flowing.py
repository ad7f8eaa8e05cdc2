"""Workflows come in, are cancelled, and are tried again.

A workflow of few jobs is stored as a PUT is. Of a larger one the parts are laid aside as they come, in rows that are
each a slice of the work; the tick that takes the last part decides, and slow work stores the jobs. What of that goes on
in slices stands in ``flow_works.py``.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

from zbroker import limits
from zbroker.core import batches, callbacks, edges, put, rows, workflows
from zbroker.core.batches import Batch
from zbroker.core.flow_works import store_groups
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zbroker.core.workflows import COMING, RUNNING, Workflow
from zbroker.core.works import Work, begin, refuse_if_busy
from zclient.protocol import limits as wire
from zclient.protocol import messages as m
from zclient.protocol.messages import Group
from zclient.protocol.plans import Step, is_step_id, job_ids, place_of, plan_fault, step_id, steps_of, workflow_of


def take(state: State, message: m.Workflow) -> None:
    """A part of a workflow; raises `Refusal` and changes nothing. One that came before is taken as it was then."""
    flow = workflows.look(state, message.id)
    told = _digest(message)
    if flow is not None and message.part < len(flow.taken):
        if flow.parts != message.parts or flow.taken[message.part] != told:
            raise _other(message.id)
        return
    steps = _begun(state, message) if flow is None else workflows.plan_of(state, message.id)
    if flow is None:
        jobs = sum(step.jobs for step in steps)
        flow = Workflow(message.id, str((message.plan or {})["name"]), state.wall, message.parts, jobs, len(steps))
        flow.came = [0] * len(steps)
    if flow.parts != message.parts or message.part != len(flow.taken):
        expected = f"part {len(flow.taken)} of {flow.parts} is to come next"
        raise Refusal("invalid", f"{expected}, not part {message.part} of {message.parts}")
    came, coming = _judge(state, message, steps, flow)
    is_last = message.part == message.parts - 1
    if is_last:
        _refuse_incomplete(steps, came)
    is_small = message.parts == 1 and _weight(message, steps) <= limits.WORKFLOW_AT_ONCE
    if is_last and not is_small:
        refuse_if_busy(state)
    flow.came, flow.coming = came, coming
    _take(state, flow, message, steps, told)
    if not is_small:
        _lay_aside(state, flow, message)
    if not is_last:
        workflows.save(state, flow)
        callbacks.keep_until(state, flow.id, state.wall + limits.STAGED_KEPT_MS)
    else:
        _decide(state, flow, steps)
        if is_small:
            store_groups(state, message.groups)
        else:
            begin(state, Work("store_workflow", "", b"", 0, 0, ids=[flow.id]))


def _digest(message: m.Workflow) -> bytes:
    """What the part was, in few bytes."""
    return hashlib.blake2b(rows.pack((message.plan, message.groups)), digest_size=8).digest()


def _other(identifier: bytes) -> Refusal:
    text = identifier.decode()
    return Refusal("duplicate_id", f"another workflow has the id {text!r}", id=text)


def _begun(state: State, message: m.Workflow) -> list[Step]:
    """The steps of a workflow that begins to come; `Refusal` if it cannot."""
    text = message.id.decode()
    if message.plan is None:
        raise Refusal("not_found", f"no workflow {text!r} has begun to come: part 0, with the plan, is the first")
    fault = plan_fault(message.plan)
    if fault:
        raise Refusal("invalid", fault)
    put.refuse_for_now(state)
    callbacks.refuse_another(state)
    if state.view.get("workflows", rows.plan_key(message.id)) is not None:
        raise Refusal("busy", f"an earlier workflow {text!r} is still being removed", retry_after_ms=1000)
    return steps_of(message.plan)


def _judge(state: State, message: m.Workflow, steps: list[Step], flow: Workflow) -> tuple[list[int], put.Coming]:
    """Judge the jobs of a part as a PUT, together with those of the parts before where a queue has limits, and against
    the plan. How many of each step have come with it, and what has come for queues with limits."""
    came = list(flow.came)
    for group in message.groups:
        _agree(message.id, group, steps, came)
    if not message.groups:
        put.refuse_for_now(state)
        return came, flow.coming
    plans = put.judge(state, message.groups)
    known = put.existing(state, message.groups)
    if known:
        text = min(known).decode()
        raise Refusal("duplicate_id", f"another job has the id {text!r}", id=text)
    return came, put.refuse_if_full(state, message.groups, plans, flow.coming)


def _agree(workflow: bytes, group: Group, steps: list[Step], came: list[int]) -> None:
    """Count the jobs of a group; `Refusal` if it does not agree with the plan."""
    batch, options = group.options.get("batch"), group.options
    place = _place_of(workflow, batch, len(steps))
    if place is None:
        raise Refusal("invalid", f"batch: no step of this workflow has the id {batch!r:.80}")
    step, first = steps[place], came[place]
    if "unique" in options:
        raise Refusal("invalid", f"step {step.name}: a job of a workflow is always stored: no unique")
    after = [step_id(workflow, other) for other in step.after]
    if options.get("after", []) != after:
        raise Refusal("invalid", f"step {step.name}: after is not what the plan says")
    if after and options.get("on_parent_death", "cancel") != step.rule:
        raise Refusal("invalid", f"step {step.name}: on_parent_death is {step.rule} in the plan")
    came[place] = first + len(group.ids)
    if came[place] > step.jobs:
        raise Refusal("invalid", f"step {step.name}: {step.jobs} jobs are in the plan, and more come")
    if group.ids != job_ids(workflow, place, first, len(group.ids)):
        raise Refusal("invalid", f"step {step.name}: its jobs come in order, and the next is number {first}")


def _place_of(workflow: bytes, batch: Any, steps: int) -> int | None:
    """The place in the plan of the step that has this id."""
    if type(batch) is not bytes or not is_step_id(batch) or workflow_of(batch) != workflow:
        return None
    place = place_of(batch)
    return place if place < steps else None


def _refuse_incomplete(steps: list[Step], came: list[int]) -> None:
    for step, jobs in zip(steps, came, strict=True):
        if jobs < step.jobs:
            raise Refusal(
                "invalid", f"step {step.name}: {jobs} of {step.jobs} jobs have come, and this is the last part"
            )


def _weight(message: m.Workflow, steps: list[Step]) -> int:
    """How much there is to write, in jobs."""
    return len(steps) + sum(1 + _weight_of(group) for group in message.groups)


def _weight_of(group: Group) -> int:
    return len(group.ids) * (1 + len(group.options.get("after", ())))


def _take(state: State, flow: Workflow, message: m.Workflow, steps: list[Step], told: bytes) -> None:
    """Note that a part came."""
    if not message.part:
        callbacks.count(state, 1)
        state.tick.rows["workflows"][rows.plan_key(flow.id)] = rows.pack(steps)
    flow.came_ms = state.wall
    flow.taken = [*flow.taken, told]
    for group in message.groups:
        state.queue(group.queue)  # there it is when the jobs are stored


def _lay_aside(state: State, flow: Workflow, message: m.Workflow) -> None:
    """Keep the jobs of a part until they are stored."""
    for n, groups in enumerate(_slices(message.groups)):
        state.tick.rows["workflows"][rows.staged_key(flow.id, message.part, n)] = rows.pack(groups)


def _slices(groups: list[Group]) -> Iterator[list[Group]]:
    """The groups in slices of bounded weight and size, each a row."""
    part: list[Group] = []
    weight = size = 0
    for group in groups:
        each = 1 + len(group.options.get("after", ()))
        start = 0
        for place, payload in enumerate(group.payloads):
            if weight >= limits.SLICE_JOBS or size >= wire.MESSAGE_BYTES:
                if place > start:
                    part.append(_cut(group, start, place))
                yield part
                part, start, weight, size = [], place, 0, 0
            weight += each
            size += len(payload)
        part.append(_cut(group, start, len(group.ids)))
    if part:
        yield part


def _cut(group: Group, start: int, stop: int) -> Group:
    return group._replace(ids=group.ids[start:stop], payloads=group.payloads[start:stop])


def _decide(state: State, flow: Workflow, steps: list[Step]) -> None:
    """All of it came: from this commit on the workflow is there."""
    flow.state, flow.came, flow.coming, flow.ends = RUNNING, [], {}, bytes(len(steps))
    state.flows[flow.id] = flow
    for place, step in enumerate(steps):
        identifier = step_id(flow.id, place)
        state.counted[identifier] = Batch(
            identifier, step.name, flow.id, place, False, True, 0, state.wall, total=step.jobs
        )


# ---- orders


def cancel(state: State, arguments: dict[str, Any]) -> dict[str, str]:
    """What of it is not over ends, in slices: what waits is cancelled, what runs is told. What came of one whose parts
    are not all there is forgotten."""
    callbacks.settle(state)
    flow = workflows.needed(state, arguments.get("id"))
    if flow.state in (edges.DONE, edges.GONE) or batches.is_stopped(state, flow.id):
        return {"state": flow.state}
    refuse_if_busy(state)
    if flow.state == COMING:
        forget(state, flow)
        return {"state": edges.GONE}
    state.tick.rows["workflows"][rows.stopped_key(flow.id)] = b""
    state.flows[flow.id] = flow
    begin(state, Work("cancel_workflow", "", b"", 0, 0, ids=[flow.id]))
    callbacks.settle(state)
    return {"state": flow.state}


def retry(state: State, arguments: dict[str, Any]) -> dict[str, int]:
    """Its dead jobs are replayed, in slices."""
    callbacks.settle(state)
    flow = workflows.needed(state, arguments.get("id"))
    text = flow.id.decode()
    if batches.is_stopped(state, flow.id):
        raise Refusal("workflow_cancelled", f"the workflow {text!r} was cancelled", id=text)
    dead = sum(batch.dead for batch in workflows.batches_of(state, flow))
    if not dead:
        raise Refusal("not_found", f"no job of the workflow {text!r} is dead")
    number = begin(state, Work("retry_workflow", "", b"", 0, 0, ids=[flow.id]))
    flow.retries += 1  # it goes on from here, and not from the first job that is replayed
    state.flows[flow.id] = flow
    callbacks.settle(state)
    return {"dead": dead, "work": number}


def forget(state: State, flow: Workflow) -> None:
    """Nothing of it is kept; its rows go in slices."""
    state.tick.rows["workflows"][flow.id] = None
    callbacks.count(state, -1)
    begin(state, Work("forget", "", b"", flow.steps if flow.state != COMING else 0, 0, ids=[flow.id]))
