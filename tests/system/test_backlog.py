"""What waits costs nothing at a start, and a producer of very many jobs nothing in memory."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import eventually
from tests.system.system import System
from zbroker.commit import Commit, Durability
from zbroker.core.core import Core
from zbroker.core.state import Settings
from zbroker.engine import Engine
from zbroker.storage import Range, Rows, Store, open_store
from zclient.protocol import codec
from zclient.protocol import messages as m
from zclient.protocol.limits import MAX_BATCH_JOBS, PROTOCOL_VERSION

WALL_MS = 1_800_000_000_000
ROUTE = b"route"
LEASED = 20


class CountingStore:
    """A store that counts the rows that are read from it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, space: str, key: bytes) -> bytes | None:
        self.rows += 1
        return self._store.get(space, key)

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        self.rows += len(keys)
        return self._store.get_many(space, keys)

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for row in self._store.scan(space, start, stop, backwards=backwards):
            self.rows += 1
            yield row

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        self._store.write(rows, ranges)


def opened(store: Any) -> Engine:
    """A broker on this store, started."""
    core = Core(store, Settings(), random.Random(0))
    engine = Engine(core, Commit(store, Durability.OS, wait=lambda seconds: None))
    engine.open(WALL_MS, 0, b"0123456789abcdef")
    return engine


def turn(engine: Engine, *messages: m.Message) -> list[m.Message]:
    """One turn with messages from one peer; what was sent."""
    engine.core.begin(WALL_MS, 0)
    for message in messages:
        engine.receive(ROUTE, codec.encode(message))
    return [codec.decode(outgoing.frames) for outgoing in engine.finish(drained=True)]


def fill(engine: Engine, jobs: int) -> None:
    """As many waiting jobs, as many delayed ones, and some that a worker has."""
    turn(engine, m.Hello(PROTOCOL_VERSION, b"a producer......", "producer", 0, [], [], 0, {}))
    ids = [b"%08d" % n for n in range(jobs)]
    for number, start in enumerate(range(0, jobs, MAX_BATCH_JOBS), 1):
        part = ids[start : start + MAX_BATCH_JOBS]
        groups = [
            m.Group("q", {}, [b"w" + identifier for identifier in part], [b"\xc0"] * len(part)),
            m.Group(
                "later",
                {"delay": 3_600_000 + start},
                [b"d" + identifier for identifier in part[:500]],
                [b"\xc0"] * len(part[:500]),
            ),
        ]
        turn(engine, m.Put(number, number, groups[:1]), m.Put(10**6 + number, number, groups[1:]))
    turn(engine, m.Hello(PROTOCOL_VERSION, b"a worker........", "worker", LEASED, ["q"], [], 0, {}))


def rows_read(path: Path, jobs: int) -> tuple[int, int]:
    """Rows that a start reads with so many jobs waiting, and those until a worker has its first jobs."""
    store = open_store("rocksdb", path)
    fill(opened(store), jobs)
    store.close()
    counting = CountingStore(open_store("rocksdb", path))
    engine = opened(counting)
    at_start = counting.rows
    hello = m.Hello(PROTOCOL_VERSION, b"another worker..", "other", 10, ["q"], [], 0, {})
    delivered = [message for message in turn(engine, hello) if isinstance(message, m.Deliver)]
    assert sum(len(delivery.ids) for delivery in delivered) == 10
    assert engine.core.leased == LEASED + 10
    counting.close()
    return at_start, counting.rows


def test_a_start_reads_what_is_in_flight_and_not_what_waits(tmp_path: Path) -> None:
    few, many = rows_read(tmp_path / "few", 1_000), rows_read(tmp_path / "many", 100_000)
    print(f"rows read at a start, and until the first delivery: {few} with 1,000 waiting, {many} with 100,000")
    assert few[0] == many[0] < 100
    assert many[1] - many[0] < 3_000  # the first blocks of the lane, whatever lies behind them


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_start_with_many_jobs(system: System, how: str) -> None:
    broker = system.broker(drain_timeout="200ms")
    client = system.client(broker.endpoint)
    client.send_many("q", (n for n in range(100_000)))
    client.send_many("later", (n for n in range(50_000)), delay=3600)
    peer = system.peer(broker.endpoint, queues=["q"], capacity=1000)
    peer.receive(m.Deliver)
    getattr(broker, how)()
    broker.restart(return_time="300ms")
    opened = broker.told.expect("opened", epoch=2)
    assert (opened["ready"] + opened["leased"], opened["leased"]) == (100_000, 1000)
    counts = client.queue("q"), client.queue("later")
    assert counts[1]["scheduled"] == 50_000
    eventually(lambda: client.queue("q")["ready"] == 100_000)
    worker = system.worker(broker.endpoint, concurrency=1)
    assert [run["n"] for run in worker.reach("run", 20)[:20]] == list(range(20))
    worker.kill()


def test_a_producer_of_very_many_jobs_needs_little_memory(system: System) -> None:
    broker = system.broker()
    bulk = system.run("bulk", endpoint=broker.endpoint, queue="q", jobs=300_000, payload_bytes=200)
    sent = bulk.expect("sent", within=60)
    assert sent["jobs"] == 300_000
    print(f"the producer grew by {sent['grown_bytes'] / 2**20:.1f} MiB")
    assert sent["grown_bytes"] < 32 << 20
    client = system.client(broker.endpoint)
    assert client.queue("q")["ready"] == 300_001
    assert int.from_bytes(client.get(sent["last"]).payload, "big") == 299_999
