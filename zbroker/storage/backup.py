"""Copies of data directories, whole or not there: under a name beside their own until all of it is synced.

Owns the file BACKUP, the order in which a copy comes to be, and what an interrupted one leaves. Never knows what a row
means: whoever wants rows changed in the copy hands in how.

    DIR.unfinished/        the copy until it is whole; an interrupted one is cleared away by the next
    DIR/BACKUP             what it is a copy of. A broker does not start on a directory that has it: `restore` does
    DATA/copying-N/        links to the files of DATA, while they are copied to another file system
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from zbroker.storage import rocks, rocks_copy, sqlite_copy, sqlite_file
from zbroker.storage.directory import DataDirectory, store_of, sync_folder
from zbroker.storage.interface import StoreError, StoreLocked
from zbroker.storage.rocks import check_reach, close_database, open_database
from zbroker.storage.watermark import Watermark, read_watermark

MARK = "BACKUP"

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


class Copy(NamedTuple):
    """A copy that is whole."""

    path: Path
    store: str
    sequence: int  # what the store reaches: everything up to there is in it
    size: int  # bytes that its files take up; those that are links take up none of their own


def copy_directory(source: Path, target: Path, mark: str, change: Callable[[Path, str], None]) -> Copy:
    """Copy the data directory `source`, which a broker may be serving, to `target`, which must not be there yet.

    `mark` is the text of the copy's file BACKUP. When the copy is whole but for its name, `change` is called with where
    it lies and the name of its store; it may open it, and may take the mark away.

    Raises:
        StoreError: `source` is no data directory or of a store that cannot be copied; `target` is there already;
            something cannot be read or written. Nothing is left behind.
        StoreBehind, StoreCorrupt: `source` lacks data, or is damaged.
    """
    source, target = source.absolute(), target.absolute()
    store = store_of(source)
    if store is None:
        raise StoreError(f"{source} is no data directory")
    if store not in (rocks.NAME, sqlite_file.NAME):
        raise StoreError(
            f"{source} is of the store {store}, which nothing here can copy while it is in use: stop the broker, and "
            f"copy the directory"
        )
    _refuse_target(source, target)
    unfinished = target.with_name(f"{target.name}.unfinished")
    _clear_away(unfinished)
    directory = DataDirectory(unfinished, store, create=True)
    try:
        _write(unfinished / MARK, mark.encode())
        sequence = _fill(source, directory)
        size = directory.used_bytes()
        directory.let_go()
        change(unfinished, store)
        _sync_all(unfinished)
        os.rename(unfinished, target)
        sync_folder(target.parent)
    except OSError as error:
        raise StoreError(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        directory.let_go()
        shutil.rmtree(unfinished, ignore_errors=True)
    return Copy(target, store, sequence, size)


def refuse_backup(path: Path) -> None:
    """Raises `StoreError` if the directory is a backup: it would be no backup any more once a broker had served it."""
    if (path / MARK).is_file():
        raise StoreError(
            f"{path} is a backup, which stays as it is: `zbroker restore {path} --data DIR` makes a data directory of "
            f"it, with fences that were never given before"
        )


# ---- its steps


def _refuse_target(source: Path, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} is there already, and nothing is overwritten: name another, or move it away")
    if target.resolve().is_relative_to(source.resolve()):
        raise StoreError(f"{target} lies in the data directory {source} itself: name one outside of it")


def _clear_away(unfinished: Path) -> None:
    """Remove what an interrupted copy left under this name."""
    if not unfinished.exists():
        return
    if not (unfinished / MARK).is_file() and set(os.listdir(unfinished)) - {"LOCK"}:
        raise StoreError(
            f"{unfinished} is in the way, and not known to be of an interrupted copy: look at it, and move it away"
        )
    with _held(unfinished) as is_free:
        if not is_free:
            raise StoreLocked(f"another copy to {unfinished} is under way: let it end first")
        shutil.rmtree(unfinished)


def _fill(source: Path, directory: DataDirectory) -> int:
    """The database, the watermark, and last the format. Returns the sequence number that the copy reaches."""
    confirmed = read_watermark(source / "WATERMARK") or 0
    directory.begin()
    database = source / directory.store
    if directory.store == sqlite_file.NAME:
        sqlite_copy.copy_database(database, directory.database)
        sequence = sqlite_file.check_reach(directory, confirmed)
    else:
        _copy_rocks(source, database, directory.database)
        sequence = check_reach(directory, confirmed, cut_tail=False)
        # Opened once, as a start would: so it is known to open, its log is in tables, and what no table needs is gone.
        close_database(open_database(directory), {})
    Watermark(directory.watermark, sequence).close()
    _sync_all(directory.path)
    _write(directory.path / "FORMAT", (source / "FORMAT").read_bytes())
    return sequence


def _copy_rocks(source: Path, database: Path, target: Path) -> None:
    """Into the folder itself where links can lead there, else over a folder of links beside the database."""
    try:
        rocks_copy.copy_database(database, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.rmtree(target)
        target.mkdir()
    else:
        return
    why: OSError | None = None
    if not (source / MARK).is_file():  # else no broker starts on it, and it stays as it is
        try:
            with _folder_of_links(source) as links:
                rocks_copy.copy_database(database, links)
                _copy_files(links, target)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EROFS, errno.EACCES):
                raise
            why = error
        else:
            return
    with _held(source) as is_free:  # it may lie where nothing can be written
        if not is_free:
            raise why or StoreLocked(f"another program has {source}: let it end first")
        _copy_files(database, target)


@contextmanager
def _held(directory: Path) -> Iterator[bool]:
    """Whether no one has the data directory; if so, no one gets it while this lasts."""
    lock = directory / "LOCK"
    if not lock.exists():
        yield True
        return
    with _locked(lock) as is_free:
        yield is_free


@contextmanager
def _folder_of_links(source: Path) -> Iterator[Path]:
    """A folder in the data directory, gone at the end. One that a killed copy left is removed first."""
    for left in source.glob("copying-*"):
        with _locked(left) as is_ours:
            if is_ours:
                shutil.rmtree(left)
    folder = source / f"copying-{os.getpid()}"
    folder.mkdir()
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether we have the lock on a file or folder, while this lasts."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(fd)


# ---- files


def _copy_files(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.name != "LOCK":
            rocks_copy.copy_on(file, target / file.name)


def _write(file: Path, content: bytes) -> None:
    """Write a file, durably."""
    with open(file, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    sync_folder(file.parent)


def _sync_all(folder: Path) -> None:
    """Make every file in a folder, and its name, durable."""
    for path, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_folder(Path(path))
