"""A sample of the disk errors, injected with strace; `make crashpoints` has every write and sync of the script fail."""

from pathlib import Path

import pytest

from tests.crashpoints import disk_errors

if reason := disk_errors.why_not():
    pytest.skip(f"cannot run here: {reason}", allow_module_level=True)


@pytest.mark.parametrize(("store", "nth"), [("rocksdb", 32), ("sqlite", 22)])
def test_nothing_is_confirmed_after_a_failed_sync(tmp_path: Path, store: str, nth: int) -> None:
    broken = disk_errors.break_at(tmp_path, "sync", "EIO", nth, store=store)
    assert broken.injected
    assert broken.ended
    assert broken.said  # so it was serving


def test_what_a_sync_took_is_read_from_the_notes() -> None:
    notes = """\
7 write(5</d/1.log>, "abc"..., 100) = 100
7 fdatasync(5</d/1.log>) = 0
7 write(5</d/1.log>, "abc"..., 50 <unfinished ...>
8 write(6</d/2.log>, "x", 1) = 1
7 <... write resumed>)              = 50
7 fdatasync(5</d/1.log>) = -1 EIO (Input/output error) (INJECTED)
8 fdatasync(6</d/2.log> <unfinished ...>
8 <... fdatasync resumed>)          = 0
9 +++ exited with 6 +++
"""
    assert disk_errors.synced_bytes(notes) == {"/d/1.log": 100, "/d/2.log": 1}


def test_what_a_sync_took_of_a_log_that_was_emptied() -> None:
    notes = """\
7 pwrite64(5</d/x-wal>, "abc"..., 32, 0) = 32
7 pwrite64(5</d/x-wal>, "abc"..., 4096, 32) = 4096
7 fdatasync(9</d/x-wal>) = 0
7 ftruncate(5</d/x-wal>, 0) = 0
7 pwrite64(5</d/x-wal>, "abc"..., 32, 0) = 32
7 pwrite64(5</d/x-wal>, "abc"..., 4096, 32 <unfinished ...>
8 fdatasync(6</d/WATERMARK>) = 0
7 <... pwrite64 resumed>) = 4096
"""
    assert disk_errors.synced_bytes(notes) == {"/d/x-wal": 0, "/d/WATERMARK": 0}
    notes += "7 fdatasync(9</d/x-wal>) = 0\n"
    assert disk_errors.synced_bytes(notes) == {"/d/x-wal": 4128, "/d/WATERMARK": 0}
    with pytest.raises(ValueError, match="begins anew"):
        disk_errors.synced_bytes(notes + '7 pwrite64(5</d/x-wal>, "abc"..., 32, 0) = 32\n')
