"""The small disk of the chaos: it is full, has room again, and is gone at its end."""

import subprocess
from pathlib import Path

import pytest

from tests.chaos.disk import NoDisk, SmallDisk
from tests.system.processes import ROOT


@pytest.fixture
def disk(tmp_path: Path) -> SmallDisk:
    try:
        return SmallDisk(tmp_path / "disk", 8 << 20)
    except NoDisk as why:
        pytest.skip(f"cannot run here: it needs a disk of its own, and may not mount one: {why}")


def test_a_disk_is_full_and_has_room_again(disk: SmallDisk) -> None:
    try:
        (disk.path / "data").write_bytes(b"x" * 1000)
        disk.fill(1 << 20)
        (disk.path / "more").write_bytes(bytes(1 << 19))
        disk.fill(0)
        with pytest.raises(OSError, match="No space left"):
            (disk.path / "much").write_bytes(bytes(1 << 20))
        disk.empty()
        (disk.path / "enough").write_bytes(bytes(1 << 20))
        assert (disk.path / "data").read_bytes() == b"x" * 1000
        assert list(disk.where.iterdir()) == []  # nobody outside sees any of it
        inside = subprocess.run([*disk.enter, "sh", "-c", f"pwd; ls {disk.where}"], capture_output=True, check=True)
        assert inside.stdout.decode().split() == [str(ROOT), "data", "enough", "more", "much"]
    finally:
        disk.close()
    assert not disk.path.exists()
