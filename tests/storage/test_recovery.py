"""What a start makes of a directory that a crash, a bad disk or a careless hand left behind.

The rule throughout: what was synced is there, or the store refuses to open; and a refusal changes nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from tests.storage.stores import keys
from tests.storage.writer import crash
from zbroker.storage import Store, StoreBehind, StoreCorrupt, StoreError, open_store
from zbroker.storage.repair import bytes_beyond, repair
from zbroker.storage.rocks import RocksStore
from zbroker.storage.watermark import Watermark, read_watermark

SYNCED, UNSYNCED = 300, 5


class Crashed(NamedTuple):
    """A directory after a crash, with its one log file and the sequence numbers that the process reached."""

    path: Path
    log: Path
    synced: int
    last: int


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    path = tmp_path_factory.mktemp("crashed") / "data"
    synced, last = crash("rocksdb", path, synced=SYNCED, unsynced=UNSYNCED)
    return Crashed(path, newest_log(path), synced, last)


@pytest.fixture
def crashed(pattern: Crashed, tmp_path: Path) -> Crashed:
    path = tmp_path / "data"
    shutil.copytree(pattern.path, path)
    return pattern._replace(path=path, log=path / "rocksdb" / pattern.log.name)


def newest_log(path: Path) -> Path:
    return logs(path)[-1]


def logs(path: Path) -> list[Path]:
    return sorted((path / "rocksdb").glob("*.log"))


def contents(path: Path) -> dict[Path, bytes]:
    """Every file that matters to recovery. RocksDB's own report and ours on who holds the directory do not."""
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and not file.name.startswith("LO")}


def opened(path: Path) -> Store:
    return open_store("rocksdb", path)


def refused(path: Path, error: type[StoreError], match: str) -> None:
    """The store refuses to open, with a word on what to do, and leaves the directory as it was."""
    before = contents(path)
    with pytest.raises(error, match=match):
        opened(path)
    assert contents(path) == before


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def append(file: Path, garbage: bytes) -> None:
    with open(file, "ab") as log:
        log.write(garbage)


def test_a_killed_process_loses_nothing_it_wrote(crashed: Crashed) -> None:
    store = opened(crashed.path)
    assert store.sequence() == crashed.last
    assert keys(store, "jobs") == [b"%06d" % number for number in range(SYNCED + UNSYNCED)]
    store.close()
    # What the log held counts as confirmed from here on: somebody may have been told of it.
    assert read_watermark(crashed.path / "WATERMARK") == crashed.last


def test_the_watermark_is_exact_after_a_crash(crashed: Crashed) -> None:
    assert read_watermark(crashed.path / "WATERMARK") == crashed.synced


def test_the_newest_log_is_gone(crashed: Crashed) -> None:
    crashed.log.unlink()
    refused(crashed.path, StoreBehind, f"reaches sequence number 0, and {crashed.synced} was confirmed")
    with pytest.raises(StoreBehind):
        repair(crashed.path)


def test_a_log_that_was_misplaced_can_be_put_back(crashed: Crashed, tmp_path: Path) -> None:
    crashed.log.rename(tmp_path / crashed.log.name)
    refused(crashed.path, StoreBehind, "Put the missing files back")
    (tmp_path / crashed.log.name).rename(crashed.log)
    store = opened(crashed.path)
    assert len(keys(store, "jobs")) == SYNCED + UNSYNCED
    store.close()


