"""The three clocks: is the process there, is it working, is its connection. With short settings, but for one test."""

import time
from functools import partial
from typing import Any

from tests.system.processes import BrokerProcess, Child, eventually
from tests.system.system import System
from tests.system.waiting import causes, let_pass, wait_in
from zclient import Client

QUICK: dict[str, Any] = {"grace": "300ms", "heartbeat_interval": "200ms", "heartbeat_timeout": "1200ms"}


def connected_for_ms(client: Client, worker: Child) -> int:
    """How long the broker has had a connection to this worker; 0 if it has none."""
    return sum(row["connected_for_ms"] for row in client.workers() if row["info"]["pid"] == worker.pid)


def reconnected(client: Client, worker: Child, began: float) -> bool:
    """Whether the connection that the broker has to this worker was made since then."""
    return 0 < connected_for_ms(client, worker) <= (time.monotonic() - began) * 1000


def test_a_killed_worker_has_its_jobs_with_another_within_five_seconds(system: System) -> None:
    broker = system.broker()  # as it is delivered: no short settings here
    client = system.client(broker.endpoint)
    victim = system.worker(broker.endpoint, concurrency=2)
    jobs = [wait_in(victim, client, n) for n in range(2)]
    others = [system.worker(broker.endpoint) for _ in range(2)]
    victim.kill()
    for other in others:  # one each: a job that lost its worker is delivered alone
        other.expect("run", within=5, attempt=2)
        other.say("go")
    assert [job.result(timeout=10) for job in jobs] == [0, 1]
    assert [causes(job) for job in jobs] == [["worker lost"]] * 2


def test_a_worker_that_only_reconnects_keeps_its_jobs(system: System) -> None:
    broker = system.broker(**QUICK)
    client = system.client(broker.endpoint)
    proxy = system.proxy(broker.endpoint)
    worker = system.worker(proxy.endpoint)
    job = wait_in(worker, client)
    other = system.worker(broker.endpoint)
    for _ in range(3):
        began = time.monotonic()
        proxy.cut()
        eventually(partial(reconnected, client, worker, began))
    let_pass(client, 1)  # longer than any grace
    assert job.status().state == "leased"
    worker.say("go")
    assert job.result(timeout=10) == 0
    assert (job.status().attempts, other.named("run")) == (1, [])


def test_an_outcome_survives_a_cut_connection(system: System) -> None:
    broker = system.broker(grace="5s")
    client = system.client(broker.endpoint)
    proxy = system.proxy(broker.endpoint)
    worker = system.worker(proxy.endpoint)
    job = wait_in(worker, client)
    proxy.go_dark()
    worker.say("go")
    worker.expect("end")  # its ack is on a way that leads nowhere
    proxy.cut()
    proxy.come_back()
    assert job.result(timeout=10) == 0
    assert job.status().attempts == 1


def lose_by_silence(system: System, broker: BrokerProcess, worker: Child, client: Client) -> Child:
    """Another worker gets the job of one that fell silent, and does it."""
    other = system.worker(broker.endpoint)
    other.expect("run", n=0, attempt=2)
    broker.told.expect("worker lost", jobs=1)
    other.say("go")
    other.expect("end")
    return other


def test_a_stopped_worker_loses_its_jobs_and_is_told(system: System) -> None:
    broker = system.broker(**QUICK)
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint)
    job = wait_in(worker, client)
    worker.freeze()
    other = lose_by_silence(system, broker, worker, client)
    worker.thaw()
    worker.expect("lease lost", n=0)
    worker.expect("end", n=0)  # its late outcome
    eventually(lambda: connected_for_ms(client, worker))
    assert job.result(timeout=10) == 0
    assert causes(job) == ["worker lost"]
    assert client.queue("q")["totals"]["done"] == 1
    again = client.send("q", "again")  # it goes on working
    assert again.result(timeout=10) == "again"
    assert len(other.named("run")) + len(worker.named("run")) == 3


