"""The log: one line for each event that an operator cares about, as text or JSON, on stderr. Never a payload."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from zbroker.core.state import Notice


def log_writer(form: str, stream: TextIO | None = None) -> Callable[[Notice], None]:
    """A function that writes notices as lines of this form, ``text`` or ``json``."""
    write = _json_line if form == "json" else _text_line

    def on_notice(notice: Notice) -> None:
        print(write(notice, datetime.now(UTC)), file=stream or sys.stderr, flush=True)

    return on_notice


def _text_line(notice: Notice, now: datetime) -> str:
    facts = " ".join(f"{name}={_shown(value)}" for name, value in notice.facts.items())
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {notice.level:<7} {notice.event}  {facts}".rstrip()


def _shown(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return json.dumps(text) if not text or any(mark in text for mark in ' \n"=') else text


def _json_line(notice: Notice, now: datetime) -> str:
    line = {"time": now.isoformat(timespec="milliseconds"), "level": notice.level, "event": notice.event}
    return json.dumps(line | notice.facts, default=str)
