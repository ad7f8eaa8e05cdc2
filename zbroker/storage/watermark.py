"""The watermark: how far the data reached that was confirmed, kept outside the write-ahead log.

Owns the file WATERMARK. RocksDB cannot notice that its newest log file is missing; a broker that finds the store below
this number knows that confirmed jobs are gone, and refuses to start. Never written before the log itself is synced.

The file has two slots, written in turn, each with a checksum: a slot torn by a power cut leaves the other.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

from zbroker.storage.interface import StoreCorrupt

SYNC_EVERY_S = 1.0
"""After a power cut the number on disk may be this much older than the log: seconds."""

_BODY = struct.Struct(">4sQ")
_MAGIC = b"ZBWM"
_CHECKSUM = struct.Struct(">I")
# A slot each in sectors of their own, on disks with sectors of 4 KiB as well: no write can tear both.
_SLOTS = (0, 4096)


def _slot(sequence: int) -> bytes:
    body = _BODY.pack(_MAGIC, sequence)
    return body + _CHECKSUM.pack(zlib.crc32(body))


def read_watermark(file: Path) -> int | None:
    """The last sequence number that was recorded; None if there is no such file.

    Raises:
        StoreCorrupt: neither slot is readable.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    found: list[int] = []
    for offset in _SLOTS:
        slot = content[offset : offset + _BODY.size + _CHECKSUM.size]
        if len(slot) == _BODY.size + _CHECKSUM.size:
            magic, sequence = _BODY.unpack_from(slot)
            if magic == _MAGIC and slot == _slot(sequence):
                found.append(sequence)
    if not found:
        raise StoreCorrupt(
            f"{file} is damaged: nothing tells how far the confirmed data reached. Restore a backup; or, to go on "
            f"with whatever the store still holds, move the file away and run `zbroker check {file.parent} --repair`."
        )
    return max(found)


class Watermark:
    """The open file, for writing. Made by the process that holds the directory."""

    def __init__(self, file: Path, sequence: int) -> None:
        """Open or create the file and record `sequence` in both slots, synced."""
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._turn = 0
        try:
            for offset in _SLOTS:
                os.pwrite(self._fd, _slot(sequence), offset)
            self.flush()
        except BaseException:
            os.close(self._fd)
            raise

    def record(self, sequence: int, *, now: bool) -> None:
        """Write the number, and sync the file if `now` or if the last time is `SYNC_EVERY_S` ago.

        Raises:
            OSError: the number may or may not be on disk.
        """
        self._turn ^= 1
        os.pwrite(self._fd, _slot(sequence), _SLOTS[self._turn])
        if now or time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Sync the file."""
        os.fdatasync(self._fd)
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """Sync and close the file."""
        try:
            self.flush()
        finally:
            os.close(self._fd)
