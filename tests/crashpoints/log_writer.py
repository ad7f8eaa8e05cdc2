"""A process that writes numbered rows to a store and dies: what it leaves has a log to damage.

Run as ``python -m tests.crashpoints.log_writer STORE DIR SYNCED UNSYNCED SMALL``. Row after row, each a write of its
own, so that the sequence number says which rows there are; the last UNSYNCED of them without a sync. SMALL is the size
of a memtable in bytes, 0 for the usual one: with a small one, and one row of a keyspace that is never flushed, there
are many log files. It says the sequence number synced.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from random import Random
from threading import Event

from zbroker.storage import Store, StoreFull, open_store, tuning
from zbroker.storage.interface import Rows

ROW_BYTES = 150


def row(number: int) -> Rows:
    """The write of this sequence number."""
    value = Random(number).randbytes(ROW_BYTES)
    return {"meta": {b"first": value}} if number == 1 else {"jobs": {b"%06d" % number: value}}


def write(store: Store, rows: Rows) -> None:
    """Write, again and again while small memtables are flushed: that is a refusal, and tells nobody when it ends."""
    while True:
        try:
            store.write(rows, [])
        except StoreFull:
            Event().wait(0.01)
        else:
            return


def main(name: str, path: Path, synced: int, unsynced: int, small: int) -> None:
    if small:
        tuning.MEMTABLE_BYTES = small
    store = open_store(name, path)
    for number in range(1, synced + 1):
        write(store, row(number))
        if number % max(10, synced // 60) == 0:
            store.sync()
    store.sync()
    reached = store.sequence()
    for number in range(synced + 1, synced + unsynced + 1):
        write(store, row(number))
    print(reached, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *(int(number) for number in sys.argv[3:6]))
