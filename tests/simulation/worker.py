"""A worker's process: the production loop, station and session; only the threads that run handlers are simulated.

It owns when a run ends and how, as the payload of its job says, and the ways in which a worker's process ends.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.simulation.network import Network, Transport
from tests.simulation.streams import Yielding
from tests.simulation.world import Process, World
from zclient.protocol.limits import INCARNATION_BYTES, MAX_RESULT_BYTES
from zclient.protocol.messages import Outcome
from zworker.job import Job
from zworker.logs import LOGGER
from zworker.loop import Loop
from zworker.outcomes import Reject, Retry, Settled, Snooze
from zworker.runs import Run, interruption, run_plain, timeout
from zworker.station import Station
from zworker.task import Task, task_options

if TYPE_CHECKING:
    from tests.simulation.book import Book

LOGGER.addHandler(logging.NullHandler())
LOGGER.propagate = False
LOGGER.setLevel(logging.CRITICAL)

DRAIN_MS = 3_000.0

HANG_MS = 20_000.0
"""So long takes a run that hangs."""

QUICK_MS = 300.0
"""So long takes any run at most in a healed world, so that a backlog ends."""

MOST_RUNS = 8
"""A job that was begun so often snoozes no more."""

OUTCOMES = {
    Outcome.ACK: "ack",
    Outcome.NACK: "nack",
    Outcome.REJECT: "reject",
    Outcome.RELEASE: "release",
    Outcome.SNOOZE: "snooze",
}


class Runs(dict[Run, None]):
    """The loop's set of runs, in an order that a seed repeats."""

    add = dict.setdefault

    def discard(self, run: Run) -> None:
        self.pop(run, None)


