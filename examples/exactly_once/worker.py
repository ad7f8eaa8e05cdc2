"""Books amounts to accounts, each exactly once: a worker that keeps its effect in its own database.

    zbroker start                 in one terminal
    zworker run worker            in others, in this folder: as many as you like; kill -9 them as often as you like
    python send.py                in another one

The database is bank.sqlite in this folder, or the file that BANK names.
"""

import os
import sqlite3
import threading

from once import begin, connect, once

from zworker import Job, Worker

BANK = os.environ.get("BANK", "bank.sqlite")

worker = Worker(concurrency=4)
local = threading.local()  # a connection of SQLite belongs to the thread that opened it


def bank() -> sqlite3.Connection:
    """This thread's connection."""
    if not hasattr(local, "bank"):
        local.bank = connect(BANK)
        local.bank.execute("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL)")
        local.bank.execute("CREATE TABLE IF NOT EXISTS entries (account TEXT, amount INTEGER, job TEXT, fence INTEGER)")
    return local.bank


@worker.task("bookings")
def book(job: Job, account: str, amount: int) -> int:
    """Add to a balance: done twice it would be wrong. Returns the new balance."""
    database = bank()

    def effect() -> int:
        database.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (account, amount, job.id, job.fence))
        return database.execute(
            "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance"
            " RETURNING balance",
            (account, amount),
        ).fetchone()[0]

    return once(database, job, effect)


@worker.task("interest")
def pay_interest(job: Job, account: str, percent: float) -> int:
    """Slow work first, then the effect: whoever began later wins, even if the earlier run ends last."""
    database = bank()
    if begin(database, job):
        (balance,) = database.execute("SELECT balance FROM accounts WHERE name = ?", (account,)).fetchone()
        amount = round(balance * percent / 100)  # think of an hour's work here
    else:
        amount = 0  # the effect is there: `once` returns its result
    return book(job, account, amount)


if __name__ == "__main__":
    worker.run()
