"""Where jobs of one queue wait: lanes, and the ring that says which lane is next.

The rows of the ``ready`` keyspace are the truth. Memory holds a *window* of each lane, its first blocks, and reads the
next when it runs out; so memory is bounded and a start reads nothing. An entry may be a *ghost* (its job was
cancelled, or taken before a restart): whoever takes an entry must check it, unless he knows that its job is fresh.

Order: the highest priority first; among the keys of one priority in turn, each as often as its weight says; within a
lane by sequence. A lane whose key may send nothing now (`keys.py`) is *held*: it has no turns until that is over.
"""

from collections import deque
from heapq import heappop, heappush

from sortedcontainers import SortedSet

from zbroker import limits
from zbroker.core import rows
from zbroker.core.keys import Keys
from zbroker.core.tick import Tick, View
from zbroker.core.window import Block, Budget, Lane, Place

WALK_STEPS = 8
"""Lanes that are in memory already and that the walk over the disk passes at once: each costs a seek."""


DRY_WALKS = 2
"""Walks around the lanes on disk that find none whose key may go, until the ring rests and waits to be stirred."""


class Ring:
    """The lanes of one queue, and whose turn it is.

    ``complete`` says that every lane with entries is in memory. After a start it is not: the ring then walks over
    the ready rows from ``explored`` on, one lane a turn, until it has seen them all once.
    """

    __slots__ = (
        "_budget",
        "_cut",
        "_dry",
        "_held",
        "_lanes",
        "_left",
        "_levels",
        "_owed",
        "_parked",
        "_passed",
        "_queue",
        "_ranks",
        "_view",
        "_wakes",
        "_waking",
        "aside",
        "complete",
        "explored",
        "floor",
        "keys",
        "resting",
        "scans",
        "window",
    )

    def __init__(
        self,
        queue: str,
        view: View,
        budget: Budget,
        *,
        empty: bool,
        floor: int = 0,
        window: int = limits.WINDOW_JOBS,
    ) -> None:
        self._queue = queue
        self.floor = floor  # entries of a smaller sequence are void: a purge took them
        self._view = view
        self._budget = budget
        self.window = window
        self._lanes: dict[Place, Lane] = {}
        self._levels: dict[int, deque[Lane]] = {}  # rank -> lanes in the order of their turns
        self._ranks: list[int] = []  # ranks that have lanes, sorted
        self.aside = SortedSet()  # (rank, sequence, id) of entries that wait apart: their own rows are passed over
        self.complete = empty
        self.explored = b""
        self.scans = 0  # scans of the disk in this turn; whoever takes sets it back
        self._parked: int | None = None  # the walk waits before this rank until memory has no better one
        self._left: int | None = None  # the best rank of lanes without room in memory that the walk left entries in
        self._owed = 0  # turns of lanes in memory before the walk goes on
        self._cut: tuple[Place, int] | None = None  # a guest whose turn was cut short, and the jobs left of it
        self.keys = Keys()
        self._held: dict[bytes, list[Lane]] = {}  # key -> its lanes in memory that have no turns for now
        self._wakes: list[tuple[int, bytes]] = []  # a heap of (lease clock, key): when a rate lets a key go on
        self._waking: set[bytes] = set()  # the keys in it
        self._dry = 0  # times the walk went around since it last found something to take
        self._passed = False  # the walk went on past lanes of which none may send anything now
        self.resting = False  # all that is left are lanes on disk whose keys may send nothing now

    # ---- entries in

    def add(self, place: Place, first: int, ids: list[bytes], tick: Tick) -> bool:
        """New jobs at the end of their lane, their sequences counting from ``first``. Whether they are in memory."""
        self._stir()
        lane = self._lane(place)
        kept = lane is not None and not lane.more and self._has_room(lane, len(ids))
        if lane is not None and not kept and not lane.more:
            lane.more = True
            lane.cursor = lane.prefix + rows.number8(first)
        prefix = lane.prefix if lane is not None else rows.lane_prefix(self._queue, *place)
        for start in range(0, len(ids), limits.BLOCK_JOBS):
            part = ids if len(ids) <= limits.BLOCK_JOBS else ids[start : start + limits.BLOCK_JOBS]
            key = prefix + rows.number8(first + start)
            tick.put_ready(key, rows.pack(part))
            if kept:
                assert lane is not None
                lane.blocks.append(Block(key, first + start, part))
        if kept:
            assert lane is not None
            self._count(lane, len(ids))
        return kept

    def put_back(self, place: Place, sequence: int, identifier: bytes, tick: Tick) -> None:
        """A job that returns to its own place in its lane."""
        key = rows.lane_prefix(self._queue, *place) + rows.number8(sequence) + rows.RETURNED
        tick.put_ready(key, rows.pack([identifier]))
        self._stir()
        lane = self._lane(place)
        if lane is None or (lane.more and key >= lane.cursor and sequence >= lane.reach):
            return  # it will be read from disk in its turn
        if self._has_room(lane, 1):
            heappush(lane.returned, (sequence, identifier))
            self._count(lane, 1)
        else:  # start again from disk, where everything stands
            self._empty_window(lane)

    def forget(self, floor: int) -> None:
        """Drop all windows, as if just started: the rows on disk from ``floor`` on say what is there."""
        self._budget.jobs -= sum(lane.jobs for lane in self._lanes.values())
        self._budget.lanes -= len(self._lanes)
        self._lanes.clear()
        self._levels.clear()
        self._ranks.clear()
        self._held.clear()
        self.floor = floor
        self.complete = False
        self._stir()
        self._start_walk()

    # ---- entries out

    def take(self, want: int, tick: Tick, now: int = 0) -> list[tuple[Place, int, bytes]]:
        """Up to ``want`` entries (place, sequence, id) in the order of service, as far as their keys let them go.

        They count as in flight from here on: the caller gives back what does not go (`untake`) and what is over
        (`give`). Their rows leave disk in this tick once the whole block is taken. The caller checks for ghosts. Fewer
        than wanted come where no more may go, or where looking for them would take long: then `may_have_more` is true.
        """
        taken: list[tuple[Place, int, bytes]] = []
        visits = want + limits.STEP_ROWS
        keys = self.keys
        while len(taken) < want and visits and self.scans < limits.TURN_SCANS:
            visits -= 1
            lane = self._next_lane()
            if lane is None:
                break
            key = lane.place[1]
            before = len(taken)
            room = want - before
            if keys.limited:
                room = min(room, keys.room(key, now))
            if self._lanes.get(lane.place) is not lane:
                if room > 0:
                    self._take_visit(lane, room, taken, tick)
                else:
                    self.wake_later(key)
                self._leave(lane, tick)
            elif room <= 0:
                self._hold(lane)
            else:
                self._take_turn(lane, room, taken, tick)
            if len(taken) > before:
                self._dry = 0
                keys.took(key, len(taken) - before, now)
        return taken

    def _take_turn(self, lane: Lane, room: int, taken: list[tuple[Place, int, bytes]], tick: Tick) -> None:
        """A turn of a lane in memory, or what ``room`` lets it have of it. A lane that has no other beside it has one
        endless turn."""
        level = self._levels[lane.place[0]]
        alone = len(level) == 1 and (self.complete or self._parked is not None)
        if alone:
            self._take_from(lane, room, taken, tick)
        else:
            lane.quota = lane.quota or self.keys.weights.get(lane.place[1], 1)
            before = len(taken)
            self._take_from(lane, min(room, lane.quota), taken, tick)
            lane.quota -= len(taken) - before
        if not lane.jobs and not lane.more:
            self._owed = max(0, self._owed - 1)
            self._remove(lane)
        elif not alone and not lane.quota:
            self._owed = max(0, self._owed - 1)
            level.rotate(-1)

    def _take_visit(self, lane: Lane, room: int, taken: list[tuple[Place, int, bytes]], tick: Tick) -> None:
        """A turn of a guest. Where there is room for a part of it only, the walk comes back for the rest."""
        cut, self._cut = self._cut, None
        quota = cut[1] if cut is not None and cut[0] == lane.place else self.keys.weights.get(lane.place[1], 1)
        self._take_from(lane, min(room, quota), taken, tick)
        if room < quota:
            self._cut = lane.place, quota - room
            self.explored = lane.prefix

    def __len__(self) -> int:
        """Lanes in memory."""
        return len(self._lanes)

    def head_of(self, place: Place) -> int | None:
        """The sequence of the next job in the first block of a lane in memory; None if it has no such block."""
        lane = self._lanes.get(place)
        return self._head(lane.blocks[0]) if lane is not None and lane.blocks else None

    @property
    def may_have_more(self) -> bool:
        return not self.resting and (bool(self._ranks) or not self.complete)

    # ---- keys that may send nothing for now

    def give(self, key: bytes, jobs: int) -> bool:
        """So many jobs of the key are in flight no more. Whether that lets another one go."""
        self.keys.gave(key, jobs)
        return self._let_go(key)

    def untake(self, key: bytes, jobs: int) -> None:
        """So many of the entries that were taken did not go."""
        self.keys.untook(key, jobs)
        self._let_go(key)

    def keep(self, identifier: bytes, key: bytes) -> None:
        """A job that is in flight, or was just taken, goes on waiting, and its key waits with it."""
        self.keys.keep(identifier, key)

    def unkeep(self, identifier: bytes) -> bool:
        """The key of a job that waits need wait no more; true if that lets another one go."""
        key = self.keys.unkeep(identifier)
        return key is not None and self.give(key, 1)

    def wake(self, now: int) -> None:
        """The keys whose rate lets them go on have turns again."""
        while self._wakes and self._wakes[0][0] <= now:
            _, key = heappop(self._wakes)
            self._waking.discard(key)
            self._let_go(key)

    def let_all_go(self) -> None:
        """What keys may do has changed: see anew which may go."""
        self._wakes.clear()
        self._waking.clear()
        for key in list(self._held):
            self._let_go(key)
        self._stir()

    @property
    def wake_at(self) -> int | None:
        """When to call `wake`; None for never."""
        return self._wakes[0][0] if self._wakes else None

    def _let_go(self, key: bytes) -> bool:
        lanes = self._held.pop(key, ())
        for lane in lanes:
            self._join(lane)
        stirs = self.resting
        self._stir()
        return stirs or bool(lanes)

    def _hold(self, lane: Lane) -> None:
        """It stands first in its level, as it was its turn."""
        rank, key = lane.place
        self._levels[rank].remove(lane)
        self._drop_empty(rank)
        lane.quota = 0
        self._owed = max(0, self._owed - 1)
        self._held.setdefault(key, []).append(lane)
        self.wake_later(key)

    def wake_later(self, key: bytes, *, kept: bool = False) -> None:
        """Wake the key when its rate lets the next one go, if that is what holds it."""
        at = self.keys.next_at(key, kept=kept)
        if at is not None and key not in self._waking:
            self._waking.add(key)
            heappush(self._wakes, (at, key))

    def _stir(self) -> None:
        self._dry = 0
        self.resting = False
        if self._passed:
            self._start_walk()

    def _take_from(self, lane: Lane, want: int, taken: list[tuple[Place, int, bytes]], tick: Tick) -> None:
        place = lane.place
        while want > 0:
            if not lane.blocks and lane.more and not (lane.returned and self._before_cursor(lane)):
                self._load(lane)
            if lane.returned and (not lane.blocks or lane.returned[0][0] <= self._head(lane.blocks[0])):
                sequence, identifier = heappop(lane.returned)
                tick.take_ready(lane.prefix + rows.number8(sequence) + rows.RETURNED)
                taken.append((place, sequence, identifier))
                self._count(lane, -1)
                want -= 1
                continue
            if not lane.blocks:
                return
            block = lane.blocks[0]
            start = block.taken
            count = min(want, len(block.ids) - start)
            if lane.returned:
                count = min(count, max(1, lane.returned[0][0] - self._head(block)))
            sequence = block.first + start
            taken += [(place, sequence + n, block.ids[start + n]) for n in range(count)]
            block.taken += count
            want -= count
            self._count(lane, -count)
            if block.taken == len(block.ids):
                lane.blocks.popleft()
                tick.take_ready(block.key)

    def _leave(self, lane: Lane, tick: Tick) -> None:
        """Forget a guest, which was read for one turn; its next turn begins where this one ended."""
        if not lane.jobs and not lane.more:
            return
        if lane.blocks and lane.blocks[0].taken:
            block = lane.blocks[0]
            tick.take_ready(block.key)
            tick.put_ready(lane.prefix + rows.number8(self._head(block)), rows.pack(block.ids[block.taken :]))
        self._count(lane, -lane.jobs)
        rank = lane.place[0]
        self._left = rank if self._left is None else min(rank, self._left)

    @staticmethod
    def _head(block: Block) -> int:
        return block.first + block.taken

    @staticmethod
    def _before_cursor(lane: Lane) -> bool:
        return lane.prefix + rows.number8(lane.returned[0][0]) + rows.RETURNED < lane.cursor

    def _count(self, lane: Lane, jobs: int) -> None:
        lane.jobs += jobs
        self._budget.jobs += jobs

    # ---- lanes

    def _lane(self, place: Place) -> Lane | None:
        """The lane in memory, made if it is not; None if memory has no room and its rows are to be found on disk."""
        lane = self._lanes.get(place)
        if lane is not None:
            return lane
        if self._budget.lanes >= self._budget.max_lanes:
            self.complete = False
            if rows.lane_prefix(self._queue, *place) < self.explored:
                if place[0] < self.explored[len(rows.queue_prefix(self._queue))]:
                    self._start_walk()  # a lane of a better rank must not wait until the walk comes round
                else:
                    self._left = place[0]
            return None
        return self._admit(Lane(self._queue, place, self.floor, more=not self.complete))

    def _admit(self, lane: Lane) -> Lane:
        self._lanes[lane.place] = lane
        self._budget.lanes += 1
        return self._join(lane)

    def _join(self, lane: Lane) -> Lane:
        """It has turns from now on, behind the others of its rank."""
        rank = lane.place[0]
        level = self._levels.get(rank)
        if level is None:
            self._levels[rank] = deque((lane,))
            self._ranks.append(rank)
            self._ranks.sort()
        else:
            level.append(lane)
        return lane

    def _remove(self, lane: Lane) -> None:
        self._count(lane, -lane.jobs)
        self._budget.lanes -= 1
        del self._lanes[lane.place]
        rank = lane.place[0]
        self._levels[rank].remove(lane)
        self._drop_empty(rank)

    def _drop_empty(self, rank: int) -> None:
        if not self._levels[rank]:
            del self._levels[rank]
            self._ranks.remove(rank)

    def _next_lane(self) -> Lane | None:
        best = self._levels[self._ranks[0]][0] if self._ranks else None
        if self._owed:
            if best is not None and best.place[0] <= self.explored[len(rows.queue_prefix(self._queue))]:
                return best
            self._owed = 0
        if self.complete or (best is not None and self._parked is not None and best.place[0] < self._parked):
            return best
        return self._explore(best) or best

    def _explore(self, best: Lane | None) -> Lane | None:
        """The next lane on disk that is not in memory and not of a worse rank than ``best``; None if there is none."""
        self._parked = None
        prefix = rows.queue_prefix(self._queue)
        end = rows.beyond(prefix)
        skipped = 0
        while True:
            self.scans += 1
            row = next(self._view.scan("ready", self.explored or prefix, end), None)
            left = self._left
            if left is not None and (row is None or row[0][len(prefix)] > left):  # back to the guests of that rank
                self._dry += 1
                self._left = None
                if self._dry <= DRY_WALKS:
                    self.explored = prefix + bytes((left,))
                    if best is not None and best.place[0] == left:
                        self._owed = len(self._levels[left])
                        return None
                    continue
                self._dry = 0
                self._passed = True  # until the ring is stirred
            if row is None and self._passed:
                self.resting = best is None
                return None
            if row is None:
                self.complete = True  # every lane was met: it is in memory, or nothing is left in it
                self._start_walk()
                return None
            rank, key, _, _ = rows.split_ready_key(self._queue, row[0])
            if best is not None and rank > best.place[0]:
                self._parked = rank
                self.explored = row[0]
                return None
            place = (rank, key)
            self.explored = rows.beyond(rows.lane_prefix(self._queue, *place))
            if place in self._lanes:  # then it is of the rank of `best`, which may go first
                skipped += 1
                if skipped == WALK_STEPS:
                    return None
                continue
            lane = Lane(self._queue, place, self.floor, more=True)
            if self._budget.lanes < self._budget.max_lanes:
                self._admit(lane)
                self._levels[rank].rotate(1)  # found lanes have their first turn at once
            return lane

    def _start_walk(self) -> None:
        self.explored = b""
        self._parked = None
        self._left = None
        self._passed = False
        self._owed = 0

    # ---- windows

    def _has_room(self, lane: Lane, jobs: int) -> bool:
        return self._budget.jobs + jobs <= self._budget.max_jobs and lane.jobs + jobs <= max(self.window, jobs)

    def _empty_window(self, lane: Lane) -> None:
        self._count(lane, -lane.jobs)
        lane.blocks.clear()
        lane.returned.clear()
        lane.more = True
        lane.cursor = lane.prefix + rows.number8(self.floor)
        lane.reach = 0

    def _load(self, lane: Lane) -> None:
        """Read the next blocks of the lane."""
        self.scans += 1
        rows_on_disk = self._view.scan("ready", lane.cursor, rows.beyond(lane.prefix))
        loaded = 0
        for key, value in rows_on_disk:
            ids = rows.unpack(value)
            sequence = int.from_bytes(key[len(lane.prefix) :][:8], "big")
            came_back = len(key) > len(lane.prefix) + 8
            if came_back and (lane.place[0], sequence, ids[0]) in self.aside:
                continue
            lane.blocks.append(Block(key, sequence, ids))
            lane.reach = max(lane.reach, sequence + len(ids))
            self._count(lane, len(ids))
            loaded += 1
            if loaded == limits.LOAD_BLOCKS:
                lane.cursor = key + b"\0"
                return
        lane.more = False
