"""What of a lane is in memory: its window, in blocks as they lie on disk, within a budget for all lanes together."""

from collections import deque

from zbroker import limits
from zbroker.core import rows

Place = tuple[int, bytes]
"""Rank and key: which lane. It sorts as the lanes are served."""


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

    __slots__ = ("blocks", "cursor", "jobs", "more", "place", "prefix", "quota", "reach", "returned")

    def __init__(self, queue: str, place: Place, floor: int, *, more: bool) -> None:
        self.place = place
        self.prefix = rows.lane_prefix(queue, *place)
        self.blocks: deque[Block] = deque()
        self.returned: list[tuple[int, bytes]] = []  # a heap of (sequence, id): jobs that came back
        self.jobs = 0  # entries in blocks and returned
        self.more = more  # whether rows on disk may lie behind the window
        self.cursor = self.prefix + rows.number8(floor)  # from this key on, rows are not in the window
        self.reach = 0  # the sequence behind the last in a block that was read: the cursor only passed its first
        self.quota = 0  # jobs left of its turn; 0 between two
