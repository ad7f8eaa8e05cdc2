"""What `send_nowait` took and the broker has not confirmed yet: bounded, followed to its end, and told at `flush`.

An `Outbox` puts each job through the session, tries again where a refusal says when, gives up when a job's time is
over, and keeps the failures that nobody was told. Jobs that come while the link is busy share a `Parcel`, and so a PUT
and its answer: a job is then two entries of lists, nothing that a garbage collector has to look at. One that has no
answer but a refusal comes apart, as the refusal of one job is not that of the others.

It waits for nothing itself: `attending` is the procedure that its owner runs while there is something in it. All of it
is called with the owner's lock held.
"""

import math
from collections.abc import Generator
from heapq import heapify, heappop, heappush
from typing import Any

from zclient.errors import AnswerTimeout, ClosedError, OutcomeUnknown, ProtocolFault, Refused, ZError
from zclient.gathering import GATHER_BYTES, GATHER_JOBS, TRAVEL_ALONE, alike
from zclient.protocol.messages import Group
from zclient.requests import CHANGE, PUT, Request
from zclient.session import Session
from zclient.verbs import LAST_TRY_MS, Procedure, Wait, instead_of

MAX_JOBS = 10_000
"""Jobs of one client that may be unconfirmed; with more, `send_nowait` waits."""

MAX_BYTES = 32 << 20
"""Payload bytes of them, likewise; one job may be larger."""

MAX_FAILURES = 1000
"""Failures that are kept until `flush` tells the first of them: the oldest, and the newest. Others are only counted."""

SHARED_MS = 100.0
"""Jobs whose time is over within so long of each other may share a parcel; it is given up when the last one's is."""


class Parcel:
    """Jobs of one queue with the same options that are on their way together. ``request`` is None while it waits for
    another try, and ``error`` is then why. One that came ``apart`` is nothing any more but those that it came apart
    into, in its order. When it is done its payloads are let go: who sent a job may keep its handle for long."""

    __slots__ = (
        "again_ms",
        "apart",
        "done",
        "error",
        "existing",
        "first_until_ms",
        "group",
        "outbox",
        "request",
        "session",
        "size",
        "told",
        "until_ms",
    )

    def __init__(self, outbox: "Outbox", session: Session, group: Group, until_ms: float) -> None:
        self.outbox = outbox
        self.session = session
        self.group = group
        self.size = len(group.payloads[0])
        self.first_until_ms = self.until_ms = until_ms
        self.again_ms = 0.0
        self.request: Request | None = None
        self.apart: list[Parcel] | None = None
        self.done = False
        self.error: ZError | None = None
        self.told = False  # whoever sent it knows of its failure
        self.existing: bytes | None = None  # the job that has its unique text, if that one stands in its place

    def of(self, position: int) -> "Parcel":
        """The parcel that the job at this position travels in by now."""
        return self if self.apart is None else self.apart[position]

    def identifier(self, position: int) -> bytes:
        """The id under which the job is stored, once it is."""
        return self.of(position).existing or self.group.ids[position]

    def may_take(self, group: Group, until_ms: float) -> bool:
        """Whether a job may travel with these: nothing of it was seen yet, and nothing of the job is judged apart."""
        request, ours = self.request, self.group
        return (
            request is not None
            and request.queued
            and not (request.number or request.alone)
            and alike(ours, group)
            and len(ours.ids) < GATHER_JOBS
            and self.size < GATHER_BYTES
            and 0 <= until_ms - self.first_until_ms < SHARED_MS
            and TRAVEL_ALONE.isdisjoint(group.options)
        )

    def put(self, now: float) -> None:
        """Hand it to the session."""
        self.request = self.session.put([self.group], now)
        self.request.on_done(self._ended)

    def _ended(self, request: Request) -> None:
        error = request.error
        if error is not None and len(self.group.ids) > 1:
            self._come_apart(error, request.last_sent_ms)
            return
        pause = error.retry_after if isinstance(error, Refused) else None
        if pause is not None:
            self.again_ms = min(request.last_sent_ms + pause * 1000, self.until_ms - LAST_TRY_MS)
            if self.again_ms > request.last_sent_ms:
                self.request, self.error = None, error
                self.outbox.look_at(self, self.again_ms)
                return
        if error is None:
            try:
                self.existing = instead_of(request.value).get(self.group.ids[0])
            except ProtocolFault as fault:
                error = fault
        self.end(error)

    def end(self, error: ZError | None) -> None:
        """What became of it is known."""
        self.request, self.error = None, error
        self.done = True
        self.outbox.leave(self)
        self.group.payloads.clear()

    def _come_apart(self, error: ZError, now: float) -> None:
        """Send each job alone, if the broker refused them together; else each has failed, as what it is."""
        queue, options, ids, payloads = self.group
        apart: list[Parcel] = []
        for identifier, payload in zip(ids, payloads, strict=True):
            group = Group(queue, options, [identifier], [payload])
            one = self.outbox.enter(Parcel(self.outbox, self.session, group, self.until_ms))
            apart.append(one)
            if isinstance(error, Refused):
                one.put(now)
                if one.request is not None:
                    one.request.alone = True
            elif isinstance(error, OutcomeUnknown):
                one.end(Request(PUT, ([group],)).unanswered(str(error)))
            else:
                one.end(error)
        self.apart = apart  # as a whole: handles look at it in any thread, without the lock
        self.end(None)


