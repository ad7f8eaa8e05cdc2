"""Ordinary work: jobs sent, confirmed, spread, done, and their results."""

from collections import Counter

import pytest

from tests.system.processes import eventually
from tests.system.system import System


def test_a_job_is_published_consumed_and_answered(system: System) -> None:
    broker = system.broker()
    worker = system.worker(broker.endpoint)
    job = system.client(broker.endpoint).send("q", {"do": "echo", "n": "hello"})
    assert job.result(timeout=10) == "hello"
    assert worker.expect("run")["attempt"] == 1
    assert job.status().state == "done"


@pytest.mark.parametrize("store", ["rocksdb", "sqlite"])
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_each_job_is_confirmed_when_it_is_on_disk(system: System, durability: str, store: str) -> None:
    broker = system.broker(durability=durability, store=store)
    client = system.client(broker.endpoint)
    jobs = [client.send("q", n) for n in range(20)]
    broker.kill()  # nothing that was confirmed may be in memory only
    broker.restart()
    assert [job.status().payload for job in jobs] == list(range(20))
    assert {job.status().state for job in jobs} == {"ready"}


def test_four_jobs_over_two_workers_are_two_each(system: System) -> None:
    broker = system.broker()
    workers = [system.worker(broker.endpoint, concurrency=4) for _ in range(2)]
    client = system.client(broker.endpoint)
    jobs = client.send_many("q", [{"do": "wait", "n": n} for n in range(4)])
    taken = [[run["n"] for run in worker.reach("run", 2)] for worker in workers]
    assert sorted(map(sorted, taken)) == [[0, 2], [1, 3]]
    for worker in workers:
        worker.say("go")
    assert [job.result(timeout=10) for job in jobs] == [0, 1, 2, 3]


def test_jobs_wait_until_a_worker_comes(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    jobs = client.send_many("q", range(50))
    assert client.queue("q")["ready"] == 50
    worker = system.worker(broker.endpoint, concurrency=1)
    assert [job.result(timeout=10) for job in jobs] == list(range(50))
    assert [run["n"] for run in worker.named("run")] == list(range(50))


def test_several_producers_and_one_worker(system: System) -> None:
    broker = system.broker()
    worker = system.worker(broker.endpoint, concurrency=1)
    names = ["a", "b", "c"]
    producers = [system.run("producer", endpoint=broker.endpoint, queue="q", jobs=30, name=name) for name in names]
    for producer in producers:
        producer.expect("done")
    runs = [run["n"] for run in worker.reach("end", 90)]
    for name in names:  # each producer's jobs in the order in which they were confirmed
        assert [n for who, n in runs if who == name] == list(range(30))


def test_ten_producers_five_workers_and_a_thousand_results(system: System) -> None:
    broker = system.broker()
    workers = [system.worker(broker.endpoint, concurrency=4) for _ in range(5)]
    names = [f"p{n}" for n in range(10)]
    producers = [system.run("producer", endpoint=broker.endpoint, queue="q", jobs=100, name=name) for name in names]
    sent: dict[str, list[object]] = {}
    for producer in producers:
        producer.expect("done")
        sent |= {event["job"]: event["n"] for event in producer.named("confirmed")}
    assert len(sent) == 1000
    client = system.client(broker.endpoint)
    results = {job: client.result(job, timeout=20) for job in sent}
    assert results == sent
    assert len({tuple(result) for result in results.values()}) == 1000
    eventually(lambda: sum(len(worker.named("end")) for worker in workers) == 1000)
    runs = Counter(run["job"] for worker in workers for run in worker.named("run"))
    assert set(runs.values()) == {1}
    assert all(worker.named("run") for worker in workers)
