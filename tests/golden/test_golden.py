"""Every release opens what every earlier one left behind, and finds all of it: the golden data directories."""

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden.make import archive
from tests.system.processes import eventually
from tests.system.system import System
from zbroker.check import check_directory
from zbroker.storage.directory import FORMAT, store_of
from zclient import Client
from zclient.handles import JobStatus
from zworker import Consumer

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.gz"))


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    try:
        yield system
    finally:
        system.end()
    system.check()


def unpack(packed: Path, folder: Path) -> dict[str, Any]:
    """The data directory as `data` below the folder; what it should hold."""
    with tarfile.open(packed) as opened:
        opened.extractall(folder, filter="data")
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_bytes())
    return expected


def told(status: JobStatus, name: str) -> Any:
    """A field of a job as `expected.json` has it: long bytes as their number, which are all zero."""
    value = getattr(status, name)
    if isinstance(value, bytes):
        assert value == bytes(len(value))
        return {"bytes": len(value)}
    return value


def test_there_is_one_of_this_format_for_each_store() -> None:
    assert {archive(store) for store in ("rocksdb", "sqlite")} <= set(ARCHIVES), FORMAT


@pytest.mark.parametrize("packed", ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def test_all_that_was_left_is_found(packed: Path, system: System) -> None:
    expected = unpack(packed, system.folder)
    data = system.folder / "data"
    # Checked in a copy: that opens the database, and the broker is to find it as it was left.
    report = check_directory(shutil.copytree(data, system.folder / "looked-at"))
    assert report.faults == []
    assert all(report.counts[f"rows in {space}"] for space in ("payloads", "heads", "unique", "deliveries", "edges"))

    broker = system.broker(data=data, store=store_of(data), return_time="2s")
    client = system.client(broker.endpoint)
    assert client.stats()["broker"] == expected["broker"]
    # The one in somebody's hands first: it is so for two seconds.
    for identifier, job in sorted(expected["jobs"].items(), key=lambda item: item[1]["state"] != "leased"):
        status = client.get(identifier)
        assert {name: told(status, name) for name in job} == job, identifier
    _rest(client, expected)
    _goes_on(broker.endpoint, client, expected)


def _rest(client: Client, expected: dict[str, Any]) -> None:
    """What is no job."""
    queues = {row["queue"]: row for row in client.queues()}
    assert {name: row["ready"] for name, row in queues.items() if row["ready"] > 2} == {"plain": 304}
    assert (queues["quiet"]["paused"], queues["closed"]["closed"]) == (True, True)
    policy = client.queue("lanes")["policy"]
    assert [policy[name][0] for name in ("key_limit", "lease", "rate")] == [1, "2m", "10/1m"]
    assert sorted(job.id for job in client.dead("dying")) == ["dead", "died-in-batch"]
    assert client.get("failed").attempt_log[0]["error"]["text"] == "not yet"
    assert client.send("late", "another", unique="text", id="second").id == "unique"
    schedules = {schedule.name: schedule for schedule in client.schedules()}
    assert {name: schedule.paused for name, schedule in schedules.items()} == {"halted": True, "yearly": False}
    assert (schedules["yearly"].tz, schedules["halted"].every) == ("Europe/Berlin", "10m")
    (binding,) = client.bindings()
    assert (binding.pattern, binding.queue, binding.filters) == ("orders.#", "news", ["region=eu"])
    kept = client.tail("orders.created", start="beginning")
    assert [next(kept).payload for _ in range(2)] == [{"n": 1}, {"n": 2}]
    batches = {batch.id: batch for batch in client.batches()}
    is_open, is_over = batches[expected["open"]], batches[expected["over"]]
    assert (is_open.name, is_open.state, is_open.total, is_open.done) == ("open one", "open", 2, 1)
    assert (is_over.name, is_over.state, is_over.dead) == ("over", "dead", 1)
    assert [member.value for member in client.batch(id=expected["open"]).members() if member.state == "done"] == [
        "result"
    ]
    steps = client.workflow(expected["workflow"]).status().steps
    assert {name: (step.done, step.total) for name, step in steps.items()} == {"first": (1, 2), "second": (0, 1)}


def _goes_on(endpoint: str, client: Client, expected: dict[str, Any]) -> None:
    """What was under way is carried on: a lease nobody came back for, children, a step, a callback."""
    assert eventually(lambda: client.get("leased").state == "ready")
    assert client.get("leased").attempts == 0
    with Consumer(endpoint, ["plain", "after", "flow", "counted"], credit=100) as consumer:
        acked: set[str] = set()
        for job in consumer:
            job.ack(20)
            acked.add(job.id)
            if {"child", "large"} <= acked and sum(job.startswith(expected["workflow"]) for job in acked) == 2:
                break
    assert client.workflow(expected["workflow"]).results(timeout=20) == {"first": [10, 20], "second": 20}
    batch = client.batch(id=expected["open"])
    batch.close()
    assert batch.wait(timeout=20).done == 2
    assert re.fullmatch("ready|leased", client.get(f"{batch.id}.settled").state)
