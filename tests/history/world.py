"""What is known of a run as a whole: the harm that was done, to whom and when, and what was said of its queues.

It is small whatever the size of the history: one entry for each kill, stop or cut. Times are monotonic microseconds.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import Any, NamedTuple

SECOND = 1_000_000

LASTING = {"stopped": "continued", "full": "room", "low": "room"}
"""Harm that lasts, and what ends it. Whatever else lasts is ended by `no_longer`."""

NO_LONGER = "no longer "


def no_longer(what: str) -> str:
    """The word for the end of a harm to a link that lasted."""
    return NO_LONGER + what


KILLED = "killed"

BROKER = "broker"
"""The name of the broker's process: what is done to it is no reason to take a job from a worker that lives."""

DELIVERED_US = 5 * SECOND
"""A job may be with its worker for so long before its run begins."""

AFTER_US = 2 * SECOND
"""How long a cut, or the end of a longer harm, can still be why a lease is lost: the peer has to come back first."""


class Policy(NamedTuple):
    """What the run said of its queues."""

    max_attempts: int = 5
    in_order: frozenset[str] = frozenset()  # queues with key_limit=1
    at_most_once: frozenset[str] = frozenset()
    effects: frozenset[str] = frozenset()  # queues whose jobs have exactly one effect
    workers: int = 1  # processes that serve at a time
    drained: bool = True  # the run ended with nothing left, and FINAL records tell all of it


class Span(NamedTuple):
    """One harm, from when to when."""

    begin: int
    end: float
    what: str


class World:
    """The harm of a run, and its policy. `add` all records of the kind HARM, then `close`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.whos: list[str] = []
        self._told: list[tuple[int, str, str]] = []
        self._spans: dict[str, list[Span]] = {}
        self._kills: dict[str, int] = {}
        self._begins: list[int] = []
        self._ends: list[float] = []

    def add(self, at: int, whom: str, what: str) -> None:
        """``whom`` is one process, or the name of all that ever have a place: its link."""
        self._told.append((at, whom, what))

    def close(self) -> None:
        spans: dict[str, list[Span]] = defaultdict(list)
        begun: dict[tuple[str, str], list[int]] = defaultdict(list)
        # What is ended somewhere is something that lasts.
        ended = {(who, what.removeprefix(NO_LONGER)) for _, who, what in self._told if what.startswith(NO_LONGER)}
        for at, whom, what in sorted(self._told):
            if what == KILLED:
                self._kills.setdefault(whom, at)
                spans[whom].append(Span(at, at, what))
            elif what in LASTING or (whom, what) in ended:
                begun[whom, what].append(at)
            elif what.startswith(NO_LONGER) or what in LASTING.values():
                for (who, kind), begins in begun.items():
                    # Of two at once whichever ended: together they cover the same time.
                    if begins and who == whom and what in (LASTING.get(kind), no_longer(kind)):
                        spans[whom].append(Span(begins.pop(), at + AFTER_US, kind))
            else:
                spans[whom].append(Span(at, at + AFTER_US, what))
        for (whom, what), begins in begun.items():
            spans[whom] += [Span(begin, float("inf"), what) for begin in begins]
        self._spans = {whom: sorted(several) for whom, several in spans.items()}
        every = [span for several in self._spans.values() for span in several]
        self._begins = sorted(span.begin for span in every)
        self._ends = sorted(span.end for span in every)

    def was_killed(self, who: str, by: float) -> bool:
        """Whether this process was killed by then."""
        return self._kills.get(who, float("inf")) <= by

    def is_harmed(self, who: str) -> bool:
        """Whether anything was ever done to this process or its link."""
        return bool(self._spans_of(who))

    def harm(self, who: str, begin: float, end: float) -> str:
        """What stood between this process and the broker at some time between the two; empty if nothing did."""
        for span in self._spans_of(who):
            if span.what != KILLED and span.begin <= end and span.end >= begin:
                return span.what
        return ""

    def is_calm(self, begin: float, end: float) -> bool:
        """Whether nothing was done to anybody in this time. O(log n)."""
        return bisect_right(self._begins, end) == bisect_left(self._ends, begin)

    def told_of(self, names: set[str], begin: float, end: float) -> list[tuple[int, str]]:
        """What a report tells of these processes and their places, and of the broker, in this time."""
        return [
            (at, f"{whom} is {what}")
            for at, whom, what in self._told
            if begin <= at <= end and (whom in names or whom.partition("/")[0] == BROKER)
        ]

    def _spans_of(self, who: str) -> list[Span]:
        place = who.partition("/")[0]
        return self._spans.get(who, []) + (self._spans.get(place, []) if place != who else [])


def policy_of(facts: dict[str, Any]) -> Policy:
    """From the header's facts; what they do not say is the default."""
    told = {name: facts[name] for name in Policy._fields if name in facts}
    for name in ("in_order", "at_most_once", "effects"):
        told[name] = frozenset(told.get(name, ()))
    return Policy(**told)
