"""`LocalBroker`, as users' own tests use it: the real core and the real worker, and a clock that the test moves."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from zbroker import limits
from zbroker.check import check_store
from zbroker.testing import LocalBroker
from zclient import InvalidArgument, JobCancelled, JobFailed, ResultTimeout, TooManyQueues
from zworker import Consumer, Job, Snooze, Worker


def test_three_days_take_one_call() -> None:
    worker = Worker()

    @worker.task("email")
    def email(to: str) -> str:
        return f"sent to {to}"

    with LocalBroker() as broker:
        job = broker.client().send("email", {"to": "ada"}, delay="3d")
        with broker.running(worker):
            broker.advance("2d")
            assert job.status().state == "scheduled"
            broker.advance("1d")
            assert job.status().state == "done"
            assert job.result(timeout=1) == "sent to ada"


def test_retries_follow_the_virtual_clock_and_end_dead() -> None:
    worker = Worker()
    attempts: list[int] = []

    @worker.task("flaky")
    def flaky(job: Job) -> None:
        attempts.append(job.attempt)
        raise ValueError("no")

    with LocalBroker(max_attempts=3) as broker, broker.running(worker):
        job = broker.client().send("flaky", None)
        broker.advance("1h")
        assert attempts == [1, 2, 3]
        with pytest.raises(JobFailed) as caught:
            job.result(timeout=1)
        assert caught.value.reason == "attempts"
        assert [attempt["kind"] for attempt in job.status().attempt_log] == ["error"] * 3


def test_a_snooze_waits_and_burns_no_attempt() -> None:
    worker = Worker()
    times: list[float] = []

    with LocalBroker() as broker:

        @worker.task("later")
        def later(job: Job) -> int:
            times.append(broker.now)
            if len(times) == 1:
                raise Snooze("10m")
            return job.attempt

        with broker.running(worker):
            job = broker.client().send("later", None)
            broker.wait_idle()
            broker.advance("10m")
            assert job.result(timeout=1) == 1
            assert times[1] - times[0] == pytest.approx(600, abs=0.01)


def test_a_running_job_keeps_its_lease_while_its_worker_lives() -> None:
    worker = Worker(concurrency=1)
    begun, go_on = threading.Event(), threading.Event()
    runs: list[int] = []

    @worker.task("long")
    def long(job: Job) -> str:
        runs.append(job.attempt)
        begun.set()
        assert go_on.wait(30)
        return "through"

    with LocalBroker(lease="30s") as broker, broker.running(worker):
        job = broker.client().send("long", None)
        assert begun.wait(30)
        broker.advance("1h")
        assert job.status().state == "leased"
        go_on.set()
        broker.wait_idle()
        assert job.result(timeout=1) == "through"
        assert runs == [1]


def test_the_broker_may_die_at_any_time() -> None:
    worker = Worker()
    seen: list[Any] = []

    @worker.task("count")
    def count(number: int) -> None:
        seen.append(number)

    with LocalBroker() as broker:
        client = broker.client()
        client.send_many("count", range(10))
        broker.restart()
        client.send_many("count", range(10, 20))
        with broker.running(worker):
            broker.wait_idle()
        assert sorted(seen) == list(range(20))
        assert client.stats()["epoch"] == 2


def test_a_consumer_and_a_wait_that_ends_in_real_time() -> None:
    with LocalBroker() as broker:
        client = broker.client()
        job = client.send("orders", {"n": 1})
        with pytest.raises(ResultTimeout):
            job.result(timeout=0.05)
        with Consumer(broker.endpoint, "orders", transport=broker.transport) as consumer:
            taken = next(iter(consumer))
            taken.ack(result=taken.payload["n"] + 1)
        assert job.result(timeout=5) == 2


def test_two_brokers_of_one_seed_do_the_same() -> None:
    def due_times() -> list[float]:
        with LocalBroker(seed=7) as broker:
            job = broker.client().send("q", None)
            with Consumer(broker.endpoint, "q", transport=broker.transport) as consumer:
                next(iter(consumer)).nack("no")
            broker.wait_idle()
            status = job.status()
            assert status.due_at is not None
            return [round(status.due_at.timestamp() - broker.now, 3)]

    assert due_times() == due_times()


def test_an_asyncio_client() -> None:
    async def main(broker: LocalBroker) -> Any:
        async with broker.async_client() as client:
            job = await client.send("double", 21)
            return await job.result(timeout=5)

    worker = Worker()

    @worker.task("double")
    def double(number: int) -> int:
        return 2 * number

    with LocalBroker() as broker, broker.running(worker):
        assert asyncio.run(main(broker)) == 42


def test_the_number_of_queues_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_QUEUES", 2)
    with LocalBroker() as broker:
        client = broker.client()
        for queue in ("a", "b", "a"):
            client.send(queue, None)
        with pytest.raises(TooManyQueues):
            client.send("c", None)
        assert [row["queue"] for row in client.queues()] == ["a", "b"]


def test_a_look_without_any_time_is_a_look() -> None:
    with LocalBroker() as broker:
        client = broker.client()
        waiting, over = client.send("q", 1), client.send("q", 2, delay="1h")
        over.cancel()
        with pytest.raises(ResultTimeout):
            waiting.result(timeout=0)
        with pytest.raises(JobCancelled):
            over.result(timeout=0)


def test_a_payload_that_nobody_could_read_is_refused() -> None:
    with LocalBroker() as broker:
        client = broker.client()
        with pytest.raises(InvalidArgument, match="simple keys"):
            client.send("q", {(1, 2): 3})
        client.send("q", {1: {"a": [b"x", None, 1.5]}})
        assert client.queues()[0]["ready"] == 1


def test_a_worker_never_waits_for_its_thread_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just before an endless wait runs no handler, so SIGTERM could be lost."""
    joins: list[float | None] = []
    joined = threading.Event()
    join = threading.Thread.join

    def noted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "zworker":
            joins.append(timeout)
            joined.set()
        join(thread, timeout)

    worker = Worker()
    started = threading.Event()

    @worker.task("q")
    def hold(payload: int) -> bool:
        started.set()
        return joined.wait(10)  # an idle worker may have ended before anybody waits for it

    monkeypatch.setattr(threading.Thread, "join", noted)
    with LocalBroker() as broker, broker.running(worker):
        broker.client().send("q", 1)
        assert started.wait(10)
    assert joins and None not in joins