def test_a_worker_behind_a_dark_link_loses_its_jobs_and_is_told(system: System) -> None:
    broker = system.broker(**QUICK)
    client = system.client(broker.endpoint)
    proxy = system.proxy(broker.endpoint)
    worker = system.worker(proxy.endpoint)
    job = wait_in(worker, client)
    proxy.go_dark()
    lose_by_silence(system, broker, worker, client)
    proxy.come_back()
    worker.expect("lease lost", n=0)
    assert job.result(timeout=10) == 0
    assert causes(job) == ["worker lost"]


def test_a_wedged_worker_loses_its_jobs_when_their_lease_ends(system: System) -> None:
    broker = system.broker(lease="1s", **QUICK)
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint)
    job = client.send("q", {"do": "wedge", "n": 0})
    worker.expect("run")
    other = system.worker(broker.endpoint)
    assert other.expect("run", attempt=2)["n"] == 0
    assert connected_for_ms(client, worker)  # its connection lives in a thread that needs no interpreter
    assert job.result(timeout=10) == 0
    assert causes(job) == ["lease expired"]


def test_a_lease_is_renewed_for_as_long_as_the_job_runs(system: System) -> None:
    broker = system.broker(lease="1s", **QUICK)
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint, concurrency=2)
    job = wait_in(worker, client)
    let_pass(client, 2.5)
    worker.say("go")
    assert job.result(timeout=10) == 0
    assert job.status().attempts == 1


def stand_still(system: System, broker: BrokerProcess) -> None:
    """The broker is stopped for longer than heartbeats and leases bear, and still is."""
    stopwatch = system.run("stopwatch", ms=2500)
    broker.freeze()
    stopwatch.expect("over")


def test_a_broker_that_stood_still_punishes_nobody(system: System) -> None:
    broker = system.broker(lease="1s", **QUICK)
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint)
    job = wait_in(worker, client)
    stand_still(system, broker)
    broker.thaw()
    broker.told.expect("stalled")
    let_pass(client, 1)
    worker.say("go")
    assert job.result(timeout=10) == 0
    assert (job.status().attempts, len(worker.named("run"))) == (1, 1)


def test_a_broker_that_stood_still_beyond_the_heartbeats_waits_for_its_workers(system: System) -> None:
    broker = system.broker(**{**QUICK, "grace": "0s"})
    client = system.client(broker.endpoint)
    proxy = system.proxy(broker.endpoint)
    worker = system.worker(proxy.endpoint)
    job = wait_in(worker, client)
    stand_still(system, broker)
    proxy.go_dark()
    proxy.cut()  # both ends gave up, and the worker is not back yet when the broker goes on
    broker.thaw()
    broker.told.expect("stalled")
    broker.told.expect("worker silent")
    let_pass(client, 0.5)
    proxy.come_back()
    eventually(lambda: connected_for_ms(client, worker))
    worker.say("go")
    assert job.result(timeout=10) == 0
    assert (job.status().attempts, len(worker.named("run"))) == (1, 1)


def test_a_job_that_kills_its_workers_is_dead_and_takes_no_other_along(system: System) -> None:
    broker = system.broker(poison_losses=3, **QUICK)
    client = system.client(broker.endpoint)
    jobs = client.send_many("q", [{"do": "kill" if n == 2 else "echo", "n": n} for n in range(20)])
    workers = []
    for _ in range(4):
        workers.append(system.run("worker", endpoint=broker.endpoint, queues=["q"], concurrency=5))
        assert workers[-1].wait() == -9
    workers.append(system.worker(broker.endpoint, concurrency=5))
    eventually(lambda: client.queue("q")["totals"]["done"] == 19 and jobs[2].status().is_over)
    status = jobs[2].status()
    assert (status.state, status.reason) == ("dead", "poison")
    runs = [run["n"] for worker in workers for run in worker.named("run")]
    assert runs.count(2) == 4  # once among others, which proves nothing, and three times alone
    assert sum(runs.count(n) for n in range(20) if n != 2) <= 19 + 4
