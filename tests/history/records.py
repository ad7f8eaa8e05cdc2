"""The history of a run: what its processes saw, each in a file of its own, and how such files are read.

A file is a row of msgpack lists, written one `write` each, so that a kill comes before a record or after it, and the
system keeps what was written. The first record is the header: it names the process and pairs the two clocks, so every
later record needs only the monotonic one, in microseconds, the same for all processes of a host. Nothing is judged
here.

    HEADER     version, who, monotonic, wall, facts
    SEND       t, job, queue, key, priority, options     a producer is about to send it, for the first time or again
    CONFIRMED  t, job                                    the broker said that it has it
    UNKNOWN    t, job                                    it left, and nobody answered
    FAILED     t, job, code                              the broker refused it, and keeps nothing
    START      t, job, fence, attempt                    a run begins
    VALID      t, job, fence                             the broker said that this lease counts; asked at t
    SETTLE     t, job, fence, outcome                    how the worker settles it
    ANSWER     t, job, fence, accepted                   whether the broker counted that
    LOST       t, job, fence                             the worker was told that the lease is not its own
    EFFECT     t, job, fence, value                      one entry in the handler's own database
    ORDER      t, job, verb, accepted                    somebody's order: None when it is given, then the answer
    FINAL      t, job, state, fence, attempts, reason    what the broker says when all is over
    HARM       t, "", whom, what                         what was done to a process, or to its link
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

VERSION = 1

HEADER, SEND, CONFIRMED, UNKNOWN, FAILED, START, VALID, SETTLE, ANSWER, LOST, EFFECT, ORDER, FINAL, HARM = range(14)

NAMES = (
    *("header", "send", "confirmed", "unknown", "failed", "start", "valid", "settle", "answer", "lost", "effect"),
    *("order", "final", "harm"),
)

FIELDS = {
    HEADER: 6,
    SEND: 7,
    CONFIRMED: 3,
    UNKNOWN: 3,
    FAILED: 4,
    START: 5,
    VALID: 4,
    SETTLE: 5,
    ANSWER: 5,
    LOST: 4,
    EFFECT: 5,
    ORDER: 5,
    FINAL: 7,
    HARM: 5,
}
"""How long the list of each kind is."""

SUFFIX = ".history"

Record = list[Any]


class BadHistory(Exception):
    """A file that is no history, or is damaged before its end."""


class Header(NamedTuple):
    """Whose history it is, and what it says of the run as a whole. ``wall_us`` was the time at ``monotonic_us``."""

    who: str
    monotonic_us: int
    wall_us: int
    facts: dict[str, Any]


def now_us() -> int:
    return time.monotonic_ns() // 1000


class Recorder:
    """The history of one process; any of its threads may write. ``who`` is ``name/number``; a restart has the next one.

    With ``buffer_bytes`` it gathers so much before it writes, which a kill would lose: for programs that nobody kills.
    """

    def __init__(self, folder: Path, who: str, *, buffer_bytes: int = 0, **facts: Any) -> None:
        self.path = folder / (who.replace("/", ".") + SUFFIX)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._pack: Callable[[Any], bytes] = msgpack.packb
        self._buffer_bytes = buffer_bytes
        self._buffer = bytearray()
        self.record(HEADER, VERSION, who, now_us(), time.time_ns() // 1000, facts)

    def note(self, kind: int, job: str, *rest: Any, at: int | None = None) -> None:
        """Write down what happens now, or happened at a point of the monotonic clock, in microseconds."""
        self.record(kind, now_us() if at is None else at, job, *rest)

    def record(self, *record: Any) -> None:
        data = self._pack(record)
        if self._buffer_bytes:
            self._buffer += data
            if len(self._buffer) < self._buffer_bytes:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        written = os.write(self._file, data)
        if written != len(data):
            raise OSError(f"{self.path}: no room for the history")

    def close(self) -> None:
        if self._buffer:
            os.write(self._file, self._buffer)
        os.close(self._file)


class Reader:
    """One file, record by record. ``torn`` is how many bytes at its end are no whole record: its process was killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        with path.open("rb") as file:
            first = next(self._records(file), None)
        if first is None or first[:2] != [HEADER, VERSION]:
            raise BadHistory(f"{path} does not begin as a history of version {VERSION} does")
        self.header = Header(*first[2:])

    def __iter__(self) -> Iterator[Record]:
        with self.path.open("rb") as file:
            yield from self._records(file)

    def _records(self, file: Any) -> Iterator[Record]:
        unpacker = msgpack.Unpacker(file, read_size=1 << 20)
        whole = 0
        try:
            for record in unpacker:
                if FIELDS[record[0]] != len(record):
                    raise BadHistory(f"{self.path}: {record!r:.100} is no record")
                whole = unpacker.tell()
                yield record
        except (ValueError, TypeError, KeyError, LookupError, msgpack.UnpackException) as error:
            raise BadHistory(f"{self.path}: damaged after byte {whole}: {error!r}") from None
        self.torn = self.path.stat().st_size - whole


def files_of(folder: Path) -> list[Path]:
    """The histories in a folder, the largest first."""
    return sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: (-path.stat().st_size, path.name))
