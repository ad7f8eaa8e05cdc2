"""The stores that the conformance suite runs on. A further store of ours is one more line in `STORES`.

One that is installed beside is named in the environment: `ZBROKER_TEST_STORES=tape python -m pytest
tests/storage/test_conformance.py`; several names have commas between them.

Owns how a test makes, reopens and fills a store. Never knows what is being tested.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zbroker.storage import Store, open_store

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kind:
    """A store by name, and whether its rows outlive the object."""

    name: str
    durable: bool

    def open(self, path: Path) -> Store:
        return open_store(self.name, path / "data" if self.durable else None)


STORES = [
    Kind("rocksdb", durable=True),
    Kind("sqlite", durable=True),
    Kind("memory", durable=False),
    *(Kind(name, durable=True) for name in os.environ.get("ZBROKER_TEST_STORES", "").split(",") if name),
]


def fill(store: Store, space: str, *keys: bytes, value: bytes = b"v") -> None:
    """Write rows that all have one value."""
    store.write({space: dict.fromkeys(keys, value)}, [])


def keys(
    store: Store, space: str, start: bytes = b"", stop: bytes = b"\xff" * 8, *, backwards: bool = False
) -> list[bytes]:
    """The keys of a scan."""
    return [key for key, _ in store.scan(space, start, stop, backwards=backwards)]


def in_own_mounts(*program: str) -> list[str]:
    """A command line that runs a program whose mounts nobody else sees; without root, as root of its own."""
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *program]
