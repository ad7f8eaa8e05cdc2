"""Durations as people write them: ``5s``, ``300ms``, ``10m``, ``2h``, ``1d``, or a number of seconds."""

import math
import re
from datetime import timedelta
from typing import Any

from zclient.errors import InvalidArgument

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|d)?", re.ASCII)


def parse_duration(value: Any) -> float:
    """Seconds, not negative: from a text, a number of seconds, or a timedelta. `InvalidArgument` for anything else."""
    seconds: float | None = None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _as_float(value)
    elif isinstance(value, str) and (match := _TEXT.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds is None or not 0 <= seconds < math.inf:
        raise InvalidArgument(f"a duration is written like 5s, 300ms, 10m, 2h or 1d, not {value!r:.60}")
    return seconds


def duration_ms(value: Any) -> int:
    """The same in whole milliseconds, rounded; what is not nothing is at least one."""
    seconds = parse_duration(value)
    return max(round(seconds * 1000), 1) if seconds else 0


def format_duration(seconds: float) -> str:
    """The shortest such text, exact to the millisecond: ``90s``, ``1500ms``, ``2h``. `parse_duration` reads it."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def _as_float(value: int | float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None
