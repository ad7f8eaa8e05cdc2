"""The store on SQLite: one database file, a table per keyspace, and nothing to install beside Python.

Owns opening, reading, writing and syncing the database of a data directory, and says which failures may be retried.
Never knows what a row means. The options and the tables stand in sqlite_file.py.

What SQLite leaves to its user is decided here:

- **When something is durable.** In WAL mode with `synchronous=NORMAL` a commit hands its pages to the log file and
  syncs nothing. `sync` syncs that file, and no more is needed: SQLite itself syncs the log before it copies pages from
  it to the database (a checkpoint), and the database before it begins the log anew (sqlite.org/wal.html). The log is
  synced through a descriptor of our own, so that a sync which failed within a checkpoint is reported to us as well.
- **What a scan sees.** It reads on the connection that writes, whose cache is warm. Before the first write after it
  began it is moved to a connection of its own, which holds the state of that time; most scans are over by then.
- **What damage looks like.** SQLite has no checksums on its pages, so each row carries one. It drops the end of a
  damaged log without a word; the watermark finds that out.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import WeakSet
from zlib import crc32

from zbroker.storage.directory import DataDirectory
from zbroker.storage.interface import KEYSPACES, Range, Rows, StoreError, StoreFailed, StoreFull
from zbroker.storage.sqlite_file import FILE, NAME, connect, create, empty_log, is_refusal, look, open_error
from zbroker.storage.watermark import Watermark

_GET = {space: f'SELECT value, checksum FROM "{space}" WHERE key = ?' for space in KEYSPACES}
_BOUNDED = 'SELECT key, value, checksum FROM "{}" WHERE key >= ? AND key < ? ORDER BY key'
_FORWARDS = {space: _BOUNDED.format(space) for space in KEYSPACES}
_BACKWARDS = {space: _BOUNDED.format(space) + " DESC" for space in KEYSPACES}
_PUT = {space: f'REPLACE INTO "{space}" VALUES (?, ?, ?)' for space in KEYSPACES}
_DELETE = {space: f'DELETE FROM "{space}" WHERE key = ?' for space in KEYSPACES}
_DELETE_RANGE = {space: f'DELETE FROM "{space}" WHERE key >= ? AND key < ?' for space in KEYSPACES}

Work = list[tuple[str, list[tuple[Any, ...]]]]
"""Statements, each with the arguments of every run of it."""


class SqliteStore:
    """A `Store` in a data directory, which it holds until `close`."""

    def __init__(self, path: Path) -> None:
        """Open the directory, or create it. A refusal leaves an existing directory as it is.

        Raises:
            StoreLocked, StoreTooNew, StoreBehind, StoreCorrupt, StoreFull: as their names say.
            StoreError: the directory cannot be used, or is of another store.
        """
        self.path: Path | None = path
        self._directory = DataDirectory(path, NAME, create=True)
        self._scans: WeakSet[_Scan] = WeakSet()  # those on the connection that writes
        self._snapshots: list[_Snapshot] = []
        self._idle: list[sqlite3.Connection] = []  # connections for further snapshots
        self._ended = self._failed = self._unsynced = False
        with ExitStack() as opened:
            opened.callback(self._directory.let_go)
            try:
                self._open(opened)
            except (sqlite3.Error, OSError) as error:
                raise open_error(self._directory, error) from error
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        """Open everything, and push how to close it.

        In the order of `opened` the connection that writes is closed before the one that only reads: so it is not the
        last, and leaves the log as it is. That is wanted after any failure; `close` does it the other way round.
        """
        directory = self._directory
        confirmed = directory.confirmed(FILE)
        if confirmed is None:
            directory.begin()
            create(directory)
        # The first look changes nothing: a log file that was misplaced can still be put back after a refusal.
        self._reader, self._sequence = look(directory, confirmed or 0)
        opened.callback(self._reader.close)
        if confirmed is None and self._sequence > 0:
            raise directory.format_missing()
        self._writer = connect(directory, "rw")
        opened.callback(self._writer.close)
        self._log = empty_log(directory, self._writer)
        opened.callback(os.close, self._log)
        # Whatever the log held is in the synced database now, so all of it counts as durable.
        self._watermark = Watermark(directory.watermark, self._sequence)
        opened.callback(self._watermark.close)
        if confirmed is None:
            directory.finish()

    # ---- reading

    def get(self, space: str, key: bytes) -> bytes | None:
        query = _GET[space]
        try:
            row = self._writer.execute(query, (key,)).fetchone()
        except sqlite3.Error as error:
            raise _read_failed(error) from error
        return None if row is None else _checked(key, *row)

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        query, execute = _GET[space], self._writer.execute
        try:
            # In one transaction, which saves taking and dropping the locks for each of them.
            execute("BEGIN")
            try:
                rows = [execute(query, (key,)).fetchone() for key in keys]
            finally:
                execute("COMMIT")
        except sqlite3.Error as error:
            raise _read_failed(error) from error
        return [None if row is None else _checked(key, *row) for key, row in zip(keys, rows, strict=True)]

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        query = (_BACKWARDS if backwards else _FORWARDS)[space]
        scan = _Scan(query, start, stop, backwards)
        scan.read_on(self._writer)
        self._scans.add(scan)
        return scan

    # ---- writing

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        work = _work(rows, ranges)
        self._refuse_if_over()
        if not work:
            return
        sequence = self._sequence + sum(len(arguments) for _, arguments in work)
        writer = self._writer
        try:
            self._keep_scans()
            writer.execute("BEGIN IMMEDIATE")
            for statement, arguments in work:
                writer.executemany(statement, arguments)
            writer.execute("UPDATE sequence SET number = ?", (sequence,))
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            if is_refusal(error) and self._is_undone():
                raise StoreFull(f"the write was refused, and may be tried again: {error}") from error
            raise self._fail("a write", error) from error
        self._sequence = sequence
        self._unsynced = True

    def sync(self) -> None:
        self._refuse_if_over()
        if not self._unsynced:
            return
        try:
            os.fdatasync(self._log)
            self._watermark.record(self._sequence, now=False)
        except OSError as error:
            raise self._fail("a sync", error) from error
        self._unsynced = False

    def sequence(self) -> int:
        return self._sequence

    def _is_undone(self) -> bool:
        """Whether nothing of a write that was refused is left."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return True

    def _keep_scans(self) -> None:
        """Before a write: move the scans that go on to a connection that holds the state they began with."""
        if self._snapshots:
            for snapshot in [snapshot for snapshot in self._snapshots if snapshot.is_over()]:
                self._snapshots.remove(snapshot)
                snapshot.end_scans()
                snapshot.connection.execute("COMMIT")
                self._idle.append(snapshot.connection)
        if not self._scans:
            return
        going_on = [scan for scan in self._scans if not scan.is_over]
        self._scans.clear()
        if going_on:
            connection = self._idle.pop() if self._idle else connect(self._directory, "ro")
            self._snapshots.append(_Snapshot(connection, going_on))

    # ---- the whole of it

    def free_bytes(self) -> int | None:
        return self._directory.free_bytes()

    def used_bytes(self) -> int:
        return self._directory.used_bytes()

    def close(self) -> None:
        if self._ended:
            return
        try:
            self.sync()
        finally:
            self._end()

    def _end(self) -> None:
        self._ended = True
        for scan in self._scans:
            scan.end()
        for snapshot in self._snapshots:
            snapshot.end_scans()
            snapshot.connection.close()
        for connection in self._idle:
            connection.close()
        if not self._failed:
            # What writes is the last connection then, and its end takes the log into the database. After a failed sync
            # that would copy what may not be what was written.
            self._reader.close()
        try:
            self._opened.close()
        except OSError as error:
            raise self._fail("the last sync", error) from error

    def _refuse_if_over(self) -> None:
        if self._failed or self._ended:
            raise StoreFailed("the store is closed, or failed before: open it afresh")

    def _fail(self, what: str, error: Exception) -> StoreFailed:
        """From here on nothing is written any more, whatever the caller does."""
        self._failed = True
        return StoreFailed(
            f"{what} of the store failed, and nobody knows what is on disk: {error}. Stop the process, look at the "
            f"disk, start again"
        )


