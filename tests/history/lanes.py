"""The order of jobs within a lane, seen from outside: what was confirmed before another was sent goes before it.

`events_of` turns a job into a few events; `LaneOrder` is fed those of all jobs in the order of time and keeps one entry
a lane. What it knows of a lane is the furthest that any job had got which was confirmed by now: a job that is sent now
stands behind all of those, so it must not begin before them. Nothing is said of jobs that were on their way at once.

Two rules. In a queue with ``key_limit=1`` a job begins after those before it, whatever happened to whom, and no two of
a lane hold a valid lease at once. In any other queue the delivery of a job has no smaller fence than those before it in
its lane, but for the deliveries of one tick, of which there is one for each worker at most; that is asked only of jobs
that went straight from their confirmation into their only run while nothing was done to anybody.
"""

from collections.abc import Iterator
from typing import Any

from tests.history.rules import Fault, Told
from tests.history.world import World

SENT, CONFIRMED, RAN = range(3)
"""What happens to a lane. At one and the same time a job is sent before another one is confirmed."""

LaneEvent = list[Any]
"""``[t, SENT | CONFIRMED | RAN, lane, in order, value, job]``. The value is when it first ran, or the fence under which
it did; for RAN it is until when the lease was valid."""


def events_of(told: Told, world: World) -> Iterator[LaneEvent]:
    """What a job means for its lane. A job that waited for a time, or was cancelled, has no place to keep."""
    if not told.sends or not told.runs or "delay" in told.options or told.cancel_at is not None:
        return
    lane = f"{told.queue}\0{told.priority}\0{told.key or ''}"
    if told.queue in world.policy.in_order:
        began = min(run.at for run in told.runs)
        yield [told.sent_at, SENT, lane, True, began, told.job]
        if told.confirmed_at is not None:
            yield [told.confirmed_at, CONFIRMED, lane, True, began, told.job]
        for run in told.runs:
            if run.valid_until is not None:
                yield [run.at, RAN, lane, True, run.valid_until, told.job]
        return
    if len(told.runs) > 1 or told.returned or told.confirmed_at is None:
        return
    run = told.runs[0]
    if run.is_done and world.is_calm(told.sent_at, run.at):
        yield [told.sent_at, SENT, lane, False, run.fence, told.job]
        yield [told.confirmed_at, CONFIRMED, lane, False, run.fence, told.job]


class LaneOrder:
    """All lanes, fed in the order of time; `take` returns the fault that an event shows, if it shows one."""

    def __init__(self, workers: int) -> None:
        self.asked = 0
        """How many jobs were compared with others before them."""
        self._workers = workers
        self._furthest: dict[str, tuple[int, str]] = {}
        self._held: dict[str, tuple[int, str]] = {}

    def take(self, event: LaneEvent) -> Fault | None:
        at, kind, lane, in_order, value, job = event
        if kind == RAN:
            return self._ran(at, lane, value, job)
        furthest = self._furthest.get(lane)
        if kind == CONFIRMED:
            if furthest is None or value > furthest[0]:
                self._furthest[lane] = (value, job)
        elif furthest is not None:
            self.asked += 1
            # Two fences of one tick are fewer apart than there are workers; two times need no such room.
            if value + (0 if in_order else self._workers) <= furthest[0] and job != furthest[1]:
                return Fault("order", job, f"it went before {furthest[1]}, which was confirmed before it was sent")
        return None

    def _ran(self, at: int, lane: str, until: int, job: str) -> Fault | None:
        held = self._held.get(lane)
        if held is None or until > held[0]:
            self._held[lane] = (until, job)
        if held is not None and at < held[0] and job != held[1]:
            return Fault("together", job, f"it ran while {held[1]} of its group had a valid lease")
        return None
