"""``python -m tests.kill_loop --rounds 1000``: the kill loop by hand, with its progress and its sum."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.kill_loop.loop import Bout, Failed, run_bouts


def main() -> int:
    parser = argparse.ArgumentParser(prog="kill-loop", description="kill everything, again and again, and judge")
    parser.add_argument("--rounds", type=int, default=1000, help="how many kills")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="whom to kill, and when")
    parser.add_argument("--store", default="rocksdb", help="of the broker")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-loop-"))
    print(f"seed {arguments.seed}, store {arguments.store}, {arguments.rounds} kills")
    bouts: list[Bout] = []
    began = time.monotonic()
    try:
        for bout in run_bouts(folder, arguments.rounds, arguments.seed, arguments.store):
            bouts.append(bout)
            print(told(bouts, time.monotonic() - began), flush=True)
    except Failed as failure:
        print(f"FAILED\n{failure}")
        return 1
    shutil.rmtree(folder)
    kills = sum((Counter(bout.kills) for bout in bouts), Counter())
    print("kills:", ", ".join(f"{name} {count}" for name, count in kills.items()))
    print("nothing lost, nothing invented, every effect exactly once")
    return 0


def told(bouts: list[Bout], seconds: float) -> str:
    """All bouts so far, in a line."""
    kills = sum(sum(bout.kills.values()) for bout in bouts)
    sums = Counter[str]()
    for bout in bouts:
        sums.update(bout.verdict._replace(faults=[])._asdict() | {"faults": 0, "stops": bout.stops})
    return (
        f"{kills:5} kills, {sums['stops']} stops, {seconds:5.0f} s ({seconds / kills:.2f} s each): "
        f"{sums['jobs']} jobs done; {sums['confirmed']} confirmed, {sums['unknown']} not ({sums['absent']} absent); "
        f"{sums['repeats']} runs repeated ({sums['overtaken']} overtaken, "
        f"{sums['late_effects']} after their effect)"
    )


if __name__ == "__main__":
    sys.exit(main())