class Executor:
    """In the place of `zworker.executor.Executor`: runs that take virtual time. ``yields``: they end when interrupted,
    as coroutines do; else they go on, as threads do."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self._running: dict[Run, bool] = {}  # whether it ends when interrupted
        self._life = process.life

    def start(self, run: Run) -> None:
        process = self.process
        self._running[run] = process.yields
        process.began(run)
        step = process.step_of(run.jobs[0])
        ms = HANG_MS if step[0] == "hang" else step[1]
        ms = min(ms, QUICK_MS) if process.is_quick else ms
        if step[0] == "yield" and run.task.binding is not None and run.jobs[0].has_reader:
            Yielding(self, run, ms)
        else:
            process.world.after(ms, self._ended, run, "")

    def is_running(self, run: Run) -> bool:
        """Whether the run goes on, in a process that does."""
        return run in self._running and self._life == self.process.life and self.process.alive

    def end(self, run: Run) -> Any:
        """A run that yielded is through."""
        return self._ended(run, "")

    def interrupt(self, run: Run, why: str) -> None:
        if why == "timeout":  # the loop has settled it
            self.process.told(run, timeout(run))
        if self._running.get(run):
            run.interrupted = run.interrupted or why
            self.process.world.after(0.1, self._ended, run, why)

    def close(self, within_s: float) -> None:
        self._running.clear()

    def _ended(self, run: Run, why: str) -> Any:
        process = self.process
        if not self.is_running(run):
            return False
        if process.stopped:  # its threads stand still as well
            process.world.after(process.stopped_until - process.world.now, self._ended, run, why)
            return False
        del self._running[run]
        outcomes = interruption(run) if why else run_plain(run, MAX_RESULT_BYTES)
        process.told(run, outcomes)
        process.loop._finish(run, outcomes)
        return True


class WorkerProcess(Process):
    """A worker that serves queues. ``start`` begins a new incarnation."""

    def __init__(
        self, world: World, network: Network, book: Book, name: str, queues: list[str], concurrency: int, **options: Any
    ) -> None:
        super().__init__(world, name)
        self.loop: Loop
        self.station: Station
        self.yields = options.pop("yields", False)
        self.leaving = False
        self.is_quick = False
        self._network = network
        self.book = book
        self._queues = queues
        self._concurrency = concurrency
        self._options = options

    def start(self) -> None:
        self.begin()
        self.leaving = False
        world = self.world
        written = {"timeout": None, "batch": None, "batch_wait": None, "retry_on": None, "reject_on": None}
        options = task_options(**{**written, **self._options})
        function = self._handle_batch if options.batch else self._handle
        tasks = {queue: Task(function, queue, options, _no_client) for queue in self._queues}
        self.station = Station(
            "ipc://simulated",
            queues=list(tasks),
            capacity=Loop.capacity(tasks, self._concurrency),
            name=self.name,
            credentials=None,
            transport=partial(Transport, self._network, self),
            tasks={queue: dict(options.told) for queue in tasks},
        )
        session = self.station.session.session
        session.incarnation = world.random.randbytes(INCARNATION_BYTES)
        session.info = {}
        self.loop = Loop(tasks, self.station, concurrency=self._concurrency, drain_ms=DRAIN_MS, connect_timeout_ms=None)
        self.loop._executor = Executor(self)  # type: ignore[assignment]
        self.loop._runs = Runs()  # type: ignore[assignment]
        world.note(self.name, "started", session.incarnation[:4].hex())
        self.wake()

    def kill(self) -> None:
        self.world.note(self.name, "killed")
        self.end()
        self.station.transport.abandon()  # type: ignore[attr-defined]

    def leave(self) -> None:
        """End in good order: drain, give back, say goodbye."""
        self.world.note(self.name, "drains")
        self.leaving = True
        self.loop.drain()

    # ---- its loop

    def run(self) -> Any:
        """One pass, as `Loop.run` makes it."""
        now = self.world.now
        if self.loop._is_over(now):
            self.loop._end()
            self.world.note(self.name, "left")
            self.end()
            return True
        again_ms = self.loop._pass(now)
        self.wake(min(again_ms, 1_000.0) or 0.05)
        return True

    # ---- its handlers

    @staticmethod
    def step_of(job: Job) -> list[Any]:
        """What the job's payload says of this attempt: what its run does, how long it takes, and more."""
        steps = job.payload["steps"]
        step: list[Any] = steps[min(job.attempt, len(steps)) - 1]
        return step

    def began(self, run: Run) -> None:
        for job in run.jobs:
            self.book.starts.setdefault(job.identifier, []).append(job.fence)
            self.world.note(self.name, "runs", job.id, job.fence, *self.step_of(job))
            if self.step_of(job)[0] == "die":
                self.world.after(self.step_of(job)[1], self._die, self.life)
            if self.step_of(job)[0] == "report":
                job.progress(0.5, "half of it")

    def told(self, run: Run, outcomes: list[Settled]) -> None:
        """A run ended: how, of each of its jobs, unless that was settled before."""
        outcomes = outcomes * (len(run.jobs) // len(outcomes))
        for job, (outcome, value) in zip(run.jobs, outcomes, strict=True):
            result = value if outcome is Outcome.ACK else None
            what = "send" if outcome is Outcome.ACK and job.sends else OUTCOMES[outcome]
            self.book.outcomes.setdefault((job.fence, job.identifier), (what, result))

    def _die(self, life: int) -> Any:
        if life != self.life or not self.alive:
            return False
        self.kill()
        return True

    def _handle(self, job: Job) -> Any:
        what, _, *more = self.step_of(job)
        if what == "yield":
            job.check()  # who was interrupted at a yield ends there
            if more[2] == "nack":
                raise Retry(reason="as it was told")
            return more[0]
        if what == "nack":
            raise Retry(reason="as it was told")
        if what == "retry":
            raise Retry(more[0] / 1000)
        if what == "reject":
            raise Reject("as it was told")
        if what == "snooze" and len(self.book.starts[job.identifier]) < MOST_RUNS:
            raise Snooze(more[0] / 1000)
        if what == "send":
            for position, (queue, payload, options) in enumerate(more[0]):
                identifier = f"{job.fence:x}.{job.id[-24:]}.{position}"
                self.book.asked[identifier.encode()] = job.id
                self.book.sent_by[identifier.encode()] = (job.identifier, job.fence)
                into = job.batch if options.get("own_batch") else None
                told = {name: value for name, value in options.items() if name != "own_batch"}
                job.send(queue, payload, id=identifier, batch=into, **told)
        return more[0] if what == "return" else None

    def _handle_batch(self, jobs: list[Job]) -> list[Any]:
        for job in jobs:
            what = self.step_of(job)[0]
            if what in ("nack", "retry", "reject"):
                told = {"nack": job.nack, "retry": job.nack, "reject": job.reject}[what]
                self.book.outcomes[job.fence, job.identifier] = ("reject" if what == "reject" else "nack", None)
                told("as it was told")
        return [None] * len(jobs)


def _no_client() -> Any:
    raise AssertionError("a task of the simulation sends nothing by itself")
