"""`zbroker` that kills itself at a named step.

Run as ``python -m tests.crashpoints.steps STEP/NTH/KEEP start --data DIR ...``. The code of the broker is the
production code; what is put around it here counts how often it passes the step, and kills the process with SIGKILL at
the NTH time. Steps of a start, and of reading history back, count from the beginning, others from when it serves.

KEEP says what the disk has afterwards of what was written to the log and not synced: ``all``, as after the death of a
process; ``none`` or ``half`` of it, as after a loss of power, where the watermark is as old as its last sync as well.
That is for RocksDB, whose log only grows: SQLite writes over its own from the front.

It owns the steps. What must be true after each stands in `actor.py`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.system.processes import PATIENCE_S
from zbroker import commit
from zbroker.cli import main
from zbroker.core import history, rows
from zbroker.core.core import Core
from zbroker.server import Server
from zbroker.storage import rocks, sqlite, sqlite_file, tuning, watermark
from zbroker.storage.directory import DataDirectory

SMALL_BYTES = 64 << 10
"""Memtables of this size, where the step is one of RocksDB's own: a few hundred jobs fill one."""

NOWHERE, GIVE_UP_SECONDS = "nowhere", 1.0
"""No step: the broker lives, and in place of half a minute waits so long for room on a disk that has none."""

LOOP = (
    "before write",
    "between write and sync",
    "between sync and watermark",
    "within the watermark",
    "before send",
    "between two sends",
    "after send",
)
SLICES = ("before write of a slice", "between write and sync of a slice", "after a slice")
"""Of a purge's sweep, a replay or a drop."""

READING = ("while history is read back",)
IN_MODIFY, IN_CLOSE_WRITE, IN_CREATE, IN_DELETE = 0x2, 0x8, 0x100, 0x200
BACKGROUND = {
    "a table file begins": (IN_CREATE, r".*\.sst"),
    "a table file is whole": (IN_CLOSE_WRITE, r".*\.sst"),
    "a table file goes": (IN_DELETE, r".*\.sst"),
    "a log file begins": (IN_CREATE, r".*\.log"),
    "a log file goes": (IN_DELETE, r".*\.log"),
    "a blob file begins": (IN_CREATE, r".*\.blob"),
}
"""RocksDB's flushes and compactions: what inotify is to look for in the folder of the database."""

CHECKPOINT = {"a checkpoint writes to the database": (IN_MODIFY, r"rows\.db")}
"""SQLite's own: pages go from its log to its database, within the write that makes the log too long."""

SMALL_LOG_PAGES = 40
"""The log that is too long then: some writes fill it."""

OPENING = (
    "opening, before the first look",
    "opening, before the opening for writing",
    "opening, before the watermark",
    "opening, before the watermark is synced",
    "opening, before the epoch",
    "opening, between the epoch and its sync",
    "opening, before it serves",
)
MAKING = ("making, before the database", "making, before FORMAT", "making, before FORMAT is in its place")
STOPPING = ("stopping, before the last sync", "stopping, after the last sync")


