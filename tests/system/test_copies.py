"""`zbroker backup`, `restore` and `fork` as processes, beside a broker that goes on."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.system.processes import ROOT, BrokerProcess, eventually
from tests.system.system import System
from zbroker.copies import LAST_EPOCH, RAISE_EPOCH, back_up, fork, restore
from zbroker.core import rows
from zbroker.core.core import Core
from zbroker.core.state import Settings
from zbroker.storage import StoreError, open_store
from zclient import Client
from zclient.protocol import messages as m

EPOCH_BITS = 32


def zbroker(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    command = [sys.executable, "-m", "zbroker", *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return run.returncode, run.stdout, run.stderr


class Fork(BrokerProcess):
    """``zbroker fork DIR``, of the data of ``of`` where that is given."""

    def __init__(self, directory: Path, log: Path, of: Path | None = None, **settings: Any) -> None:
        self.directory = directory
        self.of = of
        super().__init__(directory, log, **settings)

    def _line(self) -> list[str]:
        line = super()._line()
        start = line.index("start")
        given = ["--data", str(self.of)] if self.of is not None else []
        return [*line[:start], "fork", str(self.directory), *given, *line[line.index("--bind") :]]


@pytest.mark.parametrize("store", ["rocksdb", "sqlite"])
def test_a_backup_of_a_running_broker_is_restored_elsewhere(store: str, system: System) -> None:
    broker = system.broker(store=store)
    producer = system.run("producer", endpoint=broker.endpoint, queue="q", jobs=100_000)
    producer.reach("confirmed", 50)
    before = producer.named("confirmed")
    code, told, _ = zbroker("backup", system.folder / "backup", "--data", broker.data, "--json")
    assert code == 0
    assert json.loads(told)["store"] == store
    producer.reach("confirmed", len(before) + 20)  # it goes on
    producer.kill()

    # The copy is a data directory without a fault, which a broker leaves alone.
    assert zbroker("check", system.folder / "backup")[0] == 0
    code, _, why = zbroker("start", "--data", system.folder / "backup", "--bind", "tcp://127.0.0.1:*", "--store", store)
    assert (code, "is a backup" in why) == (6, True)

    restored = system.folder / "restored"
    assert zbroker("restore", system.folder / "backup", "--data", restored)[0] == 0
    other = system.broker("other", data=restored, store=store)
    client, original = system.client(other.endpoint), system.client(broker.endpoint)
    assert all(client.get(event["job"]).payload == event["n"] for event in before)
    told_here, told_there = client.stats(), original.stats()
    assert told_here["broker"] == told_there["broker"]  # its producers and workers may come to it
    assert told_here["epoch"] == 1 + RAISE_EPOCH + 1
    code, _, why = zbroker("restore", system.folder / "backup", "--data", restored)
    assert (code, "nothing is overwritten" in why) == (6, True)


def test_a_settlement_from_before_does_not_count_after_a_restore(system: System) -> None:
    """The original gives fences after the backup; none of them means anything to the restored one."""
    broker = system.broker(return_time="100ms")
    client = system.client(broker.endpoint)
    client.send("q", 1, id="job")
    assert zbroker("backup", system.folder / "backup", "--data", broker.data)[0] == 0
    worker = system.peer(broker.endpoint, queues=["q"], capacity=1)
    before = worker.receive(m.Deliver)
    broker.kill()
    assert zbroker("restore", system.folder / "backup", "--data", system.folder / "restored")[0] == 0
    broker.checked = False
    restored = system.broker("restored", return_time="100ms")
    other = system.peer(restored.endpoint, queues=["q"], capacity=1)
    delivery = other.receive(m.Deliver)
    assert delivery.ids == before.ids
    assert delivery.fence - before.fence > (RAISE_EPOCH - 1) << EPOCH_BITS
    late = system.peer(restored.endpoint, queues=["q"])
    assert late.settle(before.fence, m.Outcome.ACK, *before.ids) == [[before.fence, b"job", "lost"]]
    assert other.settle(delivery.fence, m.Outcome.ACK, *delivery.ids) == []


def test_a_fork_runs_beside_the_original_and_reaches_nothing_of_it(system: System) -> None:
    broker = system.broker()
    original = system.client(broker.endpoint)
    original.send_many("q", range(20))
    original.schedule("often", "ticks", every="1s")
    original.pause_schedule("often")
    original.resume_schedule("often")
    counts = eventually(lambda: original.queue("ticks") if _ticks(original) else None)["ready"]
    fork = Fork(system.folder / "fork", system.folder / "fork.log", of=broker.data)
    system.children.append(fork)
    fork.start()
    fork_client = system.client(fork.endpoint)

    assert fork.endpoint != broker.endpoint
    here, there = fork_client.stats(), original.stats()
    assert here["broker"] != there["broker"]
    assert here["epoch"] > there["epoch"] + RAISE_EPOCH - 1
    assert [(one.name, one.paused) for one in fork_client.schedules()] == [("often", True)]
    assert fork_client.queue("q")["ready"] == 20

    # Everything is done in the one; in the other it waits, and its schedule goes on.
    consumer = system.run("consumer", endpoint=fork.endpoint, queue="q", settle=["ack"], credit=5)
    consumer.reach("run", 20)
    eventually(lambda: fork_client.queue("q")["totals"]["done"] == 20)
    fork_client.send("q", "of the fork", id="forked")
    assert original.queue("q")["ready"] == 20
    assert [job.id for job in original.jobs("q") if job.id == "forked"] == []
    ticks = fork_client.queue("ticks")["ready"]
    eventually(lambda: original.queue("ticks")["ready"] > counts + 1)
    assert fork_client.queue("ticks")["ready"] == ticks

    # It is served again as it is, and what somebody resumed in it goes on.
    fork_client.resume_schedule("often")
    fork.kill()
    fork.start()
    assert [one.paused for one in fork_client.schedules()] == [False]
    assert fork_client.get("forked").queue == "q"


def _ticks(client: Client) -> int:
    queues = {row["queue"]: row["ready"] for row in client.queues()}
    return int(queues.get("ticks", 0))


def test_a_fork_of_a_backup_and_of_what_a_file_declares(system: System) -> None:
    """The backup stays a backup; the file's schedules are no reason to run anything."""
    config = system.folder / "zbroker.toml"
    config.write_text(
        'bind = "tcp://127.0.0.1:1"\nlease = "7s"\n[schedules.declared]\nevery = "1s"\nqueue = "ticks"\n'
        '[schedules.unborn]\nevery = "1s"\nqueue = "ticks"\n'
    )
    first = system.folder / "first.toml"
    first.write_text('[schedules.declared]\nevery = "1h"\nqueue = "ticks"\n')
    broker = system.broker(config=first)
    system.client(broker.endpoint).send("q", 1, id="job")
    backup = system.folder / "backup"
    assert zbroker("backup", backup, "--data", broker.data)[0] == 0
    before = sorted((path.name, path.stat().st_size) for path in backup.rglob("*"))
    fork = Fork(backup, system.folder / "fork.log", config=config)
    fork.data = system.folder / "backup.fork"
    system.children.append(fork)
    fork.start()
    client = system.client(fork.endpoint)
    assert {one.name: one.paused for one in client.schedules()} == {"declared": True}
    assert client.get("job").payload == 1
    assert client.queue("q")["policy"]["lease"][0] == "7s"
    late = client.send("q", "late", delay="1500ms")
    eventually(lambda: late.status().state == "ready")
    assert _ticks(client) == 0  # although both would have had an occurrence by now
    assert sorted((path.name, path.stat().st_size) for path in backup.rglob("*")) == before


