"""What several processes do together for `zclient bench`: each plays a role; they begin at one moment, and each tells a
result.

A role runs as ``python -m MODULE NAME JSON``. It says on stdout when it is ready, begins when a line comes on stdin,
and prints its result; the end of its stdin ends it, so none outlives who started it. It knows nothing of jobs.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from zclient.errors import ZError

LEAVE_S = 5.0
"""What a process gets to leave the broker in order, before it is killed."""

Role = Callable[[Mapping[str, Any], Callable[[], None]], Any]
"""It is given its arguments, and what to call when it is ready: that returns when all are. What it returns is told."""


class RoleFailed(ZError):
    """A process of the benchmark ended with an error, which this one tells."""

    code = "role_failed"


# ---- in the process that plays


def play(roles: Mapping[str, Role]) -> None:
    """Play the role that the command line names. An error of ours is told as the result; a bug has its traceback."""
    # Ctrl-C is for who started us, and a shell may have had it ignored: here it is the way to end the role.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, given = sys.argv[1], json.loads(sys.argv[2])
    try:
        result = roles[name](given, _await_start)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us is free to let go once the result is told
        _tell({"result": result})
    except ZError as error:
        _tell({"error": str(error), "exit_code": error.exit_code})
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(1)  # nobody wants the result any more


def _await_start() -> None:
    _tell({"ready": True})
    if not sys.stdin.readline():
        raise KeyboardInterrupt
    threading.Thread(target=_watch_stdin, name="zclient-role", daemon=True).start()


def _watch_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


def _tell(what: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


# ---- in the process that starts them


class Part(NamedTuple):
    """One process to be started: the module that knows the role, the role's name, its arguments, and Python itself."""

    module: str
    role: str
    given: Mapping[str, Any]
    python: tuple[str, ...] = (sys.executable,)


class Cast:
    """The processes of one measurement, for a ``with`` block; none is left behind."""

    def __init__(self, *parts: Part, leave_s: float = LEAVE_S) -> None:
        self._parts = parts
        self._leave_s = leave_s
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        try:
            for part in self._parts:
                command = [*part.python, "-m", part.module, part.role, json.dumps(part.given)]
                # A session of their own: Ctrl-C in the terminal reaches us alone, and we end them.
                self._processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
                    )
                )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self) -> list[Any]:
        """Start them together when all are ready; their results, in their order. Raises `RoleFailed`."""
        for process in self._processes:
            self._hear(process)
        for process in self._processes:
            try:
                if process.stdin is not None:
                    process.stdin.write("start\n")
                    process.stdin.flush()
            except BrokenPipeError:
                raise RoleFailed("a process ended before it could start") from None
        return [self._hear(process).get("result") for process in self._processes]

    def _hear(self, process: subprocess.Popen[str]) -> Mapping[str, Any]:
        line = process.stdout.readline() if process.stdout is not None else ""
        told: Mapping[str, Any] = json.loads(line) if line else {"error": "a process ended without a result"}
        if "error" in told:
            failure = RoleFailed(told["error"])
            failure.exit_code = told.get("exit_code", failure.exit_code)
            raise failure
        return told

    def _end(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                try:
                    process.stdin.close()
                except BrokenPipeError:
                    continue  # it has ended already
        for process in self._processes:
            try:
                process.wait(self._leave_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
