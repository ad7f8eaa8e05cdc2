"""A copy of a RocksDB database while a broker may be writing to it, made from outside of that broker.

Owns the order in which files are linked and copied, and when the copy is of one moment. Never opens the database, never
writes to the one it copies, and needs nothing of the process that has it. Why it is done so, and not with RocksDB's own
checkpoint: docs/decisions/0020-a-backup-is-taken-from-outside.md.

What it stands on (RocksDB's wiki, "MANIFEST" and "Write Ahead Log File Format"): tables and blob files are written
once, synced before the manifest names them, and removed only after the manifest has said that they count no more. The
manifest and the logs only grow. So, as long as the manifest stayed as it was, the files that it names are all there;
together with the logs as they are a moment later they are what a crash of the machine would have left.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from zbroker.storage.interface import StoreError

STILL_S = 120.0
"""How long a moment is waited for in which the manifest does not change: seconds. Such a moment takes milliseconds."""

_TABLE = re.compile(r"\d+\.(sst|blob)")
_LOG = re.compile(r"\d+\.log")
_SMALL = re.compile(r"CURRENT|IDENTITY|OPTIONS-\d+|rocksdict-config\.json")

CHUNK_BYTES = 1 << 20
"""Bytes that are copied before they are synced: a disk that is handed much at once lets the broker's fsync wait."""


def copy_database(source: Path, target: Path) -> None:
    """Fill the folder `target`, on the same file system, with hard links to what never changes and copies of the rest.

    It holds every write that had reached the log when this began, and a prefix of those that came since.

    Raises:
        OSError: a file cannot be read, linked or written; EXDEV where the two are on different file systems.
        StoreError: the database was never still.
    """
    until = time.monotonic() + STILL_S
    while not _pass(source, target):
        if time.monotonic() > until:
            raise StoreError(
                f"the database in {source} changed its files for {STILL_S:g} s without a pause: try again when there "
                f"is less load"
            )


def _pass(source: Path, target: Path) -> bool:
    """Bring the copy up to date; whether the database was still meanwhile, so that the copy is whole."""
    try:
        before = _manifest(source)
        names = os.listdir(source)
        _forget_others(target, names)
        for name in filter(_TABLE.fullmatch, names):
            _link(source / name, target / name)
        manifest, size = before
        copy_on(source / manifest, target / manifest, size)
        for name in filter(_SMALL.fullmatch, names):
            (target / name).write_bytes((source / name).read_bytes())
        for name in sorted(filter(_LOG.fullmatch, names)):
            copy_on(source / name, target / name)
        return _manifest(source) == before
    except FileNotFoundError:
        if not (source / "CURRENT").is_file() or not target.is_dir():
            raise
        return False  # it was removed between two looks


def _manifest(source: Path) -> tuple[str, int]:
    """The name of the manifest that counts, and how many bytes it has."""
    name = (source / "CURRENT").read_text("ascii").strip()
    return name, (source / name).stat().st_size


def _forget_others(target: Path, names: list[str]) -> None:
    """Remove from the copy what an earlier pass took and the database has no more."""
    for name in set(os.listdir(target)).difference(names):
        (target / name).unlink()


def _link(source: Path, target: Path) -> None:
    """A second name for a file that is never written again once a manifest names it."""
    if not target.exists():
        os.link(source, target)


def copy_on(source: Path, target: Path, size: int | None = None) -> None:
    """Go on copying a file that only grows, up to its end or up to a size; synced on the way."""
    with open(source, "rb") as grown, open(target, "ab") as copy:
        at = grown.seek(copy.tell())
        while size is None or at < size:
            chunk = grown.read(CHUNK_BYTES if size is None else min(CHUNK_BYTES, size - at))
            if not chunk:
                return
            copy.write(chunk)
            copy.flush()
            os.fdatasync(copy.fileno())
            at += len(chunk)
