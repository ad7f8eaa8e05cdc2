"""The blocking client: the methods people call from ordinary code. It starts no thread.

It may be used by any number of threads. After a fork the child's calls open a connection of their own under a new
incarnation, so clients and handles made before the fork go on working in both processes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from zclient import verbs
from zclient.batches import BATCH_JOBS, Chunks, Pipeline
from zclient.config import DEFAULT_ENDPOINT, Config, Duration, Headers, Moment, OpenTransport, batch_size, one_job
from zclient.engine import Engine
from zclient.errors import ClosedError
from zclient.handles import JobHandle, Jobs, JobStatus
from zclient.jobs import id_bytes, queue_name, wire_options

T = TypeVar("T")


class Client:
    """A producer's connection to a broker. Several endpoints are addresses of one broker.

    ``timeout`` bounds every call that does not say otherwise. Nothing is sent before the first call. ``transport``
    makes what carries the session's frames; it is for brokers in the same process.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        credentials: Any = None,
        name: str | None = None,
        timeout: Duration = 10,
        transport: OpenTransport | None = None,
    ) -> None:
        self._config = Config(endpoints, credentials, name, timeout, transport)
        self._engines: dict[int, Engine] = {}
        self._closed = False

    # ---- sending

    def send(
        self,
        queue: str,
        payload: Any = None,
        *,
        priority: int | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        at: Moment | None = None,
        max_attempts: int | None = None,
        headers: Headers | None = None,
        id: str | None = None,
        timeout: Duration | None = None,
        **later: Any,
    ) -> JobHandle:
        """Send a job; returns when the broker has it on disk.

        Raises `BrokerUnreachable` if it did not leave this process in time: it never will then. Raises
        `OutcomeUnknown`, which carries the id, if it left and was not answered: sending that id again is safe. Raises
        `Refused` or one of its kinds if the broker refused it; one that says when to try again is followed within the
        timeout.

        ``priority``: -100 to 100, higher is served first. ``key``: jobs with one key share a lane. ``delay``, ``at``:
        keep it back for so long, until then. ``max_attempts``: runs before it is dead, the first counts. ``headers``:
        context beside the payload. ``id``: the same job under the same id is stored once.
        """
        options = wire_options(
            priority=priority, key=key, delay=delay, at=at, max_attempts=max_attempts, headers=headers, **later
        )
        group = one_job(queue, payload, id, options)
        timeout_ms = self._config.timeout(timeout)
        self._engine().run(lambda session, now: verbs.sending(session, now, group, timeout_ms))
        return JobHandle(self, group.ids[0].decode())

    def send_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        priority: int | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        at: Moment | None = None,
        max_attempts: int | None = None,
        headers: Headers | None = None,
        timeout: Duration | None = None,
        batch: int = BATCH_JOBS,
        progress: Callable[[int], Any] | None = None,
        **later: Any,
    ) -> Jobs[JobHandle]:
        """Send a job for each payload, in batches that do not wait for each other; returns their handles in order.

        ``timeout`` is for each batch. ``progress`` is called with the number of jobs confirmed so far. Memory is
        bounded however many there are. On an error ``confirmed`` and ``unknown`` of the exception name the jobs that
        are stored and those that may be; no other is.
        """
        options = wire_options(
            priority=priority, key=key, delay=delay, at=at, max_attempts=max_attempts, headers=headers, **later
        )
        name, size = queue_name(queue), batch_size(batch)
        timeout_ms, chunks = self._config.timeout(timeout), Chunks(payloads)
        ids = self._engine().run(
            lambda session, now: Pipeline(session, name, options, timeout_ms, size).run(now), chunks.next, progress
        )
        return Jobs(ids, self.job)

    # ---- single jobs

    def job(self, id: str) -> JobHandle:
        """A handle of the job with this id; asks nothing."""
        return JobHandle(self, id_bytes(id).decode())

    def get(self, id: str | JobHandle, *, timeout: Duration | None = None) -> JobStatus:
        """What the broker knows of a job; `NotFound` if that is nothing."""
        return self._ask(verbs.show(id), timeout)

    def result(self, id: str | JobHandle, timeout: Duration | None = None) -> Any:
        """Wait for a job's end, without end if no timeout is given, and return what it returned.

        Raises `JobFailed`, `JobCancelled`, `ResultExpired` if the broker knows no such job, and `ResultTimeout` (a
        TimeoutError) if it did not end in time. It waits through lost connections and restarts of the broker.
        """
        identifier = id_bytes(id)
        timeout_ms = self._config.patience(timeout)
        return self._engine().run(lambda session, now: verbs.ending(session, now, identifier, timeout_ms))

    def cancel(self, id: str | JobHandle, *, timeout: Duration | None = None) -> str:
        """Cancel a job: ``cancelled``, or ``leased`` if it runs: its worker is told. `NotFound` if nobody knows it."""
        return self._ask(verbs.cancel(id), timeout)

    # ---- listings

    def jobs(
        self,
        queue: str | None = None,
        *,
        state: str | None = None,
        limit: int | None = 100,
        timeout: Duration | None = None,
    ) -> Iterator[JobStatus]:
        """Jobs, fetched page by page: at most ``limit`` of them, None for all. ``timeout`` is for each page."""
        return self._pages("list", queue, state, limit, timeout)

    def dead(
        self, queue: str | None = None, *, limit: int | None = 100, timeout: Duration | None = None
    ) -> Iterator[JobStatus]:
        """Dead jobs, likewise."""
        return self._pages("dead", queue, None, limit, timeout)

    def queues(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """All queues, with what is in them."""
        return self._ask(verbs.queues(), timeout)

    def queue(self, name: str, *, timeout: Duration | None = None) -> dict[str, Any]:
        """One queue, with its policy."""
        return self._ask(verbs.queue(name), timeout)

    def workers(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """The connected workers."""
        return self._ask(verbs.workers(), timeout)

    def stats(self, *, timeout: Duration | None = None) -> dict[str, Any]:
        """The broker's counters."""
        return self._ask(verbs.stats(), timeout)

    # ---- orders

    def replay(
        self,
        ids: str | JobHandle | Iterable[str | JobHandle] | None = None,
        *,
        queue: str | None = None,
        rate: int | None = None,
        timeout: Duration | None = None,
    ) -> verbs.Bulk:
        """Send dead jobs to their queue again: these, or all of a queue, at most ``rate`` a second.

        Named jobs are replayed all or none, a thousand at a time; those of a queue in slices, which go on in the broker
        after the answer. ``timeout`` is for each thousand. Raises `NotFound` if one of them is not dead.
        """
        return verbs.total([self._ask(verb, timeout) for verb in verbs.bulk("replay", ids, queue, rate)])

    def drop(
        self,
        ids: str | JobHandle | Iterable[str | JobHandle] | None = None,
        *,
        queue: str | None = None,
        timeout: Duration | None = None,
    ) -> verbs.Bulk:
        """Remove dead jobs for good: these, or all of a queue. Answers as `replay`."""
        return verbs.total([self._ask(verb, timeout) for verb in verbs.bulk("drop", ids, queue, None)])

    def pause(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Stop deliveries from a queue; it goes on taking jobs."""
        self._ask(verbs.pause(queue, paused=True), timeout)

    def resume(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Deliver from it again."""
        self._ask(verbs.pause(queue, paused=False), timeout)

    def purge(self, queue: str, *, timeout: Duration | None = None) -> int:
        """Remove the waiting jobs of a queue; how many they were."""
        return self._ask(verbs.purge(queue), timeout)

    # ---- its life

    def close(self) -> None:
        """Say goodbye and disconnect. Calls in other threads end with `ClosedError`. A forked child closes its own."""
        self._closed = True
        engine = self._engines.get(os.getpid())
        if engine is not None:
            engine.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _engine(self) -> Engine:
        """This process's engine. One that a fork copied holds the parent's locks and sockets, and is left alone."""
        if self._closed:
            raise ClosedError()
        engine = self._engines.get(os.getpid())
        return engine or self._engines.setdefault(os.getpid(), Engine(self._config))

    def _ask(self, verb: verbs.Verb[T], timeout: Duration | None) -> T:
        timeout_ms = self._config.timeout(timeout)
        return self._engine().run(lambda session, now: verbs.asking(session, now, verb, timeout_ms))

    def _pages(
        self, name: str, queue: str | None, state: str | None, limit: int | None, timeout: Duration | None
    ) -> Iterator[JobStatus]:
        cursor: Any = None
        left = verbs.rows_wanted(limit)
        while left > 0:
            page = self._ask(verbs.page(name, queue, state, left, cursor), timeout)
            yield from page.jobs
            left -= len(page.jobs)
            cursor = page.cursor
            if cursor is None:
                return
