"""A disk that forgets: what was written and not synced may be gone after a loss of power, and it fills up and fails.

It owns the rows, and what can still be lost of them. It tells whoever asked (``settled``) which writes are there for
good. The rows themselves lie in the memory store, which the conformance suite holds to the same contract as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.simulation.world import World
from zbroker.storage.interface import Range, Rows, StoreFailed, StoreFull
from zbroker.storage.memory import MemoryStore


class Died(BaseException):
    """The process died at this place."""


Undo = list[tuple[str, bytes, bytes | None]]


class Disk:
    """What outlives the broker's process. ``settled`` is called with each write that will not be lost, in order."""

    def __init__(self, world: World, settled: Callable[[Rows, Sequence[Range]], None]) -> None:
        self.rows = MemoryStore()
        self.mishap = ""  # what happens next: "fail write", "fail sync", "fail read", "die before|after write|sync"
        self.refusals = 0  # so many writes more are refused for space
        self.low = False  # there is less room than the floor
        self.slow_ms = 0.0  # what the last sync took beyond the usual
        self._world = world
        self._settled = settled
        self._unsynced: list[tuple[Undo, Rows, Sequence[Range]]] = []

    @property
    def unsynced(self) -> int:
        """Writes that a loss of power may take."""
        return len(self._unsynced)

    def mount(self) -> MountedDisk:
        """A store for the next process."""
        return MountedDisk(self)

    def process_died(self) -> None:
        """The system lives: what was handed to it is as good as synced."""
        self._settle(len(self._unsynced))

    def power_lost(self) -> None:
        """Of what was not synced a part from its beginning may be there. A write that was torn is none: its checksum
        does not fit."""
        kept = self._world.random.randint(0, len(self._unsynced))
        for undo, _, _ in reversed(self._unsynced[kept:]):
            for space, key, value in reversed(undo):
                self.rows.write({space: {key: value}}, ())
        del self._unsynced[kept:]
        self._settle(kept)

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreFull("the simulated disk is full")
        self._die("die before write")
        if self._met("fail write"):
            if self._world.chance(0.5):
                self._write(rows, ranges)
            raise StoreFailed("a write of the simulated disk failed")
        self._write(rows, ranges)
        self._die("die after write")

    def sync(self) -> None:
        self._die("die before sync")
        if self._met("fail sync"):
            raise StoreFailed("a sync of the simulated disk failed")
        self._settle(len(self._unsynced))
        self._die("die after sync")

    def read(self) -> None:
        """Called before each read while one is to fail."""
        if self._met("fail read"):
            raise StoreFailed("a read of the simulated disk failed")

    def _write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        get = self.rows.get
        undo = [(space, key, get(space, key)) for space, changes in rows.items() for key in changes]
        for space, start, stop in ranges:
            undo += [(space, key, value) for key, value in self.rows.scan(space, start, stop)]
        self.rows.write(rows, ranges)
        self._unsynced.append((undo, rows, ranges))

    def _settle(self, count: int) -> None:
        settled, self._unsynced = self._unsynced[:count], self._unsynced[count:]
        for _, rows, ranges in settled:
            self._settled(rows, ranges)

    def _met(self, mishap: str) -> bool:
        if self.mishap != mishap:
            return False
        self.mishap = ""
        return True

    def _die(self, place: str) -> None:
        if self._met(place):
            raise Died(place)


class MountedDisk:
    """The disk as a `Store` of one process."""

    path: Path | None = None

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._rows = disk.rows
        self.write = disk.write
        self.sync = disk.sync
        self.sequence = disk.rows.sequence
        self.used_bytes = disk.rows.used_bytes

    def get(self, space: str, key: bytes) -> bytes | None:
        if self._disk.mishap:
            self._disk.read()
        return self._rows.get(space, key)

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        if self._disk.mishap:
            self._disk.read()
        return self._rows.get_many(space, keys)

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if self._disk.mishap:
            self._disk.read()
        return self._rows.scan(space, start, stop, backwards=backwards)

    def free_bytes(self) -> int | None:
        return 0 if self._disk.low else None

    def close(self) -> None:
        """Nothing to give back: the disk outlives the process."""
