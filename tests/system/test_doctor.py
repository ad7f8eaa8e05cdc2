"""`zbroker doctor` beside real brokers: each of its findings is provoked, and a healthy broker has none."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import ROOT, eventually
from tests.system.system import System
from zbroker import doctor
from zbroker.doctor import SKEW_MS, SPARE_FILES, Grade
from zbroker.storage import open_store
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.protocol.version import VERSION

OF_THE_MACHINE = {"disk", "fsync"}
"""Findings that the machine on which the tests run may deserve; each has a test of its own."""


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and stdout of `zbroker doctor`."""
    command = [sys.executable, "-m", "zbroker", "doctor", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def findings(data: Path, endpoint: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the findings by their checks."""
    code, told = run("--data", data, "-b", endpoint, "--json")
    return code, {finding["check"]: finding for finding in json.loads(told)}


# ---- what the broker tells


def test_a_healthy_broker(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    system.worker(broker.endpoint, concurrency=2)
    assert [job.result(timeout=10) for job in client.send_many("q", range(30))] == list(range(30))
    code, found = findings(broker.data, broker.endpoint)
    hurts = {name for name, finding in found.items() if finding["grade"] not in ("ok", "note")}
    assert hurts <= OF_THE_MACHINE
    assert code == (1 if hurts else 0)
    assert found["leases"]["figures"]["q"]["runs"] == 30
    assert found["leases"]["figures"]["q"]["lease_ms"] == 30_000
    assert found["files"]["figures"]["pid"] == broker.pid
    assert {row["version"] for row in found["versions"]["figures"]["peers"]} == {VERSION}
    code, text = run("--data", broker.data, "-b", broker.endpoint)
    assert text.splitlines()[0].split() == ["check", "grade", "what"]


def test_what_hurts_is_found(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    # Nobody serves it.
    client.send_many("lonely", range(3))
    # Jobs die.
    client.send("bad", 1, id="bad")
    consumer = system.run("consumer", endpoint=broker.endpoint, queue="bad", settle=["reject"])
    eventually(lambda: client.get("bad").state == "dead")
    # Jobs take longer than the lease that the queue gets: they are done when another one is due.
    client.send_many("slow", range(30))
    peer = system.peer(broker.endpoint, queues=["slow"], capacity=30)
    delivered: list[m.Deliver] = []
    while sum(len(delivery.ids) for delivery in delivered) < 30:
        delivered.append(peer.receive(m.Deliver))
    clock = client.send("bad", 2, delay="200ms")
    eventually(lambda: clock.status().state == "dead")
    for delivery in delivered:
        assert peer.settle(delivery.fence, m.Outcome.ACK, *delivery.ids) == []
    client.set_queue("slow", lease="100ms")
    # A peer of another version.
    old = system.peer(broker.endpoint)
    told = {"version": "0.0.9"}
    old.send(m.Hello(limits.PROTOCOL_VERSION, old.incarnation, "old-one", 0, ["served"], [], 0, told, {}))
    old.receive(m.Welcome)
    # Few files.
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (SPARE_FILES, SPARE_FILES))

    code, found = findings(broker.data, broker.endpoint)
    assert code == 1
    warned = {name: finding["text"] for name, finding in found.items() if finding["grade"] == "warning"}
    assert warned.keys() - OF_THE_MACHINE == {"unserved", "dead", "leases", "versions", "files"}
    assert warned["unserved"] == "nobody serves lonely (3 jobs ready)"
    assert "bad (of 2 dead jobs 2 within the last hour)" in warned["dead"]
    assert "slow (p99 of 30 runs" in warned["leases"]
    assert found["leases"]["figures"]["slow"]["p99_ms"] >= 100
    assert "1 of 0.0.9, such as old-one" in warned["versions"]
    assert found["files"]["figures"]["limit"] == SPARE_FILES
    consumer.stop()
    client.pause("lonely")
    assert findings(broker.data, broker.endpoint)[1]["unserved"]["grade"] == "note"
    # And fewer than it has open.
    used = len(os.listdir(f"/proc/{broker.pid}/fd"))
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (used, SPARE_FILES))
    assert doctor.files(broker.data).grade is Grade.BAD


def test_a_broker_that_takes_no_jobs(system: System) -> None:
    broker = system.broker(disk_floor="1000000GiB")
    client = system.client(broker.endpoint)
    eventually(lambda: client.stats()["disk_low"])
    code, found = findings(broker.data, broker.endpoint)
    assert (code, found["broker"]["grade"]) == (1, "bad")


def test_nobody_there(tmp_path: Path) -> None:
    code, told = run("--data", tmp_path / "none", "-b", "tcp://127.0.0.1:1", "--timeout", "300ms", "--json")
    found = {finding["check"]: finding for finding in json.loads(told)}
    assert code == 3
    assert {name: finding["grade"] for name, finding in found.items()} == {
        "disk": "note",
        "broker": "bad",
        "files": "note",
    }
    assert "is `zbroker start` running there?" in found["broker"]["text"]


# ---- the host


@pytest.fixture
def data(tmp_path: Path) -> Path:
    open_store("rocksdb", tmp_path / "data").close()
    return tmp_path / "data"


def test_the_disk(data: Path) -> None:
    free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
    assert doctor.disk(data, 1).grade is Grade.OK
    assert doctor.disk(data, free * 2 // 3).grade is Grade.WARNING
    assert doctor.disk(data, free * 2).grade is Grade.BAD


def test_a_slow_fsync(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = doctor.fsync(data)
    assert 0 < told.figures["median_ms"] <= told.figures["worst_ms"]
    monkeypatch.setattr(doctor, "SLOW_SYNC_MS", 0.0)
    assert doctor.fsync(data).grade is Grade.WARNING
    monkeypatch.setattr(doctor, "BAD_SYNC_MS", 0.0)
    assert doctor.fsync(data).grade is Grade.BAD
    monkeypatch.setattr(doctor, "SLOW_SYNC_MS", 1e9)
    monkeypatch.setattr(doctor, "BAD_SYNC_MS", 1e9)
    monkeypatch.setattr(doctor, "LATE_TURN_MS", 0.0)
    assert doctor.fsync(data).grade is Grade.WARNING  # one that was slow is enough
    assert sorted(path.name for path in data.iterdir()) == ["FORMAT", "LOCK", "WATERMARK", "rocksdb"]
    assert doctor.fsync(data / "FORMAT").grade is Grade.NOTE  # it is no folder that one could write in


def test_a_clock_that_was_set_back(data: Path) -> None:
    assert doctor.clock(data).grade in (Grade.OK, Grade.NOTE)
    future = time.time() + 3600
    os.utime(data / "WATERMARK", (future, future))
    told = doctor.clock(data)
    assert (told.grade, told.figures["ahead_ms"] > 3_590_000) == (Grade.WARNING, True)


@pytest.mark.parametrize(
    ("told_at", "grade", "off"),
    [
        (1_000_500, Grade.OK, 0),  # between asking and the answer
        (999_500, Grade.OK, -500),
        (1_000_000 - SKEW_MS - 1, Grade.WARNING, -SKEW_MS - 1),
        (1_003_000 + SKEW_MS + 1, Grade.WARNING, SKEW_MS + 1),
    ],
)
def test_clocks_that_differ(told_at: int, grade: Grade, off: int) -> None:
    told = doctor.skew(told_at, 1_000_000, 1_003_000)
    assert (told.grade, told.figures["off_ms"]) == (grade, off)


def test_nobody_has_the_directory(data: Path) -> None:
    assert doctor.files(data).grade is Grade.NOTE
