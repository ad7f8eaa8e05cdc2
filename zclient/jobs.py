"""What a producer makes of a job before it is sent: its id, its encoded payload, its options. It sends nothing.

Ids are UUIDv7 (RFC 9562) as 32 hexadecimal digits, so that they sort by the time they were made. The ids of a batch
share all but their last six digits, which count: a million ids need no million objects.
"""

import math
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgpack

from zclient.durations import duration_ms
from zclient.errors import InvalidArgument, PayloadTooLarge
from zclient.protocol import limits

RUN_JOBS = 1 << 24
"""Ids that share one prefix: what six hexadecimal digits can count."""

_BLOCK = 1 << 12
_LAST_DIGITS = [b"%03x" % number for number in range(_BLOCK)]
_LATER = {"ttl", "unique", "after"}


# ---- ids


def new_prefix() -> bytes:
    """The first 26 digits of a new UUIDv7: milliseconds, version, variant, and 50 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(8), "big")
    high = milliseconds << 16 | 0x7 << 12 | (random & 0xFFF)
    low = 0b10 << 62 | (random >> 12 & ((1 << 38) - 1)) << 24
    return b"%016x%010x" % (high, low >> 24)


def new_id() -> bytes:
    """A new job id, all of it random but for the time."""
    random = int.from_bytes(os.urandom(3), "big")
    return b"%b%06x" % (new_prefix(), random)


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
    """Ids in order, kept as runs: neighbours that continue each other are one."""

    __slots__ = ("_ends", "_runs")

    def __init__(self, runs: Sequence[IdRun] = ()) -> None:
        self._runs: list[IdRun] = []
        self._ends: list[int] = []
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
    """A caller's options in the units of the wire. What is None is left out; what is wrong is `InvalidArgument`."""
    wire: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name in _LATER:
            raise InvalidArgument(f"the option {name} arrives in a later version")
        check = _CHECKS.get(name)
        if check is None:
            raise InvalidArgument(f"no such option: {name}")
        wire[name] = check(value)
    if "delay" in wire and "at" in wire:
        raise InvalidArgument("give delay or at, not both")
    return wire


def whole(value: Any, name: str, least: int, most: int) -> int:
    """An integer within bounds, checked."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidArgument(f"{name} is an integer from {least} to {most}, not {value!r:.60}")
    return int(value)


def _priority(value: Any) -> int:
    return whole(value, "priority", limits.MIN_PRIORITY, limits.MAX_PRIORITY)


def _max_attempts(value: Any) -> int:
    return whole(value, "max_attempts", 1, limits.MAX_ATTEMPTS)


def _key(value: Any) -> str:
    if not isinstance(value, str) or len(value.encode(errors="replace")) > limits.MAX_KEY_BYTES:
        raise InvalidArgument(f"key is a text of at most {limits.MAX_KEY_BYTES} bytes")
    return value


def _delay(value: Any) -> int:
    delay_ms = duration_ms(value)
    if delay_ms > limits.MAX_DELAY_MS:
        raise InvalidArgument(f"delay is at most ten years, not {value!r:.60}")
    return delay_ms


def _at(value: Any) -> int:
    """Unix milliseconds, from Unix seconds, a datetime, or ISO 8601; without a zone it is local time."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value.timestamp()
        if not isinstance(value, bool) and math.isfinite(value) and 0 <= value * 1000 < 1 << 53:
            milliseconds: int = round(value * 1000)
            return milliseconds
    except (ValueError, TypeError, OverflowError, OSError):
        pass  # One message for whatever is wrong with it, below.
    raise InvalidArgument(f"at is Unix seconds, a datetime or a text like 2031-05-04T12:30Z, not {value!r:.60}")


def _headers(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(item, str | int | float) for name, item in value.items()
    ):
        raise InvalidArgument("headers map texts to a str, int, float or bool each")
    headers = dict(value)
    if len(encode_payload(headers)) > limits.MAX_HEADERS_BYTES:
        raise InvalidArgument(f"headers take at most {limits.MAX_HEADERS_BYTES} bytes: data belongs in the payload")
    return headers


_CHECKS = {
    "priority": _priority,
    "key": _key,
    "delay": _delay,
    "at": _at,
    "max_attempts": _max_attempts,
    "headers": _headers,
}


def moment(milliseconds: int | None) -> datetime | None:
    """A point in time of the wire (Unix milliseconds) as a datetime in UTC."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
