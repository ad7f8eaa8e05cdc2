"""What outlives a broker: acked jobs stay acked, nacked ones return, lost leases come again, in order."""

from tests.system.processes import Child, eventually
from tests.system.system import System
from zclient.protocol import messages as m


def runs(worker: Child, jobs: int) -> list[tuple[int, int]]:
    """Payload and attempt of its first runs, in order."""
    return [(run["n"], run["attempt"]) for run in worker.reach("run", jobs)]


def test_acked_jobs_stay_acked_and_nacked_ones_return(system: System) -> None:
    broker = system.broker(backoff_min="500ms", backoff_jitter=0)
    client = system.client(broker.endpoint)
    jobs = client.send_many("q", range(6))
    settle = ["ack", "nack", "ack", "reject", "ack", "keep"]
    consumer = system.run("consumer", endpoint=broker.endpoint, queue="q", settle=settle)
    consumer.reach("run", 5)
    eventually(lambda: client.queue("q")["totals"]["done"] == 3)
    consumer.kill()
    broker.kill()
    broker.restart(return_time="200ms")
    assert [jobs[n].status().state for n in (0, 2, 3, 4)] == ["done", "done", "dead", "done"]
    assert jobs[3].status().reason == "rejected"
    worker = system.worker(broker.endpoint, concurrency=1)
    assert [job.result(timeout=10) for job in (jobs[1], jobs[5])] == [1, 5]
    attempts = dict(runs(worker, 2))
    assert attempts[1] > 1
    assert attempts[5] == 1  # a run that was cut off together with the broker is not held against it
    assert client.queue("q")["totals"]["done"] == 5


def test_a_failed_job_keeps_its_place(system: System) -> None:
    broker = system.broker(backoff_min="1ms", backoff_jitter=0)
    jobs = [{"do": "fail_once" if n == 0 else "echo", "n": n} for n in range(3)]
    client = system.client(broker.endpoint)
    handles = client.send_many("q", jobs)
    peer = system.peer(broker.endpoint, queues=["q"], capacity=1)
    first = peer.receive(m.Deliver)
    assert peer.settle(first.fence, m.Outcome.NACK, *first.ids, value={"delay": 0}) == []
    peer.send(m.Goodbye())
    worker = system.worker(broker.endpoint, concurrency=1)
    assert [job.result(timeout=10) for job in handles] == [0, 1, 2]
    assert [n for n, _ in runs(worker, 3)] == [0, 1, 2]


def test_leases_that_ran_out_are_delivered_again_in_order(system: System) -> None:
    broker = system.broker(lease="1s")
    client = system.client(broker.endpoint)
    handles = client.send_many("q", range(5))
    sleeper = system.peer(broker.endpoint, queues=["q"], capacity=5)
    assert len(sleeper.receive(m.Deliver).ids) == 5  # and neither renewed nor settled
    assert len(sleeper.receive(m.Lost).leases[0][1]) == 5
    sleeper.send(m.Goodbye())
    worker = system.worker(broker.endpoint, concurrency=1)
    assert runs(worker, 5) == [(n, 2) for n in range(5)]
    assert [job.result(timeout=10) for job in handles] == list(range(5))
    causes = [[entry["kind"] for entry in job.status().attempt_log] for job in handles]
    assert causes == [["lease expired"]] * 5


def test_a_result_is_waited_for_through_a_restart(system: System) -> None:
    broker = system.broker()
    waiter = system.run("waiter", endpoint=broker.endpoint, queue="q", jobs=3)
    waiter.expect("waiting")
    broker.kill()
    broker.restart()
    system.worker(broker.endpoint)
    assert [waiter.expect("result")["value"] for _ in range(3)] == [0, 1, 2]


def test_workers_keep_what_they_run_over_a_restart(system: System) -> None:
    broker = system.broker(return_time="2s")
    worker = system.worker(broker.endpoint, concurrency=2)
    client = system.client(broker.endpoint)
    jobs = client.send_many("q", [{"do": "wait", "n": n} for n in range(2)])
    worker.reach("run", 2)
    broker.kill()
    broker.restart()
    other = system.worker(broker.endpoint)
    # This job is due when all who could come back had their time.
    late = client.send("q", "late", delay="2500ms")
    assert late.result(timeout=10) == "late"
    assert [job.status().state for job in jobs] == ["leased", "leased"]
    worker.say("go")
    assert [job.result(timeout=10) for job in jobs] == [0, 1]
    assert [job.status().attempts for job in jobs] == [1, 1]
    assert [run["n"] for run in other.named("run")] in (["late"], [])
