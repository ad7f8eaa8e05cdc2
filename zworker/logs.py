"""How the workers log: one line an event, with its facts as ``name=value`` or as JSON. Never a payload, nor a result.

The text of an error may quote a payload, so only its type is logged; the broker keeps the whole of it with the job.
"""

import json
import logging
import time
from typing import Any

LOGGER = logging.getLogger("zworker")


def log(level: int, event: str, **facts: Any) -> None:
    """Log an event that an operator cares about; ``facts`` that are None are left out."""
    if LOGGER.isEnabledFor(level):
        told = {name: fact for name, fact in facts.items() if fact is not None}
        text = " ".join(f"{name}={_shown(fact)}" for name, fact in told.items())
        # The facts are in the message as well, for whatever handlers the program around a worker has.
        LOGGER.log(level, "%s", f"{event}  {text}".rstrip(), extra={"event": event, "facts": told})


class TextFormatter(logging.Formatter):
    """``2031-05-04T12:30:00.123Z info    ready  queues=email,resize``, the same as the broker's."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the facts contain; an exception adds its traceback."""
        line = f"{_time(record)} {record.levelname.lower():<7} {record.getMessage()}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, a traceback included."""
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.getMessage()),
            **getattr(record, "facts", {}),
        }
        if record.exc_info is not None:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def log_to_stderr(style: str) -> None:
    """Send the log to stderr: ``text`` or ``json``. For a program, not for a library."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _shown(fact: Any) -> str:
    """A fact that cannot break the line, nor be taken for two."""
    text = str(fact)
    return text if text.isprintable() and text and not any(mark in text for mark in ' "=') else json.dumps(text)
