"""What tasks and queues ask for, from the decorator to the outcome, with a real broker."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.system.processes import eventually
from tests.worker.brokers import WAIT_S, BrokerProcess
from zclient import Client, JobCancelled, JobFailed, JobHandle
from zworker import Cancelled, Consumer, Job, LeaseLost, Worker


def failure(job: JobHandle) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        job.result(timeout=WAIT_S)
    return caught.value


# ---- retries


def test_the_task_wins_over_the_queue_and_the_job_over_the_task(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, max_attempts=2, backoff=["1ms"])
    def fails() -> None:
        raise ValueError("always")

    client.set_queue(queue, max_attempts=7, backoff="constant", backoff_min="1h")
    with worker:
        for given, attempts in ((None, 2), (1, 1), (3, 3)):
            job = client.send(queue, max_attempts=given)
            assert failure(job).reason == "attempts"
            assert job.status().attempts == attempts


def test_a_task_says_how_long_a_retry_waits(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, backoff=["1h", "2h"], backoff_max="1d", backoff_jitter=0)
    def fails() -> None:
        raise ValueError("always")

    with worker:
        job = client.send(queue)
        eventually(lambda: job.status().state == "scheduled")
    due_at = job.status().due_at
    assert due_at is not None
    assert abs(due_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


def test_a_task_says_which_errors_are_tried_again(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, retry_on=OSError, reject_on=FileNotFoundError, backoff=["1ms"])
    def fails(job: Job, kind: str) -> int:
        if job.attempt == 1:
            raise {"value": ValueError, "file": FileNotFoundError, "connection": ConnectionError}[kind]
        return job.attempt

    with worker:
        for kind in ("value", "file"):
            job = client.send(queue, kind)
            assert failure(job).reason == "rejected"
            assert job.status().attempts == 1
        assert client.send(queue, "connection").result(timeout=WAIT_S) == 2


def test_a_timeout_may_be_final(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, timeout="20ms", reject_on=TimeoutError)
    async def slow() -> None:
        await asyncio.Event().wait()

    with worker:
        error = failure(client.send(queue))
    assert (error.reason, error.error["type"]) == ("rejected", "timeout")


# ---- ends


def test_a_run_that_is_longer_than_its_queue_allows_is_ended(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    cleaned, told = threading.Event(), threading.Event()

    @worker.task(queue + "-async")
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    @worker.task(queue)
    def looks(job: Job) -> None:
        assert job.wait(WAIT_S)
        assert job.lost_reason == "max_run"
        with pytest.raises(LeaseLost):
            job.check()
        told.set()

    for name in (queue, queue + "-async"):
        client.set_queue(name, max_run="50ms", max_attempts=1)
    with worker:
        for name in (queue, queue + "-async"):
            job = client.send(name)
            failure(job)
            assert [entry["kind"] for entry in job.status().attempt_log] == ["max_run"]
        assert cleaned.wait(WAIT_S)
        assert told.wait(WAIT_S)


def test_a_loop_that_checks_ends_when_its_job_is_cancelled(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    started = threading.Event()

    @worker.task(queue)
    def loops(job: Job) -> None:
        started.set()
        while True:
            job.wait(WAIT_S)
            job.check()

    with worker:
        job = client.send(queue)
        assert started.wait(WAIT_S)
        assert job.cancel() == "leased"
        with pytest.raises(JobCancelled):
            job.result(timeout=WAIT_S)


def test_a_wish_to_cancel_is_known_after_a_restart_of_the_broker(tmp_path: Path, queue: str) -> None:
    with BrokerProcess("--durability", "os", data=tmp_path) as first, Client(first.endpoint) as client:
        endpoint = first.endpoint
        worker = Worker(endpoint)
        started, told, hold = threading.Event(), threading.Event(), threading.Event()
        checked = []

        @worker.task(queue)
        def looks(job: Job) -> None:
            started.set()
            assert job.wait(WAIT_S)
            told.set()
            hold.wait(WAIT_S)
            try:
                job.check()
            except Cancelled:
                checked.append(job.attempt)
                raise

        with worker:
            job = client.send(queue)
            assert started.wait(WAIT_S)
            job.cancel()
            assert told.wait(WAIT_S)
            first.kill()
            with BrokerProcess("--durability", "os", data=tmp_path, bind=endpoint):
                eventually(lambda: any(queue in entry["queues"] for entry in client.workers()))
                assert job.status().cancel_requested
                hold.set()
                with pytest.raises(JobCancelled):
                    job.result(timeout=WAIT_S)
        assert checked == [1]


# ---- progress


def test_progress_is_seen_while_the_job_runs(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    half, hold = threading.Event(), threading.Event()

    @worker.task(queue)
    def steps(job: Job) -> str:
        job.progress(0.25, "a quarter")
        half.wait(WAIT_S)
        job.progress(text="nearly")
        hold.wait(WAIT_S)
        return "done"

    def told() -> tuple[float | None, str] | None:
        progress = job.status().progress
        return None if progress is None else (progress.fraction, progress.text)

    with worker:
        job = client.send(queue)
        eventually(lambda: told() == (0.25, "a quarter"))
        half.set()
        eventually(lambda: told() == (None, "nearly"))
        hold.set()
        assert job.result(timeout=WAIT_S) == "done"


def test_the_last_progress_of_a_run_that_failed_is_kept(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, max_attempts=1)
    def steps(job: Job) -> None:
        job.progress(0.1)
        job.progress(0.9, "the last step")
        raise ValueError("so near")

    with worker:
        job = client.send(queue)
        failure(job)
        progress = job.status().progress
    assert progress is not None
    assert (progress.fraction, progress.text) == (0.9, "the last step")


# ---- what a queue promises


def test_at_most_once_only_what_never_started_is_delivered_again(broker: str, client: Client, queue: str) -> None:
    client.set_queue(queue, delivery="at_most_once")
    first, second = client.send_many(queue, [1, 2])
    with Consumer(broker, queue, credit=2) as consumer:
        taken = consumer.get(WAIT_S)
        assert taken is not None and taken.id == first.id
        eventually(lambda: second.status().state == "leased")
    failure(first)
    assert second.status().state == "ready"
    with Consumer(broker, queue) as consumer:
        taken = consumer.get(WAIT_S)
        assert taken is not None and taken.id == second.id
        taken.ack("once")
        assert second.result(timeout=WAIT_S) == "once"


def test_at_most_once_a_failure_is_the_end(broker: str, client: Client, queue: str) -> None:
    client.set_queue(queue, delivery="at_most_once")
    worker = Worker(broker)
    runs = []

    @worker.task(queue)
    def fails(job: Job) -> None:
        runs.append(job.id)
        raise ValueError("once")

    with worker:
        job = client.send(queue)
        failure(job)
    assert runs == [job.id]


def test_a_job_knows_its_expiry_and_its_unique_text(broker: str, client: Client, queue: str) -> None:
    job = client.send(queue, ttl="1h", unique="order-17")
    with Consumer(broker, queue) as consumer:
        taken = consumer.get(WAIT_S)
        assert taken is not None and taken.expires_at is not None
        assert taken.expires_at - taken.created_at == timedelta(hours=1)
        assert taken.unique == "order-17"
        taken.ack()
        job.result(timeout=WAIT_S)
