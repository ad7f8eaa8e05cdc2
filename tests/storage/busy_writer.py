"""A process that writes to a store without a pause, so that its files come and go, until its stdin ends.

Run as `python -m tests.storage.busy_writer STORE DIR SIZE`. Each write has the next number as key in `jobs`, with SIZE
random bytes, puts the same number in `meta` and deletes some older rows; after each sync it prints the number.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from zbroker.storage import open_store

KEPT = 200
"""Rows of `jobs` that are there at any time; older ones are deleted, so that there is something to compact."""


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def main(name: str, path: Path, size: int) -> None:
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    store = open_store(name, path)
    number = 0
    while not over.is_set():
        number += 1
        rows: dict[bytes, bytes | None] = {key(number): os.urandom(size)}
        if number > KEPT:
            rows[key(number - KEPT)] = None
        store.write({"jobs": rows, "meta": {b"last": key(number)}}, [])
        if number % 4 == 0:
            store.sync()
            print(number, flush=True)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
