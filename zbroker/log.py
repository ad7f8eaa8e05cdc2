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
        target = stream or sys.stderr
        if target is None:  # closed by whoever started us; `print` would take stdout in its place
            return
        try:
            print(write(notice, datetime.now(UTC)), file=target, flush=True)
        except OSError:
            return  # its reader is gone, or its disk is full: a line is lost, and no job has to wait for that

    return on_notice


def _text_line(notice: Notice, now: datetime) -> str:
    facts = " ".join(f"{name}={_shown(value)}" for name, value in notice.facts.items())
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {notice.level:<7} {notice.event}  {facts}".rstrip()


def _shown(value: Any) -> str:
    """A fact that cannot break the line, nor be taken for two."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if text.isprintable() and text and not any(mark in text for mark in ' "=') else json.dumps(text)


def _json_line(notice: Notice, now: datetime) -> str:
    line = {"time": now.isoformat(timespec="milliseconds"), "level": notice.level, "event": notice.event}
    return json.dumps(line | notice.facts, default=str)
