"""`send_many` of the blocking client against a real broker process."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.echo import Echo
from tests.system.processes import BrokerProcess
from zclient import Client, InvalidArgument, OutcomeUnknown, QueueFull
from zworker import Consumer


def test_many_jobs_are_a_sequence_in_their_order(client: Client) -> None:
    told: list[int] = []
    jobs = client.send_many("many", (number for number in range(5003)), progress=told.append, priority=3)
    assert len(jobs) == 5003
    assert client.queue("many")["ready"] == 5003
    assert [jobs[position].status().payload for position in (0, 1, 500, -1)] == [0, 1, 500, 5002]
    assert jobs[7].status().priority == 3
    assert told == sorted(told) and told[-1] == 5003
    assert [job.id for job in jobs[10:13]] == list(jobs.ids[10:13])
    listed = [status.id for status in client.jobs("many", limit=None)]
    assert sorted(listed) == sorted(jobs.ids)
    assert len(list(client.jobs("many", state="ready", limit=1500))) == 1500
    assert len(client.send_many("many", [])) == 0


def test_many_jobs_after_many_others(client: Client) -> None:
    """Each PUT has as many jobs as its pairs of job and parent allow."""
    parents = client.send_many("first", range(1000))
    children = client.send_many("then", range(25), after=parents)
    assert client.queue("then")["blocked"] == len(children) == 25


def test_the_source_of_payloads_may_use_the_client(client: Client) -> None:
    def payloads() -> Iterator[str]:
        for number in range(30):
            yield client.send("inner", number).id

    assert len(client.send_many("outer", payloads(), batch=7)) == 30
    assert client.queue("inner")["ready"] == 30


def test_an_error_of_the_source_comes_through_and_what_was_sent_is_settled(client: Client) -> None:
    def payloads(error: Any) -> Iterator[Any]:
        yield from range(95)
        if isinstance(error, Exception):
            raise error
        yield error

    with pytest.raises(KeyError) as failure:
        client.send_many("broken", payloads(KeyError("mine")), batch=10)
    assert "90 jobs are confirmed, 0 unknown" in failure.value.__notes__[0]
    with pytest.raises(InvalidArgument) as refusal:
        client.send_many("broken", payloads(object()), batch=10)
    assert len(refusal.value.confirmed) == 90
    assert client.get(refusal.value.confirmed[89]).payload == 89
    assert client.queue("broken")["ready"] == 180


@pytest.mark.parametrize(
    ("batch", "size", "most"),
    [(10, 10, 32 * 10), (100, 10, 32 * 100), (200, 10, 20 * 200), (500, 10, 8 * 500), (100, 30_000, 8 * 9)],
    ids=str,
)
def test_a_broker_that_does_not_answer_is_not_fed(own_broker: BrokerProcess, batch: int, size: int, most: int) -> None:
    """Eight full batches, or more that are small; one that has 256 KiB is full."""
    taken: list[int] = []

    def payloads() -> Iterator[bytes]:
        for number in range(1_000_000):
            taken.append(number)
            yield bytes(size)

    with Client(own_broker.endpoint) as client:
        client.send("q", 1)
        own_broker.freeze()
        with pytest.raises(OutcomeUnknown) as error:
            client.send_many("fed", payloads(), timeout=0.3, batch=batch)
        assert len(taken) == len(error.value.unknown) == most
        own_broker.thaw()


@pytest.mark.parametrize("freeze_first", [False, True])
def test_a_crash_in_the_middle_of_many_loses_and_doubles_nothing(own_broker: BrokerProcess, freeze_first: bool) -> None:
    restarts: list[threading.Thread] = []

    def crash() -> None:
        if freeze_first:
            own_broker.freeze()
        own_broker.kill()
        own_broker.start()

    def payloads() -> Iterator[int]:
        for number in range(30_000):
            if number in (7_000, 18_000):
                for restart in restarts:
                    restart.join()
                restarts.append(threading.Thread(target=crash))
                restarts[-1].start()
            yield number

    with Client(own_broker.endpoint) as client:
        jobs = client.send_many("crash", payloads(), timeout=60, batch=50)
        for restart in restarts:
            restart.join()
        assert len(restarts) == 2
        assert client.queue("crash", timeout=30)["ready"] == 30_000
        stored = sorted(status.id for status in client.jobs("crash", limit=None))
        assert stored == sorted(jobs.ids)
        seen: list[int] = []
        done = threading.Event()

        def handle(payload: int) -> None:
            seen.append(payload)
            if len(seen) >= 30_000:
                done.set()

        with Echo(own_broker.endpoint, "crash", handle):
            assert done.wait(60)
            jobs[-1].result(timeout=30)
        assert sorted(seen) == list(range(30_000))


def test_more_jobs_than_a_queue_may_hold_go_in_as_it_is_worked_off(broker: BrokerProcess, client: Client) -> None:
    client.set_queue("narrow", max_jobs=20)
    served = 0
    with Consumer(broker.endpoint, "narrow", credit=5) as consumer:

        def serve() -> None:
            nonlocal served
            for job in consumer:
                job.ack()
                served += 1

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        jobs = client.send_many("narrow", range(137), timeout=30)
        assert [job.result(timeout=30) for job in jobs] == [None] * 137  # in any order: refused ones came later
        consumer.close()
        thread.join(30)
    assert served == 137 and not thread.is_alive()


def test_a_job_that_never_fits_is_refused_at_once(client: Client) -> None:
    client.set_queue("tiny", max_bytes=100)
    with pytest.raises(QueueFull, match="at once are more than may wait") as refused:
        client.send_many("tiny", [b"x" * 500, b"y" * 500], timeout=30)
    assert refused.value.retry_after is None
