"""How the command lines print: JSON documents, aligned tables, times, results. It asks no broker anything.

Text for people never passes on what could steer a terminal: whatever is not printable is shown escaped. A result is the
exception, since it is the data itself: a str or bytes goes to stdout as it is.
"""

import base64
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_STATE_COLOURS = {"done": "green", "dead": "red", "leased": "cyan", "cancelled": "yellow"}


# ---- JSON


def json_value(value: Any) -> Any:
    """``value`` in what JSON can say: bytes as ``{"base64": ...}``, times as ISO 8601 in UTC, other objects as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        return {_json_key(key): json_value(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [json_value(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value)


def _json_key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(json_value(key))


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """``value`` as one JSON document; without ``indent`` on one line."""
    return json.dumps(json_value(value), ensure_ascii=False, indent=indent)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    write(json_text(value) + "\n")


# ---- stdout


def write(text: str | bytes) -> None:
    """Text as UTF-8, or bytes, on stdout just as they are: no newline added, no colour removed."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    sys.stdout.flush()
    left = memoryview(data)
    while left:  # an unbuffered stdout may take a part
        left = left[sys.stdout.buffer.write(left) :]
    sys.stdout.buffer.flush()


def print_result(value: Any) -> None:
    """A job's result for people and pipes: bytes as they are, a str as a line, anything else as JSON."""
    if isinstance(value, bytes):
        write(value)
    elif isinstance(value, str):
        write(value + "\n")
    else:
        print_json(value)


def print_value(value: Any, *, as_json: bool) -> None:
    """A job's result: with ``as_json`` one document, else as `print_result` does."""
    if as_json:
        print_json(value)
    else:
        print_result(value)


def print_note(text: str) -> None:
    """A remark for people on stderr, where it does not mix with data."""
    click.echo(text, err=True)


def in_colour() -> bool:
    """Whether stdout is a terminal whose owner did not ask for plain text with NO_COLOR."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _paint(text: str, **style: Any) -> str:
    return click.style(text, **style) if in_colour() else text


# ---- text for people


def state(name: str, width: int = 0) -> str:
    """A state in its colour, if there is any, in so many characters at least."""
    colour = _STATE_COLOURS.get(name)
    return name.ljust(width) if colour is None else _paint(name, fg=colour) + " " * (width - len(name))


def plain(value: Any) -> str:
    """One line of printable text: None as ``-``, structures as JSON, control characters escaped."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value, datetime.now(UTC))
    text = value if isinstance(value, str) else json_text(value, indent=None)
    return text if text.isprintable() else _escaped(text)


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def block(text: str, indent: str = "    ") -> str:
    """Text of several lines, such as a traceback: its line breaks kept, everything else as `plain` does."""
    return "\n".join(indent + _escaped(line.expandtabs(4)) for line in text.splitlines())


def span(seconds: float) -> str:
    """A duration in its two largest units: ``3d 4h``, ``12m 5s``, ``0.25s``."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def moment(at: datetime | None, now: datetime) -> str:
    """A point in time in local ISO 8601, with how long ago it was or how soon it will be."""
    if at is None:
        return "-"
    age = round((now - at).total_seconds())
    told = f"{span(age)} ago" if age > 0 else f"in {span(-age)}" if age < 0 else "now"
    return f"{at.astimezone().isoformat(timespec='seconds')} ({told})"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows under a heading, columns aligned, numbers to the right.

    On a terminal a line is cut at its width, which touches the last columns only: put the ids first. In a pipe
    everything is whole.
    """
    rows = list(rows)
    cells = [[plain(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [bool(rows) and all(type(row[i]) in (int, float) for row in rows) for i in range(len(columns))]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize

    def line(texts: Sequence[str]) -> str:
        aligned = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(texts, widths, right, strict=True)]
        joined = "  ".join(aligned).rstrip()
        return joined if len(joined) <= most else joined[: most - 1] + "…"

    states = columns.index("state") if "state" in columns else None
    lines = [_paint(line(columns), bold=True)]
    for texts in cells:
        colour = None if states is None else _STATE_COLOURS.get(texts[states])
        lines.append(line(texts) if colour is None else _paint(line(texts), fg=colour))
    write("\n".join(lines) + "\n")


def with_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """A map of the wire with its points in time, which end in ``_at`` and are Unix milliseconds, as datetimes."""
    return {
        name: datetime.fromtimestamp(value / 1000, UTC) if name.endswith("_at") and isinstance(value, int) else value
        for name, value in row.items()
    }


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of maps inside maps as fields of one, under dotted names."""
    result: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def print_fields(fields: Mapping[str, Any]) -> None:
    """Names and values, one a line; what is None is left out, and maps are taken apart."""
    told = {name: value for name, value in flat(fields).items() if value is not None}
    width = max(map(len, told), default=0)
    write("".join(f"{_paint(name.ljust(width), bold=True)}  {plain(value)}\n" for name, value in told.items()))
