"""The load of the soak, at a steady rate: producers and workers that use much of what there is.

Run as ``python -m tests.soak.load NAME JSON``; each ends in peace at the end of its stdin. A producer tells, now and
then, how long calls took, as a JSON line.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from zclient import Client, UniqueTaken
from zworker import Consumer, Job, Worker

BEAT_S = 0.1
"""A producer sends so often."""

TELL_S = 0.2
"""How often it tells how long calls took."""

KEYS = 50
TOPIC = "soak.events"
QUEUES = ("quick", "slow", "flaky", "ordered", "copies", "answers", "counted", "taken")

POLICIES: dict[str, dict[str, Any]] = {
    "ordered": {"key_limit": 1},
    "flaky": {"max_attempts": 2, "backoff": ["20ms"], "keep_dead_count": 200},
}


def tell(**facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def ended() -> threading.Event:
    """Set at the end of stdin."""
    event = threading.Event()

    def read() -> None:
        sys.stdin.read()
        event.set()

    threading.Thread(target=read, daemon=True).start()
    return event


def worker(endpoint: str) -> None:
    """Serves everything but `taken`."""
    worker = Worker(endpoint, concurrency=6)
    end = ended()

    @worker.task("quick")
    def quick(n: int) -> int:
        return n

    @worker.task("slow")
    async def slow(job: Job) -> None:
        job.progress(0.5, "half of it")
        await asyncio.sleep(0.02)

    @worker.task("flaky")
    def flaky(n: int, job: Job) -> None:
        if n % 3 == 0 or (n % 3 == 1 and job.attempt == 1):
            raise RuntimeError("as it was meant to")

    @worker.task("ordered")
    def ordered(job: Job) -> None:
        job.send("quick", 1)  # joins the ack's commit

    @worker.task("copies", batch=8, batch_wait="5ms")
    def copies(jobs: list[Job]) -> None:
        assert all(job.headers["topic"] == TOPIC for job in jobs)

    @worker.task("answers")
    def answers(n: int) -> bytes:
        return bytes(n)

    @worker.task("counted")
    def counted(n: int) -> Iterator[int]:
        yield from range(n)

    def stop() -> None:
        end.wait()
        worker.stop(wait=False)

    threading.Thread(target=stop, daemon=True).start()
    worker.run()


def consumer(endpoint: str) -> None:
    """Takes what is in `taken`, and comes anew every thousand jobs."""
    end = ended()
    while not end.is_set():
        with Consumer(endpoint, "taken", credit=20, idle="500ms") as consumer:
            for number, job in enumerate(consumer):
                job.ack(len(job.payload))
                if number == 1000:
                    break


def producer(endpoint: str, rate: float) -> None:
    """About so many jobs a second, of all kinds, on a fixed beat."""
    end = ended()
    beat = Beat(endpoint, max(round(rate * BEAT_S), 1))
    due = time.monotonic()
    with Client(endpoint) as client:
        while not end.is_set():
            beat.send(client)
            due += BEAT_S
            end.wait(max(due - time.monotonic(), 0))
        beat.tell()


class Beat:
    """What is sent at each beat."""

    def __init__(self, endpoint: str, jobs: int) -> None:
        self._endpoint = endpoint
        self._jobs = jobs
        self._number = 0
        self._latencies: list[float] = []
        self._told_at = time.monotonic()

    def send(self, client: Client) -> None:
        n = self._number = self._number + 1
        half, few = self._jobs // 2, max(self._jobs // 8, 1)
        client.send_many("quick", list(range(half)))
        client.send_many("taken", [bytes(2000)] * few, priority=n % 3)
        client.send_many("slow", [n] * few, delay=0.05)
        client.send_many("flaky", list(range(few)))
        for k in range(few):
            client.send("ordered", n, key=f"key {(n + k) % KEYS}")
        client.publish(TOPIC, n)
        try:
            client.send("slow", n, unique=f"slow {n % 5}")
        except UniqueTaken:
            pass  # The one before waits still.
        began = time.monotonic()
        assert client.call("answers", 100, timeout=30) == bytes(100)
        self._latencies.append((time.monotonic() - began) * 1000)
        if n % 10 == 0:
            self.now_and_then(client)
        if time.monotonic() >= self._told_at + TELL_S:
            self.tell()

    def now_and_then(self, client: Client) -> None:
        """A stream, a listing, and a client that comes and goes."""
        assert list(client.stream("counted", 20, timeout=30)) == list(range(20))
        assert sum(1 for _ in client.jobs("quick", limit=50)) <= 50
        with Client(self._endpoint) as other:
            other.send("quick", 0)

    def tell(self) -> None:
        """The latencies since the last time."""
        if self._latencies:
            tell(event="latencies", ms=[round(ms, 2) for ms in self._latencies])
        self._latencies.clear()
        self._told_at = time.monotonic()


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
