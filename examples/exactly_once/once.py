"""An effect that happens exactly once although its job may run more than once: `docs/exactly-once.md` explains it.

It owns the table `effects` in the database where the effect itself is kept: one row a job, with the newest fence that
began and, once the effect is there, its result. It never talks to the broker.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zworker import Job

SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (
    job      TEXT PRIMARY KEY,
    fence    INTEGER NOT NULL,  -- the newest delivery of the job that began
    result   TEXT,              -- JSON; NULL until the effect is there
    noted_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""


BUSY_S = 30.0  # how long to wait for another's transaction


class Superseded(Exception):
    """A newer delivery of this job has begun: this run is too late, and may write nothing any more."""


def connect(path: str) -> sqlite3.Connection:
    """A connection whose commits are on disk when they return: the broker is told "done" only after that."""
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)  # transactions are begun below
    _write_ahead(database)
    database.execute("PRAGMA synchronous = FULL")
    database.execute(SCHEMA)
    return database


def _write_ahead(database: sqlite3.Connection) -> None:
    """Have one sync a commit. Here SQLite waits for nobody: of several that open a new file at once, one is let in."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing of it. IMMEDIATE: what it reads stays true until it has written."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # after some errors, a full disk for one, SQLite has rolled back by itself
            database.execute("ROLLBACK")
        raise


def begin(database: sqlite3.Connection, job: Job) -> bool:
    """Say that this delivery has begun, before slow work: from now on an older one writes nothing.

    Returns whether there is anything left to do. Raises `Superseded`.
    """
    with transaction(database):
        return _note(database, job) is None


def once(database: sqlite3.Connection, job: Job, effect: Callable[[], Any]) -> Any:
    """Run ``effect``, which writes to this database, and note that it happened: both are committed, or neither.

    If it happened before, it does not happen again, and its first result is returned. A result is what JSON can carry.
    Raises `Superseded`, and what ``effect`` raises.
    """
    with transaction(database):
        before = _note(database, job)
        if before is not None:
            return json.loads(before)
        result = effect()
        database.execute("UPDATE effects SET result = ? WHERE job = ?", (json.dumps(result), job.id))
        return result


def _note(database: sqlite3.Connection, job: Job) -> str | None:
    """Raise the job's fence to this delivery's, inside a transaction; returns the result if the effect is there."""
    database.execute(
        "INSERT INTO effects (job, fence) VALUES (?, ?)"
        " ON CONFLICT (job) DO UPDATE SET fence = excluded.fence WHERE excluded.fence > fence AND result IS NULL",
        (job.id, job.fence),
    )
    fence, result = database.execute("SELECT fence, result FROM effects WHERE job = ?", (job.id,)).fetchone()
    if result is None and fence > job.fence:
        raise Superseded(f"job {job.id} was delivered again under fence {fence}; this run has {job.fence}")
    return result
