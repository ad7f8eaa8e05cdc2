"""A store from elsewhere, as a distribution brings it: examples/own_store, put beside zbroker and found by its name."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.storage.stores import ROOT
from zclient import Client

EXAMPLE = ROOT / "examples" / "own_store"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the example is installed: its module, and what an installer notes of it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    notes = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    notes.mkdir(parents=True)
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
    ]
    (notes / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(EXAMPLE)])}


def output(environment: dict[str, str], *arguments: str, code: int = 0) -> str:
    """What a Python program says; it must end with this code."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_it_passes_the_conformance_suite(environment: dict[str, str]) -> None:
    environment["ZBROKER_TEST_STORES"] = "journal"
    said = output(environment, "-m", "pytest", "tests/storage/test_conformance.py", "-k", "journal")
    assert " passed" in said
    assert "failed" not in said and "skipped" not in said


def test_a_broker_keeps_its_jobs_in_it(environment: dict[str, str], tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    line = [sys.executable, "-m", "zbroker", "start", "--data", data, "--bind", "tcp://127.0.0.1:*"]
    for turn in range(3):
        with subprocess.Popen(
            [*line, "--store", "journal"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as broker:
            assert broker.stdout is not None
            with Client(broker.stdout.readline().split()[1]) as client:
                client.send_many("q", range(100))
                assert client.queue("q")["ready"] == 100 * (turn + 1)
            broker.kill()
    assert "faults: none" in output(environment, "-m", "zbroker", "check", data)
    refusal = output(environment, "-m", "zbroker", "start", "--data", data, code=6)
    assert "is of the store journal, not rocksdb: start with --store journal" in refusal
    assert "nothing here can repair" in output(environment, "-m", "zbroker", "check", data, "--repair", code=6)


def test_where_it_is_not_installed_its_name_is_said(tmp_path: Path, environment: dict[str, str]) -> None:
    data = str(tmp_path / "data")
    program = "import sys, pathlib, zbroker.storage as s; s.open_store('journal', pathlib.Path(sys.argv[1])).close()"
    output(environment, "-c", program, data)
    said = output(dict(os.environ), "-m", "zbroker", "check", data, code=2)
    assert "there is no store 'journal'" in said
