"""Programs that the tests run as processes: workers, consumers and producers that report what happens, line by line.

Run as ``python -m tests.system.programs NAME JSON``. Each prints events as JSON lines, each with one `write`, so that
what was told survives a kill. The line `go` on stdin tells it to go on, the end of stdin to end.
"""

import asyncio
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from zclient import AsyncClient, Client, ZError
from zworker import Consumer, Job, Worker

WEDGE_S = 60
"""Longer than any test waits for a wedged worker."""


def tell(event: str, **facts: Any) -> None:
    os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")


class Stdin:
    """Commands from the test."""

    def __init__(self, on_end: Callable[[], Any]) -> None:
        self._on_end = on_end
        self._go = threading.Event()
        self._callbacks: list[Callable[[], Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            if line == "go\n":
                self._go.set()
                for callback in list(self._callbacks):
                    callback()
        self._on_end()

    def wait(self) -> None:
        """Until the test said `go`."""
        self._go.wait()

    def on_go(self, callback: Callable[[], Any]) -> None:
        """Call it at the next `go`, or now if that was said."""
        self._callbacks.append(callback)
        if self._go.is_set():
            callback()


# ---- workers


class Handler:
    """Does what a payload ``{"do": ..., "n": ...}`` asks for; any other is taken, and told unless it is bytes.

    Every run is told before it begins.
    """

    def __init__(self, stdin: Stdin) -> None:
        self._stdin = stdin

    def __call__(self, job: Job) -> Any:
        payload = job.payload
        if isinstance(payload, bytes):
            return len(payload)
        do, n = (payload["do"], payload["n"]) if isinstance(payload, dict) else ("echo", payload)
        tell("run", job=job.id, n=n, attempt=job.attempt, fence=job.fence)
        result = getattr(self, "do_" + do)(job, n)
        tell("end", job=job.id, n=n, fence=job.fence)
        return n if result is None else result

    def do_echo(self, job: Job, n: Any) -> None:
        return

    def do_large_result(self, job: Job, n: Any) -> bytes:
        return bytes(n)

    def do_wait(self, job: Job, n: Any) -> None:
        """Until the test says go, or somebody else has the job."""
        over = threading.Event()
        job.on_interrupt(over.set)
        self._stdin.on_go(over.set)
        over.wait()
        if job.lease_lost:
            tell("lease lost", job=job.id, n=n)

    def do_count(self, job: Job, n: Any) -> int:
        """One more than its parents counted together, which are all done."""
        parents = job.parents(timeout=30).values()
        assert all(parent.state == "done" for parent in parents)
        return 1 + sum(parent.result for parent in parents)

    def do_total(self, job: Job, n: Any) -> int:
        """What the steps before it returned, all together."""
        return sum(sum(results) for results in job.inputs(timeout=30).values())

    def do_fail_once(self, job: Job, n: Any) -> None:
        if job.attempt == 1:
            raise RuntimeError(f"job {n} fails once")

    def do_kill(self, job: Job, n: Any) -> None:
        os.kill(os.getpid(), 9)

    def do_wedge(self, job: Job, n: Any) -> None:
        """In its first run, no thread of this process runs any more: C code that does not let go of the interpreter."""
        if job.attempt == 1:
            ctypes.PyDLL(None).sleep(WEDGE_S)


def worker(endpoint: str, queues: list[str], **options: Any) -> None:
    """Handlers on threads. Tells `ready`, `run`, `end`, `lease lost`, `stopped`."""
    worker = Worker(endpoint, **options)
    handler = Handler(Stdin(on_end=lambda: worker.stop(wait=False)))

    def serve(job: Job) -> Any:
        return handler(job)

    for queue in queues:
        worker.task(queue)(serve)
    threading.Thread(target=_tell_ready, args=(worker,), daemon=True).start()
    worker.run()
    tell("stopped")


def streamer(endpoint: str, **options: Any) -> None:
    """A worker of `count` (a generator) and `acount` (an async one): numbers up to the payload's ``n``, or as many
    times ``size`` bytes. Tells `ready`, each `yield` if ``tells``, and at its end `closed` with the number of yields.
    """
    worker = Worker(endpoint, **options)
    Stdin(on_end=lambda: worker.stop(wait=False))

    def values(n: int, size: int, tells: bool) -> Iterator[Any]:
        for number in range(n):
            if tells:
                tell("yield", n=number)
            yield bytes(size) if size else number

    @worker.task("count")
    def count(job: Job, n: int, size: int = 0, tells: bool = False) -> Any:
        yields = 0
        try:
            for value in values(n, size, tells):
                yields += 1
                yield value
            return n
        finally:
            tell("closed", job=job.id, yields=yields)

    @worker.task("acount")
    async def acount(job: Job, n: int, size: int = 0, tells: bool = False) -> Any:
        yields = 0
        try:
            for value in values(n, size, tells):
                yields += 1
                yield value
        finally:
            tell("closed", job=job.id, yields=yields)

    threading.Thread(target=_tell_ready, args=(worker,), daemon=True).start()
    worker.run()
    tell("stopped")


def _tell_ready(worker: Worker) -> None:
    worker.ready.wait()
    tell("ready")


def consumer(
    endpoint: str, queue: str, settle: list[str], credit: int = 1, quiet: bool = False, **options: Any
) -> None:
    """A loop that settles a job as the entry of ``settle`` at its payload says, or as the last one."""
    with Consumer(endpoint, queue, credit=credit, **options) as consumer:
        Stdin(on_end=consumer.close)
        for job in consumer:
            n = job.payload
            how = settle[n] if isinstance(n, int) and n < len(settle) else settle[-1]
            if not quiet:
                tell("run", job=job.id, n=n, attempt=job.attempt, fence=job.fence)
            if how != "keep":
                getattr(job, how)()
    tell("stopped")


# ---- producers


def producer(endpoint: str, queue: str, jobs: int, name: str = "", timeout: float = 60, **options: Any) -> None:
    """Sends jobs one by one; tells `confirmed` for each, and `failed` where its confirmation did not come."""
    client = Client(endpoint, timeout=timeout)
    Stdin(on_end=client.close)
    tell("ready")
    for n in range(jobs):
        payload = [name, n] if name else n
        try:
            job = client.send(queue, payload, **options)
        except ZError as error:
            tell("failed", n=payload, kind=type(error).__name__)
        else:
            tell("confirmed", job=job.id, n=payload)
    tell("done")


def waiter(endpoint: str, queue: str, jobs: int) -> None:
    """Sends jobs, and then waits for their results; tells `waiting`, and `result` for each."""
    client = Client(endpoint)
    Stdin(on_end=client.close)
    handles = client.send_many(queue, range(jobs))
    tell("waiting")
    for handle in handles:
        tell("result", value=handle.result())


def crowd(endpoint: str, queue: str, payload: Any, jobs: int) -> None:
    """Waits for many results at once; tells `waiting` when the broker knows that, and `results` when it has them."""
    asyncio.run(_crowd(endpoint, queue, payload, jobs))


async def _crowd(endpoint: str, queue: str, payload: Any, jobs: int) -> None:
    async with AsyncClient(endpoint, timeout=60) as client:
        handles = await client.send_many(queue, [payload] * jobs)
        results = [asyncio.create_task(handle.result()) for handle in handles]
        await asyncio.sleep(0)  # each task has its turn, and asks for its result
        await client.stats()  # what was asked before was read before
        tell("waiting")
        await asyncio.gather(*results)
        tell("results", jobs=len(results))


def pingpong(endpoint: str, queue: str) -> None:
    """Sends a job and awaits its result, again and again until told `go`; tells `round`, and the slowest at the end."""
    client = Client(endpoint)
    over = threading.Event()
    Stdin(on_end=over.set).on_go(over.set)
    slowest_ms = 0.0
    n = 0
    while not over.is_set():
        n += 1
        began = time.monotonic()
        if client.send(queue, n).result(timeout=20) != n:
            raise SystemExit(f"another result than {n}")
        slowest_ms = max(slowest_ms, (time.monotonic() - began) * 1000)
        tell("round", n=n)
    tell("done", slowest_ms=slowest_ms)


def probe(endpoint: str, every_ms: float) -> None:
    """Asks the broker something small, again and again; tells `lap` at each `go`: how long the answers took since."""
    client = Client(endpoint, timeout=60)
    over = threading.Event()
    took_ms: list[float] = []
    stdin = Stdin(on_end=over.set)
    stdin.on_go(lambda: tell("lap", **_summary(took_ms)))
    client.stats()
    tell("ready")
    while not over.wait(every_ms / 1000):
        began = time.perf_counter()
        client.stats()
        took_ms.append((time.perf_counter() - began) * 1000)


def _summary(took_ms: list[float]) -> dict[str, float]:
    """Of the times so far, which are forgotten."""
    times = sorted(took_ms)
    del took_ms[: len(times)]
    at = {"median_ms": 0.5, "p99_ms": 0.99}
    told = {name: round(times[int(len(times) * share)], 1) for name, share in at.items()} if times else {}
    return {"asked": len(times), **told, "worst_ms": round(times[-1], 1) if times else 0.0}


def bulk(endpoint: str, queue: str, jobs: int, payload_bytes: int) -> None:
    """Sends very many jobs from a generator; tells what its memory grew by in the meantime."""
    client = Client(endpoint, timeout=60)
    client.send(queue, bytes(payload_bytes))
    before = _rss_bytes()
    sent = client.send_many(queue, (n.to_bytes(payload_bytes, "big") for n in range(jobs)))
    tell("sent", jobs=len(sent), first=sent[0].id, last=sent[-1].id, grown_bytes=_rss_bytes() - before)
    client.close()


def _rss_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stopwatch(ms: int) -> None:
    """Tells `over` when so much time has passed in this process, for tests that have no broker to ask."""
    threading.Event().wait(ms / 1000)
    tell("over")


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
