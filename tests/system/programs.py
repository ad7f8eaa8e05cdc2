"""Programs that the tests run as processes: workers, consumers and producers that report what happens, line by line.

Run as ``python -m tests.system.programs NAME JSON``. Each prints events as JSON lines, each with one `write`, so that
what was told survives a kill. The line `go` on stdin tells it to go on, the end of stdin to end.
"""

import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from zclient import Client, ZError
from zworker import Consumer, Job, Reject, Worker

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
                for callback in self._callbacks:
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
    """Does what a payload ``{"do": ..., "n": ...}`` asks for; any other is echoed. Every run is told before it begins."""

    def __init__(self, stdin: Stdin) -> None:
        self._stdin = stdin

    def __call__(self, job: Job) -> Any:
        payload = job.payload
        do, n = (payload["do"], payload["n"]) if isinstance(payload, dict) else ("echo", payload)
        tell("run", job=job.id, n=n, attempt=job.attempt, fence=job.fence)
        getattr(self, "do_" + do)(job, n)
        tell("end", job=job.id, n=n, fence=job.fence)
        return n

    def do_echo(self, job: Job, n: Any) -> None:
        return

    def do_wait(self, job: Job, n: Any) -> None:
        """Until the test says go, or somebody else has the job."""
        over = threading.Event()
        job.on_interrupt(over.set)
        self._stdin.on_go(over.set)
        over.wait()
        if job.lease_lost:
            tell("lease lost", job=job.id, n=n)

    def do_fail_once(self, job: Job, n: Any) -> None:
        if job.attempt == 1:
            raise RuntimeError(f"job {n} fails once")

    def do_reject(self, job: Job, n: Any) -> None:
        raise Reject(f"job {n} is rejected")

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
    threading.Thread(target=lambda: (worker.ready.wait(), tell("ready")), daemon=True).start()
    worker.run()
    tell("stopped")


def consumer(endpoint: str, queue: str, settle: list[str], credit: int = 1, quiet: bool = False, **options: Any) -> None:
    """A loop that settles the jobs in turn as ``settle`` says, its last entry for all that come then."""
    with Consumer(endpoint, queue, credit=credit, **options) as consumer:
        Stdin(on_end=consumer.close)
        for number, job in enumerate(consumer):
            how = settle[min(number, len(settle) - 1)]
            if not quiet:
                tell("run", job=job.id, n=job.payload, attempt=job.attempt, fence=job.fence)
            if how != "keep":
                getattr(job, how)()
    tell("stopped")


# ---- producers


def producer(endpoint: str, queue: str, jobs: int, name: str = "", timeout: float = 60, **options: Any) -> None:
    """Sends jobs one by one; tells `confirmed` for each, and `unknown` where its confirmation did not come."""
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


def stopwatch(ms: int) -> None:
    """Tells `over` when so much time has passed in this process, for tests that have no broker to ask."""
    threading.Event().wait(ms / 1000)
    tell("over")


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
