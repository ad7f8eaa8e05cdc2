"""Publishes an event for each file of a tree, and tells what the two groups beside this file made of them.

    python publish.py [FOLDER]        the standard library of this Python, without its tests, if none is named

The topic of an event says where the file lies and what it is, as in python3.email.mime.py; its headers how large it is.
"""

import os
import re
import sqlite3
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from zclient import Client

FOLDER = Path(os.environ.get("FAN_OUT", "."))
LARGE = 100_000
LEFT_OUT = {"__pycache__", "site-packages", "test", "tests", "idle_test"}


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """Each file with the topic of its event."""
    for folder, names, found in os.walk(root):
        names[:] = sorted(name for name in names if name not in LEFT_OUT)
        words = [root.name, *Path(folder).relative_to(root).parts]
        for name in sorted(found):
            topic = ".".join(re.sub(r"[^\w-]", "_", word) for word in [*words, Path(name).suffix[1:] or "none"])
            yield topic, Path(folder, name)


def made(group: str, figures: str) -> tuple:
    """How many events the group has worked off, and what it found."""
    with closing(sqlite3.connect(FOLDER / f"{group}.sqlite")) as database:
        return database.execute(f"SELECT count(*), {figures} FROM files").fetchone()


def main() -> None:
    root = Path(sys.argv[1] if sys.argv[1:] else sysconfig.get_path("stdlib"))
    with Client() as client:
        # One group takes what is Python, the other one what is large: whatever it is, wherever it lies.
        client.bind("#.py", "files-index")
        client.bind("#", "files-watch", filters=[f"size>={LARGE}"])
        copies = Counter()
        for topic, file in files(root):
            copies[client.publish(topic, {"file": str(file)}, headers={"size": file.stat().st_size}).queues] += 1
        for queues, events in sorted(copies.items()):
            print(f"{events} events for {queues} of the groups", flush=True)

        for queue in ("files-index", "files-watch"):
            for job in client.jobs(queue, limit=None):
                client.result(job.id, timeout="5m")
        indexed, functions, classes = made("index", "sum(functions), sum(classes)")
        print(f"index: {indexed} files with {functions} functions and {classes} classes")
        noted, size = made("watch", "max(size)")
        print(f"watch: {noted} large files, the largest of {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
