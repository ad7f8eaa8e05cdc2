"""`Job.send`: what a handler sends leaves with the ack of its job. Without I/O first, then against a real broker."""

import threading
from typing import Any

import pytest

from tests.worker.brokers import WAIT_S
from tests.worker.conversation import Conversation
from tests.worker.test_worker_real import serving
from zclient import Client, InvalidArgument, JobFailed
from zclient.errors import BatchTooLarge, PayloadTooLarge
from zclient.jobs import encode_payload
from zclient.protocol import messages as m
from zclient.protocol.limits import MAX_BATCH_BYTES, MAX_BATCH_JOBS, MESSAGE_BYTES
from zworker import Consumer, Job, Reject, Retry, Worker


@pytest.fixture
def talk() -> Conversation:
    talk = Conversation(capacity=2000)
    talk.connect()
    return talk


def settles(talk: Conversation) -> list[m.Settle]:
    return [message for message in talk.sent() if isinstance(message, m.Settle)]


# ---- without I/O


def test_what_is_sent_leaves_with_the_ack(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    first = a.send("mail", {"to": "ada"}, priority=3)
    assert a.send("mail", id="mine") == "mine"
    assert settles(talk) == [], "nothing leaves before the job is settled"
    a.ack("result")
    b.ack()
    (settle,) = settles(talk)
    assert settle.settlements == [m.Settlement(7, m.Outcome.ACK, [b"a", b"b"], [encode_payload("result"), None])]
    groups = [
        m.Group("mail", {"priority": 3}, [first.encode()], [encode_payload({"to": "ada"})]),
        m.Group("mail", {}, [b"mine"], [encode_payload(None)]),
    ]
    assert settle.sends == [m.Sent(7, b"a", groups)]


def test_what_is_published_leaves_with_the_ack_beside_what_is_sent(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    first = job.publish("a.b", {"n": 1}, headers={"x": 1})
    job.send("mail", id="mail-id")
    assert job.publish("c", id="mine") == "mine"
    with pytest.raises(InvalidArgument):
        job.publish("a.*")
    with pytest.raises(InvalidArgument):
        job.publish("a", unique="u")  # type: ignore[call-arg]
    job.ack()
    with pytest.raises(InvalidArgument):
        job.publish("late")
    ((sent,),) = [settle.sends for settle in settles(talk)]
    assert sent.groups == [m.Group("mail", {}, [b"mail-id"], [encode_payload(None)])]
    assert sent.publications == [
        m.Publication("a.b", {"headers": {"x": 1}}, first.encode(), encode_payload({"n": 1})),
        m.Publication("c", {}, b"mine", encode_payload(None)),
    ]


@pytest.mark.parametrize("settle", ["nack", "reject", "release"])
def test_with_any_other_outcome_nothing_is_sent(talk: Conversation, settle: str) -> None:
    (job,) = talk.deliver(7, "a")
    job.send("mail")
    getattr(job, settle)()
    assert [told.sends for told in settles(talk)] == [[]]


def test_what_cannot_be_sent_is_said_at_once(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    bad: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (("no such name",), {}),
        (("mail", object()), {}),
        (("mail",), {"priority": 101}),
        (("mail",), {"id": ""}),
        (("mail",), {"nonsense": 1}),
    ]
    for arguments, options in bad:
        with pytest.raises(InvalidArgument):
            job.send(*arguments, **options)
    job.ack()
    with pytest.raises(InvalidArgument, match="settled already"):
        job.send("mail")
    assert [told.sends for told in settles(talk)] == [[]]


def test_a_job_sends_so_many_and_so_much_and_no_more(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    for n in range(MAX_BATCH_JOBS):
        a.send("mail", n)
    with pytest.raises(InvalidArgument, match="at most 1000 jobs"):
        a.send("mail")
    for _ in range(MAX_BATCH_BYTES // (1 << 20)):
        b.send("mail", bytes((1 << 20) - 6))  # and 5 bytes of msgpack
    with pytest.raises(BatchTooLarge, match="16 MiB"):
        b.send("mail", bytes((1 << 20) - 6))
    b.send("mail", 1)
    a.ack()
    b.ack()
    assert [[sent.id for sent in told.sends] for told in settles(talk)] == [[b"a"], [b"b"]]


def test_a_payload_above_the_limit_of_the_broker_is_said_at_once(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    talk.say(m.Welcome(1, b"broker", 1, {"payload_bytes": 100}, []))
    (other,) = talk.deliver(8, "b")
    job.send("mail", bytes(98))
    for send in (other.send, other.publish):
        with pytest.raises(PayloadTooLarge, match="a payload of 101 bytes") as caught:
            send("mail", bytes(99))
        assert caught.value.details == {"limit": 100}
        send("mail", bytes(98))
    other.ack()
    ((sent,),) = [settle.sends for settle in settles(talk)]
    assert len(sent.groups) == len(sent.publications) == 1


def test_no_message_carries_more_than_a_broker_takes(talk: Conversation) -> None:
    jobs = talk.deliver(7, *(f"j{n}" for n in range(25)))
    for n, job in enumerate(jobs):
        for _ in range(n * 40):
            job.send("mail", n)
        if n % 7 == 0:
            job.send("mail", bytes(MESSAGE_BYTES - 1000))
        job.ack(n)
    told = settles(talk)
    sent = [sum(len(each.groups) for each in message.sends) for message in told]
    size = [sum(len(group.payloads[0]) for each in message.sends for group in each.groups) for message in told]
    assert max(sent) <= MAX_BATCH_JOBS and max(size) <= MESSAGE_BYTES
    assert sum(sent) == sum(n * 40 + (n % 7 == 0) for n in range(25))
    acked = [identifier for message in told for one in message.settlements for identifier in one.ids]
    assert acked == [job.identifier for job in jobs]
    for message in told:
        ids = {identifier for one in message.settlements for identifier in one.ids}
        assert {each.id for each in message.sends} <= ids, "with its ack, and in no other message"


def test_what_the_broker_refuses_to_store_fails_the_run(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.send("full")
    a.ack()
    b.ack()
    (settle,) = settles(talk)
    talk.say(m.Answer(settle.number, {"refused": [[7, b"a", "unsent", "queue_full: 3 of at most 3 jobs wait"]]}))
    (again,) = settles(talk)
    ((fence, outcome, ids, values),) = again.settlements
    assert (fence, outcome, ids, again.sends) == (7, m.Outcome.NACK, [b"a"], [])
    assert values == [{"type": "SendRefused", "text": "what it sent was refused: queue_full: 3 of at most 3 jobs wait"}]
    assert ["job a is tried again" in str(fault) for fault in talk.worker.faults] == [True]
    assert talk.worker.held() == [m.Held(7, [], [b"a"])]
    talk.say(m.Ok([again.number]))
    assert talk.worker.held() == []


def test_an_unanswered_settlement_is_repeated_with_what_it_sends(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.send("mail", id="x")
    job.ack()
    (settle,) = settles(talk)
    talk.connect()
    (again,) = settles(talk)
    assert (again.settlements, again.sends) == (settle.settlements, settle.sends)
    assert again.sends[0].groups[0].ids == [b"x"]


def test_a_message_that_is_refused_whole_goes_one_by_one_with_what_each_sends(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.send("mail", id="x")
    b.send("mail", id="y")
    a.ack()
    b.ack()
    (settle,) = settles(talk)
    talk.say(m.Failure(settle.number, "malformed", "something is wrong", {}))
    first, second = settles(talk)
    assert [[each.id for each in told.sends] for told in (first, second)] == [[b"a"], [b"b"]]
    assert [told.settlements[0].ids for told in (first, second)] == [[b"a"], [b"b"]]


# ---- against a real broker


def test_a_run_that_fails_sends_nothing_and_the_one_that_does_not_sends_once(
    broker: str, client: Client, queue: str
) -> None:
    worker = Worker(broker)

    @worker.task(queue)
    def make(job: Job, how: str) -> str:
        job.send(queue + "-next", f"{how} {job.attempt}")
        if how == "retry" and job.attempt == 1:
            raise Retry("once more", delay=0)
        if how == "reject":
            raise Reject("no")
        return job.send(queue + "-next", large := bytes(100_000), key=how) and str(len(large))

    with serving(worker):
        assert client.send(queue, "retry").result(timeout=WAIT_S) == "100000"
        with pytest.raises(JobFailed):
            client.send(queue, "reject").result(timeout=WAIT_S)
    with Consumer(broker, queue + "-next") as consumer:
        taken = [consumer.get(WAIT_S) for _ in range(2)]
        assert [job.payload if job and job.key is None else b"" for job in taken] == ["retry 2", b""]
        assert consumer.get("100ms") is None


def test_a_coroutine_and_each_job_of_a_batch_send_their_own(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=20)

    @worker.task(queue)
    async def one(job: Job, n: int) -> None:
        job.send(queue + "-next", ["one", n])

    @worker.task(queue + "-batch", batch=4, batch_wait="50ms")
    def many(jobs: list[Job]) -> None:
        for job in jobs:
            job.send(queue + "-next", ["many", job.payload])
            if job.payload == 2:
                job.reject("not this one")

    with serving(worker):
        jobs = [client.send(queue, [n]) for n in range(3)] + [client.send(queue + "-batch", n) for n in range(4)]
        for job in jobs:
            if job is not jobs[5]:
                job.result(timeout=WAIT_S)
    with Consumer(broker, queue + "-next") as consumer:
        taken = [consumer.get(WAIT_S) for _ in range(6)]
        expected = [["many", n] for n in (0, 1, 3)] + [["one", n] for n in range(3)]
        assert sorted(job.payload for job in taken if job) == expected
        assert consumer.get("100ms") is None


def test_what_is_refused_is_an_error_of_the_run(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    client.set_queue(queue + "-next", max_jobs=1)
    client.send(queue + "-next", "first")

    @worker.task(queue, max_attempts=1)
    def make(job: Job) -> None:
        job.send(queue + "-next")

    with serving(worker), pytest.raises(JobFailed) as caught:
        client.send(queue).result(timeout=WAIT_S)
    assert caught.value.error is not None
    assert caught.value.error["type"] == "SendRefused" and "queue_full" in caught.value.error["text"]


def test_a_payload_that_the_broker_would_not_take_can_be_sent_in_another_way(
    broker: str, client: Client, queue: str
) -> None:
    worker = Worker(broker)

    @worker.task(queue, max_attempts=1)
    def make(job: Job, size: int) -> int:
        try:
            job.send(queue + "-next", bytes(size))
        except PayloadTooLarge as error:
            most: int = error.details["limit"]
            job.send(queue + "-next", bytes(most - 5))
            return most
        return 0

    with serving(worker):
        assert client.send(queue, {"size": 2 << 20}).result(timeout=WAIT_S) == 1 << 20
    assert [row["ready"] for row in client.queues() if row["queue"] == queue + "-next"] == [1]


def test_a_consumer_sends_as_well(broker: str, client: Client, queue: str) -> None:
    first = client.send(queue, "a")
    with Consumer(broker, (queue, queue + "-next")) as consumer:
        job = consumer.get(WAIT_S)
        assert job is not None
        identifier = job.send(queue + "-next", "b", id=f"{queue}-b")
        assert consumer.get("100ms") is None
        job.ack()
        first.result(timeout=WAIT_S)
        following = consumer.get(WAIT_S)
        assert following is not None and (following.id, following.payload) == (identifier, "b")
        following.ack()


def test_a_run_whose_time_is_over_cannot_send(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker)
    told: list[BaseException] = []
    ended = threading.Event()

    @worker.task(queue, timeout="100ms", max_attempts=1)
    def late(job: Job) -> None:
        job.send(queue + "-next", "before")
        job.wait(WAIT_S)
        try:
            job.send(queue + "-next", "after")
        except InvalidArgument as error:
            told.append(error)
        ended.set()

    with serving(worker):
        with pytest.raises(JobFailed):
            client.send(queue).result(timeout=WAIT_S)
        assert ended.wait(WAIT_S)
    assert len(told) == 1
    assert [row["queue"] for row in client.queues() if row["queue"] == queue + "-next"] == []
