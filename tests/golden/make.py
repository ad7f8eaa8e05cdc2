"""Makes the golden data directories: what a broker of the format that they are named after leaves when it is killed.

    python -m tests.golden.make STORE       writes tests/golden/format-N-STORE.tar.gz, if it is not there

They are made once for each format and store, by the release that brings the format, and never again: a test that opens
them says what later releases still have to understand. In the archive lie `data/`, and `expected.json` with what was
there, which `test_golden.py` looks for.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.system.processes import ROOT
from zbroker.storage.directory import FORMAT
from zclient import Client, Workflow, step
from zworker import Consumer

FAR = datetime(2035, 1, 1, tzinfo=UTC)
"""When what waits for a time is due: within the ten years that a delay may take."""

LARGE, SMALL = 70_000, 5_000
"""Bytes of a payload in a row of its own, and of a result that is."""


def archive(store: str, number: int = FORMAT) -> Path:
    """Where the golden directory of a store lies."""
    return Path(__file__).with_name(f"format-{number}-{store}.tar.gz")


class Note:
    """What is to be found again: jobs by id, and the rest by names of its own."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {"jobs": {}}

    def __call__(self, identifier: str, state: str, payload: Any = None, **more: Any) -> None:
        self.told["jobs"][identifier] = {"state": state, "payload": payload, **more}


def waiting(client: Client, note: Note) -> None:
    """Jobs that are ready, scheduled, or wait for others; schedules; queues of their own mind."""
    note.told["broker"] = client.stats()["broker"]
    for queue in ("done", "dying", "counted"):
        client.set_queue(queue, keep_done="3650d")
    client.set_queue("lanes", key_limit=1, lease="2m", rate="10/1m")
    for n in range(3):
        client.send("plain", n, id=f"plain-{n}")
        note(f"plain-{n}", "ready", n, queue="plain")
    client.send_many("plain", range(300))  # more than a block
    for n, key in enumerate(("a", "b", "a")):
        client.send("lanes", [n], id=f"lane-{n}", key=key, priority=n, headers={"n": n})
        note(f"lane-{n}", "ready", [n], key=key, priority=n, headers={"n": n})
    client.send("plain", bytes(LARGE), id="large")
    note("large", "ready", {"bytes": LARGE})
    client.send("late", "late", id="late", at=FAR, max_attempts=3, backoff="1s,5s")
    note("late", "scheduled", "late")
    client.send("late", "only one", id="unique", at=FAR, unique="text", ttl="100d")
    note("unique", "scheduled", "only one", unique="text")
    client.send("quiet", 1, id="quiet")
    client.send("closed", 1, id="closed")
    client.send("after", "parent", id="parent")
    client.send("after", "child", id="child", after=["parent", "large"], on_parent_death="wait")
    note("quiet", "ready", 1)
    note("closed", "ready", 1)
    note("parent", "ready", "parent")
    note("child", "blocked", "child")
    client.schedule("yearly", "plain", {"a": 1}, cron="0 4 1 1 *", tz="Europe/Berlin", catch_up="none")
    client.schedule("halted", "plain", every="10m", paused=True)
    client.pause("quiet")
    client.drain("closed")


def settled(client: Client, endpoint: str, note: Note) -> None:
    """Jobs that are done, dead, cancelled, wait after a failure, or were in somebody's hands at the end."""
    for n, result in enumerate((None, {"sum": 3}, bytes(SMALL))):
        client.send("done", n, id=f"done-{n}")
        take(endpoint, "done").ack(result)
        note(f"done-{n}", "done", result={"bytes": SMALL} if n == 2 else result)
    client.send("done", "unwanted", id="cancelled", delay="1h")
    client.cancel("cancelled")
    note("cancelled", "cancelled")
    client.send("dying", "bad", id="dead")
    take(endpoint, "dying").reject("bad input")
    note("dead", "dead", "bad", reason="rejected")
    client.send("dying", "fails", id="failed", headers={"why": "test"})
    take(endpoint, "dying").nack("not yet", delay="3000d")
    note("failed", "scheduled", "fails", attempts=1)
    take(endpoint, "lanes").nack("its key waits with it", delay="3000d")
    note("lane-2", "scheduled", [2], key="a", priority=2, attempts=1)
    client.send("held", "in hand", id="leased")
    note("leased", "leased", "in hand", queue="held")


