"""What all parts of `Client` stand on: its connections, and how procedures, questions, listings and followers run."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from zclient import verbs
from zclient.config import Config, Duration, OpenTransport
from zclient.engine import Begin, Engine
from zclient.errors import ClosedError
from zclient.outbox import Parcel
from zclient.session import Session
from zclient.verbs import Feed, Procedure

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Follower(Protocol[T_co]):
    """Something that is told piece by piece: `watching.Following`, `tailing.Tailing`."""

    def next(self, session: Session, now: float) -> Procedure[T_co | None]: ...

    def leave(self) -> None: ...


class ClientBase:
    """A connection of each process that uses the client."""

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
        self._engines: dict[int, Engine] = {}
        self._closed = False

    def close(self) -> None:
        """Say goodbye and disconnect. Calls in other threads end with `ClosedError`, and what `send_nowait` took and is
        not confirmed has an unknown end: `flush` comes first. A forked child closes its own."""
        self._closed = True
        engine = self._engines.get(os.getpid())
        if engine is not None:
            engine.close()

    def _engine(self) -> Engine:
        """This process's engine. One that a fork copied holds the parent's locks and sockets, and is left alone."""
        if self._closed:
            raise ClosedError()
        engine = self._engines.get(os.getpid())
        return engine or self._engines.setdefault(os.getpid(), Engine(self._config))

    def _run(
        self,
        begin: Begin[T],
        feed: Callable[[Feed], list[bytes]] | None = None,
        report: Callable[[int], Any] | None = None,
    ) -> T:
        return self._engine().run(begin, feed, report)

    def flush(self, *, timeout: Duration | None = None) -> None:
        """Wait until the broker has all on disk that `send_nowait` took so far.

        Without a timeout it waits to the end: each job has a time of its own. Raises the first failure that no
        `UnconfirmedJob.wait` told of, and `AnswerTimeout` if the end of some is not known in time.
        """
        engine = self._engines.get(os.getpid())
        if engine is None:
            return
        timeout_ms = self._config.patience(timeout)
        engine.run(lambda session, now: engine.outbox.emptying(session, now, timeout_ms))

    def _wait_for(self, parcel: Parcel, position: int, timeout: Duration | None) -> bool:
        """Wait for a job in the outbox; whether its end is known."""
        if parcel.of(position).done:
            return True
        timeout_ms = self._config.patience(timeout)
        return self._run(lambda session, now: parcel.outbox.ending(session, now, parcel, position, timeout_ms))

    def _ask(self, verb: verbs.Verb[T], timeout: Duration | None) -> T:
        timeout_ms = self._config.timeout(timeout)
        return self._run(lambda session, now: verbs.asking(session, now, verb, timeout_ms))

    def _nudge(self) -> None:
        engine = self._engines.get(os.getpid())
        if engine is not None:
            engine.nudge()

    def _follow(self, follower: Follower[T]) -> Iterator[T]:
        try:
            while (told := self._run(follower.next)) is not None:
                yield told
        finally:
            follower.leave()
            self._nudge()

    def _pages(self, page: verbs.PageAfter[T], limit: int | None, timeout: Duration | None) -> Iterator[T]:
        cursor: Any = None
        left = verbs.rows_wanted(limit)
        while left > 0:
            found = self._ask(page(left, cursor), timeout)
            yield from found.rows
            left -= len(found.rows)
            cursor = found.cursor
            if cursor is None:
                return
