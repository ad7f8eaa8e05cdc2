"""The ring of lanes against a naive model: nothing lost, nothing twice, order within a lane, priorities strict.

With room for everything the order is exact. With windows and budgets of a few entries, blocks of three and after
restarts, entries come from disk, through guests, walks and emptied windows: there the promises are checked, and
entries that count no more (ghosts) may come along, as the ring's users expect.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zbroker import limits
from zbroker.core import rows
from zbroker.core.lanes import Ring
from zbroker.core.tick import Tick, View
from zbroker.core.window import Budget, Place
from zbroker.storage.memory import MemoryStore

PLACES: list[Place] = [(rank, key) for rank in (95, 100, 105) for key in (b"", b"a", b"b", b"c")]


class Rows:
    """The rows under a ring, a tick at a time."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.view = View(self.store)
        self.tick = Tick(1)
        self.view.ticks.append(self.tick)

    def commit(self) -> None:
        self.store.write(self.tick.rows, self.tick.ranges)
        self.view.ticks.remove(self.tick)
        self.tick = Tick(self.tick.number + 1)
        self.view.ticks.append(self.tick)

    def restart(self) -> None:
        """What was not committed is lost."""
        self.view = View(self.store)
        self.tick = Tick(self.tick.number)
        self.view.ticks.append(self.tick)

    def ready(self) -> list[bytes]:
        return [key for key, _ in self.view.scan("ready", b"", b"\xff")]


def take(ring: Ring, want: int, tick: Tick) -> list[tuple[Place, int, bytes]]:
    """What one turn takes."""
    ring.scans = 0
    return ring.take(want, tick)