def composed(client: Client, endpoint: str, note: Note) -> None:
    """A batch that is open, one that is over with a death, and a workflow in its middle."""
    batch = client.batch("open one", keep_results=True, on_settled=step("plain", "settled"))
    batch.send("counted", "of the batch", id="counted-1")
    batch.send("counted", "done", id="counted-2", priority=5)
    take(endpoint, "counted").ack("result")
    note("counted-1", "ready", "of the batch", batch=batch.id)
    note("counted-2", "done", result="result")
    over = client.batch("over", on_death=step("quiet", "died"))
    over.send("dying", "x", id="died-in-batch")
    over.close()
    take(endpoint, "dying").reject("no good")
    note("died-in-batch", "dead", "x", reason="rejected")
    note(f"{over.id}.death", "ready", "died", queue="quiet")
    flow = Workflow("golden")
    first = flow.group("first", "flow", [1, 2])
    flow.step("second", "flow", "end", after=first)
    run = client.send_workflow(flow)
    take(endpoint, "flow").ack(10)
    note.told |= {"open": batch.id, "over": over.id, "workflow": run.id}


def topics(client: Client) -> None:
    """A binding with a filter, a kept topic, and what was published."""
    client.bind("orders.#", "news", filters=["region=eu"])
    client.keep_topic("orders.*", keep_bytes="1MiB")
    client.publish("orders.created", {"n": 1}, id="publication", headers={"region": "eu"})
    client.publish("orders.created", {"n": 2}, headers={"region": "us"})


def take(endpoint: str, queue: str) -> Any:
    """The next job of a queue; settled, it is so before this process goes on with another."""
    return _Taken(endpoint, queue)


class _Taken:
    """One job, settled by the method of its name, and the answer waited for."""

    def __init__(self, endpoint: str, queue: str) -> None:
        self._endpoint, self._queue = endpoint, queue

    def __getattr__(self, outcome: str) -> Any:
        def settle(*arguments: Any, **options: Any) -> None:
            with Consumer(self._endpoint, self._queue, credit=1, name="golden") as consumer:
                getattr(next(iter(consumer)), outcome)(*arguments, **options)

        return settle


def build(store: str, folder: Path) -> dict[str, Any]:
    """A data directory below the folder, whose broker was killed twice; what is in it.

    The first half is in tables and the database then, the second in the log.
    """
    note = Note()
    with serving(store, folder) as (endpoint, _), Client(endpoint) as client:
        waiting(client, note)
    with (
        serving(store, folder) as (endpoint, kill),
        Client(endpoint) as client,
        Consumer(endpoint, "held", credit=1, name="holder") as consumer,
    ):
        settled(client, endpoint, note)
        composed(client, endpoint, note)
        topics(client)
        next(iter(consumer))
        kill()  # or the consumer would give its job back
    return note.told


@contextmanager
def serving(store: str, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A broker's endpoint, and what kills it; it is killed at the end in any case."""
    command = [sys.executable, "-m", "zbroker", "start", "--data", str(folder / "data"), "--store", store]
    process = subprocess.Popen([*command, "--bind", "tcp://127.0.0.1:*"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1], process.kill
    finally:
        process.kill()
        process.communicate()


def main(store: str) -> None:
    target = archive(store)
    if target.exists():
        raise SystemExit(f"{target.name} is there, and stays as it is")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = json.dumps(build(store, folder), indent=1, sort_keys=True).encode()
        # What RocksDB logs of its own doings is no data.
        for log in (folder / "data").rglob("LOG*"):
            log.unlink()
        with tarfile.open(target, "w:gz", compresslevel=9) as packed:
            packed.add(folder / "data", "data", filter=_nameless)
            entry = tarfile.TarInfo("expected.json")
            entry.size = len(told)
            packed.addfile(entry, io.BytesIO(told))
    print(f"{target}: {target.stat().st_size} bytes")


def _nameless(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's file, of no time."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(*sys.argv[1:])
