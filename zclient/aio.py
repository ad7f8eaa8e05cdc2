"""The asyncio client: the same methods as coroutines, over the same procedures, session and link. It starts no thread.

It belongs to the event loop that its first call runs in, and its calls may run side by side there. A call that is
cancelled withdraws what did not leave yet; what left may be stored or not. After the loop is closed, or in a forked
child, the next call opens a new connection under a new incarnation.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar, Unpack

from zclient import schedules, verbs, versions
from zclient.aiofeed import feeder
from zclient.aioflows import AsyncFlows
from zclient.aiotopics import AsyncTopicMethods
from zclient.batches import BATCH_JOBS, Pipeline
from zclient.config import Duration, Moment, batch_size, one_job
from zclient.durations import parse_duration
from zclient.errors import JobFailed, ResultTimeout, ZError
from zclient.handles import AsyncJobHandle, Jobs, JobStatus
from zclient.joboptions import JobOptions
from zclient.jobs import id_bytes, new_id, queue_name, wire_options
from zclient.schedules import Schedule, schedule_arguments
from zclient.streaming import WINDOW, AsyncStream, Reading
from zclient.unconfirmed import AsyncUnconfirmedJob
from zclient.watching import Following

T = TypeVar("T")

CANCEL_S = 1.0
"""How long a call that timed out tries to have its job cancelled."""


class AsyncClient(AsyncFlows, AsyncTopicMethods):
    """As `Client`, for asyncio. ``async with`` closes it; otherwise await `close`."""

    # ---- sending

    async def send(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        batch: Any = None,
        timeout: Duration | None = None,
        **options: Unpack[JobOptions],
    ) -> AsyncJobHandle:
        """Send a job; returns when the broker has it on disk. Raises as `Client.send`."""
        group = one_job(queue, payload, id, wire_options(batch=batch, **options))
        timeout_ms = self._config.timeout(timeout)
        instead = await self._run(lambda session, now: verbs.sending(session, now, group, timeout_ms))
        sent = group.ids[0]
        return self._handle(instead.get(sent, sent).decode(), sent in instead)

    async def send_nowait(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        batch: Any = None,
        timeout: Duration | None = None,
        **options: Unpack[JobOptions],
    ) -> AsyncUnconfirmedJob:
        """Send a job without waiting for the broker to have it: its `AsyncUnconfirmedJob` tells, and `flush` waits for
        all. It is a coroutine since it waits for room; see `Client.send_nowait`."""
        group = one_job(queue, payload, id, wire_options(batch=batch, **options))
        return AsyncUnconfirmedJob(self, *(await self._living().take(group, self._config.timeout(timeout))))

    async def send_many(
        self,
        queue: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        *,
        timeout: Duration | None = None,
        batch: int = BATCH_JOBS,
        progress: Callable[[int], Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Jobs[AsyncJobHandle]:
        """Send a job for each payload, which may come from an async iterable; see `Client.send_many`."""
        return await self._send_many(queue, payloads, options, timeout, batch, progress)

    async def _send_many(
        self,
        queue: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        options: Mapping[str, Any],
        timeout: Duration | None,
        batch: int,
        progress: Callable[[int], Any] | None,
    ) -> Jobs[AsyncJobHandle]:
        name, wire, size = queue_name(queue), wire_options(**options), batch_size(batch)
        timeout_ms, feed = self._config.timeout(timeout), feeder(payloads)
        ids = await self._run(
            lambda session, now: Pipeline(session, name, wire, timeout_ms, size).run(now), feed, progress
        )
        return Jobs(ids, self._handle)

    async def call(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: Duration = 10,
        **options: Unpack[JobOptions],
    ) -> Any:
        """Send a job and wait for what it returns; see `Client.call`.

        A task that is cancelled while it waits cancels the job, for which it takes a second at most.
        """
        deadline = time.monotonic() + parse_duration(timeout)
        expires = options.get("ttl") is None
        if expires:
            options["ttl"] = timeout
        own = self.job(new_id().decode() if id is None else id)
        job = own
        try:
            job = await self.send(queue, payload, id=own.id, timeout=timeout, **options)
            return await job.result(timeout=max(0.0, deadline - time.monotonic()))
        except JobFailed as error:
            if expires and not job.existing:
                verbs.refuse_late(error)
            raise
        except (ResultTimeout, asyncio.CancelledError) as error:
            if job.existing:  # it is somebody else's
                raise
            with contextlib.suppress(ZError):  # what counts is that the caller's time is over
                await own.cancel(timeout=CANCEL_S)
            if isinstance(error, ResultTimeout):
                raise verbs.gave_up(own.id) from None
            raise

    def stream(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: Duration | None = 10,
        on_restart: str = "raise",
        window: int = WINDOW,
        **options: Unpack[JobOptions],
    ) -> AsyncStream:
        """Iterate over what a job's handler yields; see `Client.stream`. The job is sent when the first value is asked
        for, or by ``async with``."""
        reading = Reading(
            queue, payload, id, timeout=timeout, on_restart=on_restart, window=window, options={**options}
        )
        job = self.job(reading.identifier.decode())
        return AsyncStream(reading, job, self._run, self._nudge, self._config.timeout_ms)

    # ---- single jobs

    def job(self, id: str) -> AsyncJobHandle:
        """A handle of the job with this id; asks nothing."""
        return self._handle(id_bytes(id).decode())

    async def get(self, id: str | AsyncJobHandle, *, timeout: Duration | None = None) -> JobStatus:
        """What the broker knows of a job; `NotFound` if that is nothing."""
        return await self._ask(verbs.show(id), timeout)

    async def result(self, id: str | AsyncJobHandle, timeout: Duration | None = None) -> Any:
        """Wait for a job's end and return what it returned; see `Client.result`."""
        identifier, timeout_ms = id_bytes(id), self._config.patience(timeout)
        return await self._run(lambda session, now: verbs.ending(session, now, identifier, timeout_ms))

    def watch(self, id: str | AsyncJobHandle, timeout: Duration | None = None) -> AsyncIterator[JobStatus]:
        """What the broker knows of a job: at once, and after each change, until it is over; see `Client.watch`."""
        return self._follow(Following(id_bytes(id), self._config.patience(timeout)))

    async def why(self, id: str | AsyncJobHandle, *, timeout: Duration | None = None) -> verbs.Why:
        """Why a job does not run, with the figures; of one that runs or is over, what became of it."""
        return await self._ask(verbs.why(id), timeout)

    async def cancel(self, id: str | AsyncJobHandle, *, timeout: Duration | None = None) -> str:
        """Cancel a job: ``cancelled``, or ``leased`` if it runs: its worker is told."""
        return await self._ask(verbs.cancel(id), timeout)

    # ---- listings

    def jobs(
        self,
        queue: str | None = None,
        *,
        state: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = 100,
        timeout: Duration | None = None,
    ) -> AsyncIterator[JobStatus]:
        """Jobs, fetched page by page: at most ``limit`` of them, None for all. ``timeout`` is for each page.

        ``since`` and ``until`` bound when they were finished, and of those that are not, when they were made.
        """
        chosen = verbs.selection(queue, state=state, since=since, until=until)
        return self._pages(verbs.job_pages("list", chosen), limit, timeout)

    def dead(
        self,
        queue: str | None = None,
        *,
        reason: str | None = None,
        error: str | None = None,
        limit: int | None = 100,
        timeout: Duration | None = None,
    ) -> AsyncIterator[JobStatus]:
        """Dead jobs, likewise; of one reason (``attempts``, ``expired``, ...), or whose last error is of this type."""
        chosen = verbs.selection(queue, reason=reason, error=error)
        return self._pages(verbs.job_pages("dead", chosen), limit, timeout)

    async def dead_groups(
        self, queue: str | None = None, *, limit: int | None = None, timeout: Duration | None = None
    ) -> list[dict[str, Any]]:
        """Dead jobs counted by queue, reason and error (its type, and the first line of its text), most jobs first.

        Each is a map: queue, reason, error, text, jobs, first_at, last_at (Unix ms), and example, the id of one.
        """
        return await self._ask(verbs.dead_groups(queue, limit), timeout)

    async def queues(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """All queues, with what is in them."""
        return await self._ask(verbs.queues(), timeout)

    async def queue(self, name: str, *, timeout: Duration | None = None) -> dict[str, Any]:
        """One queue; its ``policy`` is a map from each option to its `PolicyValue`."""
        return await self._ask(verbs.queue(name), timeout)

    async def workers(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """The connected workers."""
        return await self._ask(verbs.workers(), timeout)

    async def versions(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """How many of the connected peers are of which version of zbroker: maps with ``version``, ``serves``, ``peers``
        and the name of one as ``example``."""
        return await self._ask(versions.versions(), timeout)

    async def stats(self, *, timeout: Duration | None = None) -> dict[str, Any]:
        """The broker's counters."""
        return await self._ask(verbs.stats(), timeout)

    # ---- dead jobs

    async def replay(
        self,
        ids: str | AsyncJobHandle | Iterable[str | AsyncJobHandle] | None = None,
        *,
        queue: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        before: Moment | None = None,
        rate: int | None = None,
        timeout: Duration | None = None,
    ) -> verbs.Bulk:
        """Send dead jobs to their queue again; see `Client.replay`."""
        narrowed = {"reason": reason, "error": error, "before": before}
        return verbs.total(
            [await self._ask(verb, timeout) for verb in verbs.bulk("replay", ids, queue, rate, **narrowed)]
        )

    async def drop(
        self,
        ids: str | AsyncJobHandle | Iterable[str | AsyncJobHandle] | None = None,
        *,
        queue: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        before: Moment | None = None,
        timeout: Duration | None = None,
    ) -> verbs.Bulk:
        """Remove dead jobs for good: these, or those of a queue, narrowed as in `replay`. Answers as that."""
        narrowed = {"reason": reason, "error": error, "before": before}
        return verbs.total(
            [await self._ask(verb, timeout) for verb in verbs.bulk("drop", ids, queue, None, **narrowed)]
        )

    # ---- queues

    async def set_queue(self, queue: str, /, *, timeout: Duration | None = None, **options: Any) -> verbs.Policy:
        """Set options of a queue; see `Client.set_queue`."""
        return await self._ask(verbs.set_queue(queue, options), timeout)

    async def unset_queue(self, queue: str, /, *options: str, timeout: Duration | None = None) -> verbs.Policy:
        """Let the configuration decide these options of a queue again; returns its policy then."""
        return await self._ask(verbs.unset_queue(queue, options), timeout)

    async def pause(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Stop deliveries from a queue; it goes on taking jobs."""
        await self._ask(verbs.gate("pause", queue), timeout)

    async def resume(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Deliver from it again, and take new jobs: the end of `pause` and of `drain`."""
        await self._ask(verbs.gate("resume", queue), timeout)

    async def drain(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Take no new jobs for a queue (`QueueClosed`), and work off those it has."""
        await self._ask(verbs.gate("drain", queue), timeout)

    async def purge(self, queue: str, *, timeout: Duration | None = None) -> int:
        """Remove the waiting jobs of a queue; how many they were."""
        return await self._ask(verbs.purge(queue), timeout)

    # ---- schedules; see the methods of `Client`

    async def schedule(
        self,
        name: str,
        queue: str,
        payload: Any = None,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        overlap: str = "allow",
        catch_up: str = "one",
        catch_up_limit: int = 100,
        paused: bool = False,
        timeout: Duration | None = None,
        **options: Unpack[JobOptions],
    ) -> Schedule:
        """Make or change a schedule; see `Client.schedule`."""
        arguments = schedule_arguments(
            name,
            queue=queue,
            payload=payload,
            cron=cron,
            every=every,
            tz=tz,
            overlap=overlap,
            catch_up=catch_up,
            catch_up_limit=catch_up_limit,
            paused=paused,
            **options,
        )
        return await self._ask(schedules.put(arguments), timeout)

    async def schedules(self, *, timeout: Duration | None = None) -> list[Schedule]:
        """All schedules, by name."""
        return await self._ask(schedules.listed(), timeout)

    async def remove_schedule(self, name: str, *, timeout: Duration | None = None) -> Schedule:
        """Remove a schedule; the jobs that it made stay."""
        return await self._ask(schedules.change("remove", name), timeout)

    async def pause_schedule(self, name: str, *, timeout: Duration | None = None) -> Schedule:
        """Let a schedule rest."""
        return await self._ask(schedules.change("pause", name), timeout)

    async def resume_schedule(self, name: str, *, timeout: Duration | None = None) -> Schedule:
        """Let it go on, from its next occurrence."""
        return await self._ask(schedules.change("resume", name), timeout)

    async def run_schedule(self, name: str, *, timeout: Duration | None = None) -> AsyncJobHandle:
        """Run a schedule once now."""
        return self.job(await self._ask(schedules.run_now(name), timeout))

    # ---- its life

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with contextlib.suppress(*(() if kind is None else (ZError,))):  # what ended the block says more
                await self.flush()
        finally:
            await self.close()

    def _handle(self, identifier: str, existing: bool = False, /) -> AsyncJobHandle:
        return AsyncJobHandle(self, identifier, existing)
