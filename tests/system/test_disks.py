"""A disk that fails, or has no room: nothing leaves before its commit, and what was confirmed is there."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.system.processes import BrokerProcess, eventually
from tests.system.system import System
from zclient import DiskFull, OutcomeUnknown
from zclient.protocol import messages as m

FAILING = ("tests.system.failing_disk",)
MARGIN_BYTES = 256 << 20
"""Room above the floor at the start: more than other programs write in the meantime."""


def last_line(broker: BrokerProcess) -> str:
    """What it said last."""
    return str(broker.told.all[-1].get("line"))


def test_a_failed_sync_ends_the_broker_and_nothing_was_confirmed(system: System) -> None:
    broker = system.broker(program=FAILING)
    client = system.client(broker.endpoint)
    before = client.send("q", "before")
    worker = system.peer(broker.endpoint, queues=["late"], capacity=10)
    broker.signal(signal.SIGUSR1)
    broker.expect("failing")
    with pytest.raises(OutcomeUnknown) as unknown:
        client.send("late", "after", timeout=2)
    assert broker.wait() == 6
    assert "sync" in last_line(broker)
    assert "Input/output error" in last_line(broker)
    with pytest.raises(AssertionError, match="no Deliver"):
        worker.receive(m.Deliver, within=0.2)
    broker.restart(program=("zbroker",))
    assert before.status().payload == "before"
    again = client.send("late", "after", id=unknown.value.id)  # whatever became of the first: it is one job
    assert client.queue("late")["ready"] + client.queue("late")["leased"] == 1
    assert again.status().payload == "after"


def test_a_full_disk_holds_everything_up_and_recovers(system: System) -> None:
    broker = system.broker(program=FAILING, lease="1s", grace="300ms")
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint, concurrency=4)
    job = client.send("q", {"do": "wait", "n": 1})
    worker.expect("run")
    broker.signal(signal.SIGUSR2)
    broker.expect("full")
    with pytest.raises(OutcomeUnknown) as unknown:
        client.send("q", "held up", timeout=1.5)
    assert len(worker.named("run")) == 1  # not confirmed, so not delivered
    broker.signal(signal.SIGUSR2)
    broker.expect("room")
    assert client.result(str(unknown.value.id), timeout=10) == "held up"
    worker.say("go")
    assert job.result(timeout=10) == 1
    assert job.status().attempts == 1  # the broker stood still, not the worker


def test_a_disk_that_stays_full_ends_the_broker(system: System) -> None:
    broker = system.broker(program=FAILING)
    client = system.client(broker.endpoint)
    before = client.send("q", "before")
    broker.signal(signal.SIGUSR2)
    broker.expect("full")
    with pytest.raises(OutcomeUnknown) as unknown:
        client.send("q", "never", timeout=1)
    assert broker.wait() == 6
    assert "space" in last_line(broker)
    broker.restart(program=("zbroker",))
    assert before.status().state == "ready"
    assert client.send("q", "never", id=unknown.value.id).status().state == "ready"


def test_below_the_floor_no_new_jobs_are_taken_and_work_goes_on(system: System, tmp_path: Path) -> None:
    floor = shutil.disk_usage(tmp_path).free - MARGIN_BYTES
    broker = system.broker(disk_floor=floor)
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint)
    job = client.send("q", {"do": "wait", "n": 1})
    worker.expect("run")
    filler = tmp_path / "filler"
    with filler.open("wb") as file:

        def low() -> bool:
            """Others use this disk too, and give room back: fill it as far as it takes."""
            room = shutil.disk_usage(tmp_path).free - floor
            if room > -MARGIN_BYTES // 2:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, room + MARGIN_BYTES)
            return bool(broker.told.named("disk low"))

        eventually(low)
    with pytest.raises(DiskFull) as refusal:
        client.send("q", 2, timeout=0.5)
    assert refusal.value.retry_after
    assert refusal.value.exit_code == 4
    worker.say("go")
    assert job.result(timeout=10) == 1  # settlements go on
    filler.unlink()
    assert client.send("q", 2, timeout=10).result(timeout=10) == 2  # the client tried again by itself
    eventually(lambda: not client.stats()["disk_low"])
