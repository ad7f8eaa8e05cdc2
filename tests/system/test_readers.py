"""A peer that stops reading costs the broker bounded memory, and nobody else anything."""

from tests.system.processes import BrokerProcess, eventually
from tests.system.system import System
from zclient.protocol import messages as m

MEGABYTE = 1_000_000
ALLOWED_BYTES = 200 * MEGABYTE
"""What a reader that stopped may cost: what waits for it in libzmq, and what the allocator makes of it."""


def growth(broker: BrokerProcess, before: int) -> int:
    """Bytes that the broker has taken since."""
    return broker.rss_bytes() - before


def test_a_client_that_asks_and_never_reads(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    client.send("large", bytes(MEGABYTE - 100), id="large")
    before = broker.rss_bytes()
    peer = system.peer(broker.endpoint)
    for number in range(1, 1001):
        peer.send(m.Ask(number, "show", {"id": b"large"}))
    eventually(lambda: client.stats()["counters"].get("unsent", 0) > 100)
    assert growth(broker, before) < ALLOWED_BYTES
    assert client.send("small", 1).status().state == "ready"


def test_a_stopped_client_that_waits_for_many_results(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    client.send("q", {"do": "echo", "n": 0})
    client.pause("q")
    system.worker(broker.endpoint, concurrency=8)
    payload = {"do": "large_result", "n": MEGABYTE // 2}
    crowd = system.run("crowd", endpoint=broker.endpoint, queue="q", payload=payload, jobs=800)
    crowd.expect("waiting")
    before = broker.rss_bytes()
    crowd.freeze()
    client.resume("q")
    eventually(lambda: client.queue("q")["totals"]["done"] == 801, 60)
    assert growth(broker, before) < ALLOWED_BYTES
    assert client.stats()["counters"]["unsent"] > 100


def test_a_stopped_worker_that_many_jobs_are_sent_to(system: System) -> None:
    broker = system.broker(grace="300ms", heartbeat_interval="500ms", heartbeat_timeout="3s", lease="1h")
    client = system.client(broker.endpoint)
    sleeper = system.worker(broker.endpoint, concurrency=1000)
    sleeper.freeze()
    before = broker.rss_bytes()
    jobs = client.send_many("q", [bytes(MEGABYTE // 2)] * 800, batch=20)
    assert growth(broker, before) < ALLOWED_BYTES
    broker.told.expect("worker lost", within=30)
    other = system.worker(broker.endpoint, concurrency=100)
    eventually(lambda: client.queue("q")["totals"]["done"] == len(jobs), 60)
    assert other.process.poll() is None
    assert growth(broker, before) < ALLOWED_BYTES
