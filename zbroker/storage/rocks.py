"""The durable store: RocksDB, one column family per keyspace, and the watermark beside it.

Owns opening, reading, writing and syncing the database of a data directory, and says which failures may be retried.
Never knows what a row means; the options stand in tuning.py, the order of files on disk in directory.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rocksdict import AccessType, Rdict, RdictIter, ReadOptions, WriteBatch, WriteOptions

from zbroker.storage.directory import DataDirectory
from zbroker.storage.interface import (
    KEYSPACES,
    Range,
    Rows,
    StoreBehind,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
)
from zbroker.storage.tuning import database_options, keyspace_options
from zbroker.storage.watermark import Watermark

NAME = "rocksdb"


class RocksStore:
    """A `Store` in a data directory, which it holds until `close`."""

    def __init__(self, path: Path) -> None:
        """Open the directory, or create it. A refusal leaves an existing directory as it is.

        Raises:
            StoreLocked, StoreTooNew, StoreBehind, StoreCorrupt, StoreFull: as their names say.
            StoreError: the directory cannot be used.
        """
        self.path: Path | None = path
        self._directory = DataDirectory(path, NAME, create=True)
        try:
            self._open()
        except OSError as error:
            self._directory.let_go()
            raise _open_error(self._directory, str(error)) from error
        except BaseException:
            self._directory.let_go()
            raise

    def _open(self) -> None:
        directory = self._directory
        confirmed = directory.confirmed("CURRENT")
        if confirmed is None:
            directory.begin()
        else:
            # The first look changes nothing: a log file that was misplaced can still be put back after a refusal.
            check_reach(directory, confirmed, cut_tail=False)
        self._database = open_database(directory, create=confirmed is None)
        self._bind(self._database)
        try:
            if confirmed is None and self.sequence() > 0:
                raise directory.format_missing()
            # Whatever the log held is in synced table files now, so all of it counts as durable.
            self._watermark = Watermark(directory.watermark, self.sequence())
            if confirmed is None:
                directory.finish()
        except BaseException:
            self._unbind()
            raise
        self._folder = str(directory.database)
        self._unsynced = False
        self._stamp = 0

    def _bind(self, database: Rdict) -> None:
        """Look up once what the hot path calls."""
        self._families = {space: database.get_column_family(space) for space in KEYSPACES}
        self._handles: dict[str, Any] = {space: database.get_column_family_handle(space) for space in KEYSPACES}
        self._gets: dict[str, Any] = {space: family.get for space, family in self._families.items()}
        self._iterators: dict[str, Any] = {space: family.iter for space, family in self._families.items()}
        self._write_options = WriteOptions()
        # A write that would have to wait is refused instead: the loop decides what happens meanwhile.
        self._write_options.no_slowdown = True
        self._commit: Any = database.write
        self._sync_log: Any = database.flush_wal
        self._closed = False

    def _unbind(self) -> None:
        """Close the database. The handles go first: they point into it."""
        self._closed = True
        self._commit = self._sync_log = _refuse
        self._gets = dict.fromkeys(KEYSPACES, _refuse)
        self._iterators = dict.fromkeys(KEYSPACES, _refuse)
        self._handles = dict.fromkeys(KEYSPACES)
        close_database(self._database, self._families)

    def get(self, space: str, key: bytes) -> bytes | None:
        get = self._gets[space]
        try:
            value: bytes | None = get(key)
        except StoreFailed:
            raise
        except Exception as error:
            raise _read_failed(error) from error
        return value

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        get = self._gets[space]
        try:
            values: list[bytes | None] = get(keys)
        except StoreFailed:
            raise
        except Exception as error:
            raise _read_failed(error) from error
        return values

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        iterate = self._iterators[space]
        if start >= stop:
            return iter(())
        options = ReadOptions()
        options.set_iterate_upper_bound(stop)
        cursor = iterate(options)
        cursor.seek(start)
        if not backwards:
            return _forwards(cursor, stop)
        # The binding cannot set a lower bound (its setter sets the upper one). So the walk back is told the key to
        # end at, found from the front on the same snapshot, and never steps on what may lie before it.
        first = cursor.key()
        if first is None:
            _check(cursor)
            return iter(())
        cursor.seek_for_prev(stop)
        return _backwards(cursor, first, stop)

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        batch = self._batch(rows, ranges)
        try:
            self._commit(batch, self._write_options)
        except StoreFailed:
            raise
        except Exception as error:
            if _is_refusal(str(error)):
                raise StoreFull(f"the write was refused, and may be tried again: {error}") from error
            raise self._fail("a write", error) from error
        self._unsynced = True

    def _batch(self, rows: Rows, ranges: Sequence[Range]) -> WriteBatch:
        """Rows and ranges as one batch. In a frame of its own: a handle that the traceback of an error still held
        would keep the database open beyond `close`."""
        handles = self._handles
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        delete = batch.delete
        for space, changes in rows.items():
            family = handles[space]
            for key, value in changes.items():
                if value is None:
                    delete(key, family)
                else:
                    put(key, value, family)
        for space, start, stop in ranges:
            family = handles[space]
            if start < stop:
                batch.delete_range(start, stop, family)
        return batch

    def sync(self) -> None:
        if not self._unsynced:
            return
        sequence = self.sequence()
        try:
            self._sync_log(True)
            # The folder changes when a log file is added or removed. The watermark is then synced at once, since a
            # young log file is the one that could vanish whole.
            stamp = os.stat(self._folder).st_mtime_ns
            self._watermark.record(sequence, now=stamp != self._stamp)
        except StoreFailed:
            raise
        except Exception as error:
            raise self._fail("a sync", error) from error
        self._stamp = stamp
        self._unsynced = False

    def sequence(self) -> int:
        sequence: int = self._database.latest_sequence_number()
        return sequence

    def free_bytes(self) -> int | None:
        return self._directory.free_bytes()

    def used_bytes(self) -> int:
        return self._directory.used_bytes()

    def close(self) -> None:
        if self._closed:
            return
        failure: StoreFailed | None = None
        try:
            self.sync()
        except StoreFailed as error:
            failure = error
        self._unbind()
        try:
            self._watermark.close()
        except OSError as error:
            failure = failure or self._fail("the last sync", error)
        self._directory.let_go()
        if failure is not None:
            raise failure

    def _fail(self, what: str, error: Exception) -> StoreFailed:
        """From here on nothing is written any more, whatever the caller does."""
        self._commit = self._sync_log = _refuse
        return StoreFailed(
            f"{what} of the store failed, and nobody knows what is on disk: {error}. Stop the process, look at the "
            f"disk, start again; if the store then refuses to open, run `zbroker check {self.path} --repair`"
        )


def check_reach(directory: DataDirectory, confirmed: int, *, cut_tail: bool) -> int:
    """The sequence number that the database reaches when opened. Changes nothing on disk.

    Raises:
        StoreBehind: it reaches less far than `confirmed`.
        StoreCorrupt: it does not open.
    """
    database = open_database(directory, read_only=True, cut_tail=cut_tail)
    try:
        reached: int = database.latest_sequence_number()
    finally:
        database.close()
    if reached < confirmed:
        raise StoreBehind(
            f"the store in {directory.path} reaches sequence number {reached}, and {confirmed} was confirmed: the end "
            f"of its log is missing, with {confirmed - reached} changes that were confirmed. Put the missing files "
            f"back, or restore a backup; nothing was changed"
        )
    return reached


def open_database(
    directory: DataDirectory, *, create: bool = False, read_only: bool = False, cut_tail: bool = False
) -> Rdict:
    """Open the database as it is set up in tuning.py; see there for `cut_tail`.

    Raises:
        StoreCorrupt: it is damaged or incomplete.
        StoreFull: there is no room to open it.
        StoreError: anything else.
    """
    access = AccessType.read_only(False) if read_only else AccessType.read_write()
    try:
        options = database_options(create=create, cut_tail=cut_tail)
        return Rdict(str(directory.database), options, keyspace_options(), access)
    except Exception as error:
        raise _open_error(directory, str(error)) from error


def close_database(database: Rdict, families: dict[str, Rdict]) -> None:
    """Let go of the database. What is in memtables is written out where that works; the log has it as well."""
    for family in (*families.values(), database):
        try:
            family.close()
        except Exception:
            # The flush on closing is a courtesy to the next start; the log is synced, and closed all the same.
            continue


def _forwards(cursor: RdictIter, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield up to the upper bound. `stop` is kept here because the iterator points into its bytes."""
    valid, key, value, step = cursor.valid, cursor.key, cursor.value, cursor.next
    while valid():
        yield key(), value()
        step()
    _check(cursor)


