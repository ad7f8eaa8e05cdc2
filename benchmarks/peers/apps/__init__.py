"""One no-op task, written for each library as its documentation has it. `note` is what it does: it says when it began.

Each module has ``send``, for one task, and ``send_all``, the quickest way that the library has for many. Where a
library acks before the work by default, it is told to do it afterwards, as the others do.
"""

import os
import struct
import time

PORT = int(os.environ.get("BENCH_PORT", "0"))
"""Where the broker listens; the parent says it."""

WAIT = struct.Struct("d")


def note(sent: float) -> None:
    """Append how long ago ``sent`` was (seconds of the monotonic clock) to the file of this run."""
    file = os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND)
    os.write(file, WAIT.pack(time.monotonic() - sent))
    os.close(file)
