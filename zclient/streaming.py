"""A job and what its handler yields, as it comes: `Stream` and `AsyncStream`, and the procedure behind both.

A stream is an iterator, not a generator, since it goes on after `StreamRestarted`. Left early, by `close` or by being
forgotten, it cancels its job: nobody reads it any more.
"""

import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from zclient.config import Duration, one_job
from zclient.durations import parse_duration
from zclient.errors import ClosedError, InvalidArgument, JobFailed, ResultExpired, ResultTimeout, StreamRestarted
from zclient.handles import text_of
from zclient.jobs import decode_payload, stream_options, whole
from zclient.protocol.limits import MAX_STREAM_WINDOW
from zclient.protocol.messages import Group
from zclient.readers import Reader, Restarted
from zclient.session import Session
from zclient.verbs import Procedure, Wait, outcome, refuse_late, sending
from zclient.watches import ENDS

if TYPE_CHECKING:
    from zclient.handles import AsyncJobHandle, JobHandle

WINDOW = 64
"""How many values a handler may be ahead of who reads them, unless said otherwise."""

END: Any = object()
"""What `Reading.next` returns at the end."""


class Reading:
    """The job that is streamed, and how far it was read. It outlives single calls, as `watching.Following` does."""

    def __init__(
        self,
        queue: str,
        payload: Any,
        identifier: str | None,
        *,
        timeout: Duration | None,
        on_restart: str,
        window: int,
        options: dict[str, Any],
    ) -> None:
        if on_restart not in ("raise", "continue"):
            raise InvalidArgument(f"on_restart is raise or continue, not {on_restart!r:.60}")
        self._window = whole(window, "window", 1, MAX_STREAM_WINDOW)
        self._timeout_ms = float("inf") if timeout is None else parse_duration(timeout) * 1000
        self._expires = timeout is not None and options.get("ttl") is None
        if self._expires:
            options = {**options, "ttl": timeout}
        group = one_job(queue, payload, identifier, stream_options(**options))
        self.identifier = group.ids[0]
        self.restarts = 0
        self.result: Any = None
        self.is_over = False
        self._raises = on_restart == "raise"
        self._unsent: Group | None = group
        self._session: Session | None = None
        self._reader: Reader | None = None

    def begin(self, session: Session, now: float, timeout_ms: float) -> Procedure[None]:
        """Send the job, if that was not done, and begin to read it."""
        group, self._unsent = self._unsent, None
        if group is None:
            return
        try:
            yield from sending(session, now, group, min(timeout_ms, self._timeout_ms))
            self._session = session
            self._reader = session.readers.open(session.watch(self.identifier), self._window)
            yield Wait((), now)  # one turn: the broker is to know of the reader, even if it takes nothing for long
        except BaseException:
            self.leave()
            raise

    def next(self, session: Session, now: float) -> Procedure[Any]:
        """The next value, or `END`; raises `StreamRestarted`, and what `Client.result` raises if the job failed."""
        if self.is_over:
            return END
        if self._reader is None or self._session is not session:
            self.is_over = True
            raise ClosedError("a stream is read where it was begun: with that client, in that process and event loop")
        reader = self._reader
        until_ms = now + self._timeout_ms
        while True:
            item = reader.take()
            if isinstance(item, Restarted):
                self.restarts += 1
                if self._raises:
                    raise self._restarted(item.values)
            elif item is not None:
                return decode_payload(item)
            elif reader.refusal is not None or reader.end.done:
                return self._ended(session, reader)
            elif now >= until_ms:
                raise self._late(session, reader)
            else:
                now = yield Wait((reader.end, reader.next), until_ms)

    @property
    def has_begun(self) -> bool:
        """Whether `begin` was run."""
        return self._unsent is None

    @property
    def has_to_say(self) -> bool:
        """Whether a turn of the session would tell that there is room for more."""
        return self._session is not None and self._session.readers.pending

    def leave(self) -> bool:
        """Read no longer, and have the job cancelled unless it is over; whether there is something to say for it. In
        any thread, without the session's lock."""
        was_over, self.is_over = self.is_over, True
        if was_over or self._reader is None:
            return False
        self._reader.leave()
        return True

    def _ended(self, session: Session, reader: Reader) -> Any:
        error = reader.refusal or reader.end.error
        if error is None and reader.end.value[0] not in ENDS:
            self.leave()  # if the job is there all the same, it is not to wait for this reader
        else:
            self.is_over = True
            session.readers.forget(reader)
        if reader.refusal is not None:
            session.give_up(reader.end)
        if error is not None:
            raise error.with_traceback(None)
        try:
            self.result = outcome(self.identifier, *reader.end.value)
        except JobFailed as failed:
            if self._expires:
                refuse_late(failed)
            raise
        return END

    def _restarted(self, values: int) -> StreamRestarted:
        came = "1 value that came" if values == 1 else f"{values} values that came"
        text = f"job {text_of(self.identifier)} runs again: the {came} of it will come again"
        return StreamRestarted(text, values=values, restarts=self.restarts, id=text_of(self.identifier))

    def _late(self, session: Session, reader: Reader) -> Exception:
        self.leave()
        if not reader.end.sent:
            return session.unreachable()
        return ResultTimeout(f"job {text_of(self.identifier)} gave no value in time; it is cancelled", cancelled=True)


