"""The workloads through the public API: lifecycles with `Consumer` and with functions in a `Worker`, and latency."""

import threading
import time
from functools import partial
from multiprocessing.connection import Connection

from benchmarks.harness import PAYLOAD, broker, started, together
from zclient import Client
from zworker import Consumer, Worker

CREDIT = 1000
"""Jobs that the consumer holds at once: ten batches of 100."""

BATCH = 100


def produce(endpoint: str, jobs: int, pipe: Connection) -> None:
    """Put ``jobs`` in batches; sends (start, end) on the shared monotonic clock."""
    with Client(endpoint) as client:
        client.send("warm-up", None)
        started(pipe)
        begun = time.monotonic()
        client.send_many("bench", (PAYLOAD for _ in range(jobs)), batch=BATCH)
        pipe.send((begun, time.monotonic()))


def consume(endpoint: str, jobs: int, pipe: Connection) -> None:
    """Take and ack ``jobs``; sends the time after leaving the consumer, when every ack is answered."""
    with Consumer(endpoint, "bench", credit=CREDIT) as consumer:
        started(pipe)
        for taken, job in enumerate(consumer, 1):
            job.ack()
            if taken == jobs:
                break
    pipe.send(time.monotonic())


def lifecycle(jobs: int, durability: str = "fsync") -> dict[str, float]:
    """Jobs put, taken and acked per second, one producer and one consumer at once."""
    with broker(durability) as endpoint:
        (begun, put), ended = together(partial(produce, endpoint, jobs), partial(consume, endpoint, jobs))
    return {"lifecycles/s": jobs / (ended - begun), "puts/s": jobs / (put - begun)}


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
        (begun, _), ended = together(partial(produce, endpoint, jobs), partial(serve, endpoint, jobs))
    return {"tasks/s": jobs / (ended - begun)}


def send_at_rate(endpoint: str, jobs: int, rate: float, pipe: Connection) -> None:
    """Send one job at a time, each with the moment of its sending, at an even rate."""
    with Client(endpoint) as client:
        client.send("warm-up", None)
        started(pipe)
        begun = time.monotonic()
        for n in range(jobs):
            wait = begun + n / rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            client.send("bench", time.monotonic())
        pipe.send(None)


def note_starts(endpoint: str, jobs: int, pipe: Connection) -> None:
    """Run tasks that note how long after its sending each began; sends the list, in seconds."""
    worker = Worker(endpoint)
    waits: list[float] = []
    done = threading.Event()

    @worker.task("bench")
    def task(sent: float) -> None:
        waits.append(time.monotonic() - sent)
        if len(waits) == jobs:
            done.set()

    with worker:
        worker.wait_ready()
        started(pipe)
        done.wait()
    pipe.send(waits)


def latency(jobs: int, rate: float, durability: str = "fsync") -> dict[str, float]:
    """Milliseconds from `send` to the start of the task, at ``rate`` jobs a second."""
    with broker(durability) as endpoint:
        _, waits = together(partial(send_at_rate, endpoint, jobs, rate), partial(note_starts, endpoint, jobs))
    waits.sort()
    return {f"p{share}": 1000 * waits[min(len(waits) - 1, int(len(waits) * share / 100))] for share in (50, 99, 99.9)}
