"""Who holds a data directory, in which format it is, and what happens if its creation is cut short."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.stores import fill, keys
from tests.storage.writer import start
from zbroker.storage import StoreError, StoreFailed, StoreFull, StoreLocked, StoreTooNew, open_store
from zbroker.storage.repair import repair
from zbroker.storage.rocks import RocksStore
from zbroker.storage.watermark import Watermark


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path / "data"."""
    with start("rocksdb", tmp_path / "data", 10, 0, 10, "hold") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
        process.kill()


def test_a_directory_has_one_holder(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    path = tmp_path / "data"
    with pytest.raises(StoreLocked, match=f"another broker .process {holder.pid}.*directory of its own"):
        RocksStore(path)
    with pytest.raises(StoreLocked):
        repair(path)
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.wait() == 0
    store = RocksStore(path)
    assert len(keys(store, "jobs")) == 10
    store.close()


def test_a_killed_holder_holds_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    RocksStore(tmp_path / "data").close()


def test_two_stores_in_one_process(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "data")
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        RocksStore(tmp_path / "data")
    fill(store, "jobs", b"a")
    store.close()
    RocksStore(tmp_path / "data").close()


def test_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "data"
    RocksStore(path).close()
    (path / "FORMAT").write_text("zbroker format 7\n")
    before = sorted(path.rglob("*"))
    for attempt in (RocksStore, repair):
        with pytest.raises(StoreTooNew, match="has format 7, and this release reads formats up to 1"):
            attempt(path)
    assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("there", [[], ["rocksdb"], ["rocksdb", "WATERMARK"]], ids=str)
def test_a_creation_that_was_cut_short_is_finished(tmp_path: Path, there: list[str]) -> None:
    """What is made in which order stands in directory.py; FORMAT comes last."""
    path = tmp_path / "deep" / "er" / "data"
    RocksStore(path).close()
    (path / "FORMAT").unlink()
    for name in ("rocksdb", "WATERMARK"):
        if name not in there:
            (path / name).rename(tmp_path / name)
    store = RocksStore(path)
    fill(store, "jobs", b"a")
    store.close()
    assert (path / "FORMAT").read_text() == "zbroker format 1\nstore rocksdb\n"


def test_a_path_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        RocksStore(tmp_path / "file" / "data")
    with pytest.raises(StoreError, match="no data directory"):
        repair(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["rocksdb", "sqlite"])
def test_a_file_in_the_way_of_the_database(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / name).write_text("")
    with pytest.raises(StoreError, match=r"does not open.*File exists"):
        open_store(name, path)
    (path / name).unlink()
    open_store(name, path).close()


def test_a_disk_that_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr("zbroker.storage.directory.fcntl.flock", refuse)
        with pytest.raises(StoreError, match="cannot be locked: No locks available") as caught:
            RocksStore(tmp_path / "data")
    assert not isinstance(caught.value, StoreLocked)


def test_a_watermark_that_cannot_be_written_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def refuse(fd: int, *_: object) -> int:
        opened.append(fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zbroker.storage.watermark.os.pwrite", refuse)
    with pytest.raises(OSError, match="No space"):
        Watermark(tmp_path / "WATERMARK", 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_an_error_that_nobody_knows_ends_all_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync a later one may succeed, and would confirm what is not there."""
    store = RocksStore(tmp_path / "data")
    fill(store, "jobs", b"a")

    def fail(_: bool) -> None:
        raise OSError("IO error: While fdatasync: 000004.log: Input/output error")

    monkeypatch.setattr(store, "_sync_log", fail)
    with pytest.raises(StoreFailed, match=r"a sync of the store failed.*Input/output error.*check .* --repair"):
        store.sync()
    with pytest.raises(StoreFailed):
        store.sync()
    with pytest.raises(StoreFailed):
        fill(store, "jobs", b"b")
    with pytest.raises(StoreFailed):
        store.close()
    RocksStore(tmp_path / "data").close()


def test_an_end_that_fails_gives_the_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "data")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("zbroker.storage.watermark.os.fdatasync", fail)
        with pytest.raises(StoreFailed, match="the last sync of the store failed"):
            store.close()
    RocksStore(tmp_path / "data").close()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("IO error: No space left on device: While appending to file: 000004.log: No space left on device", StoreFull),
        ("Result incomplete: Write stall", StoreFull),
        ("IO error: While appending to file: 000004.log: Input/output error", StoreFailed),
        ("Corruption: block checksum mismatch", StoreFailed),
    ],
)
def test_which_failed_writes_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[StoreError]
) -> None:
    store = RocksStore(tmp_path / "data")

    def fail(*_: object) -> None:
        raise Exception(text)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_commit", fail)
        with pytest.raises(error):
            fill(store, "jobs", b"a")
    store.close()