def test_a_handler_publishes_with_its_ack_and_days_of_a_kept_topic_pass() -> None:
    worker = Worker()
    seen: list[tuple[str, int]] = []

    @worker.task("in")
    def take(n: int, job: Job) -> None:
        seen.append((job.headers["topic"], n))
        job.publish("done.in", {"n": n + 1})

    @worker.task("out")
    def end(n: int) -> None:
        seen.append(("out", n))

    with LocalBroker() as broker:
        client = broker.client()
        client.keep_topic("#", keep_for="2d")
        client.bind("in.*", "in")
        client.bind("done.#", "out")
        assert client.publish("in.x", {"n": 1}, delay="1d").queues == 1
        with broker.running(worker):
            broker.advance("1d")
            broker.wait_idle()
        assert seen == [("in.x", 1), ("out", 2)]
        kept = [(one.topic, one.payload) for one in client.tail("#", start="beginning", timeout=0)]
        assert kept == [("in.x", {"n": 1}), ("done.in", {"n": 2})]
        broker.restart()
        broker.advance("1d")
        assert [one.topic for one in client.tail("#", start="beginning", timeout=0)] == ["done.in"]
        broker.advance("2d")
        assert list(client.tail("#", start="beginning", timeout=0)) == []
        assert check_store(broker.store).faults == []


def test_a_stream_is_read_and_time_does_not_wait_for_its_reader() -> None:
    worker = Worker()

    @worker.task("count")
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    with LocalBroker() as broker, broker.running(worker):
        client = broker.client()
        assert list(client.stream("count", 1000)) == list(range(1000))
        stream = client.stream("count", 100, delay="1h", timeout=10, ttl=0)
        broker.advance("2h")
        assert stream.job.status().state == "leased"
        assert next(stream) == 0
        broker.restart()
        assert list(stream) == list(range(1, 100))


def test_a_call_that_nobody_began_in_time_is_late_whoever_says_so_first() -> None:
    with LocalBroker() as broker, ThreadPoolExecutor() as pool:
        client = broker.client()
        call = pool.submit(client.call, "nobody", timeout="1h")
        stream = client.stream("nobody", timeout="1h")
        while len(list(client.jobs("nobody"))) < 2:
            assert not call.done()
        broker.advance("1h")
        with pytest.raises(ResultTimeout):
            call.result(timeout=30)
        with pytest.raises(ResultTimeout):
            next(stream)
        job = client.send("nobody", ttl="1h")
        broker.advance("1h")
        with pytest.raises(JobFailed):
            job.result(timeout=30)
