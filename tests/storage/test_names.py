"""Stores are found by name, and none is loaded before it is opened."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from tests.storage.stores import ROOT
from zbroker import storage
from zbroker.storage import StoreError, StoreUnknown, open_store
from zbroker.storage.memory import MemoryStore


def test_the_built_in_names() -> None:
    assert {"memory", "rocksdb", "sqlite"} <= set(storage.store_names())
    assert isinstance(open_store("memory", None), MemoryStore)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(StoreUnknown, match=r"'tape'.*memory, rocksdb, sqlite"):
        open_store("tape", None)


@pytest.mark.parametrize("name", ["rocksdb", "sqlite"])
def test_what_is_durable_needs_a_directory(name: str) -> None:
    with pytest.raises(StoreError, match="--data"):
        open_store(name, None)


def test_a_store_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    tape = EntryPoint("tape", "zbroker.storage.memory:MemoryStore", storage.ENTRY_POINTS)

    def entry_points(**wanted: Any) -> EntryPoints:
        return EntryPoints([tape]).select(**wanted)

    monkeypatch.setattr(storage, "entry_points", entry_points)
    assert isinstance(open_store("tape", None), MemoryStore)
    assert storage.store_names() == ["memory", "rocksdb", "sqlite", "tape"]


def test_the_package_loads_no_engine(tmp_path: Path) -> None:
    program = (
        "import sys, zbroker.storage as s; assert not {'rocksdict', 'sqlite3'} & set(sys.modules);"
        f"s.open_store('sqlite', s.interface.Path({str(tmp_path / 'sqlite')!r})).close();"
        "s.open_store('memory', None).close(); assert 'rocksdict' not in sys.modules;"
        f"s.open_store('rocksdb', s.interface.Path({str(tmp_path / 'rocksdb')!r})).close();"
        "assert 'rocksdict' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
