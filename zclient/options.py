"""How people write the options of jobs, tasks and queues, and how they are shown again.

The options themselves, with their ranges, are `zclient.protocol.options`; here a text, a number or a datetime becomes a
value of the wire, and back. The same texts serve arguments, command lines and configuration files.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from zclient.durations import duration_ms, format_duration
from zclient.errors import InvalidArgument
from zclient.protocol.options import JOB_OPTIONS, MAX_BACKOFF_STEPS, QUEUE_OPTIONS, Option

_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d{1,18})\s*([A-Za-z]*)", re.ASCII)
_RATE = re.compile(r"(\d{1,18})(?:\s*/\s*(\S.*))?", re.ASCII)


def wire_value(name: str, option: Option, value: Any) -> Any:
    """What was written for an option as the wire has it; `InvalidArgument`, with the option's name, if it cannot be."""
    try:
        return read_value(option, value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error}") from None


def read_value(option: Option, value: Any) -> Any:
    """The same, for a caller that names the option itself."""
    wire = _READERS[option.kind](value)
    fault = option.fault(wire)
    if fault is not None:
        raise InvalidArgument(_in_units(option, fault, value))
    return wire


def _in_units(option: Option, fault: str, value: Any) -> str:
    """The fault of a duration, or of what may be one, in the units that people write."""
    if option.kind not in ("duration", "period", "backoff"):
        return fault
    span = f"from {format_duration(option.low / 1000)} to {format_duration(option.high / 1000)}"
    if option.kind == "backoff":
        span = f"1 to {MAX_BACKOFF_STEPS} waits {span}"
    return f"{', '.join([*option.choices, span])}, not {value!r:.60}"


def queue_options(written: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a queue as the wire has them; `InvalidArgument` for one that is none, or cannot be."""
    for name in written:
        known_queue_option(name)
    return {name: wire_value(name, QUEUE_OPTIONS[name], value) for name, value in written.items()}


def known_queue_option(name: str) -> str:
    """The name, if it is that of a queue's option; else `InvalidArgument`."""
    if name not in QUEUE_OPTIONS:
        raise InvalidArgument(f"no such option of a queue: {name}; there are {', '.join(QUEUE_OPTIONS)}")
    return name


def written_value(option: Option, value: Any) -> Any:
    """A value of the wire as people write it: `wire_value` reads it."""
    writer = _WRITERS.get(option.kind)
    return value if writer is None else writer(value)


def written_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a job as people write them; one that this library does not know is left as it is."""
    return {
        name: written_value(JOB_OPTIONS[name], value) if name in JOB_OPTIONS else value
        for name, value in options.items()
    }


# ---- reading, one kind of value each


def whole_number(value: Any) -> int:
    """An integer, or the text of one."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"a whole number, not {value!r:.60}")
    return int(value)


def size(value: Any) -> int:
    """Bytes: a number, or a number with KiB, MiB, GiB (or KB, MB, GB) behind it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZES:
        raise InvalidArgument(f"a number of bytes, such as 1048576 or 1MiB, not {value!r:.60}")
    return int(match[1]) * _SIZES[match[2]]


def share(value: Any) -> float:
    """A number from 0 to 1, or the text of one."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidArgument(f"a number from 0 to 1, not {value!r:.60}")
    return number


def moment_ms(value: Any) -> int:
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
    raise InvalidArgument(f"Unix seconds, a datetime or a text like 2031-05-04T12:30Z, not {value!r:.60}")


def rate(value: Any) -> Any:
    """``100`` (a second), ``10/1m``, 0 for none; ``[jobs, ms]``, or 0."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [int(value), 1000] if value else 0
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgument(f"jobs a second, or in a time: 100, 10/1m; not {value!r:.60}")
    return [int(match[1]), duration_ms(match[2] or "1s")] if int(match[1]) else 0


def backoff(value: Any) -> Any:
    """A name, or durations: a list of them, or a text with commas."""
    if isinstance(value, str) and not re.match(r"\s*[\d.]", value):
        return value.strip()
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise InvalidArgument(f"exponential, linear, constant, or waits such as 1s,10s,1m; not {value!r:.60}")
    return [duration_ms(wait) for wait in value]


def period(value: Any) -> Any:
    """``done``, ``waiting``, or a duration."""
    if isinstance(value, str) and not re.match(r"\s*[\d.]", value):
        return value.strip()
    return duration_ms(value)


def weights(value: Any) -> dict[str, int]:
    """A map from key to weight, or its text: ``tenant-3=5,tenant-7=2``. A key with a comma needs the map (or JSON)."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise InvalidArgument(f"keys with weights, such as tenant-3=5,tenant-7=2; not {value!r:.60}") from None
    if isinstance(value, str):
        pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise InvalidArgument(f"keys with weights, such as tenant-3=5,tenant-7=2; not {value!r:.60}")
        value = {key.strip(): weight for key, _, weight in pairs}
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"keys with weights, such as tenant-3=5,tenant-7=2; not {value!r:.60}")
    return {key: whole_number(weight) for key, weight in value.items()}


