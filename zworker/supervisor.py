"""Several worker processes under one: started, started again when they die, and told to drain together.

It owns processes and signals. It imports nothing of the user's: the children do, each for itself, so that a reload is a
new process and no state survives it. It never talks to the broker.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from zworker.logs import log

LOOK_S = 0.5
"""How often files are looked at; signals and dying children are noticed at once."""

BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
"""Pause before a dead process is started again; doubled each time."""

STEADY_S = 10.0
"""A process that lived this long was well: its next start waits `BACKOFF_S` again."""

EXIT_USAGE = 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_NOT_WATCHED = {"__pycache__", "node_modules", "site-packages"}


class _Child:
    """One place for a process: the one that runs, or when the next one starts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.start_at = 0.0
        self.backoff = BACKOFF_S


class Supervisor:
    """Keeps ``count`` processes of ``command`` alive until SIGTERM or SIGINT; ``run`` returns the exit code.

    Each child's stdin is a pipe that nothing is written to: it ends when this process does, however it does, and the
    child then drains. With ``watch``, a folder, the children are replaced whenever a Python file below it changes.
    """

    def __init__(self, command: Sequence[str], count: int, watch: Path | None = None) -> None:
        self._command = list(command)
        self._children = [_Child(number) for number in range(count)]
        self._watch = watch
        # Python takes compiled code for new by the second and the size of its source: a change within a second of the
        # start, that leaves the size as it was, would not be seen. What is reloaded is compiled each time.
        self._environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} if watch is not None else None
        self._stops = 0
        self._reloading = False
        self._exit_code = 0

    def run(self) -> int:
        """Supervise until told to stop, and all children have ended."""
        read, write = socket.socketpair()
        read.setblocking(False)
        write.setblocking(False)
        old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        old_wakeup = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        seen = self._files()
        try:
            while True:
                told = self._stops
                self._tend()
                if self._stops and not any(child.process for child in self._children):
                    return self._exit_code
                select.select([read], [], [], LOOK_S)
                _drain(read)
                if self._stops > told:
                    self._terminate()
                elif self._watch is not None and not self._stops and (now := self._files()) != seen:
                    seen = now
                    self._reload()
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in old.items():
                signal.signal(number, handler)
            read.close()
            write.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._stops += 1

    def _tend(self) -> None:
        """Take note of children that ended, and start those whose time has come."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, child.process.returncode, now)
            if child.process is None and not self._stops and now >= child.start_at:
                child.process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, process_group=0, env=self._environment
                )
                child.started = now
        if not any(child.process for child in self._children):
            self._reloading = False

    def _ended(self, child: _Child, code: int, now: float) -> None:
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        child.process = None
        if self._stops:
            self._exit_code = self._exit_code or max(code, 0)
            return
        if self._reloading:
            child.start_at, child.backoff = now, BACKOFF_S
            return
        log(logging.ERROR, "worker process ended", number=child.number, code=code)
        if self._watch is not None:
            child.start_at = float("inf")  # The next change of a file may repair it.
        elif code == EXIT_USAGE:
            # What it was told cannot be, and will not be better the next time.
            self._exit_code = code
            self._stops += 1
            self._terminate()
        else:
            if now - child.started >= STEADY_S:
                child.backoff = BACKOFF_S
            child.start_at = now + child.backoff
            child.backoff = min(child.backoff * 2, MAX_BACKOFF_S)

    def _terminate(self) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.terminate()

    def _reload(self) -> None:
        log(logging.INFO, "files changed", folder=str(self._watch))
        self._reloading = any(child.process for child in self._children)
        for child in self._children:
            child.start_at = 0.0
        self._terminate()

    def _files(self) -> dict[str, int]:
        """The Python files below the watched folder, with the time of their last change."""
        return {} if self._watch is None else dict(_python_files(self._watch))


def _python_files(folder: Path) -> Iterator[tuple[str, int]]:
    for path, folders, files in os.walk(folder):
        if "pyvenv.cfg" in files:
            folders.clear()  # A virtual environment: nobody edits that.
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_WATCHED]
        for name in files:
            if name.endswith(".py"):
                try:
                    yield os.path.join(path, name), os.stat(os.path.join(path, name)).st_mtime_ns
                except FileNotFoundError:
                    continue  # An editor replaced it in this moment; the next look sees the new one.


def _drain(read: socket.socket) -> None:
    try:
        while read.recv(4096):
            continue
    except BlockingIOError:
        return


def end_with_parent(stop: Callable[[], None]) -> None:
    """In a child: call ``stop`` when the supervisor is gone. Blocks; for a thread of its own."""
    while os.read(sys.stdin.fileno(), 4096):
        continue
    stop()