class _Scan:
    """One scan: a query, and how far it came."""

    __slots__ = ("__weakref__", "_backwards", "_cursor", "_query", "_start", "_stop", "is_over")

    _cursor: sqlite3.Cursor

    def __init__(self, query: str, start: bytes, stop: bytes, backwards: bool) -> None:
        self._query = query
        self._start = start
        self._stop = stop
        self._backwards = backwards
        self.is_over = False

    def read_on(self, connection: sqlite3.Connection) -> None:
        """Go on from where it is, on this connection."""
        try:
            self._cursor = connection.execute(self._query, (self._start, self._stop))
        except sqlite3.Error as error:
            raise _read_failed(error) from error

    def end(self) -> None:
        """Let go of the connection; the next step fails."""
        self._cursor.close()

    def __iter__(self) -> _Scan:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        try:
            key, value, checksum = next(self._cursor)
        except StopIteration:
            self.is_over = True
            raise
        except sqlite3.Error as error:
            raise _read_failed(error) from error
        if self._backwards:
            self._stop = key
        else:
            self._start = key + b"\0"
        return key, _checked(key, value, checksum)


class _Snapshot:
    """A connection that holds one state of the rows, for the scans that began with it."""

    def __init__(self, connection: sqlite3.Connection, scans: list[_Scan]) -> None:
        self.connection = connection
        self._scans = WeakSet(scans)
        connection.execute("BEGIN")  # the first query in it takes hold of the state
        for scan in scans:
            scan.end()
            scan.read_on(connection)

    def is_over(self) -> bool:
        """Whether nobody reads it any more."""
        return all(scan.is_over for scan in self._scans)

    def end_scans(self) -> None:
        """Let none of them use the connection any more."""
        for scan in self._scans:
            scan.end()


def open_sqlite(path: Path | None) -> SqliteStore:
    """What the name `sqlite` stands for."""
    if path is None:
        raise StoreError("the store sqlite needs a data directory: give it one with --data DIR")
    return SqliteStore(path)


def _work(rows: Rows, ranges: Sequence[Range]) -> Work:
    """The statements of a write. `KeyError` for a keyspace that is none."""
    work: Work = []
    for space, changes in rows.items():
        put, delete = _PUT[space], _DELETE[space]
        puts = [(key, value, crc32(value, crc32(key))) for key, value in changes.items() if value is not None]
        if puts:
            work.append((put, puts))
        if len(puts) < len(changes):
            work.append((delete, [(key,) for key, value in changes.items() if value is None]))
    for space, start, stop in ranges:
        delete_range = _DELETE_RANGE[space]
        if start < stop:
            work.append((delete_range, [(start, stop)]))
    return work


def _checked(key: bytes, value: bytes, checksum: int) -> bytes:
    """The value, if it is what was written under this key."""
    if crc32(value, crc32(key)) != checksum:
        raise StoreFailed(f"the row {key!r} is damaged on disk. Stop the process, look at the disk, restore a backup")
    return value


def _read_failed(error: Exception) -> StoreFailed:
    return StoreFailed(f"a read of the store failed: {error}. Stop the process and look at the disk")
