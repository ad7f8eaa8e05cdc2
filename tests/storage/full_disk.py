"""A store on a small disk of its own that fills up and is given room again.

Run as `python -m tests.storage.full_disk STORE FOLDER`, with the right to mount: it mounts a tmpfs of 8 MiB on the
folder. It says `mounted`, and at the end what it saw, as JSON. The mount is private to the process where that was set
up so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Event

from zbroker.storage import Rows, Store, StoreFull, open_store


def tick(number: int) -> Rows:
    return {"jobs": {b"%06d" % number: os.urandom(3000)}, "meta": {b"number": b"%d" % number}}


def state(store: Store) -> list[int]:
    """The last number written, and how many rows there are."""
    return [int(store.get("meta", b"number") or b"-1"), sum(1 for _ in store.scan("jobs", b"", b"z"))]


def until_refused(store: Store) -> tuple[int, Rows, str]:
    """Commit ticks until one is refused: its number, its rows, and the refusal."""
    number = 0
    while True:
        rows = tick(number)
        try:
            store.write(rows, [])
        except StoreFull as error:
            return number, rows, str(error)
        store.sync()
        number += 1


def until_written(store: Store, rows: Rows) -> int:
    """Write the same rows until they are taken; how often they were refused."""
    refusals = 0
    while True:
        try:
            store.write(rows, [])
        except StoreFull:
            refusals += 1
            # RocksDB looks for room every 5 s and tells nobody when it found some.
            Event().wait(0.05)
        else:
            store.sync()
            return refusals


def main(name: str, disk: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
    print("mounted", flush=True)
    store = open_store(name, disk / "data")
    number, rows, refusal = until_refused(store)
    seen = {"number": number, "refusal": refusal, "free": store.free_bytes(), "full": state(store)}
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    seen["refusals"] = until_written(store, rows)
    until_written(store, tick(number + 1))
    store.close()
    store = open_store(name, disk / "data")
    seen["reopened"] = state(store)
    seen["unchanged"] = store.get("jobs", b"%06d" % number) == rows["jobs"][b"%06d" % number]
    store.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
