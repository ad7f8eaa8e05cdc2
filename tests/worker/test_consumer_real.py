"""Consumers against a real broker."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import eventually
from tests.worker.brokers import FAST, WAIT_S, BrokerProcess
from zclient import Client, ClosedError, InvalidArgument, JobFailed
from zworker import Consumer, Job


def taken(consumer: Consumer) -> Job:
    job = consumer.get(WAIT_S)
    assert job is not None
    return job


def test_every_way_to_settle(broker: str, client: Client, queue: str) -> None:
    with Consumer(broker, queue) as consumer:
        acked = client.send(queue, {"n": 1}, headers={"h": "x"}, key="k", priority=3)
        job = taken(consumer)
        assert (job.payload, job.headers, job.key, job.priority) == ({"n": 1}, {"h": "x"}, "k", 3)
        job.ack({"seen": 1})
        assert acked.result(timeout=WAIT_S) == {"seen": 1}

        nacked = client.send(queue)
        taken(consumer).nack("busy", delay=0)
        job = taken(consumer)
        assert (job.id, job.attempt) == (nacked.id, 2)
        job.release()
        job = taken(consumer)
        assert (job.id, job.attempt) == (nacked.id, 2)
        job.snooze("10ms")
        job = taken(consumer)
        assert (job.id, job.attempt) == (nacked.id, 2)
        job.reject(ValueError("never"))
        with pytest.raises(JobFailed, match="never") as caught:
            nacked.result(timeout=WAIT_S)
        assert caught.value.error["type"] == "ValueError"


def test_many_jobs_through_a_loop(broker: str, client: Client, queue: str) -> None:
    count = 5000
    jobs = client.send_many(queue, range(count))
    seen = []
    with Consumer(broker, queue, credit=500) as consumer:
        for job in consumer:
            seen.append(job.payload)
            job.ack()
            if len(seen) == count:
                break
    assert sorted(seen) == list(range(count))
    assert client.queue(queue)["totals"]["done"] == count
    assert jobs[-1].status().state == "done"


def test_leaving_the_block_gives_back_what_is_not_settled(broker: str, client: Client, queue: str) -> None:
    jobs = client.send_many(queue, range(3))
    with pytest.raises(KeyError), Consumer(broker, queue, credit=2) as consumer:
        taken(consumer).ack()
        taken(consumer)
        raise KeyError("the loop broke")
    assert [(job.status().state, job.status().attempts) for job in jobs] == [("done", 1), ("ready", 0), ("ready", 0)]
    with Consumer(broker, queue) as consumer:
        assert [taken(consumer).attempt for _ in range(2)] == [1, 1]


def test_no_more_jobs_than_credit_are_held(broker: str, client: Client, queue: str) -> None:
    client.send_many(queue, range(5))
    with Consumer(broker, queue, credit=2) as consumer:
        first = taken(consumer)
        taken(consumer)
        assert consumer.get("20ms") is None
        assert client.queue(queue)["leased"] == 2
        first.ack()
        assert taken(consumer).payload == 2


def test_an_ack_leaves_although_the_loop_goes_on_with_other_things(broker: str, client: Client, queue: str) -> None:
    first, _ = client.send_many(queue, range(2))
    with Consumer(broker, queue) as consumer:
        for job in consumer:
            job.ack("sent")
            assert first.result(timeout=WAIT_S) == "sent"
            break


def test_idle_ends_the_loop(broker: str, client: Client, queue: str) -> None:
    client.send_many(queue, range(3))
    with Consumer(broker, queue, idle="50ms") as consumer:
        assert [job.payload for job in consumer] == [0, 1, 2]


def test_several_queues(broker: str, client: Client, queue: str) -> None:
    for name in ("a", "b"):
        client.send(f"{queue}-{name}", name)
    with Consumer(broker, [f"{queue}-a", f"{queue}-b"]) as consumer:
        assert {job.queue: job.payload for job in (taken(consumer), taken(consumer))} == {
            f"{queue}-a": "a",
            f"{queue}-b": "b",
        }


def test_several_threads_share_the_jobs(broker: str, client: Client, queue: str) -> None:
    seen: list[Any] = []
    together = threading.Barrier(3, timeout=WAIT_S)
    with Consumer(broker, queue, credit=30) as consumer:

        def work() -> None:
            for job in consumer:
                seen.append(job.payload)
                if job.payload < 3:
                    together.wait()  # Each thread has one of these: none may keep the others from their job.
                job.ack()

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        jobs = client.send_many(queue, range(200))
        for job in jobs:
            job.result(timeout=WAIT_S)
        consumer.close()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
    assert sorted(seen) == list(range(200))


def test_jobs_may_be_settled_by_other_threads(broker: str, client: Client, queue: str) -> None:
    job = client.send(queue)
    with Consumer(broker, queue) as consumer:
        held = taken(consumer)
        waiting = threading.Thread(target=consumer.get, args=(WAIT_S,))
        waiting.start()
        threading.Thread(target=held.ack, args=("from elsewhere",)).start()
        assert job.result(timeout=WAIT_S) == "from elsewhere"
        consumer.close()
        waiting.join(WAIT_S)
        assert not waiting.is_alive()


def test_async_for(broker: str, client: Client, queue: str) -> None:
    async def consume() -> list[Any]:
        seen = []
        async with Consumer(broker, queue, idle="10s", credit=3) as consumer:
            async for job in consumer:
                seen.append(job.payload)
                job.ack()
                if len(seen) == 20:
                    break
        return seen

    client.send_many(queue, range(20))
    assert asyncio.run(consume()) == list(range(20))
    assert client.queue(queue)["totals"]["done"] == 20


def test_async_for_waits_without_holding_up_the_loop(broker: str, client: Client, queue: str) -> None:
    async def consume() -> tuple[list[Any], list[Any]]:
        with Consumer(broker, queue, idle="50ms") as consumer:

            async def all_jobs() -> list[Any]:
                seen = []
                async for job in consumer:
                    seen.append(job.payload)
                    job.ack()
                return seen

            reading = [asyncio.create_task(all_jobs()) for _ in range(2)]
            await asyncio.to_thread(client.send_many, queue, range(10))
            first, second = await asyncio.gather(*reading)
            return first, second

    first, second = asyncio.run(consume())
    assert sorted(first + second) == list(range(10))


def test_leases_are_renewed_while_the_loop_is_busy_and_a_lost_one_is_seen(queue: str) -> None:
    with BrokerProcess(*FAST, "--lease", "1s") as broker, Client(broker.endpoint) as client:
        job = client.send(queue)
        with Consumer(broker.endpoint, queue) as consumer:
            held = taken(consumer)
            first = held.delivery.until_ms
            eventually(lambda: held.delivery.until_ms > first + 1200)
            held.extend("1m")
            held.ack("still mine")
            assert job.result(timeout=WAIT_S) == "still mine"

            job = client.send(queue)
            held = taken(consumer)
            with consumer._turning:  # As a stopped process: nothing renews, nothing is read.
                eventually(lambda: job.status().state == "ready")
            eventually(lambda: held.lease_lost)
            held.ack("too late")
            again = taken(consumer)
            assert (again.id, again.attempt) == (job.id, 2)
            assert again.fence > held.fence
            again.ack("in time")
            assert job.result(timeout=WAIT_S) == "in time"


def test_what_it_holds_survives_a_broker_that_is_killed(tmp_path: Path, queue: str) -> None:
    with BrokerProcess("--durability", "os", data=tmp_path) as first, Client(first.endpoint) as client:
        endpoint = first.endpoint
        job = client.send(queue)
        with Consumer(endpoint, queue) as consumer:
            held = taken(consumer)
            first.kill()
            with BrokerProcess("--durability", "os", data=tmp_path, bind=endpoint):
                held.ack("kept")
                assert job.result(timeout=WAIT_S) == "kept"
                consumer.close()


def test_a_cancelled_job_shows_it(broker: str, client: Client, queue: str) -> None:
    job = client.send(queue)
    with Consumer(broker, queue) as consumer:
        held = taken(consumer)
        client.cancel(job)
        eventually(lambda: held.cancelled)
        held.release()
        eventually(lambda: job.status().state == "cancelled")


def test_a_consumer_lives_in_its_block(broker: str, queue: str) -> None:
    consumer = Consumer(broker, queue)
    with pytest.raises(ClosedError):
        next(iter(consumer))
    with consumer:
        consumer.close()
        assert list(consumer) == []
    with pytest.raises(ClosedError), consumer:
        pass


def test_a_forked_child_must_make_its_own(broker: str, queue: str) -> None:
    with Consumer(broker, queue) as consumer:
        child = os.fork()
        if child == 0:
            try:
                consumer.get(0)
            except ClosedError as error:
                os._exit(7 if "forked" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    ("queues", "options"),
    [([], {}), ("mmi.x", {}), ("a b", {}), ("q", {"credit": 0}), ("q", {"idle": "soon"}), ("q", {"credit": 10**6})],
)
def test_what_cannot_be_is_refused(queues: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Consumer("tcp://127.0.0.1:1", queues, **options).__enter__()
