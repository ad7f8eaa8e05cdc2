"""The links between hosts fail: they go down and come up, go dark and come back, or are slow.

Short settings; what the rules are stands in ``docs/operating.md``, "When a worker is lost".
"""

from typing import Any

import pytest

from tests.hosts.conftest import OrSkip
from tests.hosts.lab import Lab
from tests.system.ledger import Ledger, confirmed_of
from tests.system.processes import Child, eventually
from tests.system.waiting import causes, let_pass, wait_in
from zclient import Client

QUICK: dict[str, Any] = {"heartbeat_interval": "200ms", "heartbeat_timeout": "800ms", "grace": "300ms"}


def test_a_worker_whose_link_was_down_for_a_moment_keeps_its_jobs(lab: Lab) -> None:
    broker, client = lab.serve(**QUICK | {"heartbeat_timeout": "1500ms"})
    worker = lab.worker_on(lab.one, broker.endpoints[0])
    job = wait_in(worker, client)
    other = lab.worker_on(lab.two, broker.endpoints[0])
    lab.one.link.down()
    let_pass(client, 0.3)
    lab.one.link.up()
    let_pass(client, 2)  # longer than timeout and grace
    assert job.status().state == "leased"
    worker.say("go")
    assert job.result(timeout=10) == 0
    assert (job.status().attempts, other.named("run")) == (1, [])


@pytest.mark.parametrize("fault", ["down", "dark"])
def test_a_worker_whose_link_stays_away_loses_its_jobs_and_is_told(lab: Lab, fault: str) -> None:
    broker, client = lab.serve(**QUICK)
    worker = lab.worker_on(lab.one, broker.endpoints[0])
    job = wait_in(worker, client)
    other = lab.worker_on(lab.two, broker.endpoints[0])
    link = lab.one.link
    link.down() if fault == "down" else link.go_dark()
    silent = broker.told.expect("worker silent")
    lost = broker.told.expect("worker lost")
    assert (silent["jobs"], lost["jobs"]) == (1, 1)
    assert other.expect("run", attempt=2)["n"] == 0
    assert worker.named("lease lost") == []  # nobody could tell it
    link.up() if fault == "down" else link.come_back()
    worker.expect("lease lost", n=0)
    other.say("go")
    assert job.result(timeout=10) == 0
    assert causes(job) == ["worker lost"]


def test_an_outcome_that_comes_too_late_is_refused(lab: Lab) -> None:
    broker, client = lab.serve(**QUICK)
    worker = lab.worker_on(lab.one, broker.endpoints[0])
    job = wait_in(worker, client)
    other = lab.worker_on(lab.two, broker.endpoints[0])
    lab.one.link.go_dark()
    worker.say("go")
    worker.expect("end")  # it is done, and can tell nobody
    fence = other.expect("run", attempt=2)["fence"]
    lab.one.link.come_back()
    eventually(lambda: "settlements came too late" in worker.log.read_text())
    assert (job.status().state, job.status().fence) == ("leased", fence)
    other.say("go")
    assert job.result(timeout=10) == 0
    assert (job.status().fence, causes(job)) == (fence, ["worker lost"])


def test_on_a_slow_link_everything_is_done_once(lab: Lab, or_skip: OrSkip) -> None:
    """A worker that asks for far more at once than its link carries in the time after which a host counts as silent."""
    with or_skip():
        lab.one.link.slow("2mbit", queue="300ms")
    broker, client = lab.serve(**QUICK | {"heartbeat_timeout": "3s"})
    worker = lab.worker_on(lab.one, broker.endpoints[0], concurrency=30)
    jobs = client.send_many("q", [{"do": "echo", "n": n, "ballast": "x" * 40_000} for n in range(30)])
    assert [job.result(timeout=30) for job in jobs] == list(range(30))
    assert [run["attempt"] for run in worker.named("run")] == [1] * 30
    assert broker.told.named("worker silent") == []
    assert "connection lost" not in worker.log.read_text()


def produce(lab: Lab, endpoint: str, jobs: int) -> Child:
    """A producer on its host, in the middle of sending them one by one."""
    producer = lab.run_on(lab.client_host, "producer", endpoint=endpoint, queue="q", jobs=jobs)
    producer.reach("confirmed", jobs // 10)
    return producer


def test_the_brokers_link_is_down_for_a_moment_and_nothing_runs_twice(lab: Lab) -> None:
    broker, client = lab.serve(**QUICK | {"heartbeat_timeout": "1500ms"})
    workers = [lab.worker_on(host, broker.endpoints[0], concurrency=2) for host in (lab.one, lab.two)]
    producer = produce(lab, broker.endpoints[0], 1000)
    lab.broker_host.link.down()
    let_pass(client, 0.3)
    assert producer.named("done") == []  # it is cut off in the middle
    lab.broker_host.link.up()
    check_all_done(producer, workers, client, 1000)


def test_the_brokers_link_is_down_for_long_and_nothing_confirmed_is_lost(lab: Lab) -> None:
    broker, client = lab.serve(**QUICK)
    workers = [lab.worker_on(host, broker.endpoints[0], concurrency=2) for host in (lab.one, lab.two)]
    producer = produce(lab, broker.endpoints[0], 1000)
    lab.broker_host.link.down()
    eventually(lambda: client.workers() == [])
    assert producer.named("done") == []
    lab.broker_host.link.up()
    check_all_done(producer, workers, client, 1000, lost=[worker.pid for worker in workers])


def check_all_done(producer: Child, workers: list[Child], client: Client, jobs: int, lost: Any = ()) -> None:
    """Each was confirmed, is one job, and was done; only the runs of workers that were ``lost`` may be repeated."""
    producer.expect("done", within=40)
    confirmed = confirmed_of([producer])
    assert sorted(confirmed.values()) == list(range(jobs))
    eventually(lambda: client.queue("q")["totals"]["done"] == jobs)
    eventually(lambda: confirmed.keys() <= {event["job"] for worker in workers for event in worker.named("end")})
    ledger = Ledger(workers)
    assert ledger.runs.keys() == confirmed.keys()
    ledger.check(confirmed, client, killed=lost)


def test_a_worker_goes_on_over_the_brokers_other_address(lab: Lab) -> None:
    broker, client = lab.serve(**QUICK | {"grace": "20s"})
    worker = lab.worker_on(lab.one, *broker.endpoints)
    job = wait_in(worker, client)
    other = lab.worker_on(lab.two, broker.endpoints[1])
    let_pass(client, 0.5)  # until heartbeats flow: the broker's tell the worker how soon it should miss them
    lab.broker_host.links[0].go_dark()
    eventually(lambda: "connection lost" in worker.log.read_text())
    worker.say("go")
    assert job.result(timeout=20) == 0  # told over the other address
    assert (job.status().attempts, other.named("run")) == (1, [])
