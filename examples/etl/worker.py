"""An audit of the Python packages of this machine: is every file still what its package said when it was installed?

    zbroker start                 in one terminal
    zworker run worker            in others, in this folder: as many as you like; kill -9 them in the middle
    python send.py                in another one

A killed worker costs its jobs an attempt, of which each has five; three workers lost with a job alone make it dead.
Then `zclient workflow retry` goes on.

The tables are in audit.sqlite in this folder, or the file that AUDIT names; the report is report.md beside it.
"""

import base64
import csv
import hashlib
import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from zworker import Job, Reject, Worker

AUDIT = Path(os.environ.get("AUDIT", "audit.sqlite"))

worker = Worker(concurrency=2)


@worker.task("audit-extract", timeout="5m")
def extract(record: str) -> dict:
    """Read the list of a package's files (its RECORD), and hash those that have a hash there."""
    folder = Path(record).parent  # NAME-VERSION.dist-info
    package, _, version = folder.name.removesuffix(".dist-info").partition("-")
    kinds: Counter[str] = Counter()
    changed, missing, size = [], [], 0
    try:
        with open(record, newline="", encoding="utf-8") as lines:
            rows = list(csv.reader(lines))
    except FileNotFoundError:
        raise Reject(f"{package} was removed since the audit began") from None
    for name, told, _ in rows:
        file = folder.parent / name
        if not file.is_file():
            missing.append(name)
            continue
        content = file.read_bytes()
        kinds[file.suffix or "none"] += 1
        size += len(content)
        method, _, digest = told.partition("=")
        if digest:
            found = base64.urlsafe_b64encode(hashlib.new(method, content).digest()).rstrip(b"=").decode()
            if found != digest:
                changed.append(name)
    return {
        "package": package,
        "version": version,
        "files": sum(kinds.values()),
        "bytes": size,
        "kinds": kinds,
        "changed": changed,
        "missing": missing,
    }


def connect() -> sqlite3.Connection:
    database = sqlite3.connect(AUDIT, timeout=60)
    database.execute(
        "CREATE TABLE IF NOT EXISTS packages (run TEXT, package TEXT, version TEXT, files INTEGER, bytes INTEGER)"
    )
    database.execute("CREATE TABLE IF NOT EXISTS kinds (run TEXT, kind TEXT, files INTEGER, PRIMARY KEY (run, kind))")
    database.execute("CREATE TABLE IF NOT EXISTS faults (run TEXT, package TEXT, file TEXT, fault TEXT)")
    return database


@worker.task("audit-load")
def load(run: str, job: Job) -> int:
    """Put what all packages returned into the tables, in one transaction: a second run of this job begins anew."""
    kinds: Counter[str] = Counter()
    packages = 0
    with closing(connect()) as database, database:
        for table in ("packages", "kinds", "faults"):
            database.execute(f"DELETE FROM {table} WHERE run = ?", (run,))
        for found in job.inputs()["extract"]:
            names = (run, found["package"], found["version"])
            database.execute("INSERT INTO packages VALUES (?, ?, ?, ?, ?)", (*names, found["files"], found["bytes"]))
            for fault in ("changed", "missing"):
                database.executemany(
                    "INSERT INTO faults VALUES (?, ?, ?, ?)", [(*names[:2], file, fault) for file in found[fault]]
                )
            kinds.update(found["kinds"])
            packages += 1
        database.executemany("INSERT INTO kinds VALUES (?, ?, ?)", [(run, *kind) for kind in kinds.items()])
    return packages


@worker.task("audit-report")
def report(run: str) -> dict:
    """Write the report from the tables; returns its figures."""
    with closing(connect()) as database:
        one = database.execute
        packages, files, size = one(
            "SELECT count(*), ifnull(sum(files), 0), ifnull(sum(bytes), 0) FROM packages WHERE run = ?", (run,)
        ).fetchone()
        largest = one(
            "SELECT package, version, files, bytes FROM packages WHERE run = ? ORDER BY bytes DESC LIMIT 5", (run,)
        ).fetchall()
        kinds = one("SELECT kind, files FROM kinds WHERE run = ? ORDER BY files DESC LIMIT 5", (run,)).fetchall()
        faults = one("SELECT package, file, fault FROM faults WHERE run = ? ORDER BY package, file", (run,)).fetchall()
    lines = [f"# {packages} packages, {files} files, {size / 1e6:.1f} MB", "", "| package | version | files | MB |"]
    lines += [
        "|---|---|---|---|",
        *(f"| {name} | {version} | {n} | {b / 1e6:.1f} |" for name, version, n, b in largest),
    ]
    lines += ["", "Files by kind: " + ", ".join(f"{kind} {n}" for kind, n in kinds)]
    lines += ["", f"## {len(faults)} files are not as installed", ""]
    lines += [f"- {package}: {file} is {fault}" for package, file, fault in faults]
    page = AUDIT.with_name("report.md")
    page.with_suffix(".new").write_text("\n".join(lines) + "\n", encoding="utf-8")
    page.with_suffix(".new").replace(page)
    return {"packages": packages, "files": files, "faults": len(faults), "page": str(page.resolve())}


if __name__ == "__main__":
    worker.run()
