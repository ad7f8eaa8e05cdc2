"""At most once, and at most one: with real processes that are killed, by what the workers and producers told."""

from collections import Counter

from tests.system.processes import Child, eventually
from tests.system.system import System
from zclient import Client

JOBS = 200
FIRST, SECOND = range(60, 64), range(130, 134)
"""Jobs that fill a worker of four slots and stay there, until it is killed."""


def ends(client: Client, queue: str) -> bool:
    """Whether every job of the queue is over."""
    return not any(client.queue(queue)[state] for state in ("ready", "scheduled", "leased"))


def runs_of(workers: list[Child]) -> Counter[str]:
    """How often each job began, by what the workers wrote before they ran it."""
    return Counter(event["job"] for worker in workers for event in worker.named("run"))


def test_no_job_runs_twice_where_workers_and_broker_are_killed(system: System) -> None:
    broker = system.broker(durability="os", grace="200ms", return_time="1s")
    client = system.client(broker.endpoint)
    client.set_queue("q", delivery="at_most_once")
    payloads = [{"do": "wait" if n in (*FIRST, *SECOND) else "echo", "n": n} for n in range(JOBS)]
    jobs = client.send_many("q", payloads)
    workers = [system.worker(broker.endpoint, concurrency=4)]
    for n in FIRST:
        workers[0].expect("run", n=n)
    workers[0].kill()
    workers.append(system.worker(broker.endpoint, concurrency=4))
    for n in SECOND:
        workers[1].expect("run", n=n)
    broker.kill()
    workers[1].kill()  # it does not come back: what it had may have run
    broker.restart()
    workers += [system.worker(broker.endpoint, concurrency=4) for _ in range(2)]
    eventually(lambda: ends(client, "q"), 40)

    eventually(lambda: len(runs_of(workers)) == JOBS)
    assert set(runs_of(workers).values()) == {1}, "no job began twice"
    lost = {dead.id: dead.reason for dead in client.dead("q", limit=None)}
    assert lost == {jobs[n].id: "lost" for n in (*FIRST, *SECOND)}
    assert client.queue("q")["totals"]["done"] == JOBS - len(lost)


def test_of_one_unique_text_exactly_one_job_runs(system: System) -> None:
    broker = system.broker(durability="os")
    client = system.client(broker.endpoint)

    def send(name: str, jobs: int) -> Child:
        return system.run("producer", endpoint=broker.endpoint, queue="q", jobs=jobs, name=name, unique="the one")

    victim, *others = (send(name, jobs) for name, jobs in (("victim", 10**9), ("b", 150), ("c", 150), ("d", 150)))
    victim.reach("confirmed", 30)
    victim.kill()
    others[0].reach("confirmed", 30)
    broker.kill()  # whose answers were on their way sends again
    broker.restart()
    others.append(send("again", 50))
    for producer in others:
        producer.expect("done", 40)
        assert not producer.named("failed")

    told = [event["job"] for producer in (victim, *others) for event in producer.named("confirmed")]
    assert len(told) >= 530 and len(set(told)) == 1, "every answer names the same job"
    worker = system.worker(broker.endpoint, concurrency=4)
    eventually(lambda: ends(client, "q"))
    worker.expect("end")
    assert runs_of([worker]) == {told[0]: 1}
    totals = client.queue("q")["totals"]
    assert (totals["put"], totals["done"]) == (1, 1)
    assert client.send("q", "next", unique="the one").result(timeout=20) == "next", "and the text is free again"
