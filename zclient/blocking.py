"""The blocking client: the methods people call from ordinary code. Only `send_nowait` starts a thread.

It may be used by any number of threads. After a fork the child's calls open a connection of their own under a new
incarnation, so clients and handles made before the fork go on working in both processes.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar, Unpack

from zclient import schedules, verbs, versions
from zclient.batches import BATCH_JOBS, Chunks, Pipeline
from zclient.blockingtopics import TopicMethods
from zclient.config import Duration, Moment, batch_size, one_job
from zclient.durations import parse_duration
from zclient.errors import JobFailed, ResultTimeout, ZError
from zclient.flows import Flows
from zclient.handles import JobHandle, Jobs, JobStatus
from zclient.joboptions import JobOptions
from zclient.jobs import id_bytes, queue_name, wire_options
from zclient.schedules import Schedule, schedule_arguments
from zclient.streaming import WINDOW, Reading, Stream
from zclient.unconfirmed import UnconfirmedJob
from zclient.watching import Following

T = TypeVar("T")

CANCEL_S = 1.0
"""How long a call that timed out tries to have its job cancelled."""


class Client(Flows, TopicMethods):
    """A producer's connection to a broker. Several endpoints are addresses of one broker. Without any the environment
    says where it is (``ZBROKER_ENDPOINT``, as for the command lines), else it is ``tcp://127.0.0.1:5555``.

    ``timeout`` bounds every call that does not say otherwise. Nothing is sent before the first call. ``transport``
    makes what carries the session's frames; it is for brokers in the same process.
    """

    # ---- sending

    def send(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        batch: Any = None,
        timeout: Duration | None = None,
        **options: Unpack[JobOptions],
    ) -> JobHandle:
        """Send a job; returns when the broker has it on disk.

        Raises `BrokerUnreachable` if it did not leave this process in time: it never will then. Raises
        `OutcomeUnknown`, which carries the id, if it left and was not answered: sending that id again is safe. Raises
        `Refused` or one of its kinds if the broker refused it; one that says when to try again is followed within the
        timeout.

        The same job under the same ``id`` is stored once. `JobOptions` tells what the other options mean. Where the
        job's unique text was taken, and the first job is to stay, the handle is of that one, and says `existing`.
        ``batch``: the batch that it belongs to, by handle or id.
        """
        group = one_job(queue, payload, id, wire_options(batch=batch, **options))
        timeout_ms = self._config.timeout(timeout)
        instead = self._run(lambda session, now: verbs.sending(session, now, group, timeout_ms))
        sent = group.ids[0]
        return self._handle(instead.get(sent, sent).decode(), sent in instead)

    def send_nowait(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        batch: Any = None,
        timeout: Duration | None = None,
        **options: Unpack[JobOptions],
    ) -> UnconfirmedJob:
        """Send a job without waiting for the broker to have it: its `UnconfirmedJob` tells, and `flush` waits for all.

        It leaves at once, or with others that wait; a thread works for them while any is unconfirmed. What fails raises
        at `UnconfirmedJob.wait`, or at `flush` if nobody waited; the ``with`` block flushes at its end. A process that
        ends before may lose what is unconfirmed. With 10,000 jobs or 32 MiB unconfirmed it waits for room.
        """
        group = one_job(queue, payload, id, wire_options(batch=batch, **options))
        return UnconfirmedJob(self, *self._engine().take(group, self._config.timeout(timeout)))

    def send_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        timeout: Duration | None = None,
        batch: int = BATCH_JOBS,
        progress: Callable[[int], Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Jobs[JobHandle]:
        """Send a job for each payload, in batches that do not wait for each other; returns their handles in order.

        ``timeout`` is for each batch. ``progress`` is called with the number of jobs confirmed so far. Memory is
        bounded however many there are. On an error ``confirmed`` and ``unknown`` of the exception name the jobs that
        are stored and those that may be; no other is. The options are for each job, as in `send`.
        """
        return self._send_many(queue, payloads, options, timeout, batch, progress)

    def _send_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        options: Mapping[str, Any],
        timeout: Duration | None,
        batch: int,
        progress: Callable[[int], Any] | None,
    ) -> Jobs[JobHandle]:
        name, wire, size = queue_name(queue), wire_options(**options), batch_size(batch)
        timeout_ms, chunks = self._config.timeout(timeout), Chunks(payloads)
        ids = self._run(
            lambda session, now: Pipeline(session, name, wire, timeout_ms, size).run(now), chunks.next, progress
        )
        return Jobs(ids, self._handle)

    def call(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: Duration = 10,
        **options: Unpack[JobOptions],
    ) -> Any:
        """Send a job and wait for what it returns: request and reply.

        The job expires with the ``timeout``: if nobody began it by then, nobody will, and one that runs is told to end.
        Raises what `send` and `result` raise; `ResultTimeout` when the time is over.
        """
        deadline = time.monotonic() + parse_duration(timeout)
        expires = options.get("ttl") is None
        if expires:
            options["ttl"] = timeout
        job = self.send(queue, payload, id=id, timeout=timeout, **options)
        try:
            return job.result(timeout=max(0.0, deadline - time.monotonic()))
        except JobFailed as error:
            if expires and not job.existing:
                verbs.refuse_late(error)
            raise
        except ResultTimeout:
            if job.existing:  # it is somebody else's
                raise
            with contextlib.suppress(ZError):  # what counts is that the caller's time is over
                job.cancel(timeout=CANCEL_S)
            raise verbs.gave_up(job.id) from None

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
    ) -> Stream:
        """Send a job and iterate over what its handler yields, as it comes.

        ``timeout``: the longest to wait for a value, the first included, and the job expires with it; None: without
        end. ``window``: how many values the handler may be ahead, 1 to 1,000; with none left it is paused. Left early,
        by `Stream.close` or by being forgotten, the stream cancels the job.

        Raises what `send` raises; while iterating what `result` raises, `ResultTimeout` when no value comes in time,
        and `StreamRestarted` when the job runs again after values had come: then iterate on, from its first value. With
        ``on_restart="continue"`` it does not raise that. ``options`` are those of `send`, without ``unique``.
        """
        reading = Reading(
            queue, payload, id, timeout=timeout, on_restart=on_restart, window=window, options={**options}
        )
        self._run(lambda session, now: reading.begin(session, now, self._config.timeout_ms))
        return Stream(reading, self.job(reading.identifier.decode()), self._run, self._nudge)

    # ---- single jobs

    def job(self, id: str) -> JobHandle:
        """A handle of the job with this id; asks nothing."""
        return self._handle(id_bytes(id).decode())

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
        return self._run(lambda session, now: verbs.ending(session, now, identifier, timeout_ms))

    def watch(self, id: str | JobHandle, timeout: Duration | None = None) -> Iterator[JobStatus]:
        """What the broker knows of a job: at once, and after each change, until it is over.

        The last status is that of its end (done, dead or cancelled). Changes that come faster than they are taken are
        told as one. ``timeout`` is for the whole, and without end if none is given. Raises `NotFound` if the broker
        knows no such job; `ResultExpired` if the job ended while nobody could be told, and nothing of it is kept;
        `ResultTimeout` if it did not end in time. It goes on through lost connections and restarts of the broker.
        """
        return self._follow(Following(id_bytes(id), self._config.patience(timeout)))

    def why(self, id: str | JobHandle, *, timeout: Duration | None = None) -> verbs.Why:
        """Why a job does not run, with the figures; of one that runs or is over, what became of it."""
        return self._ask(verbs.why(id), timeout)

    def cancel(self, id: str | JobHandle, *, timeout: Duration | None = None) -> str:
        """Cancel a job: ``cancelled``, or ``leased`` if it runs: its worker is told. `NotFound` if nobody knows it."""
        return self._ask(verbs.cancel(id), timeout)

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
    ) -> Iterator[JobStatus]:
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
    ) -> Iterator[JobStatus]:
        """Dead jobs, likewise; of one reason (``attempts``, ``expired``, ...), or whose last error is of this type."""
        chosen = verbs.selection(queue, reason=reason, error=error)
        return self._pages(verbs.job_pages("dead", chosen), limit, timeout)

    def dead_groups(
        self, queue: str | None = None, *, limit: int | None = None, timeout: Duration | None = None
    ) -> list[dict[str, Any]]:
        """Dead jobs counted by queue, reason and error (its type, and the first line of its text), most jobs first.

        Each is a map: queue, reason, error, text, jobs, first_at, last_at (Unix ms), and example, the id of one.
        """
        return self._ask(verbs.dead_groups(queue, limit), timeout)

    def queues(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """All queues, with what is in them."""
        return self._ask(verbs.queues(), timeout)

    def queue(self, name: str, *, timeout: Duration | None = None) -> dict[str, Any]:
        """One queue; its ``policy`` is a map from each option to its `PolicyValue`."""
        return self._ask(verbs.queue(name), timeout)

    def workers(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """The connected workers."""
        return self._ask(verbs.workers(), timeout)

    def versions(self, *, timeout: Duration | None = None) -> list[dict[str, Any]]:
        """How many of the connected peers are of which version of zbroker: maps with ``version``, ``serves``, ``peers``
        and the name of one as ``example``."""
        return self._ask(versions.versions(), timeout)

    def stats(self, *, timeout: Duration | None = None) -> dict[str, Any]:
        """The broker's counters."""
        return self._ask(verbs.stats(), timeout)

    # ---- dead jobs

    def replay(
        self,
        ids: str | JobHandle | Iterable[str | JobHandle] | None = None,
        *,
        queue: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        before: Moment | None = None,
        rate: int | None = None,
        timeout: Duration | None = None,
    ) -> verbs.Bulk:
        """Send dead jobs to their queue again: these, or those of a queue, at most ``rate`` a second.

        Those of a queue may be narrowed to one ``reason``, one type of ``error``, and to what died ``before`` a time.
        Named jobs are replayed all or none, 250 at a time, and ``timeout`` is for each 250. For a queue, or with a
        rate, the broker answers at once and goes on in slices, also over a restart. Raises `NotFound` if one of the
        named jobs is not dead, `UniqueTaken` if another job has its unique text by now.
        """
        narrowed = {"reason": reason, "error": error, "before": before}
        return verbs.total([self._ask(verb, timeout) for verb in verbs.bulk("replay", ids, queue, rate, **narrowed)])

    def drop(
        self,
        ids: str | JobHandle | Iterable[str | JobHandle] | None = None,
        *,
        queue: str | None = None,
        reason: str | None = None,
        error: str | None = None,
        before: Moment | None = None,
        timeout: Duration | None = None,
    ) -> verbs.Bulk:
        """Remove dead jobs for good: these, or those of a queue, narrowed as in `replay`. Answers as that."""
        narrowed = {"reason": reason, "error": error, "before": before}
        return verbs.total([self._ask(verb, timeout) for verb in verbs.bulk("drop", ids, queue, None, **narrowed)])

    # ---- queues

    def set_queue(self, queue: str, /, *, timeout: Duration | None = None, **options: Any) -> verbs.Policy:
        """Set options of a queue, as people write them: ``lease="1m"``, ``rate="10/1m"``; returns its policy then.

        What is set wins over the broker's configuration, also after a restart, until it is unset. A queue that is not
        there is made. Which options there are is on the pages of ``docs/``.
        """
        return self._ask(verbs.set_queue(queue, options), timeout)

    def unset_queue(self, queue: str, /, *options: str, timeout: Duration | None = None) -> verbs.Policy:
        """Let the configuration decide these options of a queue again; returns its policy then."""
        return self._ask(verbs.unset_queue(queue, options), timeout)

    def pause(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Stop deliveries from a queue; it goes on taking jobs."""
        self._ask(verbs.gate("pause", queue), timeout)

    def resume(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Deliver from it again, and take new jobs: the end of `pause` and of `drain`."""
        self._ask(verbs.gate("resume", queue), timeout)

    def drain(self, queue: str, *, timeout: Duration | None = None) -> None:
        """Take no new jobs for a queue (`QueueClosed`), and work off those it has."""
        self._ask(verbs.gate("drain", queue), timeout)

    def purge(self, queue: str, *, timeout: Duration | None = None) -> int:
        """Remove the waiting jobs of a queue; how many they were."""
        return self._ask(verbs.purge(queue), timeout)

    # ---- schedules

    def schedule(
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
        """Make a job come to ``queue`` at the times of a cron expression, or at intervals; or change that.

        One job comes for each occurrence, over crashes and restarts too. ``tz``: the zone of the expression.
        ``overlap``: while the job before goes on, ``allow`` another one, ``skip`` the occurrence, or ``queue_one``: let
        one wait, no more. ``catch_up``: of the occurrences that passed without a broker, run ``one`` (the latest),
        ``none``, or ``all``, at most ``catch_up_limit`` of them. ``options`` are those of each job.
        """
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
        return self._ask(schedules.put(arguments), timeout)

    def schedules(self, *, timeout: Duration | None = None) -> list[Schedule]:
        """All schedules, by name."""
        return self._ask(schedules.listed(), timeout)

    def remove_schedule(self, name: str, *, timeout: Duration | None = None) -> Schedule:
        """Remove a schedule; the jobs that it made stay. `NotFound` if there is none of this name."""
        return self._ask(schedules.change("remove", name), timeout)

    def pause_schedule(self, name: str, *, timeout: Duration | None = None) -> Schedule:
        """Let a schedule rest; what passes meanwhile is not caught up on."""
        return self._ask(schedules.change("pause", name), timeout)

    def resume_schedule(self, name: str, *, timeout: Duration | None = None) -> Schedule:
        """Let it go on, from its next occurrence."""
        return self._ask(schedules.change("resume", name), timeout)

    def run_schedule(self, name: str, *, timeout: Duration | None = None) -> JobHandle:
        """Run a schedule once now, beside its occurrences."""
        return self.job(self._ask(schedules.run_now(name), timeout))

    # ---- its life

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with contextlib.suppress(*(() if kind is None else (ZError,))):  # what ended the block says more
                self.flush()
        finally:
            self.close()

    def _handle(self, identifier: str, existing: bool = False, /) -> JobHandle:
        return JobHandle(self, identifier, existing)
