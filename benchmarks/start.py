"""What a start costs when much is waiting: fill a broker, kill it with SIGKILL, start it again on the same data.

Measured is the time from the start of the process to the first job in a consumer's hands, the memory, and the longest
turn of the broker's loop while it then serves.
"""

import os
import signal
import tempfile
import time
from typing import NamedTuple

from benchmarks.harness import PAYLOAD, SPAWN, BrokerProcess
from benchmarks.wire import ENCODED, by_key, fill
from zclient import Client
from zclient.protocol import messages as m
from zworker import Consumer

DRAINED = 20_000
"""Jobs taken and acked after the start, at most, while the longest turn is watched."""

DAY_MS = 86_400_000


class Contents(NamedTuple):
    """What lies in the broker when it is killed; there is always a job to be taken."""

    waiting: int = 1
    timers: int = 0  # jobs that fall due in days, in blocks of a batch
    lanes: int = 0  # keys, each with one job
    leased: int = 0  # jobs of a worker that dies with them just before


def measure(contents: Contents) -> dict[str, float]:
    """Seconds until the broker is ready and until the first delivery, its memory in MiB, its longest turn in ms."""
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as directory:
        process = BrokerProcess(directory)
        try:
            process.start()
            put(process.endpoint, contents)
            filled = process.resident()
            process.kill()
            begun = time.monotonic()
            figures = {"ready s": process.start(), "memory MiB": process.resident(), "memory when filled MiB": filled}
            queue, most = ("lanes", contents.lanes) if contents.lanes else ("waiting", contents.waiting)
            first = take(process.endpoint, queue, min(DRAINED, most)) - begun
            with Client(process.endpoint) as client:
                turn = float(client.stats()["longest_turn_ms"])
            return {"first delivery s": first, **figures, "longest turn ms": turn}
        finally:
            process.kill()


def put(endpoint: str, contents: Contents) -> None:
    fill(endpoint, contents.lanes, by_key(contents.lanes, "lanes"))
    fill(endpoint, contents.timers, timers)
    with Client(endpoint) as client:
        client.send_many("waiting", (PAYLOAD for _ in range(contents.waiting)))
        client.send_many("leased", (PAYLOAD for _ in range(contents.leased)))
    if contents.leased:
        worker = SPAWN.Process(target=hold, args=(endpoint, contents.leased))
        worker.start()
        worker.join()
        if worker.exitcode != -signal.SIGKILL:
            raise RuntimeError("the worker that should die with its jobs did not")


def timers(first: int, ids: list[bytes]) -> list[m.Group]:
    """Jobs that fall due together, each batch at another time."""
    return [m.Group("timers", {"delay": DAY_MS + first}, ids, [ENCODED] * len(ids))]


def hold(endpoint: str, jobs: int) -> None:
    """A process that takes so many jobs and dies with them."""
    with Consumer(endpoint, "leased", credit=jobs) as consumer:
        for taken, _ in enumerate(consumer, 1):
            if taken == jobs:
                os.kill(os.getpid(), signal.SIGKILL)


def take(endpoint: str, queue: str, jobs: int) -> float:
    """Take and ack so many; returns when the first one came (monotonic clock)."""
    first = 0.0
    with Consumer(endpoint, queue, credit=1000) as consumer:
        for taken, job in enumerate(consumer, 1):
            first = first or time.monotonic()
            job.ack()
            if taken == jobs:
                break
    return first
