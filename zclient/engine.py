"""How a blocking client waits: whichever caller waits does the work for all; a thread of its own it has only for what
nobody waits for.

One *leader* at a time waits on the link, without the lock. The others wait for their own requests, and one of them
leads when the leader has what it came for. A caller that comes while another waits takes a turn itself, so that what it
sends leaves at once; among many it leaves that to the leader, which sends for all who came. An `Engine` belongs to one
process: a forked child needs its own.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from zclient.config import Config
from zclient.errors import ClosedError
from zclient.link import Transport
from zclient.outbox import Outbox, Parcel
from zclient.protocol.messages import Group
from zclient.requests import Request
from zclient.session import Session
from zclient.verbs import End, Feed, Procedure, Report, Step, Wait, advance

T = TypeVar("T")
Begin = Callable[[Session, float], Procedure[T]]

CROWD = 4
"""With so many callers waiting beside the leader, one that comes has the leader send for it: more may come meanwhile,
and leave in one message with it. Below that a turn of its own is quicker than waking another thread."""

BORED_S = 1.0
"""The thread of the outbox ends when nothing was sent without waiting for so long."""

_LONGEST_WAIT_S = 3600.0
"""A gate is waited at for at most this long at once; then the time is looked at again."""


class _Waiter:
    """A caller that waits for one of its requests: on the link if it leads, else at a gate, a lock that is taken."""

    __slots__ = ("fired", "gate", "transport")

    def __init__(self) -> None:
        self.gate: threading.Lock | None = None
        self.transport: Transport | None = None
        self.fired = False

    def fire(self, request: Request) -> None:
        """One of its requests ended. Called with the lock held, by whoever received the answer and then opens gates."""
        self.fired = True
        if self.transport is not None:
            self.transport.wake()

    def rouse(self) -> None:
        """Let it look again, if it waits at its gate."""
        if self.gate is not None and self.gate.locked():
            self.gate.release()


class Engine:
    """Runs procedures for any number of threads over one session and one link, which it opens at the first call."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._opened: tuple[Session, Transport] | None = None
        self._leading = False
        self._followers: dict[_Waiter, None] = {}
        self._closed = False
        self.outbox = Outbox()
        self._attendant: threading.Thread | None = None
        self._bored = _Waiter()  # the attendant, when it has nothing to do

    def run(
        self,
        begin: Begin[T],
        feed: Callable[[Feed], list[bytes]] | None = None,
        report: Callable[[int], Any] | None = None,
    ) -> T:
        """Run a procedure to its end. ``feed`` and ``report`` are the caller's, and run without the lock."""
        with self._lock:
            session, transport = self._open()
            procedure = begin(session, transport.now())
            try:
                step: Step | End[T] = advance(procedure)
                while not isinstance(step, End):
                    if isinstance(step, Wait):
                        self._wait(transport, step)
                        step = advance(procedure, transport.now())
                    else:
                        self._turn(transport)
                        failure, payloads = self._outside(step, feed, report)
                        self._turn(transport)
                        now = transport.now()
                        step = advance(procedure, (now, payloads) if isinstance(step, Feed) else now, failure)
                value: T = step.value
                return value
            finally:
                procedure.close()

    def take(self, group: Group, timeout_ms: float) -> tuple[Parcel, int]:
        """Put a job into the outbox, and see that somebody attends to it; waits only if the outbox is full."""
        with self._lock:
            session, transport = self._open()
            if not self.outbox.is_full:
                taken = self.outbox.add(session, group, transport.now(), timeout_ms)
                self._attend_to(transport)
                return taken
        taken = self.run(lambda session, now: self.outbox.adding(session, now, group, timeout_ms))
        with self._lock:
            if not self._closed:
                self._attend_to(transport)
        return taken

    def _attend_to(self, transport: Transport) -> None:
        """Something came into the outbox: its thread, or whoever leads, is to let it leave."""
        if self._attendant is None:
            self._attendant = threading.Thread(target=self._attend, name="zclient-outbox", daemon=True)
            self._attendant.start()
        elif self._leading:
            transport.wake()
        else:
            self._bored.rouse()

    def _attend(self) -> None:
        """The thread of the outbox: it works the connection while something is unconfirmed, and ends when it was bored
        for a while."""
        try:
            while True:
                self.run(self.outbox.attending)
                with self._lock:
                    if not self.outbox.parcels:
                        self._at_gate(self._bored, BORED_S)
                    if not self.outbox.parcels:
                        self._attendant = None  # with the lock: whoever comes next begins another one
                        return
        except ClosedError:
            return  # each of its jobs was told so
        except BaseException:
            with self._lock:
                self._attendant = None
            raise

    def nudge(self) -> None:
        """Let what was asked for without the lock leave, unless somebody is about to take a turn anyhow."""
        if self._lock.acquire(blocking=False):
            try:
                if self._opened is not None and not self._closed:
                    self._turn(self._opened[1])
            finally:
                self._lock.release()

    def close(self) -> None:
        """End every call with `ClosedError`, say goodbye, and close the link. Waits a moment at most."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._opened is None:
                return
            session, transport = self._opened
            session.fail_all(ClosedError())
            self.outbox.close(ClosedError())
            for follower in (*self._followers, self._bored):
                follower.rouse()
            transport.wake()
            while self._leading:
                self._idle.wait(_LONGEST_WAIT_S)
            session.goodbye()
            transport.close()

    def _open(self) -> tuple[Session, Transport]:
        if self._closed:
            raise ClosedError()
        if self._opened is None:
            self._opened = self._config.open()
        return self._opened

    def _outside(
        self,
        step: Feed | Report,
        feed: Callable[[Feed], list[bytes]] | None,
        report: Callable[[int], Any] | None,
    ) -> tuple[Exception | None, list[bytes]]:
        """Run the caller's code, without the lock; its error, or the payloads it brought."""
        self._lock.release()
        try:
            if isinstance(step, Report):
                if report is not None:
                    report(step.confirmed)
            elif feed is not None:
                return None, feed(step)
            return None, []
        except Exception as error:
            return error, []
        finally:
            self._lock.acquire()

    def _turn(self, transport: Transport) -> None:
        if self._closed:
            raise ClosedError()
        transport.turn()
        if self._leading and transport.ready:
            transport.wake()
        # Only now: whoever is let go wants the lock, and a turn lets the interpreter go again and again.
        self._let_go()

    def _wait(self, transport: Transport, step: Wait) -> None:
        """Return when one of the requests is done or the time is over; leads, or lets another lead, until then."""
        if self._leading and len(self._followers) >= CROWD:
            transport.wake()  # it sends what waits by then, together
        else:
            self._turn(transport)
        waiter = _Waiter()
        for request in step.requests:
            request.on_done(waiter.fire)
        try:
            while not waiter.fired and (left_ms := step.until_ms - transport.now()) > 0:
                if self._closed:
                    raise ClosedError()
                if self._leading:
                    self._follow(waiter, left_ms)
                else:
                    self._lead(transport, waiter, left_ms)
                    self._turn(transport)
        finally:
            for request in step.requests:
                request.forget(waiter.fire)
            self._let_go()
            if not self._leading and self._followers:
                next(iter(self._followers)).rouse()

    def _let_go(self) -> None:
        for follower in self._followers:
            if follower.fired:
                follower.rouse()
                break

    def _lead(self, transport: Transport, waiter: _Waiter, left_ms: float) -> None:
        self._leading = True
        waiter.transport = transport
        self._lock.release()
        try:
            transport.wait(left_ms)
        finally:
            self._lock.acquire()
            waiter.transport = None
            self._leading = False
            self._idle.notify_all()

    def _follow(self, waiter: _Waiter, left_ms: float) -> None:
        self._followers[waiter] = None
        try:
            self._at_gate(waiter, min(left_ms / 1000, _LONGEST_WAIT_S))
        finally:
            del self._followers[waiter]

    def _at_gate(self, waiter: _Waiter, seconds: float) -> None:
        """Wait without the lock until the waiter is roused, or for so long."""
        gate = waiter.gate = threading.Lock()
        gate.acquire()
        self._lock.release()
        try:
            gate.acquire(timeout=seconds)
        finally:
            self._lock.acquire()
            waiter.gate = None