class Disk:
    """What of the data directory is synced, and how the rest is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lengths = {log: log.stat().st_size for log in self._logs()}  # what was there before this process
        self._watermark: bytes | None = None

    def logs_are_synced(self) -> None:
        for log in self._logs():
            with suppress(FileNotFoundError):  # RocksDB is through with it
                self._lengths[log] = log.stat().st_size

    def watermark_is_synced(self) -> None:
        self._watermark = (self._path / "WATERMARK").read_bytes()

    def lose(self, keep: str) -> None:
        """Lose of the logs what was not synced, or the latter half of that, and of the watermark all of it."""
        for log in self._logs():
            with suppress(FileNotFoundError):
                synced, size = self._lengths.get(log, 0), log.stat().st_size
                os.truncate(log, synced if keep == "none" else synced + (size - synced) // 2)
        if self._watermark is not None:
            (self._path / "WATERMARK").write_bytes(self._watermark)

    def _logs(self) -> list[Path]:
        return list(self._path.glob("rocksdb/*.log"))


class Death:
    """The end of this process, at its step."""

    def __init__(self, point: str, disk: Disk) -> None:
        self.step, nth, self._keep = point.split("/")
        self._left = int(nth)
        self._disk = disk
        self.counts = self.step in (*OPENING, *MAKING, *READING)

    def passes(self, step: str) -> None:
        """Die, if this is the step, and the time for it."""
        if step != self.step or not self.counts:
            return
        self._left -= 1
        if self._left <= 0:
            if self._keep != "all":
                self._disk.lose(self._keep)
            os.kill(os.getpid(), signal.SIGKILL)


def around(
    owner: Any, name: str, before: Callable[..., Any], after: Callable[..., Any] = lambda *_, **__: None
) -> None:
    """Have these called before and after a function of a class or module, with its arguments."""
    original = getattr(owner, name)

    def passed(*arguments: Any, **named: Any) -> Any:
        before(*arguments, **named)
        result = original(*arguments, **named)
        after(*arguments, **named)
        return result

    setattr(owner, name, passed)


def place_store(death: Death, store: type) -> None:
    """The steps of a store: a tick's, a slice's, the commit of the epoch."""
    of_slice = False

    def writes(_: Any, changed: rows.Any, ranges: Any) -> None:
        nonlocal of_slice
        of_slice = any(key.startswith(rows.META_WORK) for key in changed.get("meta", ()))
        death.passes("opening, before the epoch")
        death.passes("before write")
        if of_slice:
            death.passes("before write of a slice")

    def syncs(_: Any) -> None:
        death.passes("opening, between the epoch and its sync")
        death.passes("between write and sync")
        if of_slice:
            death.passes("between write and sync of a slice")

    def synced(_: Any) -> None:
        if of_slice:
            death.passes("after a slice")

    around(store, "write", writes)
    around(store, "sync", syncs, synced)
    around(store, "close", lambda _: death.passes("stopping, before the last sync"))


def place_watermark(death: Death, disk: Disk) -> None:
    """The steps of the watermark."""

    def records(mark: watermark.Watermark, sequence: int, *, now: bool) -> None:
        disk.logs_are_synced()
        death.passes("between sync and watermark")
        if death.step == "within the watermark":
            torn = watermark._slot(sequence)[:8]
            os.pwrite(mark._fd, torn, watermark._SLOTS[mark._turn ^ 1])
            death.passes("within the watermark")

    around(watermark.Watermark, "__init__", lambda *_: death.passes("opening, before the watermark"))
    around(watermark.Watermark, "record", records)
    around(
        watermark.Watermark,
        "flush",
        lambda _: death.passes("opening, before the watermark is synced"),
        lambda _: disk.watermark_is_synced(),
    )
    around(watermark.Watermark, "close", lambda _: None, lambda _: death.passes("stopping, after the last sync"))


def place_opening(death: Death) -> None:
    """The steps of a start, and of the making of a new directory."""

    def rocks_opens(*_: Any, read_only: bool = False, **named: Any) -> None:
        death.passes(f"opening, before the {'first look' if read_only else 'opening for writing'}")

    def renames(path: Path, _: Path) -> None:
        if path.name == "FORMAT.new":
            death.passes("making, before FORMAT is in its place")

    around(rocks, "open_database", rocks_opens)
    around(sqlite, "look", lambda *_: death.passes("opening, before the first look"))
    around(sqlite, "empty_log", lambda *_: death.passes("opening, before the opening for writing"))
    around(DataDirectory, "begin", lambda _: death.passes("making, before the database"))
    around(DataDirectory, "finish", lambda _: death.passes("making, before FORMAT"))
    around(Path, "rename", renames)


def place_loop(death: Death, serves: Callable[[], None]) -> None:
    """The steps of the loop, from when it serves."""
    send, read_back = Server._send, history.read_back

    def begins(*_: Any) -> None:
        death.passes("opening, before it serves")
        death.counts = death.step not in (*OPENING, *MAKING)
        serves()

    def sends(server: Server, outgoing: list[Any]) -> None:
        if outgoing:
            death.passes("before send")
        if len(outgoing) > 1 and death.step == "between two sends":
            send(server, outgoing[:1])
            death.passes("between two sends")
            outgoing = outgoing[1:]
        send(server, outgoing)
        if outgoing:
            death.passes("after send")

    def reads_back(state: Any) -> Iterator[Any]:
        for step in read_back(state):
            death.passes("while history is read back")
            yield step

    around(Core, "serving", begins)
    setattr(Server, "_send", sends)  # noqa: B010
    setattr(history, "read_back", reads_back)  # noqa: B010


def watch(death: Death, folder: Path) -> None:
    """Pass the step whenever a file of its kind comes, changes, is closed or goes, from a thread of its own."""
    mask, names = (BACKGROUND | CHECKPOINT)[death.step]
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_CLOEXEC)
    if inotify < 0 or libc.inotify_add_watch(inotify, os.fsencode(folder), mask) < 0:
        raise OSError(ctypes.get_errno(), f"no watch on {folder}")

    def read() -> None:
        while True:
            told, at = os.read(inotify, 65536), 0
            while at < len(told):
                length = struct.unpack_from("iIII", told, at)[3]
                name = told[at + 16 : at + 16 + length].rstrip(b"\0").decode()
                at += 16 + length
                if re.fullmatch(names, name):
                    death.passes(death.step)

    threading.Thread(target=read, daemon=True).start()


def prepare(point: str, data: Path) -> None:
    """Put the steps in their places, and the death at one of them."""
    if point.startswith(NOWHERE):
        commit.GIVE_UP_SECONDS = GIVE_UP_SECONDS
    disk = Disk(data)
    death = Death(point, disk)

    def serves() -> None:
        if death.step in BACKGROUND:
            watch(death, data / "rocksdb")
        elif death.step in CHECKPOINT:
            watch(death, data / "sqlite")

    if death.step in BACKGROUND:
        tuning.MEMTABLE_BYTES, tuning.MEMTABLES_BYTES = SMALL_BYTES, 8 * SMALL_BYTES
        tuning.WAL_BYTES = 4 * SMALL_BYTES
    if death.step in CHECKPOINT:
        # The last one counts: it comes after the usual one.
        sqlite_file._PRAGMAS = (*sqlite_file._PRAGMAS, f"wal_autocheckpoint = {SMALL_LOG_PAGES}")
    for store in (rocks.RocksStore, sqlite.SqliteStore):  # one of them is opened
        place_store(death, store)
    place_watermark(death, disk)
    place_opening(death)
    place_loop(death, serves)


if __name__ == "__main__":
    point = sys.argv.pop(1)
    faulthandler.dump_traceback_later(PATIENCE_S / 2)
    prepare(point, Path(sys.argv[sys.argv.index("--data") + 1]))
    sys.exit(main())
