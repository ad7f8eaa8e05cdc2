"""Handlers on threads and on the event loop, watched through events."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.conversation import Conversation
from zclient.protocol.messages import Outcome
from zworker import Job, Reject
from zworker.executor import Executor
from zworker.outcomes import Settled
from zworker.runs import Run
from zworker.task import Task, TaskOptions

WAIT_S = 10
MAX_RESULT_BYTES = 100


class Bench:
    """An executor, with the ends of its runs in a queue."""

    def __init__(self, threads: int = 2) -> None:
        self.ended: queue.SimpleQueue[tuple[Run, list[Settled]]] = queue.SimpleQueue()
        self.executor = Executor(
            threads, lambda run, outcomes: self.ended.put((run, outcomes)), "bench", lambda: MAX_RESULT_BYTES
        )
        self._talk = Conversation(capacity=1000)
        self._talk.connect()
        self._fence = 0

    def start(self, function: Any, payload: Any = None, jobs: int = 1, **options: Any) -> Run:
        self._fence += 1
        made = self._talk.deliver(self._fence, *(f"{self._fence}-{n}" for n in range(jobs)), payload=payload)
        run = Run(Task(function, "q", TaskOptions(**options), lambda: None), made)  # type: ignore[arg-type,return-value]
        self.executor.start(run)
        return run

    def outcomes(self, function: Any, payload: Any = None, **options: Any) -> list[Settled]:
        """How the jobs of one run end."""
        run = self.start(function, payload, **options)
        ended, outcomes = self.ended.get(timeout=WAIT_S)
        assert ended is run
        return outcomes


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.executor.close(WAIT_S)


async def as_coroutine(function: Any, *args: Any) -> Any:
    return function(*args)


def test_a_result_is_the_ack(bench: Bench) -> None:
    async def later(a: int) -> int:
        await asyncio.sleep(0)
        return a

    assert bench.outcomes(lambda a: a, {"a": 7}) == [(Outcome.ACK, b"\x07")]
    assert bench.outcomes(later, {"a": 7}) == [(Outcome.ACK, b"\x07")]
    assert bench.outcomes(lambda: None) == [(Outcome.ACK, None)]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_whatever_a_handler_raises_is_a_failure_and_the_next_run_works(bench: Bench, kind: type[BaseException]) -> None:
    def plain() -> None:
        raise kind("stop")

    async def coroutine() -> None:
        raise kind("stop")

    for function in (plain, coroutine):
        ((outcome, value),) = bench.outcomes(function)
        assert outcome == Outcome.NACK
        assert value["type"].endswith(kind.__name__)
    assert bench.outcomes(lambda: 1) == [(Outcome.ACK, b"\x01")]


def test_the_frames_of_the_worker_are_not_in_the_traceback(bench: Bench) -> None:
    def fails() -> None:
        raise ValueError("here")

    ((_, value),) = bench.outcomes(fails)
    assert "in fails" in value["traceback"]
    assert "zworker" not in value["traceback"]


def test_a_payload_that_does_not_fit_is_rejected_without_a_run(bench: Bench) -> None:
    ran = threading.Event()
    ((outcome, value),) = bench.outcomes(lambda a: ran.set(), {"b": 1})
    assert (outcome, value["type"]) == (Outcome.REJECT, "PayloadMismatch")
    assert not ran.is_set()


def test_what_only_looks_like_a_result_is_rejected(bench: Bench) -> None:
    async def later() -> None: ...

    async def many() -> Any:
        yield 1

    def returning(made: Any) -> Any:
        return lambda: made()  # noqa: PLW0108  # A plain function, whatever it returns.

    for made in (later, many):
        ((outcome, value),) = bench.outcomes(returning(made))
        assert (outcome, value["type"]) == (Outcome.REJECT, "TypeError")
        assert "never ran" in value["text"]


def test_a_result_that_cannot_travel_is_rejected(bench: Bench) -> None:
    ((outcome, value),) = bench.outcomes(lambda: {1, 2})
    assert (outcome, value["type"]) == (Outcome.REJECT, "ResultNotEncodable")
    ((outcome, value),) = bench.outcomes(lambda: "x" * MAX_RESULT_BYTES)
    assert (outcome, value["type"]) == (Outcome.REJECT, "ResultTooLarge")


def test_batches(bench: Bench) -> None:
    def numbered(jobs: list[Job]) -> list[int]:
        return list(range(len(jobs)))

    async def nothing(jobs: list[Job]) -> None: ...

    def rejects(jobs: list[Job]) -> None:
        raise Reject("all of them")

    assert bench.outcomes(numbered, jobs=3, batch=4) == [(1, b"\x00"), (1, b"\x01"), (1, b"\x02")]
    assert bench.outcomes(nothing, jobs=2, batch=4) == [(1, None), (1, None)]
    assert [outcome for outcome, _ in bench.outcomes(rejects, jobs=2, batch=4)] == [Outcome.REJECT] * 2
    for wrong in (lambda jobs: [1], lambda jobs: 7):
        outcomes = bench.outcomes(wrong, jobs=2, batch=4)
        assert [(outcome, value["type"]) for outcome, value in outcomes] == [(Outcome.REJECT, "TypeError")] * 2


def test_plain_functions_run_at_once_on_as_many_threads_as_are_needed() -> None:
    bench = Bench(threads=3)
    together = threading.Barrier(3, timeout=WAIT_S)
    for _ in range(3):
        bench.start(lambda: together.wait() and None)
    ends = [bench.ended.get(timeout=WAIT_S)[1][0].outcome for _ in range(3)]
    assert ends == [Outcome.ACK] * 3
    bench.executor.close(WAIT_S)


def test_a_thread_is_used_again_before_another_is_started() -> None:
    bench = Bench(threads=8)
    names = set()
    for _ in range(20):
        bench.outcomes(lambda: names.add(threading.current_thread().name))
    # The one that ended may not be back in line yet when the next run comes, so a second may have been started.
    assert len(names) <= 2
    bench.executor.close(WAIT_S)


def test_coroutines_do_not_take_threads(bench: Bench) -> None:
    release: list[asyncio.Event] = []
    started = threading.Semaphore(0)

    async def waits() -> None:
        release.append(asyncio.Event())
        started.release()
        await release[-1].wait()

    runs = [bench.start(waits) for _ in range(20)]
    for _ in runs:
        assert started.acquire(timeout=WAIT_S)
    assert bench.outcomes(lambda: 1) == [(Outcome.ACK, b"\x01")]
    bench.executor.close(WAIT_S)
    ends = [bench.ended.get(timeout=WAIT_S) for _ in runs]
    assert {outcome for _, ((outcome, _),) in ends} == {Outcome.RELEASE}


def test_a_cancelled_coroutine_can_clean_up_and_its_job_is_given_up(bench: Bench) -> None:
    started, cleaned = threading.Event(), threading.Event()

    async def waits() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    run = bench.start(waits)
    assert started.wait(WAIT_S)
    bench.executor.interrupt(run, "cancelled")
    _, ((outcome, value),) = bench.ended.get(timeout=WAIT_S)
    assert cleaned.is_set()
    assert (outcome, value["type"]) == (Outcome.REJECT, "Cancelled")


def test_a_coroutine_that_is_cancelled_before_its_first_step_still_ends(bench: Bench) -> None:
    holding, hold = threading.Event(), threading.Event()

    async def holds_the_loop() -> None:
        holding.set()
        hold.wait(WAIT_S)

    async def never() -> None: ...

    bench.start(holds_the_loop)
    assert holding.wait(WAIT_S)
    run = bench.start(never)
    bench.executor.interrupt(run, "cancelled")
    hold.set()
    ends = dict(bench.ended.get(timeout=WAIT_S) for _ in range(2))
    assert ends[run][0].outcome == Outcome.REJECT


def test_a_coroutine_that_will_not_be_cancelled_keeps_its_outcome(bench: Bench) -> None:
    started = threading.Event()

    async def stubborn() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done anyway"
        return "not reached"

    run = bench.start(stubborn)
    assert started.wait(WAIT_S)
    bench.executor.interrupt(run, "cancelled")
    assert bench.ended.get(timeout=WAIT_S)[1][0].outcome == Outcome.ACK


def test_closing_leaves_a_stuck_thread_behind() -> None:
    bench = Bench(threads=1)
    started, hold = threading.Event(), threading.Event()

    def stuck() -> None:
        started.set()
        hold.wait(WAIT_S)

    bench.start(stuck)
    assert started.wait(WAIT_S)
    bench.executor.close(0)
    assert bench.ended.empty()
    hold.set()
    bench.ended.get(timeout=WAIT_S)
