"""A copy of an SQLite database while a broker may be writing to it, made from outside of that broker.

Owns the transaction that holds one state, and what has to be caught up on afterwards. Never changes a row.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from zbroker.storage.interface import StoreError
from zbroker.storage.sqlite_file import FILE

PAGES = 256
"""Pages of 4 KiB that are copied in one step, and synced: a disk that is handed much at once lets the broker's fsync
wait."""


def copy_database(source: Path, target: Path) -> None:
    """Copy the database in the folder `source` into the folder `target`: every write that was done when this began.

    One transaction that only reads holds the state meanwhile; without it, SQLite would begin anew at each write of
    another process (sqlite.org/backup.html). Nobody has to wait for it, but the log is not emptied until it ends. So
    this process then takes what has gathered there into the database, which else the broker's next write would do.

    Raises:
        StoreError: SQLite cannot read the one or write the other.
    """
    log = source / f"{FILE}-wal"
    # Without its log nobody uses the database. Then SQLite need not make files beside it, where it may not.
    is_idle = not log.exists() and not os.access(source, os.W_OK)
    try:
        with closing(_connect(source, "ro&immutable=1" if is_idle else "ro")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT number FROM sequence").fetchone()  # a transaction begins with what it first reads
            with closing(_connect(target, "rwc")) as copy, open(target / FILE, "ab") as file:
                reader.backup(copy, pages=PAGES, sleep=0, progress=lambda *_: os.fdatasync(file.fileno()))
            reader.execute("COMMIT")
            if os.access(log, os.W_OK):
                # Not the last connection, whose end would remove the log: that may be damaged, and is not ours.
                with closing(_connect(source, "rw")) as writer:
                    writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"the database in {source} cannot be copied to {target}: {error}") from error
    if is_idle and log.exists():
        raise StoreError(f"somebody began to use the database in {source} while it was copied: try again")


def _connect(folder: Path, mode: str) -> sqlite3.Connection:
    uri = f"{(folder / FILE).absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
