"""How a job looks: as a JSON document and as text for people. It draws what it is given and asks no broker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from zclient.cli import output
from zclient.cli.common import settings
from zclient.handles import JobStatus
from zclient.verbs import Why

T = TypeVar("T")

_PREVIEW_CHARS = 4_000
_AFTER_SHOWN = 5
_MOMENTS = {"started_ms": "started_at", "ended_ms": "ended_at"}
_ENCODED = {"payload_bytes": "payload", "result_bytes": "result"}


# ---- JSON


def job_document(job: JobStatus) -> dict[str, Any]:
    """All of a job, named as in `JobStatus`, with payload and result decoded."""
    document = row_document(job)
    document["attempt_log"] = [_attempt(attempt) for attempt in job.attempt_log]
    document["after"] = job.after
    for attribute, name in _ENCODED.items():
        encoded = getattr(job, attribute)
        document[name] = None if encoded is None else _decoded(job, name, encoded)
    return document


def row_document(job: JobStatus) -> dict[str, Any]:
    """A job of a listing: without payload, result and parents, which a listing does not carry, and without the log."""
    left_out = {*_ENCODED, "attempt_log", "after"}
    document = {field.name: getattr(job, field.name) for field in fields(job) if field.name not in left_out}
    document["progress"] = None if job.progress is None else asdict(job.progress)
    return document


def why_document(told: Why) -> dict[str, Any]:
    """All of an explanation, with its points in time as such."""
    return {
        **asdict(told),
        "reasons": [output.with_times(reason) for reason in told.reasons],
        "attempts": [_attempt(attempt) for attempt in told.attempts],
    }


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """An attempt with its beginning and its end as points in time."""
    return output.with_times({_MOMENTS.get(name, name): value for name, value in attempt.items()})


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
            "state": _state(job),
            "reason": job.reason,
            "error": error_line(job.error),
            "attempts": job.attempts,
            "worker": job.worker,
            "fence": job.fence,
            "priority": job.priority or None,
            "key": job.key,
            "unique": job.unique,
            "workflow": job.workflow,
            "batch": job.batch if job.workflow is None else None,
            "after": _some(job.after),
            "progress": _progress(job, now),
            "created": job.created_at,
            "due": job.due_at,
            "expires": job.expires_at,
            "finished": job.finished_at,
            **job.options,
            **{f"header {name}": value for name, value in sorted(job.headers.items())},
        }
    )
    for attempt in job.attempt_log:
        _print_attempt(_attempt(attempt), now)
    for attribute, name in _ENCODED.items():
        encoded = getattr(job, attribute)
        if encoded is not None:
            output.write(f"\n{name}\n{output.block(_preview(_decoded(job, name, encoded)))}\n")


def _some(ids: list[str]) -> str | None:
    """The first few of them."""
    more = len(ids) - _AFTER_SHOWN
    told = ", ".join(ids[:_AFTER_SHOWN])
    return f"{told} and {more:,} more" if more > 0 else told or None


def print_change(job: JobStatus) -> None:
    """A job as a line of what is watched; in JSON one document a line."""
    if settings().json:
        output.write(output.json_text(job_document(job), indent=None) + "\n")
        return
    told = [
        datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        _state(job),
        f"attempt {job.attempts}" if job.attempts else None,
        str(job.progress) if job.progress and not job.is_over else None,
        job.reason,
        error_line(job.error) if job.state != "done" else None,
    ]
    output.write("  ".join(output.plain(part) for part in told if part) + "\n")


def print_why(told: Why) -> None:
    """An explanation for people: its reasons, one a line, then the attempts that failed."""
    now = datetime.now(UTC)
    for reason in told.reasons:
        output.write(output.plain(reason.get("text") or reason.get("code")) + "\n")
    for attempt in told.attempts:
        _print_attempt(_attempt(attempt), now)


def _state(job: JobStatus) -> str:
    """Its state, and whether somebody wished it to end: one that was done all the same carries that mark."""
    if not job.cancel_requested or job.state == "cancelled":
        return job.state
    return f"{job.state}, although it was to be cancelled" if job.is_over else f"{job.state}, to be cancelled"


def _progress(job: JobStatus, now: datetime) -> str | None:
    if job.progress is None:
        return None
    return f"{job.progress}, {output.moment(job.progress.at, now)}" if job.progress.at else str(job.progress)


def _print_attempt(attempt: Mapping[str, Any], now: datetime) -> None:
    ended = attempt.get("ended_at")
    told = [f"attempt {attempt.get('number', '?')}", attempt.get("kind"), output.moment(ended, now) if ended else None]
    if attempt.get("worker"):
        told.append(f"on {attempt['worker']}")
    output.write("\n" + ", ".join(output.plain(part) for part in told if part) + "\n")
    error = attempt.get("error") or {}
    text = error.get("traceback") or error_line(error)
    if text:
        output.write(output.block(text) + "\n")


def error_line(error: Mapping[str, Any] | None) -> str | None:
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
    "error": lambda job, now: error_line(job.error),
}


def print_jobs(jobs: Sequence[JobStatus], limit: int, columns: Sequence[str]) -> None:
    """A listing of at most ``limit`` jobs, as JSON or as a table; a note on stderr if there are more, or none."""
    now = datetime.now(UTC)
    cells = {column: lambda job, cell=_COLUMNS[column]: cell(job, now) for column in columns}
    print_listing(jobs, limit, row_document, cells)


def print_listing(
    found: Sequence[T], limit: int, document: Callable[[T], Any], columns: Mapping[str, Callable[[T], Any]]
) -> None:
    """At most ``limit`` rows, as JSON or as a table; a note on stderr if there are more, or none."""
    shown = found[:limit]
    if settings().json:
        output.print_json([document(row) for row in shown])
    elif shown:
        output.print_table(list(columns), [[cell(row) for cell in columns.values()] for row in shown])
    else:
        output.print_note("there are none")
    if len(found) > limit:
        output.print_note(f"there are more than these {limit}; --limit shows more")
