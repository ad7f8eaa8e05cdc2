"""How a job looks: as a JSON document and as text for people. It draws what it is given and asks no broker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from zclient.cli import output
from zclient.cli.common import settings
from zclient.handles import JobStatus

_PREVIEW_CHARS = 4_000
_ENCODED = {"payload_bytes": "payload", "result_bytes": "result"}


# ---- JSON


def job_document(job: JobStatus) -> dict[str, Any]:
    """All of a job, named as in `JobStatus`, with payload and result decoded."""
    document = row_document(job)
    document["attempt_log"] = [output.with_times(attempt) for attempt in job.attempt_log]
    for attribute, name in _ENCODED.items():
        encoded = getattr(job, attribute)
        document[name] = None if encoded is None else _decoded(job, name, encoded)
    return document


def row_document(job: JobStatus) -> dict[str, Any]:
    """A job of a listing: without payload and result, which a listing does not carry, and without the log."""
    left_out = {*_ENCODED, "attempt_log"}
    return {field.name: getattr(job, field.name) for field in fields(job) if field.name not in left_out}


def _decoded(job: JobStatus, name: str, encoded: bytes) -> Any:
    """The value, or its raw bytes where another program wrote something that is not a value of ours."""
    try:
        return getattr(job, name)
    except ValueError:
        return encoded


# ---- text


def print_job(job: JobStatus) -> None:
    """A job for people: its facts, then its failed attempts, payload and result."""
    now = datetime.now(UTC)
    output.print_fields(
        {
            "id": job.id,
            "queue": job.queue,
            "state": f"{job.state}, to be cancelled" if job.cancel_requested and not job.is_over else job.state,
            "reason": job.reason,
            "error": _error_line(job.error),
            "attempts": job.attempts,
            "worker": job.worker,
            "fence": job.fence,
            "priority": job.priority or None,
            "key": job.key,
            "progress": job.progress,
            "created": job.created_at,
            "due": job.due_at,
            "finished": job.finished_at,
            **{f"header {name}": value for name, value in sorted(job.headers.items())},
        }
    )
    for attempt in job.attempt_log:
        _print_attempt(output.with_times(attempt), now)
    for attribute, name in _ENCODED.items():
        encoded = getattr(job, attribute)
        if encoded is not None:
            output.write(f"\n{name}\n{output.block(_preview(_decoded(job, name, encoded)))}\n")


def _print_attempt(attempt: Mapping[str, Any], now: datetime) -> None:
    ended = next((attempt[name] for name in ("ended_at", "at") if name in attempt), None)
    told = [f"attempt {attempt.get('number', '?')}", attempt.get("kind"), output.moment(ended, now) if ended else None]
    if attempt.get("worker"):
        told.append(f"on {attempt['worker']}")
    output.write("\n" + ", ".join(output.plain(part) for part in told if part) + "\n")
    error = attempt.get("error") or {}
    text = error.get("traceback") or _error_line(error)
    if text:
        output.write(output.block(text) + "\n")


def _error_line(error: Mapping[str, Any] | None) -> str | None:
    """``Type: text`` of an error map, or None if it says nothing."""
    parts = [str(error[name]) for name in ("type", "text") if error.get(name)] if error else []
    return ": ".join(parts) or None


def _preview(value: Any) -> str:
    """A value for the eye: bytes by their number, long texts cut. `--json` and `result` give the whole."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes: {value[:64]!r}{'…' if len(value) > 64 else ''}"
    text = output.json_text(value)
    if len(text) <= _PREVIEW_CHARS:
        return text
    return f"{text[:_PREVIEW_CHARS]}…\n({len(text) - _PREVIEW_CHARS} more characters; --json shows them)"


_COLUMNS: dict[str, Callable[[JobStatus, datetime], Any]] = {
    "id": lambda job, now: job.id,
    "queue": lambda job, now: job.queue,
    "state": lambda job, now: job.state,
    "attempts": lambda job, now: job.attempts,
    "priority": lambda job, now: job.priority,
    "key": lambda job, now: job.key,
    "created": lambda job, now: output.moment(job.created_at, now),
    "died": lambda job, now: output.moment(job.finished_at, now),
    "reason": lambda job, now: job.reason,
    "error": lambda job, now: _error_line(job.error),
}


def print_jobs(jobs: Sequence[JobStatus], limit: int, columns: Sequence[str]) -> None:
    """A listing of at most ``limit`` jobs, as JSON or as a table; a note on stderr if there are more, or none."""
    shown = jobs[:limit]
    if settings().json:
        output.print_json([row_document(job) for job in shown])
    elif shown:
        now = datetime.now(UTC)
        output.print_table(columns, [[_COLUMNS[column](job, now) for column in columns] for job in shown])
    else:
        output.print_note("there are none")
    if len(jobs) > limit:
        output.print_note(f"there are more than these {limit}; --limit shows more")
