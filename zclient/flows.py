"""What `Client` does with workflows and batches; `zclient.aioflows` is the same for `AsyncClient`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from zclient import openbatches, workflows
from zclient.batches import BATCH_JOBS
from zclient.batchhandles import BatchHandle
from zclient.clientbase import ClientBase
from zclient.composition import Piece, Step, Workflow
from zclient.config import Duration
from zclient.handles import JobHandle, Jobs
from zclient.joboptions import JobOptions
from zclient.openbatches import BatchStatus
from zclient.parts import Sending, to_be_sent
from zclient.workflowhandles import WorkflowHandle
from zclient.workflows import Member, WorkflowStatus, WorkflowSummary

T = TypeVar("T")


class Flows(ClientBase):
    """The part of `Client` that sends and follows workflows and batches."""

    _handle: Callable[..., JobHandle]
    _send_many: Callable[..., Jobs[JobHandle]]
    send: Callable[..., JobHandle]

    # ---- workflows

    def send_workflow(
        self,
        flow: Workflow | Piece,
        *,
        name: str | None = None,
        id: str | None = None,
        timeout: Duration | None = None,
    ) -> WorkflowHandle:
        """Send a workflow, all of it or nothing; returns when the broker has it on disk.

        Takes a `Workflow`, or what `chain`, `group`, `chord` and `step` make, which is then called ``name``. Nothing of
        it runs before all of it has arrived. ``timeout`` is for each of the messages that it takes.

        Raises as `send`. `OutcomeUnknown` carries the id of the workflow: the same `Workflow` may be sent again safely,
        and so may a piece with that ``id``. A `Workflow` that was confirmed is not sent again: `Workflow.copy` makes
        another one.
        """
        workflow, parts = to_be_sent(flow, name, id)
        timeout_ms = self._config.timeout(timeout)
        self._run(lambda session, now: Sending(session, parts, timeout_ms).run(now))
        workflow.sent = True
        return WorkflowHandle(self, parts.id.decode())

    def workflow(self, id: str) -> WorkflowHandle:
        """A handle of the workflow with this id; asks nothing."""
        return WorkflowHandle(self, workflows.workflow_id(id).decode())

    def workflows(
        self, *, state: str | None = None, limit: int | None = 100, timeout: Duration | None = None
    ) -> Iterator[WorkflowSummary]:
        """Workflows, newest first, without their steps: at most ``limit`` of them, None for all. ``timeout`` is for
        each page."""
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
    ) -> BatchHandle:
        """Open a batch, to which jobs are added until it is closed; or with an ``id`` alone, a handle of that batch.

        The callbacks are jobs to send, as `step` makes them: ``on_done`` when it is closed and all its jobs are done,
        ``on_settled`` when it is closed and all are done, dead or cancelled, ``on_death`` when the first of them dies,
        open or closed. Each comes once. With ``keep_results`` what the jobs return is kept with the batch.

        Opening the same batch under the same ``id`` again changes nothing.
        """
        if id is not None and not name and not (on_done or on_settled or on_death or keep_results):
            return BatchHandle(self, openbatches.batch_id(id).decode())
        callbacks = {"on_done": on_done, "on_settled": on_settled, "on_death": on_death}
        arguments = openbatches.batch_arguments(name, id, keep_results, **callbacks)
        self._ask(openbatches.opening(arguments), timeout)
        return BatchHandle(self, arguments["id"].decode())

    def batches(
        self, *, state: str | None = None, limit: int | None = 100, timeout: Duration | None = None
    ) -> Iterator[BatchStatus]:
        """Batches, newest first: at most ``limit`` of them, None for all. ``timeout`` is for each page."""
        return self._pages(openbatches.listed(state), limit, timeout)

    # ---- for the handles

    def _wait_workflow(self, identifier: bytes, timeout: Duration | None) -> WorkflowStatus:
        times = self._config.patience(timeout), self._config.timeout_ms
        status: WorkflowStatus = self._run(lambda session, now: workflows.waiting(session, now, identifier, *times))
        return status

    def _collect(self, identifier: bytes, step: str | None, timeout: Duration | None) -> Any:
        times = self._config.patience(timeout), self._config.timeout_ms
        return self._run(lambda session, now: workflows.collected(session, now, identifier, step, *times))

    def _wait_batch(self, identifier: bytes, timeout: Duration | None) -> BatchStatus:
        times = self._config.patience(timeout), self._config.timeout_ms
        status: BatchStatus = self._run(lambda session, now: openbatches.waiting(session, now, identifier, *times))
        return status

    def _members(self, batch: bytes, timeout: Duration | None) -> Iterator[Member]:
        after = b""
        while found := self._ask(workflows.members(batch, after), timeout):
            yield from found
            after = found[-1].id.encode()

    def _send_many_to(
        self,
        batch: str,
        queue: str,
        payloads: Iterable[Any],
        timeout: Duration | None,
        progress: Callable[[int], Any] | None,
        options: JobOptions,
    ) -> Jobs[JobHandle]:
        return self._send_many(queue, payloads, {**options, "batch": batch}, timeout, BATCH_JOBS, progress)
