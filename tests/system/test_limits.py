"""At a limit there is a typed refusal, nothing of what was refused is kept, and the next request is judged afresh."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.peer import Peer
from tests.system.processes import BrokerProcess
from tests.system.system import System
from zclient import Client, DuplicateId, InvalidArgument, NotFound, PayloadTooLarge, TooManyPeers
from zclient.protocol import limits
from zclient.protocol import messages as m


@pytest.fixture
def broker(system: System) -> BrokerProcess:
    return system.broker(max_payload="100KiB")


@pytest.fixture
def client(system: System, broker: BrokerProcess) -> Iterator[Client]:
    client = system.client(broker.endpoint)
    client.send("q", "before")
    yield client
    client.send("q", "after")
    assert client.queue("q")["ready"] == 2  # and nothing of what was refused


@pytest.fixture
def peer(system: System, broker: BrokerProcess, client: Client) -> Peer:
    return system.peer(broker.endpoint)


def refusal(peer: Peer, message: m.Message) -> m.Failure:
    peer.send(message)
    return peer.receive(m.Failure)


def put(peer: Peer, *ids: str, queue: str = "q", options: dict[str, Any] | None = None, size: int = 1) -> m.Put:
    group = m.Group(queue, options or {}, [identifier.encode() for identifier in ids], [b"\0" * size] * len(ids))
    number = peer.number()
    return m.Put(number, number, [group])


def test_a_payload(client: Client) -> None:
    client.send("other", "x" * (100 * 1024 - 5))  # encoded, it is exactly as large as may be
    with pytest.raises(PayloadTooLarge, match="102400") as refusal:
        client.send("q", "x" * 100 * 1024)
    assert refusal.value.exit_code == 4


def test_a_payload_among_many(client: Client) -> None:
    sizes = [10] * 500 + [101 * 1024] + [10] * 500
    with pytest.raises(PayloadTooLarge) as refusal:
        client.send_many("other", (b"x" * size for size in sizes), batch=100)
    # Batches do not wait for each other: the error tells which were stored, and those only are.
    assert client.queue("other")["ready"] == len(refusal.value.confirmed) < 1001
    assert {job.id for job in client.jobs("other", limit=None)} == set(refusal.value.confirmed)
    assert len(refusal.value.unknown) == 0


def test_a_batch_of_jobs(peer: Peer) -> None:
    assert refusal(peer, put(peer, *[f"j{n}" for n in range(limits.MAX_BATCH_JOBS + 1)])).code == "batch_too_large"


def test_a_batch_of_bytes(peer: Peer) -> None:
    ids = [f"j{n}" for n in range(limits.MAX_BATCH_BYTES // 100_000 + 1)]
    assert refusal(peer, put(peer, *ids, size=100_000)).code == "batch_too_large"


def test_headers(client: Client) -> None:
    with pytest.raises((PayloadTooLarge, InvalidArgument), match="8192"):
        client.send("q", 1, headers={"trace": "x" * 8192})


def test_headers_on_the_wire(peer: Peer) -> None:
    assert refusal(peer, put(peer, "a", options={"headers": {"trace": "x" * 8192}})).code == "too_large"
    assert refusal(peer, put(peer, "a", options={"headers": {"trace": ["no", "text"]}})).code == "invalid"


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 101},
        {"priority": True},
        {"key": "k" * 257},
        {"key": "nul\0"},
        {"delay": -1},
        {"delay": limits.MAX_DELAY_MS + 1},
        {"delay": 1, "at": 1},
        {"max_attempts": 0},
        {"unheard_of": 1},
        {"ttl": "1h"},
    ],
    ids=lambda options: "-".join(f"{name}" for name in options),
)
def test_options(peer: Peer, options: dict[str, Any]) -> None:
    told = refusal(peer, put(peer, "a", options=options))
    assert told.code == "invalid"
    assert any(name in told.text for name in options) or "ten years" in told.text


@pytest.mark.parametrize("queue", ["", "-x", "a b", "q" * 129, "mmi.service", "titanic.request", "q\0", "ü"])
def test_queue_names(peer: Peer, queue: str) -> None:
    assert refusal(peer, put(peer, "a", queue=queue)).code == "invalid"
    hello = m.Hello(limits.PROTOCOL_VERSION, b"another worker..", "", 1, [queue], [], 0, {})
    assert refusal(peer, hello).code == "invalid"


@pytest.mark.parametrize("identifier", ["tab\t", "nul\0", " ", "line\n"])
def test_ids(peer: Peer, identifier: str) -> None:
    assert refusal(peer, put(peer, identifier)).code == "invalid"


def test_an_id_that_is_taken(client: Client) -> None:
    first = client.send("other", 1, id="order-17")
    assert client.send("other", 1, id="order-17") == first  # the same job
    for queue, payload, priority in (("other", 2, None), ("third", 1, None), ("other", 1, 1)):
        with pytest.raises(DuplicateId, match="order-17"):
            client.send(queue, payload, id="order-17", priority=priority)
    assert client.queue("other")["ready"] == 1


def test_the_same_id_twice_in_one_batch(peer: Peer) -> None:
    assert refusal(peer, put(peer, "a", "b", "a")).code == "invalid"


def test_a_result(system: System, broker: BrokerProcess, client: Client) -> None:
    peer = system.peer(broker.endpoint, queues=["large"], capacity=1)
    peer.put("large", "a")
    delivery = peer.receive(m.Deliver)
    refused = peer.settle(delivery.fence, m.Outcome.ACK, b"a", value=b"x" * (100 * 1024 + 1))
    assert refused == [[delivery.fence, b"a", "too_large"]]
    assert client.get("a").state == "leased"  # still held, for another outcome
    assert peer.settle(delivery.fence, m.Outcome.REJECT, b"a", value={"text": "too much"}) == []


def test_a_result_of_a_worker(system: System, broker: BrokerProcess, client: Client) -> None:
    system.worker(broker.endpoint, "large")
    job = client.send("large", {"do": "large_result", "n": 200_000})
    with pytest.raises(Exception, match="102400"):
        job.result(timeout=10)
    assert job.status().attempts == 1  # another run would give the same


def test_peers(system: System) -> None:
    broker = system.broker("narrow", max_peers=3)
    peers = [system.peer(broker.endpoint) for _ in range(3)]
    late = system.client(broker.endpoint)
    with pytest.raises(TooManyPeers) as refusal:
        late.send("q", 1, timeout=1)
    assert refusal.value.exit_code == 4
    peers[0].send(m.Goodbye())
    late.send("q", 1, timeout=10)  # there is room again, and the client finds it by itself


def test_a_peer_that_left_without_a_word_makes_room(system: System) -> None:
    broker = system.broker("narrow", max_peers=2)
    for _ in range(2):
        system.peer(broker.endpoint).close()  # no goodbye
    system.client(broker.endpoint).send("q", 1, timeout=20)


def test_queues_of_a_worker(peer: Peer) -> None:
    queues = [f"q{n}" for n in range(limits.MAX_QUEUES_PER_PEER + 1)]
    told = refusal(peer, m.Hello(limits.PROTOCOL_VERSION, peer.incarnation, "", 1, queues, [], 0, {}))
    assert told.code == "malformed"
    assert str(limits.MAX_QUEUES_PER_PEER) in told.text


def test_jobs_watched(client: Client, peer: Peer) -> None:
    ids = [job.encode() for job in client.send_many("other", [None] * (limits.MAX_WATCHED_PER_PEER + 1)).ids]
    for start in range(0, limits.MAX_WATCHED_PER_PEER, 1000):
        peer.send(m.Watch(ids[start : start + 1000]))
    assert refusal(peer, m.Watch(ids[-1:])).code == "invalid"


def test_a_page(peer: Peer) -> None:
    for limit in (0, limits.MAX_PAGE + 1, "all"):
        assert refusal(peer, m.Ask(peer.number(), "list", {"limit": limit})).code == "invalid"


def test_a_page_of_large_rows_is_shorter(system: System, broker: BrokerProcess, client: Client) -> None:
    peer = system.peer(broker.endpoint, queues=["failing"], capacity=1000)
    peer.put("failing", *[f"j{n}" for n in range(1000)])
    error = {"type": "E", "text": "x" * 2000, "traceback": "y" * 8000}
    left = 1000
    while left:
        delivery = peer.receive(m.Deliver)
        for start in range(0, len(delivery.ids), limits.MAX_ORDER_IDS):
            part = delivery.ids[start : start + limits.MAX_ORDER_IDS]
            assert peer.settle(delivery.fence, m.Outcome.REJECT, *part, value=error) == []
        left -= len(delivery.ids)
    page = peer.ask("dead", queue="failing", limit=1000)
    assert 0 < len(page["jobs"]) < 100
    assert page["cursor"]
    dead = list(client.dead("failing", limit=999))  # a client follows the cursor
    assert len({job.id for job in dead}) == 999
    assert dead[0].error == error


def test_what_is_not_there(peer: Peer, client: Client) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("show", {"id": b"nobody"}),
        ("queue", {"queue": "none"}),
        ("list", {"queue": "none"}),
        ("dance", {}),
    ]
    for number, (verb, arguments) in enumerate(asked, 1):
        told = refusal(peer, m.Ask(number, verb, arguments))
        assert (told.code, told.number) == ("not_found", number)
    with pytest.raises(NotFound) as missing:
        client.get("nobody")
    assert missing.value.exit_code == 5
