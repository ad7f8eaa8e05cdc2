"""Workflows of real processes, of which the broker, workers and senders are killed in the middle."""

import threading

import pytest

from tests.system.ledger import Ledger
from tests.system.processes import eventually
from tests.system.system import System
from tests.system.waiting import begun
from zclient import BrokerUnreachable, Client, NotFound, OutcomeUnknown, Workflow, WorkflowHandle, chord, group, step
from zclient.parts import parts_of
from zclient.protocol import messages as m

LARGE = 60_000
"""Bytes of a payload, of which a part holds five: a workflow of a few hundred jobs is many messages."""

JOBS = 1000


def large(name: str) -> Workflow:
    """A workflow of 200 messages."""
    return chord(group("q", [bytes(LARGE)] * JOBS), step("last")).workflow(name)


def waiting(client: Client) -> int:
    return sum(queue["ready"] + queue["blocked"] for queue in client.queues())


class Sender(threading.Thread):
    """Sends a workflow on a thread of its own, and keeps what came of it."""

    def __init__(self, client: Client, flow: Workflow, timeout: float) -> None:
        super().__init__()
        self.run_of: WorkflowHandle | None = None
        self.error: Exception | None = None
        self._client, self._flow, self._timeout = client, flow, timeout
        self.start()

    def run(self) -> None:
        try:
            self.run_of = self._client.send_workflow(self._flow, timeout=self._timeout)
        except Exception as error:
            self.error = error


def has_begun(client: Client, flow: Workflow) -> bool:
    """Whether a part of it has come, at least."""
    try:
        return flow.id is not None and client.workflow(flow.id).status().jobs > 0
    except NotFound:
        return False


def test_a_chord_over_kills_of_broker_and_worker(system: System) -> None:
    broker = system.broker(grace="200ms", return_time="1s")
    client = system.client(broker.endpoint)
    members = 1000
    flow = Workflow("counted")
    flow.group("parts", "q", [{"do": "echo", "n": n} for n in range(members)])
    flow.step("total", "total", {"do": "total", "n": 0}, after="parts")
    run = client.send_workflow(flow)
    workers = [system.worker(broker.endpoint, "q", "total", concurrency=4) for _ in range(2)]
    begun(workers, 120)
    broker.kill()
    broker.restart()
    begun(workers, 300)
    workers[0].kill()
    begun(workers, 600)
    broker.kill()
    broker.restart()

    results = run.results(timeout=40)
    assert results == {"parts": list(range(members)), "total": sum(range(members))}
    jobs = [*run["parts"].jobs().ids, *run["total"].jobs().ids]
    eventually(lambda: sum(len(worker.named("end")) for worker in workers) >= len(jobs))
    ledger = Ledger(workers)
    ledger.check(jobs, client, {workers[0].pid})
    ends = {job: runs[-1].fence for job, runs in ledger.runs.items()}
    assert max(ends[job] for job in jobs[:-1]) < ledger.runs[jobs[-1]][0].fence


def test_a_broker_that_is_killed_while_a_workflow_comes_has_all_of_it_in_the_end(system: System) -> None:
    broker = system.broker()
    client, watcher = (system.client(broker.endpoint) for _ in range(2))
    flow = large("over a kill")
    sender = Sender(client, flow, 30)
    eventually(lambda: has_begun(watcher, flow))
    broker.kill()
    broker.restart()
    sender.join()
    assert sender.error is None and sender.run_of is not None
    assert sender.run_of.status().jobs == JOBS + 1
    eventually(lambda: waiting(watcher) == JOBS + 1)


def test_nothing_of_a_workflow_runs_whose_sender_was_lost_until_it_is_sent_again(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    flow = large("lost")
    parts = parts_of(flow)
    peer = system.peer(broker.endpoint)
    for number, (plan, groups) in enumerate(parts.bodies[:20], 1):
        peer.send(m.Workflow(number, 1, parts.id, number - 1, len(parts.bodies), plan, groups))
        assert peer.receive(m.Ok).numbers == [number]
    broker.kill()
    broker.restart()
    assert client.workflow(parts.id.decode()).status().state == "coming" and waiting(client) == 0
    run = client.send_workflow(flow, timeout=30)
    assert run.id == parts.id.decode() and run.status().jobs == JOBS + 1
    eventually(lambda: waiting(client) == JOBS + 1)
    other = client.send_workflow(flow.copy(), timeout=30)
    eventually(lambda: waiting(client) == 2 * (JOBS + 1))
    other.cancel()
    assert other.wait(timeout=30).cancelled == JOBS + 1
    assert waiting(client) == JOBS + 1


def test_a_sender_whose_broker_is_gone_says_so_and_may_send_again(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    flow = large("no broker")
    client.send_workflow(step("other"))
    broker.kill()
    with pytest.raises((BrokerUnreachable, OutcomeUnknown)):
        client.send_workflow(flow, timeout=0.2)
    broker.restart()
    run = client.send_workflow(flow, timeout=30)
    assert run.id == flow.id
    eventually(lambda: waiting(client) == JOBS + 2)


def test_the_whole_is_cancelled_and_retried_over_kills_of_the_broker(system: System) -> None:
    broker = system.broker(grace="200ms", return_time="1s")
    client = system.client(broker.endpoint)
    fails = {"do": "nothing of this name", "n": 0}
    flow = Workflow("tried again")
    flow.group("parts", "q", [fails] * 800, max_attempts=1)
    flow.step("last", "q", {"do": "echo", "n": 1}, after="parts")
    run = client.send_workflow(flow)
    worker = system.worker(broker.endpoint, "q", concurrency=4)
    status = run.wait(timeout=40)
    assert (status.state, status.dead) == ("dead", 800)
    worker.kill()
    assert run.retry().count == 800
    broker.kill()
    broker.restart()
    eventually(lambda: run.status().dead == 0)
    eventually(lambda: client.queue("q")["ready"] == 800)
    run.cancel()
    broker.kill()
    broker.restart()
    status = run.wait(timeout=40)
    assert (status.state, status.cancelled, status.steps["last"].state) == ("cancelled", 801, "cancelled")
