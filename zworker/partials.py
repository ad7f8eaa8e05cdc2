"""What running handlers yielded, and what of it their readers do not have yet: kept, sent, and sent again.

It owns the room that a reader gives: no handler goes on beyond it. Handlers put in from their own threads or event
loop; the session sends and hears of the reader, from one thread at a time. It sends nothing itself.
"""

import threading
from collections import deque
from collections.abc import Callable
from itertools import islice

from zclient.protocol import messages as m
from zclient.protocol.limits import MAX_STREAM_WINDOW, MESSAGE_BYTES, STREAM_BYTES
from zworker.job import Job


class Partials:
    """The partials of one run that its reader does not have. ``due`` is called when there is something to send.

    ``changed`` is its lock, and tells a thread that there may be room, or that the run should end.
    """

    def __init__(self, job: Job, due: "Callable[[Partials], None]") -> None:
        self.job = job
        self.changed = threading.Condition()
        self._due = due
        self._kept: deque[bytes] = deque()
        self._first = 0  # the number of the oldest that is kept; the reader has those before
        self._size = 0  # bytes kept
        self._sent = 0  # those before were sent on this connection
        self._upto = 0  # the reader may be sent those before
        self._last = False  # there will be no more
        self._last_sent = False
        self._over = False  # the reader gets no more: what comes is dropped
        self._on_change: Callable[[], None] | None = None

    # ---- the handler

    def offer(self, value: bytes) -> bool:
        """Keep an encoded value and have it sent, if there is room: if the reader wants it, and has nearly all before.
        Else it does nothing; `changed` tells when to try again."""
        with self.changed:
            if self._over:
                return True
            number = self._first + len(self._kept)
            if number >= self._upto or (self._kept and self._size + len(value) > STREAM_BYTES):
                return False
            self._kept.append(value)
            self._size += len(value)
        self._due(self)
        return True

    def end(self) -> bool:
        """There is no more; whether the reader has all. `changed` tells when to ask again."""
        with self.changed:
            is_told, self._last = self._last, True
            if self._over or not self._kept:
                return True
        if not is_told:
            self._due(self)
        return False

    def on_change(self, callback: Callable[[], None] | None) -> None:
        """Have ``callback`` called, with the lock held, whenever `changed` tells; for an event loop."""
        with self.changed:
            self._on_change = callback

    def wake(self) -> None:
        """Have the handler's side look again: there may be room, or its run should end."""
        with self.changed:
            self.changed.notify_all()
            if self._on_change is not None:
                self._on_change()

    # ---- the session

    def flow(self, have: int, upto: int, *, again: bool) -> None:
        """The reader has those before ``have``, and may be sent those before ``upto``; ``again``: the others may be
        lost."""
        with self.changed:
            while self._kept and self._first < have:
                self._size -= len(self._kept.popleft())
                self._first += 1
            self._upto = max(self._upto, upto)
            self._sent = max(self._sent, self._first)
            if again:
                self._sent, self._last_sent = self._first, False
            is_due = again and bool(self._kept)
        if is_due:
            self._due(self)
        self.wake()

    def close(self) -> None:
        """The job is settled or lost: nobody is sent anything more of it, and nobody waits for that."""
        with self.changed:
            self._over = True
            self._kept.clear()
        self.wake()

    def take(self) -> list[m.Partial]:
        """What is to be sent now, in messages of bounded size; the value that crosses it is the last of its message."""
        with self.changed:
            values = list(islice(self._kept, self._sent - self._first, None))
            ends = self._last and not self._last_sent and bool(self._kept)
            number, self._sent = self._sent, self._first + len(self._kept)
            self._last_sent = self._last_sent or ends
        messages: list[m.Partial] = []
        part: list[bytes] = []
        size = 0
        for value in values:
            part.append(value)
            size += len(value)
            if size >= MESSAGE_BYTES or len(part) >= MAX_STREAM_WINDOW:
                messages.append(m.Partial(self.job.fence, self.job.identifier, number, part, False))
                number += len(part)
                part, size = [], 0
        if part or (ends and not messages):
            messages.append(m.Partial(self.job.fence, self.job.identifier, number, part, False))
        if ends:
            messages[-1] = messages[-1]._replace(last=True)
        return messages


class Streams:
    """The partials of all runs of one worker whose jobs have readers. ``nudge`` of a job's owner is called when there
    is something to send."""

    def __init__(self) -> None:
        self._of: dict[Job, Partials] = {}
        self._due: dict[Partials, None] = {}
        self._announced = False

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def is_due(self) -> bool:
        """Whether there is something to send."""
        return bool(self._due)

    def of(self, job: Job) -> Partials:
        """The partials of a job's run, made when they are first asked for; from any thread."""
        partials = self._of.get(job)
        return partials if partials is not None else self._of.setdefault(job, Partials(job, self._has_more))

    def _has_more(self, partials: Partials) -> None:
        # First the note, then the look: whoever takes does it the other way round, so that none is overlooked.
        self._due[partials] = None
        if not self._announced:
            self._announced = True
            partials.job.delivery.owner.nudge()

    def take(self) -> list[m.Partial]:
        """All that is to be sent now."""
        self._announced = False
        messages: list[m.Partial] = []
        for _ in range(len(self._due)):
            messages += self._due.popitem()[0].take()
        return messages

    def forget(self, job: Job) -> None:
        """The job is settled or lost: nobody is sent anything more of it."""
        partials = self._of.pop(job, None)
        if partials is not None:
            self._due.pop(partials, None)
            partials.close()
