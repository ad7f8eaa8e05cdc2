"""What a job of a workflow gets from the steps that its own step is after: read from the broker when it is looked at.

It owns names, order and pages; it asks through the job's owner, and keeps no more than one page of a group.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, overload

from zclient.errors import InvalidArgument
from zclient.protocol import plans
from zclient.verbs import Verb
from zclient.workflows import Member, StepStatus, WorkflowStatus, batch_of, members, shown

Ask = Callable[[Verb[Any]], Any]
"""Asks the broker, and waits for the answer."""


class Results(Sequence[Any]):
    """What the jobs of a step returned, in their order: a sequence that is read page by page, each time it is read.

    Of a job that is not done there is the error in its place, `JobFailed` or `JobCancelled`: a handler that runs
    although jobs before it died (``on_parent_death="run"``) meets it. ``list(results)`` has all of them in memory.
    """

    def __init__(self, ask: Ask, batch: bytes, step: StepStatus) -> None:
        self._ask = ask
        self._batch = batch
        self._step = step

    def members(self) -> Iterator[Member]:
        """The same with id and state of each job."""
        return self._from(0)

    def _from(self, start: int) -> Iterator[Member]:
        """The jobs from a position on. The ids of those that came with the workflow tell where that is."""
        known = min(start, self._step.jobs) if self._step.total == self._step.jobs else 0
        after = plans.job_id(self._batch, known - 1) if known else b""
        passed = known
        while page := self._ask(members(self._batch, after)):
            yield from page[max(start - passed, 0) :]
            passed += len(page)
            after = page[-1].id.encode()

    def __len__(self) -> int:
        return self._step.total

    def __iter__(self) -> Iterator[Any]:
        return (member.value for member in self._from(0))

    @overload
    def __getitem__(self, position: int) -> Any: ...

    @overload
    def __getitem__(self, position: slice) -> list[Any]: ...

    def __getitem__(self, position: int | slice) -> Any:
        chosen = range(len(self))[position]
        if isinstance(chosen, int):
            found = list(islice(self._from(chosen), 1))
            if not found:
                raise IndexError(f"result {chosen} of step {self._step.name} is kept no longer")
            return found[0].value
        if not chosen:
            return []
        low = min(chosen)
        values = [member.value for member in islice(self._from(low), max(chosen) - low + 1)]
        return [values[place - low] for place in chosen]

    def __repr__(self) -> str:
        return f"<{len(self)} results of step {self._step.name}>"


class Inputs(Mapping[str, Any]):
    """The results of the steps that a job's own step is after, by name, in the order in which the step names them.

    That of a single job is its value, or its error where it is not done; that of a group is `Results`.
    """

    def __init__(self, ask: Ask, status: WorkflowStatus | None, names: Sequence[str]) -> None:
        self._ask = ask
        self._status = status
        self._names = tuple(names)

    @property
    def only(self) -> Any:
        """The one input, for a handler that is after one step, whatever its name; `InvalidArgument` if it is not."""
        if len(self._names) != 1:
            raise InvalidArgument(f"it is after {len(self._names)} steps, not one: {', '.join(self._names)}")
        return self[self._names[0]]

    def status(self, name: str) -> StepStatus:
        """How a step is: its state and counters. KeyError for one that it is not after."""
        if self._status is None or name not in self._names:
            raise KeyError(name)
        return self._status.steps[name]

    def __getitem__(self, name: str) -> Any:
        step = self.status(name)
        assert self._status is not None
        results = Results(self._ask, batch_of(self._status, name), step)
        return results[0] if step.single else results

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<inputs from {', '.join(self._names) or 'no step'}>"


def inputs_of(batch: bytes, ask: Ask) -> Inputs:
    """The inputs of a job that belongs to this batch; none if that is no step of a workflow."""
    if not plans.is_step_id(batch):
        return Inputs(ask, None, ())
    status: WorkflowStatus = ask(shown(plans.workflow_of(batch)))
    own = list(status.steps.values())[plans.place_of(batch)]
    return Inputs(ask, status, own.inputs)
