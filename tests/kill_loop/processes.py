"""One place in the kill loop: a process that is started again, under the next number, whenever it was killed.

It owns starting, killing and stopping. It decides nothing and knows no job.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.history import records as r
from tests.history.records import Recorder
from tests.system.processes import ROOT, last_words

Facts = Callable[[str], dict[str, Any]]
"""The arguments of a program, for the process of this name."""

END_S = 60
"""How long a process may take to end when it is told to."""


class Harms:
    """What was done to whom: counted, and written into the history of the driver."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """How often what was done to which place."""
        self._recorder: Recorder | None = None

    def begin(self, recorder: Recorder) -> None:
        """From now on into this history; counted afresh."""
        self.counts.clear()
        self._recorder = recorder

    def note(self, who: str, what: str) -> None:
        """``who`` is a process, or a place if it is done to its link."""
        self.counts[who.partition("/")[0], what] += 1
        if self._recorder is not None:
            self._recorder.note(r.HARM, "", who, what)

    def total(self, what: str) -> int:
        return sum(count for (_, kind), count in self.counts.items() if kind == what)


class Place(ABC):
    """A name, and the process that has it now: ``who`` is that one process."""

    def __init__(self, name: str, log: Path, harms: Harms) -> None:
        self.name = name
        self.starts = 0
        self.started_at = -math.inf
        self.stopped = False
        self.process: subprocess.Popen[bytes]
        self._log = log
        self._harms = harms

    @property
    def who(self) -> str:
        return f"{self.name}/{self.starts}"

    def start(self) -> None:
        """Start the next one."""
        self.starts += 1
        self.started_at = time.monotonic()
        self.stopped = False
        with self._log.open("ab") as log:
            log.write(f"---- {self.who}\n".encode())
            self.process = self._spawn(log.fileno())

    def kill(self) -> None:
        """kill -9, sent; `reap` waits until it is gone."""
        self._note("killed")
        self.process.kill()

    def reap(self) -> None:
        self.process.wait()
        self._close()

    def stop(self) -> None:
        """It stands still until `go_on`."""
        self.stopped = True
        self._note("stopped")
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.stopped = False
        self._note("continued")
        self.process.send_signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def abandon(self) -> None:
        """End it in any case, with nothing noted."""
        if self.starts and not self.has_ended():
            self.process.kill()
            self.process.wait()
        if self.starts:
            self._close()

    def last_words(self) -> str:
        """The end of its log."""
        return last_words(self._log)

    def _note(self, what: str) -> None:
        self._harms.note(self.who, what)

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    @abstractmethod
    def _spawn(self, log: int) -> "subprocess.Popen[bytes]":
        """Start the process; its stderr goes to ``log``."""


class Broker(Place):
    """``zbroker start`` on one data directory, always at the same endpoint.

    ``enter`` stands before its command. ``control`` is where the driver talks to it, an address of its own or the same.
    """

    def __init__(
        self,
        log: Path,
        harms: Harms,
        data: Path,
        options: Sequence[str],
        endpoint: str,
        *,
        enter: Sequence[str] = (),
        control: str | None = None,
    ) -> None:
        super().__init__("broker", log, harms)
        self.endpoint = endpoint
        self.data = data
        """The directory that the next one opens."""
        self._options = [*options, *(["--bind", control] if control else [])]
        self._enter = enter
        self._control = control

    @property
    def control(self) -> str:
        return self._control or self.endpoint

    def _spawn(self, log: int) -> "subprocess.Popen[bytes]":
        command = [*self._enter, sys.executable, "-m", "zbroker", "start"]
        command += ["--data", str(self.data), "--bind", self.endpoint]
        return subprocess.Popen([*command, *self._options], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self) -> int:
        """It ends in peace; its exit code."""
        self._note("ended")
        self.process.terminate()
        code = self.process.wait(END_S)
        self._close()
        return code


class Program(Place):
    """One of ``programs``. ``facts`` gives its arguments for the process that is about to start."""

    def __init__(self, name: str, program: str, log: Path, harms: Harms, facts: "Facts", **options: Any) -> None:
        super().__init__(name, log, harms)
        self.program = program
        self._facts = facts
        self._options = options

    def say(self, line: str) -> None:
        """Write a line to its stdin; it does not matter if it has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return

    def end(self) -> int:
        """End its stdin, and it ends in peace; its exit code."""
        self._close()
        return self.process.wait(END_S)

    def _spawn(self, log: int) -> "subprocess.Popen[bytes]":
        facts = json.dumps(self._facts(self.who))
        return subprocess.Popen(
            [*self._options.get("enter", ()), sys.executable, "-m", "tests.kill_loop.programs", self.program, facts],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **self._options.get("environment", {})},
            pass_fds=self._options.get("pass_fds", ()),
        )
