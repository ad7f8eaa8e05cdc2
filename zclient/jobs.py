"""What a producer makes of a job before it is sent: its id, its encoded payload, its options. It sends nothing.

Ids are UUIDv7 (RFC 9562) as 32 hexadecimal digits, so that they sort by the time they were made. The ids of a batch
share all but their last six digits, which count: a million ids need no million objects.
"""

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgpack

from zclient.errors import InvalidArgument, PayloadTooLarge
from zclient.options import wire_value
from zclient.protocol import limits
from zclient.protocol.options import CALLED_OPTIONS, JOB_OPTIONS, job_fault

RUN_JOBS = 1 << 24
"""Ids that share one prefix: what six hexadecimal digits can count."""

_BLOCK = 1 << 12
_LAST_DIGITS = [b"%03x" % number for number in range(_BLOCK)]


# ---- ids


class _Random(threading.local):
    """Random bytes of the system, fetched many at a time: asking for them lets go of the interpreter's lock, which in
    a busy thread costs more than all the rest of a send."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Fetch anew: a forked child must not make the ids that its parent will make."""
        self._pool = b""
        self._next = 0

    def number(self, size: int) -> int:
        """A number of so many random bytes."""
        start, self._next = self._next, self._next + size
        if self._next > len(self._pool):
            self._pool, start, self._next = os.urandom(4096), 0, size
        return int.from_bytes(self._pool[start : start + size], "big")


_random = _Random()
os.register_at_fork(after_in_child=_random.forget)  # of its threads only this one is left


