"""The topics that a session follows: what came of each and was not taken yet, and how much more may come.

It sends nothing and knows no time: the session that owns it queues what it asks for. The broker counts what a tail
takes; a number that is left out is something that did not arrive, and stands as a `Gap` between the others.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from zclient.errors import ZError
from zclient.protocol.messages import Publications, Told
from zclient.requests import CHANGE, Request

WINDOW = 10_000
"""Publications that the broker may tell beyond those that were taken: what comes in bursts, and a few MB at most."""

WINDOW_BYTES = 8 * 1024 * 1024
"""Likewise the bytes of their payloads."""

Ask = Callable[[tuple[Any, ...]], Request]
"""Queues a TAIL with this body."""


class Gap(NamedTuple):
    """So many publications did not arrive; ``until`` is the offset before which they were kept, 0 if nobody knows."""

    missed: int
    until: int


class Tail:
    """One pattern that is followed, on one connection."""

    __slots__ = (
        "_allowed",
        "_allowed_octets",
        "_asked",
        "_has_begun",
        "_octets",
        "_octets_taken",
        "_owner",
        "_queue",
        "error",
        "has_asked",
        "heard",
        "is_lost",
        "news",
        "number",
        "said",
    )

    def __init__(self, owner: "Tails", number: int, pattern: str, filters: list[Any]) -> None:
        self.number = number
        self.said = (pattern, filters)
        self.heard = 0
        """The position of what is to come next."""
        self.news = Request(CHANGE, ())
        """Ends when there is something new."""
        self.error: ZError | None = None
        self.is_lost = False
        """Its connection is gone: nothing comes any more, whatever the broker answers to what was asked there."""
        self.has_asked = False
        """It asked for more since somebody last looked: a turn would let that leave."""
        self._owner = owner
        self._asked: Request | None = None
        self._has_begun = False  # what it asked for before that has left
        self._queue: deque[Told | Gap] = deque()
        self._octets = 0  # heard, or told and lost
        self._octets_taken = 0
        self._allowed = 0
        self._allowed_octets = 0

    def next(self) -> "Told | Gap | None":
        """What came next, if something did. It allows more when half of the window was taken."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        if isinstance(item, Told):
            self._octets_taken += len(item.payload)
        little = self._allowed - self._taken < WINDOW // 2
        if not self.is_lost and (little or self._allowed_octets - self._octets_taken < WINDOW_BYTES // 2):
            self.allow()
        return item

    @property
    def _taken(self) -> int:
        return self.heard - len(self._queue)

    def allow(self) -> Request:
        """Allow a window beyond what was taken, and ask where the broker is. Its answer may be waited for or not."""
        self._allowed = self._taken + WINDOW
        self._allowed_octets = self._octets_taken + WINDOW_BYTES
        self._has_begun = self._is_known
        request = self._asked = self._owner.ask((self.number, *self.said, self._allowed, self._allowed_octets))
        self.has_asked = True
        request.on_done(self._on_allowed)
        return request

    @property
    def _is_known(self) -> bool:
        """Whether anything that it asked for has left: the broker may have told of it on that connection."""
        return self._has_begun or (self._asked is not None and self._asked.sent)

    def interrupt(self) -> None:
        """There is another connection. Where nothing has left before, it begins there."""
        if self._is_known:
            self.is_lost = True
            self.rouse()

    def leave(self) -> None:
        """Follow no longer. In any thread, and without the session's lock: it is noted, and done in its next turn."""
        self._owner.leaving.append(self)

    def _on_allowed(self, request: Request) -> None:
        if self.is_lost:
            return  # it began anew on another connection, where nobody waits for it
        if request.error is not None:
            self.error = request.error
            self.rouse()
            return
        told = request.value
        try:
            missed, octets = told["position"] - self.heard, told["octets"]
        except (KeyError, TypeError):
            return  # it is no longer followed
        lost = max(0, octets - self._octets)
        self._octets += lost
        self._octets_taken += lost
        if missed > 0:  # all that was told before this answer has arrived
            self.heard += missed
            self._queue.append(Gap(missed, told["offset"]))
            self.allow()
            self.rouse()

    def take(self, message: Publications) -> None:
        """What the broker tells of it, with a gap before it if something did not arrive. What is told on another
        connection than its own comes by the tail that is begun there."""
        if self.is_lost:
            return
        publications = message.publications
        missed = message.position - self.heard
        if missed > 0 and publications:
            self._queue.append(Gap(missed, publications[0].offset))
        self._queue.extend(publications)
        self.heard = message.position + len(publications)
        self._octets += sum(len(told.payload) for told in publications)
        self.rouse()

    def rouse(self) -> None:
        """Wake who waits."""
        waited_for, self.news = self.news, Request(CHANGE, ())
        waited_for.finish(None)


class Tails:
    """All that one session follows."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.leaving: deque[Tail] = deque()
        self._open: dict[int, Tail] = {}
        self._last = 0

    @property
    def pending(self) -> bool:
        """Whether somebody has left, and the broker is to be told."""
        return bool(self.leaving)

    def begin(self, pattern: str, filters: list[Any]) -> Tail:
        """A new one. Nothing comes before `Tail.allow`."""
        self._last += 1
        tail = self._open[self._last] = Tail(self, self._last, pattern, filters)
        return tail

    def say_left(self) -> None:
        """Tell the broker who has left."""
        while self.leaving:
            tail = self.leaving.popleft()
            if self._open.pop(tail.number, None) is not None:
                self.ask((tail.number, None, [], 0, 0))

    def interrupt(self) -> None:
        """There is another connection: the broker knows of none of them there."""
        for tail in self._open.values():
            tail.interrupt()

    def heard(self, message: Publications) -> bool:
        """What the broker tells; nothing if nobody follows it any more. It is never for the session's owner."""
        tail = self._open.get(message.tail)
        if tail is not None:
            tail.take(message)
        return False

    def clear(self) -> list[Request]:
        """Forget all; what was waited for."""
        waited_for = [tail.news for tail in self._open.values()]
        self._open.clear()
        return waited_for
