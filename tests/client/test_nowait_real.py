"""`send_nowait` and `flush` of both clients against a real broker process."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.processes import NOWHERE, BrokerProcess
from zclient import (
    AnswerTimeout,
    AsyncClient,
    BrokerUnreachable,
    Client,
    ClosedError,
    DuplicateId,
    InvalidArgument,
    QueueFull,
    UnconfirmedJob,
    engine,
)
from zworker import Consumer

JOBS = 3000


def ready(client: Client, queue: str) -> int:
    count: int = client.queue(queue)["ready"]
    return count


def test_a_flush_waits_until_all_are_stored_in_their_order(broker: BrokerProcess, client: Client) -> None:
    sent = [client.send_nowait("many", n) for n in range(JOBS)]
    client.flush()
    assert all(job.done for job in sent)
    assert ready(client, "many") == JOBS
    assert [job.id for job in client.jobs("many", limit=JOBS)] == [job.id for job in sent]


def test_it_leaves_by_itself_and_can_be_waited_for(client: Client) -> None:
    job = client.send_nowait("single", "payload", id="chosen")
    assert job.id == "chosen"
    handle = job.wait(10)
    assert (handle.id, handle.existing, job.done) == ("chosen", False, True)
    assert handle.status().payload == "payload"
    taken = client.send_nowait("single", unique="text")
    assert client.send_nowait("single", unique="text").wait().id == taken.wait().id


def test_nobody_need_wait_for_what_was_sent(broker: BrokerProcess) -> None:
    """No call follows: the client's own thread sends it and hears the answer."""
    with Client(broker.endpoint) as quiet:
        job = quiet.send_nowait("quiet", 1)
        with Consumer(broker.endpoint, "quiet") as consumer:
            taken = consumer.get(timeout=30)
            assert taken is not None and taken.id == job.id
            taken.ack()
        assert job.wait(10).id == job.id


def test_the_block_flushes_at_its_end_and_raises_what_nobody_heard(broker: BrokerProcess, client: Client) -> None:
    client.send("twice", 1, id="same")
    with pytest.raises(DuplicateId), Client(broker.endpoint) as other:
        other.send_nowait("twice", 2, id="same")
        good = other.send_nowait("twice", 3)
    assert good.done and ready(client, "twice") == 2
    with Client(broker.endpoint) as other:
        failed = other.send_nowait("twice", 2, id="same")
        with pytest.raises(DuplicateId):
            failed.wait()
    with pytest.raises(ZeroDivisionError), Client(broker.endpoint) as other:
        other.send_nowait("twice", 2, id="same")
        raise ZeroDivisionError


def test_without_a_broker_it_fails_in_its_own_time() -> None:
    client = Client(NOWHERE, timeout=0.3)
    job = client.send_nowait("lost", 1)
    with pytest.raises(AnswerTimeout):
        client.flush(timeout=0.05)
    with pytest.raises(BrokerUnreachable):
        job.wait()
    client.flush()
    with pytest.raises(InvalidArgument):
        client.send_nowait("lost", object())
    client.close()


def test_many_threads_share_it_and_its_thread_ends_with_the_work(broker: BrokerProcess) -> None:
    before = set(threading.enumerate())
    with Client(broker.endpoint) as client:
        threads = [
            threading.Thread(target=lambda: [client.send_nowait("shared", n) for n in range(500)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.flush()
        assert ready(client, "shared") == 2000
        ours = set(threading.enumerate()) - before
        assert [thread.name for thread in ours] in ([], ["zclient-outbox"])
        for thread in ours:
            thread.join(10)
            assert not thread.is_alive()
        client.send_nowait("shared", "once more").wait()


class LockThatTells:
    """A lock of an engine; who leaves a ``with`` of it calls ``left`` first thing afterwards."""

    def __init__(self, left: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left = left
        self.acquire, self.release, self.locked = self._lock.acquire, self._lock.release, self._lock.locked

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        self._left()


def test_what_comes_while_the_thread_ends_is_sent_as_well(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the thread saw that nothing is left, and before the thread is gone."""
    monkeypatch.setattr(engine, "BORED_S", 0.0)
    late: list[UnconfirmedJob] = []
    bored: list[bool] = []
    attendants: list[threading.Thread | None] = []
    came = threading.Event()

    def left() -> None:
        if threading.current_thread().name == "zclient-outbox" and bored and not late:
            bored.clear()
            late.append(client.send_nowait("late", 2))
            attendants.extend((threading.current_thread(), client._engine()._attendant))
            came.set()

    def at_gate(waiter: Any, seconds: float) -> None:
        wait(waiter, seconds)
        if waiter is client._engine()._bored:
            bored.append(True)

    with Client(broker.endpoint) as client:
        wait = client._engine()._at_gate
        monkeypatch.setattr(client._engine(), "_at_gate", at_gate)  # not of all: one of another test may end yet
        lock: Any = LockThatTells(left)
        monkeypatch.setattr(client._engine(), "_lock", lock)
        monkeypatch.setattr(client._engine(), "_idle", threading.Condition(lock))
        first = client.send_nowait("late", 1)
        assert came.wait(10) and first.done
        ended, follower = attendants
        assert follower is not None and follower is not ended
        follower.join(10)
        assert late[0].done


def test_a_broker_that_is_killed_and_started_again_has_each_once(own_broker: BrokerProcess) -> None:
    with Client(own_broker.endpoint, timeout=30) as client:
        sent = []
        for n in range(JOBS):
            sent.append(client.send_nowait("killed", n))
            if n == JOBS // 2:
                own_broker.kill()
                own_broker.start()
        client.flush()
        assert [job.id for job in client.jobs("killed", limit=None)] == [job.id for job in sent]


def test_an_asyncio_client_does_the_same(broker: BrokerProcess, client: Client) -> None:
    client.send("async", 0, id="taken")

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as aio:
            sent = [await aio.send_nowait("async", n) for n in range(JOBS)]
            await aio.flush()
            assert all(job.done for job in sent)
            handle = await (await aio.send_nowait("async", "last", id="last"))
            assert handle.id == "last"
            bad = await aio.send_nowait("async", 1, id="taken")
            with pytest.raises(DuplicateId):
                await bad
            await aio.send_nowait("async", 2, id="taken")
            with pytest.raises(DuplicateId):
                await aio.flush()
            await aio.send_nowait("async", "at the end")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert ready(client, "async") == JOBS + 3


def test_many_who_flush_end_where_a_queue_stays_full(broker: BrokerProcess, client: Client) -> None:
    """Each of them may be the first who sees that it is time for another try."""
    client.set_queue("stuffed", max_jobs=1)
    client.send("stuffed", 0)
    ends: list[Exception | None] = []

    def flush() -> None:
        try:
            crowded.flush()
        except Exception as error:
            ends.append(error)
        else:
            ends.append(None)

    crowded = Client(broker.endpoint)
    for n in range(50):
        crowded.send_nowait("stuffed", n, timeout=2)
    threads = [threading.Thread(target=flush, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    crowded.close()
    assert len(ends) == 6 and [type(error) for error in ends if error is not None] == [QueueFull]


def test_one_with_little_time_is_given_up_in_it_behind_one_with_much() -> None:
    with pytest.raises(ClosedError), Client(NOWHERE) as client:
        client.send_nowait("lost", 1, timeout=60)
        with pytest.raises(AnswerTimeout):  # its thread waits for the end of that one by now
            client.flush(timeout=0.1)
        short = client.send_nowait("lost", 2, timeout=0.2)
        with pytest.raises(BrokerUnreachable):
            short.wait(10)
        client.close()
