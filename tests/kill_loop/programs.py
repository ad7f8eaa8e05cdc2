"""The processes that are killed: workers, a consumer, producers.

Run as ``python -m tests.kill_loop.programs NAME JSON``. A worker notes each run before it begins, does the example's
booking, and writes a byte to the pipe of the kill loop. A producer keeps its ledger; on stdin it is told how many of
its jobs may be confirmed. Each ends in peace at the end of its stdin.
"""

import asyncio
import json
import os
import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kill_loop.ledger import ProducerLedger, WorkerNotes
from tests.kill_loop.work import QUEUES, work_of
from zclient import AsyncClient, Client, OutcomeUnknown
from zworker import Consumer, Job, Worker

KEPT_JOBS = 5000
"""Jobs that a worker looks at again, whether their outcome counted: more than may be unanswered."""

LOOK_S = 0.1
"""How often it looks."""

SEND_S = 60
"""Longer than any broker is away."""

END_S = 60
"""How long a worker that is told to end may look for a broker before it ends nevertheless."""

COROUTINES = 5
"""As many as the threads on which they wait for leave, on the smallest machine."""


def example() -> Any:
    """The example's module. It is a program of its own, so its folder is where it finds its parts."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "exactly_once"))
    import worker

    return worker


# ---- workers


class Hands:
    """What every kind of worker does with a job."""

    def __init__(self, folder: str, who: str, pipe: int) -> None:
        self._notes = WorkerNotes(Path(folder), who)
        self._pipe = pipe
        self._bank = example()
        self._superseded: type[Exception] = sys.modules["once"].Superseded
        self._seen: deque[Job] = deque(maxlen=KEPT_JOBS)
        self._lost: set[tuple[str, int]] = set()
        self._errors: list[BaseException] = []  # of the database: none is expected
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self, job: Job) -> float:
        """Note the run; returns how many seconds its work takes."""
        self._notes.run(job.id, job.fence, job.attempt)
        self._seen.append(job)
        if job.payload["begins"]:
            self._guarded(job, lambda: self._bank.begin(self._bank.bank(), job))
        return float(job.payload["ms"]) / 1000

    def end(self, job: Job) -> Any:
        """The effect, or the failure that the job asks for."""
        payload = job.payload
        if payload["fails"] and job.attempt == 1:
            self._notes.told(job.id, job.fence, "nacked")
            raise RuntimeError("its first attempt fails")
        balance = self._guarded(job, lambda: self._bank.book(job, payload["account"], payload["amount"]))
        os.write(self._pipe, b".")
        return balance

    def close(self) -> None:
        """Note what was lost up to now."""
        self._ended.set()
        self._note_lost()
        assert not self._errors, self._errors

    def _guarded(self, job: Job, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except self._superseded:
            self._notes.told(job.id, job.fence, "superseded")
            raise
        except BaseException as error:
            self._errors.append(error)
            raise

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._note_lost()

    def _note_lost(self) -> None:
        for job in list(self._seen):
            if job.lease_lost and (job.id, job.fence) not in self._lost:
                self._lost.add((job.id, job.fence))
                self._notes.told(job.id, job.fence, "lost")


def worker_threads(endpoint: str, **facts: Any) -> None:
    """Functions on threads."""
    hands = Hands(**facts)
    worker = Worker(endpoint, concurrency=4, drain_timeout=10)

    def serve(job: Job) -> Any:
        threading.Event().wait(hands.begin(job))
        return hands.end(job)

    serve_until_told(worker, serve)
    hands.close()


def worker_coroutines(endpoint: str, **facts: Any) -> None:
    """Coroutines."""
    hands = Hands(**facts)
    worker = Worker(endpoint, concurrency=4, drain_timeout=10)

    async def serve(job: Job) -> Any:
        await asyncio.sleep(hands.begin(job))
        return hands.end(job)

    serve_until_told(worker, serve)
    hands.close()


def serve_until_told(worker: Worker, serve: Callable[[Job], Any]) -> None:
    """Run it until the end of stdin."""
    for queue in QUEUES:
        worker.task(queue)(serve)

    def stop() -> None:
        if not worker.ready.wait(END_S):
            os._exit(1)
        worker.stop(wait=False)

    at_end_of_stdin(stop)
    worker.run()


def at_end_of_stdin(end: Callable[[], Any]) -> None:
    def read() -> None:
        sys.stdin.read()
        end()

    threading.Thread(target=read, daemon=True).start()


def consumer(endpoint: str, **facts: Any) -> None:
    """A loop of one's own."""
    hands = Hands(**facts)
    with Consumer(endpoint, QUEUES, credit=4) as consumer:
        at_end_of_stdin(consumer.close)
        for job in consumer:
            try:
                threading.Event().wait(hands.begin(job))
                job.ack(hands.end(job))
            except Exception as error:
                job.nack(error)
    hands.close()


