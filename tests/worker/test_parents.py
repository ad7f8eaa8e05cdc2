"""Jobs after others, and what their handlers read of them: in threads, in a coroutine, in a consumer's loop, and with a
clock that the test moves."""

import asyncio
import threading

import pytest

from tests.worker.brokers import WAIT_S, BrokerProcess
from tests.worker.conversation import Conversation, delivery
from zbroker.testing import LocalBroker
from zclient import AnswerTimeout, AsyncClient, Client, JobCancelled, NotFound, UnknownParent
from zworker import Consumer, Job, Worker
from zworker.job import Parent


def test_a_handler_reads_what_its_parents_returned(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue)
    def part(number: int) -> dict[str, int]:
        return {"number": number}

    @worker.task(queue + "-sum")
    def total(job: Job) -> dict[str, object]:
        found = job.parents()
        assert {parent.state for parent in found.values()} == {"done"}
        return {"order": list(found), "sum": sum(parent.result["number"] for parent in found.values())}

    @worker.task(queue + "-async")
    async def total_too(job: Job) -> int:
        found = await asyncio.to_thread(job.parents)
        return sum(parent.result["sum"] for parent in found.values())

    parts = client.send_many(queue, range(10))
    middle = client.send(queue + "-sum", after=[*reversed(parts)])
    last = client.send(queue + "-async", after=middle)
    assert last.status().state == "blocked"
    (reason,) = client.why(last).reasons
    assert (reason["code"], reason["waits_for"]) == ("parents", [middle.id])
    assert {job.id for job in client.jobs(state="blocked", queue=queue + "-sum")} == {middle.id}
    with worker:
        assert last.result(timeout=WAIT_S) == 45
    assert middle.result(timeout=WAIT_S) == {"order": [part.id for part in reversed(parts)], "sum": 45}


def test_large_results_come_in_several_answers(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue)
    def part(number: int) -> str:
        return f"{number}" * 300_000

    @worker.task(queue + "-sum")
    def total(job: Job) -> list[tuple[str, int]]:
        return [(parent.result[0], len(parent.result)) for parent in job.parents().values()]

    parts = client.send_many(queue, range(5))
    with worker:
        last = client.send(queue + "-sum", after=[part.id for part in parts])
        assert last.result(timeout=WAIT_S) == [[str(number), 300_000] for number in range(5)]


def test_a_parent_that_is_not_done_has_no_result(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)

    @worker.task(queue, max_attempts=1)
    def fails() -> None:
        raise ValueError("no")

    @worker.task(queue + "-next")
    def after(job: Job) -> list[list[object]]:
        return [[parent.state, parent.result] for parent in job.parents().values()]

    failing = client.send(queue)
    running = client.send(queue + "-next", after=failing, on_parent_death="run")
    cancelled = client.send(queue + "-next", after=[failing.id])
    with worker:
        assert running.result(timeout=WAIT_S) == [["dead", None]]
        with pytest.raises(JobCancelled, match=f"cancelled, since {failing.id}") as caught:
            cancelled.result(timeout=WAIT_S)
    assert (caught.value.reason, caught.value.parent) == ("parent", failing.id)
    with pytest.raises(JobCancelled) as caught:  # nobody watched it at that moment
        client.result(cancelled.id, timeout=WAIT_S)
    assert caught.value.parent == failing.id


def test_a_consumer_reads_its_parents(broker: str, client: Client, queue: str) -> None:
    with Consumer(broker, queue) as consumer:
        first = client.send(queue)
        second = client.send(queue, after=first)
        job = consumer.get(WAIT_S)
        assert job is not None and job.parents() == {}
        job.ack("one")
        job = consumer.get(WAIT_S)
        assert job is not None and job.id == second.id
        assert {name: parent.result for name, parent in job.parents().items()} == {first.id: "one"}
        job.ack()


def test_an_async_client_sends_jobs_after_others(broker: str, queue: str) -> None:
    async def send() -> None:
        async with AsyncClient(broker) as client:
            first = await client.send(queue)
            second = await client.send(queue, after=[first])
            assert (await second.status()).state == "blocked"
            with pytest.raises(UnknownParent, match="nobody knows a job or batch 'nobody'") as caught:
                await client.send(queue, after=[first, "nobody"])
            assert caught.value.details["id"] == "nobody"

    asyncio.run(send())


def test_parents_of_a_job_that_is_settled_are_not_told(broker: str, client: Client, queue: str) -> None:
    with Consumer(broker, queue) as consumer:
        sent = client.send(queue)
        job = consumer.get(WAIT_S)
        assert job is not None
        job.ack()
        sent.result(timeout=WAIT_S)
        with pytest.raises(NotFound):
            job.parents(timeout=WAIT_S)


def test_a_broker_that_does_not_answer_is_not_waited_for_longer(queue: str) -> None:
    with (
        BrokerProcess("--durability", "memory") as broker,
        Client(broker.endpoint) as client,
        Consumer(broker.endpoint, queue) as consumer,
    ):
        client.send(queue)
        job = consumer.get(WAIT_S)
        assert job is not None
        broker.kill()
        with pytest.raises(AnswerTimeout, match=r"within 0\.2 s"):
            job.parents(timeout=0.2)


def test_with_a_clock_that_the_test_moves() -> None:
    worker = Worker(concurrency=2)
    order: list[str] = []
    lock = threading.Lock()

    @worker.task("step")
    def step(job: Job) -> str:
        with lock:
            order.append(job.payload)
        return "+".join([*(parent.result for parent in job.parents().values()), job.payload])

    with LocalBroker() as broker:
        client = broker.client()
        top = client.send("step", "top", delay="1h")
        sides = [client.send("step", side, after=top) for side in ("left", "right")]
        end = client.send("step", "end", after=sides, delay="2h")
        broker.restart()
        with broker.running(worker):
            broker.advance("1h")
            assert end.status().state == "scheduled"
            broker.advance("1h")
            assert end.result(timeout=1) == "top+left+top+right+end"
    assert order[0] == "top" and order[-1] == "end" and sorted(order[1:3]) == ["left", "right"]


def test_an_answer_in_pages() -> None:
    """The question names a position, and the answer where the next one begins."""
    asked: list[dict[str, object]] = []

    class Owner(Conversation):
        def ask(self, verb: str, arguments: dict[str, object], timeout_s: float) -> object:
            assert (verb, timeout_s) == ("parents", 3)
            asked.append(arguments)
            start = int(str(arguments["start"]))
            row = {"id": f"p{start}".encode(), "state": "done", "result": b"\xa1" + str(start).encode()}
            return {"parents": [row], "next": start + 1 if start < 2 else None}

    talk = Owner()
    talk.connect()
    (job,) = talk.say(delivery(5, "a"))
    assert job.parents(timeout=3) == {f"p{n}": Parent("done", b"\xa1" + str(n).encode()) for n in range(3)}
    assert [parent.result for parent in job.parents(timeout=3).values()] == ["0", "1", "2"]
    assert [arguments["start"] for arguments in asked[:3]] == [0, 1, 2]
    assert {arguments["id"] for arguments in asked} == {b"a"}
    assert Parent("dead", None).result is None
