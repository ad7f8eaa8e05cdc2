"""Where jobs of one queue wait: lanes, and the ring that says which lane is next.

The rows of the ``ready`` keyspace are the truth. Memory holds a *window* of each lane, its first blocks, and reads the
next when it runs out; so memory is bounded and a start reads nothing. An entry may be a *ghost* (its job was
cancelled, or taken before a restart): whoever takes an entry must check it, unless he knows that its job is fresh.

Order: the highest priority first; among the keys of one priority in turn; within a lane by sequence.
"""

from collections import deque
from heapq import heappop, heappush

from sortedcontainers import SortedSet

from zbroker import limits
from zbroker.core import rows
from zbroker.core.tick import Tick, View

Place = tuple[int, bytes]
"""Rank and key: which lane. It sorts as the lanes are served."""


WALK_STEPS = 8
"""Lanes that are in memory already and that the walk over the disk passes at once: each costs a seek."""


class Budget:
    """What all queues together hold in memory."""

    __slots__ = ("jobs", "lanes", "max_jobs", "max_lanes")

    def __init__(self, max_jobs: int = limits.RESIDENT_JOBS, max_lanes: int = limits.RESIDENT_LANES) -> None:
        self.max_jobs = max_jobs
        self.max_lanes = max_lanes
        self.jobs = 0
        self.lanes = 0


class Block:
    """Entries that came together: one row of ``ready``, of which the first ``taken`` are gone."""

    __slots__ = ("first", "ids", "key", "taken")

    def __init__(self, key: bytes, first: int, ids: list[bytes]) -> None:
        self.key = key
        self.first = first
        self.ids = ids
        self.taken = 0


class Lane:
    """The window of one (priority, key)."""

    __slots__ = ("blocks", "cursor", "jobs", "more", "place", "prefix", "reach", "returned")

    def __init__(self, queue: str, place: Place, floor: int, *, more: bool) -> None:
        self.place = place
        self.prefix = rows.lane_prefix(queue, *place)
        self.blocks: deque[Block] = deque()
        self.returned: list[tuple[int, bytes]] = []  # a heap of (sequence, id): jobs that came back
        self.jobs = 0  # entries in blocks and returned
        self.more = more  # whether rows on disk may lie behind the window
        self.cursor = self.prefix + rows.number8(floor)  # from this key on, rows are not in the window
        self.reach = 0  # the sequence behind the last in a block that was read: the cursor only passed its first


class Ring:
    """The lanes of one queue, and whose turn it is.

    ``complete`` says that every lane with entries is in memory. After a start it is not: the ring then walks over
    the ready rows from ``explored`` on, one lane a turn, until it has seen them all once.
    """

    __slots__ = (
        "_budget",
        "_lanes",
        "_left",
        "_levels",
        "_owed",
        "_parked",
        "_queue",
        "_ranks",
        "_view",
        "aside",
        "complete",
        "explored",
        "floor",
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

    # ---- entries in

    def add(self, place: Place, first: int, ids: list[bytes], tick: Tick) -> bool:
        """New jobs at the end of their lane, their sequences counting from ``first``. Whether they are in memory."""
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
        for lane in list(self._lanes.values()):
            self._remove(lane)
        self.floor = floor
        self.complete = False
        self._start_walk()

    # ---- entries out

    def take(self, want: int, tick: Tick) -> list[tuple[Place, int, bytes]]:
        """Up to ``want`` entries (place, sequence, id) in the order of service.

        Their rows leave disk in this tick once the whole block is taken. The caller checks for ghosts. Fewer than
        wanted come where no more wait, or where looking for them would take long: then `may_have_more` is true.
        """
        taken: list[tuple[Place, int, bytes]] = []
        visits = want + limits.STEP_ROWS
        while len(taken) < want and visits and self.scans < limits.TURN_SCANS:
            visits -= 1
            lane = self._next_lane()
            if lane is None:
                break
            if self._lanes.get(lane.place) is not lane:
                self._take_from(lane, 1, taken, tick)
                self._leave(lane, tick)
                continue
            level = self._levels[lane.place[0]]
            alone = len(level) == 1 and (self.complete or self._parked is not None)
            self._take_from(lane, want - len(taken) if alone else 1, taken, tick)
            if not lane.jobs and not lane.more:
                self._remove(lane)
            elif not alone:
                level.rotate(-1)
        return taken

    @property
    def may_have_more(self) -> bool:
        return bool(self._ranks) or not self.complete

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
                self._start_walk()  # a lane of a better rank must not wait until the walk comes round
            return None
        return self._admit(Lane(self._queue, place, self.floor, more=not self.complete))

    def _admit(self, lane: Lane) -> Lane:
        self._lanes[lane.place] = lane
        self._budget.lanes += 1
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
        level = self._levels[rank]
        level.remove(lane)
        if not level:
            del self._levels[rank]
            self._ranks.remove(rank)

    def _next_lane(self) -> Lane | None:
        best = self._levels[self._ranks[0]][0] if self._ranks else None
        if self._owed:
            self._owed -= 1
            if best is not None and best.place[0] <= self.explored[len(rows.queue_prefix(self._queue))]:
                return best
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
                self._left = None
                self.explored = prefix + bytes((left,))
                if best is not None and best.place[0] == left:
                    self._owed = len(self._levels[left]) - 1
                    return None
                continue
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
