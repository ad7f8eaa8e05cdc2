"""What only a terminal gets: the progress bar of a batch, on stderr, while stdout stays data."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.processes import ROOT


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a pseudo-terminal: the one to read, and the one to give to a program."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        # The test closes the program's end itself, so that reading comes to an end.
        with suppress(OSError):
            os.close(end)


def read_all(end: int) -> bytes:
    """Everything that was written to the other end, until nobody holds it open."""
    data = b""
    # Linux says EIO, others give nothing, once the last writer is gone.
    with suppress(OSError):
        while chunk := os.read(end, 65536):
            data += chunk
    return data


def test_a_batch_shows_its_progress_on_a_terminal(broker: str, tmp_path: Path, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    file = tmp_path / "jobs.jsonl"
    file.write_text("1\n" * 3000)
    process = subprocess.Popen(
        [sys.executable, "-m", "zclient", "-b", broker, "send", "progress", "--batch", str(file), "-q"],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = read_all(ours)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"3000\n")
    assert b"3,000 jobs" in shown
