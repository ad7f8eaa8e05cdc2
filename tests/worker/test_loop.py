"""The worker's loop and the consumer's, with a broker that says what the test wants."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.worker.conversation import delivery
from tests.worker.scripted import WAIT_S, ScriptedBroker
from zclient import LeaseLost
from zclient.protocol import messages as m
from zclient.protocol.messages import Outcome
from zworker import Cancelled, Consumer, Job, Retry, Worker
from zworker.executor import Executor


@pytest.fixture
def broker() -> ScriptedBroker:
    return ScriptedBroker()


@contextmanager
def serving(broker: ScriptedBroker, function: Any, **options: Any) -> Iterator[Worker]:
    """A worker of queue ``q`` with this handler."""
    worker = Worker(transport=broker.transport, concurrency=2)
    worker.task("q", **options)(function)
    with worker:
        worker.wait_ready(WAIT_S)
        yield worker


def outcome(broker: ScriptedBroker, error: BaseException, **options: Any) -> int:
    """How a job ends whose handler raises this."""

    def fails() -> None:
        raise error

    with serving(broker, fails, **options):
        broker.say(delivery(1, "a"))
        ((_, outcome, _),) = broker.settlements(1)
    return outcome


# ---- which errors are tried again


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({}, KeyError(), Outcome.NACK),
        ({"retry_on": LookupError}, KeyError(), Outcome.NACK),
        ({"retry_on": (OSError, LookupError)}, ValueError(), Outcome.REJECT),
        ({"retry_on": ()}, ValueError(), Outcome.REJECT),
        ({"reject_on": LookupError}, KeyError(), Outcome.REJECT),
        ({"reject_on": LookupError}, ValueError(), Outcome.NACK),
        ({"retry_on": LookupError, "reject_on": KeyError}, KeyError(), Outcome.REJECT),
        ({"retry_on": LookupError, "reject_on": KeyError}, IndexError(), Outcome.NACK),
        ({"retry_on": OSError, "reject_on": Exception}, Retry(), Outcome.NACK),
        ({"retry_on": OSError}, SystemExit(), Outcome.REJECT),
    ],
)
def test_a_task_says_which_errors_are_tried_again(
    broker: ScriptedBroker, options: Any, error: BaseException, expected: Outcome
) -> None:
    assert outcome(broker, error, **options) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Outcome.NACK),
        ({"retry_on": ConnectionError}, Outcome.REJECT),
        ({"retry_on": TimeoutError}, Outcome.NACK),
        ({"reject_on": TimeoutError}, Outcome.REJECT),
    ],
)
def test_a_run_that_takes_too_long_is_a_timeout_error(broker: ScriptedBroker, options: Any, expected: Outcome) -> None:
    hold = threading.Event()
    with serving(broker, lambda: hold.wait(WAIT_S) and None, timeout="20ms", **options):
        broker.say(delivery(1, "a"))
        ((_, outcome, value),) = broker.settlements(1)
        hold.set()
    assert (outcome, value["type"]) == (expected, "timeout")


def test_the_options_that_the_broker_judges_by_are_in_hello(broker: ScriptedBroker) -> None:
    options = {"max_attempts": 3, "backoff": ["1s", "1m"], "backoff_max": 5, "backoff_jitter": 0}
    worker = Worker(transport=broker.transport)
    worker.task("q", **options, timeout="5s", retry_on=OSError)(lambda: None)
    worker.task("plain", timeout="5s")(lambda: None)
    with worker:
        worker.wait_ready(WAIT_S)
    hello = broker.sent[0]
    assert hello.tasks == {
        "q": {"max_attempts": 3, "backoff": [1000, 60_000], "backoff_max": 5000, "backoff_jitter": 0}
    }


# ---- ends


def test_a_function_that_checks_ends_with_its_cancelled_job(broker: ScriptedBroker) -> None:
    started = threading.Event()

    def until_told(job: Job) -> None:
        started.set()
        while not job.wait(WAIT_S):
            pass
        job.check()

    with serving(broker, until_told):
        broker.say(delivery(1, "a"))
        assert started.wait(WAIT_S)
        broker.say(m.Cancel(1, [b"a"]))
        ((_, outcome, value),) = broker.settlements(1)
    assert (outcome, value["type"]) == (Outcome.REJECT, "Cancelled")


def test_a_batch_that_ends_for_one_of_its_jobs_gives_the_others_back(broker: ScriptedBroker) -> None:
    started = threading.Event()

    def until_told(jobs: list[Job]) -> None:
        started.set()
        assert jobs[1].wait(WAIT_S)
        for job in jobs:
            job.check()

    with serving(broker, until_told, batch=3, batch_wait="10s"):
        broker.say(delivery(1, "a", "b", "c"))
        assert started.wait(WAIT_S)
        broker.say(m.Lost([(1, [b"c"])], "lease expired"), m.Cancel(1, [b"b"]))
        ends = {identifier: (outcome, value) for identifier, outcome, value in broker.settlements(2)}
    assert ends.keys() == {b"a", b"b"}
    assert ends[b"a"] == (Outcome.RELEASE, None)
    assert ends[b"b"][0] == Outcome.REJECT


def test_a_cancelled_that_nobody_wished_is_taken_at_its_word(broker: ScriptedBroker) -> None:
    assert outcome(broker, Cancelled()) == Outcome.REJECT


@pytest.mark.parametrize("reason", ["max_run", "lease expired"])
def test_a_coroutine_is_ended_when_it_ran_longer_than_its_queue_allows(
    broker: ScriptedBroker, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    started, cleaned, hold = threading.Semaphore(0), threading.Event(), asyncio.Event()
    told: list[str] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def waits(job: Job) -> None:
        job.on_interrupt(lambda: told.append(job.lost_reason))
        loops.append(asyncio.get_running_loop())
        started.release()
        try:
            await hold.wait()
        except asyncio.CancelledError:
            cleaned.set()
            raise

    with caplog.at_level("WARNING", logger="zworker"), serving(broker, waits):
        broker.say(delivery(1, "a"))
        assert started.acquire(timeout=WAIT_S)
        broker.say(m.Lost([(1, [b"a"])], reason), delivery(2, "b"))
        assert started.acquire(timeout=WAIT_S)
        if reason == "max_run":
            assert cleaned.wait(WAIT_S)
        loops[0].call_soon_threadsafe(hold.set)
        assert [identifier for identifier, _, _ in broker.settlements(1)] == [b"b"]
    assert cleaned.is_set() == (reason == "max_run")
    assert told == [reason]
    assert f"lease lost  job=a queue=q fence=1 reason={json_text(reason)}" in caplog.text


def json_text(reason: str) -> str:
    """A fact as the log has it."""
    return f'"{reason}"' if " " in reason else reason


def test_a_run_over_the_limit_of_its_queue_is_told_once_for_a_batch(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    started, cleaned = threading.Event(), threading.Event()
    interrupt = Executor.interrupt
    monkeypatch.setattr(Executor, "interrupt", lambda self, run, why: (told.append(why), interrupt(self, run, why)))

    async def waits(jobs: list[Job]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with serving(broker, waits, batch=2, batch_wait="10s"):
        broker.say(delivery(1, "a"), delivery(2, "b"))
        assert started.wait(WAIT_S)
        broker.say(m.Lost([(1, [])], "max_run"))
        broker.say(m.Lost([(2, [])], "max_run"))
        assert cleaned.wait(WAIT_S)
    assert told[:1] == ["max_run"] and told.count("max_run") == 1


def test_what_never_started_goes_back_as_such(broker: ScriptedBroker) -> None:
    hold, started = threading.Event(), threading.Event()

    def waits() -> None:
        started.set()
        hold.wait(WAIT_S)

    with serving(broker, waits, batch=None) as worker:
        broker.say(m.Deliver("other", 9, 30_000, [b"x"], [1], [delivery(9, "x").records[0]], {}))
        assert broker.settlements(1) == [(b"x", Outcome.RELEASE, True)]
        broker.say(delivery(1, "a"))
        assert started.wait(WAIT_S)
        worker.drain_timeout = "0s"
        worker.stop(wait=False)
        hold.set()
        assert broker.settlements(2)[1] == (b"a", Outcome.ACK, None)


def test_a_worker_that_is_to_stop_waits_for_what_runs_and_gives_back_what_comes(broker: ScriptedBroker) -> None:
    hold, started = threading.Event(), threading.Event()

    def waits() -> None:
        started.set()
        hold.wait(WAIT_S)

    with serving(broker, waits) as worker:
        broker.say(delivery(1, "a"))
        assert started.wait(WAIT_S)
        worker.stop(wait=False)
        broker.says_capacity(0)
        broker.say(delivery(2, "b"))  # it was on its way
        assert broker.settlements(1) == [(b"b", Outcome.RELEASE, True)]
        hold.set()
    assert broker.settlements(2)[1] == (b"a", Outcome.ACK, None)


# ---- progress


def test_progress_leaves_while_the_handler_runs_and_before_its_end(broker: ScriptedBroker) -> None:
    hold = threading.Event()

    def steps(job: Job) -> None:
        job.progress(0.5, "half")
        hold.wait(WAIT_S)
        job.progress(1)

    with serving(broker, steps):
        broker.say(delivery(1, "a"))
        assert broker.progress(b"a") == (0.5, "half")
        hold.set()
        broker.settlements(1)
    kinds = [type(message) for message in broker.sent if isinstance(message, m.Progress | m.Settle)]
    assert kinds == [m.Progress, m.Progress, m.Settle]
    assert broker._progress(b"a")[-1] == (1.0, "")


def test_progress_of_a_coroutine(broker: ScriptedBroker) -> None:
    async def steps(job: Job) -> None:
        job.progress(text="begun")

    with serving(broker, steps):
        broker.say(delivery(1, "a"))
        assert broker.progress(b"a") == (None, "begun")


def test_progress_of_a_consumer_leaves_although_the_loop_is_busy_or_waits(broker: ScriptedBroker) -> None:
    with Consumer("tcp://127.0.0.1:1", "q", transport=broker.transport) as consumer:
        broker.say(delivery(1, "a", "b"))
        first = consumer.get(WAIT_S)
        assert first is not None
        first.progress(0.5)
        assert broker.progress(b"a") == (0.5, "")
        second = consumer.get(WAIT_S)
        assert second is not None
        waiting = threading.Thread(target=consumer.get, args=(WAIT_S,))
        waiting.start()
        second.progress(0.25)
        assert broker.progress(b"b") == (0.25, "")
        consumer.close()
        waiting.join(WAIT_S)
        assert not waiting.is_alive()


# ---- a consumer


def test_a_consumer_does_not_start_what_nobody_wants_any_more(broker: ScriptedBroker) -> None:
    with Consumer("tcp://127.0.0.1:1", "q", transport=broker.transport) as consumer:
        broker.say(delivery(1, "a", "b", "c"), m.Cancel(1, [b"b"]))
        taken = [consumer.get(WAIT_S), consumer.get(WAIT_S)]
        assert [job.id for job in taken if job is not None] == ["a", "c"]
        assert broker.settlements(1) == [(b"b", Outcome.RELEASE, True)]


def test_leaving_the_block_tells_what_was_handed_over_and_ends_who_works_on_it(broker: ScriptedBroker) -> None:
    ended: list[bool] = []
    with Consumer("tcp://127.0.0.1:1", "q", transport=broker.transport) as consumer:
        broker.say(delivery(1, "a", "b"))
        job = consumer.get(WAIT_S)
        assert job is not None
        working = threading.Thread(target=lambda: ended.append(job.wait("1h")))
        working.start()
    working.join(WAIT_S)
    assert ended == [True]
    with pytest.raises(LeaseLost):
        job.check()
    assert broker.settlements(2) == [(b"a", Outcome.RELEASE, None), (b"b", Outcome.RELEASE, True)]
