"""`zbroker` on a disk that begins to fail when the test says so.

Run as ``python -m tests.system.failing_disk start ...``, on Linux.

SIGUSR1: from now on the kernel answers every fsync and fdatasync of this process with EIO, by a seccomp filter: what
is under test is the real store on a real error. SIGUSR2: the store refuses every write for space, and at the next
SIGUSR2 takes them again.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Sequence
from errno import EIO
from pathlib import Path
from typing import Any

import zbroker.broker
import zbroker.commit
from zbroker.cli import main
from zbroker.storage import Range, Rows, Store, StoreFull, open_store

GIVE_UP_SECONDS = 3.0
"""In place of the half minute that a broker waits for room."""

FSYNC_NUMBERS = {"x86_64": (74, 75), "aarch64": (82, 83)}
"""The system calls fsync and fdatasync."""

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
RETURN_ERRNO, RETURN_ALLOW = 0x00050000, 0x7FFF0000


class Program(ctypes.Structure):
    """`struct sock_fprog` of the kernel."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def fail_syncs(*signal: Any) -> None:
    """This thread's syncs fail from now on. It is the loop's: the store commits nowhere else."""
    first, second = FSYNC_NUMBERS[platform.machine()]
    steps = [
        (LOAD_NUMBER, 0, 0, 0),
        (JUMP_IF_EQUAL, 2, 0, first),
        (JUMP_IF_EQUAL, 1, 0, second),
        (RETURN, 0, 0, RETURN_ALLOW),
        (RETURN, 0, 0, RETURN_ERRNO | EIO),
    ]
    program = Program(len(steps), b"".join(struct.pack("HBBI", *step) for step in steps))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "no filter")
    os.write(1, b'{"event": "failing"}\n')


class FullStore:
    """A store on a disk that is full now and then; everything but writing goes to the real one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._full = False
        signal.signal(signal.SIGUSR2, self._turn)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _turn(self, *signal: Any) -> None:
        self._full = not self._full
        os.write(1, b'{"event": "full"}\n' if self._full else b'{"event": "room"}\n')

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        if self._full:
            raise StoreFull("the write was refused, and may be tried again: no space left on device")
        self._store.write(rows, ranges)


def open_full_store(name: str, path: Path | None) -> Any:
    return FullStore(open_store(name, path))


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, fail_syncs)
    setattr(zbroker.broker, "open_store", open_full_store)  # noqa: B010
    zbroker.commit.GIVE_UP_SECONDS = GIVE_UP_SECONDS
    sys.exit(main())
