"""`zbroker doctor`, the part about this host: the disk of a data directory, its fsync, the clock, file descriptors.

It measures and compares, and changes nothing but a file of its own that it removes. What to do about each finding
stands in docs/doctor.md. What it asks a running broker is in `doctor_broker`.
"""

import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from zbroker.limits import LATE_TURN_MS
from zbroker.storage.directory import holder_of, store_of

SYNCS = 30
"""Writes of `SYNC_BYTES` with an fsync each, to see how long one takes."""

SYNC_BYTES = 4096

SLOW_SYNC_MS, BAD_SYNC_MS = 10.0, 50.0
"""Median of an fsync from which it is told, and from which a broker is hardly of use: 100 and 20 commits a second."""

FEW_INODES = 10_000
"""The store has some hundred files; but a file system that is full of others refuses new ones."""

AHEAD_S = 5.0
"""A file of the data directory that is newer than now by this was written by a clock that was set back since."""

SKEW_MS = 1_000
"""Difference between the broker's clock and ours, beyond what the answer took, from which it is told."""

SPARE_FILES = 400
"""Descriptors that a broker needs beside one for each peer: up to 256 for tables, and the rest."""

MOST_FILES = 0.9
"""Share of the descriptors in use from which the broker is about to run out."""

TIME_ERROR = 5
"""What adjtimex(2) returns while nobody keeps the clock synchronised."""


class Grade(StrEnum):
    """How bad a finding is; the worse, the later."""

    OK = "ok"
    NOTE = "note"  # to know, or could not be looked at: nothing to do
    WARNING = "warning"  # will hurt, or does so already
    BAD = "bad"  # work is refused, or lost to waiting


class Finding(NamedTuple):
    """What was looked at, and how it is. The figures are for programs, times in ms and sizes in bytes."""

    check: str
    grade: Grade
    text: str
    figures: dict[str, Any]


def look_at_host(data: Path, disk_floor: int) -> list[Finding]:
    """The findings about the disk of a data directory, and the clock."""
    if store_of(data) is None:
        text = f"{data} is no data directory, so nothing of its disk was looked at: name the broker's with --data"
        return [Finding("disk", Grade.NOTE, text, {})]
    return [disk(data, disk_floor), fsync(data), clock(data)]


# ---- the disk


def disk(data: Path, floor: int) -> Finding:
    """Free space, and free inodes where the file system counts them."""
    told = os.statvfs(data)
    free = told.f_bavail * told.f_frsize
    figures = {"free_bytes": free, "floor_bytes": floor, "free_inodes": told.f_favail if told.f_files else None}
    text = f"{_size(free)} are free"
    if free < floor:
        return Finding("disk", Grade.BAD, f"{text}, less than disk_floor ({_size(floor)}): no job is taken", figures)
    if told.f_files and told.f_favail < FEW_INODES:
        return Finding("disk", Grade.WARNING, f"{text}, but only {told.f_favail} inodes", figures)
    if free < 2 * floor:
        return Finding(
            "disk", Grade.WARNING, f"{text}; below {_size(floor)} (disk_floor) no job will be taken", figures
        )
    return Finding("disk", Grade.OK, text, figures)


def fsync(data: Path, sync: Callable[[int], None] = os.fdatasync) -> Finding:
    """How long a small synced write takes, in the directory itself. ``sync`` is what is measured."""
    took_ms: list[float] = []
    try:
        with tempfile.TemporaryFile(dir=data, buffering=0) as file:
            for _ in range(SYNCS):
                file.write(bytes(SYNC_BYTES))
                began = time.perf_counter()
                sync(file.fileno())
                took_ms.append((time.perf_counter() - began) * 1000)
    except OSError as error:
        return Finding("fsync", Grade.NOTE, f"could not be measured in {data}: {error.strerror}", {})
    usual, worst = median(took_ms), max(took_ms)
    figures = {"median_ms": round(usual, 3), "worst_ms": round(worst, 3), "syncs": SYNCS}
    text = f"an fsync takes {usual:.2f} ms, the slowest of {SYNCS} took {worst:.2f} ms"
    if usual >= BAD_SYNC_MS:
        return Finding("fsync", Grade.BAD, f"{text}: every confirmation waits for one", figures)
    if usual >= SLOW_SYNC_MS or worst >= LATE_TURN_MS:
        return Finding("fsync", Grade.WARNING, f"{text}: every confirmation waits for one", figures)
    return Finding("fsync", Grade.OK, text, figures)