def _backwards(cursor: RdictIter, first: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield down to the key `first`; `stop` as in `_forwards`."""
    key, value, step = cursor.key, cursor.value, cursor.prev
    at = key()
    while at is not None:
        yield at, value()
        if at == first:
            return
        step()
        at = key()
    _check(cursor)


def _check(cursor: RdictIter) -> None:
    """An iterator that met damage looks like one that came to its end, until it is asked."""
    try:
        cursor.status()
    except Exception as error:
        raise _read_failed(error) from error


def _read_failed(error: Exception) -> StoreFailed:
    return StoreFailed(f"a read of the store failed: {error}. Stop the process and look at the disk")


def _is_refusal(text: str) -> bool:
    """Whether RocksDB refused a write without applying any of it."""
    return "No space left on device" in text or "Write stall" in text


def _refuse(*_: object) -> NoReturn:
    raise StoreFailed("the store is closed, or failed before: open it afresh")


def _open_error(directory: DataDirectory, text: str) -> StoreError:
    if "No space left on device" in text:
        return StoreFull(f"there is no disk space left to open {directory.path}: make room ({text})")
    if text.startswith("Corruption") or "does not exist" in text:
        return StoreCorrupt(
            f"the store in {directory.path} is damaged and was not opened: {text}. "
            f"`zbroker check {directory.path} --repair` cuts away what lies beyond the confirmed data; "
            f"if that refuses too, restore a backup"
        )
    return StoreError(f"the store in {directory.path} does not open: {text}")


def open_rocksdb(path: Path | None) -> RocksStore:
    """What the name `rocksdb` stands for."""
    if path is None:
        raise StoreError("the store rocksdb needs a data directory: give it one with --data DIR")
    return RocksStore(path)
