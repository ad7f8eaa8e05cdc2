"""A worker session together with its connection: what a `Worker` and a `Consumer` have in common.

It owns the pass over both (settle, receive, send), the wishes of other threads to it, and the end of an incarnation. It
has no thread: whoever calls `turn` lends one, one at a time.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zclient.config import OpenTransport, process_info, process_name
from zclient.errors import AnswerTimeout, ClosedError, InvalidArgument, LeaseLost, UnsupportedVersion, ZError
from zclient.link import Link, check_endpoints
from zclient.protocol.limits import INCARNATION_BYTES, MAX_CAPACITY, MAX_NAME_CHARS
from zclient.requests import EXTEND, Request
from zworker.job import Job
from zworker.logs import log
from zworker.partials import Partials
from zworker.session import Entry, WorkerSession

PATIENCE_MS = 2000
"""A worker that no broker answers says so once, after this long, and tries on."""

_FOREVER = float("inf")


class Station:
    """One incarnation of a worker and its connection.

    ``nudge`` is called, from any thread, when a turn is wanted. ``ready`` is set when the broker first heard of it.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        queues: Sequence[str],
        capacity: int,
        name: str | None,
        credentials: Any,
        transport: OpenTransport | None,
        nudge: Callable[[], None] | None = None,
        ready: threading.Event | None = None,
        tasks: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        if not 0 < capacity <= MAX_CAPACITY:
            raise InvalidArgument(f"a worker holds 1 to {MAX_CAPACITY} jobs at once, not {capacity}")
        if name is not None and not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidArgument(f"a name has 1 to {MAX_NAME_CHARS} characters, not {len(name)}")
        self.session = WorkerSession(
            os.urandom(INCARNATION_BYTES),
            owner=self,
            name=process_name() if name is None else name,
            info=process_info(),
            capacity=capacity,
            queues=queues,
            tasks=tasks,
        )
        if transport is not None:
            self.transport = transport(self.session.session)
        else:
            self.transport = Link(self.session.session, check_endpoints(endpoints), credentials=credentials)
        self.nudge = self.transport.wake if nudge is None else nudge
        self.where = endpoints if isinstance(endpoints, str) else " or ".join(endpoints)
        self.ready = ready or threading.Event()
        self.closed = False
        self._welcomed = False
        self._complain_at = self.transport.now() + PATIENCE_MS
        self._refusal = ""
        self._refused = 0
        self._asked = 0
        self._append = self.session.settled.append
        self._pid = os.getpid()
        self._wishes: deque[tuple[Callable[[float], Request], Callable[[Request], None]]] = deque()

    def check_process(self) -> None:
        """Raises `ClosedError` in a forked child, whose parent has the connection."""
        if os.getpid() != self._pid:
            raise ClosedError("this process was forked from the one that connected: make a new worker or consumer here")

    # ---- the owner of jobs; from any thread

    def settled(self, entry: Entry) -> None:
        """Take note of an outcome; it leaves with the next turn. `ClosedError` in a forked child."""
        if os.getpid() != self._pid:
            self.check_process()
        self._append(entry)
        self.nudge()

    def extend(self, job: Job, duration_ms: int, timeout_s: float) -> None:
        """Ask for a longer lease and wait for the answer; the loop's thread must be another one."""
        try:
            self._answer_to(lambda now: self.session.extend(job, duration_ms, now), timeout_s)
        except LeaseLost:
            job.lease_lost = True
            raise
        except AnswerTimeout as late:
            raise AnswerTimeout(f"{late}; renewal goes on as before") from None

    def ask(self, verb: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Ask the broker something and wait for the answer; likewise."""
        return self._answer_to(lambda now: self.session.session.ask(verb, arguments, now), timeout_s)

    def _answer_to(self, wish: Callable[[float], Request], timeout_s: float) -> Any:
        self.check_process()
        answered = threading.Event()
        answer: list[Request] = []

        def done(request: Request) -> None:
            self._asked -= 1
            answer.append(request)
            answered.set()

        self._wishes.append((wish, done))
        if self.closed:
            raise ClosedError("the worker is closed")
        self.nudge()
        if not answered.wait(timeout_s):
            raise AnswerTimeout(f"the broker did not answer within {timeout_s:g} s")
        if answer[0].error is not None:
            raise answer[0].error
        return answer[0].value

    def progress(self, job: Job, fraction: float | None, text: str) -> None:
        """Take note of how far a job is; it leaves soon. `ClosedError` in a forked child."""
        self.check_process()
        if self.session.report(job, fraction, text):
            self.nudge()

    def partials(self, job: Job) -> Partials:
        """What a job's run yields for its reader. `ClosedError` in a forked child."""
        self.check_process()
        return self.session.partials(job)

    # ---- the loop; from one thread at a time

    def turn(self, now: float) -> list[Job]:
        """One pass: send what is settled and due, take what came; returns the new jobs."""
        session = self.session
        while self._wishes:
            wish, done = self._wishes.popleft()
            self._asked += 1
            wish(now).on_done(done)
        session.tick(now)
        if session.settled:
            session.flush(now)
        messages = self.transport.turn()
        return session.receive(messages, now) if messages else []

    @property
    def has_more(self) -> bool:
        """Whether a turn would have something new to send."""
        return bool(self.session.settled or self._wishes) or self.progress_in_ms <= 0

    @property
    def progress_in_ms(self) -> float:
        """How long until there is progress to send; infinite if there is none."""
        due_ms = self.session.progress_due_ms
        return due_ms if due_ms == _FOREVER else due_ms - self.transport.now()

    @property
    def is_asking(self) -> bool:
        """Whether somebody waits for the broker's answer."""
        return self._asked > 0

    def notice(self) -> None:
        """Log what changed between the broker and this worker. Raises `UnsupportedVersion`: time does not heal it."""
        session = self.session
        welcomed = session.session.welcomed
        if welcomed != self._welcomed:
            self._welcomed = welcomed
            if welcomed:
                self._refusal = ""
                event = "reconnected" if self.ready.is_set() else "ready"
                queues = ",".join(session.session.queues)
                log(logging.INFO, event, name=session.session.name, queues=queues, capacity=session.session.capacity)
                self.ready.set()
            else:
                log(logging.WARNING, "connection lost", held=session.unsettled, reason=session.closing)
        if not welcomed and not self.ready.is_set() and self.transport.now() >= self._complain_at:
            self._complain_at = float("inf")
            log(logging.WARNING, "no broker yet", endpoints=self.where)
        refusal = self.refusal
        if refusal is not None and str(refusal) != self._refusal:
            self._refusal = str(refusal)
            log(logging.ERROR, "refused by the broker", code=refusal.code, reason=str(refusal))
        if isinstance(refusal, UnsupportedVersion):
            raise refusal
        if session.refused != self._refused:
            log(logging.WARNING, "settlements came too late", count=session.refused - self._refused)
            self._refused = session.refused
        while session.faults:
            error = session.faults.pop()
            log(logging.ERROR, "settlement not taken", code=error.code, reason=str(error))

    def settle_all(self, within_ms: float) -> bool:
        """Send all that is settled and take the answers; whether they came in time."""
        now = self.transport.now()
        until = now + within_ms
        while True:
            self.turn(now)
            if not self.session.unanswered and not self.session.settled:
                return True
            now = self.transport.now()
            if now >= until:
                return False
            self.transport.wait(until - now)
            now = self.transport.now()

    def close(self, within_ms: float) -> None:
        """Give back what is not settled, say goodbye, and end the connection. A forked child only forgets it."""
        if self.closed:
            return
        self.closed = True
        if os.getpid() == self._pid:
            session = self.session
            session.set_capacity(0)
            session.release(session.jobs)
            self.settle_all(within_ms if session.session.welcomed else 0)
            session.goodbye()
            session.session.fail_all(ClosedError("the worker is closed"))
            self._end_wishes()
        self.transport.close()

    def _end_wishes(self) -> None:
        while self._wishes:
            self._asked += 1
            request = Request(EXTEND, ())
            request.finish(None, ClosedError("the worker is closed"))
            self._wishes.popleft()[1](request)

    @property
    def refusal(self) -> ZError | None:
        """Why the broker does not have this worker; None if it does, or has not answered."""
        return self.session.session.refusal
