"""What was said to a broker and what it said to it, kept outside: which states each job may be in.

An operation that was sent and not answered may have happened or not; one that was confirmed has happened. So a job has
a set of states that it may be in, which grows with an attempt and shrinks with its confirmation. It talks to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable

States = frozenset[str]

ABSENT, LIVE = frozenset({"absent"}), frozenset({"ready", "leased"})
DELAYED, BLOCKED = frozenset({"scheduled"}), frozenset({"blocked"})
DONE, DEAD, CANCELLED = frozenset({"done"}), frozenset({"dead"}), frozenset({"cancelled"})


class Ledger:
    """Jobs by id, with the states that they may be in."""

    def __init__(self) -> None:
        self.may: dict[bytes, States] = {}
        self.copies = 0  # of publications that were confirmed
        self._soon: dict[bytes, States] = {}  # where slow work, which was confirmed, takes them in the end

    def attempt(self, changes: dict[bytes, States]) -> None:
        """Sent, not answered yet."""
        for identifier, states in changes.items():
            self.may[identifier] = self.may.get(identifier, ABSENT) | states

    def confirm(self, changes: dict[bytes, States], *, slow: bool = False) -> None:
        """Answered: it has happened; what is done in slices will."""
        if slow:
            self._soon |= changes
        else:
            self.may |= changes
            for identifier in changes:
                self._soon.pop(identifier, None)

    def settle(self) -> None:
        """All slow work is through."""
        self.may |= self._soon
        self._soon.clear()

    @property
    def slow(self) -> bool:
        """Whether slow work was confirmed that may still go on."""
        return bool(self._soon)

    def among(self, states: States) -> list[bytes]:
        """The jobs that are surely in one of these states, oldest first."""
        return [identifier for identifier, may in self.may.items() if may <= states and identifier not in self._soon]

    def faults(self, found: dict[bytes, str]) -> list[str]:
        """What is wrong with the states that the broker tells, of all jobs."""
        return [
            f"job {identifier.decode()} is {state}, and may be {', '.join(sorted(self.may[identifier]))}"
            for identifier, state in found.items()
            if state not in self.may[identifier]
        ]

    def invented(self, ids: Iterable[bytes]) -> list[str]:
        """Jobs that nobody sent, or that are over, among those that were delivered."""
        return [
            f"job {identifier.decode()} is delivered, and may be {', '.join(sorted(may))}"
            for identifier in ids
            if not (may := self.may.get(identifier, ABSENT)) & LIVE
        ]
