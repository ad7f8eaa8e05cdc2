"""The workloads through the public API: lifecycles with `Consumer`, single sends, functions in a `Worker`, calls."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

from benchmarks.harness import PAYLOAD, SPAWN, broker, started, together
from zclient import AsyncClient, Client, chord, group, step
from zclient.cli import measuring
from zworker import Consumer, Job, Worker

CREDIT = 4000
"""Jobs that the consumer holds at once."""

BATCH = 100


def produce(endpoint: str, jobs: int, batch: int, payload: bytes, pipe: Connection) -> None:
    """Put ``jobs`` in batches; sends (start, end) on the shared monotonic clock."""
    with Client(endpoint) as client:
        client.send("warm-up", None)
        started(pipe)
        begun = time.monotonic()
        client.send_many("bench", (payload for _ in range(jobs)), batch=batch)
        pipe.send((begun, time.monotonic()))


def consume(endpoint: str, jobs: int, credit: int, pipe: Connection) -> None:
    """Take and ack ``jobs``; sends the time after leaving the consumer, when every ack is answered."""
    with Consumer(endpoint, "bench", credit=credit) as consumer:
        started(pipe)
        for taken, job in enumerate(consumer, 1):
            job.ack()
            if taken == jobs:
                break
    pipe.send(time.monotonic())


def lifecycle(
    jobs: int, durability: str = "fsync", *, batch: int = BATCH, payload: bytes = PAYLOAD, pairs: int = 1
) -> dict[str, float]:
    """Jobs put, taken and acked per second, ``pairs`` producers and as many consumers at once."""
    with broker(durability) as endpoint:
        return lifecycle_at(endpoint, jobs, batch=batch, payload=payload, pairs=pairs)


def lifecycle_at(
    endpoint: str, jobs: int, *, batch: int = BATCH, payload: bytes = PAYLOAD, pairs: int = 1
) -> dict[str, float]:
    """The same through a broker that runs, and may have jobs that wait already: these are taken first."""
    jobs -= jobs % (batch * pairs)
    credit = min(CREDIT, max(20, (16 << 20) // len(payload)))
    roles = [
        *(partial(produce, jobs=jobs // pairs, batch=batch, payload=payload) for _ in range(pairs)),
        *(partial(consume, jobs=jobs // pairs, credit=credit) for _ in range(pairs)),
    ]
    told = together(*(partial(_at, role, endpoint) for role in roles))
    begun = min(first for first, _ in told[:pairs])
    put = max(last for _, last in told[:pairs])
    return {"lifecycles/s": jobs / (max(told[pairs:]) - begun), "puts/s": jobs / (put - begun)}


def _at(role: "partial[None]", endpoint: str, pipe: Connection) -> None:
    role(endpoint, pipe=pipe)


# ---- one job a send, gathered by the client


def send_from_threads(endpoint: str, jobs: int, threads: int, pipe: Connection) -> None:
    with Client(endpoint) as client, ThreadPoolExecutor(threads) as pool:
        client.send("warm-up", None)

        def some(_: int) -> None:
            for _ in range(jobs // threads):
                client.send("bench", PAYLOAD)

        started(pipe)
        begun = time.monotonic()
        list(pool.map(some, range(threads)))
        pipe.send((begun, time.monotonic()))


def send_from_tasks(endpoint: str, jobs: int, tasks: int, pipe: Connection) -> None:
    async def all_of_them() -> tuple[float, float]:
        async with AsyncClient(endpoint) as client:
            await client.send("warm-up", None)

            async def some() -> None:
                for _ in range(jobs // tasks):
                    await client.send("bench", PAYLOAD)

            started(pipe)
            begun = time.monotonic()
            await asyncio.gather(*(some() for _ in range(tasks)))
            return begun, time.monotonic()

    pipe.send(asyncio.run(all_of_them()))


def send_without_waiting(endpoint: str, jobs: int, at_once: int, pipe: Connection) -> None:
    with Client(endpoint) as client:
        client.send("warm-up", None)
        started(pipe)
        begun = time.monotonic()
        for _ in range(jobs):
            client.send_nowait("bench", PAYLOAD)
        client.flush()
        pipe.send((begun, time.monotonic()))


SENDERS = {"threads": send_from_threads, "tasks": send_from_tasks, "nowait": send_without_waiting}


def singles(jobs: int, how: str, at_once: int, durability: str = "fsync") -> dict[str, float]:
    """Sends of one job each per second, from so many threads or tasks of one client; nobody takes them."""
    with broker(durability) as endpoint:
        ((begun, ended),) = together(partial(SENDERS[how], endpoint, jobs, at_once))
    return {"puts/s": jobs / (ended - begun)}


# ---- functions in a worker


def serve(endpoint: str, jobs: int, pipe: Connection) -> None:
    """Run ``jobs`` no-op tasks in a worker; sends the time when the last one is settled."""
    worker = Worker(endpoint, concurrency=32)
    left = jobs
    done = threading.Event()
    lock = threading.Lock()

    @worker.task("bench")
    def task(payload: bytes) -> None:
        nonlocal left
        with lock:
            left -= 1
            if not left:
                done.set()

    with worker:
        worker.wait_ready()
        started(pipe)
        done.wait()
    pipe.send(time.monotonic())


def tasks(jobs: int, durability: str = "fsync") -> dict[str, float]:
    """No-op functions in a `Worker` per second, one worker process."""
    with broker(durability) as endpoint:
        (begun, _), ended = together(partial(produce, endpoint, jobs, BATCH, PAYLOAD), partial(serve, endpoint, jobs))
    return {"tasks/s": jobs / (ended - begun)}


# ---- calls and groups


def percentiles(waits: list[float]) -> dict[str, float]:
    """Of times in seconds, in milliseconds; as `zclient bench` reckons them, under the names of our tables."""
    names = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "p99_9_ms": "p99.9 ms"}
    return {names[name]: figure for name, figure in measuring.percentiles(waits).items()}


@contextmanager
def echoing(durability: str) -> Iterator[str]:
    """A broker with a worker in a process of its own, which returns what it is given."""
    with broker(durability) as endpoint:
        worker = SPAWN.Process(target=echo, args=(endpoint,), daemon=True)
        worker.start()
        try:
            yield endpoint
        finally:
            worker.terminate()
            worker.join()


def echo(endpoint: str) -> None:
    worker = Worker(endpoint, concurrency=8)

    @worker.task("echo")
    def task(value: int) -> int:
        return value

    @worker.task("gather")
    def gather(job: Job) -> int:
        return sum(job.inputs().only)

    worker.run()


def calls(number: int, durability: str = "fsync") -> dict[str, float]:
    """Milliseconds that `client.call` takes, one after the other."""
    waits: list[float] = []
    with echoing(durability) as endpoint, Client(endpoint) as client:
        client.call("echo", 0, timeout=30)
        for n in range(number):
            begun = time.monotonic()
            client.call("echo", n)
            waits.append(time.monotonic() - begun)
    return percentiles(waits)


def callback(jobs: int, durability: str = "fsync") -> dict[str, float]:
    """Jobs of a group per second, from the sending of the workflow to the result of its callback, which read theirs."""
    with echoing(durability) as endpoint, Client(endpoint) as client:
        client.call("echo", 0, timeout=30)
        flow = chord(group("echo", range(jobs)), step("gather"))
        begun = time.monotonic()
        run = client.send_workflow(flow)
        stored = time.monotonic()
        assert run.result("gather", timeout=120) == sum(range(jobs))
        return {"jobs/s": jobs / (time.monotonic() - begun), "sent in ms": 1000 * (stored - begun)}
