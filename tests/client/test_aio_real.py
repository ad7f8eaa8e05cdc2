"""The asyncio client against a real broker process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.client.echo import Echo
from tests.system.processes import NOWHERE, BrokerProcess
from zclient import (
    AsyncClient,
    AsyncJobHandle,
    BrokerUnreachable,
    Client,
    ClosedError,
    InvalidArgument,
    JobCancelled,
    NotFound,
    OutcomeUnknown,
    ResultTimeout,
)
from zclient.protocol.limits import MAX_OPEN_BATCHES


def run(broker: BrokerProcess, test: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Run a coroutine with a client, on a loop of its own, and see that it leaves no task behind."""

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as client:
            await asyncio.wait_for(test(client), 60)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)


def test_more_sends_at_once_than_a_broker_remembers(broker: BrokerProcess) -> None:
    async def test(client: AsyncClient) -> None:
        many = MAX_OPEN_BATCHES + 500
        jobs = await asyncio.gather(*(client.send("a-more", number) for number in range(many)))
        assert len({job.id for job in jobs}) == many
        assert (await client.queue("a-more"))["ready"] == many

    run(broker, test)


def test_jobs_are_sent_and_their_results_awaited(broker: BrokerProcess) -> None:
    async def test(client: AsyncClient) -> None:
        job = await client.send("a-results", {"n": 1}, priority=2)
        assert (await job.status()).priority == 2
        with pytest.raises(ResultTimeout):
            await job.result(timeout=0.05)
        with Echo(broker.endpoint, "a-results"):
            assert await job.result(timeout=10) == {"n": 1}
            jobs = await asyncio.gather(*(client.send("a-results", number) for number in range(300)))
            assert await asyncio.gather(*(job.result(timeout=20) for job in jobs)) == list(range(300))
        cancelled = await client.send("a-cancelled")
        assert await cancelled.cancel() == "cancelled"
        with pytest.raises(JobCancelled):
            await cancelled.result(timeout=10)
        with pytest.raises(NotFound):
            await client.get("nobody")

    run(broker, test)


def test_many_jobs_from_both_kinds_of_iterable(broker: BrokerProcess) -> None:
    async def slow() -> AsyncIterator[int]:
        for number in range(2500):
            if number % 100 == 0:
                await asyncio.sleep(0)
            yield number

    async def test(client: AsyncClient) -> None:
        told: list[int] = []
        jobs = await client.send_many("a-many", slow(), progress=told.append)
        assert len(jobs) == told[-1] == 2500
        assert isinstance(jobs[7], AsyncJobHandle)
        assert (await jobs[2499].status()).payload == 2499
        assert len(await client.send_many("a-many", range(100), batch=7)) == 100
        assert (await client.queue("a-many"))["ready"] == 2600
        assert len([status async for status in client.jobs("a-many", limit=1200)]) == 1200
        with pytest.raises(InvalidArgument) as error:
            await client.send_many("a-many", [1, object()], batch=1)
        assert len(error.value.confirmed) == 1
        assert await client.purge("a-many") == 2601

    run(broker, test)


def test_other_tasks_run_while_many_jobs_are_sent(broker: BrokerProcess) -> None:
    async def test(client: AsyncClient) -> None:
        steps = 0

        async def beside() -> None:
            nonlocal steps
            while True:
                steps += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(beside())
        await client.send_many("a-beside", range(20_000), batch=100)
        task.cancel()
        assert steps > 100
        with pytest.raises(asyncio.CancelledError):
            await task

    run(broker, test)


def test_orders_and_listings(broker: BrokerProcess) -> None:
    async def test(client: AsyncClient) -> None:
        await client.send("a-orders")
        await client.pause("a-orders")
        assert (await client.queue("a-orders"))["paused"]
        await client.resume("a-orders")
        assert "a-orders" in {queue["queue"] for queue in await client.queues()}
        assert await client.workers() == []
        assert await client.stats()
        assert [status async for status in client.dead("a-orders")] == []
        assert (await client.replay(queue="a-orders")).count == 0
        assert (await client.drop(queue="a-orders")).count == 0

    run(broker, test)


def test_a_cancelled_call_leaves_the_client_whole(own_broker: BrokerProcess) -> None:
    async def test(client: AsyncClient) -> None:
        await client.send("q", 0)
        own_broker.freeze()
        tasks = [asyncio.create_task(client.send("q", number)) for number in range(1, 4)]
        tasks.append(asyncio.create_task(client.result("nobody")))
        with pytest.raises(OutcomeUnknown):
            await client.send("q", 4, timeout=0.1)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
        )
        own_broker.thaw()
        await client.send("q", 5)
        # What had left before it was cancelled is there; nothing is there twice.
        assert (await client.queue("q"))["ready"] == 6

    run(own_broker, test)


def test_a_crash_in_the_middle_of_many_loses_and_doubles_nothing(own_broker: BrokerProcess) -> None:
    async def test(client: AsyncClient) -> None:
        restarts: list[threading.Thread] = []

        def crash() -> None:
            own_broker.kill()
            own_broker.start()

        def payloads() -> Iterator[int]:
            for number in range(15_000):
                if number == 5000:
                    restarts.append(threading.Thread(target=crash))
                    restarts[-1].start()
                yield number

        jobs = await client.send_many("crash", payloads(), timeout=60, batch=50)
        restarts[0].join()
        assert (await client.queue("crash", timeout=30))["ready"] == 15_000
        stored = sorted([status.id async for status in client.jobs("crash", limit=None)])
        assert stored == sorted(jobs.ids)

    run(own_broker, test)


def test_a_broker_that_is_not_there() -> None:
    async def main() -> None:
        async with AsyncClient(NOWHERE, timeout=0.2) as client:
            for call in (client.send("q"), client.stats(), client.result("a", timeout=0.2)):
                with pytest.raises(BrokerUnreachable):
                    await call

    asyncio.run(main())


def test_a_client_outlives_its_loop_and_refuses_a_second_one(broker: BrokerProcess) -> None:
    client = AsyncClient(broker.endpoint)

    async def send() -> Any:
        return await client.send("a-loops", 1)

    async def use_beside() -> None:
        await send()
        errors: list[BaseException] = []

        def other_loop() -> None:
            try:
                asyncio.run(send())
            except ClosedError as error:
                errors.append(error)

        thread = threading.Thread(target=other_loop)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(errors) == 1

    asyncio.run(send())
    asyncio.run(use_beside())

    async def close() -> None:
        await send()
        waiting = asyncio.create_task(client.result("unknown-yet"))
        waiting_too = asyncio.create_task(client.send_many("a-loops", _forever()))
        for _ in range(50):
            await asyncio.sleep(0)
        await client.close()
        ends = await asyncio.gather(waiting, waiting_too, return_exceptions=True)
        assert all(isinstance(end, Exception) for end in ends)
        with pytest.raises(ClosedError):
            await send()

    asyncio.run(close())


async def _forever() -> AsyncIterator[int]:
    while True:
        await asyncio.sleep(0)
        yield 1
