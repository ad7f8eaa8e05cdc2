"""``make bench-quick``: instructions per job of the main lifecycle, which no other load on the machine touches.

The work is done under valgrind (callgrind), twice, with different numbers of jobs: the difference is what a job costs,
without the start. Client, broker and consumer are in one process, without sockets; the store is RocksDB, not synced.
The figure is compared with the one in ``instructions.json``; ``--keep`` writes it there, with a change that is meant.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import PAYLOAD

KEPT = Path(__file__).with_name("instructions.json")
FEW, MANY = 2_000, 6_000
ALLOWED = 0.10
"""How much more than the kept figure a job may cost."""


def work(jobs: int) -> None:
    """Put, take and ack so many, in batches of 100."""
    from zbroker.storage import open_store
    from zbroker.testing import LocalBroker
    from zworker import Consumer

    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as directory:

        class OnDisk(LocalBroker):
            def _open(self):
                self._store = open_store("rocksdb", Path(directory, "data"))
                return super()._open()

        with OnDisk() as broker:
            broker.client().send_many("bench", (PAYLOAD for _ in range(jobs)), batch=100)
            with Consumer(broker.endpoint, "bench", credit=1000, transport=broker.transport) as consumer:
                for taken, job in enumerate(consumer, 1):
                    job.ack()
                    if taken == jobs:
                        break


def instructions(jobs: int) -> int:
    """Of the whole process that does the work."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, "-m", "benchmarks.instructions", "--work", str(jobs)]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    counted = re.search(r"Collected : (\d+)", told.stderr)
    if told.returncode or counted is None:
        raise RuntimeError(f"valgrind failed:\n{told.stderr[-2000:]}")
    return int(counted[1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--work", type=int, metavar="JOBS", help="only do the work")
    parser.add_argument("--keep", action="store_true", help="write the figure to the repository")
    chosen = parser.parse_args()
    if chosen.work is not None:
        work(chosen.work)
        return
    if shutil.which("valgrind") is None:
        sys.exit("no program valgrind: instructions cannot be counted here")
    each = (instructions(MANY) - instructions(FEW)) / (MANY - FEW)
    if chosen.keep:
        KEPT.write_text(json.dumps({"instructions per job": round(each)}) + "\n", encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))["instructions per job"]
    print(f"{each:,.0f} instructions per job; kept: {kept:,}; ratio {each / kept:.3f}")
    if each > kept * (1 + ALLOWED):
        sys.exit(f"a job costs more than {1 + ALLOWED:.2f} times what it did")


if __name__ == "__main__":
    main()
