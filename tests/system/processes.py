"""Real processes for tests: brokers, and programs of tests that report events line by line.

It owns starting, killing and waiting: always for a line or an end, with a deadline, never for time to pass. What a
process wrote is kept, and shown when its test fails. It knows nothing of jobs.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")
Event = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]

NOWHERE = "tcp://127.0.0.1:1"
"""An endpoint where nobody listens: the port is reserved, and refuses at once."""

PATIENCE_S = 20.0
"""How long an event may take that has no deadline of its own: far longer than it does on a busy machine."""


class Missing(AssertionError):
    """What was awaited did not come in time."""


def eventually(ask: Callable[[], T], within: float = PATIENCE_S) -> T:
    """Ask until the answer is true, and return it. For what tells nobody when it happens."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise Missing(f"not true within {within:g} s; the last answer was {answer!r}")
        pause.wait(0.02)
    return answer


class Reserved:
    """A TCP endpoint of this machine for one broker: nobody else is given its port, also while it is down.

    It is bound here, so the system chooses it for no other socket, and nothing listens on it. A broker may bind it all
    the same, as often as it starts, since libzmq allows the reuse of addresses too.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        """Anybody may have it."""
        self._socket.close()


def rss_bytes(pid: int) -> int:
    """The memory that a process has in use now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Missing(f"process {pid} has no memory")


def last_words(log: Path) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


class Events:
    """The JSON lines of a pipe, as they come; a line that is none counts as ``{"line": text}``.

    A thread reads them. Whoever asks what there is so far reads first what it has not read yet: what a process wrote
    before it answered somebody is seen by who got the answer.
    """

    def __init__(self, pipe: IO[str]) -> None:
        self.all: list[Event] = []
        self._waiting: list[Event] = []
        self._changed = threading.Condition()
        self._ended = False
        self._pipe = pipe
        self._rest = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            while not self._ended:
                self._readable(within_ms=None)
                with self._changed:
                    self._take()

    def _readable(self, within_ms: int | None) -> bool:
        """Whether the pipe has something, or its end."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        return bool(poll.poll(within_ms))

    def _take(self) -> None:
        """Read all that can be read now; the caller has the lock."""
        while not self._ended and self._readable(within_ms=0):
            piece = os.read(self._pipe.fileno(), 1 << 16)
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if not piece:
                lines = [self._rest] if self._rest else []
                self._ended = True
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = {"line": line.decode(errors="replace")}
                self.all.append(event)
                self._waiting.append(event)
            self._changed.notify_all()

    def expect(self, event: str, within: float = PATIENCE_S, **facts: Any) -> Event:
        """The first event of this name and these facts that was not returned before."""
        wanted = {"event": event, **facts}
        found: list[Event] = []

        def comes() -> bool:
            for seen in self._waiting:
                if wanted.items() <= seen.items():
                    found.append(seen)
                    return True
            return self._ended

        with self._changed:
            if not self._changed.wait_for(comes, within) or not found:
                why = "the process ended" if self._ended else f"within {within:g} s"
                raise Missing(f"no {wanted} ({why}); the last events: {self.all[-5:]}")
            self._waiting.remove(found[0])
        return found[0]

    def reach(self, event: str, number: int, within: float = PATIENCE_S) -> list[Event]:
        """Wait until this event was told so often in all; returns all of them."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count(event) >= number or self._ended, within):
                raise Missing(f"{self._count(event)} of {number} {event!r} within {within:g} s")
        return self.named(event)

    def named(self, event: str) -> list[Event]:
        """The events of this name so far."""
        with self._changed:
            self._take()
            return [seen for seen in self.all if seen.get("event") == event]

    def _count(self, event: str) -> int:
        return sum(1 for seen in self.all if seen.get("event") == event)

    def join(self) -> None:
        """Return when the pipe is closed and all was read."""
        self._thread.join(PATIENCE_S)


class Child:
    """A process with its events. stdout is events; stderr goes to a file, or is events as well."""

    def __init__(self, command: list[str], log: Path, *, log_events: bool = False, **options: Any) -> None:
        self.log = log
        self._command = command
        self._options = options
        self._log_events = log_events
        self.started = False

    def spawn(self) -> None:
        """Start it."""
        with self.log.open("a") as errors:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if self._log_events else errors,
                text=True,
                **self._options,
            )
        self.started = True
        assert self.process.stdout is not None
        self.events = Events(self.process.stdout)
        self.expect, self.named, self.reach = self.events.expect, self.events.named, self.events.reach
        if self._log_events:
            assert self.process.stderr is not None
            self.told = Events(self.process.stderr)

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and return when it is gone."""
        self.process.kill()
        self.wait()

    def freeze(self) -> None:
        """SIGSTOP, and return when it has stopped."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self, within: float = PATIENCE_S) -> int:
        """SIGTERM, and its exit code once it has ended."""
        self.signal(signal.SIGTERM)
        return self.wait(within)

    def finish(self) -> int:
        """The end of its stdin, and its exit code once it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.wait()

    def wait(self, within: float = PATIENCE_S) -> int:
        """Its exit code, once it has ended by itself and all it wrote was read."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise Missing(f"process {self.pid} did not end within {within:g} s") from None
        self.events.join()
        if self._log_events:
            self.told.join()
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        return code

    def end(self) -> None:
        """End it, whatever its state."""
        if not self.started:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def rss_bytes(self) -> int:
        """The memory that it has in use now."""
        return rss_bytes(self.pid)

    def story(self) -> str:
        """What it wrote, for a report: the log's end, and the last events."""
        told = [json.dumps(event) for event in self.told.all[-40:]] if self._log_events else []
        lines = self.log.read_text(errors="replace").splitlines()[-60:]
        return "\n".join([*lines, *told, f"last events: {self.events.all[-8:]}"])


class BrokerProcess(Child):
    """``zbroker start`` on a data directory. Its endpoint stays the same over restarts; ``told`` is its log.

    Without ``bind`` it serves on a port of its own, which is its own until `end`.
    """

    def __init__(self, data: Path, log: Path, *, program: tuple[str, ...] = ("zbroker",), **settings: Any) -> None:
        self.data = data
        self.checked = True  # whether its data is looked at after the test
        self._program = program
        self._settings = settings
        self._reserved = None if "bind" in settings else Reserved()
        self.endpoint: str = settings.pop("bind") if self._reserved is None else self._reserved.endpoint
        super().__init__([], log, log_events=True)

    def start(self) -> None:
        """Start it, on the port that it had before; returns when it serves."""
        self._command = self._line()
        self.spawn()
        line = eventually(self._first_line)
        assert line.startswith("ready "), line
        self.endpoint = line.removeprefix("ready ")

    def _line(self) -> list[str]:
        line = [sys.executable, "-m", *self._program, "start", "--data", str(self.data), "--bind", self.endpoint]
        for name, value in self._settings.items():
            line += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
        return [*line, "--log-format", "json"]

    def _first_line(self) -> str:
        if self.events.all:
            return str(self.events.all[0]["line"])
        if self.process.poll() is not None:
            self.wait()
            return "" if self.events.all else f"ended with {self.process.returncode}: {self.told.all}"
        return ""

    def restart(self, *, program: tuple[str, ...] | None = None, **settings: Any) -> None:
        """Start it again after its end, with these settings changed."""
        self._program = program or self._program
        self._settings |= settings
        self.start()

    def end(self) -> None:
        super().end()
        if self._reserved is not None:
            self._reserved.close()
