"""Batches with real brokers and workers: opened, filled by clients and by handlers, counted, with their callbacks."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tests.system.processes import eventually
from tests.worker.brokers import WAIT_S
from zclient import (
    AsyncClient,
    BatchClosed,
    Client,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    NotFound,
    ResultExpired,
    ResultTimeout,
    UnknownBatch,
    step,
)
from zworker import Consumer, Job, Reject, Worker


def worker_of(broker: str, queue: str) -> Worker:
    """Serves a queue that doubles numbers and dies of texts, and one whose jobs return their payload and headers."""
    worker = Worker(broker, concurrency=4)

    @worker.task(queue)
    def double(number: int | str) -> int:
        if isinstance(number, str):
            raise Reject(number)
        return 2 * number

    @worker.task(queue + "-told")
    def told(job: Job) -> list[object]:
        return [job.payload, job.headers["batch"], job.priority]

    return worker


def test_a_batch_is_filled_closed_and_calls_back_once(broker: str, client: Client, queue: str) -> None:
    report = step(queue + "-told", "all done", priority=7)
    with worker_of(broker, queue):
        with client.batch("import", on_done=report, on_settled=step(queue + "-told", "settled")) as batch:
            jobs = [batch.send(queue, 1), client.send(queue, 2, batch=batch), client.send(queue, 3, batch=batch.id)]
            jobs += batch.send_many(queue, range(100), priority=3)
            assert jobs[-1].result(timeout=WAIT_S) == 198
            status = batch.status()
            assert (status.name, status.state, status.open, status.total) == ("import", "open", True, 103)
            assert status.callbacks == {"on_done": queue + "-told", "on_settled": queue + "-told"}
            assert not status.is_over and status.over_at is None
            with pytest.raises(ResultTimeout):
                batch.wait(timeout=0.05)
        status = batch.wait(timeout=WAIT_S)
        assert (status.state, status.done, status.dead, status.cancelled, status.fraction) == ("done", 103, 0, 0, 1.0)
        assert status.is_over and status.over_at is not None and status.fired == ("on_done", "on_settled")
        for name, payload, priority in (("done", "all done", 7), ("settled", "settled", 0)):
            callback = client.job(f"{batch.id}.{name}")
            assert callback.result(timeout=WAIT_S) == [payload, batch.id, priority]
        assert batch.close().state == "done"
        with pytest.raises(BatchClosed, match="is closed") as caught:
            batch.send(queue, 1)
        assert caught.value.details["id"] == batch.id


def test_deaths_and_what_a_replay_makes_of_them(broker: str, client: Client, queue: str) -> None:
    told = queue + "-told"
    with worker_of(broker, queue):
        batch = client.batch(
            "", on_done=step(told, "d"), on_settled=step(told, "s"), on_death=step(told, "x"), keep_results=True
        )
        dead = batch.send(queue, "no")
        eventually(lambda: batch.status().fired == ("on_death",))
        assert client.job(f"{batch.id}.death").result(timeout=WAIT_S) == ["x", batch.id, 0]
        assert batch.status().state == "open"
        batch.send(queue, 4)
        batch.close()
        status = batch.wait(timeout=WAIT_S)
        assert (status.state, status.done, status.dead, status.fired) == ("dead", 1, 1, ("on_settled", "on_death"))
        first, second = batch.members()
        assert (first.id, first.state, second.state, second.value) == (dead.id, "dead", "done", 8)
        assert isinstance(first.value, JobFailed) and first.value.details["id"] == dead.id
    with Consumer(broker, queue) as consumer:
        client.replay(dead)
        job = consumer.get(timeout=WAIT_S)
        assert job is not None and batch.status().state == "running"
        job.ack("at last")
        assert batch.wait(timeout=WAIT_S).fired == ("on_done", "on_settled", "on_death")
        assert client.job(f"{batch.id}.done").status().state == "ready"
    assert [member.value for member in batch.members()] == ["at last", 8]


def test_cancelled_members_are_told_as_such(client: Client, queue: str) -> None:
    with client.batch("c", keep_results=True) as batch:
        job = batch.send(queue)
    job.cancel()
    assert batch.wait(timeout=WAIT_S).state == "cancelled"
    (member,) = batch.members()
    assert isinstance(member.value, JobCancelled)


def test_an_error_in_the_block_leaves_the_batch_open(client: Client, queue: str) -> None:
    with pytest.raises(KeyError) as caught, client.batch("half", on_done=step(queue)) as batch:
        batch.send(queue)
        raise KeyError("the source is broken")
    assert caught.value.__notes__ == [
        f"batch {batch.id} is left open: client.batch(id='{batch.id}') goes on with it, .close() closes it"
    ]
    again = client.batch(id=batch.id)
    assert (again, again.status().state, again.status().total) == (batch, "open", 1)
    again.send(queue)
    assert again.close().total == 2


def test_a_handler_adds_to_its_own_batch_although_it_is_closed(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=2)

    @worker.task(queue)
    def split(depth: int, job: Job) -> None:
        assert job.workflow is None and len(job.inputs()) == 0
        for _ in range(2 if depth else 0):
            job.send(queue, depth - 1, batch=job.batch)

    with client.batch("grows", on_done=step(queue + "-told", "d")) as batch:
        batch.send(queue, 4)
    with worker:
        status = batch.wait(timeout=WAIT_S)
    assert (status.state, status.total, status.done) == ("done", 31, 31)
    assert client.job(f"{batch.id}.done").status().state == "ready"


def test_a_job_outside_of_a_batch_has_none(broker: str, client: Client, queue: str) -> None:
    with Consumer(broker, queue) as consumer:
        client.send(queue)
        job = consumer.get(timeout=WAIT_S)
        assert job is not None and (job.batch, job.workflow, dict(job.inputs())) == (None, None, {})
        with pytest.raises(InvalidArgument, match="not one"):
            _ = job.inputs().only
        with pytest.raises(KeyError):
            _ = job.inputs()["fetch"]
        job.send(queue, batch=job.batch)  # of none either
        job.ack()


def test_a_job_after_a_batch_reads_its_counters(broker: str, client: Client, queue: str) -> None:
    with client.batch("before") as batch:
        batch.send(queue, 1)
    after = client.send(queue + "-after", after=batch)
    assert after.status().state == "blocked"
    with worker_of(broker, queue), Consumer(broker, queue + "-after") as consumer:
        job = consumer.get(timeout=WAIT_S)
        assert job is not None
        ((identifier, parent),) = job.parents().items()
        assert identifier == batch.id and (parent.state, parent.result) == ("done", None)
        assert parent.batch is not None and (parent.batch.name, parent.batch.done) == ("before", 1)
        job.ack()


def test_the_same_batch_is_opened_once(client: Client, queue: str) -> None:
    batch = client.batch("mine", on_done=step(queue, 1))
    assert client.batch("mine", on_done=step(queue, 1), id=batch.id) == batch
    with pytest.raises(Exception, match=batch.id):
        client.batch("mine", on_done=step(queue, 2), id=batch.id)


def test_batches_are_listed_newest_first(client: Client, queue: str) -> None:
    made = [client.batch(f"{queue} {n}") for n in range(5)]
    for batch in made[::2]:
        batch.close()
    found = [one for one in client.batches(limit=None) if one.name.startswith(f"{queue} ")]
    assert [one.id for one in found] == sorted((batch.id for batch in made), reverse=True)
    assert {one.name[-1] for one in client.batches(state="open") if one.name.startswith(f"{queue} ")} == {"3", "1"}
    assert len(list(client.batches(limit=2))) == 2


def test_what_cannot_be_is_refused(client: Client, queue: str) -> None:
    nobody = "0" * 32
    with pytest.raises(UnknownBatch):
        client.send(queue, batch=nobody)
    with pytest.raises(UnknownBatch):
        client.batch(id=nobody).send_many(queue, [1, 2])
    for call in (client.batch(id=nobody).status, client.batch(id=nobody).close):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(ResultExpired):
        client.batch(id=nobody).wait(timeout=WAIT_S)
    batch = client.batch()
    with pytest.raises(InvalidArgument, match="keeps no results"):
        list(batch.members())
    for wrong in (
        lambda: client.batch("n\n"),
        lambda: client.batch("n", id="short"),
        lambda: client.batch(id="short"),
        lambda: client.batch("n", on_done="report"),  # type: ignore[arg-type]
        lambda: client.batch("n", on_done=step(queue, name="x")),
        lambda: client.batch("n", on_death=step(queue, on_parent_death="run")),
        lambda: list(client.batches(state="shut")),
        lambda: client.send(queue, batch=7),
    ):
        with pytest.raises(InvalidArgument):
            wrong()


def test_batches_through_an_async_client(broker: str, queue: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(30):
            yield number

    async def run() -> None:
        async with AsyncClient(broker) as client:
            opened = client.batch("a", on_done=step(queue + "-told", "d"), keep_results=True)
            async with opened as batch:
                await batch.send(queue, 1)
                await client.send(queue, 2, batch=batch)
                await batch.send_many(queue, numbers())
                assert (await batch.status()).total == 32
            assert batch == opened == client.batch(id=batch.id)
            status = await batch.wait(timeout=WAIT_S)
            assert (status.state, status.done) == ("done", 32)
            values = [member.value async for member in batch.members()]
            assert sorted(values) == sorted([2, 4, *(2 * n for n in range(30))])
            assert await client.job(f"{batch.id}.done").result(timeout=WAIT_S) == ["d", batch.id, 0]
            with pytest.raises(KeyError) as caught:
                async with client.batch("half") as batch:
                    raise KeyError
            assert batch.id in caught.value.__notes__[0]
            other = await client.batch("by hand")
            assert (await other.close()).state == "done"
            found = {one.id async for one in client.batches(limit=3)}
            assert {other.id, batch.id} <= found

    with worker_of(broker, queue):
        asyncio.run(run())


def test_many_threads_fill_one_batch(broker: str, client: Client, queue: str) -> None:
    with client.batch("threads") as batch:
        threads = [threading.Thread(target=lambda: batch.send_many(queue, range(50))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with worker_of(broker, queue):
        assert batch.wait(timeout=WAIT_S).done == 200
