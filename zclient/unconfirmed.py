"""Handles of jobs that `send_nowait` took: whether the broker has them, and waiting for that."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from zclient.config import Duration
from zclient.errors import AnswerTimeout
from zclient.handles import AsyncJobHandle, JobHandle
from zclient.outbox import Parcel

if TYPE_CHECKING:
    from zclient.aio import AsyncClient
    from zclient.blocking import Client


class _Unconfirmed:
    """What both kinds share."""

    __slots__ = ("_parcel", "_position")

    def __init__(self, parcel: Parcel, position: int) -> None:
        self._parcel = parcel
        self._position = position

    @property
    def id(self) -> str:
        """The job's id. Where its unique text was taken, once that is known, the id of the job that has it."""
        return self._parcel.identifier(self._position).decode()

    @property
    def done(self) -> bool:
        """Whether its end is known: it is confirmed, or it failed."""
        return self._parcel.of(self._position).done

    def _check(self, came: bool) -> None:
        """Raise what became of it, unless it is confirmed."""
        if not came:
            raise AnswerTimeout(f"job {self.id} is not confirmed yet; it is still under way")
        parcel = self._parcel.of(self._position)
        if parcel.error is not None:
            parcel.told = True
            raise parcel.error.with_traceback(None)

    def __repr__(self) -> str:
        word = (
            "under way" if not self.done else "confirmed" if self._parcel.of(self._position).error is None else "failed"
        )
        return f"<{type(self).__name__} {self.id}: {word}>"


class UnconfirmedJob(_Unconfirmed):
    """A job that `Client.send_nowait` took. It may be used in any thread."""

    __slots__ = ("_client",)

    def __init__(self, client: "Client", parcel: Parcel, position: int) -> None:
        super().__init__(parcel, position)
        self._client = client

    def wait(self, timeout: Duration | None = None) -> JobHandle:
        """Wait until the broker has it on disk; its handle. Raises what `Client.send` raises, and `AnswerTimeout` if
        that is not known in time: the job is under way then, and may be waited for again. `ClosedError` in a forked
        child, if the parent sent it."""
        self._check(self._client._wait_for(self._parcel, self._position, timeout))
        return self._client._handle(self.id, self._parcel.of(self._position).existing is not None)


class AsyncUnconfirmedJob(_Unconfirmed):
    """The same for an `AsyncClient`; it may be awaited as it is."""

    __slots__ = ("_client",)

    def __init__(self, client: "AsyncClient", parcel: Parcel, position: int) -> None:
        super().__init__(parcel, position)
        self._client = client

    async def wait(self, timeout: Duration | None = None) -> AsyncJobHandle:
        """See `UnconfirmedJob.wait`."""
        self._check(await self._client._wait_for(self._parcel, self._position, timeout))
        return self._client._handle(self.id, self._parcel.of(self._position).existing is not None)

    def __await__(self) -> Generator[Any, None, AsyncJobHandle]:
        return self.wait().__await__()
