"""FIFO groups with real processes: the jobs of a key are done in order, whoever is killed meanwhile."""

from tests.system.ledger import Ledger
from tests.system.processes import eventually
from tests.system.system import System

KEYS = "abcd"
JOBS = 300


def test_jobs_of_a_key_are_done_in_order_through_kills_of_a_worker_and_of_the_broker(system: System) -> None:
    broker = system.broker(key_limit=1, return_time="500ms", max_attempts=100)
    client = system.client(broker.endpoint)
    one, two = (system.worker(broker.endpoint, concurrency=4) for _ in range(2))
    jobs = {key: client.send_many("q", [[key, n] for n in range(JOBS)], key=key) for key in KEYS}
    one.reach("run", 20)
    one.kill()
    two.reach("run", 100)
    assert client.queue("q")["totals"]["done"] < len(KEYS) * JOBS, "they are killed in the middle"
    broker.kill()
    broker.restart()
    three = system.worker(broker.endpoint, concurrency=4)
    eventually(lambda: client.queue("q")["totals"]["done"] == len(KEYS) * JOBS, within=60)
    ledger = Ledger([one, two, three])
    for key in KEYS:
        last = 0
        for n, job in enumerate(jobs[key]):
            assert job.result(timeout=10) == [key, n]
            fences = [run.fence for run in ledger.runs[job.id]]
            assert fences[0] > last, f"job {n} of key {key} began before the one before it was done"
            last = fences[-1]


def test_a_job_that_fails_holds_up_its_own_key_and_no_other(system: System) -> None:
    broker = system.broker(key_limit=1, backoff_min="700ms", backoff_jitter=0)
    client = system.client(broker.endpoint)
    failing = client.send("q", {"do": "fail_once", "n": "a0"}, key="a")
    behind = client.send("q", "a1", key="a")
    other = client.send_many("q", [f"b{n}" for n in range(5)], key="b")
    worker = system.worker(broker.endpoint, concurrency=8)
    assert [job.result(timeout=10) for job in other] == [f"b{n}" for n in range(5)]
    broker.kill()
    broker.restart()
    assert [job.result(timeout=10) for job in (failing, behind)] == ["a0", "a1"]
    ran = [run["n"] for run in worker.reach("run", 8) if run["n"] in ("a0", "a1")]
    assert ran == ["a0", "a0", "a1"]
