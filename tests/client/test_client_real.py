"""The blocking client against a real broker process."""

import os
import threading
import time
from typing import Any

import pytest

from tests.client.echo import Echo, Reject
from tests.system.processes import NOWHERE, BrokerProcess
from zclient import (
    BrokerUnreachable,
    Client,
    ClosedError,
    DuplicateId,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    ResultExpired,
    ResultTimeout,
)


def run_beside(*works: Any) -> list[BaseException]:
    """Run callables on a thread each; the errors they ended with."""
    errors: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


# ---- single jobs


def test_a_job_is_stored_with_what_was_said_of_it(client: Client) -> None:
    job = client.send(
        "told", {"to": "ada", "raw": b"\0"}, priority=5, key="tenant-3", delay="1h", max_attempts=2, headers={"a": 1}
    )
    status = job.status()
    assert (status.id, status.queue, status.state, status.attempts) == (job.id, "told", "scheduled", 0)
    assert (status.priority, status.key, status.headers) == (5, "tenant-3", {"a": 1})
    assert status.payload == {"to": "ada", "raw": b"\0"}
    assert status.created_at is not None and status.due_at is not None
    assert 3590 < (status.due_at - status.created_at).total_seconds() <= 3601
    assert not status.is_over


def test_the_same_job_under_the_same_id_is_stored_once(client: Client) -> None:
    assert client.send("once", 1, id="order-17").id == "order-17"
    client.send("once", 1, id="order-17")
    assert client.queue("once")["ready"] == 1
    with pytest.raises(DuplicateId) as refusal:
        client.send("once", 2, id="order-17")
    assert refusal.value.exit_code == 4


def test_nobody_knows_a_job_that_was_never_sent(client: Client) -> None:
    for ask in (client.get, client.cancel):
        with pytest.raises(NotFound):
            ask("no-such-job")
    with pytest.raises(ResultExpired):
        client.result("no-such-job", timeout=10)
    with pytest.raises(NotFound):
        client.queue("no-such-queue")


def test_what_the_broker_refuses_is_not_stored(client: Client) -> None:
    with pytest.raises(PayloadTooLarge):
        client.send("large", b"x" * (2 << 20))
    with pytest.raises(PayloadTooLarge) as refusal:
        client.send_many("large", [b"small", b"x" * (2 << 20)])
    assert len(refusal.value.confirmed) == len(refusal.value.unknown) == 0
    with pytest.raises(NotFound):
        client.queue("large")
    client.send("large", b"x" * 900_000)
    assert client.queue("large")["ready"] == 1


def test_large_payloads_and_results_come_back_whole(broker: BrokerProcess, client: Client) -> None:
    payload = os.urandom(500_000)
    with Echo(broker.endpoint, "blobs"):
        jobs = [client.send("blobs", payload), *client.send_many("blobs", [payload, b"small", payload])]
        assert [job.result(timeout=10) == payload for job in jobs] == [True, True, False, True]


# ---- results


def test_results_are_pushed_and_stay(broker: BrokerProcess, client: Client) -> None:
    def handle(payload: Any) -> Any:
        if payload == "bad":
            raise Reject("cannot be done")
        return [payload, "done"]

    early = client.send("results", "early")
    with pytest.raises(ResultTimeout) as ended:
        early.result(timeout=0.1)
    assert isinstance(ended.value, TimeoutError)
    with Echo(broker.endpoint, "results", handle):
        assert early.result(timeout=10) == ["early", "done"]
        assert client.send("results", None).result(timeout=10) == [None, "done"]
        bad = client.send("results", "bad")
        with pytest.raises(JobFailed) as failed:
            bad.result(timeout=10)
    assert failed.value.reason == "rejected"
    assert failed.value.error["text"] == "cannot be done"
    assert "cannot be done" in str(failed.value)
    assert early.result(timeout=10) == ["early", "done"]
    status = early.status()
    assert (status.state, status.result, status.is_over) == ("done", ["early", "done"], True)


def test_a_cancelled_job_has_no_result(client: Client) -> None:
    job = client.send("cancelled", 1)
    assert job.cancel() == "cancelled"
    with pytest.raises(JobCancelled):
        job.result(timeout=10)
    assert job.status().state == "cancelled"


def test_many_threads_wait_for_one_result(broker: BrokerProcess, client: Client) -> None:
    job = client.send("shared", 7)
    results: list[Any] = []

    def wait() -> None:
        results.append(job.result(timeout=20))

    def serve() -> None:
        with Echo(broker.endpoint, "shared"):
            results.append(job.result(timeout=20))

    assert run_beside(*[wait] * 8, serve) == []
    assert results == [7] * 9


