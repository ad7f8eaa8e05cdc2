"""Programs that end with their tests, and a broker for all examples of a file."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.running import ENVIRONMENT, PATIENCE_S, Start, ready


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a program with its stdout in a pipe; what still runs at the end is stopped by SIGTERM."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            argv, cwd=cwd, env=ENVIRONMENT | environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        started.append(process)
        return process

    yield start
    try:
        for process in reversed(started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE_S)
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def endpoint(start: Start, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A broker for all examples; each uses queues of its own."""
    folder = tmp_path_factory.mktemp("broker")
    return ready(start("zbroker", "start", "--data", "jobs", "--bind", "tcp://127.0.0.1:*", cwd=folder))
