"""What only the store on SQLite does: its files after a crash, its one sync, its snapshots, its errors."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.storage.stores import ROOT, fill, keys
from tests.storage.writer import crash
from zbroker.storage import (
    StoreBehind,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreLocked,
    open_store,
)
from zbroker.storage.directory import store_of
from zbroker.storage.repair import repair
from zbroker.storage.rocks import RocksStore
from zbroker.storage.sqlite import SqliteStore
from zbroker.storage.watermark import read_watermark

SYNCED, UNSYNCED = 300, 5


class Crashed(NamedTuple):
    """A directory after a crash, and the sequence numbers that the process reached."""

    path: Path
    synced: int
    last: int

    @property
    def database(self) -> Path:
        return self.path / "sqlite" / "rows.db"

    @property
    def log(self) -> Path:
        return self.path / "sqlite" / "rows.db-wal"


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    path = tmp_path_factory.mktemp("crashed") / "data"
    return Crashed(path, *crash("sqlite", path, synced=SYNCED, unsynced=UNSYNCED))


@pytest.fixture
def crashed(pattern: Crashed, tmp_path: Path) -> Crashed:
    path = tmp_path / "data"
    shutil.copytree(pattern.path, path)
    return pattern._replace(path=path)


@pytest.fixture
def closed(crashed: Crashed) -> Crashed:
    """The same directory after a clean end: all of it is in the database."""
    SqliteStore(crashed.path).close()
    assert not crashed.log.exists()
    return crashed


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "data")
    yield store
    store.close()


def contents(path: Path) -> dict[Path, bytes]:
    """Every file that matters to recovery. The index of the log, which is made anew, and LOCK do not."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in ("LOCK", "rows.db-shm"))
    return {file: content for file in files if (content := file.read_bytes())}


def refused(path: Path, error: type[StoreError], match: str) -> None:
    """The store refuses to open, with a word on what to do, and leaves the directory as it was."""
    before = contents(path)
    with pytest.raises(error, match=match):
        SqliteStore(path)
    assert contents(path) == before


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


# ---- after a crash


def test_a_killed_process_loses_nothing_it_wrote(crashed: Crashed) -> None:
    assert read_watermark(crashed.path / "WATERMARK") == crashed.synced
    store = SqliteStore(crashed.path)
    assert store.sequence() == crashed.last
    assert keys(store, "jobs") == [b"%06d" % number for number in range(SYNCED + UNSYNCED)]
    # What the log held counts as confirmed from here on, and is in the database.
    assert read_watermark(crashed.path / "WATERMARK") == crashed.last
    assert crashed.log.stat().st_size == 0
    store.close()


def test_the_log_is_gone(crashed: Crashed, tmp_path: Path) -> None:
    crashed.log.rename(tmp_path / "log")
    refused(
        crashed.path, StoreBehind, f"reaches sequence number 0, and {crashed.synced} was confirmed.*Put the missing"
    )
    with pytest.raises(StoreBehind):
        repair(crashed.path)
    shutil.copy(tmp_path / "log", crashed.log)
    store = SqliteStore(crashed.path)
    assert len(keys(store, "jobs")) == SYNCED + UNSYNCED
    store.close()


