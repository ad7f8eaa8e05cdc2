"""Copies of data directories: whole under any load, or not there at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.storage.busy_writer import KEPT, key
from tests.storage.stores import ROOT, fill, in_own_mounts, keys
from tests.storage.writer import crash
from tests.system.processes import eventually
from zbroker.storage import Store, StoreBehind, StoreError, StoreLocked, backup, open_store, rocks_copy
from zbroker.storage.backup import MARK, copy_directory, refuse_backup
from zbroker.storage.directory import DataDirectory
from zbroker.storage.rocks import RocksStore
from zbroker.storage.watermark import Watermark

STORES = ["rocksdb", "sqlite"]

COPIES = int(os.environ.get("ZBROKER_TEST_COPIES", "3"))
"""Copies that are made while a process writes."""

KILLED = """
import os, sys
from pathlib import Path
from zbroker.storage import backup, rocks_copy, sqlite_copy

def die(*arguments, **options):
    os.kill(os.getpid(), 9)

if sys.argv[3] == "filling":
    rocks_copy._pass = sqlite_copy.copy_database = die
if sys.argv[3] == "naming":
    os.rename = die
backup.copy_directory(Path(sys.argv[1]), Path(sys.argv[2]), "m", die if sys.argv[3] == "changing" else lambda *_: None)
"""


def unchanged(copy: Path, store: str) -> None:
    """Nothing to change in the copy."""


@contextmanager
def opened(store: str, path: Path) -> Iterator[Store]:
    held = open_store(store, path)
    try:
        yield held
    finally:
        held.close()


@contextmanager
def busy(store: str, path: Path, size: int) -> Iterator[list[int]]:
    """A process that writes; the numbers that it has synced so far."""
    command = [sys.executable, "-m", "tests.storage.busy_writer", store, str(path), str(size)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    synced = [int(process.stdout.readline())]
    reader = threading.Thread(target=lambda: synced.extend(map(int, process.stdout)))  # type: ignore[arg-type]
    reader.start()
    try:
        yield synced
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
        reader.join()
        process.stdout.close()


def check(store: str, copy: Path, synced: int) -> int:
    """The copy holds everything up to a write of this number or a later one, and nothing of a later one. Its number."""
    with opened(store, copy) as held:
        last = int.from_bytes(held.get("meta", b"last") or b"", "big")
        found = keys(held, "jobs")
        assert found == [key(number) for number in range(max(1, last - KEPT + 1), last + 1)]
        assert all(held.get_many("jobs", found))
    assert last >= synced
    return last


# ---- under load


@pytest.mark.parametrize("store", STORES)
def test_a_copy_is_of_one_moment_however_much_is_written(store: str, tmp_path: Path) -> None:
    """Large rows, so that logs are switched, tables and blob files written and compacted while it is made."""
    reached = []
    with busy(store, tmp_path / "data", 60_000) as synced:
        for number in range(COPIES):
            before = synced[-1]
            copy = copy_directory(tmp_path / "data", tmp_path / f"copy-{number}", "mark", unchanged)
            assert (copy.path, copy.store) == (tmp_path / f"copy-{number}", store)
            reached.append((copy.path, before))
        eventually(lambda: synced[-1] > 2 * KEPT)  # or too little was written to say anything
    last = [check(store, path, before) for path, before in reached]
    assert last == sorted(last)
    check(store, tmp_path / "data", synced[-1])  # the original has nothing of all that


@pytest.mark.parametrize("after", ["_manifest", "_forget_others"])
def test_files_that_go_while_they_are_linked(after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables that the manifest named are compacted away before the copy looks which there are, or just after."""
    store = RocksStore(tmp_path / "data")
    jobs = store._families["jobs"]
    step = getattr(rocks_copy, after)
    calls: list[int] = []

    def disturbed(*arguments: Any) -> Any:
        told = step(*arguments)
        calls.append(len(calls))
        if calls == [0]:
            for number in range(4):
                fill(store, "jobs", *(b"%d" % n for n in range(number * 10, 200)))
                jobs.flush()
            fill(store, "jobs", b"last")
            store.sync()
            jobs.compact_range(None, None)
        return told

    monkeypatch.setattr(rocks_copy, after, disturbed)
    fill(store, "jobs", *(b"%d" % n for n in range(100)))
    jobs.flush()
    copy_directory(tmp_path / "data", tmp_path / "copy", "mark", unchanged)
    assert len(calls) > 2 if after == "_manifest" else calls == [0, 1]
    with opened("rocksdb", tmp_path / "copy") as copy:
        assert sorted(keys(copy, "jobs")) == sorted([b"last", *(b"%d" % n for n in range(200))])
    store.close()


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here to copy to")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_a_copy_to_another_file_system(tmp_path: Path, other_disk: Path) -> None:
    (left := tmp_path / "data" / "copying-1").mkdir(parents=True)  # by a copy that was killed
    with busy("rocksdb", tmp_path / "data", 20_000) as synced:
        eventually(lambda: list(tmp_path.glob("data/rocksdb/*.sst")))  # before that there is nothing to link
        before = synced[-1]
        copy_directory(tmp_path / "data", other_disk / "copy", "mark", unchanged)
        assert not left.exists()
        assert not list(tmp_path.glob("data/copying-*"))
        check("rocksdb", other_disk / "copy", before)
        # And from one that nobody has, which may lie where nothing can be written.
        copy_directory(other_disk / "copy", tmp_path / "back", "mark", unchanged)
        check("rocksdb", tmp_path / "back", before)