class Outbox:
    """The unconfirmed jobs of one client in one process."""

    def __init__(self) -> None:
        self.parcels: dict[Parcel, None] = {}  # in the order in which they came
        self.jobs = 0
        self.size = 0  # payload bytes of them
        self._newest: Parcel | None = None
        self._looks: list[tuple[float, int, Parcel]] = []  # a heap: when to look at which
        self._looked = 0
        self._news = Request(CHANGE, ())  # ends when it is empty, has room again, or has an earlier look
        self._failed: list[Parcel] = []
        self._more_failed = 0

    @property
    def is_full(self) -> bool:
        """Whether one more has to wait."""
        return self.jobs >= MAX_JOBS or (self.size >= MAX_BYTES and self.jobs > 0)

    def add(self, session: Session, group: Group, now: float, timeout_ms: float) -> tuple[Parcel, int]:
        """Take a job and hand it to the session; the parcel that it travels in, and its position there."""
        until_ms = now + timeout_ms
        newest = self._newest
        if newest is not None and newest.may_take(group, until_ms):
            identifier, payload = group.ids[0], group.payloads[0]
            newest.group.ids.append(identifier)
            newest.group.payloads.append(payload)
            newest.until_ms = max(newest.until_ms, until_ms)
            newest.size += len(payload)
            self.jobs += 1
            self.size += len(payload)
            return newest, len(newest.group.ids) - 1
        self._newest = parcel = self.enter(Parcel(self, session, group, until_ms))
        parcel.put(now)
        return parcel, 0

    def enter(self, parcel: Parcel) -> Parcel:
        """Count it, and look at it when its time is over."""
        self.parcels[parcel] = None
        self.jobs += len(parcel.group.ids)
        self.size += parcel.size
        self.look_at(parcel, parcel.until_ms)
        return parcel

    def look_at(self, parcel: Parcel, at_ms: float) -> None:
        """Look at the parcel then, for its next try or its end."""
        if len(self._looks) > 2 * len(self.parcels) + 100:
            self._looks = [look for look in self._looks if not look[2].done]
            heapify(self._looks)
        self._looked += 1
        if self._looks and at_ms < self._looks[0][0]:
            self._rouse()
        heappush(self._looks, (at_ms, self._looked, parcel))

    def leave(self, parcel: Parcel) -> None:
        """The parcel is done."""
        was_full = self.is_full
        del self.parcels[parcel]
        self.jobs -= len(parcel.group.ids)
        self.size -= parcel.size
        if parcel is self._newest:
            self._newest = None
        if not self.parcels or (was_full and not self.is_full):
            self._rouse()
        if parcel.error is None:
            return
        failed = self._failed
        if len(failed) >= MAX_FAILURES and self._more_failed % MAX_FAILURES == 0:  # not with each: it costs a pass
            failed[:] = [one for one in failed if not one.told]
        if len(failed) >= MAX_FAILURES:
            self._more_failed += not failed.pop().told
        failed.append(parcel)

    def _rouse(self) -> None:
        """Wake those who wait for room, or for the next look."""
        waited_for, self._news = self._news, Request(CHANGE, ())
        waited_for.finish(None)

    def raise_failure(self) -> None:
        """Raise the first failure that nobody was told, and forget the others; the error says how many they were."""
        errors = [parcel.error for parcel in self._failed if parcel.error is not None and not parcel.told]
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
        for parcel in [parcel for parcel in self.parcels if parcel.request is None]:
            parcel.end(error)

    # ---- procedures

    def attending(self, session: Session, now: float) -> Procedure[None]:
        """Work until nothing is unconfirmed."""
        while self.parcels:
            self._look(now)
            if self.parcels:
                now = yield self._next_news(math.inf)

    def adding(self, session: Session, now: float, group: Group, timeout_ms: float) -> Procedure[tuple[Parcel, int]]:
        """Add a job as soon as there is room; that time counts as the job's own. It fails like any other if the time is
        over before."""
        until_ms = now + timeout_ms
        while self.is_full and now < until_ms:
            now = yield self._next_news(until_ms)
            self._look(now)
        return self.add(session, group, now, max(until_ms - now, 0.0))

    def emptying(self, session: Session, now: float, timeout_ms: float) -> Procedure[None]:
        """Wait until all that is in it now is done, and raise the first failure that nobody was told; `AnswerTimeout`
        if the end of some is not known in time."""
        until_ms = now + timeout_ms
        asked = list(self.parcels)
        ended = True
        for parcel in asked:
            now, came = yield from self._ending(parcel, now, until_ms)
            for one in parcel.apart or ():
                now, alone = yield from self._ending(one, now, until_ms)
                came = came and alone
            ended = ended and came
        self.raise_failure()
        if not ended:
            raise AnswerTimeout(f"{self.jobs} jobs are not confirmed yet; they are still under way")

    def ending(self, session: Session, now: float, parcel: Parcel, position: int, timeout_ms: float) -> Procedure[bool]:
        """Wait until the job at this position of the parcel is done; whether that came in time. `ClosedError` elsewhere
        than where it was sent: nobody there would hear of it."""
        if parcel.session is not session:
            raise ClosedError("a job is waited for where it was sent: with that client, in that process and event loop")
        until_ms = now + timeout_ms
        now, _ = yield from self._ending(parcel, now, until_ms)
        _, came = yield from self._ending(parcel.of(position), now, until_ms)
        return came

    def _ending(self, parcel: Parcel, now: float, until_ms: float) -> Generator[Any, Any, tuple[float, bool]]:
        while not parcel.done and now < until_ms:
            if parcel.request is None:
                now = yield Wait((), min(until_ms, parcel.again_ms))
                self._look(now)
            else:
                now = yield Wait((parcel.request,), until_ms)
        return now, parcel.done

    def _next_news(self, until_ms: float) -> Wait:
        return Wait((self._news,), min(until_ms, self._looks[0][0]))

    def _look(self, now: float) -> None:
        """Try again what is to be tried again by now, give up what has no time left. Whoever waits for that does it:
        the others may come later than he."""
        while self._looks and self._looks[0][0] <= now:
            parcel = heappop(self._looks)[2]
            if parcel.done:
                continue
            if parcel.request is None:
                if now < parcel.until_ms:
                    parcel.put(now)
                else:
                    parcel.end(parcel.error)
            elif now >= parcel.until_ms:
                parcel.session.give_up(parcel.request)
            else:  # others joined it, or it is looked at again for its end
                self.look_at(parcel, parcel.until_ms)
