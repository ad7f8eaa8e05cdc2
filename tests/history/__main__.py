"""``python -m tests.history FOLDER``, or ``--generate OPERATIONS``: check a history, and say what that took."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.history.checker import check
from tests.history.generated import generate


def main() -> int:
    parser = argparse.ArgumentParser(prog="history", description="judge what processes noted of their work")
    parser.add_argument("folder", nargs="?", type=Path, help="where the histories are")
    parser.add_argument("--generate", type=int, metavar="OPERATIONS", help="make a history of this size and check it")
    arguments = parser.parse_args()
    if (arguments.folder is None) == (arguments.generate is None):
        parser.error("name a folder, or a number of operations")
    if arguments.folder is not None:
        return told(arguments.folder)
    folder = Path(tempfile.mkdtemp(prefix="history-"))
    try:
        began = time.monotonic()
        jobs = generate(folder, arguments.generate)
        size = sum(path.stat().st_size for path in folder.iterdir())
        written = f"{size >> 20} MiB, written in {since(began)}"
        print(f"{arguments.generate} operations of {jobs} jobs: {written}", flush=True)
        return told(folder)
    finally:
        shutil.rmtree(folder)


def told(folder: Path) -> int:
    began = time.monotonic()
    report = check(folder)
    print("\n".join(report.lines()))
    print(f"checked in {since(began)}; the largest process had {report.peak_mib} MiB")
    return 0 if report.is_clean else 1


def since(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
