"""The database file of the SQLite store: how it is set up, made, looked at and opened.

Owns every option of SQLite, the tables, the first look at a database that a crash may have left, and what a refusal to
open means. Never reads or writes a row of a keyspace.
"""

from __future__ import annotations

import errno
import os
import sqlite3

from zbroker.storage.directory import DataDirectory, sync_folder
from zbroker.storage.interface import KEYSPACES, StoreBehind, StoreCorrupt, StoreError, StoreFull, StoreLocked

NAME = "sqlite"
FILE = "rows.db"

CHUNK_BYTES = 1 << 20
"""Bytes of a log that are written again at once."""

_PRAGMAS = (
    "synchronous = NORMAL",
    # In KiB. The connection that writes reads as well, and nobody else changes what it has cached.
    "cache_size = -32768",
    # The log is copied to the database by the write that takes it past this many pages of 4 KiB. A longer log saves
    # syncs, but holds up that write for longer: at 4 MiB it is some milliseconds.
    "wal_autocheckpoint = 1000",
    # A log that a long scan made grow is cut back to this many bytes when it begins anew.
    "journal_size_limit = 33554432",
    # Some builds overwrite deleted rows with zeros, which is more to write for something nobody asked for.
    "secure_delete = OFF",
    # Looks at each page that is read for whether its rows lie within it.
    "cell_size_check = ON",
)

# Quoted, since a keyspace may be called like a word of SQL.
_TABLE = 'CREATE TABLE IF NOT EXISTS "{}" (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL) '


def check_reach(directory: DataDirectory, confirmed: int) -> int:
    """The sequence number that the database reaches. Changes nothing on disk.

    Raises:
        StoreBehind: it reaches less far than `confirmed`.
        StoreCorrupt: it does not open, or lacks a part.
    """
    try:
        reader, reached = look(directory, confirmed)
    except sqlite3.Error as error:
        raise open_error(directory, error) from error
    reader.close()
    return reached


def connect(directory: DataDirectory, mode: str) -> sqlite3.Connection:
    """A connection that waits for nobody; `mode` is SQLite's: `ro`, `rw` for what is there, `rwc` to create it."""
    connection = sqlite3.connect(
        f"{(directory.database / FILE).absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=0,
        isolation_level=None,  # transactions begin and end where it is written here
        check_same_thread=False,  # a store may be handed on to another thread
        cached_statements=len(KEYSPACES) * 8,
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(directory: DataDirectory) -> None:
    """Make the database, or finish one whose making was cut short. Durable with `DataDirectory.finish`."""
    connection = connect(directory, "rwc")
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"SQLite cannot keep a log in {directory.path}: it needs a disk of this host's own")
        connection.execute("BEGIN IMMEDIATE")
        for space in KEYSPACES:
            connection.execute(_TABLE.format(space) + "WITHOUT ROWID")
        connection.execute("CREATE TABLE IF NOT EXISTS sequence (number INTEGER NOT NULL)")
        connection.execute("INSERT INTO sequence SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM sequence)")
        connection.execute("COMMIT")
    finally:
        connection.close()


def look(directory: DataDirectory, confirmed: int) -> tuple[sqlite3.Connection, int]:
    """A connection that only reads, and the sequence number that the database reaches."""
    reader = connect(directory, "ro")
    try:
        found = {name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        row = reader.execute("SELECT number FROM sequence").fetchone() if "sequence" in found else None
        if row is None or not found.issuperset(KEYSPACES):
            raise StoreCorrupt(f"the database in {directory.database} lacks tables: restore a backup")
        if row[0] < confirmed:
            raise StoreBehind(
                f"the store in {directory.path} reaches sequence number {row[0]}, and {confirmed} was confirmed: the "
                f"log {FILE}-wal is missing or damaged, with {confirmed - row[0]} changes that were confirmed. Put the "
                f"missing files back, or restore a backup; nothing was changed"
            )
    except BaseException:
        reader.close()
        raise
    return reader, row[0]


def empty_log(directory: DataDirectory, writer: sqlite3.Connection) -> int:
    """Take all of the log into the database, and open the empty log file, whose descriptor is returned.

    The log is not just synced: if its last sync failed, pages that the kernel takes for clean may not be on the disk.
    While another program reads an older state, as a backup does, the log has to stay, and is written once more.
    """
    (is_busy, _, _) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    log = os.open(directory.database / f"{FILE}-wal", os.O_RDWR | os.O_CLOEXEC)
    try:
        if is_busy:
            writer.execute("BEGIN IMMEDIATE")  # nobody else writes to it meanwhile
            _write_again(log)
            writer.execute("ROLLBACK")
        os.fdatasync(log)
        sync_folder(directory.database)
    except BaseException:
        os.close(log)
        raise
    return log


def _write_again(file: int) -> None:
    """Put the same bytes into the same places, so that the next sync takes all of them."""
    place = 0
    while chunk := os.pread(file, CHUNK_BYTES, place):
        place += os.pwrite(file, chunk, place)


def is_refusal(error: Exception) -> bool:
    """Whether SQLite refused something without doing any of it: no room, or another program that holds a lock."""
    return _is_full(error) or _code(error) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def open_error(directory: DataDirectory, error: Exception) -> StoreError:
    """What to raise where opening ended with an error of SQLite or of the system."""
    code = _code(error) & 0xFF
    if _is_full(error):
        return StoreFull(f"there is no disk space left to open {directory.path}: make room ({error})")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"the store in {directory.path} is damaged and was not opened: {error}. Restore a backup")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(f"another program uses the database in {directory.database}: let it end first ({error})")
    return StoreError(f"the store in {directory.path} does not open: {error}")


def _is_full(error: Exception) -> bool:
    """Whether there was no room. The index of the log, `rows.db-shm`, has a number of its own for that."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return _code(error) & 0xFF == sqlite3.SQLITE_FULL or _code(error) == sqlite3.SQLITE_IOERR_SHMSIZE


def _code(error: Exception) -> int:
    """SQLite's own number of an error, with its details; 0 for an error of somebody else."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code
