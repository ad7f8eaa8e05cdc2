"""Workers against a real broker."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import eventually
from tests.worker.brokers import FAST, WAIT_S, BrokerProcess
from zclient import BrokerUnreachable, Client, ClosedError, InvalidArgument, JobCancelled, JobFailed
from zworker import Job, Reject, Retry, Snooze, Worker, station


@contextmanager
def serving(worker: Worker) -> Iterator[Worker]:
    with worker:
        worker.wait_ready(WAIT_S)
        yield worker


def failure(client: Client, queue: str, payload: Any = None) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        client.send(queue, payload).result(timeout=WAIT_S)
    return caught.value


def test_functions_and_coroutines_work_side_by_side(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue)
    def add(a: int, b: int = 2) -> int:
        return a + b

    @worker.task(queue + "-async")
    async def describe(job: Job, word: str) -> list[Any]:
        await asyncio.sleep(0)
        return [word, job.id, job.queue, job.attempt, dict(job.headers)]

    with serving(worker):
        assert client.send(queue, {"a": 1, "b": 5}).result(timeout=WAIT_S) == 6
        assert client.send(queue, [3]).result(timeout=WAIT_S) == 5
        assert add.send(1, b=1).result(timeout=WAIT_S) == 2
        job = client.send(queue + "-async", "hi", headers={"trace": 1})
        assert job.result(timeout=WAIT_S) == ["hi", job.id, queue + "-async", 1, {"trace": 1}]


def test_as_many_handlers_run_at_once_as_there_are_slots(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=4)
    together = threading.Barrier(4, timeout=WAIT_S)
    most, running, lock = 0, 0, threading.Lock()

    @worker.task(queue)
    def meet() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1

    with serving(worker):
        jobs = client.send_many(queue, [None] * 12)
        for job in jobs:
            job.result(timeout=WAIT_S)
    assert most == 4


def test_an_error_travels_with_its_traceback(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, max_attempts=1)
    def fails(secret: str) -> None:
        raise LookupError("nobody there")

    with serving(worker):
        error = failure(client, queue, {"secret": "s"})
    assert error.reason == "attempts"
    assert (error.error["type"], error.error["text"]) == ("LookupError", "nobody there")
    assert "in fails" in error.error["traceback"]


def test_a_task_is_tried_as_often_as_it_says(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    attempts = []

    @worker.task(queue, max_attempts=3)
    def fails(job: Job) -> None:
        attempts.append(job.attempt)
        raise Retry(delay=0, reason="not yet")

    with serving(worker):
        error = failure(client, queue)
    assert attempts == [1, 2, 3]
    assert (error.reason, error.error["text"]) == ("attempts", "not yet")


def test_reject_is_not_tried_again_and_snooze_burns_no_attempt(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    runs: list[int] = []

    @worker.task(queue)
    def later(job: Job) -> str:
        runs.append(job.attempt)
        if len(runs) == 1:
            raise Snooze("20ms")
        raise Reject("no such user")

    with serving(worker):
        assert failure(client, queue).reason == "rejected"
    assert runs == [1, 1]


def test_a_payload_that_does_not_fit_is_rejected_at_the_first_attempt(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    worker.task(queue)(lambda a: a)
    with serving(worker):
        job = client.send(queue, {"b": 1})
        with pytest.raises(JobFailed, match="lacks a"):
            job.result(timeout=WAIT_S)
        assert job.status().attempts == 1


def test_a_thread_that_outlives_its_timeout_keeps_its_slot_and_is_not_heard(
    broker: str, client: Client, queue: str
) -> None:
    worker = Worker(broker, concurrency=2, name=queue)
    hold = threading.Event()

    @worker.task(queue, timeout="30ms", max_attempts=1)
    def slow(wait: bool) -> str:
        if wait:
            hold.wait(WAIT_S)
        return "done"

    def capacity() -> int:
        return next(entry["capacity"] for entry in client.workers() if entry["name"] == queue)

    with serving(worker):
        error = failure(client, queue, True)
        assert (error.error["type"], error.reason) == ("timeout", "attempts")
        eventually(lambda: capacity() == 1)
        assert client.send(queue, False).result(timeout=WAIT_S) == "done"
        hold.set()
        eventually(lambda: capacity() == 2)


def test_a_coroutine_is_cancelled_at_its_timeout(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    cleaned = threading.Event()

    @worker.task(queue, timeout="30ms", max_attempts=1)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with serving(worker):
        assert failure(client, queue).error["type"] == "timeout"
        assert cleaned.wait(WAIT_S)


def test_a_wish_to_cancel_reaches_coroutines_and_threads(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    started = threading.Semaphore(0)

    @worker.task(queue + "-async")
    async def waits() -> None:
        started.release()
        await asyncio.Event().wait()

    @worker.task(queue)
    def looks(job: Job) -> None:
        started.release()
        eventually(lambda: job.cancelled)
        raise Reject("as you wish")

    with serving(worker):
        for name in (queue, queue + "-async"):
            job = client.send(name)
            assert started.acquire(timeout=WAIT_S)
            assert client.cancel(job) == "leased"
            with pytest.raises(JobCancelled):
                job.result(timeout=WAIT_S)


def test_batches_are_gathered_and_settled_one_by_one(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=1)

    @worker.task(queue, batch=4, batch_wait="10s")
    def total(jobs: list[Job]) -> list[int]:
        jobs[0].reject("the first is always wrong")
        return [len(jobs)] * len(jobs)

    with serving(worker):
        first, *others = client.send_many(queue, range(4))
        assert [job.result(timeout=WAIT_S) for job in others] == [4, 4, 4]
        with pytest.raises(JobFailed, match="always wrong"):
            first.result(timeout=WAIT_S)


def test_an_exception_fails_the_jobs_of_a_batch_that_are_not_settled(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=1)

    @worker.task(queue, batch=2, max_attempts=1, batch_wait="10s")
    async def fails(jobs: list[Job]) -> None:
        jobs[0].ack("saved")
        raise ValueError("the rest")

    with serving(worker):
        first, second = client.send_many(queue, range(2))
        assert first.result(timeout=WAIT_S) == "saved"
        with pytest.raises(JobFailed, match="the rest"):
            second.result(timeout=WAIT_S)


def test_a_batch_that_does_not_fill_starts_after_its_wait(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, batch=100, batch_wait="20ms")
    def count(jobs: list[Job]) -> list[int]:
        return [len(jobs)] * len(jobs)

    with serving(worker):
        assert client.send(queue).result(timeout=WAIT_S) == 1


def test_stop_lets_running_jobs_end_and_takes_no_more(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=1)
    started, hold = threading.Event(), threading.Event()
    ran = []

    @worker.task(queue)
    def slow(number: int) -> int:
        ran.append(number)
        started.set()
        hold.wait(WAIT_S)
        return number

    with serving(worker):
        first, second = client.send_many(queue, [1, 2])
        assert started.wait(WAIT_S)
        worker.stop(wait=False)
        hold.set()
    assert first.result(timeout=WAIT_S) == 1
    assert ran == [1]
    assert second.status().state == "ready"


def test_what_does_not_end_within_the_drain_time_goes_back_unburnt(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, drain_timeout="20ms")
    started, hold, cleaned = threading.Semaphore(0), threading.Event(), threading.Event()

    @worker.task(queue)
    def stuck() -> None:
        started.release()
        hold.wait(WAIT_S)

    @worker.task(queue + "-async")
    async def waits() -> None:
        started.release()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with serving(worker):
        jobs = [client.send(queue), client.send(queue + "-async")]
        for _ in jobs:
            assert started.acquire(timeout=WAIT_S)
    hold.set()
    assert cleaned.is_set()
    assert [(job.status().state, job.status().attempts) for job in jobs] == [("ready", 0)] * 2


def test_a_worker_runs_again_after_it_stopped(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    worker.task(queue)(lambda a: a)
    for number in range(2):
        with serving(worker):
            assert client.send(queue, number).result(timeout=WAIT_S) == number


def test_run_ends_on_sigterm_and_puts_the_signal_handlers_back(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    @worker.task(queue)
    def ends_us() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "last words"

    job = client.send(queue)
    worker.run()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert job.result(timeout=WAIT_S) == "last words"


def test_a_second_signal_gives_everything_back(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, drain_timeout="1h")
    hold = threading.Event()

    @worker.task(queue)
    def stuck() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        eventually(lambda: worker.ready.is_set() and worker.is_draining)
        os.kill(os.getpid(), signal.SIGINT)
        hold.wait(WAIT_S)

    job = client.send(queue)
    worker.run()
    hold.set()
    assert (job.status().state, job.status().attempts) == ("ready", 0)


def test_a_broker_that_is_not_there(queue: str, tmp_path: Path) -> None:
    worker = Worker(f"ipc://{tmp_path}/nobody")
    worker.task(queue)(lambda: None)
    with pytest.raises(BrokerUnreachable):
        worker.run(connect_timeout="50ms")
    with worker, pytest.raises(BrokerUnreachable, match="within 50ms"):
        worker.wait_ready("50ms")


def test_a_worker_without_a_broker_says_so_once(queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    told = threading.Event()

    def log(level: int, event: str, **facts: Any) -> None:
        said.append(event)
        told.set()

    monkeypatch.setattr(station, "PATIENCE_MS", 10)
    monkeypatch.setattr(station, "log", log)
    worker = Worker(f"ipc://{tmp_path}/nobody")
    worker.task(queue)(lambda: None)
    with worker:
        assert told.wait(WAIT_S)
    assert said == ["no broker yet"]


def test_a_job_goes_on_while_the_broker_is_killed_and_started_again(tmp_path: Path, queue: str) -> None:
    with BrokerProcess("--durability", "os", data=tmp_path) as first:
        endpoint = first.endpoint
        worker = Worker(endpoint)
        started, hold = threading.Event(), threading.Event()
        runs = []

        @worker.task(queue)
        def slow(job: Job) -> str:
            runs.append(job.attempt)
            started.set()
            hold.wait(WAIT_S)
            return f"attempt {job.attempt}"

        with serving(worker), Client(endpoint) as client:
            job = client.send(queue)
            assert started.wait(WAIT_S)
            first.kill()
            hold.set()
            with BrokerProcess("--durability", "os", data=tmp_path, bind=endpoint):
                assert job.result(timeout=WAIT_S) == "attempt 1"
    assert runs == [1]


def test_extend_is_confirmed_by_the_broker(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, max_attempts=1)
    def extends(job: Job) -> str:
        job.extend("5m")
        return "extended"

    @worker.task(queue + "-async")
    async def extends_too(job: Job) -> str:
        await asyncio.to_thread(job.extend, "5m")
        return "extended"

    with serving(worker):
        for name in (queue, queue + "-async"):
            assert client.send(name).result(timeout=WAIT_S) == "extended"


def test_leases_are_renewed_while_handlers_run(queue: str) -> None:
    with BrokerProcess(*FAST, "--lease", "1s") as broker, Client(broker.endpoint) as client:
        worker = Worker(broker.endpoint, concurrency=1)

        @worker.task(queue)
        def slow(job: Job) -> list[Any]:
            first = job.delivery.until_ms
            eventually(lambda: job.delivery.until_ms > first + 1200)
            return [job.attempt, job.lease_lost]

        with serving(worker):
            assert client.send(queue).result(timeout=WAIT_S) == [1, False]


def test_a_forked_child_must_make_a_worker_of_its_own(broker: str, queue: str) -> None:
    worker = Worker(broker)
    worker.task(queue)(lambda: None)
    with serving(worker):
        child = os.fork()
        if child == 0:
            try:
                worker.stop()
            except ClosedError as error:
                os._exit(7 if "forked" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"backoff": "slowly"},
        {"backoff": []},
        {"backoff_min": 0},
        {"backoff_max": "soon"},
        {"backoff_jitter": 1.5},
        {"timeout": 0},
        {"timeout": "soon"},
        {"batch": 0},
        {"batch_wait": "1s"},
        {"retry_on": "OSError"},
        {"retry_on": [OSError]},
        {"retry_on": OSError("an instance")},
        {"reject_on": (OSError, int)},
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Worker().task("q", **options)(lambda jobs: None)


def test_what_cannot_be_registered_is_refused_at_once() -> None:
    worker = Worker()
    with pytest.raises(InvalidArgument, match="names its queue"):
        worker.task(print)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="belong to the broker"):
        worker.task("mmi.service")(lambda: None)
    worker.task("q")(lambda: None)
    with pytest.raises(InvalidArgument, match="has a task already"):
        worker.task("q")(lambda: None)
    with pytest.raises(InvalidArgument, match="no task"):
        Worker().run()
    with pytest.raises(InvalidArgument):
        Worker(concurrency=0)
    with pytest.raises(InvalidArgument):
        Worker("http://example.org")


def test_events_are_logged_with_their_facts_and_never_with_a_payload(
    broker: str, client: Client, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(broker, name=queue)

    @worker.task(queue, max_attempts=1)
    def fails(secret: str) -> None:
        raise ValueError(f"cannot use {secret}")

    with caplog.at_level("INFO", logger="zworker"), serving(worker):
        failure(client, queue, "hunter2")
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert f"ready  name={queue} queues={queue} capacity=8" in text
    assert f"queue={queue} attempt=1 error=ValueError" in text
    assert "hunter2" not in text
