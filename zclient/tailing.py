"""The procedure behind `tail`: what is published under a pattern, one after the other, kept before live.

It follows live first, and then reads what is kept up to where that began, so nothing falls between. After a lost
connection, or where the reader was too slow, it reads on from the last offset in the same way; what nobody kept is
gone, and the next publication says so. It outlives single calls, and runs as the procedures in `verbs` do.
"""

from collections import deque
from typing import Any

from zclient.errors import ProtocolFault, ZError
from zclient.protocol.messages import Told
from zclient.session import Session
from zclient.tails import Gap, Tail
from zclient.topics import Publication, log_page, publication_of
from zclient.verbs import Procedure, Wait, answered, storing

LOOK_AGAIN_MS = 5_000
"""How often a quiet tail asks the broker where it stands: what was told while the connection was full did not come."""

LOG_MS = 600_000
"""How long one page of what is kept may take, over lost connections too."""

FOREVER_MS = 10 * 366 * 86_400_000.0


class Tailing:
    """One caller who follows a pattern. ``since_ms``: where it begins in what is kept, 0 for the beginning; None: now.

    ``patience_ms`` is the longest time without a publication after which it ends, and ``timeout_ms`` the time to begin.
    """

    def __init__(
        self, pattern: str, filters: list[Any], since_ms: int | None, patience_ms: float, timeout_ms: float
    ) -> None:
        self._said = pattern, filters
        self._since_ms = since_ms
        self._patience_ms = patience_ms
        self._timeout_ms = timeout_ms
        self._session: Session | None = None
        self._tail: Tail | None = None
        self._ready: deque[Publication] = deque()
        self._next = 0  # the offset behind the last one that was told
        self._until = 0  # kept publications are to be read from there up to here
        self._known = 0  # what `forget_topic` removed at offsets before this one is told, or was gone when it began
        self._missed: int | None = 0  # before the next one
        self._is_kept = False
        self._saw_unkept = False
        self._is_beginning = False  # what is kept is being read for the first time

    def next(self, session: Session, now: float) -> Procedure[Publication | None]:
        """The next publication; None when none came in time."""
        until_ms = now + self._patience_ms
        while not self._ready:
            tail = self._tail
            if self._next < self._until:
                yield from self._read(session, now)
            elif tail is not None and (item := tail.next()) is not None:
                self._take(item)
                if tail.has_asked:  # let it leave, however much there is to take
                    tail.has_asked = False
                    now = yield Wait((), now)
            elif tail is None or tail.is_lost or self._session is not session:
                now = yield from self._begin(session, now, until_ms)
            elif tail.error is not None:
                raise tail.error.with_traceback(None)
            elif now >= until_ms:
                return None
            else:
                look_ms = now + LOOK_AGAIN_MS
                now = yield Wait((tail.news,), min(look_ms, until_ms))
                if now >= look_ms and not tail.is_lost:
                    tail.allow()
        return self._ready.popleft()

    def leave(self) -> None:
        """Follow no longer. It may be called in any thread, at any time."""
        if self._tail is not None:
            self._tail.leave()
            self._tail = None

    # ---- live

    def _begin(self, session: Session, now: float, until_ms: float) -> Procedure[float]:
        """Follow on the connection that is there, and note what is to be read before."""
        is_first = not self._next
        self.leave()
        self._session = session
        tail = self._tail = session.tails.begin(*self._said)
        try:
            patient_ms = now + self._timeout_ms if is_first else max(until_ms, now + self._timeout_ms)
            value = yield from answered(session, tail.allow(), min(patient_ms, now + FOREVER_MS))
        except ZError:
            self.leave()
            raise
        begun: float = yield Wait((), now)
        if tail.is_lost:
            return begun  # the connection was lost meanwhile
        was_kept = self._is_kept
        offset, self._is_kept = self._told(value)
        if not is_first:
            if not (was_kept and self._is_kept) or self._saw_unkept:
                self._missed = None
            self._until = offset
            if not self._is_kept:
                self._next = offset
        elif self._since_ms is not None:
            self._next, self._until = 1, offset
            self._is_beginning = True
        else:
            self._next = self._until = offset
        if is_first:
            self._known = offset
        return begun

    @staticmethod
    def _told(value: Any) -> tuple[int, bool]:
        """From the answer to TAIL: the offset of what is kept next, and whether anything is."""
        try:
            return int(value["offset"]), bool(value["kept"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolFault(f"the answer to TAIL cannot be read: {type(error).__name__} {error}") from None

    def _take(self, item: Told | Gap) -> None:
        """What came live. A gap is read from what is kept, before what came behind it."""
        if isinstance(item, Gap):
            if self._missed is not None:
                self._missed += item.missed
            if self._is_kept and item.until:
                self._until = item.until
            return
        if item.offset and item.offset < self._next:
            return  # it was read from what is kept
        if not item.offset:
            self._saw_unkept = True
        self._tell(item)

    def _tell(self, told: Told, *, is_read: bool = False) -> None:
        missed = self._missed
        if is_read and missed:  # it is one of those that did not arrive
            self._missed = missed - 1
            missed = 0
        else:
            self._missed = 0
        self._ready.append(publication_of(told, missed))
        if told.offset:
            self._next = told.offset + 1

    # ---- kept

    def _read(self, session: Session, now: float) -> Procedure[None]:
        """One page of what is kept."""
        is_first = self._is_beginning and self._next == 1
        verb = log_page(*self._said, self._next, self._since_ms or 0, self._until)
        value = yield from storing(session, now, lambda now: session.ask(verb.name, verb.arguments, now), LOG_MS)
        try:
            page = verb.decode(value)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolFault(f"kept publications cannot be read: {type(error).__name__} {error}") from None
        is_removed = page.removed >= max(self._known, self._next)
        if is_removed or (page.forgotten and not is_first):  # what was forgotten before it began is no gap
            self._missed = None
        self._known = max(self._known, page.removed + 1)
        for told in page.publications:
            self._tell(told, is_read=True)
        self._next = self._until if page.next is None else page.next
        if self._next >= self._until:
            self._is_beginning = False
