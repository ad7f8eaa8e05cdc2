"""A broker that says what a test tells it to, in the same process: for what a worker's threads make of it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode
from zclient.session import TICK_MS, Session

WAIT_S = 10

T = TypeVar("T")


class ScriptedBroker:
    """Give its ``transport`` to a worker or consumer. It welcomes them, and takes every settlement.

    ``sent`` is all that came from the worker, in order.
    """

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self._came = threading.Condition()
        self._told: deque[m.Message] = deque()
        self._woken = threading.Event()
        self._session: Session | None = None

    def say(self, *messages: m.Message) -> None:
        """Send these to the worker."""
        self._told.extend(messages)
        self._woken.set()

    def settlements(self, count: int) -> list[tuple[bytes, int, Any]]:
        """The first ``count`` jobs that the worker settles: id, outcome and value of each; waits for them."""
        return self._until(lambda: self._settled() if len(self._settled()) >= count else None)

    def says_capacity(self, capacity: int) -> None:
        """Wait until the worker says that it takes so many jobs at once."""
        self._until(lambda: m.Capacity(capacity) in self.sent or None)

    def progress(self, job: bytes) -> tuple[float | None, str]:
        """What the worker first tells of a job; waits for it."""
        return self._until(lambda: next(iter(self._progress(job)), None))

    def partials(self, count: int, *, lasts: int = 0) -> list[m.Partial]:
        """The messages with partials that the worker sent; waits until they brought so many values, and the end of so
        many runs."""

        def found() -> list[m.Partial] | None:
            sent = [message for message in self.sent if isinstance(message, m.Partial)]
            brought = sum(len(message.values) for message in sent)
            return sent if brought >= count and sum(message.last for message in sent) >= lasts else None

        return self._until(found)

    def _settled(self) -> list[tuple[bytes, int, Any]]:
        return [
            (identifier, outcome, value)
            for message in self.sent
            if isinstance(message, m.Settle)
            for _, outcome, ids, values in message.settlements
            for identifier, value in zip(ids, values or [None] * len(ids), strict=True)
        ]

    def _progress(self, job: bytes) -> list[tuple[float | None, str]]:
        return [
            (fraction, text)
            for message in self.sent
            if isinstance(message, m.Progress)
            for _, identifier, fraction, text in message.entries
            if identifier == job
        ]

    def _until(self, look: Callable[[], T | None]) -> T:
        with self._came:
            assert self._came.wait_for(lambda: look() is not None, WAIT_S), self.sent
            found = look()
        assert found is not None
        return found

    # ---- as a transport

    def transport(self, session: Session) -> "ScriptedBroker":
        self._session = session
        session.connected(self.now())
        return self

    def now(self) -> float:
        return time.monotonic() * 1000

    def filenos(self) -> tuple[int, ...]:
        return ()

    @property
    def ready(self) -> bool:
        return bool(self._told) or (self._session is not None and self._session.pending)

    def turn(self) -> list[m.Message]:
        session, now = self._session, self.now()
        assert session is not None
        received: list[m.Message] = []
        while self._told:
            received += session.receive(encode(self._told.popleft()), now)
        for message in map(decode, session.outgoing(now)):
            with self._came:
                self.sent.append(message)
                self._came.notify_all()
            if isinstance(message, m.Hello):
                self.say(m.Welcome(1, b"broker", 1, {"probe_ms": 600_000}, []))
            elif isinstance(message, m.Settle):
                self.say(m.Ok([message.number]))
        return received

    def wait(self, timeout_ms: float) -> None:
        self._woken.wait(0 if self.ready else min(timeout_ms, TICK_MS) / 1000)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        return
