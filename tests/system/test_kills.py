"""kill -9 of a worker, of the broker, of a client, each under load: no confirmed job is lost, none repeated idly."""

import subprocess
import sys

from tests.system.ledger import Ledger, confirmed_of
from tests.system.processes import ROOT, eventually
from tests.system.system import System
from zclient import Client

JOBS = 1500


def await_empty(client: Client, queue: str = "q") -> None:
    """Until every job of the queue is over."""
    eventually(lambda: not any(client.queue(queue)[state] for state in ("ready", "scheduled", "leased")), 40)


def test_a_killed_worker_under_load(system: System) -> None:
    broker = system.broker()
    workers = [system.worker(broker.endpoint, concurrency=4) for _ in range(3)]
    producer = system.run("producer", endpoint=broker.endpoint, queue="q", jobs=JOBS)
    killed = set()
    for victim, runs in ((workers[0], 100), (workers[1], 200)):
        victim.reach("run", runs)
        victim.kill()
        killed.add(victim.pid)
        workers.append(system.worker(broker.endpoint, concurrency=4))
    producer.expect("done", 40)
    client = system.client(broker.endpoint)
    await_empty(client)
    ledger = Ledger(workers)
    ledger.check(confirmed_of([producer]), client, killed)
    assert len(ledger.runs) == JOBS
    assert len(ledger.burnt()) <= 8  # four slots each


def test_a_killed_broker_under_load(system: System) -> None:
    broker = system.broker()
    workers = [system.worker(broker.endpoint, concurrency=4) for _ in range(2)]
    producers = [
        system.run("producer", endpoint=broker.endpoint, queue="q", jobs=JOBS // 2, name=name) for name in "ab"
    ]
    for runs in (100, 250, 400):
        workers[0].reach("run", runs)
        broker.kill()
        broker.restart()
    for producer in producers:
        producer.expect("done", 40)
    client = system.client(broker.endpoint)
    await_empty(client)
    confirmed = confirmed_of(producers)
    assert len(confirmed) == JOBS
    eventually(lambda: sum(len(worker.named("end")) for worker in workers) >= JOBS)
    ledger = Ledger(workers)
    ledger.check(confirmed, client)
    assert not ledger.burnt()  # the workers came back and named what they ran
    assert len(ledger.runs) == JOBS  # and no resend was stored twice
    broker.kill()
    command = [sys.executable, "-m", "zbroker", "check", str(broker.data)]
    check = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert (check.returncode, check.stdout.splitlines()[-1]) == (0, "faults: none"), check.stdout


def test_a_killed_client_under_load(system: System) -> None:
    broker = system.broker()
    workers = [system.worker(broker.endpoint, concurrency=4) for _ in range(2)]
    victim, witness = (
        system.run("producer", endpoint=broker.endpoint, queue="q", jobs=jobs, name=name)
        for name, jobs in (("victim", 10**9), ("witness", JOBS // 2))
    )
    victim.reach("confirmed", JOBS // 2)
    victim.kill()
    witness.expect("done", 40)
    client = system.client(broker.endpoint)
    await_empty(client)
    confirmed = confirmed_of([victim, witness])
    ledger = Ledger(workers)
    ledger.check(confirmed, client)
    assert 0 <= len(ledger.runs) - len(confirmed) <= 1  # the one whose confirmation the victim did not live to tell


def test_everything_is_killed_at_once(system: System) -> None:
    broker = system.broker(return_time="300ms")
    workers = [system.worker(broker.endpoint, concurrency=4) for _ in range(2)]
    producer = system.run("producer", endpoint=broker.endpoint, queue="q", jobs=10**9)
    producer.reach("confirmed", 500)
    victims = [broker, *workers, producer]
    for victim in victims:
        victim.process.kill()
    for victim in victims:
        victim.wait()
    broker.restart()
    second = [system.worker(broker.endpoint, concurrency=4) for _ in range(2)]
    client = system.client(broker.endpoint)
    await_empty(client)
    ledger = Ledger([*workers, *second])
    ledger.check(confirmed_of([producer]), client, {worker.pid for worker in workers})
    assert not ledger.burnt()  # whoever fails with the broker is not known to have failed by itself