@pytest.mark.parametrize("store", STORES)
def test_a_restore_of_what_lies_where_nothing_can_be_written(store: str, tmp_path: Path) -> None:
    """A backup on a medium that is read only."""
    with opened(store, tmp_path / "data") as held:
        fill(held, "jobs", b"a")
    copy_directory(tmp_path / "data", tmp_path / "backup", "mark", unchanged)
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && echo mounted'
    script = f'{mount} && exec "$2" -m zbroker restore "$1" --data "$3"'
    arguments = [str(tmp_path / "backup"), sys.executable, str(tmp_path / "copy")]
    try:
        ended = subprocess.run(
            in_own_mounts("sh", "-c", script, "sh", *arguments), cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("cannot run here: it needs a mount that is read only, and there is no program `unshare`")
    if not ended.stdout.startswith("mounted"):
        pytest.skip(f"cannot run here: it needs a mount that is read only, and may not make one: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr
    with opened(store, tmp_path / "copy") as copy:
        assert keys(copy, "jobs") == [b"a"]


@pytest.mark.parametrize("store", STORES)
def test_a_broker_starts_while_a_copy_is_made(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that crashed in the middle of a backup is not kept from coming back, and the copy is whole all the same."""
    data = tmp_path / "data"
    assert crash(store, data, synced=300)
    # In the middle: files are about to be linked; the first pages were copied.
    module, step = (rocks_copy, "_forget_others") if store == "rocksdb" else (os, "fdatasync")
    original = getattr(module, step)
    starts: list[int] = []

    def disturbed(*arguments: Any) -> Any:
        if not starts:
            starts.append(1)
            with opened(store, data) as held:
                fill(held, "jobs", b"meanwhile")
                held.sync()
                starts.append(held.sequence())
        return original(*arguments)

    monkeypatch.setattr(module, step, disturbed)
    copy_directory(data, tmp_path / "copy", "mark", unchanged)
    monkeypatch.undo()
    assert len(starts) == 2
    for path in (data, tmp_path / "copy"):
        with opened(store, path) as held:
            found = set(keys(held, "jobs"))
        assert found - {b"meanwhile"} == {b"%06d" % number for number in range(300)}
    assert (b"meanwhile" in found) == (
        store == "rocksdb"
    )  # whose log is copied last, while SQLite's copy had its moment


def test_a_broker_starts_while_a_copy_is_made_on_another_file_system(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, copy_files = tmp_path / "data", backup._copy_files
    with opened("rocksdb", data) as held:  # its end makes a table of it, which is to be linked
        fill(held, "jobs", b"a")
    started: list[bool] = []

    def disturbed(*arguments: Any) -> None:
        with opened("rocksdb", data) as held:
            fill(held, "jobs", b"meanwhile")
            held.sync()
        started.append(True)
        copy_files(*arguments)

    monkeypatch.setattr(backup, "_copy_files", disturbed)
    copy_directory(data, other_disk / "copy", "mark", unchanged)
    assert started
    with opened("rocksdb", other_disk / "copy") as copy:
        assert keys(copy, "jobs") == [b"a"]


def test_a_damaged_log_is_not_lost_by_a_copy_that_is_refused(tmp_path: Path) -> None:
    """Whatever can still be made of it, nothing was changed."""
    data = tmp_path / "data"
    crash("sqlite", data, synced=300)
    log = data / "sqlite" / "rows.db-wal"
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    with pytest.raises(StoreBehind):
        copy_directory(data, tmp_path / "copy", "mark", unchanged)
    assert log.read_bytes() == content


@pytest.mark.parametrize("store", STORES)
def test_nothing_done_in_a_copy_reaches_the_original(store: str, tmp_path: Path) -> None:
    with opened(store, tmp_path / "data") as held:
        fill(held, "jobs", *(b"%04d" % n for n in range(500)), value=bytes(5000))
        held.sync()
        copy_directory(tmp_path / "data", tmp_path / "copy", "mark", unchanged)
        with opened(store, tmp_path / "copy") as copy:
            copy.write({"jobs": {b"new": b"v"}}, [("jobs", b"0", b"1")])
        assert keys(held, "jobs") == [b"%04d" % n for n in range(500)]
        assert held.get_many("jobs", [b"0000", b"0499"]) == [bytes(5000)] * 2
    with opened(store, tmp_path / "data") as held:
        assert len(keys(held, "jobs")) == 500
        held.write({}, [("jobs", b"0", b"1")])
    with opened(store, tmp_path / "copy") as copy:
        assert keys(copy, "jobs") == [b"new"]


# ---- interrupted


@pytest.mark.parametrize(
    ("store", "where"), [("rocksdb", "filling"), ("sqlite", "filling"), ("rocksdb", "changing"), ("rocksdb", "naming")]
)
def test_what_is_killed_leaves_nothing_that_looks_whole(store: str, where: str, tmp_path: Path) -> None:
    with opened(store, tmp_path / "data") as held:
        fill(held, "jobs", b"a")
    target = tmp_path / "copy"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(target), where]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert not target.exists()
    (left,) = tmp_path.glob("copy*")
    with pytest.raises(StoreError, match="is a backup"):
        refuse_backup(left)
    copy_directory(tmp_path / "data", target, "mark", unchanged)
    assert not left.exists()
    with opened(store, target) as copy:
        assert keys(copy, "jobs") == [b"a"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with opened("rocksdb", tmp_path / "data") as held:
        fill(held, "jobs", b"a")

    def fail(copy: Path, store: str) -> None:
        assert (copy / MARK).read_text() == "mark"
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        copy_directory(tmp_path / "data", tmp_path / "copy", "mark", fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


# ---- refused


def test_what_is_no_data_directory_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(StoreError, match="is no data directory"):
        copy_directory(tmp_path / "data", tmp_path / "copy", "mark", unchanged)
    (tmp_path / "data" / "FORMAT").write_text("zbroker format 1\nstore tape\n")
    with pytest.raises(StoreError, match="of the store tape, which nothing here can copy"):
        copy_directory(tmp_path / "data", tmp_path / "copy", "mark", unchanged)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    open_store("rocksdb", tmp_path / "data").close()
    (tmp_path / "there").mkdir()
    copy_directory(tmp_path / "data", tmp_path / "there", "mark", unchanged)  # an empty folder is nothing
    with pytest.raises(StoreError, match="there already, and nothing is overwritten"):
        copy_directory(tmp_path / "data", tmp_path / "there", "mark", unchanged)
    with pytest.raises(StoreError, match="lies in the data directory"):
        copy_directory(tmp_path / "data", tmp_path / "data" / "copy", "mark", unchanged)
    (tmp_path / "mine.unfinished").mkdir()
    (tmp_path / "mine.unfinished" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="is in the way"):
        copy_directory(tmp_path / "data", tmp_path / "mine", "mark", unchanged)
    assert (tmp_path / "mine.unfinished" / "thesis.txt").read_text() == "years of work"


def test_two_at_once_to_one_place(tmp_path: Path) -> None:
    open_store("rocksdb", tmp_path / "data").close()
    other = DataDirectory(tmp_path / "copy.unfinished", "rocksdb", create=True)
    (tmp_path / "copy.unfinished" / MARK).write_text("mark")
    with pytest.raises(StoreLocked, match="another copy"):
        copy_directory(tmp_path / "data", tmp_path / "copy", "mark", unchanged)
    other.let_go()
    copy_directory(tmp_path / "data", tmp_path / "copy", "mark", unchanged)


@pytest.mark.parametrize("store", STORES)
def test_data_that_lacks_what_was_confirmed_is_not_copied_as_if_it_were_whole(store: str, tmp_path: Path) -> None:
    with opened(store, tmp_path / "data") as held:
        fill(held, "jobs", b"a")
        held.sync()
        reached = held.sequence()
    Watermark(tmp_path / "data" / "WATERMARK", reached + 1).close()
    with pytest.raises(StoreBehind):
        copy_directory(tmp_path / "data", tmp_path / "copy", "mark", unchanged)
    assert not list(tmp_path.glob("copy*"))
    shutil.rmtree(tmp_path / "data")
    assert not os.listdir(tmp_path)
