"""Stores: what keeps the broker's rows. Found by name, used through one narrow interface.

Owns the names. Importing this package loads no storage engine; opening a store does.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from zbroker.storage.interface import (
    KEYSPACES,
    Range,
    Rows,
    Store,
    StoreBehind,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreTooNew,
    StoreUnknown,
)

__all__ = [
    "ENTRY_POINTS",
    "KEYSPACES",
    "Range",
    "Rows",
    "Store",
    "StoreBehind",
    "StoreCorrupt",
    "StoreError",
    "StoreFailed",
    "StoreFull",
    "StoreLocked",
    "StoreTooNew",
    "StoreUnknown",
    "open_store",
    "store_names",
]

ENTRY_POINTS = "zbroker.stores"
"""The entry point group of stores from elsewhere: a callable that takes the path (or None) and returns a `Store`."""

_BUILT_IN = {
    "rocksdb": EntryPoint("rocksdb", "zbroker.storage.rocks:open_rocksdb", ENTRY_POINTS),
    "sqlite": EntryPoint("sqlite", "zbroker.storage.sqlite:open_sqlite", ENTRY_POINTS),
    "memory": EntryPoint("memory", "zbroker.storage.memory:MemoryStore", ENTRY_POINTS),
}


def store_names() -> list[str]:
    """The names that `open_store` knows here."""
    return sorted({*_BUILT_IN, *entry_points(group=ENTRY_POINTS).names})


def open_store(name: str, path: Path | None) -> Store:
    """Open the store called `name` in the directory `path`, which the memory store does without.

    Raises:
        StoreUnknown: no store has this name.
        StoreError: the store refuses to open; see its subclasses.
    """
    found = _BUILT_IN.get(name)
    if found is None:
        found = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
    if found is None:
        raise StoreUnknown(f"there is no store {name!r}: use one of {', '.join(store_names())}")
    store: Store = found.load()(path)
    return store
