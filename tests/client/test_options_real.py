"""What a job and a queue can be asked for, through the clients, against a real broker process."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.client.echo import Echo, Reject
from tests.system.processes import BrokerProcess
from zclient import (
    AsyncClient,
    Client,
    ClosedError,
    JobCancelled,
    JobFailed,
    NotFound,
    QueueClosed,
    QueueFull,
    ResultTimeout,
    UniqueTaken,
)
from zclient.handles import JobStatus


def refuse(payload: Any) -> Any:
    """A handler under which every job ends dead."""
    raise Reject("not now")


def kill(broker: BrokerProcess, client: Client, queue: str, jobs: int) -> list[str]:
    """The ids of so many jobs that died."""
    sent = client.send_many(queue, range(jobs))
    with Echo(broker.endpoint, queue, refuse):
        for job in sent:
            with pytest.raises(JobFailed):
                job.result(timeout=20)
    return list(sent.ids)


# ---- unique


def test_a_second_job_of_a_unique_text_is_the_first_one(broker: BrokerProcess, client: Client) -> None:
    first = client.send("u-existing", 1, unique="order-17")
    second = client.send("u-existing", 2, unique="order-17", id="never-stored")
    other = client.send("u-existing", 3, unique="order-18")
    assert (first.existing, second.existing, other.existing) == (False, True, False)
    assert second == first != other
    assert client.queue("u-existing")["ready"] == 2
    assert (second.status().payload, second.status().unique) == (1, "order-17")
    with pytest.raises(NotFound):
        client.get("never-stored")
    with Echo(broker.endpoint, "u-existing"):
        assert second.result(timeout=10) == 1
        assert not client.send("u-existing", 4, unique="order-17").existing, "the first one is over"


def test_of_many_jobs_of_one_unique_text_one_is_stored_and_stands_for_all(client: Client) -> None:
    jobs = client.send_many("u-many", range(25), batch=10, unique="all the same")
    assert len(jobs) == 25
    assert len(set(jobs.ids)) == 1 and client.queue("u-many")["ready"] == 1
    assert sum(job.existing for job in jobs) == 24
    assert jobs[24].status().id == jobs[0].id


def test_concurrent_senders_of_a_unique_text_get_one_job(broker: BrokerProcess) -> None:
    ids: list[str] = []

    def work() -> None:
        with Client(broker.endpoint) as client:
            ids.extend(client.send("u-race", n, unique="one").id for n in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ids) == 80 and len(set(ids)) == 1


def test_a_job_that_was_replaced_says_so_and_by_which(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with AsyncClient(broker.endpoint) as client:
            first = await client.send("u-replace", 1, unique="u")
            waiting = asyncio.create_task(first.result(timeout=20))
            await asyncio.sleep(0)  # it has begun, so that its watch leaves before the next job
            second = await client.send("u-replace", 2, unique="u", on_conflict="replace")
            with pytest.raises(JobCancelled) as error:
                await waiting
            assert (error.value.reason, error.value.by) == ("replaced", second.id)
            third = await client.send("u-replace", 3, unique="u", on_conflict="debounce")
            with pytest.raises(JobCancelled) as error:
                await second.result(timeout=20)
            assert error.value.reason == "replaced" and not third.existing
            assert (await client.queue("u-replace"))["ready"] == 1

    asyncio.run(main())


def test_a_dead_job_whose_unique_text_is_taken_is_not_replayed(broker: BrokerProcess, client: Client) -> None:
    first = client.send("u-dead", 1, unique="u")
    with Echo(broker.endpoint, "u-dead", refuse), pytest.raises(JobFailed):
        first.result(timeout=10)
    second = client.send("u-dead", 2, unique="u")
    assert not second.existing
    with pytest.raises(UniqueTaken) as error:
        client.replay(first)
    assert error.value.details["id"] == second.id


# ---- full and closed queues


def test_a_full_queue_refuses_or_is_waited_for(broker: BrokerProcess, client: Client) -> None:
    client.set_queue("full", max_jobs=2)
    client.send_many("full", range(2))
    for timeout in (0.1, 0.6):
        before = time.monotonic()
        with pytest.raises(QueueFull) as refusal:
            client.send("full", "too many", timeout=timeout)
        assert time.monotonic() - before < timeout + 2
        assert refusal.value.retry_after is not None
    with pytest.raises(QueueFull) as several:
        client.send_many("full", range(2), timeout=0.6)
    assert len(several.value.confirmed) == len(several.value.unknown) == 0
    with Echo(broker.endpoint, "full"):
        assert client.send("full", "in the end", timeout=20).result(timeout=20) == "in the end"
        jobs = client.send_many("full", range(20), batch=2, timeout=20)
        assert [job.result(timeout=20) for job in jobs] == list(range(20))


def test_a_drained_queue_works_off_what_it_has(broker: BrokerProcess, client: Client) -> None:
    job = client.send("drained", 1)
    client.drain("drained")
    assert client.queue("drained")["closed"]
    with pytest.raises(QueueClosed):
        client.send("drained", 2)
    with Echo(broker.endpoint, "drained"):
        assert job.result(timeout=10) == 1
    client.resume("drained")
    client.send("drained", 3)


# ---- policies


def test_a_policy_is_set_shown_kept_over_a_restart_and_unset(own_broker: BrokerProcess) -> None:
    with Client(own_broker.endpoint) as client:
        policy = client.set_queue("q", lease="1m", rate="10/1m", backoff=["1s", "10s"], key_weights={"a": 3})
        assert policy["lease"] == ("1m", "set") and policy["max_attempts"] == (5, "default")
        assert client.queue("q")["policy"] == policy
        own_broker.kill()
        own_broker.start()
        policy = client.queue("q", timeout=30)["policy"]
        assert {name: option.value for name, option in policy.items() if option.source == "set"} == {
            "lease": "1m",
            "rate": "10/1m",
            "backoff": "1s,10s",
            "key_weights": "a=3",
        }
        assert client.unset_queue("q", "lease", "rate")["lease"] == ("30s", "default")
        with pytest.raises(NotFound):
            client.unset_queue("no-such-queue", "lease")


# ---- watching


def test_a_job_is_watched_to_its_end(broker: BrokerProcess, client: Client) -> None:
    job = client.send("watched", {"n": 1})
    statuses: list[JobStatus] = []
    begun = threading.Event()

    def watch() -> None:
        for status in job.watch(timeout=30):
            statuses.append(status)
            begun.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert begun.wait(10)
    with Echo(broker.endpoint, "watched"):
        assert job.result(timeout=10) == {"n": 1}
        thread.join(30)
    states = [status.state for status in statuses]
    assert states[0] == "ready" and states[-1] == "done" and set(states) <= {"ready", "leased", "done"}
    assert statuses[-1].result == {"n": 1} and statuses[-1].finished_at is not None
    assert [status.state for status in job.watch(timeout=10)] == ["done"]


def test_a_watch_that_is_left_early_ends(client: Client) -> None:
    job = client.send("left", delay="1h")
    for status in job.watch():
        assert status.state == "scheduled"
        break
    watch = job.watch(timeout=1)
    assert next(watch).state == "scheduled"
    with pytest.raises(ResultTimeout):
        next(watch)
    assert list(watch) == []
    assert job.cancel() == "cancelled"
    (last,) = job.watch()
    assert (last.state, last.reason) == ("cancelled", "cancelled")
    with pytest.raises(NotFound):
        next(client.watch("nobody", timeout=10))


def test_a_watch_goes_on_over_a_restart_and_ends_with_its_client(own_broker: BrokerProcess) -> None:
    with Client(own_broker.endpoint) as client:
        job, other = client.send("q", 1), client.send("other", 1)
        watch, left = job.watch(timeout=60), other.watch()
        assert next(watch).state == next(left).state == "ready"
        own_broker.kill()
        own_broker.start()
        with Echo(own_broker.endpoint, "q"):
            assert [status.state for status in watch][-1] == "done"
    with pytest.raises(ClosedError):
        next(left)


# ---- looking


def test_why_a_job_does_not_run(client: Client) -> None:
    job = client.send("why", 1)
    client.pause("why")
    told = client.why(job)
    assert (told.id, told.queue, told.state, told.attempts) == (job.id, "why", "ready", [])
    assert told.reasons[0]["code"] == "paused"
    assert all(reason["text"] for reason in told.reasons)
    with pytest.raises(NotFound):
        client.why("nobody")


def test_jobs_are_listed_by_time(client: Client) -> None:
    before = datetime.now(UTC)
    ids = sorted(client.send_many("by-time", range(3)).ids)
    assert sorted(job.id for job in client.jobs("by-time", since=before.timestamp() - 60)) == ids
    assert list(client.jobs("by-time", until=before.timestamp() - 60)) == []
    assert list(client.jobs("by-time", since="2099-01-01T00:00Z")) == []
    assert len(list(client.jobs("by-time", state="ready", since=before.timestamp() - 60, until="2099-01-01"))) == 3


def test_dead_jobs_are_grouped_chosen_and_replayed_at_a_rate(broker: BrokerProcess, client: Client) -> None:
    ids = kill(broker, client, "chosen", 6)
    (group,) = client.dead_groups("chosen")
    assert (group["queue"], group["reason"], group["error"], group["jobs"]) == ("chosen", "rejected", "Reject", 6)
    assert group["example"] in ids
    assert len(list(client.dead("chosen", reason="rejected", error="Reject"))) == 6
    assert list(client.dead("chosen", error="OSError")) == list(client.dead("chosen", reason="expired")) == []
    assert client.replay(queue="chosen", error="OSError").work is not None
    assert client.drop(queue="chosen", before="2000-01-01").work is not None
    with Echo(broker.endpoint, "chosen"):
        slow = client.replay(ids[:2], rate=100)
        assert (slow.count, slow.work is None) == (2, False)
        assert [client.result(identifier, timeout=20) for identifier in ids[:2]] == [0, 1]
        client.replay(queue="chosen", reason="rejected", rate=100)
        assert [client.result(identifier, timeout=20) for identifier in ids[2:]] == [2, 3, 4, 5]
    assert client.dead_groups("chosen", limit=1) == []


# ---- the same with asyncio


def test_the_asyncio_client_does_it_all(broker: BrokerProcess) -> None:
    async def work(client: AsyncClient) -> None:
        job = await client.send("a-options", 1, unique="u", ttl="1h")
        again = await client.send("a-options", 2, unique="u")
        assert (again.id, again.existing, job.existing) == (job.id, True, False)
        policy = await client.set_queue("a-options", max_jobs=1, lease="20s")
        assert policy["lease"].value == "20s"
        assert (await job.status()).expires_at is not None
        with pytest.raises(QueueFull):
            await client.send("a-options", 3, timeout=0.3)
        assert (await client.unset_queue("a-options", "max_jobs"))["max_jobs"].value == 0
        assert (await client.why(job)).state == "ready"
        assert len([one async for one in client.jobs("a-options", since=0)]) == 1
        states: list[str] = []

        async def watch() -> None:
            async for status in job.watch(timeout=30):
                states.append(status.state)

        watching = asyncio.create_task(watch())
        while not states:
            await asyncio.sleep(0)
        async for status in again.watch():
            assert status.state == "ready"
            break
        with Echo(broker.endpoint, "a-options", refuse):
            await asyncio.wait_for(watching, 30)
        assert states[-1] == "dead"
        assert [group["jobs"] for group in await client.dead_groups("a-options")] == [1]
        await client.drain("a-options")
        with pytest.raises(QueueClosed):
            await client.send("a-options", 4)
        assert (await client.drop(queue="a-options", reason="rejected")).work is not None

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as client:
            await asyncio.wait_for(work(client), 60)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Each test ends the threads that it began."""
    before = set(threading.enumerate())  # one of another test may end meanwhile
    yield
    assert set(threading.enumerate()) <= before
