"""What a worker holds and owes, told by a conversation without I/O."""

import pytest

from tests.worker.conversation import LEASE_MS, Conversation, delivery
from zclient.errors import InvalidArgument
from zclient.protocol import messages as m
from zclient.protocol.limits import MAX_BATCH_JOBS
from zclient.protocol.record import Header, encode_header
from zworker.job import Job


@pytest.fixture
def talk() -> Conversation:
    talk = Conversation()
    talk.connect()
    return talk


def ids_of(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


# ---- deliveries


def test_a_delivery_becomes_jobs_with_what_the_producer_sent(talk: Conversation) -> None:
    options = {"priority": 5, "key": "tenant-3", "headers": {"trace": "abc"}}
    (job,) = talk.deliver(7, "a", payload={"to": "ada"}, options=options, attempt=2)
    assert (job.id, job.queue, job.fence, job.attempt) == ("a", "q", 7, 2)
    assert (job.payload, job.headers, job.key, job.priority) == ({"to": "ada"}, {"trace": "abc"}, "tenant-3", 5)
    assert job.created_at.timestamp() == 1_700_000_000
    assert not job.lease_lost and not job.cancelled


def test_a_large_payload_comes_from_its_own_frame(talk: Conversation) -> None:
    record = encode_header(Header("q", 1, {}, True)) + bytes(8)
    (job,) = talk.say(m.Deliver("q", 7, LEASE_MS, [b"a"], [1], [record], {0: b"\xc4\x03abc"}))
    assert job.payload == b"abc"


def test_a_repeated_delivery_is_ignored_also_when_it_is_settled(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    assert talk.deliver(7, "a") == []
    job.ack()
    (settle,) = talk.sent()
    talk.say(m.Ok([settle.number]))
    assert talk.deliver(7, "a") == []
    assert talk.worker.repeated == 2


def test_what_was_delivered_beyond_the_capacity_goes_back() -> None:
    talk = Conversation(capacity=2)
    talk.connect()
    assert ids_of(talk.deliver(7, "a", "b", "c")) == ["a", "b"]
    assert talk.settlements() == [[m.Settlement(7, m.Outcome.RELEASE, [b"c"], [True])]]


def test_with_capacity_0_everything_goes_back(talk: Conversation) -> None:
    talk.worker.set_capacity(0)
    assert talk.deliver(7, "a") == []
    capacity, settle = talk.sent()
    assert capacity == m.Capacity(0)
    assert settle.settlements == [m.Settlement(7, m.Outcome.RELEASE, [b"a"], [True])]


def test_a_lost_job_of_the_same_pass_does_not_start(talk: Conversation) -> None:
    assert ids_of(talk.say(delivery(7, "a", "b"), m.Lost([(7, [b"a"])], "lease expired"))) == ["b"]


def test_a_job_whose_lease_ran_out_while_it_waited_goes_back(talk: Conversation) -> None:
    first, second = talk.deliver(7, "a", "b")
    assert talk.worker.start(first, talk.now + LEASE_MS - 1)
    assert not talk.worker.start(second, talk.now + LEASE_MS)
    assert talk.settlements() == [[m.Settlement(7, m.Outcome.RELEASE, [b"b"], [True])]]


def test_expiry_and_unique_text_are_told_where_there_are_any(talk: Conversation) -> None:
    (plain,) = talk.deliver(7, "a")
    assert (plain.expires_at, plain.unique) == (None, None)
    (job,) = talk.say(delivery(8, "b", options={"unique": "order-17"}, expires_ms=1_700_000_060_000))
    assert job.expires_at is not None
    assert ((job.expires_at - job.created_at).total_seconds(), job.unique) == (60, "order-17")


# ---- settling


def test_everything_settled_leaves_in_one_message_grouped_by_fence_and_outcome(talk: Conversation) -> None:
    a, b, c, d, e = talk.deliver(7, "a", "b", "c", "d", "e")
    (f,) = talk.deliver(8, "f")
    a.ack()
    b.ack({"n": 1})
    f.ack()
    c.nack("no", delay="2s")
    d.snooze("1m")
    e.reject("never")
    (settlements,) = talk.settlements()
    assert settlements == [
        m.Settlement(7, m.Outcome.ACK, [b"a", b"b"], [None, b"\x81\xa1n\x01"]),
        m.Settlement(8, m.Outcome.ACK, [b"f"], None),
        m.Settlement(7, m.Outcome.NACK, [b"c"], [{"text": "no", "delay": 2000}]),
        m.Settlement(7, m.Outcome.SNOOZE, [b"d"], [60_000]),
        m.Settlement(7, m.Outcome.REJECT, [b"e"], [{"text": "never"}]),
    ]


def test_a_lone_ack_leaves_at_once(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.ack()
    assert talk.settlements() == [[m.Settlement(7, m.Outcome.ACK, [b"a"], None)]]


def test_settling_twice_raises_and_sends_nothing(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.ack()
    for again in (job.ack, job.nack, job.reject, job.release, lambda: job.snooze(1)):
        with pytest.raises(InvalidArgument, match="settled already"):
            again()
    assert len(talk.settlements()) == 1
    assert talk.settlements() == []


def test_what_is_given_back_tells_whether_it_was_started(talk: Conversation) -> None:
    started, waiting = talk.deliver(7, "a", "b")
    talk.worker.start(started, talk.now)
    talk.worker.release([started, waiting])
    assert talk.settlements() == [[m.Settlement(7, m.Outcome.RELEASE, [b"a", b"b"], [None, True])]]


def test_a_result_that_cannot_be_encoded_leaves_the_job_to_be_settled(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    with pytest.raises(InvalidArgument):
        job.ack(object())
    job.reject("no such result")
    assert talk.settlements()[0][0].outcome == m.Outcome.REJECT


def test_more_than_a_batch_is_split() -> None:
    talk = Conversation(capacity=3000)
    talk.connect()
    for job in talk.deliver(7, *(f"j{n}" for n in range(MAX_BATCH_JOBS + 1))):
        job.ack()
    sizes = [len(settlements[0].ids) for settlements in talk.settlements()]
    assert sizes == [MAX_BATCH_JOBS, 1]


def test_a_confirmed_settlement_is_forgotten_and_an_unanswered_one_is_held(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.ack()
    (settle,) = talk.sent()
    assert talk.worker.held() == [m.Held(7, [], [b"a", b"b"])]
    talk.say(m.Ok([settle.number]))
    assert talk.worker.held() == [m.Held(7, [], [b"b"])]
    b.ack()
    (settle,) = talk.sent()
    talk.say(m.Ok([settle.number]))
    assert talk.worker.held() == []


def test_a_settlement_of_which_nobody_knows_is_said_again(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.ack("x")
    (settle,) = talk.sent()
    talk.say(m.Failure(settle.number, "outcome_unknown", "the number is forgotten", {}))
    (again,) = talk.sent()
    assert (again.settlements, again.number) == (settle.settlements, settle.number + 1)
    talk.say(m.Ok([again.number]))
    assert talk.worker.held() == [] and talk.worker.faults == []


@pytest.mark.parametrize("verdict", ["lost", "unknown"])
def test_a_verdict_marks_the_lease_as_lost(talk: Conversation, verdict: str) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.ack()
    b.ack()
    (settle,) = talk.sent()
    talk.say(m.Answer(settle.number, {"refused": [[7, b"a", verdict]]}))
    assert (a.lease_lost, b.lease_lost) == (True, False)
    assert talk.worker.refused == 1
    assert talk.worker.held() == []


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize(
    ("outcome", "verdict", "is_sure"),
    [("ack", "lost", True), ("ack", "unknown", False), ("release", "lost", False), ("nack", "lost", False)],
)
def test_a_verdict_on_what_was_said_before_says_only_of_an_ack_that_it_did_not_count(
    talk: Conversation, outcome: str, verdict: str, is_sure: bool, forgotten: bool
) -> None:
    (job,) = talk.deliver(7, "aa")
    getattr(job, outcome)()
    (settle,) = talk.sent()
    if forgotten:
        assert isinstance(settle, m.Settle)
        talk.say(m.Failure(settle.number, "outcome_unknown", "the number is forgotten", {}))
    else:
        talk.worker.session.disconnected(talk.now)
        talk.connect()
    (settle,) = talk.sent()
    assert isinstance(settle, m.Settle)
    talk.say(m.Answer(settle.number, {"refused": [[7, b"aa", verdict]]}))
    assert talk.worker.refused == job.lease_lost == is_sure
    assert talk.worker.unanswered == 0 and talk.worker.unsettled == 0
    assert talk.worker.held() == []


def test_a_result_that_the_broker_finds_too_large_rejects_the_job(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.ack("x")
    b.ack()
    (settle,) = talk.sent()
    talk.say(m.Answer(settle.number, {"refused": [[7, b"a", "too_large"]]}))
    ((again,),) = talk.settlements()
    assert (again.fence, again.outcome, again.ids) == (7, m.Outcome.REJECT, [b"a"])
    assert talk.worker.held() == [m.Held(7, [], [b"a"])]


def test_a_refused_message_is_settled_one_by_one_and_what_is_at_fault_is_rejected(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.ack("x")
    b.ack()
    (settle,) = talk.sent()
    talk.say(m.Failure(settle.number, "malformed", "a result is wrong", {}))
    first, second = talk.sent()
    assert [settlement.ids for settlement in (*first.settlements, *second.settlements)] == [[b"a"], [b"b"]]
    talk.say(m.Failure(first.number, "malformed", "a result is wrong", {}), m.Ok([second.number]))
    ((rejection,),) = talk.settlements()
    assert (rejection.outcome, rejection.ids) == (m.Outcome.REJECT, [b"a"])
    assert [str(fault) for fault in talk.worker.faults] == ["a result is wrong"]


@pytest.mark.parametrize("answer", [7, {"refused": [3]}, {"refused": [[7, b"zz", "lost"]]}, {}])
def test_an_answer_that_says_nothing_sensible_does_no_harm(talk: Conversation, answer: object) -> None:
    (job,) = talk.deliver(7, "a")
    job.ack()
    (settle,) = talk.sent()
    talk.say(m.Answer(settle.number, answer))
    assert talk.worker.held() == []


# ---- leases


def test_leases_are_renewed_at_a_sixth_of_their_time(talk: Conversation) -> None:
    talk.deliver(7, "a")
    talk.now += LEASE_MS / 6 - 1
    assert talk.sent() == []
    talk.now += 1
    assert talk.sent() == [m.Renew([7])]
    assert talk.worker.tick(talk.now) == talk.now + LEASE_MS / 6


def test_what_is_settled_is_not_renewed(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.ack()
    talk.sent()
    talk.now += LEASE_MS
    assert not any(isinstance(message, m.Renew) for message in talk.sent())


def test_a_lost_lease_is_told_once_and_its_outcome_is_not_sent(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    talk.say(m.Lost([(7, [b"a"])], "lease expired"))
    assert (a.lease_lost, b.lease_lost) == (True, False)
    assert talk.worker.interrupted() == [a]
    assert talk.worker.interrupted() == []
    assert (a.lost_reason, b.lost_reason) == ("lease expired", "")
    a.ack()
    assert talk.sent() == []
    assert talk.worker.unsettled == 1


def test_lost_without_ids_means_the_whole_delivery(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    talk.say(m.Lost([(7, []), (99, [])], "unknown fence"))
    assert a.lease_lost and b.lease_lost
    assert talk.worker.held() == []


def test_the_answer_for_a_settled_job_leaves_its_lost_neighbours_alone(talk: Conversation) -> None:
    a, b, c = talk.deliver(7, "a", "b", "c")
    a.ack()
    b.ack()
    (settle,) = talk.sent()
    talk.say(m.Lost([(7, [b"b"])], "lease expired"))
    assert not b.lease_lost, "what is settled learns from the answer"
    talk.say(m.Ok([settle.number]))
    assert talk.worker.held() == [m.Held(7, [], [b"c"])]
    assert c.unsettled


def test_a_wish_to_cancel_is_told_once(talk: Conversation) -> None:
    a, _ = talk.deliver(7, "a", "b")
    talk.say(m.Cancel(7, [b"a", b"zz"]), m.Cancel(7, [b"a"]), m.Cancel(99, [b"a"]))
    assert a.cancelled
    assert talk.worker.interrupted() == [a]
    talk.worker.session.disconnected(talk.now)
    talk.connect()
    talk.say(m.Cancel(7, [b"a"]))
    assert talk.worker.interrupted() == [], "after a HELLO it comes again"
    a.ack()
    assert len(talk.settlements()) == 1


def test_a_run_that_asks_late_still_hears_of_its_interrupt(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    talk.say(m.Lost([(7, [b"a"])], "lease expired"))
    told: list[bool] = []
    job.on_interrupt(lambda: told.append(True))
    assert told == [True]


def test_extend_is_asked_for_the_job(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.extend("5m")
    assert talk.sent()[-1][1:] == (7, b"a", 300_000)
    for wrong in (0, "2d"):
        with pytest.raises(InvalidArgument):
            job.extend(wrong)


# ---- connections


def test_hello_names_what_is_started_and_what_waits(talk: Conversation) -> None:
    a, b, c = talk.deliver(7, "a", "b", "c")
    talk.worker.start(a, talk.now)
    talk.worker.start(b, talk.now)
    b.ack()
    talk.sent()
    talk.worker.session.disconnected(talk.now)
    hello = talk.connect()
    assert hello.held == [m.Held(7, [b"a", b"b"], [b"c"])]
    # After the welcome the settlement without an answer goes out again, and every lease is renewed at once.
    renew, settle = talk.sent()
    assert renew == m.Renew([7])
    assert settle.settlements == [m.Settlement(7, m.Outcome.ACK, [b"b"], None)]
    assert c.unsettled


def test_hello_tells_what_the_tasks_say_of_their_jobs() -> None:
    tasks = {"q": {"max_attempts": 3, "backoff": [1000, 5000]}}
    assert Conversation(tasks=tasks).connect().tasks == tasks
    assert Conversation().connect().tasks == {}


def test_what_the_welcome_calls_lost_is_lost(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    talk.worker.session.disconnected(talk.now)
    talk.connect(lost=[(7, [b"a"])])
    assert (a.lease_lost, b.lease_lost) == (True, False)


def test_a_silent_broker_is_greeted_again_after_three_probes(talk: Conversation) -> None:
    talk.deliver(7, "a")
    talk.now += 2999
    talk.worker.session.tick(talk.now)
    assert not any(isinstance(message, m.Hello) for message in talk.sent())
    talk.now += 1001
    talk.worker.session.tick(talk.now)
    assert [type(message) for message in talk.sent()] == [m.Hello]


def test_without_a_connection_settlements_wait(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    talk.worker.session.disconnected(talk.now)
    job.ack()
    assert talk.sent() == []
    talk.connect()
    assert talk.settlements() == [[m.Settlement(7, m.Outcome.ACK, [b"a"], None)]]


def test_capacity_is_told_before_the_settlements_that_would_free_it(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    talk.worker.set_capacity(9)
    job.nack("timeout")
    assert [type(message) for message in talk.sent()] == [m.Capacity, m.Settle]


def test_closing_is_noted_until_the_next_welcome(talk: Conversation) -> None:
    talk.say(m.Closing("restart"))
    assert talk.worker.closing == "restart"
    talk.worker.session.disconnected(talk.now)
    talk.connect()
    assert talk.worker.closing is None