def test_the_log_is_cut_within_the_confirmed(crashed: Crashed) -> None:
    os.truncate(crashed.log, crashed.log.stat().st_size // 2)
    refused(crashed.path, StoreBehind, "was confirmed")


def test_a_bit_flipped_within_the_confirmed(crashed: Crashed) -> None:
    """SQLite would begin with what lies before it, and say nothing."""
    flip(crashed.log, crashed.log.stat().st_size // 2)
    refused(crashed.path, StoreBehind, "was confirmed")


@pytest.mark.parametrize("how", ["cut", "zeros", "garbage"])
def test_the_log_ends_anywhere_beyond_the_confirmed(crashed: Crashed, tmp_path: Path, how: str) -> None:
    """No write is there by half, and no synced one is gone."""
    content = crashed.log.read_bytes()
    # Each of the writes that were not synced is at least two pages: that of its row, and that of the sequence number.
    for beyond in range(1, UNSYNCED * 2 * 4096, 1500):
        path = tmp_path / str(beyond)
        shutil.copytree(crashed.path, path)
        end = {
            "cut": content[:-beyond],
            "zeros": content[:-beyond] + bytes(beyond),
            "garbage": content + bytes([1] * beyond),
        }
        (path / "sqlite" / "rows.db-wal").write_bytes(end[how])
        store = SqliteStore(path)
        rows = list(store.scan("jobs", b"", b"z"))
        assert len(rows) == SYNCED + store.sequence() - crashed.synced
        is_short = how != "garbage" and end[how] != content  # it may have ended with a zero by itself
        assert SYNCED <= len(rows) <= SYNCED + UNSYNCED - is_short
        assert all(len(value) == 100 for _, value in rows)
        store.close()


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("FORMAT", StoreCorrupt, "FORMAT is missing"),
        ("WATERMARK", StoreCorrupt, "lost its file WATERMARK"),
        ("sqlite", StoreCorrupt, "lost its database, the folder sqlite"),
        ("sqlite/rows.db", StoreCorrupt, "the file rows.db"),
    ],
)
def test_parts_of_the_directory_are_missing(crashed: Crashed, name: str, error: type[StoreError], match: str) -> None:
    part = crashed.path / name
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    refused(crashed.path, error, match)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda content: b"", "lacks tables"),
        (lambda content: bytes(len(content)), "damaged"),
        (lambda content: content[: len(content) // 2], "damaged"),
        (lambda content: content[:100] + bytes(3996) + content[4096:], "damaged"),
    ],
    ids=["empty", "zeros", "half", "no schema"],
)
def test_a_database_that_is_none(closed: Crashed, damage: Callable[[bytes], bytes], match: str) -> None:
    closed.database.write_bytes(damage(closed.database.read_bytes()))
    refused(closed.path, StoreCorrupt, match)
    with pytest.raises(StoreCorrupt):
        repair(closed.path)


def test_a_row_that_is_not_what_was_written(closed: Crashed) -> None:
    """SQLite does not notice: its pages have no checksums."""
    store = SqliteStore(closed.path)
    value = store.get("jobs", b"000100")
    store.close()
    assert value is not None
    flip(closed.database, closed.database.read_bytes().index(value) + 50)
    store = SqliteStore(closed.path)
    assert store.get("jobs", b"000099") is not None
    for read in (
        lambda: store.get("jobs", b"000100"),
        lambda: store.get_many("jobs", [b"000099", b"000100"]),
        lambda: list(store.scan("jobs", b"", b"z")),
    ):
        with pytest.raises(StoreFailed, match="the row b'000100' is damaged"):
            read()
    store.close()


def test_a_page_that_is_none(closed: Crashed) -> None:
    content = closed.database.read_bytes()
    page = content.index(b"000100") // 4096 * 4096
    closed.database.write_bytes(content[:page] + b"\x55" * 4096 + content[page + 4096 :])
    store = SqliteStore(closed.path)
    with pytest.raises(StoreFailed, match="malformed"):
        list(store.scan("jobs", b"", b"z"))
    with pytest.raises(StoreFailed, match="malformed"):
        store.get_many("jobs", [b"000100"])
    store.close()


def test_a_lost_watermark_is_renewed_by_repair(crashed: Crashed) -> None:
    (crashed.path / "WATERMARK").unlink()
    report = repair(crashed.path)
    assert (report.watermark, report.reached) == (None, crashed.last)
    assert "nothing to repair" in repair(crashed.path).summary()
    SqliteStore(crashed.path).close()


# ---- directories


def test_a_directory_is_of_one_store(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "sqlite").close()
    RocksStore(tmp_path / "rocksdb").close()
    assert [store_of(tmp_path / name) for name in ("sqlite", "rocksdb", "none")] == ["sqlite", "rocksdb", None]
    for name, other in (("sqlite", "rocksdb"), ("rocksdb", "sqlite")):
        before = sorted((tmp_path / name).rglob("*"))
        with pytest.raises(StoreError, match=f"is of the store {name}, not {other}: start with --store {name}"):
            open_store(other, tmp_path / name)
        assert sorted((tmp_path / name).rglob("*")) == before


def test_a_directory_that_names_no_store_is_of_rocksdb(tmp_path: Path) -> None:
    path = tmp_path / "data"
    RocksStore(path).close()
    (path / "FORMAT").write_text("zbroker format 1\n")
    assert store_of(path) == "rocksdb"
    with pytest.raises(StoreError, match="of the store rocksdb"):
        SqliteStore(path)
    RocksStore(path).close()


def test_what_another_store_left_is_not_covered_up(tmp_path: Path) -> None:
    path = tmp_path / "data"
    RocksStore(path).close()
    for name in ("FORMAT", "WATERMARK"):
        (path / name).unlink()
    refused(path, StoreCorrupt, "FORMAT is missing")


