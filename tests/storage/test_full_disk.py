"""A full disk: the write is refused whole, everything before it stays, and it is taken once there is room."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.stores import ROOT, in_own_mounts


@pytest.mark.parametrize(
    ("store", "says"), [("rocksdb", "No space left on device"), ("sqlite", "database or disk is full")]
)
def test_a_full_disk_refuses_and_recovers(tmp_path: Path, store: str, says: str) -> None:
    program = in_own_mounts(sys.executable, "-m", "tests.storage.full_disk", store, str(tmp_path))
    try:
        ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        pytest.skip("cannot run here: it needs a disk of its own to fill, and there is no program `unshare`")
    if "mounted" not in ended.stdout:
        pytest.skip(f"cannot run here: it needs a disk of its own to fill, and may not mount one: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout.splitlines()[-1])
    number = seen["number"]
    assert number > 500
    assert says in seen["refusal"]
    assert "may be tried again" in seen["refusal"]
    assert seen["free"] < 64 * 1024
    assert seen["full"] == [number - 1, number]
    assert seen["refusals"] > 0 or store == "sqlite"  # which asks for room with each write
    assert seen["reopened"] == [number + 1, number + 2]
    assert seen["unchanged"]
