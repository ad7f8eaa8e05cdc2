"""The durable stores against the one in memory: any sequence of writes, scans and restarts shows the same rows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zbroker.storage import Range, Rows, open_store
from zbroker.storage.memory import MemoryStore

Scan = Iterator[tuple[bytes, bytes]]

SPACES = ("jobs", "ready", "changes")
spaces = st.sampled_from(SPACES)
# Few and short keys, so that writes, ranges and bounds meet.
keys = st.binary(max_size=2).map(lambda key: bytes(byte % 4 for byte in key))
values = st.sampled_from([b"", b"a", b"b", b"x" * 5000])
rows_of_a_write = st.dictionaries(spaces, st.dictionaries(keys, st.none() | values, max_size=6), max_size=3)
ranges_of_a_write = st.lists(st.tuples(spaces, keys, keys), max_size=2)


class TwoStores(RuleBasedStateMachine):
    name: str

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="zbroker-model-"))
        self.durable = open_store(self.name, self.folder / "data")
        self.memory = MemoryStore()
        self.begun: list[tuple[Scan, Scan]] = []

    @rule(rows=rows_of_a_write, ranges=ranges_of_a_write)
    def write(self, rows: Rows, ranges: list[Range]) -> None:
        self.durable.write(rows, ranges)
        self.memory.write(rows, ranges)

    @rule()
    def sync(self) -> None:
        self.durable.sync()

    @rule()
    def reopen(self) -> None:
        reached = self.durable.sequence()
        self.begun.clear()
        self.durable.close()
        self.durable = open_store(self.name, self.folder / "data")
        assert self.durable.sequence() >= reached

    @rule(space=spaces, start=keys, stop=keys, backwards=st.booleans())
    def scan(self, space: str, start: bytes, stop: bytes, backwards: bool) -> None:
        assert list(self.durable.scan(space, start, stop, backwards=backwards)) == list(
            self.memory.scan(space, start, stop, backwards=backwards)
        )

    @rule(space=spaces, backwards=st.booleans(), taken=st.integers(0, 3), rows=rows_of_a_write)
    def scan_over_a_write(self, space: str, backwards: bool, taken: int, rows: Rows) -> None:
        scans = [store.scan(space, b"", b"\xff", backwards=backwards) for store in (self.durable, self.memory)]
        begun = [[row for row, _ in zip(scan, range(taken))] for scan in scans]
        self.write(rows, [(space, b"\x01", b"\x02")])
        assert begun[0] == begun[1]
        assert list(scans[0]) == list(scans[1])

    @precondition(lambda self: len(self.begun) < 6)
    @rule(space=spaces, start=keys, backwards=st.booleans())
    def begin_a_scan(self, space: str, start: bytes, backwards: bool) -> None:
        durable, memory = (
            store.scan(space, start, b"\xff", backwards=backwards) for store in (self.durable, self.memory)
        )
        self.begun.append((durable, memory))

    @precondition(lambda self: self.begun)
    @rule(which=st.integers(0, 5), taken=st.integers(0, 3))
    def go_on_with_a_scan(self, which: int, taken: int) -> None:
        durable, memory = self.begun[which % len(self.begun)]
        assert list(islice(durable, taken)) == list(islice(memory, taken))

    @precondition(lambda self: self.begun)
    @rule(which=st.integers(0, 5), to_the_end=st.booleans())
    def end_a_scan(self, which: int, to_the_end: bool) -> None:
        durable, memory = self.begun.pop(which % len(self.begun))
        if to_the_end:
            assert list(durable) == list(memory)

    @rule(space=spaces, wanted=st.lists(keys, max_size=8))
    def get_many(self, space: str, wanted: list[bytes]) -> None:
        found = self.durable.get_many(space, wanted)
        assert found == self.memory.get_many(space, wanted)
        assert found == [self.durable.get(space, key) for key in wanted]

    @invariant()
    def the_same_rows(self) -> None:
        for space in SPACES:
            assert list(self.durable.scan(space, b"", b"\xff")) == list(self.memory.scan(space, b"", b"\xff"))

    def teardown(self) -> None:
        self.begun.clear()
        self.durable.close()
        shutil.rmtree(self.folder)


class RocksAndMemory(TwoStores):
    name = "rocksdb"


class SqliteAndMemory(TwoStores):
    name = "sqlite"


TestRocks, TestSqlite = RocksAndMemory.TestCase, SqliteAndMemory.TestCase
TestRocks.settings = TestSqlite.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
