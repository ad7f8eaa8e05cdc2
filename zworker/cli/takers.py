"""The roles of `zclient bench` that take jobs, each in a process of its own: ``python -m zworker.cli.takers``.

They use `Consumer` and `Worker` as any program does. `zclient` starts them by name, since it imports nothing of a
worker.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from zclient.cli.roles import RoleFailed, play
from zworker import Consumer, Job, Worker

Given = Mapping[str, Any]


def take(given: Given, start: Callable[[], None]) -> float:
    """Take and ack ``jobs``; the moment when the last ack was answered. `RoleFailed` if no more of them come."""
    jobs, taken = given["jobs"], 0
    with _consumer(given) as consumer:
        start()
        for taken, job in enumerate(consumer, 1):
            job.ack()
            if taken == jobs:
                break
    ended = time.monotonic()
    if taken < jobs:
        raise RoleFailed(f"{taken} of {jobs} jobs came, and then none within {given['timeout']:g} s")
    return ended


def run(given: Given, start: Callable[[], None]) -> list[float]:
    """Run ``jobs`` tasks that do nothing, in a worker: the seconds from the moment that each job tells to its start."""
    jobs = given["jobs"]
    waits: list[float] = []
    came = threading.Event()
    worker = Worker(
        given["endpoints"], concurrency=given["threads"], name="zclient bench", credentials=given["credentials"]
    )

    @worker.task(given["queue"])
    def task(job: Job) -> None:
        waits.append(time.monotonic() - job.payload[0])
        if len(waits) >= jobs:
            came.set()

    with worker:
        worker.wait_ready(given["timeout"])
        start()
        seen = -1
        while not came.wait(given["timeout"]):
            if len(waits) == seen:
                raise RoleFailed(f"{seen} of {jobs} jobs came, and then none within {given['timeout']:g} s")
            seen = len(waits)
    return waits


def _consumer(given: Given) -> Consumer:
    endpoints, queue, idle = given["endpoints"], given["queue"], given["timeout"]
    return Consumer(endpoints, queue, credit=given["credit"], idle=idle, credentials=given["credentials"])


if __name__ == "__main__":
    play({"take": take, "run": run})
