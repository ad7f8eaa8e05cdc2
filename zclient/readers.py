"""The streams that a session reads: what came of each and was not taken yet, and what is to be said to get more.

It owns how much of a stream may lie here: a window of values, and no more bytes are asked for above a bound. It sends
nothing and knows no time; the session says what is due, and locks.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from zclient.errors import ZError
from zclient.protocol.limits import MESSAGE_BYTES, STREAM_BYTES
from zclient.protocol.messages import Part, Read
from zclient.requests import CHANGE, Request

READ_AGAIN_MS = 5000
"""A reader that waits for so long says again what it has: what was on the way may be lost."""


class Restarted(NamedTuple):
    """Stands between the values of two runs: the one before is over, and ``values`` came of it."""

    values: int


class Reader:
    """One stream. ``end`` is the request for the job's end, ``next`` ends when there is something new.

    ``refusal`` says why the broker will have none of it.
    """

    __slots__ = (
        "_again",
        "_asked",
        "_fence",
        "_have",
        "_items",
        "_of",
        "_size",
        "_told_have",
        "_told_upto",
        "_unread",
        "_urgent",
        "_window",
        "end",
        "next",
        "refusal",
        "said_ms",
    )

    def __init__(self, of: "Readers", end: Request, window: int) -> None:
        self.end = end
        self.next = Request(CHANGE, ())
        self.refusal: ZError | None = None
        self.said_ms = 0.0
        self._of = of
        self._window = window
        self._items: deque[bytes | Restarted] = deque()
        self._size = 0  # bytes of the items
        self._fence = 0  # of the run that is read
        self._have = 0  # values of it that came, taken or not
        self._told_have = 0
        self._told_upto = 0
        self._unread = 0  # bytes that came since something was said
        self._urgent = True
        self._again = False
        self._asked = (-1, -1)  # where a gap was asked for

    @property
    def identifier(self) -> bytes:
        """The job's id."""
        identifier: bytes = self.end.body[0]
        return identifier

    # ---- its owner

    def take(self) -> bytes | Restarted | None:
        """The next encoded value, or that another run began; None if nothing is here now."""
        if not self._items:
            return None
        item = self._items.popleft()
        if isinstance(item, bytes):
            self._size -= len(item)
        self._of.look(self)
        return item

    def leave(self) -> None:
        """Read no longer: the job is cancelled. In any thread, without the session's lock: done in its next turn."""
        self._of.leaving.append(self)

    # ---- the session

    def receive(self, part: Part) -> None:
        """Take what is new of it. What came before, or is of an earlier run, is dropped; a gap is asked for."""
        if part.fence < self._fence:
            return
        if part.fence > self._fence:
            self._begin(part.fence)
        known = self._have - part.first
        if known < 0:
            if self._asked != (self._fence, self._have):
                self._asked = (self._fence, self._have)
                self._again = True
        else:
            for value in part.values[known:]:
                self._items.append(value)
                self._have += 1
                self._size += len(value)
                self._unread += len(value)
            self._urgent = self._urgent or part.last
        self._of.look(self)
        self.rouse()

    def _begin(self, fence: int) -> None:
        """There is another run than the one that was read, if any was."""
        if self._fence:
            self._told_upto, self._urgent = 0, True
        if self._have:
            self._items.append(Restarted(self._have))
        self._fence, self._have, self._told_have = fence, 0, 0

    def rouse(self) -> None:
        """Have who waits look again."""
        waited_for, self.next = self.next, Request(CHANGE, ())
        waited_for.finish(None)

    def say_again(self) -> None:
        """What was said, or what came, may be lost."""
        self._again = True
        self._of.look(self)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is here, so that its owner waits for more."""
        return not self._items

    @property
    def is_due(self) -> bool:
        """Whether it has something to say: that it wants more, that it has much of what came, or all. After the end
        it has not: were the job dead and replayed meanwhile, its next run would wait for this reader."""
        if self.end.done:
            return False
        if self._again:
            return True
        if self._size > STREAM_BYTES:
            return False  # what is not said to be here keeps more from coming
        return self._urgent or self._unread >= MESSAGE_BYTES or 2 * (self._upto - self._told_upto) >= self._window

    @property
    def _upto(self) -> int:
        if self._size > STREAM_BYTES:
            return max(self._told_upto, self._told_have)
        return max(self._told_upto, self._have + max(0, self._window - len(self._items)))

    def message(self, now: float) -> Read:
        """What it says now."""
        if self._size <= STREAM_BYTES:
            self._told_have = self._have
        self._told_upto = self._upto
        again, self._again = self._again, False
        self._urgent, self._unread, self.said_ms = False, 0, now
        return Read(self.identifier, self._fence, self._told_have, self._told_upto, again)


class Readers:
    """All streams that one session reads. ``leaving`` are those that their owners left."""

    def __init__(self) -> None:
        self.leaving: deque[Reader] = deque()
        self._readers: dict[bytes, Reader] = {}
        self._due: dict[Reader, None] = {}

    @property
    def pending(self) -> bool:
        """Whether there is something to say, or somebody has left."""
        return bool(self._due or self.leaving)

    def open(self, end: Request, window: int) -> Reader:
        """Begin to read the job that ``end`` waits for, at most ``window`` values ahead. Whoever reads it must
        `Reader.leave` it, or see its end and `forget` it."""
        reader = Reader(self, end, window)
        self._readers[reader.identifier] = reader
        self._due[reader] = None
        return reader

    def forget(self, reader: Reader) -> None:
        """It is over."""
        if self._readers.get(reader.identifier) is reader:
            del self._readers[reader.identifier]
        self._due.pop(reader, None)

    def left(self) -> Iterator[Reader]:
        """Take out those that were left and are not over."""
        while self.leaving:
            reader = self.leaving.popleft()
            if self._readers.get(reader.identifier) is reader:
                self.forget(reader)
                yield reader

    def look(self, reader: Reader) -> None:
        """Note whether it has something to say."""
        if reader.is_due and self._readers.get(reader.identifier) is reader:
            self._due[reader] = None

    def due(self, now: float) -> list[Read]:
        """What is to be said now."""
        due, self._due = self._due, {}
        return [reader.message(now) for reader in due if reader.is_due]

    def say_again(self, before_ms: float | None = None) -> None:
        """All say again what they have; or those that wait, and said nothing since."""
        for reader in self._readers.values():
            if before_ms is None or (reader.is_idle and reader.said_ms <= before_ms):
                reader.say_again()

    def receive(self, part: Part) -> bool:
        """Something came; nothing if nobody reads it any more. It is for nobody else: False."""
        reader = self._readers.get(part.id)
        if reader is not None:
            reader.receive(part)
        return False

    def refuse(self, error: ZError) -> bool:
        """A refusal that came without a number; whether it is about a stream that is read here."""
        identifier = str(error.details.get("id", "")).encode()
        reader = self._readers.get(identifier)
        if reader is not None:
            reader.refusal = error
            reader.rouse()
        return reader is not None
