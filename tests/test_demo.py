"""Runs the demo, smaller than for people: with kills, with the verdict, and interrupted in a terminal.

With fewer files the broker is often killed before it noticed that the worker is gone. Both ways end with everything
done, and with jobs that were delivered again.
"""

import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from zbroker.demo.play import library_files
from zbroker.demo.verdict import Story, faults
from zclient import JobStatus

PATIENCE_S = 100
FILES = 200
DEMO = "import sys; from zbroker.demo import run_demo; sys.exit(run_demo(sys.argv[1] or None, most_files={}))"


class Ended(NamedTuple):
    """What the demo left behind."""

    code: int
    out: str
    kept: Path


def run_demo(most_files: int, keep: str, folder: Path, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """The demo as a process of its own; ``folder`` is for temporary directories."""
    return subprocess.Popen(
        [sys.executable, "-c", DEMO.format(most_files), keep],
        env=os.environ | {"TMPDIR": str(folder), "TERM": "xterm", "COLUMNS": "80", "ZBROKER_BIND": "tcp://nowhere:1"},
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """One run, with its directory kept."""
    folder = tmp_path_factory.mktemp("demo")
    process = run_demo(FILES, str(folder / "kept"), folder)
    try:
        out, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    yield Ended(process.returncode, out, folder / "kept")


def test_it_ends_well_after_both_kills(demo: Ended) -> None:
    assert demo.code == 0, demo.out
    jobs = len(library_files(Path(sysconfig.get_path("stdlib")), FILES))
    assert FILES // 2 < jobs <= FILES
    for line in (
        r"client +sent {jobs} jobs; each is confirmed",
        r"kill -9 +worker \w, with \d+ jobs in its hands",
        r"kill -9 +broker, with \d+ results delivered and [1-9]\d* awaited",
        r"client +has all {jobs} results",
        r"equal +the jobs found what one process finds",
    ):
        assert re.search(line.format(jobs=jobs), demo.out), demo.out


def test_jobs_were_delivered_again(demo: Ended) -> None:
    lost = re.search(r"(\d+) jobs were lost with worker \w, and run again", demo.out)
    again = re.search(r"(\d+)\s+were\s+delivered\s+again", demo.out)
    assert again is not None, demo.out
    assert int(again[1]) + (int(lost[1]) if lost else 0) > 0, demo.out


def test_it_leaves_no_process(demo: Ended) -> None:
    pids = [int(pid) for pid in re.findall(r"(?:process|worker \w is) (\d+)", demo.out)]
    assert len(pids) == 5  # two brokers, three workers
    assert [pid for pid in pids if is_running(pid)] == []


def test_it_keeps_data_and_logs_when_told_to(demo: Ended) -> None:
    logs = {"broker.log", "worker-a.log", "worker-b.log", "worker-c.log", "worker-d.log", "one-process.log"}
    assert {path.name for path in demo.kept.iterdir()} == logs | {"data", "zbroker.toml"}
    check = subprocess.run(
        [sys.executable, "-m", "zbroker", "check", str(demo.kept / "data")], capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_it_wants_a_fresh_directory(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    run = subprocess.run(
        [sys.executable, "-m", "zbroker", "demo", "--keep", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert "is not empty" in run.stderr


def read_until(terminal: int, text: str) -> str:
    """What appears in a terminal, up to a text or the end."""
    seen = b""
    while text.encode() not in seen:
        try:
            part = os.read(terminal, 65_536)
        except OSError as error:
            assert error.errno == errno.EIO  # how Linux says that nobody has the other side open
            break
        if not part:
            break
        seen += part
    return seen.decode()


def test_interrupted_in_a_terminal_it_leaves_nothing(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = run_demo(FILES, "", tmp_path, stdout=theirs)
    os.close(theirs)
    try:
        seen = read_until(ours, "kill -9")
        process.send_signal(signal.SIGINT)
        seen += read_until(ours, "never")
        assert process.wait(PATIENCE_S) == 130, seen
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)  # colours and cursor
    assert "interrupted; all processes are ended" in seen
    assert re.search(r"\d+/\d+ \d+ running, \d+ waiting, \d workers", seen)
    pids = [int(pid) for pid in re.findall(r"(?:process|worker \w is) (\d+)", seen)]
    assert len(pids) == 4
    assert [pid for pid in pids if is_running(pid)] == []
    assert list(tmp_path.iterdir()) == []


# ---- the verdict on a run that went wrong

FIGURES: dict[str, Any] = {"files": 1, "lines": 7, "names": [["self", 3]]}
GOOD = Story(
    summary=FIGURES,
    jobs=[JobStatus("1", "library.index", "done", attempts=1)],
    paths={"1": "os.py"},
    totals={"put": 2, "done": 2, "died": 0, "failed": 0, "lost": 0},
)


@pytest.mark.parametrize(
    ("story", "direct", "told"),
    [
        (GOOD, FIGURES, None),
        (GOOD, FIGURES | {"lines": 8}, "lines: the jobs found 7, one process finds 8"),
        (GOOD, FIGURES | {"names": [["self", 4]]}, "names: the jobs found"),
        (replace(GOOD, summary={}), FIGURES, "files: the jobs found None"),
        (replace(GOOD, jobs=[]), FIGURES, "the broker knows 0 jobs that are done"),
        (replace(GOOD, totals={**GOOD.totals, "done": 3}), FIGURES, "counts 3 jobs as done, and it should be 2"),
    ],
)
def test_the_verdict_finds_what_is_wrong(demo: Ended, story: Story, direct: dict[str, Any], told: str | None) -> None:
    found = faults(story, direct, demo.kept / "data")
    if told is None:
        assert found == []
    else:
        assert any(told in fault for fault in found), found


def test_the_verdict_counts_what_was_kept_and_what_was_delivered_again() -> None:
    killed_at = datetime(2031, 5, 4, 12, tzinfo=UTC)

    def done(identifier: str, epoch: int, minute: int, attempts: int = 1) -> JobStatus:
        finished_at = killed_at.replace(hour=11 if minute < 0 else 12, minute=minute % 60)
        return JobStatus(identifier, "q", "done", attempts=attempts, fence=(epoch << 32) + 5, finished_at=finished_at)

    story = Story(
        jobs=[done("1", 1, -1), done("2", 1, 1), done("3", 2, 1), done("4", 2, 2, attempts=2)],
        broker_killed_at=killed_at,
        left_leased=2,
    )
    assert (len(story.lost), story.kept, story.returned) == (1, 1, 1)
