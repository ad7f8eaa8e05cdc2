"""What `send_nowait` took and the broker has not confirmed yet: bounded, followed to its end, and told at `flush`.

An `Outbox` puts each job through the session, tries again where a refusal says when, gives up when a job's time is
over, and keeps the failures that nobody was told. It waits for nothing itself: `attending` is the procedure that its
owner runs while there is something in it. All of it is called with the owner's lock held.
"""

from heapq import heapify, heappop, heappush
from typing import Any

from zclient.errors import AnswerTimeout, ProtocolFault, Refused, ZError
from zclient.protocol.messages import Group
from zclient.requests import Request
from zclient.session import Session
from zclient.verbs import LAST_TRY_MS, Procedure, Wait, instead_of

MAX_JOBS = 10_000
"""Jobs of one client that may be unconfirmed; with more, `send_nowait` waits."""

MAX_BYTES = 32 << 20
"""Payload bytes of them, likewise; one job may be larger."""

MAX_FAILURES = 1000
"""Failures that are kept until `flush` tells the first of them; more are only counted."""


class Entry:
    """A job on its way. ``request`` is None while it waits for another try."""

    __slots__ = ("again_ms", "done", "error", "existing", "group", "outbox", "request", "session", "told", "until_ms")

    def __init__(self, outbox: "Outbox", session: Session, group: Group, until_ms: float) -> None:
        self.outbox = outbox
        self.session = session
        self.group = group
        self.until_ms = until_ms
        self.again_ms = 0.0
        self.request: Request | None = None
        self.done = False
        self.error: ZError | None = None
        self.told = False  # whoever sent it knows of its failure
        self.existing: bytes | None = None  # the job that has its unique text, if that one stands in its place

    @property
    def identifier(self) -> bytes:
        """The id under which the job is stored, once it is."""
        return self.existing or self.group.ids[0]

    def put(self, now: float) -> None:
        """Hand it to the session."""
        self.request = self.session.put([self.group], now)
        self.request.on_done(self._ended)

    def _ended(self, request: Request) -> None:
        pause = request.error.retry_after if isinstance(request.error, Refused) else None
        if pause is not None:
            self.again_ms = min(request.last_sent_ms + pause * 1000, self.until_ms - LAST_TRY_MS)
            if self.again_ms > request.last_sent_ms:
                self.request = None
                self.outbox.look_at(self, self.again_ms)
                return
        self.error = request.error
        if self.error is None:
            try:
                self.existing = instead_of(request.value).get(self.group.ids[0])
            except ProtocolFault as fault:
                self.error = fault
        self.done = True
        self.outbox.leave(self)


class Outbox:
    """The unconfirmed jobs of one client in one process."""

    def __init__(self) -> None:
        self.entries: dict[Entry, None] = {}  # in the order in which they came
        self.size = 0  # payload bytes of them
        self._looks: list[tuple[float, int, Entry]] = []  # a heap: when to look at which
        self._looked = 0
        self._failed: list[Entry] = []
        self._more_failed = 0

    @property
    def is_full(self) -> bool:
        """Whether one more has to wait."""
        return len(self.entries) >= MAX_JOBS or (self.size >= MAX_BYTES and bool(self.entries))

    def add(self, session: Session, group: Group, now: float, timeout_ms: float) -> Entry:
        """Take a job and hand it to the session."""
        entry = Entry(self, session, group, now + timeout_ms)
        self.entries[entry] = None
        self.size += len(group.payloads[0])
        self.look_at(entry, entry.until_ms)
        entry.put(now)
        return entry

    def look_at(self, entry: Entry, at_ms: float) -> None:
        """Look at the entry then, for its next try or its end."""
        if len(self._looks) > 2 * len(self.entries) + 100:
            self._looks = [look for look in self._looks if not look[2].done]
            heapify(self._looks)
        self._looked += 1
        heappush(self._looks, (at_ms, self._looked, entry))

    def leave(self, entry: Entry) -> None:
        """The entry is done."""
        del self.entries[entry]
        self.size -= len(entry.group.payloads[0])
        if entry.error is None:
            return
        if len(self._failed) < MAX_FAILURES:
            self._failed.append(entry)
        else:
            self._more_failed += 1

    def raise_failure(self) -> None:
        """Raise the first failure that nobody was told, and forget the others; the error says how many they were."""
        errors = [entry.error for entry in self._failed if entry.error is not None and not entry.told]
        others = len(errors) - 1 + self._more_failed
        self._failed.clear()
        self._more_failed = 0
        if not errors:
            return
        error = errors[0]
        if others:
            error.add_note(f"{others} other jobs of send_nowait failed as well")
        raise error.with_traceback(None)

    def close(self, error: ZError) -> None:
        """End those that wait for another try; the session ends the others."""
        for entry in [entry for entry in self.entries if entry.request is None]:
            entry.error, entry.done = error, True
            self.leave(entry)

    # ---- procedures

    def attending(self, session: Session, now: float) -> Procedure[None]:
        """Work until nothing is unconfirmed."""
        while self.entries:
            self._look(now)
            first = next((entry.request for entry in self.entries if entry.request is not None), None)
            if self.entries:
                now = yield Wait((first,) if first is not None else (), self._looks[0][0])

    def adding(self, session: Session, now: float, group: Group, timeout_ms: float) -> Procedure[Entry]:
        """Add a job as soon as there is room; that time counts as the job's own. It fails like any other if the time is
        over before."""
        until_ms = now + timeout_ms
        while self.is_full and now < until_ms:
            now = yield self._any(until_ms)
        return self.add(session, group, now, max(until_ms - now, 0.0))

    def emptying(self, session: Session, now: float, timeout_ms: float) -> Procedure[None]:
        """Wait until all that is in it now is done, and raise the first failure that nobody was told; `AnswerTimeout`
        if the end of some is not known in time."""
        until_ms = now + timeout_ms
        asked = list(self.entries)
        for entry in asked:
            while not entry.done and now < until_ms:
                now = yield self._of(entry, until_ms)
        self.raise_failure()
        if not all(entry.done for entry in asked):
            raise AnswerTimeout(f"{len(self.entries)} jobs are not confirmed yet; they are still under way")

    def ending(self, session: Session, now: float, entry: Entry, timeout_ms: float) -> Procedure[bool]:
        """Wait until this one is done; whether that came in time."""
        until_ms = now + timeout_ms
        while not entry.done and now < until_ms:
            now = yield self._of(entry, until_ms)
        return entry.done

    def _any(self, until_ms: float) -> Wait:
        return self._of(next(iter(self.entries)), until_ms)

    @staticmethod
    def _of(entry: Entry, until_ms: float) -> Wait:
        if entry.request is None:
            return Wait((), min(until_ms, entry.again_ms + 1))
        return Wait((entry.request,), until_ms)

    def _look(self, now: float) -> None:
        """Try again what is to be tried again by now, give up what has no time left."""
        while self._looks and self._looks[0][0] <= now:
            entry: Any = heappop(self._looks)[2]
            if entry.done:
                continue
            if entry.request is None:
                entry.put(now)
            elif now >= entry.until_ms:
                entry.session.give_up(entry.request)
