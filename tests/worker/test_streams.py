"""Handlers that yield, with a broker that says what the test wants: how far they go, and how they end."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.worker.conversation import Conversation, delivery
from tests.worker.scripted import WAIT_S, ScriptedBroker
from zclient import InvalidArgument, PayloadTooLarge
from zclient.jobs import decode_payload
from zclient.protocol import messages as m
from zclient.protocol.limits import MESSAGE_BYTES, STREAM_BYTES
from zclient.protocol.messages import Outcome
from zworker import Job, Worker
from zworker.generators import run_async_generator

STREAM = {"stream": True}
KINDS = ["generator", "async generator"]


class Handler:
    """Yields what it is told to, as a generator or an async generator, and tells how far it came and how it ended."""

    def __init__(self, kind: str, *values: Any, error: BaseException | None = None) -> None:
        self.values = values
        self.error = error
        self.yields = 0
        self.reached = threading.Condition()
        self.closed = threading.Event()
        self.raised: list[BaseException] = []
        self.function: Callable[[Job], Any] = self.plain if kind == "generator" else self.coroutine

    def plain(self, job: Job) -> Iterator[Any]:
        try:
            for value in self.values:
                self._step()
                try:
                    yield value
                except Exception as error:
                    self.raised.append(error)
            self._fail()
            return "returned"
        finally:
            self.closed.set()

    async def coroutine(self, job: Job) -> Any:
        try:
            for value in self.values:
                self._step()
                try:
                    yield value
                except Exception as error:
                    self.raised.append(error)
            self._fail()
        finally:
            await asyncio.sleep(0)  # it may still await what it has to close
            self.closed.set()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def _step(self) -> None:
        with self.reached:
            self.yields += 1
            self.reached.notify_all()

    def reaches(self, yields: int) -> None:
        with self.reached:
            assert self.reached.wait_for(lambda: self.yields >= yields, WAIT_S)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def running(handler: Handler, *, fence: int = 7, **options: Any) -> Iterator[ScriptedBroker]:
    """A worker that runs job ``a`` with this handler, and the broker that it talks to."""
    broker = ScriptedBroker()
    worker = Worker(transport=broker.transport, concurrency=2, drain_timeout="100ms")
    worker.task("q", **options)(handler.function)
    with worker:
        worker.wait_ready(WAIT_S)
        broker.say(delivery(fence, "a", options=STREAM))
        yield broker


def flow(have: int, upto: int, *, again: bool = False, fence: int = 7) -> m.Flow:
    return m.Flow(fence, b"a", have, upto, again)


def values(partials: list[m.Partial]) -> list[Any]:
    return [decode_payload(value) for partial in partials for value in partial.values]


def test_it_goes_as_far_as_the_reader_lets_it_and_ends_when_that_has_all(kind: str) -> None:
    handler = Handler(kind, *range(6))
    with running(handler) as broker:
        handler.reaches(1)
        broker.say(flow(0, 4))
        assert values(broker.partials(4)) == [0, 1, 2, 3]
        handler.reaches(5)
        assert not handler.closed.is_set()
        broker.say(flow(2, 10))
        partials = broker.partials(6)
        assert values(partials) == [0, 1, 2, 3, 4, 5]
        assert [partial.first for partial in partials] == [
            sum(len(before.values) for before in partials[:n]) for n in range(len(partials))
        ]
        broker.say(flow(5, 10))
        assert handler.closed.wait(WAIT_S)
        broker.partials(6, lasts=1)
        assert not [message for message in broker.sent if isinstance(message, m.Settle)]
        broker.say(flow(6, 10))
        result = b"\xa8returned" if kind == "generator" else None
        assert broker.settlements(1) == [(b"a", Outcome.ACK, result)]


def test_a_reader_that_takes_nothing_stops_it_at_its_first_value(kind: str) -> None:
    handler = Handler(kind, *range(10))
    with running(handler) as broker:
        handler.reaches(1)
        broker.say(m.Cancel(7, [b"a"]))
        ((_, outcome, told),) = broker.settlements(1)
        assert (outcome, told["type"]) == (Outcome.REJECT, "Cancelled")
        assert handler.closed.wait(WAIT_S) and handler.yields == 1
        assert not [message for message in broker.sent if isinstance(message, m.Partial)]


def test_what_was_yielded_before_an_error_the_reader_has_first(kind: str) -> None:
    handler = Handler(kind, 1, 2, error=KeyError("away"))
    with running(handler) as broker:
        broker.say(flow(0, 9))
        assert values(broker.partials(2, lasts=1)) == [1, 2]
        assert handler.closed.wait(WAIT_S)
        broker.say(flow(2, 9))
        ((_, outcome, told),) = broker.settlements(1)
        assert (outcome, told["type"]) == (Outcome.NACK, "KeyError")


def test_an_error_of_a_run_that_should_end_waits_for_nobody(kind: str) -> None:
    handler = Handler(kind, 1, 2, error=KeyError("away"))
    with running(handler) as broker:
        broker.say(flow(0, 9))
        broker.partials(2, lasts=1)
        broker.say(m.Cancel(7, [b"a"]))
        assert [outcome for _, outcome, _ in broker.settlements(1)] in ([Outcome.NACK], [Outcome.REJECT])


def test_what_may_be_lost_is_sent_again(kind: str) -> None:
    handler = Handler(kind, *range(4))
    with running(handler) as broker:
        broker.say(flow(0, 9))
        broker.partials(4, lasts=1)
        broker.say(flow(1, 9, again=True))
        assert values(broker.partials(7, lasts=2))[4:] == [1, 2, 3]
        broker.say(flow(3, 9, again=True))
        assert values(broker.partials(8, lasts=3))[7:] == [3]
        broker.say(flow(4, 9))
        broker.settlements(1)


@pytest.mark.parametrize("bad", [{1, 2}, bytes(1 << 20)], ids=["set", "large"])
def test_what_cannot_travel_is_raised_where_it_was_yielded(kind: str, bad: Any) -> None:
    handler = Handler(kind, 1, bad, 3)
    with running(handler) as broker:
        broker.say(flow(0, 9))
        assert values(broker.partials(2, lasts=1)) == [1, 3]
        (raised,) = handler.raised
        assert isinstance(raised, InvalidArgument if isinstance(bad, set) else PayloadTooLarge)
        broker.say(flow(2, 9))
        assert broker.settlements(1)[0][1] == Outcome.ACK


@pytest.mark.parametrize("how", ["lost", "timeout", "drained"])
def test_a_paused_one_is_closed_when_its_run_should_end(kind: str, how: str) -> None:
    handler = Handler(kind, *range(10))
    with running(handler, **({"timeout": "200ms"} if how == "timeout" else {})) as broker:
        broker.say(flow(0, 2))
        handler.reaches(3)
        if how == "lost":
            broker.say(m.Lost([(7, [b"a"])], "lease expired"))
            assert handler.closed.wait(WAIT_S)
        elif how == "timeout":
            ((_, outcome, told),) = broker.settlements(1)
            assert (outcome, told["type"]) == (Outcome.NACK, "timeout")
            assert handler.closed.wait(WAIT_S)
    assert handler.closed.wait(WAIT_S) and handler.yields == 3
    if how == "drained":
        assert [outcome for _, outcome, _ in broker.settlements(1)] == [Outcome.RELEASE]


def test_no_more_bytes_lie_beyond_the_reader_than_may(kind: str) -> None:
    handler = Handler(kind, *[bytes(9000)] * (3 * STREAM_BYTES // 9000))
    with running(handler) as broker:
        broker.say(flow(0, len(handler.values)))
        fit = STREAM_BYTES // 9003  # encoded
        partials = broker.partials(fit)
        handler.reaches(fit + 1)
        assert sum(len(partial.values) for partial in partials) == fit
        largest = max(sum(map(len, partial.values)) for partial in partials)
        assert largest <= MESSAGE_BYTES + 9003
        broker.say(flow(10, len(handler.values)))
        broker.partials(fit + 10)
        handler.reaches(fit + 11)
        broker.say(m.Cancel(7, [b"a"]))
        broker.settlements(1)
        assert handler.yields == fit + 11


def test_without_a_reader_it_runs_to_its_end(kind: str) -> None:
    handler = Handler(kind, *range(1000), {1, 2})
    broker = ScriptedBroker()
    worker = Worker(transport=broker.transport)
    worker.task("q")(handler.function)
    with worker:
        broker.say(delivery(7, "a"))
        result = b"\xa8returned" if kind == "generator" else None
        assert broker.settlements(1) == [(b"a", Outcome.ACK, result)]
    assert handler.raised == []


def test_one_that_settles_its_job_by_hand_goes_on_for_nobody() -> None:
    over = threading.Event()

    def function(job: Job) -> Iterator[int]:
        yield 1
        job.ack("mine")
        yield from range(100)
        over.set()

    broker = ScriptedBroker()
    worker = Worker(transport=broker.transport)
    worker.task("q")(function)
    with worker:
        broker.say(delivery(7, "a", options=STREAM), flow(0, 1))
        assert broker.settlements(1) == [(b"a", Outcome.ACK, b"\xa4mine")]
        assert over.wait(WAIT_S)


def test_nothing_is_kept_of_a_run_that_is_over(kind: str) -> None:
    handler = Handler(kind, 1)
    with running(handler) as broker:
        broker.say(flow(0, 9))
        broker.partials(1, lasts=1)
        broker.say(flow(1, 9))
        broker.settlements(1)
        broker.say(flow(1, 9), flow(0, 9, again=True), m.Flow(9, b"a", 0, 9, True))
        broker.say(delivery(8, "a", options=STREAM), flow(0, 9, fence=8))
        assert [partial.fence for partial in broker.partials(2, lasts=2) if partial.values] == [7, 8]
        broker.say(flow(1, 9, fence=8))
        broker.settlements(2)


def test_a_cancelled_one_cleans_up_undisturbed() -> None:
    talk = Conversation()
    talk.connect()
    (job,) = talk.deliver(7, "a", options=STREAM)
    cleaned: list[str] = []

    async def run() -> None:
        may_end = asyncio.Event()

        async def handler() -> Any:
            try:
                yield 1
            finally:
                await may_end.wait()
                cleaned.append("up")

        task = asyncio.create_task(run_async_generator(job, handler(), 1000))
        await asyncio.sleep(0)
        talk.say(m.Cancel(7, [b"a"]))
        job.interrupt()
        for _ in range(5):
            await asyncio.sleep(0)  # it has heard of it, and its coroutine is not cancelled yet
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert cleaned == ["up"]