@pytest.mark.parametrize("there", [[], ["sqlite"], ["sqlite", "WATERMARK"]], ids=str)
def test_a_creation_that_was_cut_short_is_finished(tmp_path: Path, there: list[str]) -> None:
    path = tmp_path / "data"
    SqliteStore(path).close()
    (path / "FORMAT").unlink()
    for name in ("sqlite", "WATERMARK"):
        if name not in there:
            (path / name).rename(tmp_path / name)
    store = SqliteStore(path)
    fill(store, "jobs", b"a")
    store.close()
    assert (path / "FORMAT").read_text() == "zbroker format 1\nstore sqlite\n"


def test_data_without_format_and_watermark_is_refused(crashed: Crashed) -> None:
    for name in ("FORMAT", "WATERMARK"):
        (crashed.path / name).unlink()
    with pytest.raises(StoreCorrupt, match="FORMAT is missing"):
        SqliteStore(crashed.path)


# ---- durable


def test_sync_makes_the_log_durable_and_nothing_before_it(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the disk at the time of a sync is enough, and the watermark does not go ahead of it."""
    synced: list[str] = []
    sync = os.fdatasync

    def fdatasync(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        synced.append(name)
        if name == "rows.db-wal":
            shutil.copytree(tmp_path / "data", tmp_path / "copy")
        sync(fd)

    before = read_watermark(tmp_path / "data" / "WATERMARK")
    with monkeypatch.context() as patch:
        patch.setattr("zbroker.storage.sqlite.os.fdatasync", fdatasync)
        fill(store, "jobs", b"a", b"b")
        assert synced == []
        store.sync()
        assert synced[0] == "rows.db-wal"
        store.sync()
        assert synced.count("rows.db-wal") == 1  # nothing new, nothing to do
    assert read_watermark(tmp_path / "data" / "WATERMARK") == 2
    assert read_watermark(tmp_path / "copy" / "WATERMARK") == before == 0
    copy = SqliteStore(tmp_path / "copy")
    assert keys(copy, "jobs") == [b"a", b"b"]
    copy.close()


def test_a_failed_sync_ends_all_writing_and_leaves_the_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    store = SqliteStore(path)
    fill(store, "jobs", b"a")
    store.sync()
    fill(store, "jobs", b"b")

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("zbroker.storage.sqlite.os.fdatasync", fail)
        with pytest.raises(StoreFailed, match=r"a sync of the store failed.*Input/output error"):
            store.sync()
        with pytest.raises(StoreFailed):
            store.sync()
        with pytest.raises(StoreFailed):
            fill(store, "jobs", b"c")
        before = (path / "sqlite" / "rows.db").read_bytes()
        with pytest.raises(StoreFailed):
            store.close()
    store.close()
    assert (path / "sqlite" / "rows.db").read_bytes() == before
    assert (path / "sqlite" / "rows.db-wal").stat().st_size > 0
    store = SqliteStore(path)
    assert keys(store, "jobs") == [b"a", b"b"]
    store.close()


def test_an_error_of_the_disk_in_a_write(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that breaks: the system call fails, and not for want of room."""
    program = (
        "import resource, sys; from pathlib import Path; from zbroker.storage import StoreFailed, open_store\n"
        "store = open_store('sqlite', Path(sys.argv[1]))\n"
        "store.write({'jobs': {b'a': b'1'}}, []); store.sync()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "for rows in ({b'b': bytes(200_000)}, {b'c': b'3'}):\n"
        "    try:\n"
        "        store.write({'jobs': rows}, [])\n"
        "    except StoreFailed as error:\n"
        "        print(error)\n"
    )
    path = tmp_path / "data"
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    first, second = ended.stdout.splitlines()
    assert "a write of the store failed, and nobody knows what is on disk: disk I/O error" in first
    assert "closed, or failed before" in second
    store = SqliteStore(path)
    assert keys(store, "jobs") == [b"a"]
    store.close()


def test_a_write_that_another_program_holds_up_may_be_tried_again(store: SqliteStore, tmp_path: Path) -> None:
    fill(store, "jobs", b"a")
    reached = store.sequence()
    with closing(sqlite3.connect(tmp_path / "data" / "sqlite" / "rows.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(StoreFull, match="may be tried again: database is locked"):
                fill(store, "jobs", b"b")
        assert store.sequence() == reached
        assert keys(store, "jobs") == [b"a"]
        other.execute("ROLLBACK")
    fill(store, "jobs", b"b")
    assert keys(store, "jobs") == [b"a", b"b"]


def test_a_start_while_another_program_reads(crashed: Crashed, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backup does, for minutes. The log cannot be emptied, so all of it is written again and synced: nobody knows
    what the last process's syncs were worth."""
    done: list[tuple[str, int, int]] = []
    pwrite, sync = os.pwrite, os.fdatasync

    def observed(fd: int, content: bytes, place: int) -> int:
        if os.path.realpath(f"/proc/self/fd/{fd}") == os.path.realpath(crashed.log):
            done.append(("write", place, len(content)))
        return pwrite(fd, content, place)

    def synced(fd: int) -> None:
        if os.path.realpath(f"/proc/self/fd/{fd}") == os.path.realpath(crashed.log):
            done.append(("sync", 0, 0))
        sync(fd)

    with closing(sqlite3.connect(crashed.database, isolation_level=None)) as other:
        other.execute("BEGIN")
        (before,) = other.execute("SELECT number FROM sequence").fetchone()
        log = crashed.log.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("zbroker.storage.sqlite_file.os.pwrite", observed)
            patch.setattr("zbroker.storage.sqlite_file.os.fdatasync", synced)
            patch.setattr("zbroker.storage.sqlite_file.CHUNK_BYTES", 10_000)
            store = SqliteStore(crashed.path)
        assert crashed.log.read_bytes() == log
        assert [place for what, place, _ in done if what == "write"] == list(range(0, len(log), 10_000))
        assert sum(size for _, _, size in done) == len(log)
        assert done[-1] == ("sync", 0, 0)
        assert store.sequence() == crashed.last == read_watermark(crashed.path / "WATERMARK")
        fill(store, "jobs", b"new")
        store.sync()
        assert other.execute("SELECT number FROM sequence").fetchone() == (before,)
        store.close()
    with closing(SqliteStore(crashed.path)) as store:
        assert len(keys(store, "jobs")) == SYNCED + UNSYNCED + 1


def test_no_start_while_another_program_writes(crashed: Crashed) -> None:
    with closing(sqlite3.connect(crashed.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match="another program"):
            SqliteStore(crashed.path)
    SqliteStore(crashed.path).close()


# ---- snapshots


def test_a_held_scan_blocks_nobody_and_costs_no_memory(store: SqliteStore, tmp_path: Path) -> None:
    """Each of three scans keeps its own time, over enough writes for the log to be emptied many times."""
    log = tmp_path / "data" / "sqlite" / "rows.db-wal"
    fill(store, "ready", *(b"%05d" % n for n in range(1000)), value=b"0")
    scans = []
    for turn in range(3):
        scan = store.scan("ready", b"", b"z")
        assert next(scan) == (b"00000", b"%d" % turn)
        scans.append(scan)
        fill(store, "ready", *(b"%05d" % n for n in range(1000)), value=b"%d" % (turn + 1))
    for _ in range(300):
        fill(store, "jobs", *(b"%05d" % key for key in range(20)), value=os.urandom(1500))
    held = log.stat().st_size
    assert [{value for _, value in scan} for scan in scans] == [{b"0"}, {b"1"}, {b"2"}]
    for _ in range(400):
        fill(store, "jobs", *(b"%05d" % key for key in range(20)), value=os.urandom(1500))
    assert log.stat().st_size < held + 1_000_000  # it begins anew once nobody holds it
    assert len(store._idle) == 3 and store._snapshots == []


def test_connections_for_snapshots_are_used_again(store: SqliteStore) -> None:
    fill(store, "ready", b"a", b"b", b"c")
    for _ in range(50):
        scans = [store.scan("ready", b"", b"z") for _ in range(5)]
        assert {next(scan)[0] for scan in scans} == {b"a"}
        fill(store, "ready", b"d")
        assert [[key for key, _ in scan][:2] for scan in scans] == [[b"b", b"c"]] * 5
    assert len(store._idle) + len(store._snapshots) == 1


def test_reads_between_the_steps_of_a_scan(store: SqliteStore) -> None:
    fill(store, "ready", b"a", b"b", b"c")
    scan = store.scan("ready", b"", b"z")
    seen = []
    for key, _ in scan:
        assert store.get_many("ready", [b"a", b"z", key]) == [b"v", None, b"v"]
        seen.append(key)
    assert seen == [b"a", b"b", b"c"]


def test_a_scan_that_is_held_over_the_end_fails(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data")
    fill(store, "ready", b"a", b"b", b"c")
    scans = [store.scan("ready", b"", b"z")]
    next(scans[0])
    fill(store, "ready", b"d")
    scans.append(store.scan("ready", b"", b"z"))
    store.close()
    for scan in scans:
        with pytest.raises(StoreFailed):
            list(scan)