def test_the_log_is_cut_within_the_confirmed(crashed: Crashed) -> None:
    os.truncate(crashed.log, crashed.log.stat().st_size // 2)
    refused(crashed.path, StoreBehind, "was confirmed")


def test_any_log_between_the_others_is_missed(tmp_path: Path) -> None:
    """The watermark cannot see this one: the newest log is there, and reaches far enough."""
    path = tmp_path / "data"
    # 22 MiB: the first memtable of `jobs` is flushed meanwhile, and the rows of `meta` keep its log from being dropped.
    crash("rocksdb", path, synced=380, size=60_000)
    assert len(logs(path)) > 1
    logs(path)[0].unlink()
    refused(path, StoreCorrupt, "Missing WAL")
    with pytest.raises(StoreCorrupt, match="cannot be repaired without losing confirmed data"):
        repair(path)


def test_a_bit_flipped_within_the_confirmed(crashed: Crashed) -> None:
    flip(crashed.log, crashed.log.stat().st_size // 2)
    refused(crashed.path, StoreCorrupt, "check .* --repair")
    before = contents(crashed.path)
    with pytest.raises(StoreCorrupt, match="without losing confirmed data"):
        repair(crashed.path)
    assert contents(crashed.path) == before


def test_a_bit_flipped_beyond_the_confirmed(crashed: Crashed) -> None:
    flip(crashed.log, -10)
    refused(crashed.path, StoreCorrupt, "check .* --repair")
    content = crashed.log.read_bytes()
    report = repair(crashed.path)
    assert (report.watermark, report.reached) == (crashed.synced, crashed.last - 1)
    assert 100 < report.beyond_bytes < 200
    assert report.aside == crashed.path / "aside-1"
    assert (report.aside / report.files[0]).read_bytes() == content
    assert f"confirmed was {crashed.synced}" in report.summary()
    store = opened(crashed.path)
    assert keys(store, "jobs") == [b"%06d" % number for number in range(SYNCED + UNSYNCED - 1)]
    store.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 5000, b"\xff" * 100, Random(1).randbytes(100), Random(2).randbytes(40_000), b"\x01" * 65536],
    ids=["zeros", "ones", "random", "much", "blocks"],
)
def test_garbage_behind_the_log(crashed: Crashed, garbage: bytes) -> None:
    """As a power cut may leave it. Either it is seen to be a torn end, or the repair takes it away."""
    append(crashed.log, garbage)
    try:
        store = opened(crashed.path)
    except StoreCorrupt:
        report = repair(crashed.path)
        assert report.reached == crashed.last
        assert report.beyond_bytes == len(garbage)
        store = opened(crashed.path)
    assert len(keys(store, "jobs")) == SYNCED + UNSYNCED
    store.close()


@pytest.mark.parametrize("beyond", range(1, 640, 71))
def test_the_log_ends_anywhere_beyond_the_confirmed(crashed: Crashed, beyond: int) -> None:
    """No row is there by half, and no synced one is gone."""
    end = crashed.log.stat().st_size
    unsynced = bytes_beyond(crashed.log.read_bytes(), crashed.synced)
    os.truncate(crashed.log, end - min(beyond, unsynced))
    store = opened(crashed.path)
    assert SYNCED <= len(keys(store, "jobs")) < SYNCED + UNSYNCED
    assert all(len(value) == 100 for _, value in store.scan("jobs", b"", b"z"))
    store.close()


@pytest.mark.parametrize("cut", [1, 3, 5, 7])
def test_a_write_that_a_crash_cut_is_there_whole_or_not_at_all(tmp_path: Path, cut: int) -> None:
    store = open_store("rocksdb", tmp_path / "data")
    store.write({"jobs": {b"first": b"v"}}, [])
    store.sync()
    log = newest_log(tmp_path / "data")
    before = log.stat().st_size
    store.write({space: {b"%d" % n: bytes(40) for n in range(5)} for space in ("jobs", "meta", "ready")}, [])
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    store.close()
    left = tmp_path / "copy" / "rocksdb" / log.name
    os.truncate(left, before + (left.stat().st_size - before) * cut // 8)
    copy = opened(tmp_path / "copy")
    assert [len(keys(copy, space)) for space in ("jobs", "meta", "ready")] == [1, 0, 0]
    copy.close()


def test_the_watermark_does_not_go_ahead_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "data")
    sync_log, marks = store._sync_log, list[int | None]()

    def observed(wait: bool) -> None:
        marks.append(read_watermark(tmp_path / "data" / "WATERMARK"))
        sync_log(wait)
        marks.append(read_watermark(tmp_path / "data" / "WATERMARK"))

    monkeypatch.setattr(store, "_sync_log", observed)
    for number in (1, 2, 3):
        store.write({"jobs": {b"%d" % number: b"v"}}, [])
        store.sync()
        assert read_watermark(tmp_path / "data" / "WATERMARK") == number
    assert marks == [0, 0, 1, 1, 2, 2]
    store.close()