def new_prefix() -> bytes:
    """The first 26 digits of a new UUIDv7: milliseconds, version, variant, and 50 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = _random.number(8)
    high = milliseconds << 16 | 0x7 << 12 | (random & 0xFFF)
    low = 0b10 << 62 | (random >> 12 & ((1 << 38) - 1)) << 24
    return b"%016x%010x" % (high, low >> 24)


def new_id() -> bytes:
    """A new UUIDv7 as a job's id: all of it random but for the time."""
    random = _random.number(10)
    low = 0b10 << 62 | random >> 12 & ((1 << 62) - 1)
    return b"%012x7%03x%016x" % (time.time_ns() // 1_000_000, random & 0xFFF, low)


class IdRun:
    """Consecutive ids under one prefix: a prefix, a first number and a count, whatever their number."""

    __slots__ = ("count", "first", "prefix")

    def __init__(self, prefix: bytes, first: int = 0, count: int = 0) -> None:
        self.prefix = prefix
        self.first = first
        self.count = count

    def __len__(self) -> int:
        return self.count

    def id(self, position: int) -> bytes:
        """The id at a position, 0 to count - 1."""
        return b"%b%06x" % (self.prefix, self.first + position)

    def ids(self) -> list[bytes]:
        """All of them; for the batches that are sent, which are short."""
        ids: list[bytes] = []
        number, end = self.first, self.first + self.count
        while number < end:
            block = number // _BLOCK
            head = b"%b%03x" % (self.prefix, block)
            stop = min(end, (block + 1) * _BLOCK)
            ids += [head + digits for digits in _LAST_DIGITS[number % _BLOCK : (stop - 1) % _BLOCK + 1]]
            number = stop
        return ids


class IdSource:
    """Hands out runs of consecutive ids, and begins a new prefix when one is used up."""

    def __init__(self) -> None:
        self._prefix = new_prefix()
        self._next = 0

    def take(self, count: int) -> IdRun:
        """The next ``count`` ids, at most `RUN_JOBS`."""
        if self._next + count > RUN_JOBS:
            self._prefix, self._next = new_prefix(), 0
        run = IdRun(self._prefix, self._next, count)
        self._next += count
        return run


class IdRuns:
    """Ids in order, kept as runs: neighbours that continue each other are one.

    ``instead`` maps those under which nothing is stored, since their unique text was taken, to the jobs that have it.
    """

    __slots__ = ("_ends", "_runs", "instead")

    def __init__(self, runs: Sequence[IdRun] = ()) -> None:
        self._runs: list[IdRun] = []
        self._ends: list[int] = []
        self.instead: dict[bytes, bytes] = {}
        for run in runs:
            self.add(run)

    def add(self, run: IdRun) -> None:
        """Append the ids of a run."""
        if not run.count:
            return
        last = self._runs[-1] if self._runs else None
        if last and last.prefix == run.prefix and last.first + last.count == run.first:
            self._runs[-1] = IdRun(last.prefix, last.first, last.count + run.count)
            self._ends[-1] += run.count
        else:
            self._runs.append(run)
            self._ends.append(len(self) + run.count)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def id(self, position: int) -> bytes:
        """The id at a position, 0 to len - 1."""
        index = bisect_right(self._ends, position)
        return self._runs[index].id(position - (self._ends[index - 1] if index else 0))

    def __iter__(self) -> Iterator[bytes]:
        for run in self._runs:
            for position in range(run.count):
                yield run.id(position)


def id_bytes(identifier: Any) -> bytes:
    """A job id as it travels. Takes a text or anything with an ``id``, such as a handle; else `InvalidArgument`."""
    text = getattr(identifier, "id", identifier)
    if not isinstance(text, str):
        raise InvalidArgument(f"a job id is a text, not {type(text).__name__}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"a job id is UTF-8 text, not {text!r}") from None
    if fault := limits.id_fault(encoded):
        raise InvalidArgument(fault)
    return encoded


# ---- payloads


class _Packers(threading.local):
    """A packer a thread: making one costs more than packing a small job with it."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer().pack


_packers = _Packers()


def encode_payload(value: Any) -> bytes:
    """``value`` as the wire carries it. `InvalidArgument` for what msgpack cannot, `PayloadTooLarge` for any frame."""
    try:
        encoded: bytes = _packers.pack(value)
        if type(value) in (dict, list, tuple):  # a map's key may be a list on the wire, but nobody could read it
            msgpack.unpackb(encoded, strict_map_key=False)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(
            "a payload is made of None, bool, int (64 bits), float, str, bytes, list, and dict with simple keys: "
            f"{error}"
        ) from None
    if len(encoded) > limits.MAX_FRAME_BYTES:
        raise PayloadTooLarge(f"{len(encoded)} bytes; no broker takes more than {limits.MAX_FRAME_BYTES}")
    return encoded


def decode_payload(encoded: bytes) -> Any:
    """The value again. ValueError if these are not the bytes of one: another program wrote them."""
    try:
        return msgpack.unpackb(encoded, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"not msgpack: {type(error).__name__} {error}") from None


# ---- options


def queue_name(name: Any) -> str:
    """A queue's name, checked."""
    if not isinstance(name, str):
        raise InvalidArgument(f"a queue name is a text, not {type(name).__name__}")
    if fault := limits.queue_name_fault(name):
        raise InvalidArgument(fault)
    return name


def wire_options(**options: Any) -> dict[str, Any]:
    """A job's options in the units of the wire. What is None is left out; what is wrong is `InvalidArgument`.

    `zclient.joboptions.JobOptions` tells what they are.
    """
    wire: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        option = JOB_OPTIONS.get(name)
        if option is None or name in CALLED_OPTIONS:
            raise InvalidArgument(f"no such option: {name}")
        wire[name] = wire_value(name, option, value)
    if fault := job_fault(wire):
        raise InvalidArgument(fault)
    if "headers" in wire:
        _check_size(wire["headers"])
    return wire


def stream_options(**options: Any) -> dict[str, Any]:
    """The same for a job whose partials are read: `InvalidArgument` for what cannot go with that."""
    wire = {**wire_options(**options), "stream": True}
    if fault := job_fault(wire):
        raise InvalidArgument(fault)
    return wire


def _check_size(headers: dict[str, Any]) -> None:
    try:
        size = len(encode_payload(headers))
    except InvalidArgument as error:
        raise InvalidArgument(f"headers: {error}") from None
    if size > limits.MAX_HEADERS_BYTES:
        raise InvalidArgument(f"headers take at most {limits.MAX_HEADERS_BYTES} bytes: data belongs in the payload")


def whole(value: Any, name: str, least: int, most: int) -> int:
    """An integer within bounds, checked."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidArgument(f"{name} is an integer from {least} to {most}, not {value!r:.60}")
    return int(value)


def moment(milliseconds: int | None) -> datetime | None:
    """A point in time of the wire (Unix milliseconds) as a datetime in UTC."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
