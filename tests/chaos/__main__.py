"""``python -m tests.chaos --minutes 10``: chaos by hand, with what each round came to."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.chaos import run_rounds
from tests.kill_loop.bout import Came, Failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description="harm everything, and judge the history")
    parser.add_argument("--minutes", type=float, default=5, help="how long")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="what is done to whom")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes, in {folder}", flush=True)
    lacks: list[str] = []
    harms: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    began = time.monotonic()
    try:
        for came in run_rounds(folder, arguments.minutes * 60, arguments.seed, lacks=lacks):
            harms.update(kinds(came))
            counts.update(came.report.counts)
            print(f"{time.monotonic() - began:5.0f} s: {summed(came.report.counts)}", flush=True)
    except Failed as failure:
        print(f"FAILED\n{failure}")
        return 1
    shutil.rmtree(folder)
    print("\n".join(f"not tried here: {lack}" for lack in lacks) or "everything was tried")
    print("harm:", summed(harms))
    print("in all:", summed(counts))
    print("nothing lost, nothing invented, every effect exactly once, every order kept; nothing left")
    return 0


def kinds(came: Came) -> Counter[str]:
    """How often each harm was done, whoever it was done to."""
    told: Counter[str] = Counter()
    for (_, what), count in came.harms.items():
        if not what.startswith(("no longer", "continued", "room")):
            told[what] += count
    return told


def summed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


if __name__ == "__main__":
    sys.exit(main())