class Exact(RuleBasedStateMachine):
    """With room for everything: the very order of the naive model."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Rows()
        self.ring = Ring("q", self.rows.view, Budget(), empty=True)
        self.turns: dict[int, deque[Place]] = {}  # rank -> the places that have entries, in turn
        self.lanes: dict[Place, list[tuple[int, bytes]]] = {}
        self.away: list[tuple[Place, int, bytes]] = []
        self.next = 1

    def _enter(self, place: Place, entries: list[tuple[int, bytes]]) -> None:
        if place not in self.lanes:
            self.lanes[place] = []
            self.turns.setdefault(place[0], deque()).append(place)
        self.lanes[place] = sorted(self.lanes[place] + entries)

    @rule(place=st.sampled_from(PLACES), jobs=st.integers(1, 5))
    def add(self, place: Place, jobs: int) -> None:
        ids = [b"%d" % n for n in range(self.next, self.next + jobs)]
        assert self.ring.add(place, self.next, ids, self.rows.tick)
        self._enter(place, list(enumerate(ids, self.next)))
        self.next += jobs

    @rule(want=st.integers(1, 9))
    def take(self, want: int) -> None:
        expected = []
        while len(expected) < want and self.lanes:
            rank = min(rank for rank, _ in self.lanes)
            place = self.turns[rank][0]
            expected.append((place, *self.lanes[place].pop(0)))
            if not self.lanes[place]:
                del self.lanes[place]
                self.turns[rank].popleft()
            else:
                self.turns[rank].rotate(-1)
        taken = take(self.ring, want, self.rows.tick)
        assert taken == expected
        self.away += taken

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def put_back(self, data: Any) -> None:
        place, sequence, identifier = self.away.pop(data.draw(st.integers(0, len(self.away) - 1)))
        self.ring.put_back(place, sequence, identifier, self.rows.tick)
        self._enter(place, [(sequence, identifier)])

    @rule()
    def commit(self) -> None:
        self.rows.commit()

    @invariant()
    def nothing_is_left_behind(self) -> None:
        assert self.ring.may_have_more == bool(self.lanes)
        if not self.lanes:
            assert self.rows.ready() == []


FEW_PLACES: list[Place] = [(95, b""), (100, b""), (100, b"a"), (100, b"b")]


class Tight(RuleBasedStateMachine):
    """With room for little, and restarts: what is promised whatever comes from disk."""

    @initialize(
        window=st.integers(1, 5),
        jobs=st.integers(1, 5),
        lanes=st.integers(0, 4),
        block=st.sampled_from([1, 3, 256]),
        load=st.sampled_from([1, 2]),
    )
    def open(self, window: int, jobs: int, lanes: int, block: int, load: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(limits, "BLOCK_JOBS", block)
        self.patch.setattr(limits, "LOAD_BLOCKS", load)
        self.rows = Rows()
        self.settings = (window, jobs, lanes)
        self.floor = 0
        self.ring = self._ring(empty=True)
        self.waiting: dict[bytes, tuple[Place, int]] = {}  # the entries that count
        self.away: dict[bytes, tuple[Place, int]] = {}
        self.next = 1

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    def _ring(self, *, empty: bool) -> Ring:
        window, jobs, lanes = self.settings
        return Ring("q", self.rows.view, Budget(jobs, lanes), empty=empty, floor=self.floor, window=window)

    @rule(place=st.sampled_from(FEW_PLACES), jobs=st.integers(1, 7))
    def add(self, place: Place, jobs: int) -> None:
        ids = [b"%d" % n for n in range(self.next, self.next + jobs)]
        self.ring.add(place, self.next, ids, self.rows.tick)
        self.waiting.update({identifier: (place, self.next + n) for n, identifier in enumerate(ids)})
        self.next += jobs

    def _take(self, want: int) -> list[tuple[Place, int, bytes]]:
        """Take, and check what came; the entries that count."""
        taken = take(self.ring, want, self.rows.tick)
        assert len(taken) <= want
        came = []
        for place, sequence, identifier in taken:
            if self.waiting.get(identifier) != (place, sequence):
                continue  # a ghost
            better = [p for p, s in self.waiting.values() if p[0] < place[0] or (p == place and s < sequence)]
            assert not better, f"{better} should come before {place} {sequence}"
            self.away[identifier] = self.waiting.pop(identifier)
            came.append((place, sequence, identifier))
        return came

    @rule(want=st.integers(1, 9))
    def take(self, want: int) -> None:
        self._take(want)

    @rule(want=st.integers(1, 4))
    def take_and_put_back(self, want: int) -> None:
        for place, sequence, identifier in self._take(want):
            del self.away[identifier]
            self.ring.put_back(place, sequence, identifier, self.rows.tick)
            self.waiting[identifier] = (place, sequence)

    @rule()
    def take_all(self) -> None:
        for _ in range(400):
            self._take(7)
            if not self.waiting:
                break
            assert self.ring.may_have_more
        assert not self.waiting

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def put_back(self, data: Any) -> None:
        identifier = data.draw(st.sampled_from(sorted(self.away)))
        place, sequence = self.away.pop(identifier)
        if sequence < self.floor:
            return  # its place was purged: the core gives it a new one
        self.ring.put_back(place, sequence, identifier, self.rows.tick)
        self.waiting[identifier] = (place, sequence)

    @rule()
    def commit(self) -> None:
        self.rows.commit()

    @rule()
    def restart(self) -> None:
        self.rows.commit()
        self.rows.restart()
        self.ring = self._ring(empty=False)

    @rule()
    def forget(self) -> None:
        self.floor = self.next
        self.waiting.clear()
        self.ring.forget(self.floor)

    @invariant()
    def memory_is_counted(self) -> None:
        if not hasattr(self, "ring"):
            return
        budget, lanes = self.ring._budget, self.ring._lanes
        assert budget.jobs == sum(lane.jobs for lane in lanes.values())
        assert budget.lanes == len(lanes) <= budget.max_lanes
        for lane in lanes.values():
            assert lane.jobs == sum(len(block.ids) - block.taken for block in lane.blocks) + len(lane.returned)


Exact.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
Tight.TestCase.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestExact = Exact.TestCase
TestTight = Tight.TestCase


def test_a_lane_larger_than_its_window_comes_in_order_through_a_restart() -> None:
    rows_ = Rows()
    ring = Ring("q", rows_.view, Budget(), empty=True, window=100)
    ids = [b"%05d" % n for n in range(3000)]
    for start in range(0, 3000, 300):
        ring.add((100, b""), start + 1, ids[start : start + 300], rows_.tick)
    first = take(ring, 1000, rows_.tick)
    rows_.commit()
    rows_.restart()
    ring = Ring("q", rows_.view, Budget(), empty=False, window=100)
    taken = {entry[2] for entry in first}
    rest: list[bytes] = []
    while batch := take(ring, 500, rows_.tick):
        rest += [identifier for _, _, identifier in batch if identifier not in taken]
    assert [entry[2] for entry in first] + rest == ids


def test_memory_holds_no_more_than_its_budget() -> None:
    rows_ = Rows()
    budget = Budget(max_jobs=500, max_lanes=10)
    ring = Ring("q", rows_.view, budget, empty=True, window=100)
    for n in range(100):
        ring.add((100, b"%d" % n), 1 + n * 50, [b"%d-%d" % (n, i) for i in range(50)], rows_.tick)
    assert budget.jobs <= 500 and budget.lanes <= 10
    rows_.commit()
    seen: set[bytes] = set()
    for _ in range(10_000):
        seen.update(identifier for _, _, identifier in take(ring, 50, rows_.tick))
        if len(seen) == 5000:
            break
    assert len(seen) == 5000


def test_a_better_priority_comes_first_though_it_comes_last() -> None:
    rows_ = Rows()
    ring = Ring("q", rows_.view, Budget(), empty=True)
    for n, priority in enumerate((-100, 0, 100), 1):
        ring.add((rows.rank_of(priority), b""), n, [b"%d" % priority], rows_.tick)
    assert [identifier for _, _, identifier in take(ring, 3, rows_.tick)] == [b"100", b"0", b"-100"]


@pytest.mark.parametrize("lanes", [0, 1, 2, 6, 20])
@pytest.mark.parametrize("restarted", [False, True])
def test_keys_have_their_turns_in_memory_and_on_disk(lanes: int, restarted: bool) -> None:
    rows_ = Rows()
    ring = Ring("q", rows_.view, Budget(max_lanes=lanes), empty=True)
    for n in range(12):
        ring.add((100, b"%02d" % n), 1 + n * 300, [b"%02d-%d" % (n, i) for i in range(300)], rows_.tick)
    rows_.commit()
    if restarted:
        ring = Ring("q", rows_.view, Budget(max_lanes=lanes), empty=False)
    served = dict.fromkeys(range(12), 0)
    for _ in range(300):
        for _, _, identifier in take(ring, 4, rows_.tick):
            served[int(identifier[:2])] += 1
    assert sum(served.values()) == 1200
    assert max(served.values()) - min(served.values()) <= 2
