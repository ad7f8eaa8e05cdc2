"""The end of a broker that was asked to end: nothing new goes out, what runs may settle, everybody is told."""

import signal

import pytest

from tests.system.processes import eventually
from tests.system.system import System
from zclient.protocol import messages as m


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_broker_ends_at_once(system: System, number: signal.Signals) -> None:
    broker = system.broker()
    system.worker(broker.endpoint)
    broker.signal(number)
    assert broker.wait(within=5) == 0


def test_a_stop_lets_running_work_settle_and_delivers_nothing_new(system: System) -> None:
    broker = system.broker(drain_timeout="30s")
    worker = system.worker(broker.endpoint, concurrency=2)
    client = system.client(broker.endpoint)
    witness = system.peer(broker.endpoint)
    running = client.send("q", {"do": "wait", "n": "running"})
    worker.expect("run", n="running")
    broker.signal(signal.SIGTERM)
    eventually(lambda: client.stats()["draining"])
    waiting = client.send("q", "waiting")  # stored, and not delivered although there is a free slot
    watching = running.watch(timeout=10)
    assert next(watching).state == "leased"  # the broker knows who waits: it ends as soon as the run does
    worker.say("go")
    assert list(watching)[-1].result == "running"
    assert broker.wait(within=10) == 0
    assert witness.receive(m.Closing).reason
    assert [run["n"] for run in worker.named("run")] == ["running"]
    broker.restart()
    assert waiting.result(timeout=10) == "waiting"
    assert running.status().attempts == 1


def test_a_stop_has_a_limit_and_workers_keep_what_they_run(system: System) -> None:
    broker = system.broker(drain_timeout="300ms")
    worker = system.worker(broker.endpoint)
    job = system.client(broker.endpoint).send("q", {"do": "wait", "n": 1})
    worker.expect("run")
    assert broker.stop(within=10) == 0
    broker.restart()
    worker.say("go")
    assert job.result(timeout=10) == 1
    assert job.status().attempts == 1
    assert len(worker.named("run")) == 1


def test_a_second_signal_ends_it_now(system: System) -> None:
    broker = system.broker(drain_timeout="1h")
    worker = system.worker(broker.endpoint)
    client = system.client(broker.endpoint)
    job = client.send("q", {"do": "wait", "n": 1})
    worker.expect("run")
    broker.signal(signal.SIGTERM)
    eventually(lambda: client.stats()["draining"])
    broker.signal(signal.SIGTERM)
    assert broker.wait(within=5) == 128 + signal.SIGTERM
    broker.restart()
    worker.say("go")
    assert job.result(timeout=10) == 1
    assert job.status().attempts == 1


def test_a_worker_drains_and_says_goodbye(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint, concurrency=2)
    job = client.send("q", {"do": "wait", "n": 1})
    worker.expect("run")
    worker.signal(signal.SIGTERM)
    eventually(lambda: any(row["capacity"] == 0 for row in client.workers()))
    other = client.send("q", "other")
    worker.say("go")
    assert worker.wait() == 0
    assert job.result(timeout=10) == 1
    assert (other.status().state, client.workers()) == ("ready", [])


def test_a_worker_that_may_not_finish_gives_back_and_burns_nothing(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint, drain_timeout="200ms")
    job = client.send("q", {"do": "wait", "n": 1})
    worker.expect("run")
    worker.signal(signal.SIGTERM)
    eventually(lambda: job.status().state == "ready", within=10)
    assert job.status().attempts == 0
    other = system.worker(broker.endpoint)
    assert other.expect("run")["attempt"] == 1