def test_a_result_is_waited_for_through_a_restart_of_the_broker(own_broker: BrokerProcess) -> None:
    waiting = threading.Event()

    def handle(payload: Any) -> Any:
        return payload * 2

    with Client(own_broker.endpoint) as client:
        job = client.send("restart", 21)
        results: list[Any] = []

        def wait() -> None:
            waiting.set()
            results.append(job.result(timeout=30))

        def restart() -> None:
            waiting.wait(10)
            own_broker.kill()
            own_broker.start()
            with Echo(own_broker.endpoint, "restart", handle):
                results.append(job.result(timeout=30))

        assert run_beside(wait, restart) == []
        assert results == [42, 42]


# ---- out of reach


def test_a_broker_that_is_not_there(tmp_path: Any) -> None:
    broker = BrokerProcess(tmp_path / "data", tmp_path / "broker.log")
    with Client(broker.endpoint, timeout=0.2) as client:
        before = time.monotonic()
        with pytest.raises(BrokerUnreachable) as error:
            client.send("q", 1)
        assert broker.endpoint in str(error.value)
        for call in (
            client.stats,
            lambda: client.result("some-id", timeout=0.2),
            lambda: client.send_many("q", [1, 2]),
        ):
            with pytest.raises(BrokerUnreachable):
                call()
        assert time.monotonic() - before < 5
        # What was given up never leaves, also when the broker comes.
        broker.start()
        client.send("q", 2, timeout=10)
        assert client.queue("q")["ready"] == 1
    broker.end()


def test_a_broker_that_stopped_before_the_first_contact_was_not_reached(own_broker: BrokerProcess) -> None:
    own_broker.freeze()
    with Client(own_broker.endpoint) as client, pytest.raises(BrokerUnreachable):
        client.send("q", 1, timeout=0.3)


def test_sent_and_not_answered_is_unknown_and_the_same_id_is_safe(own_broker: BrokerProcess) -> None:
    with Client(own_broker.endpoint) as client:
        client.send("q", "first")
        own_broker.freeze()
        before = time.monotonic()
        with pytest.raises(OutcomeUnknown) as error:
            client.send("q", "second", timeout=0.3)
        assert 0.3 <= time.monotonic() - before < 3
        identifier = error.value.id
        assert identifier is not None
        with pytest.raises(OutcomeUnknown) as several:
            client.send_many("q", ["third", "fourth"], timeout=0.3)
        assert len(several.value.unknown) == 2 and len(several.value.confirmed) == 0
        own_broker.thaw()
        client.send("q", "second", id=identifier)
        assert client.get(identifier).payload == "second"
        assert client.get(several.value.unknown[1]).payload == "fourth"
        assert client.queue("q")["ready"] == 4


def test_what_was_sent_before_a_crash_is_sent_again_and_stored_once(own_broker: BrokerProcess) -> None:
    with Client(own_broker.endpoint) as client:
        client.send("q", 0)
        own_broker.freeze()

        def crash() -> None:
            own_broker.kill()
            own_broker.start()

        timer = threading.Timer(0.2, crash)
        timer.start()
        job = client.send("q", 1, timeout=30)
        timer.join()
        assert job.status().payload == 1
        assert client.queue("q")["ready"] == 2


# ---- threads, forks, closing


def test_threads_share_a_client(client: Client) -> None:
    sent: list[str] = []

    def work() -> None:
        for number in range(60):
            sent.append(client.send("threads", number).id)
        sent.extend(client.send_many("threads", range(40), batch=10).ids)

    assert run_beside(*[work] * 10) == []
    assert len(set(sent)) == 1000
    assert client.queue("threads")["ready"] == 1000


