"""The data directory: what lies where in it, who holds it, and which format it has.

Owns the files LOCK and FORMAT and the order in which a new directory comes to be. Never opens the database.

    DIR/LOCK         held (flock) while a broker or a check has the directory; names the process
    DIR/WATERMARK    see watermark.py
    DIR/rocksdb/     the database
    DIR/FORMAT       written last: a directory that has it was created whole

A change of the format: raise `FORMAT`, write the step from the format before it, and a record under docs/decisions/.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from zbroker.storage.interface import StoreCorrupt, StoreError, StoreLocked, StoreTooNew

FORMAT = 1
"""The format that this release writes, and the newest that it reads."""

_FORMAT_TEXT = re.compile(r"zbroker format (\d+)\n")


class DataDirectory:
    """A data directory that this object holds, from its making until `let_go`."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Take hold of the directory; with `create`, make it if it is missing.

        Raises:
            StoreLocked: somebody else holds it.
            StoreError: there is no such directory, or it cannot be used.
        """
        self.path = path
        self.database = path / "rocksdb"
        self.watermark = path / "WATERMARK"
        self._format = path / "FORMAT"
        self._lock = -1
        try:
            if create:
                _make(path)
            self._lock = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise StoreError(f"there is no data directory {path}: check the path") from None
        except OSError as error:
            raise StoreError(f"the data directory {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise StoreLocked(
                f"the data directory {path} is held by another broker (process {holder}): stop it first, or give this "
                f"one a directory of its own"
            ) from error
        try:
            os.pwrite(self._lock, f"{os.getpid():<20}\n".encode("ascii"), 0)
        except OSError:
            pass  # The name of the holder is a courtesy; a full disk must not cost the lock.

    def format(self) -> int | None:
        """The format of the directory; None if its creation never came to an end.

        Raises:
            StoreTooNew: this release cannot read it.
            StoreCorrupt: the file says nothing that makes sense.
        """
        try:
            text = self._format.read_text("ascii", "replace")
        except FileNotFoundError:
            return None
        match = _FORMAT_TEXT.fullmatch(text)
        if match is None:
            raise StoreCorrupt(f"{self._format} is damaged: it should read `zbroker format {FORMAT}`; restore a backup")
        found = int(match[1])
        if found > FORMAT:
            raise StoreTooNew(
                f"the data directory {self.path} has format {found}, and this release reads formats up to {FORMAT}: "
                f"start it with the release that wrote it, or a newer one"
            )
        return found

    def begin(self) -> None:
        """Make the folder of a new database."""
        _make(self.database)

    def finish(self) -> None:
        """Mark a new directory as whole, durably, in the order that makes the mark trustworthy."""
        for folder in (self.database, self.path):
            sync_folder(folder)
        fresh = self._format.with_name("FORMAT.new")
        with open(fresh, "w", encoding="ascii") as file:
            file.write(f"zbroker format {FORMAT}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._format)
        sync_folder(self.path)

    def free_bytes(self) -> int:
        """Room left on the disk for this user, in bytes."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def used_bytes(self) -> int:
        """What the files in the directory take up on the disk, in bytes."""
        return sum(_used(folder) for folder in (self.path, *(f for f in self.path.iterdir() if f.is_dir())))

    def let_go(self) -> None:
        """Let go of the directory. A second call does nothing."""
        if self._lock >= 0:
            # Unlocked by name, and not only closed: a forked child may hold a copy of the descriptor.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = -1


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make(folder: Path) -> None:
    """Make a folder and what is missing above it, each durable in its parent."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _used(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                # Blocks, not sizes: log files are allocated ahead. The unit is 512 bytes on every file system.
                total += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue  # The database removed it meanwhile.
    return total
