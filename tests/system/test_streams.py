"""Streams between real processes: many values, readers that stop or leave, and kills in the middle."""

import asyncio
import threading
from typing import Any

import pytest

from tests.system.processes import PATIENCE_S, BrokerProcess, Child
from tests.system.system import System
from zclient import AsyncClient, Client, JobCancelled, ResultTimeout, StreamRestarted
from zclient.protocol.limits import STREAM_BYTES

KINDS = ["count", "acount"]


@pytest.fixture
def broker(system: System) -> BrokerProcess:
    return system.broker()


def streamer(system: System, broker: BrokerProcess, **options: Any) -> Child:
    worker = system.run("streamer", endpoint=broker.endpoint, **options)
    worker.expect("ready")
    return worker


@pytest.mark.parametrize("queue", KINDS)
def test_ten_thousand_values(system: System, broker: BrokerProcess, queue: str) -> None:
    streamer(system, broker)
    stream = system.client(broker.endpoint).stream(queue, {"n": 10_000}, timeout=PATIENCE_S)
    assert list(stream) == list(range(10_000))
    assert (stream.result, stream.restarts) == (10_000 if queue == "count" else None, 0)
    assert stream.job.result(timeout=PATIENCE_S) == stream.result


def test_many_streams_of_one_event_loop(system: System, broker: BrokerProcess) -> None:
    streamer(system, broker, concurrency=20)

    async def read(client: AsyncClient, n: int) -> list[Any]:
        return [value async for value in client.stream(KINDS[n % 2], {"n": 100 + n}, timeout=PATIENCE_S)]

    async def read_all() -> list[list[Any]]:
        async with AsyncClient(broker.endpoint) as client:
            return await asyncio.gather(*(read(client, n) for n in range(20)))

    assert asyncio.run(read_all()) == [list(range(100 + n)) for n in range(20)]


@pytest.mark.parametrize("queue", KINDS)
def test_a_reader_that_stops_pauses_the_handler_and_one_that_leaves_closes_it(
    system: System, broker: BrokerProcess, queue: str
) -> None:
    worker = streamer(system, broker)
    client = system.client(broker.endpoint)
    stream = client.stream(queue, {"n": 10_000, "tells": True}, window=8, timeout=PATIENCE_S)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    worker.reach("yield", 9)  # the window, and the value at which it is paused
    assert client.call("count", {"n": 5}, timeout=PATIENCE_S) == 5, "the worker has time for others"
    assert client.get(stream.id).state == "leased"
    stream.close()
    assert worker.expect("closed", job=stream.id)["yields"] == 9
    with pytest.raises(JobCancelled):
        stream.job.result(timeout=PATIENCE_S)
    assert list(stream) == []


def test_a_loop_that_is_left_closes_its_stream(system: System, broker: BrokerProcess) -> None:
    worker = streamer(system, broker)
    client = system.client(broker.endpoint)
    for value in client.stream("count", {"n": 1_000_000}, timeout=PATIENCE_S):
        if value == 5:
            break
    assert worker.expect("closed")["yields"] < 200

    async def leaves() -> None:
        async with AsyncClient(broker.endpoint) as other:
            async for value in other.stream("acount", {"n": 1_000_000}, timeout=PATIENCE_S):
                if value == 5:
                    break
            await other.stats()

    asyncio.run(leaves())
    assert worker.expect("closed")["yields"] < 200


def test_a_client_that_closes_leaves_its_streams(system: System, broker: BrokerProcess) -> None:
    worker = streamer(system, broker)
    with Client(broker.endpoint) as client:
        stream = client.stream("count", {"n": 1_000_000}, timeout=PATIENCE_S)
        assert next(stream) == 0
    assert worker.expect("closed")["yields"] < 200
    with pytest.raises(JobCancelled) as caught:
        system.client(broker.endpoint).result(stream.id, timeout=PATIENCE_S)
    assert caught.value.reason == "unread"


