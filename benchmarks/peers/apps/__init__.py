"""One no-op task, written for each library as its documentation has it. `note` is what it does: it says when it began.

Each module has ``send``, for one task, and ``send_all``, the quickest way that the library has for many. Where a
library acks before the work by default, it is told to do it afterwards, as the others do.
"""

import os
import struct
import time
from functools import cache

PORT = int(os.environ.get("BENCH_PORT", "0"))
"""Where the broker listens; the parent says it."""

THREADS = int(os.environ.get("BENCH_THREADS", "32"))
"""How many tasks run at once in a worker."""

WAIT = struct.Struct("d")


@cache
def _file() -> int:
    """The file of this run, opened once in each process."""
    return os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND)


def note(sent: float) -> None:
    """Append how long ago ``sent`` was (seconds of the monotonic clock) to the file of this run."""
    os.write(_file(), WAIT.pack(time.monotonic() - sent))
