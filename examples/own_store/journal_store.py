"""A store of one's own: all rows in memory, and every write in a journal that the next start reads again.

Installed beside zbroker it is there by name, `zbroker start --store journal`. It is good for as many jobs as fit into
memory. What every store has to keep to stands in `zbroker/storage/interface.py`, and why it matters in docs/stores.md.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from zlib import crc32

import msgpack

from zbroker.storage import KEYSPACES, Range, Rows, StoreBehind, StoreError, StoreFailed, StoreFull
from zbroker.storage.directory import DataDirectory, sync_folder
from zbroker.storage.memory import MemoryStore
from zbroker.storage.watermark import Watermark

NAME = "journal"
HEAD = struct.Struct(">II")  # of each entry: the length of its body in bytes, and its checksum


class JournalStore:
    """A `Store`. LOCK, FORMAT and WATERMARK are zbroker's own, so that `zbroker check` knows the directory as well."""

    def __init__(self, path: Path | None) -> None:
        if path is None:
            raise StoreError("the store journal needs a data directory: give it one with --data DIR")
        self.path = path
        self._over = self._closed = self._unsynced = False
        self._memory = MemoryStore()
        self._directory = DataDirectory(path, NAME, create=True)
        self._file = self._directory.database / "journal"
        with ExitStack() as opened:
            opened.callback(self._directory.let_go)
            self._open(opened)
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        confirmed = self._directory.confirmed(self._file.name)  # None: the directory is new
        if confirmed is None:
            self._directory.begin()
        content = self._file.read_bytes() if self._file.exists() else b""
        self._sequence = 0
        for self._sequence, rows, ranges in entries(content):
            self._memory.write(rows, ranges)
        if self._sequence < (confirmed or 0):
            raise StoreBehind(f"{self._file} ends at {self._sequence}, and {confirmed} was confirmed: restore a backup")
        if confirmed is None and self._sequence:
            raise self._directory.format_missing()
        # The journal begins anew with what is left of its rows. That also leaves behind the end of a torn write, and
        # makes everything durable that the last process wrote and did not sync.
        fresh = self._file.with_suffix(".new")
        self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        opened.callback(os.close, self._fd)
        rows = {space: dict(self._memory.scan(space, b"", b"\xff" * 300)) for space in KEYSPACES}
        self._end = 0
        self._append(entry(self._sequence, rows, []))
        os.fsync(self._fd)
        fresh.rename(self._file)
        sync_folder(self._file.parent)
        self._watermark = Watermark(self._directory.watermark, self._sequence)
        opened.callback(self._watermark.close)
        if confirmed is None:
            self._directory.finish()

    # ---- reading: what memory holds is all there is

    def get(self, space: str, key: bytes) -> bytes | None:
        return self._rows().get(space, key)

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        return self._rows().get_many(space, keys)

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._rows().scan(space, start, stop, backwards=backwards)

    # ---- writing: first the journal, then memory

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        memory = self._rows()
        for space in (*rows, *(cleared for cleared, _, _ in ranges)):
            if space not in KEYSPACES:
                raise KeyError(space)  # before anything was applied
        sequence = self._sequence + sum(map(len, rows.values())) + sum(start < stop for _, start, stop in ranges)
        if sequence == self._sequence:
            return
        self._append(entry(sequence, rows, ranges))
        memory.write(rows, ranges)
        self._sequence = sequence
        self._unsynced = True

    def sync(self) -> None:
        self._rows()
        if not self._unsynced:
            return
        try:
            os.fdatasync(self._fd)
            self._watermark.record(self._sequence, now=False)  # never before the journal itself
        except OSError as error:
            raise self._fail("a sync", error) from error
        self._unsynced = False

    def sequence(self) -> int:
        return self._sequence

    # ---- the whole of it

    def free_bytes(self) -> int | None:
        return self._directory.free_bytes()

    def used_bytes(self) -> int:
        return self._directory.used_bytes()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with self._opened:  # whatever the sync says, the directory is given back
                self.sync()
                self._over = True
        except OSError as error:
            raise self._fail("the last sync", error) from error

    # ---- its parts

    def _rows(self) -> MemoryStore:
        if self._over:
            raise StoreFailed("the store is closed, or failed before: open it afresh")
        return self._memory

    def _append(self, content: bytes) -> None:
        """Write behind the last whole entry. What a refused write left there, the next one covers."""
        try:
            written = os.pwrite(self._fd, content, self._end)
            if written < len(content):  # the disk is nearly full; the rest says so, or fits
                written += os.pwrite(self._fd, content[written:], self._end + written)
            if written < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise self._fail("a write", error) from error
            os.ftruncate(self._fd, self._end)  # all or nothing, for the next start as well
            raise StoreFull(f"the write was refused, and may be tried again: {error}") from error
        self._end += len(content)

    def _fail(self, what: str, error: OSError) -> StoreFailed:
        """From here on nothing is read or written: a second sync may succeed although the first one lost the data."""
        self._over = True
        return StoreFailed(f"{what} of the journal failed, and nobody knows what is on disk: {error}. Stop the process")


def entry(sequence: int, rows: Rows, ranges: Sequence[Range]) -> bytes:
    """One write as it stands in the journal."""
    body: bytes = msgpack.packb([sequence, rows, ranges])
    return HEAD.pack(len(body), crc32(body)) + body


def entries(content: bytes) -> Iterator[tuple[int, Rows, list[Range]]]:
    """The whole entries of a journal, up to one that is torn: whether that one mattered, the watermark knows."""
    at = 0
    while len(content) - at >= HEAD.size:
        length, checksum = HEAD.unpack_from(content, at)
        body = content[at + HEAD.size : at + HEAD.size + length]
        if length == 0 or len(body) < length or crc32(body) != checksum:
            return
        sequence, rows, ranges = msgpack.unpackb(body, strict_map_key=False)
        yield sequence, rows, ranges
        at += HEAD.size + length
