"""What topics, patterns and filters can be; their only home. The broker judges by it, and clients before they send.

A topic is words with dots between them. In a pattern ``*`` stands for exactly one word, ``#`` for any number of them,
none included. A filter is tests on headers, ``[name, test, value]``, all of which must hold.
"""

import math
import re
from typing import Any

from zclient.protocol import limits

_WORD = re.compile(r"[A-Za-z0-9_:/@-]+")

TESTS = ("=", "in", "^=", "exists", "absent", "<", "<=", ">", ">=")
"""Equals, one of several, begins with, is there, is not there, and what numbers can be to each other."""

MAX_HEADER_NAME_BYTES = 256
"""The name of a header that a test names."""


def topic_fault(topic: Any) -> str | None:
    """Why this cannot be a topic, or None if it can."""
    return _dotted_fault(topic, "a topic", ())


def pattern_fault(pattern: Any) -> str | None:
    """Why this cannot be a pattern of topics, or None if it can."""
    fault = _dotted_fault(pattern, "a pattern", ("*", "#"))
    if fault is None and pattern.split(".").count("#") > limits.MAX_OPEN_WORDS:
        return f"a pattern has at most {limits.MAX_OPEN_WORDS} words that are #: {pattern!r:.60}"
    return fault


def _dotted_fault(text: Any, what: str, wild: tuple[str, ...]) -> str | None:
    if type(text) is not str or not 0 < len(text) <= limits.MAX_TOPIC_CHARS:
        return f"{what} is a text of 1 to {limits.MAX_TOPIC_CHARS} characters, not {text!r:.60}"
    words = text.split(".")
    if len(words) > limits.MAX_TOPIC_WORDS:
        return f"{what} has at most {limits.MAX_TOPIC_WORDS} words: {text!r:.60}"
    for word in words:
        if word not in wild and not _WORD.fullmatch(word):
            also = f", or {' or '.join(wild)}" if wild else ""
            return f"{what} is words with dots between them, of letters, digits and _ - : / @{also}: {text!r:.60}"
    return None


def filters_fault(filters: Any) -> str | None:
    """Why these cannot be the tests of a filter, or None if they can."""
    if type(filters) is not list or len(filters) > limits.MAX_FILTERS:
        return f"filters are a list of at most {limits.MAX_FILTERS} tests"
    for test in filters:
        if type(test) is not list or len(test) != 3:
            return f"a test is a header's name, what is tested, and a value: {test!r:.60}"
        fault = _test_fault(*test)
        if fault is not None:
            return f"{fault}: {test!r:.60}"
    return None


def _test_fault(name: Any, test: Any, value: Any) -> str | None:
    if type(name) is not str or not 0 < len(name.encode(errors="replace")) <= MAX_HEADER_NAME_BYTES:
        return f"a header's name is a text of 1 to {MAX_HEADER_NAME_BYTES} bytes"
    match test:
        case "=":
            return None if _is_header(value) else "a header equals a text, a number or a boolean"
        case "in":
            several = type(value) is list and 0 < len(value) <= limits.MAX_FILTER_VALUES
            if several and all(map(_is_header, value)):
                return None
            return f"in goes with 1 to {limits.MAX_FILTER_VALUES} texts, numbers or booleans"
        case "^=":
            return None if type(value) is str and value else "a header begins with a text"
        case "exists" | "absent":
            return None if value is None else f"{test} goes with no value"
        case "<" | "<=" | ">" | ">=":
            return None if type(value) in (int, float) and not math.isnan(value) else "numbers are compared"
    return f"what is tested is one of {', '.join(TESTS)}"


def _is_header(value: Any) -> bool:
    return type(value) in (str, int, float, bool) and not (type(value) is float and math.isnan(value))