# ---- the clock


def clock(data: Path) -> Finding:
    """Whether the clock was set back since the broker last wrote, and whether somebody keeps it right."""
    ahead_s = _newest(data) - time.time()
    figures = {"ahead_ms": max(0, round(ahead_s * 1000)), "synchronised": is_clock_kept()}
    if ahead_s > AHEAD_S:
        text = f"the data were written {ahead_s:.0f} s later than it is now: the clock was set back"
        return Finding("clock", Grade.WARNING, f"{text}, and what is due waits for so long", figures)
    if figures["synchronised"] is False:
        return Finding("clock", Grade.NOTE, "nobody keeps this host's clock synchronised, says its kernel", figures)
    return Finding("clock", Grade.OK, "the clock did not go back since the last write", figures)


def _newest(data: Path) -> float:
    """When the last of its files was written, by the clock of then: Unix seconds."""
    newest = 0.0
    for path in (*data.iterdir(), *data.glob("*/*")):
        with contextlib.suppress(FileNotFoundError):  # the database removed it meanwhile
            newest = max(newest, path.stat().st_mtime)
    return newest


def is_clock_kept() -> bool | None:
    """Whether the kernel says that the clock is synchronised (adjtimex(2), which needs no rights); None if unknown."""
    try:
        told: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (AttributeError, OSError):
        return None
    return None if told < 0 else told != TIME_ERROR


def skew(told_at_ms: int, asked_ms: float, answered_ms: float) -> Finding:
    """The broker's clock beside ours: it told its time between our asking and its answer."""
    behind, ahead = told_at_ms - answered_ms, told_at_ms - asked_ms
    off_ms = round(behind if behind > 0 else ahead if ahead < 0 else 0)
    figures = {"off_ms": off_ms}
    if abs(off_ms) > SKEW_MS:
        where = "ahead of" if off_ms > 0 else "behind"
        text = f"the broker's clock is {abs(off_ms) / 1000:.1f} s {where} this host's"
        return Finding("skew", Grade.WARNING, f"{text}: an `at` from here means another time", figures)
    return Finding("skew", Grade.OK, "the broker's clock says the same as this host's", figures)


# ---- descriptors


def files(data: Path, peers: int = 0) -> Finding:
    """How many files the broker that holds the directory may open, and has open."""
    pid = holder_of(data)
    if pid is None:
        return Finding("files", Grade.NOTE, f"no process has {data}: the broker is not running", {})
    try:
        most, used = _file_limit(pid), len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return Finding("files", Grade.NOTE, f"the limits of process {pid} cannot be read from here", {"pid": pid})
    figures = {"pid": pid, "limit": most, "open": used}
    text = f"process {pid} has {used} of {most} file descriptors open"
    if used >= MOST_FILES * most:
        return Finding("files", Grade.BAD, f"{text}: new connections will wait, and the store may fail", figures)
    if most < peers + SPARE_FILES:
        return Finding("files", Grade.WARNING, f"{text}, and needs one for each peer and {SPARE_FILES} more", figures)
    return Finding("files", Grade.OK, text, figures)


def _file_limit(pid: int) -> int:
    for line in Path(f"/proc/{pid}/limits").read_text("ascii").splitlines():
        if line.startswith("Max open files"):
            return int(line.split()[3])
    raise OSError(f"the limits of process {pid} say nothing of files")


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