def test_what_cannot_be_is_said_and_nothing_is_left(system: System) -> None:
    broker = system.broker()
    (system.folder / "full").mkdir()
    (system.folder / "full" / "file").touch()
    for arguments, says in (
        (("backup", system.folder / "full", "--data", broker.data), "nothing is overwritten"),
        (("backup", system.folder / "x", "--data", system.folder / "nowhere"), "is no data directory"),
        (("restore", system.folder / "nowhere", "--data", system.folder / "x"), "is no data directory"),
        (("backup", broker.data / "x", "--data", broker.data), "lies in the data directory"),
        (("fork", system.folder / "x", "--data", broker.data, "--durability", "memory"), "served from disk"),
    ):
        code, out, error = zbroker(*arguments)
        expected = 2 if arguments[0] == "fork" else 6
        assert (code, out, error.count("\n"), says in error) == (expected, "", 1, True), error
    assert not (system.folder / "x").exists()


def test_fences_begin_beyond_what_the_original_gave_since(tmp_path: Path) -> None:
    original = open_store("sqlite", tmp_path / "data")
    back_up(tmp_path / "data", tmp_path / "backup")
    for _ in range(20):  # starts of the original
        core = Core(original, Settings(), Random(0))
        tick = core.open(0, 0, b"broker")
        original.write(tick.rows, tick.ranges)
    original.close()
    for make in (restore, fork):
        make(tmp_path / "backup", tmp_path / make.__name__)
        copy = open_store("sqlite", tmp_path / make.__name__)
        assert int.from_bytes(copy.get("meta", rows.META_EPOCH) or b"", "big") > core.state.epoch == 20
        copy.close()


def test_fences_that_are_used_up(tmp_path: Path) -> None:
    with_last = open_store("rocksdb", tmp_path / "data")
    with_last.write({"meta": {rows.META_EPOCH: rows.number8(LAST_EPOCH - RAISE_EPOCH + 1)}}, [])
    with_last.close()
    with pytest.raises(StoreError, match="used up"):
        restore(tmp_path / "data", tmp_path / "restored")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
