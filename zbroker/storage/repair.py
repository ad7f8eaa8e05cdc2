"""Repair of a store that refuses to open: cut the log beyond what was confirmed, never before it.

Owns the decision whether that is possible, the copies it keeps of what it cuts, and the report. Runs offline, on a
directory that no broker holds, and changes nothing unless it succeeds.
"""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from zbroker.storage import rocks, sqlite_file
from zbroker.storage.directory import UNNAMED, DataDirectory, store_of, sync_folder
from zbroker.storage.interface import StoreBehind, StoreCorrupt, StoreError
from zbroker.storage.rocks import check_reach, close_database, open_database
from zbroker.storage.watermark import Watermark, read_watermark


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found and did."""

    problem: str | None
    """Why the store refused to open; None if it did not, and nothing was done."""
    watermark: int | None
    """The last sequence number known to be confirmed; None if the file was missing."""
    reached: int
    """The last sequence number that the store holds now; never below the watermark."""
    beyond_bytes: int = 0
    """How much of the log was cut: bytes that lay beyond `reached`."""
    aside: Path | None = None
    """The folder that keeps the log files as they were, if any were cut."""
    files: tuple[str, ...] = ()
    """The names of those files."""

    def summary(self) -> str:
        """The report as lines for a person."""
        if self.problem is None:
            return f"nothing to repair: the store holds everything up to sequence number {self.reached}"
        lines = [f"was: {self.problem}", f"now: the store opens, and reaches sequence number {self.reached}"]
        if self.watermark is None:
            lines.append("there was no watermark to compare with: confirmed jobs may be missing")
        else:
            lines.append(f"confirmed was {self.watermark}: no confirmed job is lost")
        if self.aside is not None:
            lines.append(f"cut: {self.beyond_bytes} bytes of log; as it was: {', '.join(self.files)} in {self.aside}")
        return "\n".join(lines)


def repair(path: Path) -> RepairReport:
    """Make the store in a data directory open again, where that costs no confirmed data.

    Raises:
        StoreLocked: a broker holds the directory.
        StoreTooNew: a newer release wrote it.
        StoreBehind: confirmed data is missing. Nothing was changed.
        StoreCorrupt: confirmed data is damaged, or something other than the log is. Nothing was changed.
        StoreError: the directory is of a store that is neither RocksDB nor SQLite.
    """
    store = store_of(path) or UNNAMED
    if store not in (rocks.NAME, sqlite_file.NAME):
        raise StoreError(f"{path} is of the store {store}, which nothing here can repair: see what came with it")
    directory = DataDirectory(path, store, create=False)
    try:
        if directory.format() is None:
            raise StoreCorrupt(f"{path} is not a whole data directory: it has no file FORMAT. Nothing was changed")
        confirmed = read_watermark(directory.watermark)
        if confirmed is None:
            return _renew_watermark(directory)
        try:
            return RepairReport(None, confirmed, _reached(directory, confirmed))
        except StoreCorrupt as refusal:
            if store == sqlite_file.NAME:
                raise  # SQLite drops a torn end of its log by itself: what it refuses lies elsewhere
            return _cut(directory, confirmed, refusal)
    finally:
        directory.let_go()


def _reached(directory: DataDirectory, confirmed: int) -> int:
    """The sequence number that a sound store reaches; raises what its `check_reach` does."""
    if directory.store == sqlite_file.NAME:
        return sqlite_file.check_reach(directory, confirmed)
    return check_reach(directory, confirmed, cut_tail=False)


def _renew_watermark(directory: DataDirectory) -> RepairReport:
    """The watermark is gone: take what the store still holds for the truth, up to damage in its log if there is any."""
    try:
        report = RepairReport("the file WATERMARK was missing", None, _reached(directory, 0))
    except StoreCorrupt as refusal:
        if directory.store == sqlite_file.NAME:
            raise
        report = _cut(directory, None, refusal)
    Watermark(directory.watermark, report.reached).close()
    sync_folder(directory.path)
    return report


def _cut(directory: DataDirectory, confirmed: int | None, refusal: StoreCorrupt) -> RepairReport:
    """Cut the log at the damage, if nothing that was confirmed lies beyond; None: nobody knows what was."""
    try:
        reached = check_reach(directory, confirmed or 0, cut_tail=True)
    except (StoreCorrupt, StoreBehind) as error:
        raise StoreCorrupt(
            f"the store in {directory.path} cannot be repaired without losing confirmed data: "
            f"{refusal.__cause__ or refusal}; cut at the damage, {error.__cause__ or error}"
        ) from error
    logs = sorted(directory.database.glob("*.log"))
    beyond = sum(bytes_beyond(log.read_bytes(), reached) for log in logs)
    aside = _keep(directory.path, logs)
    # Opening replays the log up to the damage, writes that to table files and drops the log. Should the process die
    # in the middle, the same repair starts again from where it got to.
    close_database(open_database(directory, cut_tail=True), {})
    check_reach(directory, confirmed or 0, cut_tail=False)
    problem = str(refusal.__cause__ or refusal)
    return RepairReport(problem, confirmed, reached, beyond, aside, tuple(log.name for log in logs))


def _keep(path: Path, logs: list[Path]) -> Path:
    """Copy log files into a new folder `aside-N` of the data directory, durably."""
    number = 1
    while (path / f"aside-{number}").exists():
        number += 1
    aside = path / f"aside-{number}"
    aside.mkdir()
    for log in logs:
        with open(shutil.copy2(log, aside), "rb") as copy:
            os.fsync(copy.fileno())
    sync_folder(aside)
    sync_folder(path)
    return aside


_BLOCK = 32768
_FRAGMENT = struct.Struct("<IHB")  # Checksum, length, type.
_BATCH = struct.Struct("<QI")  # First sequence number, count of rows.
_FULL, _FIRST, _LAST = 1, 2, 4


def bytes_beyond(log: bytes, reached: int) -> int:
    """How many bytes of a RocksDB log lie behind its last write up to the sequence number `reached`.

    The format: blocks of 32 KiB hold fragments of records, a record is a write batch, and no fragment crosses a block
    (RocksDB's wiki, "Write Ahead Log File Format"). Checksums are not looked at: RocksDB has done so.
    """
    end = offset = 0
    begun = False
    while offset + _FRAGMENT.size <= len(log):
        room = _BLOCK - offset % _BLOCK
        if room < _FRAGMENT.size:
            offset += room
            continue
        _, length, kind = _FRAGMENT.unpack_from(log, offset)
        body = offset + _FRAGMENT.size
        offset = body + length
        if offset > len(log) or _FRAGMENT.size + length > room or kind == 0:
            break
        if kind in (_FULL, _FIRST) and length >= _BATCH.size:
            first, rows = _BATCH.unpack_from(log, body)
            if first + rows - 1 > reached:
                break
            begun = True
        if begun and kind in (_FULL, _LAST):
            end = offset
            begun = False
    return len(log) - end
