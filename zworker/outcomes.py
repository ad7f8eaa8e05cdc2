"""What a handler's end means: the exceptions that say it, and the error map that travels to the broker.

It owns the trimming of errors to the limits of the wire. It never settles, and never counts attempts: the broker does.
"""

import os
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

from zclient.config import Duration
from zclient.durations import duration_ms
from zclient.errors import InvalidArgument
from zclient.protocol.limits import MAX_DELAY_MS, MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS
from zclient.protocol.messages import Outcome

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MAX_TYPE_CHARS = 200
_CUT = "…"


class Settled(NamedTuple):
    """How a job ends: the outcome, and the value that the protocol asks for with it."""

    outcome: Outcome
    value: Any = None


class Retry(Exception):
    """Raised by a handler: this run failed, try again; after ``delay``, or after the queue's backoff.

    An error that it was raised from is the one that is kept.
    """

    def __init__(self, delay: Duration | None = None, reason: str = "") -> None:
        super().__init__(reason or "the handler asked for another try")
        self.delay_ms = None if delay is None else wait_ms(delay)


class Reject(Exception):
    """Raised by a handler: this job failed, and another try would too."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "rejected by the handler")


class Snooze(Exception):
    """Raised by a handler: not now, but after ``duration``. No attempt is burnt."""

    def __init__(self, duration: Duration) -> None:
        super().__init__(f"snoozed for {duration}")
        self.duration_ms = wait_ms(duration)


class Cancelled(Exception):
    """Raised by `Job.check`: somebody wishes the job to end, and the run ends for that.

    It may be caught to clean up, and raised again. A handler that knows better may still finish: a result counts.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "cancelled while it ran")


class Reported(Exception):
    """A failure that brings its own error map, since Python has nothing to add to it: a program's, for one."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("text", ""))
        self.error = error


def wait_ms(duration: Duration) -> int:
    """A duration that a job may wait, in ms; `InvalidArgument` if it is none, or beyond ten years."""
    waits_ms = duration_ms(duration)
    if waits_ms > MAX_DELAY_MS:
        raise InvalidArgument(f"a job waits at most ten years, not {duration!r}")
    return waits_ms


def failed(error: BaseException, *, may_retry: bool = True) -> Settled:
    """How a run that ended with ``error`` is settled. ``may_retry``: whether the task has such errors tried again."""
    if isinstance(error, Snooze):
        return Settled(Outcome.SNOOZE, error.duration_ms)
    if isinstance(error, Cancelled):
        return rejected("Cancelled", str(error))
    told = error_map(error)
    if isinstance(error, Retry):
        if error.delay_ms is not None:
            told["delay"] = error.delay_ms
        return Settled(Outcome.NACK, told)
    return Settled(Outcome.REJECT if isinstance(error, Reject) or not may_retry else Outcome.NACK, told)


def rejected(kind: str, text: str) -> Settled:
    """A rejection for a reason that another try cannot change."""
    return Settled(Outcome.REJECT, reason_map(kind, text))


def reason_map(kind: str, text: str) -> dict[str, Any]:
    """An error map for what was no exception."""
    return {"type": _clean(kind)[:_MAX_TYPE_CHARS], "text": cut_text(text, MAX_ERROR_CHARS)}


def error_map(error: BaseException | str | Mapping[str, Any]) -> dict[str, Any]:
    """The error map of an exception, of a plain reason, or of a map with some of its entries; within the limits."""
    if isinstance(error, str):
        return {"text": cut_text(error, MAX_ERROR_CHARS)}
    if isinstance(error, Reported):
        return _trimmed(error.error)
    if isinstance(error, Mapping):
        return _trimmed(error)
    if isinstance(error, Retry | Reject) and error.__cause__ is not None:
        told = error_map(error.__cause__)
        told["text"] = cut_text(f"{_text(error)}: {told['text']}", MAX_ERROR_CHARS)
        return told
    told = {"type": _clean(_type_name(error))[:_MAX_TYPE_CHARS], "text": cut_text(_text(error), MAX_ERROR_CHARS)}
    if not isinstance(error, Retry | Reject):
        told["traceback"] = _traceback(error)
    return told


def _trimmed(given: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, cut in (("type", cut_text), ("text", cut_text), ("traceback", _tail)):
        if given.get(name) is not None:
            most = MAX_TRACEBACK_CHARS if name == "traceback" else MAX_ERROR_CHARS
            told[name] = cut(str(given[name]), most)
    return told


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:
        return f"(its text cannot be made: {type(fault).__name__})"


def _traceback(error: BaseException) -> str:
    """The traceback from the handler's first frame on. Formatting runs code of the error, which may fail itself."""
    try:
        lines = traceback.format_exception(type(error), error, _outside(error.__traceback__))
    except Exception as fault:
        return f"(its traceback cannot be made: {type(fault).__name__})"
    return _tail("".join(lines), MAX_TRACEBACK_CHARS)


def _outside(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this package that come first: they say nothing about the error."""
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        frames = frames.tb_next
    return frames


def _clean(text: str) -> str:
    """Text that UTF-8 can carry: a lone surrogate, as in undecodable file names, would stop the whole message."""
    return text.encode("utf-8", "backslashreplace").decode()


def cut_text(text: str, most: int) -> str:
    """Text that can travel, with at most so many characters."""
    text = _clean(text)
    return text if len(text) <= most else text[: most - 1] + _CUT


def _tail(text: str, most: int) -> str:
    text = _clean(text)
    return text if len(text) <= most else _CUT + text[1 - most :]
