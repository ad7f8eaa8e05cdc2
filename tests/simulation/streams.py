"""Streams in a simulated world: jobs whose handlers yield, and their readers, who are quick, slow, or leave.

It owns what each reader was told, and judges it: the values of each run in order, each once, and all of them before the
end. The reader is the production procedure behind `Client.stream`, the worker's side the production `Partials`; only
the thread in which a handler would wait for room is simulated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation.book import Book
from tests.simulation.world import Violation
from zclient.errors import (
    BrokerUnreachable,
    JobCancelled,
    JobFailed,
    Refused,
    ResultExpired,
    ResultTimeout,
    StreamRestarted,
    ZError,
)
from zclient.jobs import encode_payload
from zclient.streaming import END, Reading
from zworker.job import Job
from zworker.runs import Run

if TYPE_CHECKING:
    from tests.simulation.mix import Mix
    from tests.simulation.producer import ProducerProcess
    from tests.simulation.worker import Executor

LARGE = 300_000
"""Bytes of a large value: four of them are more than may lie between a worker and its reader."""

QUICK_GAP_MS = 20.0
"""So long is the pause between two values at most in a healed world."""


class Yielding:
    """A run that yields, in the place of a thread in `zworker.generators`: it offers value after value, waits for room,
    ends when the reader has all, or when it is interrupted."""

    def __init__(self, executor: Executor, run: Run, ms: float) -> None:
        self._executor = executor
        self._run = run
        self._job: Job = run.jobs[0]
        _, _, self._count, self._gap_ms, _, self._is_large = executor.process.step_of(self._job)
        self._number = 0
        self._waits = False
        self._partials = self._job.delivery.owner.partials(self._job)
        self._job.on_interrupt(self._partials.wake)
        self._partials.on_change(self._look)
        executor.process.world.after(ms, self._go_on)

    def _look(self) -> None:
        """There may be room, or the run should end."""
        if self._waits:
            self._waits = False
            self._executor.process.world.after(0.01, self._go_on)

    def _go_on(self) -> Any:
        process, job = self._executor.process, self._job
        if not self._executor.is_running(self._run):
            return False
        if process.stopped:
            process.world.after(process.stopped_until - process.world.now, self._go_on)
            return False
        if job.is_interrupted:
            return self._executor.end(self._run)
        if self._number < self._count:
            self._waits = True  # before the offer: what it wakes may answer at once
            if not self._partials.offer(self._value()):
                return True
            self._waits = False
            self._number += 1
            process.book.yielded[job.fence, job.identifier] = self._number
            gap_ms = min(self._gap_ms, QUICK_GAP_MS) if process.is_quick else self._gap_ms
            process.world.after(gap_ms, self._go_on)
            return True
        self._waits = True
        if self._partials.end():
            self._waits = False
            process.book.yielded_all.add((job.fence, job.identifier))
            return self._executor.end(self._run)
        return True

    def _value(self) -> bytes:
        padding = LARGE if self._is_large and self._number % 3 == 0 else 0
        return encode_payload([self._job.fence, self._number, bytes(padding)])


class StreamReader:
    """One stream that a producer reads, and what it was told."""

    def __init__(self, streams: Streams, producer: ProducerProcess, reading: Reading, *, raises: bool) -> None:
        self.is_over = False
        self.producer = producer
        self._streams = streams
        self._mix = streams.mix
        self._book = streams.book
        self._reading = reading
        self._raises = raises
        self._life = producer.life
        self._fence = 0  # of the run whose values came last
        self._count = 0  # how many of it
        self._lives = self._mix.random.choice((0.0, 0.0, 0.02, 0.2))  # the chance that it leaves, with each value
        self._slow_ms = self._mix.random.choice((0.0, 0.0, 5.0, 400.0, 4_000.0))

    @property
    def identifier(self) -> bytes:
        return self._reading.identifier

    @property
    def is_alive(self) -> bool:
        """Whether its process is the one that began it."""
        return self.producer.alive and self.producer.life == self._life

    def begin(self, queue: str, timeout_ms: float) -> None:
        producer, book = self.producer, self._book
        book.asked[self.identifier] = producer.name
        book.asked_in[self.identifier] = queue

        def told(_: None, error: ZError | None) -> None:
            if error is None:
                book.promise([self.identifier], ())
                self._next()
                return
            self.is_over = True
            if isinstance(error, Refused | BrokerUnreachable):
                book.refuse([self.identifier], f"{type(error).__name__}: {error}")

        procedure = self._reading.begin(producer.session, producer.transport.now(), timeout_ms)
        producer.call(f"stream {self.identifier.decode()} {queue}", procedure, told)

    def _next(self) -> Any:
        if not self.is_alive:
            return False
        if self.producer.stopped:
            self.producer.world.after(self.producer.stopped_until - self.producer.world.now, self._next)
            return False
        procedure = self._reading.next(self.producer.session, self.producer.transport.now())
        self.producer.call(f"next of {self.identifier.decode()}", procedure, self._told, lasts=True)
        return True

    def _told(self, value: Any, error: ZError | None) -> None:
        if isinstance(error, StreamRestarted):
            self._restarted(error)
        elif error is not None or value is END:
            self.is_over = True
            self._ended(error)
            return
        else:
            self._take(value[0], value[1])
        if self._mix.random.random() < self._lives and not self._streams.is_healed:
            self.is_over = True
            self._reading.leave()
            self.producer.wake()
            return
        if self._reading.has_to_say:
            self.producer.wake()
        slow_ms = 0.0 if self._streams.is_healed else self._slow_ms
        self.producer.world.after(slow_ms * self._mix.random.random(), self._next)

    # ---- what it is told

    def _fail(self, text: str) -> None:
        raise Violation(f"the reader of {self.identifier.decode()} {text}")

    def _take(self, fence: int, number: int) -> None:
        if fence != self._fence:
            if fence < self._fence or fence not in self._book.starts.get(self.identifier, ()):
                self._fail(f"gets a value of the run {fence} after {self._fence}")
            if self._count and self._raises:
                self._fail(f"gets a value of another run, {fence}, and is not told")
            self._fence, self._count = fence, 0
        if number != self._count:
            self._fail(f"gets the value {number} of {fence} after {self._count} of it")
        self._count += 1

    def _restarted(self, error: StreamRestarted) -> None:
        if not self._raises or not self._count or error.values != self._count:
            self._fail(f"is told that {error.values} values came of the last run, and {self._count} did")
        self._count = 0

    def _ended(self, error: ZError | None) -> None:
        book, identifier = self._book, self.identifier
        ended = book.ended.get(identifier)
        if error is None:
            if ended is None or ended.how != "done":
                self._fail(f"is told that it is done, and it is {ended}")
            assert ended is not None
            result = self._reading.result
            if ended.result is not None and encode_payload(result) != ended.result:
                self._fail(f"is told the result {result!r}, and the rows say {ended.result!r}")
            self._check_all(ended.fence)
        elif isinstance(error, JobFailed):
            if identifier not in book.was_dead and (ended is None or ended.how not in ("dropped", "purged", "expired")):
                self._fail("is told that it is dead, and it never was")
            change = book.changes.get(identifier)
            if change is not None and change.reason and change.attempts and change.attempts[-1].kind == "error":
                self._check_all(change.fence)
        elif isinstance(error, JobCancelled):
            wished = identifier in book.cancelling or bool(book.purged)
            if self._mix.is_calm and not wished:
                self._fail(f"is told that nobody read it: {error}")
        elif not isinstance(error, ResultTimeout | BrokerUnreachable | ResultExpired):
            self._fail(f"meets {type(error).__name__}: {error}")

    def _check_all(self, fence: int) -> None:
        """The run that ended by itself has told its reader all before."""
        run = (fence, self.identifier)
        if run not in self._book.yielded_all:
            return  # it was ended by something else
        yielded = self._book.yielded.get(run, 0)
        came = self._count if self._fence == fence else 0
        if came != yielded:
            self._fail(f"has {came} values of the run {fence} at its end, and {yielded} were yielded")


class Streams:
    """All streams of one scenario."""

    def __init__(self, mix: Mix, book: Book) -> None:
        self.mix = mix
        self.book = book
        self.is_healed = False
        self._readers: list[StreamReader] = []

    def act(self, producer: ProducerProcess) -> None:
        """Send a job and read what it yields."""
        random, mix = self.mix.random, self.mix
        options: dict[str, Any] = {"max_attempts": random.choice((1, 3))}
        if random.random() < 0.3:
            options["key"] = "a"
        if random.random() < 0.2:
            options["delay"] = 0.3
        raises = random.random() < 0.7
        queue = random.choice(list(mix.queues))
        reading = Reading(
            queue,
            mix.yielding(),
            mix.next_ids(1)[0].decode(),
            timeout=random.choice((5.0, 20.0, None)),
            on_restart="raise" if raises else "continue",
            window=random.choice((1, 3, 64)),
            options=options,
        )
        reader = StreamReader(self, producer, reading, raises=raises)
        self._readers.append(reader)
        reader.begin(queue, random.choice((1_000.0, 10_000.0)))

    def are_over(self) -> bool:
        """Whether no reader waits for an end."""
        return not any(reader.is_alive and not reader.is_over for reader in self._readers)


__all__ = ["Streams", "Yielding"]
