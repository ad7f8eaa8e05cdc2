"""The data directory: what lies where in it, who holds it, which format it has, and which store it is of.

Owns the files LOCK and FORMAT and the order in which a new directory comes to be. Never opens the database. Stores from
elsewhere may use it as ours do.

    DIR/LOCK         held (flock) while a broker or a check has the directory; names the process
    DIR/WATERMARK    see watermark.py
    DIR/STORE/       the database, in a folder with the name of the store, such as `rocksdb`
    DIR/FORMAT       written last: a directory that has it was created whole. The format, and the name of the store
    DIR/aside-N/     log files as they were before a repair cut them, see repair.py
    DIR/copying-N/   links to the database's files while a copy of them is made, see backup.py
    DIR/BACKUP       the directory is a backup, which no broker serves, see backup.py

A change of the format: raise `FORMAT`, write the step from the format before it, a record under docs/decisions/, and
golden directories of the new one (tests/golden).
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from zbroker.storage.interface import StoreCorrupt, StoreError, StoreLocked, StoreTooNew
from zbroker.storage.watermark import read_watermark

FORMAT = 1
"""The format that this release writes, and the newest that it reads."""

UNNAMED = "rocksdb"
"""The store of a directory whose FORMAT names none: the only one there was when such files were written."""

_FIRST_LINE = re.compile(r"zbroker format (\d+)\n")
_STORE_LINE = re.compile(r"(?:store (\S+)\n)?")
_DATABASES = ("rocksdb", "sqlite")


class DataDirectory:
    """A data directory that this object holds, from its making until `let_go`."""

    def __init__(self, path: Path, store: str, *, create: bool) -> None:
        """Take hold of the directory for the store of this name; with `create`, make it if it is missing.

        Raises:
            StoreLocked: somebody else holds it.
            StoreError: there is no such directory, or it cannot be used.
        """
        self.path = path
        self.store = store
        self.database = path / store
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
        except BlockingIOError as error:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise StoreLocked(
                f"the data directory {path} is held by another broker (process {holder}): stop it first, or give this "
                f"one a directory of its own"
            ) from error
        except OSError as error:
            os.close(self._lock)
            raise StoreError(f"the data directory {path} cannot be locked: {error.strerror}") from error
        try:
            os.pwrite(self._lock, f"{os.getpid():<20}\n".encode("ascii"), 0)
        except OSError:
            pass  # The name of the holder is a courtesy; a full disk must not cost the lock.

    def format(self) -> int | None:
        """The format of the directory; None if its creation never came to an end.

        Raises:
            StoreTooNew: this release cannot read it.
            StoreCorrupt: the file says nothing that makes sense.
            StoreError: the directory is of another store.
        """
        found = _read_format(self._format)
        if found is None:
            return None
        number, store = found
        if store != self.store:
            raise StoreError(
                f"the data directory {self.path} is of the store {store}, not {self.store}: start with "
                f"--store {store}, or give {self.store} a directory of its own"
            )
        return number

    def confirmed(self, file: str) -> int | None:
        """The watermark of a directory that is whole; None if there is none yet, or its creation was cut short.

        `file` is one that the database cannot be without, by its name in the folder of the database.

        Raises:
            StoreTooNew: the format is newer than ours.
            StoreCorrupt: a part of the directory is missing.
            StoreError: the directory is of another store.
        """
        known = self.format() is not None
        confirmed = read_watermark(self.watermark)
        if not known:
            if confirmed:
                raise self.format_missing()
            return None
        if not (self.database / file).is_file():
            raise StoreCorrupt(
                f"{self.path} has lost its database, the folder {self.database.name} or the file {file} in it. "
                f"Put it back, or restore a backup"
            )
        if confirmed is None:
            raise StoreCorrupt(
                f"{self.path} has lost its file WATERMARK: nothing tells how far the confirmed data reached. "
                f"`zbroker check {self.path} --repair` goes on with what the store still holds"
            )
        return confirmed

    def format_missing(self) -> StoreCorrupt:
        """What to raise where there is data, and no FORMAT beside it."""
        return StoreCorrupt(
            f"{self.path} holds data, but its file FORMAT is missing: is this the whole directory? "
            f"Put the file back, or restore a backup"
        )

    def begin(self) -> None:
        """Make the folder of a new database.

        Raises:
            StoreCorrupt: another store has left its database here.
        """
        if any((self.path / name).exists() for name in _DATABASES if name != self.store):
            raise self.format_missing()
        _make(self.database)

    def finish(self) -> None:
        """Mark a new directory as whole, durably, in the order that makes the mark trustworthy."""
        for folder in (self.database, self.path):
            sync_folder(folder)
        fresh = self._format.with_name("FORMAT.new")
        with open(fresh, "w", encoding="ascii") as file:
            file.write(f"zbroker format {FORMAT}\nstore {self.store}\n")
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


def store_of(path: Path) -> str | None:
    """The name of the store whose data directory this is; None if there is no FORMAT to tell.

    Raises:
        StoreTooNew, StoreCorrupt: as `DataDirectory.format` does.
    """
    found = _read_format(path / "FORMAT")
    return None if found is None else found[1]


def holder_of(path: Path) -> int | None:
    """The process that has the data directory, by its number; None if nobody has it, or the system does not tell.

    Looked up in Linux's list of locks: to try the lock itself would keep a broker out that starts in that moment.
    """
    try:
        holder = (path / "LOCK").read_text("ascii", "replace")[:32].strip()
        inode = f":{(path / 'LOCK').stat().st_ino}"
        locks = [line.split() for line in Path("/proc/locks").read_text("ascii").splitlines()]
    except OSError:
        return None
    holds = any("FLOCK" in lock and holder in lock and any(part.endswith(inode) for part in lock) for lock in locks)
    return int(holder) if holds and holder.isdigit() else None


def _read_format(file: Path) -> tuple[int, str] | None:
    """The format and the store that a file FORMAT names; None if there is no such file."""
    try:
        text = file.read_text("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    first = _FIRST_LINE.match(text)
    if first is not None and int(first[1]) > FORMAT:
        raise StoreTooNew(
            f"the data directory {file.parent} has format {first[1]}, and this release reads formats up to {FORMAT}: "
            f"start it with the release that wrote it, or a newer one"
        )
    store = _STORE_LINE.fullmatch(text, first.end()) if first is not None else None
    if first is None or store is None:
        raise StoreCorrupt(f"{file} is damaged: it should begin with `zbroker format {FORMAT}`; restore a backup")
    return int(first[1]), store[1] or UNNAMED


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
    try:
        found = os.scandir(folder)
    except FileNotFoundError:
        return 0  # A folder of links, whose copy has ended meanwhile.
    with found as entries:
        for entry in entries:
            try:
                # Blocks, not sizes: log files are allocated ahead. The unit is 512 bytes on every file system.
                total += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue  # The database removed it meanwhile.
    return total
