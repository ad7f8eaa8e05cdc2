"""The narrow interface between the broker and whatever keeps its rows.

Owns the names of the keyspaces, the shapes of rows and ranges, the `Store` protocol and the errors a store
may raise. Never knows a storage engine, a file, or what a key or a value means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from zclient.errors import ZError

KEYSPACES: tuple[str, ...] = (
    "jobs",
    "payloads",
    "changes",
    "ready",
    "timers",
    "deliveries",
    "edges",
    "unique",
    "heads",
    "producers",
    "dead",
    "history",
    "results",
    "topics",
    "schedules",
    "workflows",
    "batches",
    "meta",
)
"""Every keyspace there is; what its keys and values are stands in docs/storage.md."""

Rows = dict[str, dict[bytes, bytes | None]]
"""Keyspace -> key -> value. The values are absolute, and `None` deletes the row."""

Range = tuple[str, bytes, bytes]
"""Keyspace, first key of the range, first key beyond it. Where start >= stop the range is empty."""


class StoreError(ZError):
    """The base of everything a store raises on purpose. The text says what to do about it."""

    exit_code = 6
    code = "store"


class StoreUnknown(StoreError):
    """No store has the name that was asked for."""

    exit_code = 2


class StoreFull(StoreError):
    """A write was refused, for want of disk space or because the store would have had to stall.

    Nothing of it was applied. The same rows may be written again, unchanged.
    """


class StoreFailed(StoreError):
    """A read, a write or a sync failed and its outcome is unknown.

    The process must stop: what is on disk shows only when the store is opened afresh.
    """


class StoreLocked(StoreError):
    """Another process, or another store in this one, holds the directory."""


class StoreTooNew(StoreError):
    """The directory was written by a newer release, in a format this one does not know."""


class StoreBehind(StoreError):
    """The store reaches less far than its watermark: data that was confirmed is missing."""


class StoreCorrupt(StoreError):
    """The store refuses to open, because what is on disk is damaged or incomplete."""


class Store(Protocol):
    """Ordered rows of bytes in named keyspaces, with atomic writes that become durable with `sync`.

    One thread at a time may use a store. A keyspace that is not in `KEYSPACES` raises `KeyError`, before anything
    was applied.
    """

    @property
    def path(self) -> Path | None:
        """The directory that the store lives in; None if it lives in memory only."""
        ...

    def get(self, space: str, key: bytes) -> bytes | None:
        """The value of one row, None if there is no such row."""
        ...

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        """The values of many rows, in the order of `keys`; None where there is no such row."""
        ...

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The rows with start <= key < stop, in the order of their keys, or against it.

        Reads lazily, and never walks beyond the two bounds, in neither direction. What it yields is the state at the
        time of the call: a later write changes nothing in it. A scan should be short-lived, since it keeps the
        rows of its time from being removed, and must be gone before the store is closed.
        """
        ...

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        """Apply puts, then deletes, then the deletion of ranges, all or nothing. Not durable before `sync`.

        Raises:
            StoreFull: refused, nothing applied; may be tried again unchanged.
            StoreFailed: nobody knows; the process must stop.
        """
        ...

    def sync(self) -> None:
        """Make everything written so far durable, against a loss of power as well.

        Raises:
            StoreFailed: nobody knows what is on disk; the process must stop.
        """
        ...

    def sequence(self) -> int:
        """The number of the last write: it grows with every row and range written, over restarts as well."""
        ...

    def free_bytes(self) -> int | None:
        """Room left for the store, in bytes; None if nothing bounds it."""
        ...

    def used_bytes(self) -> int:
        """What the store takes up now, in bytes."""
        ...

    def close(self) -> None:
        """Make everything durable and give the directory back. A second call does nothing.

        Raises:
            StoreFailed: the last writes may be lost; the directory is given back all the same.
        """
        ...
