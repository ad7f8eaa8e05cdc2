"""Put, take and ack through other systems: one producer and one consumer at once, each in a process of its own.

Each role is a function of a port, a number of jobs, the jobs of a batch and the pipe of `harness.together`. The
producer sends (start, end) on the shared monotonic clock, the consumer the time when its last ack was answered, or
flushed where the protocol answers none.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.harness import PAYLOAD, started, together
from benchmarks.peers import servers

Role = Callable[[int, int, int, Connection], None]


class Peer(NamedTuple):
    """A system that takes jobs."""

    name: str
    server: Callable[[str], AbstractContextManager[int]]
    modules: tuple[str, ...]
    produce: Role
    consume: Role
    slowness: int = 1  # how many times fewer jobs a round has


def measure(peer: Peer, jobs: int, batch: int, durability: str) -> dict[str, float]:
    """Jobs put, taken and acked per second; raises `Missing`."""
    servers.need(*peer.modules)
    jobs = jobs // peer.slowness // batch * batch
    with peer.server(durability) as port:
        roles = partial(peer.produce, port, jobs, batch), partial(peer.consume, port, jobs, batch)
        (begun, put), ended = together(*roles)
    return {"lifecycles/s": jobs / (ended - begun), "puts/s": jobs / (put - begun)}


# ---- Redis Streams


def redis_produce(port: int, jobs: int, batch: int, pipe: Connection) -> None:
    import redis

    client = redis.Redis(port=port)
    client.ping()
    started(pipe)
    begun = time.monotonic()
    for _ in range(0, jobs, batch):
        pipeline = client.pipeline(transaction=False)
        for _ in range(batch):
            pipeline.xadd("bench", {"p": PAYLOAD})
        pipeline.execute()
    pipe.send((begun, time.monotonic()))


def redis_consume(port: int, jobs: int, batch: int, pipe: Connection, *, delete: bool) -> None:
    """Entries that are acked stay in the stream unless they are deleted as well, which makes a queue of it."""
    import redis

    client = redis.Redis(port=port)
    client.xgroup_create("bench", "g", id="0", mkstream=True)
    started(pipe)
    taken = 0
    while taken < jobs:
        found: Any = client.xreadgroup("g", "c", {"bench": ">"}, count=batch, block=1000)
        for _, entries in found:
            ids = [identifier for identifier, _ in entries]
            pipeline = client.pipeline(transaction=False)
            pipeline.xack("bench", "g", *ids)
            if delete:
                pipeline.xdel("bench", *ids)
            pipeline.execute()
            taken += len(entries)
    pipe.send(time.monotonic())


def redis_threads(port: int, jobs: int, at_once: int, pipe: Connection) -> None:
    """One entry a call, from threads that share a client with a connection for each."""
    import redis

    client = redis.Redis(port=port, max_connections=at_once + 1)
    client.ping()

    def some(_: int) -> None:
        for _ in range(jobs // at_once):
            client.xadd("bench", {"p": PAYLOAD})

    with ThreadPoolExecutor(at_once) as pool:
        started(pipe)
        begun = time.monotonic()
        list(pool.map(some, range(at_once)))
        pipe.send((begun, time.monotonic()))


def redis_tasks(port: int, jobs: int, at_once: int, pipe: Connection) -> None:
    """One entry a call, from tasks of an event loop, likewise."""
    from redis.asyncio import Redis

    async def all_of_them() -> tuple[float, float]:
        client = Redis(port=port, max_connections=at_once + 1)
        await client.ping()

        async def some() -> None:
            for _ in range(jobs // at_once):
                await client.xadd("bench", {"p": PAYLOAD})

        started(pipe)
        begun = time.monotonic()
        await asyncio.gather(*(some() for _ in range(at_once)))
        ended = time.monotonic()
        await client.aclose()
        return begun, ended

    pipe.send(asyncio.run(all_of_them()))


def redis_by_hand(port: int, jobs: int, at_once: int, pipe: Connection) -> None:
    """One entry a call into a pipeline, which the program sends whenever it has so many."""
    import redis

    client = redis.Redis(port=port)
    client.ping()
    started(pipe)
    begun = time.monotonic()
    pipeline = client.pipeline(transaction=False)
    for _ in range(jobs):
        pipeline.xadd("bench", {"p": PAYLOAD})
        if len(pipeline) == at_once:
            pipeline.execute()
    pipeline.execute()
    pipe.send((begun, time.monotonic()))


REDIS_SENDERS = {"threads": redis_threads, "tasks": redis_tasks, "by hand": redis_by_hand}


def redis_singles(jobs: int, how: str, at_once: int, durability: str) -> dict[str, float]:
    """Entries added one a call, per second, from so many threads or tasks."""
    servers.need("redis")
    role = REDIS_SENDERS[how]
    with servers.redis(durability) as port:
        ((begun, ended),) = together(partial(role, port, jobs, at_once))
    return {"puts/s": jobs / (ended - begun)}


# ---- RabbitMQ


class Publisher:
    """Persistent messages with confirms, ten batches on their way at most."""

    def __init__(self, port: int, jobs: int, batch: int, pipe: Connection) -> None:
        import pika

        self.properties = pika.BasicProperties(delivery_mode=2)
        self.jobs, self.most, self.pipe = jobs, 10 * batch, pipe
        self.sent = 0
        self.unconfirmed: dict[int, None] = {}  # delivery tags, in order
        self.begun = 0.0
        parameters = pika.ConnectionParameters("127.0.0.1", port)
        self.connection = pika.SelectConnection(
            parameters,
            on_open_callback=self.opened,
            on_close_callback=lambda connection, reason: connection.ioloop.stop(),
        )

    def opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self.ready)

    def ready(self, channel: Any) -> None:
        self.channel = channel
        channel.confirm_delivery(self.confirmed, callback=lambda frame: self.begin())

    def begin(self) -> None:
        started(self.pipe)
        self.begun = time.monotonic()
        self.send()

    def send(self) -> None:
        while self.sent < self.jobs and len(self.unconfirmed) < self.most:
            self.sent += 1
            self.unconfirmed[self.sent] = None
            self.channel.basic_publish("", "bench", PAYLOAD, self.properties)

    def confirmed(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            for other in list(self.unconfirmed):
                if other > tag:
                    break
                del self.unconfirmed[other]
        else:
            del self.unconfirmed[tag]
        self.send()
        if self.sent == self.jobs and not self.unconfirmed:
            self.pipe.send((self.begun, time.monotonic()))
            self.connection.close()


def rabbitmq_produce(port: int, jobs: int, batch: int, pipe: Connection, *, kind: str) -> None:
    rabbitmq_channel(port, kind).connection.close()
    Publisher(port, jobs, batch, pipe).connection.ioloop.start()


def rabbitmq_channel(port: int, kind: str) -> Any:
    """A channel of a server that has the queue, of that kind."""
    import pika

    channel = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)).channel()
    channel.queue_declare("bench", durable=True, arguments={"x-queue-type": kind})
    return channel


def rabbitmq_consume(port: int, jobs: int, batch: int, pipe: Connection, *, kind: str) -> None:
    channel = rabbitmq_channel(port, kind)
    channel.basic_qos(prefetch_count=10 * batch)
    started(pipe)
    for taken, (method, _, _) in enumerate(channel.consume("bench"), 1):
        if taken % batch == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if taken == jobs:
            break
    channel.connection.close()
    pipe.send(time.monotonic())


# ---- NATS JetStream


def nats_produce(port: int, jobs: int, batch: int, pipe: Connection) -> None:
    asyncio.run(_nats_produce(port, jobs, batch, pipe))


async def _nats_stream(port: int) -> Any:
    import nats
    from nats.js.errors import BadRequestError

    connection = await nats.connect(f"nats://127.0.0.1:{port}")
    stream = connection.jetstream(publish_async_max_pending=100_000)
    with contextlib.suppress(BadRequestError):  # the other role has made it
        await stream.add_stream(name="bench", subjects=["bench"])
    return connection, stream


async def _nats_produce(port: int, jobs: int, batch: int, pipe: Connection) -> None:
    connection, stream = await _nats_stream(port)
    started(pipe)
    begun = time.monotonic()
    for _ in range(0, jobs, batch):
        await asyncio.gather(*(stream.publish("bench", PAYLOAD) for _ in range(batch)))
    pipe.send((begun, time.monotonic()))
    await connection.close()


def nats_consume(port: int, jobs: int, batch: int, pipe: Connection) -> None:
    asyncio.run(_nats_consume(port, jobs, batch, pipe))


async def _nats_consume(port: int, jobs: int, batch: int, pipe: Connection) -> None:
    connection, stream = await _nats_stream(port)
    subscription = await stream.pull_subscribe("bench", durable="c")
    started(pipe)
    taken = 0
    while taken < jobs:
        messages = await subscription.fetch(batch, timeout=30)
        for message in messages:
            await message.ack()
        taken += len(messages)
    await connection.flush()
    pipe.send(time.monotonic())
    await connection.close()


# ---- beanstalkd


def beanstalkd_produce(port: int, jobs: int, batch: int, pipe: Connection) -> None:
    """The library waits for each answer."""
    import greenstalk

    with greenstalk.Client(("127.0.0.1", port), encoding=None) as client:
        started(pipe)
        begun = time.monotonic()
        for _ in range(jobs):
            client.put(PAYLOAD)
        pipe.send((begun, time.monotonic()))


def beanstalkd_consume(port: int, jobs: int, batch: int, pipe: Connection) -> None:
    import greenstalk

    with greenstalk.Client(("127.0.0.1", port), encoding=None) as client:
        started(pipe)
        for _ in range(jobs):
            client.delete(client.reserve())
        pipe.send(time.monotonic())


def _redis(name: str, *, delete: bool) -> Peer:
    return Peer(name, servers.redis, ("redis",), redis_produce, partial(redis_consume, delete=delete), 2)


def _rabbitmq(kind: str) -> Peer:
    roles = partial(rabbitmq_produce, kind=kind), partial(rabbitmq_consume, kind=kind)
    return Peer(f"RabbitMQ, {kind} queue", servers.rabbitmq, ("pika",), *roles, 4)


PEERS = (
    _redis("Redis Streams", delete=False),
    _redis("Redis Streams, deleted when acked", delete=True),
    _rabbitmq("classic"),
    _rabbitmq("quorum"),
    Peer("NATS JetStream", servers.nats, ("nats",), nats_produce, nats_consume, 20),
    Peer("beanstalkd", servers.beanstalkd, ("greenstalk",), beanstalkd_produce, beanstalkd_consume, 20),
)
