"""A small history in which everything is as it should be, made by hand, for the tests to plant faults into.

What happens in it: a worker is killed, one stands still, an answer is lost, a job is refused, one dies of its attempts,
one is cancelled, some of a group run one after the other, and some of a lane go in order while nothing is done to
anybody.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.history import records as r
from tests.history.checker import Report, check
from tests.history.records import Recorder
from zclient.protocol.messages import Outcome

ACK, NACK, REJECT, RELEASE = (int(outcome) for outcome in (Outcome.ACK, Outcome.NACK, Outcome.REJECT, Outcome.RELEASE))

FACTS: dict[str, Any] = {
    "max_attempts": 3,
    "in_order": ["strict"],
    "at_most_once": ["once"],
    "effects": ["bank"],
    "workers": 2,
}


class Book:
    """The lines of a history, before they are written."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def note(self, who: str, kind: int, at: float, job: str, *rest: Any) -> None:
        self.lines.append((who, kind, at, job, *rest))

    def sent(self, job: str, queue: str, at: float, key: str | None = None, **options: Any) -> None:
        """It was sent, and a tenth of a second later confirmed."""
        self.note("sender/1", r.SEND, at, job, queue, key, 0, options)
        self.note("sender/1", r.CONFIRMED, at + 0.1, job)

    def ran(self, who: str, job: str, fence: int, at: float, outcome: int = ACK, attempt: int = 1) -> None:
        """It ran for half a second, and its outcome counted."""
        self.note(who, r.START, at, job, fence, attempt)
        self.note(who, r.SETTLE, at + 0.5, job, fence, outcome)
        self.note(who, r.ANSWER, at + 0.6, job, fence, True)

    def over(self, job: str, state: str, fence: int, attempts: int = 1, reason: str | None = None) -> None:
        self.note("driver/1", r.FINAL, 500, job, state, fence, attempts, reason)

    def harm(self, at: float, whom: str, what: str) -> None:
        self.note("driver/1", r.HARM, at, "", whom, what)

    # ---- for planting

    def without(self, job: str, *kinds: int) -> None:
        """Forget what of these kinds was noted of a job; all of it if none is named."""
        self.lines = [line for line in self.lines if line[3] != job or (kinds and line[1] not in kinds)]

    def change(self, job: str, kind: int, place: int, value: Any, *, which: int = 0) -> None:
        """Put another value at a place of the record, counted as in `records`."""
        numbers = [n for n, line in enumerate(self.lines) if line[3] == job and line[1] == kind]
        line = list(self.lines[numbers[which]])
        line[{0: 1, 1: 2, 2: 3}.get(place, place + 1)] = value
        self.lines[numbers[which]] = tuple(line)

    # ---- judged

    def write(self, folder: Path) -> None:
        recorders = {who: Recorder(folder, who, **FACTS) for who in dict.fromkeys(line[0] for line in self.lines)}
        for who, kind, at, job, *rest in self.lines:
            recorders[who].note(kind, job, *rest, at=round(at * 1e6))
        for recorder in recorders.values():
            recorder.close()

    def judged(self, folder: Path) -> Report:
        self.write(folder)
        return check(folder)


def sound() -> Book:
    """The history."""
    book = Book()
    killed(book)
    stopped(book)
    unknown(book)
    failing(book)
    in_order(book)
    return book


def killed(book: Book) -> None:
    """The first worker is killed in the middle; the second one has the effect."""
    book.sent("killed", "bank", 1, effect=7)
    book.note("threads/1", r.START, 2, "killed", 11, 1)
    book.harm(2.5, "threads/1", "killed")
    book.ran("threads/2", "killed", 12, 3, attempt=2)
    book.note("driver/1", r.EFFECT, 3.4, "killed", 12, 7)
    book.over("killed", "done", 12, attempts=2)


def stopped(book: Book) -> None:
    """The first worker stands still until another one has it, and its effect is the one that is there."""
    book.sent("stopped", "bank", 1, effect=8)
    book.note("consumer/1", r.START, 2, "stopped", 21, 1)
    book.note("driver/1", r.EFFECT, 2.1, "stopped", 21, 8)
    book.harm(2.2, "consumer/1", "stopped")
    book.harm(5, "consumer/1", "continued")
    book.ran("threads/2", "stopped", 22, 4.5, attempt=2)
    book.note("consumer/1", r.SETTLE, 5.1, "stopped", 21, ACK)
    book.note("consumer/1", r.ANSWER, 5.2, "stopped", 21, False)
    book.note("consumer/1", r.LOST, 5.3, "stopped", 21)
    book.over("stopped", "done", 22, attempts=2)


def unknown(book: Book) -> None:
    """One that never arrived, one that did, and one that was refused."""
    for job in ("absent", "recovered", "refused"):
        book.note("sender/1", r.SEND, 1, job, "plain", None, 0, {})
        if job == "refused":
            book.note("sender/1", r.FAILED, 1.5, job, "disk_full")
        else:
            book.note("sender/1", r.UNKNOWN, 1.5, job)
    book.ran("threads/2", "recovered", 31, 5)
    book.over("recovered", "done", 31)


def failing(book: Book) -> None:
    """One that fails until it is dead, one that was rejected, one that was given back, two that were cancelled, and one
    that may run once."""
    book.sent("dying", "plain", 101)
    for attempt in (1, 2, 3):
        book.ran("threads/2", "dying", 40 + attempt, 101 + attempt, NACK, attempt)
    book.over("dying", "dead", 43, attempts=3, reason="attempts")
    book.sent("rejected", "plain", 101)
    book.ran("threads/2", "rejected", 51, 102, REJECT)
    book.over("rejected", "dead", 51, reason="rejected")
    book.sent("released", "plain", 101)
    book.ran("threads/2", "released", 52, 102, RELEASE)
    book.ran("consumer/1", "released", 53, 103)
    book.over("released", "done", 53)
    book.sent("cancelled", "plain", 101, delay=5)
    book.note("sender/1", r.ORDER, 102, "cancelled", "cancel", None)
    book.note("sender/1", r.ORDER, 102.5, "cancelled", "cancel", True)
    book.over("cancelled", "cancelled", 0, attempts=0)
    book.sent("once", "once", 101)
    book.ran("threads/2", "once", 61, 102)
    book.over("once", "done", 61)


def in_order(book: Book) -> None:
    """Jobs of one group, and jobs of one lane, each sent when the one before was confirmed."""
    for n in (1, 2, 3):
        book.sent(f"strict {n}", "strict", 200 + n, key="k")
        book.ran("threads/2", f"strict {n}", 70 + n, 210 + n)
        book.over(f"strict {n}", "done", 70 + n)
        book.sent(f"lane {n}", "plain", 200 + n, key="k")
        book.ran("consumer/1", f"lane {n}", 80 + n, 210 + n)
        book.over(f"lane {n}", "done", 80 + n)


Plant = Callable[[Book], None]
