"""What all parts of `AsyncClient` stand on; `zclient.clientbase` for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from zclient import verbs
from zclient.aioengine import AsyncEngine
from zclient.clientbase import Follower
from zclient.config import Config, Duration, OpenTransport
from zclient.engine import Begin
from zclient.errors import ClosedError
from zclient.outbox import Parcel
from zclient.verbs import Feed

T = TypeVar("T")


class AsyncClientBase:
    """The connection of an event loop."""

    def __init__(
        self,
        endpoints: str | Sequence[str] | None = None,
        *,
        credentials: Any = None,
        name: str | None = None,
        timeout: Duration = 10,
        transport: OpenTransport | None = None,
    ) -> None:
        self._config = Config(endpoints, credentials, name, timeout, transport)
        self._engine: AsyncEngine | None = None
        self._closed = False

    async def close(self) -> None:
        """Say goodbye and disconnect. Other calls end with `ClosedError`. Blocks the loop for a moment at most."""
        self._closed = True
        if self._engine is not None and self._engine.is_ours:
            self._engine.close()
            await self._engine.attended()

    def _living(self) -> AsyncEngine:
        if self._closed:
            raise ClosedError()
        engine = self._engine
        loop = asyncio.get_running_loop()
        if engine is not None and engine.is_ours and engine.loop is not loop:
            if not engine.loop.is_closed():
                raise ClosedError("this client belongs to another event loop, which still runs")
            engine.close()
            engine = None
        if engine is None or not engine.is_ours:
            engine = self._engine = AsyncEngine(self._config, loop)
        return engine

    async def _run(
        self,
        begin: Begin[T],
        feed: Callable[[Feed], Awaitable[list[bytes]]] | None = None,
        report: Callable[[int], Any] | None = None,
    ) -> T:
        return await self._living().run(begin, feed, report)

    async def _ask(self, verb: verbs.Verb[T], timeout: Duration | None) -> T:
        timeout_ms = self._config.timeout(timeout)
        return await self._run(lambda session, now: verbs.asking(session, now, verb, timeout_ms))

    async def flush(self, *, timeout: Duration | None = None) -> None:
        """Wait until the broker has all on disk that `send_nowait` took so far; see `Client.flush`."""
        engine = self._engine
        if engine is None or not engine.is_ours:
            return
        timeout_ms = self._config.patience(timeout)
        await engine.run(lambda session, now: engine.outbox.emptying(session, now, timeout_ms))

    async def _wait_for(self, parcel: Parcel, position: int, timeout: Duration | None) -> bool:
        if parcel.of(position).done:
            return True
        timeout_ms = self._config.patience(timeout)
        return await self._run(lambda session, now: parcel.outbox.ending(session, now, parcel, position, timeout_ms))

    def _nudge(self) -> None:
        if self._engine is not None and self._engine.is_ours:
            self._engine.nudge()

    async def _follow(self, follower: Follower[T]) -> AsyncIterator[T]:
        try:
            while (told := await self._run(follower.next)) is not None:
                yield told
        finally:
            follower.leave()
            self._nudge()

    async def _pages(self, page: verbs.PageAfter[T], limit: int | None, timeout: Duration | None) -> AsyncIterator[T]:
        cursor: Any = None
        left = verbs.rows_wanted(limit)
        while left > 0:
            found = await self._ask(page(left, cursor), timeout)
            for row in found.rows:
                yield row
            left -= len(found.rows)
            cursor = found.cursor
            if cursor is None:
                return
