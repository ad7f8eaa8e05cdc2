"""What is written down outside the broker while everything is killed, and how it is read again.

Producers append to a file each: `intent` before they send, `confirmed` when the broker said so. Workers write to a
database: each run before it begins, and what became of it if it did not count. Neither is lost with its process. The
effects are in the database of the handler, ``examples/exactly_once``. Nothing is judged here.
"""

import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from zclient import Client

NOTES = "notes.sqlite"
BANK = "bank.sqlite"

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS runs (at REAL, job TEXT, fence INTEGER, attempt INTEGER, who TEXT);
CREATE TABLE IF NOT EXISTS told (at REAL, job TEXT, fence INTEGER, what TEXT);
"""


class Sent(NamedTuple):
    """A line of a producer: what it was about to do, or learnt. ``at``: monotonic seconds, one clock for the host."""

    at: float
    who: str
    what: str  # "intent", "confirmed", "unknown"


class Run(NamedTuple):
    """One run of a job, noted before it began."""

    at: float
    fence: int
    attempt: int
    who: str


class Effect(NamedTuple):
    """One entry in the handler's own database."""

    amount: int
    fence: int


class End(NamedTuple):
    """What the broker says of a job at the end."""

    state: str
    fence: int


class ProducerLedger:
    """The file of one producer, which it appends to over all its restarts."""

    def __init__(self, folder: Path, name: str, who: str) -> None:
        path = folder / f"{name}.ledger"
        self.lines = read_producers([path]) if path.exists() else {}
        self._who = who
        # One `write` a line: a kill comes before it or after it. The system has it then, and outlives us.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, what: str, job: str) -> None:
        os.write(self._file, f"{time.monotonic():.6f} {self._who} {what} {job}\n".encode())


def read_producers(paths: Iterable[Path]) -> dict[str, list[Sent]]:
    """The lines of each job, in the order of time."""
    jobs: dict[str, list[Sent]] = defaultdict(list)
    for path in paths:
        for line in path.read_text().splitlines():
            at, who, what, job = line.split(" ")
            jobs[job].append(Sent(float(at), who, what))
    for lines in jobs.values():
        lines.sort()
    return dict(jobs)


class WorkerNotes:
    """The notes of one worker process; any of its threads may write."""

    def __init__(self, folder: Path, who: str) -> None:
        self._path = folder / NOTES
        self._who = who
        self._local = threading.local()

    def run(self, job: str, fence: int, attempt: int) -> None:
        """It begins now."""
        self._write("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", (time.monotonic(), job, fence, attempt, self._who))

    def told(self, job: str, fence: int, what: str) -> None:
        """It does not count: ``nacked``, ``lost`` (the broker said so), ``superseded`` (the database did)."""
        self._write("INSERT INTO told VALUES (?, ?, ?, ?)", (time.monotonic(), job, fence, what))

    def _write(self, statement: str, row: tuple[object, ...]) -> None:
        if not hasattr(self._local, "database"):
            # A kill is survived without any fsync; the power stays on.
            self._local.database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._local.database.execute("PRAGMA synchronous = OFF")
        self._local.database.execute(statement, row)


def make_notes(folder: Path) -> None:
    """An empty database for the notes, made before any worker comes."""
    with closing(sqlite3.connect(folder / NOTES)) as database:
        database.executescript(_SCHEMA)


class Ledger(NamedTuple):
    """All that is known of the jobs of one bout, by id."""

    sent: dict[str, list[Sent]]
    runs: dict[str, list[Run]]
    told: dict[tuple[str, int], dict[str, float]]  # (job, fence) -> what -> when
    effects: dict[str, list[Effect]]
    ends: dict[str, End]


def read_ledger(folder: Path, client: Client, queues: Iterable[str], prefix: str) -> Ledger:
    """Read all of it, and ask the broker for the ends of the jobs whose ids begin with ``prefix``, the newest ones."""
    runs: dict[str, list[Run]] = defaultdict(list)
    told: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    effects: dict[str, list[Effect]] = defaultdict(list)
    with closing(sqlite3.connect(folder / NOTES)) as notes:
        for at, job, fence, attempt, who in notes.execute("SELECT * FROM runs ORDER BY at"):
            runs[job].append(Run(at, fence, attempt, who))
        for at, job, fence, what in notes.execute("SELECT * FROM told ORDER BY at"):
            told[job, fence].setdefault(what, at)
    with closing(sqlite3.connect(folder / BANK)) as bank:
        for job, amount, fence in bank.execute("SELECT job, amount, fence FROM entries"):
            effects[job].append(Effect(amount, fence))
    ends: dict[str, End] = {}
    for queue in queues:
        for status in client.jobs(queue, state="done", limit=None, timeout=60):
            if not status.id.startswith(prefix):
                break  # the newest come first: this one is of the bout before
            ends[status.id] = End(status.state, status.fence or 0)
    return Ledger(read_producers(folder.glob("*.ledger")), dict(runs), dict(told), dict(effects), ends)
