"""A graph of jobs with real processes, of which the broker and a worker are killed in the middle."""

from tests.system.ledger import Ledger
from tests.system.processes import eventually
from tests.system.system import System
from tests.system.waiting import begun
from zbroker.check import check_directory

SIDES = 300
SPAN = 3
"""Parents of each job in the second row of the diamond."""


def test_a_diamond_over_kills_of_broker_and_worker(system: System) -> None:
    broker = system.broker(grace="200ms", return_time="1s")
    client = system.client(broker.endpoint)
    count = {"do": "count", "n": 0}
    top = client.send("q", count)
    first = client.send_many("q", [count] * SIDES, after=top)
    second = [client.send("q", count, after=[first[(n + step) % SIDES] for step in range(SPAN)]) for n in range(SIDES)]
    eventually(lambda: client.queue("q")["blocked"] == 2 * SIDES)
    end = client.send("end", count, after=second)
    workers = [system.worker(broker.endpoint, "q", "end", concurrency=4) for _ in range(3)]
    begun(workers, 80)
    broker.kill()
    broker.restart()
    begun(workers, 200)
    workers[0].kill()
    begun(workers, 400)
    broker.kill()
    broker.restart()

    # Each job counts itself and what its parents counted: all of it is there only if each was done before its children.
    assert end.result(timeout=40) == 1 + SIDES * (1 + SPAN * 2)
    jobs = [top, *first, *second, end]
    eventually(lambda: sum(len(worker.named("end")) for worker in workers) >= len(jobs))
    ledger = Ledger(workers)
    ledger.check([job.id for job in jobs], client, {workers[0].pid})
    assert len(ledger.runs) == len(jobs)
    last = {job: runs[-1].fence for job, runs in ledger.runs.items()}
    began = {job: runs[0].fence for job, runs in ledger.runs.items()}
    assert all(last[top.id] < began[job.id] for job in first)
    for n, job in enumerate(second):
        assert max(last[first[(n + step) % SIDES].id] for step in range(SPAN)) < began[job.id]
    assert max(last[job.id] for job in second) < began[end.id]
    broker.kill()
    assert check_directory(broker.data).counts["rows in edges"] == 0
