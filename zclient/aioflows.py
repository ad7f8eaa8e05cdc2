"""What `AsyncClient` does with workflows and batches: as `zclient.flows` for `Client`."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from zclient import openbatches, workflows
from zclient.aioclientbase import AsyncClientBase
from zclient.batches import BATCH_JOBS
from zclient.batchhandles import AsyncBatchHandle
from zclient.composition import Piece, Step, Workflow
from zclient.config import Duration
from zclient.handles import AsyncJobHandle, Jobs
from zclient.joboptions import JobOptions
from zclient.openbatches import BatchStatus
from zclient.parts import Sending, to_be_sent
from zclient.workflowhandles import AsyncWorkflowHandle
from zclient.workflows import Member, WorkflowStatus, WorkflowSummary

T = TypeVar("T")


class AsyncFlows(AsyncClientBase):
    """The part of `AsyncClient` that sends and follows workflows and batches."""

    _handle: Callable[..., AsyncJobHandle]
    _send_many: Callable[..., Awaitable[Jobs[AsyncJobHandle]]]
    send: Callable[..., Awaitable[AsyncJobHandle]]

    # ---- workflows

    async def send_workflow(
        self,
        flow: Workflow | Piece,
        *,
        name: str | None = None,
        id: str | None = None,
        timeout: Duration | None = None,
    ) -> AsyncWorkflowHandle:
        """Send a workflow, all of it or nothing; see `Client.send_workflow`."""
        workflow, parts = to_be_sent(flow, name, id)
        timeout_ms = self._config.timeout(timeout)
        await self._run(lambda session, now: Sending(session, parts, timeout_ms).run(now))
        workflow.sent = True
        return AsyncWorkflowHandle(self, parts.id.decode())

    def workflow(self, id: str) -> AsyncWorkflowHandle:
        """A handle of the workflow with this id; asks nothing."""
        return AsyncWorkflowHandle(self, workflows.workflow_id(id).decode())

    def workflows(
        self, *, state: str | None = None, limit: int | None = 100, timeout: Duration | None = None
    ) -> AsyncIterator[WorkflowSummary]:
        """Workflows, newest first, without their steps; see `Client.workflows`."""
        return self._pages(workflows.listed(state), limit, timeout)

    # ---- batches

    def batch(
        self,
        name: str = "",
        *,
        on_done: Step | None = None,
        on_settled: Step | None = None,
        on_death: Step | None = None,
        keep_results: bool = False,
        id: str | None = None,
        timeout: Duration | None = None,
    ) -> AsyncBatchHandle:
        """Open a batch, as a block or when it is awaited; with an ``id`` alone, a handle of that batch.

        See `Client.batch`, and `AsyncBatchHandle`.
        """
        if id is not None and not name and not (on_done or on_settled or on_death or keep_results):
            return AsyncBatchHandle(self, openbatches.batch_id(id).decode())
        callbacks = {"on_done": on_done, "on_settled": on_settled, "on_death": on_death}
        arguments = openbatches.batch_arguments(name, id, keep_results, **callbacks)
        return AsyncBatchHandle(self, arguments["id"].decode(), (openbatches.opening(arguments), timeout))

    def batches(
        self, *, state: str | None = None, limit: int | None = 100, timeout: Duration | None = None
    ) -> AsyncIterator[BatchStatus]:
        """Batches, newest first: at most ``limit`` of them, None for all. ``timeout`` is for each page."""
        return self._pages(openbatches.listed(state), limit, timeout)

    # ---- for the handles

    async def _wait_workflow(self, identifier: bytes, timeout: Duration | None) -> WorkflowStatus:
        times = self._config.patience(timeout), self._config.timeout_ms
        status: WorkflowStatus = await self._run(
            lambda session, now: workflows.waiting(session, now, identifier, *times)
        )
        return status

    async def _collect(self, identifier: bytes, step: str | None, timeout: Duration | None) -> Any:
        times = self._config.patience(timeout), self._config.timeout_ms
        return await self._run(lambda session, now: workflows.collected(session, now, identifier, step, *times))

    async def _wait_batch(self, identifier: bytes, timeout: Duration | None) -> BatchStatus:
        times = self._config.patience(timeout), self._config.timeout_ms
        status: BatchStatus = await self._run(
            lambda session, now: openbatches.waiting(session, now, identifier, *times)
        )
        return status

    async def _members(self, batch: bytes, timeout: Duration | None) -> AsyncIterator[Member]:
        after = b""
        while found := await self._ask(workflows.members(batch, after), timeout):
            for member in found:
                yield member
            after = found[-1].id.encode()

    async def _send_many_to(
        self,
        batch: str,
        queue: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        timeout: Duration | None,
        progress: Callable[[int], Any] | None,
        options: JobOptions,
    ) -> Jobs[AsyncJobHandle]:
        return await self._send_many(queue, payloads, {**options, "batch": batch}, timeout, BATCH_JOBS, progress)
