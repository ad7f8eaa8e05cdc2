"""Filters as people write them: tests on headers, ``region=eu``, and back. It compares nothing; the broker does.

A value that reads as a number is one, ``true`` and ``false`` are booleans, anything else is a text; what is in double
quotes is a text whatever it reads as.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from zclient.errors import InvalidArgument
from zclient.protocol.topics import TESTS, filters_fault

Filter = str | Sequence[Any]
"""One test: as it is written, or as header, test and value: ``("amount", ">=", 10)``."""

_NAME = r"(?P<name>[^\s=<>!^\"]+)"
_COMPARED = re.compile(_NAME + r"\s*(?P<test>\^=|<=|>=|=|<|>)\s*(?P<value>.*)", re.DOTALL)
_IN = re.compile(_NAME + r"\s+in\s+(?P<value>.*)", re.DOTALL)
_EXISTS = re.compile(r"(?:exists\s+|(?P<not>!)\s*)" + _NAME)
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_PART = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^,"]*)\s*(,|$)')

_HOW = "write region=eu, region in eu,us, name^=ab, amount>=10, exists region, or !region"


def wire_filters(filters: Iterable[Filter]) -> list[list[Any]]:
    """Tests as the wire has them; `InvalidArgument` for what is none."""
    if isinstance(filters, str):
        raise InvalidArgument(f"filters are a list of tests, not {filters!r:.60}")
    told = [parse_filter(one) if isinstance(one, str) else _listed(one) for one in filters]
    if fault := filters_fault(told):
        raise InvalidArgument(fault)
    return told


def _listed(test: Sequence[Any]) -> list[Any]:
    """A test in its parts; the value may be missing where there is none."""
    try:
        name, kind, *rest = test
        value = list(rest[0]) if kind == "in" and rest and not isinstance(rest[0], str) else rest[0] if rest else None
    except (TypeError, ValueError):
        raise InvalidArgument(f"a test is a header, one of {', '.join(TESTS)}, and a value: {test!r:.60}") from None
    return [name, kind, value, *rest[1:]]


def parse_filter(text: str) -> list[Any]:
    """One test, from its text."""
    written = text.strip()
    if match := _EXISTS.fullmatch(written):
        return [match["name"], "absent" if match["not"] else "exists", None]
    if match := _IN.fullmatch(written):
        return [match["name"], "in", [_value(part) for part in _parts(match["value"], text)]]
    match = _COMPARED.fullmatch(written)
    if match is None:
        raise InvalidArgument(f"{text!r:.80} is no filter: {_HOW}")
    test, value = match["test"], match["value"].strip()
    if test == "^=":
        return [match["name"], test, value if _value(value) != value and value[:1] != '"' else _value(value)]
    read = _value(value)
    if test not in ("=", "in") and (isinstance(read, bool) or not isinstance(read, int | float)):
        raise InvalidArgument(f"{text!r:.80}: {test} compares numbers, not {value!r:.40}")
    return [match["name"], test, read]


def _parts(text: str, whole: str) -> list[str]:
    """What stands between commas; those in double quotes are no commas."""
    parts, at = [], 0
    while True:
        match = _PART.match(text, at)
        if match is None or (not match[1].strip() and match[1] != '""'):
            raise InvalidArgument(f"{whole!r:.80} is no filter: values with commas between them stand behind in")
        parts.append(match[1].strip())
        at = match.end()
        if not match[2]:
            return parts


def _value(text: str) -> str | int | float | bool:
    if text.startswith('"'):
        return _unquoted(text)
    if text.startswith(("=", "'")):  # what other languages write; nobody means such a text
        raise InvalidArgument(
            f"{text!r:.60}: one = is enough, and a text with such a beginning stands in double quotes"
        )
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER.fullmatch(text):
        if text.lstrip("+-").isdigit() and -(1 << 63) <= int(text) < 1 << 64:
            return int(text)
        return float(text)
    return text


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, str):
        raise InvalidArgument(f"{text!r:.60} is no text in double quotes")
    return value


def written_filter(test: Sequence[Any]) -> str:
    """A test of the wire as people write it: `parse_filter` reads it."""
    name, kind, value = test
    if kind == "exists":
        return f"exists {name}"
    if kind == "absent":
        return f"!{name}"
    if kind == "in":
        return f"{name} in {','.join(map(_written, value))}"
    return f"{name}{kind}{_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    is_plain = value and value[0] not in "='" and not re.search(r'[\s,"]', value) and _value(value) == value
    return value if is_plain else json.dumps(value)