def test_no_wake_up_is_lost_between_threads(own_broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tick that would hide it for a second, a lost wake-up is a call that times out."""
    monkeypatch.setattr("zclient.link.TICK_MS", 3_600_000)
    with Client(own_broker.endpoint) as client:

        def work() -> None:
            for number in range(150):
                client.send("wake", number)

        for threads in (2, 3, 4, 8):
            assert run_beside(*[work] * threads) == []
        assert client.queue("wake")["ready"] == 17 * 150


def test_a_forked_child_has_a_connection_of_its_own(broker: BrokerProcess, client: Client) -> None:
    job = client.send("forked", "parent")
    holding = threading.Thread(target=lambda: client.send_many("forked", range(20_000)))
    holding.start()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = job.status(timeout=20).payload == "parent"
            client.send("forked", "child", id="from-the-child", timeout=20)
            client.close()
            code = 0 if same else 2
        finally:
            os._exit(code)
    holding.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.get("from-the-child").payload == "child"
    assert client.queue("forked")["ready"] == 20_002


def test_closing_ends_calls_in_other_threads(broker: BrokerProcess) -> None:
    client = Client(broker.endpoint)
    job = client.send("closing", 1)
    barrier = threading.Barrier(4)

    def wait() -> None:
        barrier.wait(10)
        job.result()

    def close() -> None:
        barrier.wait(10)
        client.close()

    errors = run_beside(wait, wait, wait, close)
    assert [type(error) for error in errors] == [ClosedError] * 3
    client.close()
    with pytest.raises(ClosedError):
        client.send("closing", 2)
    with pytest.raises(ClosedError):
        job.status()
    Client(NOWHERE).close()


# ---- queues and dead jobs


def test_queues_are_paused_and_purged(broker: BrokerProcess, client: Client) -> None:
    client.send("paused", 0)
    client.pause("paused")
    client.send_many("paused", range(1, 20))
    assert client.queue("paused")["paused"]
    with Echo(broker.endpoint, "paused"):
        assert client.purge("paused") == 20
        job = client.send("paused", 1)
        with pytest.raises(ResultTimeout):
            job.result(timeout=0.1)
        assert any(worker["queues"] == ["paused"] for worker in client.workers())
        client.resume("paused")
        assert job.result(timeout=10) == 1
    assert "paused" in {queue["queue"] for queue in client.queues()}
    assert client.stats()


def test_dead_jobs_are_listed_replayed_and_dropped(broker: BrokerProcess, client: Client) -> None:
    refuse = threading.Event()
    refuse.set()

    def handle(payload: Any) -> Any:
        if refuse.is_set():
            raise Reject("not now")
        return payload

    with Echo(broker.endpoint, "deadly", handle):
        jobs = client.send_many("deadly", range(6))
        for job in jobs:
            with pytest.raises(JobFailed):
                job.result(timeout=10)
        dead = list(client.dead("deadly"))
        assert sorted(status.id for status in dead) == sorted(jobs.ids)
        assert {status.state for status in dead} == {"dead"}
        assert {status.reason for status in dead} == {"rejected"}
        assert len(list(client.dead("deadly", limit=4))) == 4
        assert jobs[0].status().attempt_log[0]["error"]["text"] == "not now"
        refuse.clear()
        assert client.replay(jobs[0]).count == 1
        assert jobs[0].result(timeout=10) == 0
        assert client.replay([jobs[1].id, jobs[2]]).count == 2
        assert [job.result(timeout=10) for job in jobs[1:3]] == [1, 2]
        assert client.drop([jobs[3].id]).count == 1
        with pytest.raises(NotFound):
            client.replay([jobs[4], jobs[0]])
        everything = client.replay(queue="deadly", rate=1000)
        assert everything.count == 2 and everything.work is not None
        assert [job.result(timeout=20) for job in jobs[4:]] == [4, 5]
    assert list(client.dead("deadly")) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.send("no queue", 1),
        lambda client: client.send("q", object()),
        lambda client: client.send("q", 1, after=[7]),
        lambda client: client.send("q", 1, on_conflict="replace"),
        lambda client: client.send("q", 1, prio=3),
        lambda client: client.send("q", 1, timeout="soon"),
        lambda client: client.send_many("q", [1], batch=0),
        lambda client: client.get(7),
        lambda client: list(client.jobs(limit=0)),
        lambda client: client.replay(),
        lambda client: client.replay("a", queue="q"),
        lambda client: client.replay("a", rate=0),
        lambda client: client.replay(["a"] * 251, rate=5),
        lambda client: client.replay("a", reason="expired"),
        lambda client: client.drop(queue="q", before="soon"),
        lambda client: client.jobs(since=True),
        lambda client: client.dead(error=7),
        lambda client: client.dead_groups(limit=0),
        lambda client: client.set_queue("q"),
        lambda client: client.set_queue("q", leese="1m"),
        lambda client: client.set_queue("q", lease="1ms"),
        lambda client: client.unset_queue("q"),
        lambda client: client.unset_queue("q", "leese"),
        lambda client: client.watch(7),
        lambda client: client.why("x" * 65),
        lambda client: client.replay(queue="q", rate=0),
        lambda client: client.replay(queue="q", rate=0.5),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_sent(call: Any) -> None:
    with Client(NOWHERE) as client, pytest.raises(InvalidArgument):
        call(client)


@pytest.mark.parametrize("given", [{"credentials": "x"}, {"name": ""}, {"endpoints": "nowhere"}, {"timeout": -1}])
def test_a_client_that_cannot_be(given: Any) -> None:
    with pytest.raises(InvalidArgument):
        Client(**given)
