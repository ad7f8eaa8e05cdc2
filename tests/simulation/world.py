"""One seed, one clock, one line of events: everything that happens in a simulated world, in its order.

It owns virtual time and chance. It knows neither brokers nor jobs, reads no real clock, and never waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

START_MS = 1_000_000.0
"""The monotonic clock when a world begins."""

WALL_MS = 1_700_000_000_000
"""The wall clock then: Unix ms."""


class Violation(AssertionError):
    """What must hold does not."""


class World:
    """Virtual time, chance, and what is to come."""

    def __init__(self, seed: int, traced: int) -> None:
        """``traced``: so many events are remembered for the report of a failure."""
        self.random = Random(seed)
        self.now = START_MS  # monotonic ms, the same for all processes
        self.jumped = 0  # ms by which the wall clock was moved
        self.furthest = 0  # that jumped ever was
        self.was_set_back = False
        self.steps = 0
        self.trace: deque[tuple[int, float, str, str, tuple[Any, ...]]] = deque(maxlen=traced)
        self._events: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._entered = 0

    @property
    def wall(self) -> int:
        """The wall clock: Unix ms."""
        return WALL_MS + self.jumped + int(self.now - START_MS)

    def jump(self, ms: int) -> None:
        """Somebody sets the wall clock."""
        self.note("clock", "jumps", ms)
        self.jumped += ms
        self.furthest = max(self.furthest, self.jumped)
        self.was_set_back = self.was_set_back or ms < 0

    def after(self, ms: float, act: Callable[..., Any], *facts: Any) -> None:
        """Let something happen in so many ms. Events of one time come in the order in which they were entered."""
        self._entered += 1
        heappush(self._events, (self.now + ms, self._entered, act, facts))

    def step(self) -> None:
        """The next event. One that has nothing to do any more returns False, and is no step."""
        steps = self.steps
        while self.steps == steps:
            at, _, act, facts = heappop(self._events)
            self.now = max(self.now, at)
            if act(*facts) is not False:
                self.steps += 1

    def note(self, who: str, what: str, *facts: Any) -> None:
        """Remember an event for the report. The facts are made readable only if somebody reads them."""
        self.trace.append((self.steps, self.now, who, what, facts))

    def chance(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random.random()


class Process:
    """A process: it runs when it is woken, stands still while it is stopped, and dies.

    ``life`` counts its incarnations, so that what was entered for an earlier one does not reach the next.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        self.alive = False
        self.stopped_until = 0.0
        self._wakes_at = math.inf

    def begin(self) -> None:
        self.life += 1
        self.alive = True
        self.stopped_until = 0.0
        self._wakes_at = math.inf

    def end(self) -> None:
        self.alive = False

    @property
    def stopped(self) -> bool:
        return self.world.now < self.stopped_until

    def wake(self, in_ms: float = 0.0) -> None:
        """Run in so many ms at the latest."""
        at = max(self.world.now + in_ms, self.stopped_until)
        if self.alive and at < self._wakes_at:
            self._wakes_at = at
            self.world.after(at - self.world.now, self._woken, self.life, at)

    def stop(self, ms: float) -> None:
        """Stand still for so long: what comes meanwhile is seen afterwards."""
        self.stopped_until = max(self.stopped_until, self.world.now + ms)

    def go_on(self) -> None:
        """Be stopped no longer."""
        if self.stopped:
            self.stopped_until = self.world.now
            self._wakes_at = math.inf
            self.wake()

    def _woken(self, life: int, at: float) -> Any:
        if life != self.life or not self.alive or at != self._wakes_at:
            return False
        self._wakes_at = math.inf
        if self.stopped:
            self.wake()
            return False
        return self.run()

    def run(self) -> Any:
        """One pass. Returns False if there was nothing to do."""
        raise NotImplementedError
