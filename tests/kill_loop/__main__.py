"""``python -m tests.kill_loop --rounds 1000``: the kill loop by hand, with its progress and its sum."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.kill_loop.bout import Came, Failed
from tests.kill_loop.loop import run_bouts


def main() -> int:
    parser = argparse.ArgumentParser(prog="kill-loop", description="kill everything, again and again, and judge")
    parser.add_argument("--rounds", type=int, default=1000, help="how many kills")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="whom to kill, and when")
    parser.add_argument("--store", default="rocksdb", help="of the broker")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-loop-"))
    print(f"seed {arguments.seed}, store {arguments.store}, {arguments.rounds} kills")
    bouts: list[Came] = []
    began = time.monotonic()
    try:
        for bout in run_bouts(folder, arguments.rounds, arguments.seed, arguments.store):
            bouts.append(bout)
            print(told(bouts, time.monotonic() - began), flush=True)
    except Failed as failure:
        print(f"FAILED\n{failure}")
        return 1
    shutil.rmtree(folder)
    print(done_to(bouts))
    print("nothing lost, nothing invented, every effect exactly once")
    return 0


def told(bouts: list[Came], seconds: float) -> str:
    """All bouts so far, in a line."""
    kills, stops = (sum(bout.total(what) for bout in bouts) for what in ("killed", "stopped"))
    counts = sum((bout.report.counts for bout in bouts), Counter[str]())
    return (
        f"{kills:5} kills, {stops} stops, {seconds:5.0f} s ({seconds / kills:.2f} s each): "
        f"{counts['done']} jobs done, {counts['dead']} dead, {counts['cancelled']} cancelled; "
        f"{counts['confirmed']} confirmed, {counts['unknown']} not ({counts['absent']} absent); "
        f"{counts['repeats'] - counts['repeat: failed'] - counts['repeat: given back']} runs repeated "
        f"({counts['repeat: stopped']} overtaken, {counts['late effects']} after their effect)"
    )


def done_to(bouts: list[Came]) -> str:
    """Who was killed how often."""
    harms = sum((bout.harms for bout in bouts), Counter[tuple[str, str]]())
    return "kills: " + ", ".join(f"{name} {count}" for (name, what), count in harms.items() if what == "killed")


if __name__ == "__main__":
    sys.exit(main())