# ---- producers


class Source:
    """What a producer sends next: first some of those of which an earlier process of its name knows no end."""

    def __init__(self, folder: str, name: str, who: str, prefix: str, seed: int) -> None:
        self._ledger = ProducerLedger(Path(folder), name, who)
        self._prefix = f"{prefix}{who.replace('/', 'x')}x"
        self._chance = random.Random(f"{seed} {who}")
        known = self._ledger.lines
        confirmed = {job for job, lines in known.items() if any(line.what == "confirmed" for line in lines)}
        self._unknown = [job for job in known if job not in confirmed and self._chance.random() < 0.5]
        self._open = len(confirmed)  # confirmed, or on their way
        self._most = 0
        self._made = 0
        self._changed = threading.Condition()
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._change(int(line))
        self.end()

    def _change(self, most: int) -> None:
        with self._changed:
            self._most = most
            self._changed.notify_all()

    def end(self) -> None:
        """No more."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def next(self) -> str | None:
        """The id of the next job, its intent noted; waits until one more is allowed. None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self._unknown or self._open < self._most)
            if self.ended:
                return None
            self._open += 1
            if self._unknown:
                job = self._unknown.pop()
            else:
                self._made += 1
                job = f"{self._prefix}{self._made}"
        self._ledger.note("intent", job)
        return job

    def confirmed(self, job: str) -> bool:
        """Note it; returns whether the job is to be sent once more, for nothing."""
        self._ledger.note("confirmed", job)
        return self._chance.random() < 0.05

    def unknown(self, job: str) -> None:
        self._ledger.note("unknown", job)


def producer_threads(endpoint: str, **facts: Any) -> None:
    """Two threads that send one job after the other through one client."""
    source = Source(**facts)

    def send() -> None:
        while (job := source.next()) is not None:
            again = True
            while again:
                work = work_of(job)
                try:
                    client.send(work.queue, work.payload, id=job, **work.options)
                except OutcomeUnknown:
                    source.unknown(job)
                else:
                    again = source.confirmed(job)

    with Client(endpoint, timeout=SEND_S) as client:
        run_threads(send, 2)


def run_threads(target: Callable[[], None], count: int) -> None:
    """Run it on so many threads; what one of them raises ends the process."""

    def run() -> None:
        try:
            target()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def producer_coroutines(endpoint: str, **facts: Any) -> None:
    """Coroutines that send over one connection."""
    source = Source(**facts)

    async def send(client: AsyncClient) -> None:
        while (job := await asyncio.to_thread(source.next)) is not None:
            again = True
            while again:
                work = work_of(job)
                try:
                    await client.send(work.queue, work.payload, id=job, **work.options)
                except OutcomeUnknown:
                    source.unknown(job)
                else:
                    again = source.confirmed(job)

    async def run() -> None:
        async with AsyncClient(endpoint, timeout=SEND_S) as client:
            await asyncio.gather(*(send(client) for _ in range(COROUTINES)))

    asyncio.run(run())


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
