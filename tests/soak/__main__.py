"""``python -m tests.soak --hours 8``: the soak by hand, a line for each interval."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import Fault, Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="a steady load for hours, and nothing may grow")
    parser.add_argument("--hours", type=float, default=1, help="how long")
    parser.add_argument("--interval", type=float, default=0, help="seconds between samples; default: 60, or less")
    parser.add_argument("--rate", type=float, default=200, help="jobs a second, about")
    parser.add_argument("--prelude", type=int, default=96, help="MiB that go through the broker first, to fill buffers")
    arguments = parser.parse_args()
    seconds = arguments.hours * 3600
    interval = arguments.interval or min(60, seconds / 20)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"{arguments.hours:g} hours, a sample every {interval:g} s, in {folder}", flush=True)
    soak = Soak(folder, arguments.rate)
    try:
        for line in soak.run(seconds, interval, arguments.prelude):
            print(line, flush=True)
    except Fault as fault:
        print(f"FAILED\n{fault}")
        return 1
    finally:
        soak.end()
    print("\n".join(told.told() for told in soak.trends()))
    shutil.rmtree(folder)
    print("nothing grows, nothing is lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
