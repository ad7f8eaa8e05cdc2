"""What takes a while is interrupted, again and again, and goes on: nothing is lost, and nothing is done twice."""

import threading
from collections import Counter

import pytest

from tests.system.processes import eventually
from tests.system.system import System
from zclient import Client

JOBS = 20_000


def test_many_jobs_are_sent_over_a_link_that_is_cut_again_and_again(system: System) -> None:
    broker = system.broker()
    proxy = system.proxy(broker.endpoint)
    client = system.client(proxy.endpoint, timeout=60)
    confirmed: list[int] = []

    def cut_now_and_then(jobs: int) -> None:
        if jobs // 2000 > len(confirmed):
            confirmed.append(jobs)
            proxy.cut()

    jobs = client.send_many("q", (n for n in range(JOBS)), batch=100, progress=cut_now_and_then)
    assert len(confirmed) >= 5
    direct = system.client(broker.endpoint)
    assert direct.queue("q")["totals"]["put"] == JOBS
    assert [job.payload_bytes for job in map(direct.get, jobs.ids[:: JOBS // 50])]
    seen = Counter(job.id for job in direct.jobs("q", limit=None))
    assert len(seen) == JOBS
    assert set(seen) == set(jobs.ids)


def test_many_jobs_are_sent_to_a_broker_that_is_killed_again_and_again(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint, timeout=60)
    killing = threading.Semaphore(0)
    over = threading.Event()

    def kill() -> None:
        while True:
            killing.acquire()
            if over.is_set():
                return
            broker.kill()
            broker.restart()

    thread = threading.Thread(target=kill)
    thread.start()
    marks = iter(range(JOBS // 6, JOBS, JOBS // 6))
    due = [next(marks)]

    def progress(jobs: int) -> None:
        if due and jobs >= due[0]:
            due[:] = [mark for mark in [next(marks, 0)] if mark]
            killing.release()

    try:
        jobs = client.send_many("q", (n for n in range(JOBS)), batch=50, progress=progress)
    finally:
        over.set()
        killing.release()
        thread.join()
    assert broker.told.all[0]["epoch"] >= 3
    assert {job.id for job in client.jobs("q", limit=None)} == set(jobs.ids)
    assert client.queue("q")["totals"]["put"] == JOBS


@pytest.mark.parametrize("order", ["replay", "drop", "purge"])
def test_a_long_order_goes_on_after_a_kill(system: System, order: str) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint, timeout=30)
    client.send_many("q", [None] * JOBS)
    if order != "purge":
        consumer = system.run(
            "consumer", endpoint=broker.endpoint, queue="q", settle=["reject"], credit=500, quiet=True
        )
        eventually(lambda: client.queue("q")["dead"] == JOBS)
        assert consumer.finish() == 0
        getattr(client, order)(queue="q")
    else:
        client.purge("q")
    client.send("q", "younger")  # not part of it
    for _ in range(3):
        broker.kill()
        broker.restart()
    eventually(lambda: client.stats()["slow_work"] == 0)
    counts = client.queue("q")
    assert (counts["ready"], counts["dead"]) == ((JOBS + 1, 0) if order == "replay" else (1, 0))
    assert sum(1 for _ in client.jobs("q", limit=None)) == counts["ready"]


def test_many_jobs_fall_due_at_once_while_the_broker_is_killed(system: System) -> None:
    broker = system.broker(return_time="200ms")
    client = system.client(broker.endpoint, timeout=30)
    client.send_many("q", (n for n in range(JOBS)), delay=1.0)
    assert client.queue("q")["scheduled"] > 0
    for _ in range(3):
        eventually(lambda: client.queue("q")["ready"])
        broker.kill()
        broker.restart()
    consumer = system.run("consumer", endpoint=broker.endpoint, queue="q", settle=["ack"], credit=1000)
    eventually(lambda: client.queue("q")["totals"]["done"] == JOBS, 60)
    counts = Counter(run["n"] for run in consumer.named("run"))
    assert len(counts) == JOBS
    assert set(counts.values()) == {1}


def test_a_crowd_waits_for_results_while_the_broker_is_killed(system: System) -> None:
    broker = system.broker()
    payload = {"do": "echo", "n": 1}
    crowd = system.run("crowd", endpoint=broker.endpoint, queue="q", payload=payload, jobs=2000)
    crowd.expect("waiting")
    worker = system.worker(broker.endpoint, concurrency=8)
    for runs in (200, 800, 1400):
        worker.reach("run", runs)
        broker.kill()
        broker.restart()
    assert crowd.expect("results", within=60)["jobs"] == 2000
    assert set(Counter(run["job"] for run in worker.named("run")).values()) == {1}


def leased(client: Client, queue: str) -> int:
    return int(client.queue(queue)["leased"])


def test_a_consumer_goes_on_over_a_link_that_is_cut_again_and_again(system: System) -> None:
    broker = system.broker(grace="5s")
    client = system.client(broker.endpoint)
    client.send_many("q", (n for n in range(3000)))
    proxy = system.proxy(broker.endpoint)
    consumer = system.run("consumer", endpoint=proxy.endpoint, queue="q", settle=["ack"], credit=50)
    for runs in range(200, 2800, 400):
        consumer.reach("run", runs)
        proxy.cut()
    eventually(lambda: client.queue("q")["totals"]["done"] == 3000, 40)
    assert leased(client, "q") == 0
    counts = Counter(run["n"] for run in consumer.named("run"))
    assert (len(counts), set(counts.values())) == (3000, {1})