def test_the_log_is_measured(crashed: Crashed) -> None:
    log = crashed.log.read_bytes()
    assert bytes_beyond(log, crashed.last) == 0
    assert bytes_beyond(log, 0) == len(log)
    steps = [bytes_beyond(log, sequence) for sequence in range(crashed.last + 1)]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == crashed.last + 1
    # What follows may look like the end of a record that began before.
    assert bytes_beyond(log + b"\0\0\0\0\x05\0\x04ended", crashed.last) == 12


def test_a_sound_store_is_left_alone(crashed: Crashed) -> None:
    before = contents(crashed.path)
    report = repair(crashed.path)
    assert report.problem is None
    assert report.reached == crashed.last
    assert "nothing to repair" in report.summary()
    assert contents(crashed.path) == before


def remove(name: str) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        file = path / name
        shutil.rmtree(file) if file.is_dir() else file.unlink()

    return act


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (remove("FORMAT"), "FORMAT is missing"),
        (remove("WATERMARK"), "lost its file WATERMARK"),
        (remove("rocksdb"), "lost its database"),
        (remove("rocksdb/CURRENT"), "lost its database"),
        (lambda path: (path / "FORMAT").write_text("format one"), "FORMAT is damaged"),
        (lambda path: (path / "WATERMARK").write_bytes(bytes(8192)), "WATERMARK is damaged"),
    ],
    ids=["no format", "no watermark", "no database", "no current", "format", "watermark"],
)
def test_parts_of_the_directory_are_missing(crashed: Crashed, damage: Callable[[Path], None], match: str) -> None:
    damage(crashed.path)
    refused(crashed.path, StoreCorrupt, match)


def test_a_lost_watermark_is_renewed_by_repair(crashed: Crashed) -> None:
    (crashed.path / "WATERMARK").unlink()
    report = repair(crashed.path)
    assert (report.watermark, report.reached) == (None, crashed.last)
    assert "no watermark to compare with" in report.summary()
    opened(crashed.path).close()


def test_without_a_watermark_a_repair_goes_on_without_what_is_damaged(crashed: Crashed) -> None:
    """Somebody moved it away, knowing the cost: there is no backup."""
    flip(crashed.log, crashed.log.stat().st_size // 2)
    content = crashed.log.read_bytes()
    (crashed.path / "WATERMARK").unlink()
    report = repair(crashed.path)
    assert report.watermark is None
    assert 0 < report.reached < crashed.synced
    assert "confirmed jobs may be missing" in report.summary()
    assert report.aside is not None
    assert (report.aside / crashed.log.name).read_bytes() == content
    store = opened(crashed.path)
    left = keys(store, "jobs")
    assert left == [b"%06d" % number for number in range(len(left))]
    assert 0 < len(left) < SYNCED
    store.close()
    assert read_watermark(crashed.path / "WATERMARK") == report.reached


class TestWatermark:
    def test_it_keeps_the_last_number(self, tmp_path: Path) -> None:
        file = tmp_path / "WATERMARK"
        assert read_watermark(file) is None
        watermark = Watermark(file, 7)
        assert read_watermark(file) == 7
        for sequence in (8, 9, 10):
            watermark.record(sequence, now=sequence == 9)
            assert read_watermark(file) == sequence
        watermark.close()
        assert read_watermark(file) == 10

    @pytest.mark.parametrize("torn", [0, 4096])
    def test_one_torn_slot_leaves_the_other(self, tmp_path: Path, torn: int) -> None:
        file = tmp_path / "WATERMARK"
        watermark = Watermark(file, 7)
        watermark.record(8, now=True)
        watermark.close()
        flip(file, torn + 11)
        assert read_watermark(file) in (7, 8)

    def test_it_is_synced_each_second_and_on_demand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        synced: list[int] = []
        monkeypatch.setattr("zbroker.storage.watermark.time.monotonic", lambda: clock[0])
        monkeypatch.setattr("zbroker.storage.watermark.os.fdatasync", synced.append)
        watermark = Watermark(tmp_path / "WATERMARK", 1)
        synced.clear()
        for now, at in [(False, 100.5), (False, 100.9), (True, 100.95), (False, 101.8), (False, 102.0), (False, 102.5)]:
            clock[0] = at
            watermark.record(2, now=now)
        assert len(synced) == 2
        watermark.close()
