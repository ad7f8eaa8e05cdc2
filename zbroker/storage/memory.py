"""The store that keeps its rows in memory, for durability `memory` and for tests.

Owns one sorted map per keyspace. Never touches a file, and keeps nothing beyond the life of the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sortedcontainers import SortedDict

from zbroker.storage.interface import KEYSPACES, Range, Rows


class MemoryStore:
    """A `Store` in memory. It behaves as the durable one does, except that it dies with the process.

    `close` forgets nothing, so that a test can hand the same rows to the next broker.
    """

    path: Path | None = None

    def __init__(self, path: Path | None = None) -> None:
        """`path` is taken because every store takes one, and is not used."""
        self._spaces: dict[str, Any] = {space: SortedDict() for space in KEYSPACES}
        self._scans: dict[str, WeakSet[_Scan]] = {space: WeakSet() for space in KEYSPACES}
        self._sequence = 0
        self._bytes = 0

    def get(self, space: str, key: bytes) -> bytes | None:
        value: bytes | None = self._spaces[space].get(key)
        return value

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        return list(map(self._spaces[space].get, keys))

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        rows = self._spaces[space]
        if start >= stop:
            return iter(())
        scan = _Scan(rows, start, stop, backwards)
        self._scans[space].add(scan)
        return scan

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        touched = {space: self._spaces[space] for space in (*rows, *(range_[0] for range_ in ranges))}
        for space in touched:
            scans = self._scans[space]
            for scan in scans:
                scan.detach()
            scans.clear()
        for space, changes in rows.items():
            self._apply(touched[space], changes)
        for space, start, stop in ranges:
            if start < stop:
                self._apply(touched[space], dict.fromkeys(touched[space].irange(start, stop, (True, False)), None))
                self._sequence += 1

    def sync(self) -> None:
        """Nothing to do: what is written is as durable as it will ever be."""

    def sequence(self) -> int:
        return self._sequence

    def free_bytes(self) -> int | None:
        return None

    def used_bytes(self) -> int:
        """Keys and values only; the objects around them come on top."""
        return self._bytes

    def close(self) -> None:
        """Nothing to give back."""

    def _apply(self, rows: Any, changes: dict[bytes, bytes | None]) -> None:
        grown = 0
        for key, value in changes.items():
            before = rows.pop(key, None) if value is None else rows.get(key)
            if before is not None:
                grown -= len(key) + len(before)
            if value is not None:
                rows[key] = value
                grown += len(key) + len(value)
        self._sequence += len(changes)
        self._bytes += grown


class _Scan(Iterator[tuple[bytes, bytes]]):
    """A lazy scan that a write turns into a copy of its rest.

    Most scans end before the next write and copy nothing; one that is held over a write keeps yielding the rows of
    its own time, as a scan of the durable store does.
    """

    def __init__(self, rows: Any, start: bytes, stop: bytes, backwards: bool) -> None:
        self._rows = rows
        self._keys: Iterator[bytes] = rows.irange(start, stop, (True, False), backwards)
        self._rest: Iterator[tuple[bytes, bytes]] | None = None

    def __next__(self) -> tuple[bytes, bytes]:
        if self._rest is not None:
            return next(self._rest)
        key = next(self._keys)
        return key, self._rows[key]

    def detach(self) -> None:
        """Copy what is still to come. Called before the first write to the keyspace after the scan began."""
        if self._rest is None:
            rows = self._rows
            self._rest = iter([(key, rows[key]) for key in self._keys])
