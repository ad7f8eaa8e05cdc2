"""Programs that the tests run as processes: workers, consumers and producers that report what happens, line by line.

Run as ``python -m tests.system.programs NAME JSON``. Each prints events as JSON lines, each with one `write`, so that
what was told survives a kill; a line on stdin tells it to go on, and the end of stdin to end.
"""

import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from zclient import Client
from zworker import Consumer, Job, Reject, Worker

WEDGE_S = 60


def tell(event: str, **facts: Any) -> None:
    os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")


class Stdin:
    """Commands from the test. ``go`` is set by the line `go`; the end of stdin calls ``on_end``."""

    def __init__(self, on_end: Callable[[], Any]) -> None:
        self.go = threading.Event()
        self._on_end = on_end
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            if line == "go\n":
                self.go.set()
        self._on_end()


# ---- workers


class Handler:
    """What a job asks for in its payload: ``{"do": ..., "n": ...}``. Every run is told before it does anything."""

    def __init__(self, stdin: Stdin) -> None:
        self._stdin = stdin

    def __call__(self, job: Job, do: str = "echo", n: Any = None) -> Any:
        tell("run", job=job.id, n=n, attempt=job.attempt, fence=job.fence)
        getattr(self, do)(job, n)
        tell("end", job=job.id, n=n, attempt=job.attempt)
        return n

    def echo(self, job: Job, n: Any) -> None:
        return

    def wait(self, job: Job, n: Any) -> None:
        """Until the test says go, or the job is no longer ours."""
        interrupted = threading.Event()
        job.on_interrupt(interrupted.set)
        threading.Thread(target=lambda: (self._stdin.go.wait(), interrupted.set()), daemon=True).start()
        interrupted.wait()
        if job.lease_lost:
            tell("lease lost", job=job.id, n=n)

    def fail(self, job: Job, n: Any) -> None:
        raise RuntimeError(f"job {n} fails")

    def fail_once(self, job: Job, n: Any) -> None:
        if job.attempt == 1:
            raise RuntimeError(f"job {n} fails once")

    def reject(self, job: Job, n: Any) -> None:
        raise Reject(f"job {n} is rejected")

    def wedge(self, job: Job, n: Any) -> None:
        """Hold the interpreter, so that no thread of this process runs: a call of C that does not let go of the GIL."""
        ctypes.PyDLL(None).sleep(WEDGE_S)


def worker(endpoint: str, queues: list[str], **options: Any) -> None:
    """Handlers on threads. Tells `ready`, `run`, `end`, `lease lost`, and `stopped`."""
    worker = Worker(endpoint, **options)
    handler = Handler(Stdin(on_end=lambda: worker.stop(wait=False)))

    def serve(job: Job) -> Any:
        payload = job.payload
        return handler(job, **payload) if isinstance(payload, dict) else handler(job, n=payload)

    for queue in queues:
        worker.task(queue)(_taking_anything(serve))
    threading.Thread(target=lambda: (worker.ready.wait(), tell("ready")), daemon=True).start()
    worker.run()
    tell("stopped")
