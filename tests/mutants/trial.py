"""Tests run in a copy of the repository, in a process of their own: which one failed first, and after how long.

It owns the copies and the processes. A process that a test left behind ends with its trial.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]

COPIED = ("zbroker", "zclient", "zworker", "tests", "examples", "pyproject.toml")
"""What the tests need of the repository."""

TRIAL_S = 300.0
"""How long the tests of one mutant may take. A test that hangs fails long before, by its own limit."""

FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


class Verdict(NamedTuple):
    """What the tests said. ``caught_by`` is the first one that failed; empty if none did."""

    name: str
    caught_by: str
    seconds: float
    fault: str = ""  # why there is no verdict: the tests did not run, or not to their end
    output: str = ""

    def __str__(self) -> str:
        if self.fault:
            return f"NO VERDICT  {self.name}: {self.fault}"
        if self.caught_by:
            return f"caught      {self.name}: by {self.caught_by} in {self.seconds:.1f} s"
        return f"SURVIVED    {self.name}: {self.seconds:.1f} s"


def copy_to(folder: Path) -> Path:
    """A copy of the repository in which tests can run."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_tests(copy: Path, name: str, tests: Sequence[str], within_s: float = TRIAL_S) -> Verdict:
    """Run tests in a copy until one fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    fault = ""
    try:
        output, _ = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        fault = f"no end within {within_s:g} s"
        _end(process.pid)
        output, _ = process.communicate()
    _end(process.pid)
    seconds = time.monotonic() - started
    failed = FAILED.findall(output) if process.returncode == 1 else []
    if not fault and (process.returncode not in (0, 1) or (process.returncode == 1 and not failed)):
        fault = f"pytest ended with {process.returncode}"
    return Verdict(name, failed[0] if failed else "", seconds, fault, output)


def _end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing of it is left


def try_mutant(copy: Path, mutant: Mutant) -> Verdict:
    """Whether the mutant's tests notice it."""
    with mutant.planted(copy):
        return run_tests(copy, mutant.name, mutant.caught_by)
