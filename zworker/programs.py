"""A program as a handler: the payload on its stdin, its stdout as the result, its exit code as the outcome.

It owns the process group of each program, which ends when the job is no longer this worker's. It never uses a shell.
"""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from zclient.protocol.limits import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS
from zworker.job import Job
from zworker.outcomes import Cancelled, Reported

KILL_AFTER_S = 5.0
"""What a program gets to end by itself after the SIGTERM of a cancelled job."""

_MAX_RESULT_BYTES = 64 * 1024 * 1024
"""Read from stdout at most; no broker takes a result that large, so that it is refused and not cut."""

JsonText = Callable[[Any], str]


def program_handler(command: Sequence[str], json_text: JsonText) -> Callable[[Job], Any]:
    """A handler that runs ``command`` for each job. ``json_text`` writes the payloads that are not bytes."""

    def run_program(job: Job) -> Any:
        return _run(command, job, json_text)

    return run_program


def _run(command: Sequence[str], job: Job, json_text: JsonText) -> Any:
    """Run the program for a job; returns its result, or raises `Reported` with how it ended.

    Files, not pipes, stand between worker and program: neither can block the other, and memory holds only what is kept.
    """
    payload = job.payload
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(payload if isinstance(payload, bytes) else json_text(payload).encode())
        stdin.seek(0)
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **_environment(job)},
            start_new_session=True,
        )
        job.on_interrupt(lambda: _end(process, at_once=not job.cancelled))
        code = process.wait()
        if code == 0:
            return _result(stdout)
        if job.cancelled:
            raise Cancelled
        raise Reported(_failure(command[0], code, stderr))


def _environment(job: Job) -> dict[str, str]:
    return {
        "ZBROKER_JOB_ID": job.id,
        "ZBROKER_QUEUE": job.queue,
        "ZBROKER_ATTEMPT": str(job.attempt),
        "ZBROKER_FENCE": str(job.fence),
    }


def _end(process: subprocess.Popen[bytes], *, at_once: bool) -> None:
    """End the program and whatever it started. A cancelled one may clean up; one without a lease must not go on."""
    _signal(process, signal.SIGKILL if at_once else signal.SIGTERM)
    if not at_once:
        timer = threading.Timer(KILL_AFTER_S, _signal, (process, signal.SIGKILL))
        timer.daemon = True
        timer.start()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # It ended in this moment, or runs as another user: then there is nothing we can do.


def _result(stdout: IO[bytes]) -> str | bytes | None:
    """Text if it is UTF-8, else bytes; None if the program printed nothing."""
    stdout.seek(0)
    data = stdout.read(_MAX_RESULT_BYTES)
    try:
        return data.decode() or None
    except UnicodeDecodeError:
        return data


def _failure(name: str, code: int, stderr: IO[bytes]) -> dict[str, str]:
    """The error map of a program that failed: how it ended, its last words, and the end of its stderr."""
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(size - 4 * MAX_TRACEBACK_CHARS, 0))
    said = stderr.read().decode(errors="replace")
    how = f"exit code {code}" if code > 0 else _signal_name(-code)
    lines = [line for line in said.splitlines() if line.strip()]
    last = f": {lines[-1].strip()[: MAX_ERROR_CHARS // 2]}" if lines else ""
    return {"type": how, "text": f"{os.path.basename(name)} ended with {how}{last}", "traceback": said}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
