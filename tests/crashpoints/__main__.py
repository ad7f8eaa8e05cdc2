"""``python -m tests.crashpoints``: all crash points, with the progress. The default suite runs a sample of the same."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

from tests.crashpoints import disk_errors, logs, making
from tests.crashpoints.points import all_points, run_points

MOST_CALLS = 400
"""Writes or syncs of the script at most; it is through when one is not reached."""


def steps(folder: Path, arguments: argparse.Namespace) -> None:
    for store in ("rocksdb", "sqlite"):
        place = folder / store
        place.mkdir()
        points = all_points(store)
        for number, point in enumerate(run_points(place, points, arguments.seed, store), 1):
            tell(f"{store}: {number} of {len(points)}: {point}")
        for point in making.points(place, store):
            tell(f"{store}: {point}")


def damaged_logs(folder: Path, arguments: argparse.Namespace) -> None:
    for store, synced in (("rocksdb", 600), ("sqlite", 60)):
        left = logs.leave(store, folder / store, synced=synced)
        damages = logs.every_damage(left, arguments.cut_bytes, arguments.flip_bytes)
        seen = Counter[str]()
        for start in range(0, len(damages), 1000):
            seen += logs.judge_all(left, damages[start : start + 1000], folder)
            tell(f"{store}: {min(start + 1000, len(damages))} of {len(damages)} damages: {dict(seen)}")
    many = logs.leave("rocksdb", folder / "many", synced=12_000, unsynced=1, small=512 << 10)
    tell(f"{len(many.logs)} logs, some missing: {dict(logs.without_logs(many, folder, 3))}")
    tell(f"older logs cut: {dict(logs.with_older_logs_cut(many, folder, 100))}")


def broken_disks(folder: Path, arguments: argparse.Namespace) -> None:
    if reason := disk_errors.why_not():
        tell(f"left out: {reason}")
        return
    for store, calls, error in product(("rocksdb", "sqlite"), disk_errors.CALLS, disk_errors.ERRORS):
        for nth in range(1, MOST_CALLS):
            place = folder / f"{store}-{calls}-{error}-{nth}"
            place.mkdir()
            broken = disk_errors.break_at(place, calls, error, nth, arguments.seed, store)
            tell(f"{store}: {error} at {calls} {nth}: {broken}")
            if not broken.injected:
                break
        else:
            raise AssertionError(f"the script makes more than {MOST_CALLS} calls")


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "steps": steps,
    "disks": broken_disks,
    "logs": damaged_logs,
}


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="crashpoints", description="break a broker and its disk at every point")
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="which of them")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="what is said to the brokers")
    parser.add_argument("--cut-bytes", type=int, default=logs.CUT_BYTES, help="end of the log that is cut everywhere")
    parser.add_argument("--flip-bytes", type=int, default=logs.FLIP_BYTES, help="end whose bits are all flipped")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crashpoints-"))
    tell(f"seed {arguments.seed}, everything in {folder}")
    for part in arguments.parts:
        (folder / part).mkdir()
        try:
            PARTS[part](folder / part, arguments)
        except AssertionError as failure:
            print(f"FAILED: {part}\n{failure}")
            return 1
    tell("everything confirmed is there, nothing is invented, and every refusal is loud")
    return 0


if __name__ == "__main__":
    sys.exit(main())
