"""Where handlers run: threads for plain functions, one event loop in a thread of its own for ``async def``.

It owns these threads and starts them when they are first needed. Each run ends in one call of ``finished``, on the
thread that ran it. It knows no broker and no lease.

A thread cannot be stopped from outside: Python has no safe way. So a plain function that outlives its timeout keeps
its thread, and its slot, until it returns. The threads are daemons: such a one does not hold the process at its end.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable

from zworker.outcomes import Settled
from zworker.runs import Run, interruption, run_coroutine, run_plain

Finished = Callable[[Run, list[Settled]], None]


class Executor:
    """Runs what it is given at once: the worker never gives more than its slots. Used from one thread."""

    def __init__(self, threads: int, finished: Finished, name: str, max_result_bytes: Callable[[], int]) -> None:
        self._threads = _Threads(threads, finished, name, max_result_bytes)
        self._coroutines = _Coroutines(finished, name, max_result_bytes)

    def start(self, run: Run) -> None:
        """Begin a run; its end is told through ``finished``."""
        if run.task.is_async:
            self._coroutines.start(run)
        else:
            self._threads.start(run)

    def interrupt(self, run: Run, why: str) -> None:
        """Cancel the coroutine of a run; a plain function goes on. ``why``: cancelled, timeout, max_run or closing."""
        if run.task.is_async:
            self._coroutines.interrupt(run, why)

    def close(self, within_s: float) -> None:
        """End the coroutines and the idle threads, and leave stuck ones behind; waits at most so long."""
        until = time.monotonic() + within_s
        self._coroutines.close(until)
        self._threads.close(until)


class _Threads:
    """At most ``most`` daemon threads over one queue; one more is started only if none is free."""

    def __init__(self, most: int, finished: Finished, name: str, max_result_bytes: Callable[[], int]) -> None:
        self._most = most
        self._finished = finished
        self._name = name
        self._max_result_bytes = max_result_bytes
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unclaimed = 0  # runs in the queue, less the threads that are free to take one
        self._threads: list[threading.Thread] = []

    def start(self, run: Run) -> None:
        with self._lock:
            self._unclaimed += 1
            needed = self._unclaimed > 0 and len(self._threads) < self._most
        self._runs.put(run)
        if needed:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._unclaimed -= 1
            run = self._runs.get()
            if run is None:
                return
            self._finished(run, run_plain(run, self._max_result_bytes()))

    def close(self, until: float) -> None:
        for _ in self._threads:
            self._runs.put(None)
        with self._lock:
            stuck = len(self._threads) + self._unclaimed
        for thread in self._threads if not stuck else ():
            thread.join(max(0.0, until - time.monotonic()))


class _Coroutines:
    """An event loop that runs in its own thread from the first coroutine on."""

    def __init__(self, finished: Finished, name: str, max_result_bytes: Callable[[], int]) -> None:
        self._finished = finished
        self._name = name
        self._max_result_bytes = max_result_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: set[Run] = set()

    def start(self, run: Run) -> None:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._work, args=(self._loop,), name=f"{self._name}-async", daemon=True
            )
            self._thread.start()
        self._loop.call_soon_threadsafe(self._begin, run)

    def interrupt(self, run: Run, why: str) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, run, why)

    # These four run in the loop's thread.

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _begin(self, run: Run) -> None:
        run.future = asyncio.get_running_loop().create_task(run_coroutine(run, self._max_result_bytes()))
        self._running.add(run)
        run.future.add_done_callback(lambda future: self._ended(run, future))

    def _cancel(self, run: Run, why: str) -> None:
        if run in self._running and run.future is not None:
            run.interrupted = run.interrupted or why
            run.future.cancel()

    def _ended(self, run: Run, future: "asyncio.Task[list[Settled]]") -> None:
        self._running.discard(run)
        # A coroutine that is cancelled before its first step never gets to say so itself.
        self._finished(run, interruption(run) if future.cancelled() else future.result())

    def close(self, until: float) -> None:
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        loop.call_soon_threadsafe(self._stop)
        self._thread.join(max(0.0, until - time.monotonic()))

    def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        for run in list(self._running):
            self._cancel(run, "closing")
        ending = [run.future for run in self._running if run.future is not None]
        if ending:
            asyncio.gather(*ending, return_exceptions=True).add_done_callback(lambda _: loop.stop())
        else:
            loop.stop()
