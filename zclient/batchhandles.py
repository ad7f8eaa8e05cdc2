"""Handles of batches: jobs are added through them, and they are blocks that close the batch when they are left."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from zclient import openbatches
from zclient.handles import AsyncJobHandle, JobHandle, Jobs
from zclient.joboptions import JobOptions
from zclient.openbatches import BatchStatus
from zclient.workflows import Member

if TYPE_CHECKING:
    from zclient.aioflows import AsyncFlows
    from zclient.flows import Flows


class BatchHandle:
    """A batch that was opened through a `Client`, or is known by its id. It may be used in any thread.

    As a block it closes the batch at its end. An error in the block leaves the batch open, since what was to be added
    is not: its callbacks do not come for a part of it. Whoever handles the error goes on with it, or closes it.
    """

    __slots__ = ("_client", "id")

    def __init__(self, client: "Flows", identifier: str) -> None:
        self._client = client
        self.id = identifier

    def send(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: Any = None,
        **options: Unpack[JobOptions],
    ) -> JobHandle:
        """Send a job that belongs to the batch; see `Client.send`. `BatchClosed` once it is closed."""
        return self._client.send(queue, payload, id=id, timeout=timeout, batch=self, **options)

    def send_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        timeout: Any = None,
        progress: Callable[[int], Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Jobs[JobHandle]:
        """Send a job that belongs to the batch for each payload; see `Client.send_many`."""
        return self._client._send_many_to(self.id, queue, payloads, timeout, progress, options)

    def status(self, *, timeout: Any = None) -> BatchStatus:
        """What the broker knows of it now; `NotFound` once that is nothing."""
        told: BatchStatus = self._client._ask(openbatches.shown(self.id.encode()), timeout)
        return told

    def close(self, *, timeout: Any = None) -> BatchStatus:
        """Take no more jobs, but for those that its own jobs add; how it is then. Closing it again changes nothing."""
        told: BatchStatus = self._client._ask(openbatches.closing(self.id.encode()), timeout)
        return told

    def wait(self, timeout: Any = None) -> BatchStatus:
        """Wait until it is closed and all its jobs are done, dead or cancelled; how it is then.

        Without end if no timeout is given. Raises `ResultTimeout` if it is not over in time, `ResultExpired` if the
        broker knows no such batch.
        """
        return self._client._wait_batch(self.id.encode(), timeout)

    def members(self, *, timeout: Any = None) -> Iterator[Member]:
        """Its jobs that are over by now, with state and result, in the order of their ids; fetched page by page.

        For a batch that was opened with ``keep_results``; else `InvalidArgument`.
        """
        return self._client._members(self.id.encode(), timeout)

    def __enter__(self) -> "BatchHandle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            error.add_note(_left_open(self.id))

    def __repr__(self) -> str:
        return f"<BatchHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class AsyncBatchHandle:
    """The same for an `AsyncClient`: its methods are coroutines.

    ``async with client.batch(...) as batch`` opens it at the beginning and closes it at the end; without a block,
    ``batch = await client.batch(...)`` opens it.
    """

    __slots__ = ("_client", "_opening", "id")

    def __init__(self, client: "AsyncFlows", identifier: str, opening: Any = None) -> None:
        self._client = client
        self._opening = opening  # the order that opens it and its timeout; None if that was given
        self.id = identifier

    def __await__(self) -> "Generator[Any, None, AsyncBatchHandle]":
        return self._opened().__await__()

    async def _opened(self) -> "AsyncBatchHandle":
        if self._opening is not None:
            await self._client._ask(*self._opening)
            self._opening = None
        return self

    async def send(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: Any = None,
        **options: Unpack[JobOptions],
    ) -> AsyncJobHandle:
        """Send a job that belongs to the batch; see `Client.send`. `BatchClosed` once it is closed."""
        return await self._client.send(queue, payload, id=id, timeout=timeout, batch=self, **options)

    async def send_many(
        self,
        queue: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        *,
        timeout: Any = None,
        progress: Callable[[int], Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Jobs[AsyncJobHandle]:
        """Send a job that belongs to the batch for each payload; see `AsyncClient.send_many`."""
        return await self._client._send_many_to(self.id, queue, payloads, timeout, progress, options)

    async def status(self, *, timeout: Any = None) -> BatchStatus:
        """What the broker knows of it now; `NotFound` once that is nothing."""
        told: BatchStatus = await self._client._ask(openbatches.shown(self.id.encode()), timeout)
        return told

    async def close(self, *, timeout: Any = None) -> BatchStatus:
        """Take no more jobs, but for those that its own jobs add; see `BatchHandle.close`."""
        told: BatchStatus = await self._client._ask(openbatches.closing(self.id.encode()), timeout)
        return told

    async def wait(self, timeout: Any = None) -> BatchStatus:
        """Wait until it is closed and all its jobs are done, dead or cancelled; see `BatchHandle.wait`."""
        return await self._client._wait_batch(self.id.encode(), timeout)

    def members(self, *, timeout: Any = None) -> AsyncIterator[Member]:
        """Its jobs that are over by now, with state and result; see `BatchHandle.members`."""
        return self._client._members(self.id.encode(), timeout)

    async def __aenter__(self) -> "AsyncBatchHandle":
        return await self._opened()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            error.add_note(_left_open(self.id))

    def __repr__(self) -> str:
        return f"<AsyncBatchHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncBatchHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


def _left_open(identifier: str) -> str:
    return f"batch {identifier} is left open: client.batch(id={identifier!r}) goes on with it, .close() closes it"
