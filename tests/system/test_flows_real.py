"""A group of jobs with a callback, over kills of the broker and of a worker while it is stored and while it runs."""

import msgpack

from tests.core.flows import Step, W, job, messages_of
from tests.system.ledger import Ledger
from tests.system.peer import Peer
from tests.system.processes import eventually
from tests.system.system import System
from tests.system.waiting import begun
from zclient.protocol import messages as m
from zclient.protocol.plans import step_id

JOBS = 3_000
FLOW = [Step("many", JOBS), Step("callback", 1, "many", single=True)]


def parts() -> list[m.Workflow]:
    """The messages of the workflow; each job returns its own number."""
    made = []
    for part in messages_of(FLOW):
        groups = []
        for group in part.groups:
            numbers = [int(identifier[25:], 16) for identifier in group.ids]
            groups.append(group._replace(payloads=[msgpack.packb({"do": "echo", "n": n}) for n in numbers]))
        made.append(part._replace(groups=groups))
    return made


def send(peer: Peer, *messages: m.Workflow) -> None:
    for message in messages:
        number = peer.number()
        peer.send(message._replace(number=number, low=number))
        assert number in peer.receive(m.Ok).numbers


def test_a_callback_comes_once_over_kills(system: System) -> None:
    broker = system.broker(grace="200ms", return_time="1s")
    peer = system.peer(broker.endpoint)
    *first, last = parts()
    send(peer, *first)
    broker.kill()  # all but the last part came: nothing of it may run
    broker.restart()
    peer.reconnect()
    peer.hello()
    workers = [system.worker(broker.endpoint, "q", concurrency=4) for _ in range(2)]
    assert peer.ask("workflow", id=W.encode())["state"] == "coming"
    number = peer.number()
    peer.send(last._replace(number=number, low=number))
    begun(workers, 1)  # its jobs are being stored
    broker.kill()
    broker.restart()
    peer.reconnect()
    peer.hello()
    begun(workers, 300)
    workers[0].kill()
    workers.append(system.worker(broker.endpoint, "q", concurrency=4))
    begun(workers, 1_000)
    broker.kill()
    broker.restart()
    peer.reconnect()
    peer.hello()
    eventually(lambda: peer.ask("workflow", id=W.encode())["state"] == "done", within=40)

    results: list[int] = []
    after = b""
    while page := peer.ask("results", id=step_id(W.encode(), 0), after=after):
        assert all(state == "done" for _, state, _ in page)
        results += [msgpack.unpackb(result) for _, _, result in page]
        after = page[-1][0]
    assert results == list(range(JOBS))
    ids = [job(0, n) for n in range(JOBS)]
    eventually(lambda: sum(len(worker.named("end")) for worker in workers) >= JOBS + 1)
    ledger = Ledger(workers)
    ledger.check([*ids, job(1)], system.client(broker.endpoint), {workers[0].pid})
    assert len(ledger.runs) == JOBS + 1
    began = ledger.runs[job(1)][0].fence
    assert all(ledger.runs[identifier][-1].fence < began for identifier in ids)
