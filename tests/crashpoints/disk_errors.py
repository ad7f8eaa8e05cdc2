"""A disk that fails or is full at one system call: whatever was confirmed is there, although the disk then loses all
that no sync took.

strace runs the broker, answers the N-th write or sync on a file of the data directory with an error instead of doing
it, and notes all of them. What of a log was synced stands in those notes; the log is cut there before the next start,
as the worst disk would. It owns the injection and the cut; what must be true afterwards stands in `actor.py`.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from tests.crashpoints.actor import Actor, Died, Wrong
from tests.crashpoints.points import OPTIONS, check
from tests.crashpoints.steps import NOWHERE
from tests.system.processes import BrokerProcess

ACTS = 15
"""What is said to the broker: the script of which every write and every sync fails once."""

FAILED = 6
"""The exit code for data that could not be opened or written."""

CALLS = {"write": ("write", "pwrite64"), "sync": ("fdatasync", "fsync")}
ERRORS = ("EIO", "ENOSPC")

MOST_FILES = 40
"""Numbers of files that RocksDB gives in so short a life, and more."""

_CALL = re.compile(r"(\d+) +(write|pwrite64|ftruncate|fdatasync|fsync)\(\d+<([^>]*)>(.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (write|pwrite64|ftruncate|fdatasync|fsync) resumed>(.*)")
_RESULT = re.compile(r"\) += (-?\d+)")
_PLACE = re.compile(r", (\d+)(?:\) +=| <unfinished)")  # the last argument


class Broken(NamedTuple):
    """What came of one injection."""

    injected: bool
    ended: bool  # by itself, with the code for it
    said: int  # what was answered before


def why_not() -> str | None:
    """Why errors cannot be injected here; None if they can."""
    return None if shutil.which("strace") else "there is no program `strace` to inject errors with"


def files_of(data: Path, store: str) -> list[Path]:
    """Every file of the data directory that a write or sync may be on."""
    database = data / store
    names = ["rows.db", "rows.db-wal", "rows.db-journal"] if store == "sqlite" else ["CURRENT", "IDENTITY"]
    for number in range(MOST_FILES if store == "rocksdb" else 0):
        names += [f"{number:06}.{kind}" for kind in ("log", "sst", "blob", "dbtmp")]
        names += [f"MANIFEST-{number:06}", f"OPTIONS-{number:06}", f"OPTIONS-{number:06}.dbtmp"]
    return [
        data,
        database,
        *(data / name for name in ("FORMAT.new", "WATERMARK")),
        *(database / name for name in names),
    ]


class BrokenBroker(BrokerProcess):
    """A broker whose N-th call of a kind fails."""

    def __init__(self, data: Path, folder: Path, calls: str, error: str, nth: int, store: str) -> None:
        self.notes = folder / "strace.txt"
        kinds = ",".join(CALLS[calls])
        self._strace = ["strace", "-D", "-f", "-y", "-q", "-o", str(self.notes), "-e", "signal=none"]
        self._strace += ["-e", f"trace=ftruncate,{','.join(CALLS['write'] + CALLS['sync'])}"]
        self._strace += ["-e", f"inject={kinds}:error={error}:when={nth}"]
        for file in files_of(data, store):
            self._strace += ["-P", str(file)]
        program = ("tests.crashpoints.steps", f"{NOWHERE}/1/all")
        super().__init__(data, folder / "broker.log", program=program, store=store, **OPTIONS)

    def _line(self) -> list[str]:
        return [*self._strace, *super()._line()]


def break_at(folder: Path, calls: str, error: str, nth: int, seed: int = 1, store: str = "rocksdb") -> Broken:
    """Run the script with this failure, lose what was not synced, and start again. Raises `AssertionError`."""
    data = folder / "data"
    broker = BrokenBroker(data, folder, calls, error, nth, store)
    sound = BrokerProcess(data, folder / "sound.log", store=store, **OPTIONS)
    actor = Actor(seed)
    said, ended = 0, False
    try:
        try:
            broker.start()
            actor.meet(broker)
            actor.set_up()
            while said < ACTS:
                actor.act()
                said += 1
            broker.kill()
        except Died:
            ended = True
        except AssertionError:
            if broker.process.poll() is None:
                raise
            ended = True
        if ended and broker.wait() != FAILED:
            raise Wrong(f"it ended with {broker.process.returncode}: {broker.told.all[-3:]}")
        notes = broker.notes.read_text(errors="replace")
        lose_what_no_sync_took(data, notes)
        sound.start()
        actor.meet(sound)
        actor.set_up()
        actor.finish()
        sound.stop()
        check(data, folder / "copy")
        return Broken("(INJECTED)" in notes, ended, said)
    finally:
        actor.close()
        broker.end()
        sound.end()


def lose_what_no_sync_took(data: Path, notes: str) -> None:
    """Cut every log where its last sync that succeeded left it."""
    synced = synced_bytes(notes)
    for log in (*data.glob("rocksdb/*.log"), *data.glob("sqlite/*-wal")):
        os.truncate(log, min(synced.get(str(log), 0), log.stat().st_size))


def synced_bytes(notes: str) -> dict[str, int]:
    """By file, up to which byte a sync took it, from what strace noted. Raises `ValueError` for a log that is written
    over from its front without having been emptied: what the disk had of it then, a length cannot say."""
    written: dict[str, int] = {}
    synced: dict[str, int] = {}
    under_way: dict[str, tuple[str, int]] = {}  # thread -> file, last argument
    for line in notes.splitlines():
        if call := _CALL.match(line):
            thread, what, file, rest = call.groups()
            place = _PLACE.findall(rest)
            under_way[thread] = file, int(place[-1]) if place else 0
        elif call := _RESUMED.match(line):
            thread, what, rest = call.groups()
        else:
            continue
        results = _RESULT.findall(rest)
        if not results:
            continue  # it will be resumed
        (file, place_or_length), result = under_way[thread], int(results[-1])
        end = written.get(file, 0)
        if what == "write":
            written[file] = end + max(0, result)
        elif what == "pwrite64" and file.endswith("-wal"):
            if place_or_length == 0 and synced.get(file, 0):
                raise ValueError(f"{file} begins anew")
            written[file] = max(end, place_or_length + max(0, result))
        elif what == "ftruncate" and result == 0:
            written[file] = place_or_length
            synced[file] = min(synced.get(file, 0), place_or_length)
        elif what in CALLS["sync"] and result == 0:
            synced[file] = end
    return synced
