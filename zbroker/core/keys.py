"""What the jobs of each key may do: how many in flight, how fast, how many turns; and rates in general.

It counts and does not wait: whoever asks acts on the answer. Times are the lease clock's, ms.
"""

from collections.abc import Mapping
from math import ceil, floor
from typing import NamedTuple

BURST_MS = 100
"""What a rate lets through at once after a pause: what comes in so long, and at least one job. A larger burst would let
a queue of 10 a minute send 20 in its first; a smaller one would hold a fast queue to one job a turn."""

ROUNDING_MS = 1e-4
"""More than a sum of intervals is off by. Without it a job that is due would count as not quite due, and nobody would
wake for it."""

FORGET_KEYS = 1024
"""Keys whose rate is remembered before those that have recovered are sorted out."""


class Rate(NamedTuple):
    """A rate as a schedule: the generic cell rate algorithm (ITU-T I.371), which is a token bucket that keeps a single
    time, the one until which its tokens are used up."""

    interval: float  # ms between two jobs
    slack: float  # how far the schedule may run ahead

    def free(self, used_until: float, now: int) -> int:
        """How many jobs may go now."""
        ahead = max(used_until, now) - now
        return max(0, floor((self.slack - ahead + ROUNDING_MS) / self.interval) + 1)

    def take(self, used_until: float, now: int, jobs: int) -> float:
        """The schedule after so many jobs. Where it may hardly run ahead, a time within the millisecond before now was
        only rounded up to it, and counts: 7 a second are 7, and not 6.99."""
        counts = used_until > (now - 1 + ROUNDING_MS if self.slack < 1 else now)
        return (used_until if counts else now) + jobs * self.interval

    def next_at(self, used_until: float) -> int:
        """When the next one may go."""
        return ceil(used_until - self.slack - ROUNDING_MS / 2)


def rate_of(value: tuple[int, int] | list[int] | int) -> Rate | None:
    """The schedule of an option's value; None for no limit."""
    if not isinstance(value, tuple | list):
        return None
    jobs, per_ms = value
    interval = per_ms / jobs
    return Rate(interval, max(0.0, BURST_MS - interval))


class Keys:
    """The keys of one queue. A job that keeps its place while it waits for a time counts as in flight."""

    __slots__ = ("_kept_of", "_used_until", "kept", "limit", "limited", "rate", "running", "weights")

    def __init__(self) -> None:
        self.limit = 0
        self.rate: Rate | None = None
        self.weights: dict[bytes, int] = {}
        self.limited = False  # whether `room` has anything to say
        self.running: dict[bytes, int] = {}  # jobs of each key in flight; none is not there
        self.kept: dict[bytes, bytes] = {}  # id -> key, of the waiting jobs that keep the turn of their key
        self._kept_of: dict[bytes, int] = {}  # how many each key has of them
        self._used_until: dict[bytes, float] = {}

    def configure(self, limit: int, rate: Rate | None, weights: Mapping[str, int]) -> None:
        """Take over a policy."""
        if rate != self.rate:
            self._used_until.clear()
        self.limit = limit
        self.rate = rate
        self.weights = {key.encode(): weight for key, weight in weights.items()}
        self.limited = bool(limit or rate)

    def room(self, key: bytes, now: int, *, kept: bool = False) -> int:
        """How many jobs of the key may go now; asked only where something is limited. One that is ``kept`` waits for
        those that run, and not for others that wait: after the limit was lowered each would wait for the others."""
        room = self.limit - self._in_flight(key, kept) if self.limit else 1 << 30
        if self.rate is not None and room > 0:
            room = min(room, self.rate.free(self._used_until.get(key, 0.0), now))
        return room

    def next_at(self, key: bytes, *, kept: bool = False) -> int | None:
        """When the key's rate lets the next one go; None if something else holds it."""
        if self.rate is None or (self.limit and self._in_flight(key, kept) >= self.limit):
            return None
        return self.rate.next_at(self._used_until.get(key, 0.0))

    def _in_flight(self, key: bytes, kept: bool) -> int:
        return self.running.get(key, 0) - (self._kept_of.get(key, 0) if kept else 0)

    def keep(self, identifier: bytes, key: bytes) -> None:
        """A job that counts as in flight waits."""
        self.kept[identifier] = key
        self._kept_of[key] = self._kept_of.get(key, 0) + 1

    def unkeep(self, identifier: bytes) -> bytes | None:
        """It waits no more; its key, if it was kept. It still counts as in flight."""
        key = self.kept.pop(identifier, None)
        if key is not None:
            self._kept_of[key] -= 1
            if not self._kept_of[key]:
                del self._kept_of[key]
        return key

    def hold(self, key: bytes) -> None:
        """One more is in flight, and is none that goes now."""
        self.running[key] = self.running.get(key, 0) + 1

    def took(self, key: bytes, jobs: int, now: int) -> None:
        """So many go."""
        self.running[key] = self.running.get(key, 0) + jobs
        if self.rate is not None:
            if len(self._used_until) >= FORGET_KEYS and key not in self._used_until:
                self._forget(now)
            self._used_until[key] = self.rate.take(self._used_until.get(key, 0.0), now, jobs)

    def gave(self, key: bytes, jobs: int) -> None:
        """So many are in flight no more."""
        left = self.running[key] - jobs
        if left > 0:
            self.running[key] = left
        elif left == 0:
            del self.running[key]
        else:
            raise AssertionError(f"fewer than no jobs of the key {key!r} would be in flight")

    def untook(self, key: bytes, jobs: int) -> None:
        """So many of those that were taken did not go."""
        self.gave(key, jobs)
        if self.rate is not None and key in self._used_until:
            self._used_until[key] -= jobs * self.rate.interval

    def _forget(self, now: int) -> None:
        """Drop the keys whose rate has recovered, unless that was found to be no use a moment ago."""
        live = {key: until for key, until in self._used_until.items() if until > now}
        if len(live) * 2 <= len(self._used_until):
            self._used_until = live
