"""Handles of workflows that were sent, and of their steps. A handle is an id and a client: it keeps nothing else."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from zclient import workflows
from zclient.handles import AsyncJobHandle, JobHandle, Jobs
from zclient.verbs import Bulk
from zclient.workflows import Member, StepStatus, WorkflowStatus

if TYPE_CHECKING:
    from zclient.aioflows import AsyncFlows
    from zclient.flows import Flows


class WorkflowHandle:
    """A workflow that was sent through a `Client`, or is known by its id. It may be used in any thread."""

    __slots__ = ("_client", "id")

    def __init__(self, client: "Flows", identifier: str) -> None:
        self._client = client
        self.id = identifier

    def status(self, *, timeout: Any = None) -> WorkflowStatus:
        """What the broker knows of it now, step by step; `NotFound` once that is nothing."""
        told: WorkflowStatus = self._client._ask(workflows.shown(self.id.encode()), timeout)
        return told

    def wait(self, timeout: Any = None) -> WorkflowStatus:
        """Wait until it is over, without end if no timeout is given, and return how it is then.

        It is over when all its jobs are, and also when nothing goes on without `retry`, since jobs are dead. Raises
        `ResultTimeout` if it is not over in time, and `ResultExpired` if the broker knows no such workflow.
        """
        return self._client._wait_workflow(self.id.encode(), timeout)

    def results(self, timeout: Any = None) -> dict[str, Any]:
        """Wait until it is over, and return what each step returned, by name: a value, or a list for a group.

        Raises `JobFailed` if jobs are dead: ``details["step"]`` names the step, ``details["id"]`` one of them.
        Raises `JobCancelled`, which names a step likewise, `ResultExpired`, and `ResultTimeout`. Steps of a large
        workflow are better read one by one, see `StepHandle.members`.
        """
        told: dict[str, Any] = self._client._collect(self.id.encode(), None, timeout)
        return told

    def result(self, step: str, timeout: Any = None) -> Any:
        """Wait until a step is over, and return what it returned; raises as `results`, of this step alone.

        Of steps that are held back by a dead one it raises `JobFailed` as well.
        """
        return self._client._collect(self.id.encode(), step, timeout)

    def __getitem__(self, step: str) -> "StepHandle":
        """A handle of the step of this name; asks nothing."""
        return StepHandle(self, step)

    def cancel(self, *, timeout: Any = None) -> str:
        """Cancel all that is not over: what waits is cancelled, what runs is told. Returns its state then.

        The broker answers at once and goes on with it in slices; `wait` tells when all of it is over.
        """
        state: str = self._client._ask(workflows.cancelled(self.id.encode()), timeout)
        return state

    def retry(self, *, timeout: Any = None) -> Bulk:
        """Replay all its dead jobs; what waited for them goes on. ``count`` of the answer is how many they are.

        The broker goes on with it in slices. Raises `NotFound` if no job is dead, `WorkflowCancelled`
        if somebody cancelled it.
        """
        bulk: Bulk = self._client._ask(workflows.retried(self.id.encode()), timeout)
        return bulk

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkflowHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class StepHandle:
    """A step of a workflow that was sent."""

    __slots__ = ("name", "workflow")

    def __init__(self, workflow: WorkflowHandle, name: str) -> None:
        self.workflow = workflow
        self.name = name

    def status(self, *, timeout: Any = None) -> StepStatus:
        """What the broker knows of it now; `InvalidArgument` if the workflow has no such step."""
        return workflows.step_of(self.workflow.status(timeout=timeout), self.name)

    def result(self, timeout: Any = None) -> Any:
        """Wait until it is over, and return what it returned: a value, or a list for a group."""
        return self.workflow.result(self.name, timeout)

    def members(self, *, timeout: Any = None) -> Iterator[Member]:
        """Its jobs that are over by now, with state and result, in their order; fetched page by page."""
        client = self.workflow._client
        batch = workflows.batch_of(self.workflow.status(timeout=timeout), self.name)
        return client._members(batch, timeout)

    def jobs(self, *, timeout: Any = None) -> Jobs[JobHandle]:
        """Handles of its jobs, in the order in which it was given them; made on demand."""
        client = self.workflow._client
        return Jobs(workflows.jobs_of(self.workflow.status(timeout=timeout), self.name), client._handle)

    def __repr__(self) -> str:
        return f"<StepHandle {self.name} of {self.workflow.id}>"


class AsyncWorkflowHandle:
    """The same for an `AsyncClient`: its methods are coroutines."""

    __slots__ = ("_client", "id")

    def __init__(self, client: "AsyncFlows", identifier: str) -> None:
        self._client = client
        self.id = identifier

    async def status(self, *, timeout: Any = None) -> WorkflowStatus:
        """What the broker knows of it now, step by step; `NotFound` once that is nothing."""
        told: WorkflowStatus = await self._client._ask(workflows.shown(self.id.encode()), timeout)
        return told

    async def wait(self, timeout: Any = None) -> WorkflowStatus:
        """Wait until it is over, and return how it is then; see `WorkflowHandle.wait`."""
        return await self._client._wait_workflow(self.id.encode(), timeout)

    async def results(self, timeout: Any = None) -> dict[str, Any]:
        """Wait until it is over, and return what each step returned, by name; see `WorkflowHandle.results`."""
        told: dict[str, Any] = await self._client._collect(self.id.encode(), None, timeout)
        return told

    async def result(self, step: str, timeout: Any = None) -> Any:
        """Wait until a step is over, and return what it returned; see `WorkflowHandle.result`."""
        return await self._client._collect(self.id.encode(), step, timeout)

    def __getitem__(self, step: str) -> "AsyncStepHandle":
        """A handle of the step of this name; asks nothing."""
        return AsyncStepHandle(self, step)

    async def cancel(self, *, timeout: Any = None) -> str:
        """Cancel all that is not over; see `WorkflowHandle.cancel`."""
        state: str = await self._client._ask(workflows.cancelled(self.id.encode()), timeout)
        return state

    async def retry(self, *, timeout: Any = None) -> Bulk:
        """Replay all its dead jobs; see `WorkflowHandle.retry`."""
        bulk: Bulk = await self._client._ask(workflows.retried(self.id.encode()), timeout)
        return bulk

    def __repr__(self) -> str:
        return f"<AsyncWorkflowHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncWorkflowHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class AsyncStepHandle:
    """A step of a workflow that was sent through an `AsyncClient`."""

    __slots__ = ("name", "workflow")

    def __init__(self, workflow: AsyncWorkflowHandle, name: str) -> None:
        self.workflow = workflow
        self.name = name

    async def status(self, *, timeout: Any = None) -> StepStatus:
        """What the broker knows of it now; `InvalidArgument` if the workflow has no such step."""
        return workflows.step_of(await self.workflow.status(timeout=timeout), self.name)

    async def result(self, timeout: Any = None) -> Any:
        """Wait until it is over, and return what it returned: a value, or a list for a group."""
        return await self.workflow.result(self.name, timeout)

    async def members(self, *, timeout: Any = None) -> AsyncIterator[Member]:
        """Its jobs that are over by now, with state and result, in their order; fetched page by page."""
        client = self.workflow._client
        batch = workflows.batch_of(await self.workflow.status(timeout=timeout), self.name)
        async for member in client._members(batch, timeout):
            yield member

    async def jobs(self, *, timeout: Any = None) -> Jobs[AsyncJobHandle]:
        """Handles of its jobs, in the order in which it was given them; made on demand."""
        client = self.workflow._client
        return Jobs(workflows.jobs_of(await self.workflow.status(timeout=timeout), self.name), client._handle)

    def __repr__(self) -> str:
        return f"<AsyncStepHandle {self.name} of {self.workflow.id}>"
