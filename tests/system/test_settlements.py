"""Late settlements are refused and their worker is told; repeated ones are answered as the first time."""

import pytest

from tests.system.peer import Peer
from tests.system.processes import BrokerProcess
from tests.system.system import System
from zclient.protocol import messages as m
from zclient.protocol.messages import Outcome

ERROR = {"type": "Broken", "text": "no"}


def take(peer: Peer, broker: BrokerProcess) -> tuple[int, bytes]:
    """Fence and id of the one job that comes."""
    delivery = peer.receive(m.Deliver)
    assert len(delivery.ids) == 1
    return delivery.fence, delivery.ids[0]


def test_a_late_settlement_is_refused_and_changes_nothing(system: System) -> None:
    broker = system.broker(lease="1s")
    late = system.peer(broker.endpoint, queues=["q"], capacity=1)
    late.put("q", "a")
    first = take(late, broker)
    lost = late.receive(m.Lost)
    assert lost.leases == [(first[0], [first[1]])]
    assert "expired" in lost.reason
    other = system.peer(broker.endpoint, queues=["q"], capacity=1)
    second = take(other, broker)  # the first worker gets nothing until it said that it is there
    assert second[0] > first[0]
    for outcome, value in ((Outcome.ACK, b"late"), (Outcome.NACK, ERROR), (Outcome.RELEASE, None)):
        assert late.settle(first[0], outcome, first[1], value=value) == [[first[0], first[1], "lost"]]
    assert other.settle(second[0], Outcome.ACK, second[1], value=b"in time") == []
    assert late.settle(first[0], Outcome.ACK, first[1], value=b"late") == [[first[0], first[1], "lost"]]
    assert other.ask("show", id=b"a")["result"] == b"in time"


def test_a_worker_hears_at_its_return_what_it_has_lost(system: System) -> None:
    broker = system.broker(lease="1s")
    peer = system.peer(broker.endpoint, queues=["q"], capacity=2)
    peer.put("q", "a", "b")
    delivery = peer.receive(m.Deliver)
    peer.receive(m.Lost)
    peer.receive(m.Who)
    system.peer(broker.endpoint, queues=["q"], capacity=1)  # takes one of them
    held = [m.Held(delivery.fence, delivery.ids[:1], delivery.ids[1:])]
    welcome = peer.hello(queues=["q"], capacity=2, held=held)
    assert welcome.lost == [(delivery.fence, delivery.ids)]
    peer.receive(m.Deliver)  # and now that it is there, it gets work again


@pytest.mark.parametrize(
    ("outcome", "value", "state"),
    [
        (Outcome.ACK, b"result", "done"),
        (Outcome.NACK, {**ERROR, "delay": 3_600_000}, "scheduled"),
        (Outcome.REJECT, ERROR, "dead"),
        (Outcome.RELEASE, None, "ready"),
        (Outcome.SNOOZE, 3_600_000, "scheduled"),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Outcome) else "",
)
def test_a_repeated_settlement_is_answered_as_the_first_time(
    system: System, outcome: Outcome, value: object, state: str
) -> None:
    broker = system.broker()
    peer = system.peer(broker.endpoint, queues=["q"], capacity=1)
    peer.put("q", "a")
    fence, identifier = take(peer, broker)
    peer.send(m.Capacity(0))
    for _ in range(3):
        assert peer.settle(fence, outcome, identifier, value=value) == []
    broker.kill()
    broker.restart()
    again = system.adopt(Peer(broker.endpoint, peer.incarnation))
    again.hello()
    again.ask("stats")
    assert again.settle(fence, outcome, identifier, value=value) == []
    assert again.ask("show", id=identifier)["state"] == state
    assert again.ask("show", id=identifier)["attempt"] == (0 if outcome in (Outcome.RELEASE, Outcome.SNOOZE) else 1)
    different = Outcome.REJECT if outcome == Outcome.ACK else Outcome.ACK
    assert again.settle(fence, different, identifier, value=ERROR if different == Outcome.REJECT else None) == [
        [fence, identifier, "lost"]
    ]


def test_a_settlement_of_a_job_long_gone_is_neutral(system: System) -> None:
    broker = system.broker(keep_done_count=0)
    peer = system.peer(broker.endpoint, queues=["q"], capacity=1)
    peer.put("q", "a")
    fence, identifier = take(peer, broker)
    assert peer.settle(fence, Outcome.ACK, identifier) == []
    assert peer.settle(fence, Outcome.ACK, identifier) == [[fence, identifier, "unknown"]]


def test_an_extended_lease_lasts(system: System) -> None:
    broker = system.broker(lease="1s")
    client = system.client(broker.endpoint)
    peer = system.peer(broker.endpoint, queues=["q"], capacity=1)
    peer.put("q", "a")
    fence, identifier = take(peer, broker)
    peer.send(m.Extend(peer.number(), fence, identifier, 60_000))
    peer.receive(m.Ok)
    client.send("clock", delay=1.5)
    clock = system.peer(broker.endpoint, queues=["clock"], capacity=1)
    clock.receive(m.Deliver)
    assert peer.settle(fence, Outcome.ACK, identifier) == []
    assert client.get("a").attempts == 1
