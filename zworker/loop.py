"""The worker's loop: jobs from the broker to handlers, outcomes from handlers to the broker. One thread runs it.

It owns the slots: which runs hold one, which jobs wait for one, whose time is up, and what capacity the broker is told.
It never runs a handler itself, so that leases are renewed whatever handlers do.
"""

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from zclient.durations import format_duration
from zclient.errors import BrokerUnreachable, ZError
from zclient.protocol.messages import Outcome
from zworker.executor import Executor
from zworker.job import MAX_RUN, Job
from zworker.logs import LOGGER, log
from zworker.outcomes import Settled
from zworker.runs import Run, timeout
from zworker.station import Station
from zworker.task import Task

ANSWER_MS = 2000
"""How long the last settlements may take to be answered when a worker ends. A broker that is there needs a fsync."""

_FOREVER = float("inf")


class Loop:
    """One life of a worker. ``run`` is its thread's work; ``drain`` and ``hurry`` may be called from others.

    ``failure`` says why the loop ended by itself.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        station: Station,
        *,
        concurrency: int,
        drain_ms: float,
        connect_timeout_ms: float | None,
    ) -> None:
        self.failure: Exception | None = None
        self._tasks = tasks
        self._station = station
        self._session = station.session
        self._concurrency = concurrency
        self._drain_ms = drain_ms
        self._connect_by_ms = _FOREVER
        self._unreached = ""
        if connect_timeout_ms is not None:
            self._connect_by_ms = station.transport.now() + connect_timeout_ms
            self._unreached = f"no broker at {station.where} within {format_duration(connect_timeout_ms / 1000)}"
        self._executor = Executor(concurrency, self._finish, "zworker", lambda: self._session.max_result_bytes)
        self._runs: set[Run] = set()
        self._finished: deque[tuple[Run, list[Settled]]] = deque()
        self._waiting: dict[str, deque[tuple[float, Job]]] = {queue: deque() for queue in tasks}
        self._batch = max((task.options.batch or 1 for task in tasks.values()), default=1)
        self._is_timed = any(task.options.timeout_ms is not None for task in tasks.values())
        self._draining = False
        self._end_by_ms = _FOREVER
        self._hurried = False

    @staticmethod
    def capacity(tasks: Mapping[str, Task[..., Any]], concurrency: int) -> int:
        """How many jobs a worker holds at most: one a slot, or as many as the largest batch a slot."""
        return concurrency * max((task.options.batch or 1 for task in tasks.values()), default=1)

    # ---- from other threads

    @property
    def is_draining(self) -> bool:
        """Whether it was told to end."""
        return self._draining

    def drain(self) -> None:
        """Take no more jobs, let the running ones end within the drain time, then end."""
        self._draining = True
        self._station.nudge()

    def hurry(self) -> None:
        """Give everything back and end now."""
        self._hurried = True
        self.drain()

    def _finish(self, run: Run, outcomes: list[Settled]) -> None:
        self._finished.append((run, outcomes))
        self._station.nudge()

    # ---- the loop

    def run(self) -> None:
        """Serve until drained. What ends it otherwise is kept in ``failure``."""
        transport = self._station.transport
        try:
            again = 0.0
            while not self._is_over(transport.now()):
                transport.wait(again)
                again = self._pass(transport.now())
        except ZError as error:
            self.failure = error
            log(logging.ERROR, "giving up", code=error.code, reason=str(error))
        except Exception as error:
            # A bug of ours. The owner raises it; until then the jobs are given back, as at any other end.
            self.failure = error
            LOGGER.exception("the worker failed")
        finally:
            self._end()

    def _pass(self, now: float) -> float:
        """Everything that is to be done now; returns how many ms until the next pass, if nothing happens before."""
        if self._draining and self._end_by_ms == _FOREVER:
            self._end_by_ms = now + self._drain_ms
            log(logging.INFO, "draining", running=len(self._runs))
        self._take_finished()
        self._look_at_time(now)
        self._tell_capacity()
        jobs = self._station.turn(now)
        self._station.notice()
        for job in jobs:
            self._accept(job, now)
        self._interrupt(self._session.interrupted())
        if self._draining:
            self._give_back_waiting()
        else:
            self._serve(now)
        if self._session.settled:
            return 0
        return max(min(self._session.tick(now), self._next_due(now)) - now, 0)

    def _take_finished(self) -> None:
        finished = self._finished
        while finished:
            run, outcomes = finished.popleft()
            self._runs.discard(run)
            if not run.interrupted and (run.overdue or any(job.lease_lost for job in run.jobs)):
                log(logging.WARNING, "late outcome ignored", job=run.jobs[0].id, queue=run.task.queue)
            self._settle(run, outcomes)

    def _look_at_time(self, now: float) -> None:
        for run in self._runs if self._is_timed else ():
            if run.deadline_ms is not None and now >= run.deadline_ms and not run.overdue:
                run.overdue = True
                self._settle(run, timeout(run))
                self._stop_run(run, "timeout")
        if now >= self._connect_by_ms:
            if not self._station.ready.is_set():
                raise self._station.refusal or BrokerUnreachable(self._unreached)
            self._connect_by_ms = _FOREVER

    def _settle(self, run: Run, outcomes: list[Settled]) -> None:
        """Note how the jobs of a run end, as far as they are not settled yet.

        For a run that goes on: what it says later is ignored then, and its slot stays taken until it ends.
        """
        for job, (outcome, value) in zip(run.jobs, outcomes, strict=True):
            if job.is_settled:
                continue
            job.is_settled = True
            if job.unsettled:
                self._session.settled.append((job, int(outcome), value))
                if outcome in (Outcome.NACK, Outcome.REJECT):
                    _log_failure(job, outcome, value)

    def _tell_capacity(self) -> None:
        """A slot whose jobs are all settled or lost, but whose handler goes on, is not there for the broker."""
        if self._draining:
            self._session.set_capacity(0)
            return
        if self._batch == 1:
            waiting = sum(map(len, self._waiting.values()))
            stuck = max(len(self._runs) + waiting + len(self._session.settled) - self._session.unsettled, 0)
        else:
            stuck = sum(not any(job.unsettled and not job.is_settled for job in run.jobs) for run in self._runs)
        self._session.set_capacity(max(self._concurrency - stuck, 0) * self._batch)

    # ---- slots

    def _accept(self, job: Job, now: float) -> None:
        waiting = self._waiting.get(job.queue)
        if waiting is None:
            # A queue that was never asked for: somebody else will serve it.
            self._session.release([job])
        else:
            waiting.append((now, job))

    def _serve(self, now: float) -> None:
        """Start what waits, as long as there are slots: queue by queue, one run each, so that none starves."""
        progress = True
        while progress and len(self._runs) < self._concurrency:
            progress = False
            for queue, waiting in self._waiting.items():
                if waiting and len(self._runs) < self._concurrency and self._start(self._tasks[queue], waiting, now):
                    progress = True

    def _start(self, task: Task[..., Any], waiting: deque[tuple[float, Job]], now: float) -> bool:
        size = task.options.batch or 1
        if size > 1 and len(waiting) < size and now < waiting[0][0] + task.options.batch_wait_ms:
            return False
        jobs: list[Job] = []
        while waiting and len(jobs) < size:
            _, job = waiting.popleft()
            if job.cancelled:
                self._session.release([job])
            elif self._session.start(job, now):
                jobs.append(job)
        if jobs:
            limit_ms = task.options.timeout_ms
            run = Run(task, jobs, None if limit_ms is None else now + limit_ms)
            self._runs.add(run)
            self._executor.start(run)
        return True

    def _interrupt(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        running = {job: run for run in self._runs for job in run.jobs}
        for job in jobs:
            log(
                logging.WARNING,
                "lease lost" if job.lease_lost else "cancelled",
                job=job.id,
                queue=job.queue,
                fence=job.fence,
                reason=job.lost_reason or None,
            )
            run = running.get(job)
            job.interrupt()
            if run is None:
                continue
            # A coroutine that works for one job is ended. One whose lease is lost may want to see that itself; but not
            # one that ran longer than its queue allows: that is a timeout, which the broker has settled.
            if job.cancelled and len(run.jobs) == 1:
                self._executor.interrupt(run, "cancelled")
            elif job.lost_reason == MAX_RUN and not run.overdue and not any(other.unsettled for other in run.jobs):
                run.overdue = True
                self._executor.interrupt(run, MAX_RUN)

    def _stop_run(self, run: Run, why: str) -> None:
        self._executor.interrupt(run, why)
        for job in run.jobs:
            job.interrupt()

    def _give_back_waiting(self) -> None:
        for waiting in self._waiting.values():
            self._session.release(job for _, job in waiting)
            waiting.clear()

    def _next_due(self, now: float) -> float:
        """When a timeout, a batch or the end of the drain time comes; monotonic ms."""
        due = min(self._connect_by_ms, self._end_by_ms)
        for run in self._runs if self._is_timed else ():
            if run.deadline_ms is not None and not run.overdue:
                due = min(due, run.deadline_ms)
        if len(self._runs) < self._concurrency:
            for queue, waiting in self._waiting.items():
                if waiting:
                    due = min(due, waiting[0][0] + self._tasks[queue].options.batch_wait_ms)
        return due

    # ---- the end

    def _is_over(self, now: float) -> bool:
        if not self._draining:
            return False
        if self._hurried or now >= self._end_by_ms:
            return True
        idle = not self._finished and not self._session.settled and not self._session.unanswered
        return idle and all(run.overdue for run in self._runs)

    def _end(self) -> None:
        left = len(self._session.jobs)
        for run in self._runs:
            self._settle(run, [Settled(Outcome.RELEASE)] * len(run.jobs))
            self._stop_run(run, "closing")
        self._station.close(ANSWER_MS)
        self._executor.close(0.0 if self._hurried else 1.0)
        log(logging.INFO, "stopped", given_back=left)


def _log_failure(job: Job, outcome: int, value: Any) -> None:
    log(
        logging.WARNING,
        "job rejected" if outcome == Outcome.REJECT else "job failed",
        job=job.id,
        queue=job.queue,
        attempt=job.attempt,
        error=value.get("type") if isinstance(value, dict) else None,
    )
