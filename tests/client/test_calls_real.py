"""`call`: a job and what it returns, within the caller's patience, against a real broker process."""

import asyncio
import threading
from typing import Any

import pytest

from tests.client.echo import Echo, Reject
from tests.system.processes import BrokerProcess, eventually
from zclient import AsyncClient, BrokerUnreachable, Client, InvalidArgument, JobFailed, QueueClosed, ResultTimeout


def refuse(payload: Any) -> Any:
    raise Reject("not now")


def jobs_of(client: Client, queue: str) -> list[str]:
    return [job.state for job in client.jobs(queue)]


def gave_up(client: Client, queue: str) -> bool:
    """Whether the only job of the queue will not begin: it expired, or was cancelled, whichever came first."""
    (job,) = client.jobs(queue)
    return job.attempts == 0 and (job.state == "cancelled" or (job.state, job.reason) == ("dead", "expired"))


def test_it_returns_what_the_handler_returns(broker: BrokerProcess, client: Client) -> None:
    with Echo(broker.endpoint, "c-reply"):
        assert client.call("c-reply", {"n": 1}, timeout=10) == {"n": 1}
        assert client.call("c-reply", timeout="10s", priority=5, headers={"h": 1}) is None
        large = bytes(300_000)
        assert client.call("c-reply", large) == large
    assert {job.priority for job in client.jobs("c-reply")} <= {0, 5}


def test_a_result_of_which_nothing_is_kept_is_told_though_the_job_was_over(
    broker: BrokerProcess, client: Client
) -> None:
    client.set_queue("c-unkept", keep_done=0)
    with Echo(broker.endpoint, "c-unkept"):
        job = client.send("c-unkept", {"n": 1})
        eventually(lambda: client.queue("c-unkept")["totals"]["done"] == 1)
        assert job.result(timeout=10) == {"n": 1}

        async def ask() -> Any:
            async with AsyncClient(broker.endpoint) as other:
                job = await other.send("c-unkept", {"n": 2})
                while (await other.queue("c-unkept"))["totals"]["done"] < 2:
                    pass
                return await job.result(timeout=10)

        assert asyncio.run(ask()) == {"n": 2}
        assert [client.call("c-unkept", n) for n in range(100)] == list(range(100))


def test_a_failure_is_raised(broker: BrokerProcess, client: Client) -> None:
    with Echo(broker.endpoint, "c-failure", refuse), pytest.raises(JobFailed) as caught:
        client.call("c-failure", timeout=10)
    assert caught.value.reason == "rejected"


def test_what_nobody_began_in_time_will_not_begin(broker: BrokerProcess, client: Client) -> None:
    with pytest.raises(ResultTimeout):
        client.call("c-nobody", timeout="200ms")
    assert gave_up(client, "c-nobody")


def test_what_has_no_expiry_is_cancelled(broker: BrokerProcess, client: Client) -> None:
    with pytest.raises(ResultTimeout):
        client.call("c-cancelled", timeout="200ms", ttl=0)
    assert jobs_of(client, "c-cancelled") == ["cancelled"]


def test_one_that_runs_is_told_to_end(broker: BrokerProcess, client: Client) -> None:
    begun, over = threading.Event(), threading.Event()

    def wait(payload: Any) -> Any:
        begun.set()
        over.wait(30)

    with Echo(broker.endpoint, "c-runs", wait):
        with pytest.raises(ResultTimeout, match="it is cancelled"):
            client.call("c-runs", timeout="1500ms")
        assert begun.is_set()
        (job,) = client.jobs("c-runs", state="leased")
        assert job.cancel_requested
        over.set()
        eventually(lambda: client.get(job.id).is_over)


def test_the_job_expires_with_the_callers_time_unless_it_says_otherwise(broker: BrokerProcess, client: Client) -> None:
    times: list[float] = []

    def ttl_of(queue: str, **options: Any) -> float | None:
        client.set_queue(queue, keep_done="1h")
        caller = threading.Thread(target=lambda: times.append(client.call(queue, timeout=20, **options)))
        caller.start()
        eventually(lambda: jobs_of(client, queue) == ["ready"])
        (job,) = client.jobs(queue)
        assert job.created_at is not None
        ttl = (job.expires_at - job.created_at).total_seconds() if job.expires_at else None
        with Echo(broker.endpoint, queue, lambda payload: 0.0):
            caller.join(30)
        return ttl

    assert ttl_of("c-ttl-1") == 20
    assert ttl_of("c-ttl-2", ttl=None) == 20
    assert ttl_of("c-ttl-3", ttl="1h") == 3600
    assert ttl_of("c-ttl-4", ttl=0) is None
    assert times == [0.0] * 4


def test_a_call_that_met_somebody_elses_job_leaves_it_alone(broker: BrokerProcess, client: Client) -> None:
    first = client.send("c-unique", unique="u")
    with pytest.raises(ResultTimeout):
        client.call("c-unique", unique="u", timeout="200ms")
    assert first.status().state == "ready"


def test_errors_of_sending_are_those_of_send(broker: BrokerProcess, client: Client) -> None:
    client.set_queue("c-closed", max_jobs=1)
    client.drain("c-closed")
    with pytest.raises(QueueClosed):
        client.call("c-closed", timeout=5)
    with pytest.raises(InvalidArgument):
        client.call("c-closed", timeout="soon")
    with Client("tcp://127.0.0.1:1") as nobody, pytest.raises(BrokerUnreachable):
        nobody.call("c-closed", timeout="200ms")


def test_the_same_for_asyncio(broker: BrokerProcess, client: Client) -> None:
    async def main() -> None:
        async with AsyncClient(broker.endpoint) as calling:
            with Echo(broker.endpoint, "c-async"):
                called = [calling.call("c-async", n, timeout=20) for n in range(50)]
                assert await asyncio.gather(*called) == list(range(50))
            with Echo(broker.endpoint, "c-async-failure", refuse), pytest.raises(JobFailed):
                await calling.call("c-async-failure", timeout=10)
            with pytest.raises(ResultTimeout):
                await calling.call("c-async-nobody", timeout="200ms")
            with pytest.raises(ResultTimeout):
                await calling.call("c-async-cancelled", timeout="200ms", ttl=0)
            first = await calling.send("c-async-unique", unique="u")
            with pytest.raises(ResultTimeout):
                await calling.call("c-async-unique", unique="u", timeout="200ms")
            assert (await first.status()).state == "ready"

    asyncio.run(main())
    assert gave_up(client, "c-async-nobody")
    assert jobs_of(client, "c-async-cancelled") == ["cancelled"]


@pytest.mark.parametrize("passes", [1, 2, 3, None])
def test_a_task_that_is_cancelled_while_it_calls_cancels_the_job(
    broker: BrokerProcess, client: Client, passes: int | None
) -> None:
    """Also while it sends: the job that is stored all the same does not stay."""
    queue = f"c-task-{passes}"

    def is_there() -> bool:
        return any(row["queue"] == queue and row["ready"] for row in client.queues())

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as calling:
            await calling.stats()  # it is connected
            call = asyncio.create_task(calling.call(queue, timeout=60))
            if passes is None:
                await asyncio.to_thread(eventually, is_there)
            for _ in range(passes or 0):
                await asyncio.wait([call], timeout=0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    assert not is_there()


def test_a_task_that_met_somebody_elses_job_leaves_it_alone(broker: BrokerProcess, client: Client) -> None:
    first = client.send("c-task-unique", unique="u")

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as calling:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await calling.call("c-task-unique", unique="u", timeout=60)

    asyncio.run(main())
    assert first.status().state == "ready"
