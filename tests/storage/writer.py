"""A process that fills a store and then does as it is told: die at once, or hold the directory.

Run as `python -m tests.storage.writer STORE DIR SYNCED UNSYNCED SIZE die|hold`. It writes SYNCED rows of SIZE random
bytes to the keyspace `jobs`, one row to `meta` with each tenth of them, and syncs; then UNSYNCED rows more. It says
what it reached, as two numbers: the sequence number synced, and the last one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.storage.stores import ROOT
from zbroker.storage import open_store


def start(store: str, path: Path, synced: int, unsynced: int, size: int, then: str) -> subprocess.Popen[str]:
    """Start the process; its first line is what it reached."""
    arguments = [store, str(path), str(synced), str(unsynced), str(size), then]
    program = [sys.executable, "-m", "tests.storage.writer", *arguments]
    return subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def crash(store: str, path: Path, *, synced: int, unsynced: int = 0, size: int = 100) -> tuple[int, int]:
    """Leave a directory as a killed broker leaves it. Returns the sequence number synced, and the last one."""
    with start(store, path, synced, unsynced, size, "die") as process:
        assert process.stdout is not None
        reached = [int(number) for number in process.stdout.readline().split()]
    assert process.returncode == -signal.SIGKILL
    return reached[0], reached[1]


def main(name: str, path: Path, synced: int, unsynced: int, size: int, then: str) -> None:
    store = open_store(name, path)
    for number in range(synced):
        store.write({"jobs": {b"%06d" % number: os.urandom(size)}}, [])
        if number % (synced // 10 or 1) == 0:
            store.write({"meta": {b"%06d" % number: b"%06d" % number}}, [])
            store.sync()
    store.sync()
    reached = store.sequence()
    for number in range(synced, synced + unsynced):
        store.write({"jobs": {b"%06d" % number: os.urandom(size)}}, [])
    print(reached, store.sequence(), flush=True)
    if then == "hold":
        sys.stdin.readline()
        store.close()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