class _Stream:
    """What both kinds of streams tell."""

    def __init__(self, reading: Reading, nudge: Callable[[], None]) -> None:
        self._reading = reading
        self._nudge = nudge

    @property
    def id(self) -> str:
        """The job's id."""
        return self._reading.identifier.decode()

    @property
    def restarts(self) -> int:
        """How often another run began after values had come."""
        return self._reading.restarts

    @property
    def result(self) -> Any:
        """What the handler returned; None before the end."""
        return self._reading.result

    def _leave(self) -> None:
        if self._reading.leave():
            self._nudge()

    def __del__(self) -> None:
        # Who leaves a loop by `break` and keeps no name of the stream closes it so. There is none after a failed init.
        if "_reading" in self.__dict__ and not sys.is_finalizing():
            self._leave()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of job {self.id}>"


class Stream(_Stream):
    """What a job's handler yields, from `Client.stream`; for one thread at a time. ``job`` is its handle."""

    def __init__(
        self, reading: Reading, job: "JobHandle", run: Callable[[Any], Any], nudge: Callable[[], None]
    ) -> None:
        super().__init__(reading, nudge)
        self.job = job
        self._run = run

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next value; see `Client.stream` for what it raises."""
        try:
            value = self._run(self._reading.next)
        except (ResultTimeout, ResultExpired, ConnectionError):
            self._nudge()
            raise
        if value is END:
            raise StopIteration
        if self._reading.has_to_say:
            self._nudge()  # now, so that more comes while this value is worked on
        return value

    def close(self) -> None:
        """Read no longer: unless it is over, the job is cancelled. Harmless if that was done."""
        self._leave()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncStream(_Stream):
    """The same from `AsyncClient.stream`: the job is sent when the first value is asked for, or by ``async with``."""

    def __init__(
        self,
        reading: Reading,
        job: "AsyncJobHandle",
        run: Callable[[Any], Any],
        nudge: Callable[[], None],
        timeout_ms: float,
    ) -> None:
        super().__init__(reading, nudge)
        self.job = job
        self._run = run
        self._timeout_ms = timeout_ms

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> Any:
        """The next value; see `Client.stream` for what it raises."""
        if not self._reading.has_begun:
            await self._begin()
        try:
            value = await self._run(self._reading.next)
        except (ResultTimeout, ResultExpired, ConnectionError):
            self._nudge()
            raise
        if value is END:
            raise StopAsyncIteration
        return value

    async def _begin(self) -> None:
        await self._run(lambda session, now: self._reading.begin(session, now, self._timeout_ms))

    async def close(self) -> None:
        """Read no longer: unless it is over, the job is cancelled. Harmless if that was done."""
        self._leave()

    async def __aenter__(self) -> "AsyncStream":
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
