"""A real broker process for the tests of this folder: started, stopped, killed and started again on its own port."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_endpoint() -> str:
    """A TCP endpoint on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class BrokerProcess:
    """`zbroker start` as a child process. Its endpoint stays the same over restarts."""

    def __init__(self, data: Path, *options: str) -> None:
        self.endpoint = free_endpoint()
        self._data = data
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it serves."""
        command = [sys.executable, "-m", "zbroker", "start", "--data", str(self._data), "--bind", self.endpoint]
        with (self._data.parent / "broker.log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == f"ready {self.endpoint}\n", f"{line!r}, see {log.name}"

    def kill(self) -> None:
        """kill -9, and return when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def freeze(self) -> None:
        """SIGSTOP, and return when it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """End it, whatever its state."""
        if self._process is not None:
            self.kill()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