def test_a_killed_worker_is_told_and_the_stream_begins_again(system: System, broker: BrokerProcess) -> None:
    worker = streamer(system, broker)
    client = system.client(broker.endpoint)
    stream = client.stream("count", {"n": 500}, window=50, timeout=PATIENCE_S)
    first = [next(stream) for _ in range(20)]
    worker.kill()
    streamer(system, broker)
    with pytest.raises(StreamRestarted) as caught:
        while True:
            first.append(next(stream))
    assert first == list(range(caught.value.values)) and caught.value.values < 500
    assert list(stream) == list(range(500)) and stream.restarts == 1


@pytest.mark.parametrize("queue", KINDS)
def test_a_killed_broker_loses_no_value_and_doubles_none(system: System, broker: BrokerProcess, queue: str) -> None:
    streamer(system, broker)
    client = system.client(broker.endpoint)
    stream = client.stream(queue, {"n": 30_000}, timeout=PATIENCE_S)
    half = threading.Event()
    values: list[Any] = []

    def read() -> None:
        for value in stream:
            values.append(value)
            if len(values) in (5_000, 15_000):
                half.set()

    reading = threading.Thread(target=read)
    reading.start()
    for _ in range(2):
        assert half.wait(PATIENCE_S)
        half.clear()
        broker.kill()
        broker.restart()
    reading.join(PATIENCE_S)
    assert values == list(range(30_000)) and stream.restarts == 0


def test_a_paused_stream_survives_a_killed_broker(system: System, broker: BrokerProcess) -> None:
    worker = streamer(system, broker)
    client = system.client(broker.endpoint)
    stream = client.stream("count", {"n": 100, "tells": True}, window=8, timeout=PATIENCE_S)
    assert next(stream) == 0
    worker.reach("yield", 9)
    broker.kill()
    broker.restart()
    assert list(stream) == list(range(1, 100)) and stream.restarts == 0


def test_large_values_and_a_slow_reader_leave_the_broker_small(system: System, broker: BrokerProcess) -> None:
    size, number = 100 * 1024, 600
    worker = streamer(system, broker)
    client = system.client(broker.endpoint)
    assert list(client.stream("count", {"n": 50, "size": size})) == [bytes(size)] * 50
    worker.expect("closed")
    before = broker.rss_bytes()
    stream = client.stream("count", {"n": number, "size": size, "tells": True}, window=1000, timeout=PATIENCE_S)
    assert next(stream) == bytes(size)
    fit = STREAM_BYTES // size
    worker.reach("yield", fit + 1)
    assert sum(len(value) for value in stream) == (number - 1) * size
    assert worker.expect("closed", job=stream.id)["yields"] == number
    assert broker.rss_bytes() - before < 16 << 20, "60 MB went through it"


def test_a_worker_that_drains_gives_a_paused_stream_back(system: System, broker: BrokerProcess) -> None:
    worker = streamer(system, broker, drain_timeout=0.2)
    client = system.client(broker.endpoint)
    stream = client.stream("count", {"n": 100, "tells": True}, window=8, timeout=PATIENCE_S)
    assert next(stream) == 0
    worker.reach("yield", 9)
    assert worker.stop() == 0
    assert worker.named("closed")[0]["yields"] == 9
    streamer(system, broker)
    with pytest.raises(StreamRestarted) as caught:
        assert [next(stream) for _ in range(8)] == list(range(1, 8))
    assert caught.value.values == 8
    assert list(stream) == list(range(100))
    assert client.get(stream.id).attempts == 1, "no attempt was burnt"


def test_nobody_begins_what_its_reader_gave_up(system: System, broker: BrokerProcess) -> None:
    client = system.client(broker.endpoint)
    stream = client.stream("count", {"n": 1}, timeout="100ms", ttl=0)
    with pytest.raises(ResultTimeout):
        next(stream)
    with pytest.raises(JobCancelled):
        stream.job.result(timeout=PATIENCE_S)