def queue(value: Any) -> Any:
    """A queue's name; ``none`` or nothing for none."""
    return "" if value in (None, "none") else value


def ids(value: Any) -> list[bytes]:
    """Job ids: one or several, as texts or as handles."""
    several = [value] if isinstance(value, str) or hasattr(value, "id") else value
    try:
        texts = [getattr(one, "id", one) for one in several]
    except TypeError:
        raise InvalidArgument(f"job ids, or handles of jobs, not {value!r:.60}") from None
    if not all(isinstance(text, str) for text in texts):
        raise InvalidArgument(f"job ids, or handles of jobs, not {value!r:.60}")
    return list(dict.fromkeys(text.encode("utf-8", "surrogatepass") for text in texts))


def id_of(value: Any) -> bytes:
    """An id, as a text or as a handle."""
    text = getattr(value, "id", value)
    if not isinstance(text, str):
        raise InvalidArgument(f"an id, or a handle, not {value!r:.60}")
    return text.encode("utf-8", "surrogatepass")


def headers(value: Any) -> Any:
    """A map of texts, numbers and booleans."""
    return dict(value) if isinstance(value, Mapping) else value


def text(value: Any) -> Any:
    """A text, which the wire carries as UTF-8."""
    try:
        return value if not isinstance(value, str) else value.encode().decode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"UTF-8 text, not {value!r:.60}") from None


def _as_it_is(value: Any) -> Any:
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "count": whole_number,
    "duration": duration_ms,
    "moment": moment_ms,
    "size": size,
    "share": share,
    "choice": _as_it_is,
    "flag": _as_it_is,
    "text": text,
    "backoff": backoff,
    "period": period,
    "rate": rate,
    "weights": weights,
    "queue": queue,
    "headers": headers,
    "ids": ids,
    "id": id_of,
}


# ---- showing


def _shown_duration(value: int) -> str:
    return format_duration(value / 1000)


def _shown_rate(value: Any) -> str:
    if not value:
        return "0"
    jobs, per_ms = value
    return str(jobs) if per_ms == 1000 else f"{jobs}/{format_duration(per_ms / 1000)}"


def _shown_backoff(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(map(_shown_duration, value))


def _shown_weights(value: Mapping[str, int]) -> str:
    if any("," in key or "=" in key for key in value):
        return json.dumps(dict(value))
    return ",".join(f"{key}={weight}" for key, weight in value.items())


_WRITERS: dict[str, Callable[[Any], Any]] = {
    "duration": _shown_duration,
    "rate": _shown_rate,
    "backoff": _shown_backoff,
    "period": lambda value: value if isinstance(value, str) else _shown_duration(value),
    "weights": _shown_weights,
    "queue": lambda value: value or "none",
}
