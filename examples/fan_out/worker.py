"""Two consumer groups over the events of a tree of files: each event once in each group, whoever of a group gets it.

    zbroker start                 in one terminal
    zworker run worker:index      in others: an index of what the files define; its workers share the events
    zworker run worker:watch      and a watch on large ones, with an idea of its own of what matters
    python publish.py             in another one

A group is a queue that is bound to a topic. What the groups have done is in index.sqlite and watch.sqlite in this
folder, or in the one that FAN_OUT names; a job that ran twice, since a worker was killed, stands there once.
"""

import ast
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from zworker import Job, Worker

FOLDER = Path(os.environ.get("FAN_OUT", "."))

index = Worker(name="index", concurrency=2)
watch = Worker(name="watch", concurrency=1)


def connect(group: str, columns: str) -> sqlite3.Connection:
    database = sqlite3.connect(FOLDER / f"{group}.sqlite", timeout=60)
    database.execute(f"CREATE TABLE IF NOT EXISTS files (job TEXT PRIMARY KEY, file TEXT, {columns})")
    return database


@index.task("files-index")
def definitions(file: str, job: Job) -> int:
    """Count the functions and classes of a Python file."""
    nodes = list(ast.walk(ast.parse(Path(file).read_bytes())))
    functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)
    classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    with closing(connect("index", "functions INTEGER, classes INTEGER")) as database, database:
        database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (job.id, file, functions, classes))
    return functions + classes


@watch.task("files-watch")
def large(file: str, job: Job) -> None:
    """Note a file that is large; what is small never comes here."""
    with closing(connect("watch", "size INTEGER")) as database, database:
        database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (job.id, file, job.headers["size"]))
