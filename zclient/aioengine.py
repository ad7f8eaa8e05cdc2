"""How an asyncio client waits: the event loop watches the link's descriptors, and a turn is taken when one is readable.

All calls of a loop share one turn, so what they send in one pass of the loop leaves together.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from zclient.config import Config
from zclient.engine import Begin
from zclient.errors import ClosedError
from zclient.outbox import Outbox, Parcel
from zclient.protocol.messages import Group
from zclient.requests import Request
from zclient.session import TICK_MS
from zclient.verbs import End, Feed, Report, Step, Wait, advance

T = TypeVar("T")


class AsyncEngine:
    """Runs procedures for any number of tasks of one loop, over one session and one link."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._pid = os.getpid()
        self._session, self._transport = config.open()
        self._watched: tuple[int, ...] = ()
        self._soon: asyncio.Handle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._closed = False
        self.outbox = Outbox()
        self._attendant: asyncio.Task[None] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this process made it; a fork's copy must be left alone."""
        return self._pid == os.getpid()

    async def run(
        self,
        begin: Begin[T],
        feed: Callable[[Feed], Awaitable[list[bytes]]] | None = None,
        report: Callable[[int], Any] | None = None,
    ) -> T:
        """Run a procedure to its end; a cancelled call gives up what it asked for."""
        procedure = begin(self._session, self._transport.now())
        try:
            step: Step | End[T] = advance(procedure)
            while not isinstance(step, End):
                if isinstance(step, Wait):
                    await self._wait(step)
                    step = advance(procedure, self._transport.now())
                else:
                    self._turn_soon()
                    failure, payloads = await _outside(step, feed, report)
                    if self._closed:
                        raise ClosedError()
                    now = self._transport.now()
                    step = advance(procedure, (now, payloads) if isinstance(step, Feed) else now, failure)
            value: T = step.value
            return value
        finally:
            procedure.close()
            self._turn_soon()

    async def take(self, group: Group, timeout_ms: float) -> tuple[Parcel, int]:
        """Put a job into the outbox, and see that somebody attends to it; waits only if the outbox is full."""
        if self._closed:
            raise ClosedError()
        outbox = self.outbox
        if outbox.is_full:
            taken = await self.run(lambda session, now: outbox.adding(session, now, group, timeout_ms))
        else:
            taken = outbox.add(self._session, group, self._transport.now(), timeout_ms)
            self._turn_soon()
        if self._attendant is None or self._attendant.done():
            self._attendant = self.loop.create_task(self._attend())
        return taken

    async def attended(self) -> None:
        """Wait for the task that worked for the outbox; after `close` it ends by itself."""
        if self._attendant is not None and self.loop is asyncio.get_running_loop():
            await asyncio.wait([self._attendant])

    async def _attend(self) -> None:
        with contextlib.suppress(ClosedError):  # each of its jobs was told so
            await self.run(self.outbox.attending)

    def nudge(self) -> None:
        """Let what was asked for leave in the loop's next pass. From any thread: a collector runs where it likes."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._turn_soon)

    def close(self) -> None:
        """End every call with `ClosedError`, say goodbye, and close the link."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._soon, self._tick):
            if timer is not None:
                timer.cancel()
        if not self.loop.is_closed():
            self._watch(())
        self._session.fail_all(ClosedError())
        self.outbox.close(ClosedError())
        self._session.goodbye()
        self._transport.close()

    async def _wait(self, step: Wait) -> None:
        """Return when one of the requests is done or the time is over."""
        if self._closed:
            raise ClosedError()
        ended: asyncio.Future[None] = self.loop.create_future()

        def fire(request: Request | None = None) -> None:
            if not ended.done():
                ended.set_result(None)

        for request in step.requests:
            request.on_done(fire)
        left_ms = step.until_ms - self._transport.now()
        timer = None if left_ms == math.inf else self.loop.call_later(max(left_ms, 0) / 1000, fire)
        self._waiting += 1
        self._turn_soon()
        try:
            await ended
        finally:
            self._waiting -= 1
            if timer is not None:
                timer.cancel()
            for request in step.requests:
                request.forget(fire)

    def _turn_soon(self) -> None:
        """Take a turn in the loop's next pass, once for all who ask."""
        if self._soon is None and not self._closed:
            self._soon = self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._closed:
            return
        transport = self._transport
        transport.turn()
        self._watch(transport.filenos())
        if transport.ready:
            self._turn_soon()
        elif self._tick is None and self._waiting:
            # While anybody waits, what is overdue is looked at once a tick.
            self._tick = self.loop.call_later(TICK_MS / 1000, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self._turn()

    def _watch(self, descriptors: tuple[int, ...]) -> None:
        """Have the loop take a turn when one of these is readable. They change when the link moves on."""
        if descriptors == self._watched:
            return
        for descriptor in self._watched:
            self.loop.remove_reader(descriptor)
        for descriptor in descriptors:
            self.loop.add_reader(descriptor, self._turn)
        self._watched = descriptors


async def _outside(
    step: Feed | Report,
    feed: Callable[[Feed], Awaitable[list[bytes]]] | None,
    report: Callable[[int], Any] | None,
) -> tuple[Exception | None, list[bytes]]:
    """Run the caller's code; its error, or the payloads it brought."""
    try:
        if isinstance(step, Report):
            if report is not None:
                report(step.confirmed)
        elif feed is not None:
            return None, await feed(step)
        return None, []
    except Exception as error:
        return error, []
