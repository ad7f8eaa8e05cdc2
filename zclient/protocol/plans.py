"""The plan of a workflow: its steps, which come after which, and the ids that follow from them.

Step ``k`` of a workflow is a batch, and its job ``n`` a job; both have ids that begin with the workflow's, so whoever
knows the plan knows all of them. It decides nothing about jobs.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from zclient.protocol import limits
from zclient.protocol.options import PARENT_RULES

_WORKFLOW_ID = re.compile(rb"[0-9a-f]{%d}" % limits.WORKFLOW_ID_BYTES)
_STEP_ID = re.compile(rb"[0-9a-f]{%d}" % (limits.WORKFLOW_ID_BYTES + 3))
_BATCH_ID = re.compile(rb"[0-9a-f]{%d}" % limits.MADE_ID_BYTES)
STEP_ID_BYTES = limits.WORKFLOW_ID_BYTES + 3
"""The length of the id of a step."""


class Step(NamedTuple):
    """One step, as it stands in the plan."""

    name: str
    jobs: int
    after: list[int]  # places in the plan of the steps that it waits for
    rule: str  # what becomes of its jobs when one of them ends badly: as ``on_parent_death``
    single: bool  # one job, and not a group of one: its result stands for itself
    named: int | None = None  # how many of `after` it names itself, the first ones; None for all

    @property
    def inputs(self) -> list[int]:
        """The steps whose results its jobs read: not those that it waits for only since one without jobs would."""
        return self.after[: self.named]


def workflow_id_fault(identifier: bytes) -> str | None:
    """Why ``identifier`` cannot be a workflow's, or None if it can: 12 digits of Unix ms, and 10 of chance."""
    if _WORKFLOW_ID.fullmatch(identifier):
        return None
    digits = f"{limits.WORKFLOW_ID_BYTES} lowercase hexadecimal digits"
    return f"the id of a workflow has {digits}, not {identifier.decode(errors='backslashreplace')!r:.80}"


def batch_id_fault(identifier: bytes) -> str | None:
    """Why ``identifier`` cannot be a batch's that somebody opens, or None if it can."""
    if _BATCH_ID.fullmatch(identifier):
        return None
    digits = f"{limits.MADE_ID_BYTES} lowercase hexadecimal digits"
    return f"the id of a batch has {digits}, not {identifier.decode(errors='backslashreplace')!r:.80}"


def step_id(workflow: bytes, step: int) -> bytes:
    """The id of the batch that is a step."""
    return b"%b%03x" % (workflow, step)


def is_step_id(identifier: bytes) -> bool:
    """Whether this is how the id of a step looks."""
    return _STEP_ID.fullmatch(identifier) is not None


def workflow_of(step: bytes) -> bytes:
    """The workflow of the batch that is a step."""
    return step[: limits.WORKFLOW_ID_BYTES]


def place_of(step: bytes) -> int:
    """The place in the plan of the batch that is a step."""
    return int(step[limits.WORKFLOW_ID_BYTES :], 16)


def job_id(step: bytes, number: int) -> bytes:
    """The id of a job of the batch that is a step, as it came with its workflow."""
    return b"%b%07x" % (step, number)


def job_ids(workflow: bytes, step: int, first: int, jobs: int) -> list[bytes]:
    """The ids of so many jobs of a step, from the one of this number on. They sort as their numbers do."""
    return [b"%b%03x%07x" % (workflow, step, n) for n in range(first, first + jobs)]


def steps_of(plan: dict[str, Any]) -> list[Step]:
    """The steps of a plan that has no fault."""
    return [Step(*step) for step in plan["steps"]]


def plan_fault(plan: dict[str, Any]) -> str | None:
    """Why this cannot be a workflow's plan, or None if it can: its shape, its limits, and circles."""
    name, steps = plan.get("name"), plan.get("steps")
    if type(name) is not str or len(name) > limits.MAX_NAME_CHARS:
        return f"the name of a workflow is a text of at most {limits.MAX_NAME_CHARS} characters"
    if type(steps) is not list or not 1 <= len(steps) <= limits.MAX_STEPS:
        return f"a workflow has 1 to {limits.MAX_STEPS} steps"
    for step in steps:
        fault = _step_fault(step, len(steps))
        if fault is not None:
            return fault
    told = [Step(*step) for step in steps]
    if len({step.name for step in told}) < len(told):
        return "two steps have one name"
    if sum(step.jobs for step in told) > limits.MAX_WORKFLOW_JOBS:
        return f"a workflow has at most {limits.MAX_WORKFLOW_JOBS} jobs"
    if sum(len(step.after) for step in told) > limits.MAX_PLAN_EDGES:
        return f"a workflow has at most {limits.MAX_PLAN_EDGES} pairs of steps"
    if sum(step.jobs * len(step.after) for step in told) > limits.MAX_WORKFLOW_EDGES:
        return f"a workflow has at most {limits.MAX_WORKFLOW_EDGES} pairs of a job and a step that it is after"
    circle = _circle(told)
    return f"the steps wait for each other in a circle: {', '.join(circle)}" if circle else None


def _step_fault(step: Any, steps: int) -> str | None:
    if type(step) not in (list, tuple) or len(step) not in (5, 6):
        return "a step is [name, jobs, after, rule, single, named]"
    name, jobs, after, rule, single, *more = step
    if type(name) is not str or not 1 <= len(name) <= limits.MAX_NAME_CHARS or not name.isprintable():
        return f"the name of a step is a printable text of 1 to {limits.MAX_NAME_CHARS} characters, not {name!r:.40}"
    if type(jobs) is not int or not 0 <= jobs <= limits.MAX_WORKFLOW_JOBS or type(single) is not bool:
        return f"step {name}: jobs is 0 to {limits.MAX_WORKFLOW_JOBS}, single true or false"
    if single and jobs != 1:
        return f"step {name}: one that is single has one job"
    if rule not in PARENT_RULES:
        return f"step {name}: its rule is one of {', '.join(PARENT_RULES)}, not {rule!r:.40}"
    if type(after) is not list or not all(type(other) is int and 0 <= other < steps for other in after):
        return f"step {name}: after is a list of places in the plan, 0 to {steps - 1}"
    if more and more[0] is not None and (type(more[0]) is not int or not 0 <= more[0] <= len(after)):
        return f"step {name}: named is how many of the {len(after)} steps it names itself"
    return f"step {name}: after names a step twice" if len(set(after)) < len(after) else None


def _circle(steps: list[Step]) -> list[str]:
    """The names of the steps that can never begin, a few of them; empty if all can."""
    begun = in_order([step.after for step in steps])
    stuck = set(range(len(steps))).difference(begun)
    return [steps[place].name for place in sorted(stuck)][:10]


def in_order(after: Sequence[Collection[int]]) -> list[int]:
    """The places of what comes after others, each behind those; what is in a circle, or behind one, is left out."""
    needed_by: list[list[int]] = [[] for _ in after]
    for place, others in enumerate(after):
        for other in others:
            needed_by[other].append(place)
    left = [len(others) for others in after]
    order = [place for place, others in enumerate(left) if not others]
    for place in order:  # it grows meanwhile
        for waiting in needed_by[place]:
            left[waiting] -= 1
            if not left[waiting]:
                order.append(waiting)
    return order
