"""Real brokers and worker programs, as processes; what a test starts, it ends."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.system.processes import ROOT, Reserved

WAIT_S = 20.0
FAST = ("--store", "memory", "--durability", "memory", "--backoff-min", "10ms")


class Program:
    """A process of ours, ended with the block; its stdout and stderr are read line by line."""

    def __init__(self, *arguments: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder or ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def line_with(self, word: str, *, stderr: bool = True) -> str:
        """The next line that contains the word."""
        stream = self.process.stderr if stderr else self.process.stdout
        assert stream is not None
        until = time.monotonic() + WAIT_S
        kept = b""
        while select.select([stream], [], [], max(until - time.monotonic(), 0))[0]:
            piece = os.read(stream.fileno(), 1)
            assert piece, f"it ended without saying {word}: {kept.decode()}"
            kept += piece
            if piece == b"\n" and word in kept.decode().splitlines()[-1]:
                return kept.decode().splitlines()[-1]
        raise AssertionError(f"it did not say {word}: {kept.decode()}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; exit code, and what was left unread of stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, stdout.decode(), stderr.decode()

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class BrokerProcess(Program):
    """A broker that serves; ``endpoint`` is where. Its port is its own until the end of the block, also when it was
    killed: the next one serves there with ``bind``."""

    def __init__(self, *options: str, data: Path | None = None, bind: str | None = None) -> None:
        where = () if data is None else ("--data", str(data))
        self._reserved = Reserved() if bind is None else None
        bind = bind if self._reserved is None else self._reserved.endpoint
        super().__init__("zbroker", "start", *where, "--bind", str(bind), *options)
        self.endpoint = self.line_with("ready", stderr=False).split()[1]
        # Its log goes on; nobody reads it, and it must not fill the pipe.
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for _ in self.process.stderr:
            continue

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.kill()
        if self._reserved is not None:
            self._reserved.close()
