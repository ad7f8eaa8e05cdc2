"""What a job costs while others wait: lifecycles through a broker that was filled first, and its memory."""

import time

from benchmarks.harness import PAYLOAD, running_broker
from benchmarks.wire import by_queue, fill
from benchmarks.workloads import lifecycle_at
from zclient import Client

OTHERS = 100
"""Queues that a backlog lies in which is not that of the queue at work."""


def measure(waiting: int, jobs: int, *, elsewhere: bool = False) -> dict[str, float]:
    """Lifecycles a second with so many jobs waiting in the same queue, or in others; the broker's largest memory since
    it started, its filling included, and that at the end, in MiB."""
    with running_broker() as process:
        begun = time.monotonic()
        if elsewhere:
            fill(process.endpoint, waiting, by_queue(OTHERS, "other"))
        elif waiting:
            with Client(process.endpoint) as client:
                client.send_many("bench", (PAYLOAD for _ in range(waiting)))
        filled = {"puts/s while filling": waiting / (time.monotonic() - begun)} if waiting else {}
        figures = lifecycle_at(process.endpoint, jobs)
        memory = {"largest memory MiB": process.largest(), "memory at the end MiB": process.resident()}
        return {**figures, **memory, **filled}
