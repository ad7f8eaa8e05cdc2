"""Requests of a session, without I/O: numbered, answered, sent again over connections, and given up."""

import pytest

from tests.client.conversation import BROKER, Peer, numbers
from zclient.errors import (
    AnswerTimeout,
    BrokerUnreachable,
    ClosedError,
    DuplicateId,
    OutcomeUnknown,
    QueueFull,
)
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.session import ASK_AGAIN_MS


def test_answers_end_requests() -> None:
    peer = Peer()
    peer.connect()
    requests = [peer.put("a"), peer.put("b"), peer.session.ask("stats", {}, peer.now), peer.order(), peer.put("c")]
    peer.said()
    peer.hear(m.Ok([1, 2]))
    peer.hear(m.Answer(3, {"puts": 2}))
    peer.hear(m.Answer(4, {"paused": True}))
    peer.hear(m.Failure(5, "queue_full", "full", {"retry_after_ms": 1500}))
    assert all(request.done for request in requests)
    assert [request.value for request in requests] == [None, None, {"puts": 2}, {"paused": True}, None]
    error = requests[4].error
    assert isinstance(error, QueueFull) and error.retry_after == 1.5


def test_settlements_tell_what_was_refused() -> None:
    peer = Peer(capacity=4, queues=["q"])
    peer.connect()
    settle = peer.session.settle([m.Settlement(1, m.Outcome.ACK, [b"a"], None)], peer.now)
    peer.said()
    peer.hear(m.Answer(1, {"refused": [[1, b"a", "lost"]]}))
    assert settle.value == {"refused": [[1, b"a", "lost"]]}


def test_a_refusal_carries_its_details() -> None:
    peer = Peer()
    peer.connect()
    put = peer.put("a")
    peer.said()
    peer.hear(m.Failure(1, "duplicate_id", "another job", {"id": "a"}))
    assert isinstance(put.error, DuplicateId)
    assert put.error.details == {"id": "a"} and str(put.error) == "another job"


def test_batches_beyond_those_that_the_broker_remembers_are_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_OPEN_BATCHES", 3)
    peer = Peer()
    peer.connect()
    puts = [peer.put(name) for name in "abcdef"]
    peer.session.ask("stats", {}, peer.now)
    first, second, third, ask = peer.said()
    assert numbers([first, second, third]) == [(1, 1), (2, 1), (3, 1)]
    assert isinstance(ask, m.Ask) and ask.number == 4
    assert not peer.session.pending and peer.said() == []
    peer.now += 1
    peer.hear(m.Ok([2, 3]))
    assert not peer.session.pending, "the oldest one has no answer yet"
    peer.now += ASK_AGAIN_MS
    peer.session.tick(peer.now)
    assert numbers(peer.said()) == [(1, 1)], "what was sent goes again past those that are kept back"
    peer.hear(m.Ok([1]))
    peer.session.give_up(puts[3])
    assert peer.session.pending
    said = peer.said()
    assert numbers(said) == [(5, 5), (6, 5)]
    assert [message.groups[0].ids for message in said if isinstance(message, m.Put)] == [[b"e"], [b"f"]]
    peer.session.unsent(1)
    peer.put("g")
    assert numbers(peer.said()) == [(6, 5), (7, 5)]
    kept_back = peer.put("h")
    assert peer.said() == []
    peer.session.fail_all(ClosedError())
    assert isinstance(kept_back.error, ClosedError)


def test_low_is_the_oldest_batch_without_an_answer() -> None:
    peer = Peer()
    peer.connect()
    peer.put("a")
    peer.session.ask("stats", {}, peer.now)
    peer.order()
    peer.put("b")
    assert numbers(peer.said()) == [(1, 1), (3, 1), (4, 1)]
    peer.hear(m.Ok([1]))
    peer.put("c")
    assert numbers(peer.said()) == [(5, 3)]
    peer.hear(m.Ok([4]))
    peer.hear(m.Answer(3, {}))
    peer.put("d")
    assert numbers(peer.said()) == [(6, 5)]
    peer.hear(m.Ok([5, 6]))
    # Settlements, questions and extensions count, and do not hold low down.
    peer.session.settle([m.Settlement(1, m.Outcome.ACK, [b"a"], None)], peer.now)
    peer.session.extend(1, b"b", 1000, peer.now)
    peer.put("e")
    assert numbers(peer.said()) == [(9, 9)]


def test_a_new_connection_gets_what_is_unanswered_under_the_same_numbers() -> None:
    peer = Peer()
    peer.connect()
    first, second = peer.put("a"), peer.put("b")
    settle = peer.session.settle([m.Settlement(1, m.Outcome.ACK, [b"a"], None)], peer.now)
    before = peer.said()
    peer.hear(m.Ok([1]))
    assert first.done
    peer.lose()
    fresh = peer.put("c")
    assert peer.said() == []
    after = peer.connect()
    assert after[:2] == [m.Put(2, 2, [m.Group("q", {}, [b"b"], [b"\x01"])]), before[2]]
    assert numbers(after) == [(2, 2), (4, 2)]
    peer.hear(m.Ok([2, 3, 4]))
    assert second.done and settle.done and fresh.done


def test_resend_below_is_told_once_a_batch_was_confirmed() -> None:
    peer = Peer()
    peer.connect()
    peer.put("a")
    peer.said()
    peer.lose()
    peer.session.connected(peer.now)
    hello = peer.said()[0]
    assert isinstance(hello, m.Hello) and hello.resend_below == 0
    peer.hear(m.Welcome(1, BROKER, 7, {}, []))
    peer.said()
    peer.hear(m.Ok([1]))
    peer.put("b")
    peer.said()
    peer.put("never sent")
    peer.lose()
    peer.session.connected(peer.now)
    hello = peer.said()[0]
    assert isinstance(hello, m.Hello) and hello.resend_below == 3
    peer.hear(m.Welcome(1, BROKER, 7, {}, []))
    assert numbers(peer.said()) == [(2, 2), (3, 2)]


def test_a_broker_that_forgot_the_number_leaves_the_outcome_unknown() -> None:
    peer = Peer()
    peer.connect()
    put, order = peer.put("a"), peer.order()
    peer.said()
    peer.hear(m.Failure(1, "outcome_unknown", "", {}))
    peer.hear(m.Failure(2, "outcome_unknown", "", {}))
    assert isinstance(put.error, OutcomeUnknown) and put.error.ids == ("a",)
    assert isinstance(order.error, AnswerTimeout)


def test_a_batch_is_not_sent_again_after_the_limit() -> None:
    peer = Peer()
    peer.connect()
    put, ask = peer.put("a"), peer.session.ask("stats", {}, peer.now)
    peer.said()
    peer.lose()
    peer.now += limits.RESEND_LIMIT_MS + 1
    assert peer.connect() == [m.Ask(2, "stats", {})]
    assert isinstance(put.error, OutcomeUnknown)
    assert not ask.done


def test_an_answer_that_was_dropped_is_asked_for_again_on_a_living_connection() -> None:
    peer = Peer()
    peer.connect()
    peer.put("a")
    before = peer.said()
    peer.now += ASK_AGAIN_MS
    peer.session.tick(peer.now)
    assert peer.said() == [], "a broker that is silent is not pressed"
    peer.hear(m.Ping())
    peer.now += 1000
    peer.session.tick(peer.now)
    assert peer.said() == before
    peer.now += 1000
    peer.hear(m.Ping())
    peer.session.tick(peer.now)
    assert peer.said() == []


def test_what_is_unanswered_is_asked_again_only_where_its_answer_must_be_lost() -> None:
    peer = Peer()
    peer.connect()
    first, second = peer.session.ask("stats", {}, peer.now), peer.session.ask("stats", {}, peer.now)
    peer.said()
    peer.now += 4000
    third = peer.session.ask("stats", {}, peer.now)
    peer.said()
    peer.hear(m.Answer(first.number, 1))
    peer.now += 2000
    peer.session.tick(peer.now)
    assert peer.said() == [], "answers keep coming, and in order: its own is on a slow way"
    peer.hear(m.Answer(third.number, 3))
    peer.now += 1000
    peer.session.tick(peer.now)
    assert peer.said() == [m.Ask(second.number, "stats", {})], "a later one was answered: this answer was dropped"
    peer.hear(m.Answer(second.number, 2))
    assert (first.value, second.value, third.value) == (1, 2, 3)


# ---- what is given up


def test_a_request_given_up_before_it_left_never_leaves() -> None:
    peer = Peer()
    put = peer.put("a")
    peer.session.give_up(put)
    assert isinstance(put.error, BrokerUnreachable)
    assert peer.connect() == []
    peer.put("b")
    assert numbers(peer.said()) == [(1, 1)]


def test_a_request_given_up_after_it_left_counts_as_answered() -> None:
    peer = Peer()
    peer.connect()
    put, order = peer.put("a"), peer.order()
    peer.said()
    peer.session.give_up(put)
    peer.session.give_up(order)
    assert isinstance(put.error, OutcomeUnknown) and put.error.id == "a"
    assert isinstance(order.error, AnswerTimeout)
    peer.put("b")
    assert numbers(peer.said()) == [(3, 3)]
    peer.lose()
    assert numbers(peer.connect()) == [(3, 3)]
    peer.hear(m.Ok([1, 2]))
    assert isinstance(put.error, OutcomeUnknown)


def test_a_request_given_up_while_it_waits_to_be_sent_again_is_not_sent_again() -> None:
    peer = Peer()
    peer.connect()
    put = peer.put("a")
    peer.said()
    peer.lose()
    peer.session.give_up(put)
    assert isinstance(put.error, OutcomeUnknown)
    assert peer.connect() == []


def test_closing_ends_everything() -> None:
    peer = Peer()
    peer.connect()
    requests = [peer.put("a"), peer.session.watch(b"a")]
    peer.said()
    requests.append(peer.put("b"))
    peer.session.fail_all(ClosedError())
    assert all(isinstance(request.error, ClosedError) for request in requests)


# ---- what found no room


def test_what_found_no_room_goes_out_again_and_never_counts_as_sent() -> None:
    peer = Peer()
    peer.connect()
    requests = [peer.put("a"), peer.put("b"), peer.put("c")]
    peer.session.say(m.Renew([5]))
    assert len(peer.session.outgoing(peer.now)) == 4
    peer.session.unsent(2)
    assert [request.sent for request in requests] == [True, False, False]
    assert [request.number for request in requests] == [1, 0, 0]
    assert numbers(peer.said()) == [(2, 1), (3, 1)]
    peer.session.unsent(2)
    peer.session.give_up(requests[1])
    assert isinstance(requests[1].error, BrokerUnreachable)
    assert numbers(peer.said()) == [(2, 1)]
    assert requests[2].number == 2


def test_numbers_that_were_taken_back_are_given_again_with_a_right_low() -> None:
    peer = Peer()
    peer.connect()
    ask, put = peer.session.ask("stats", {}, peer.now), peer.put("a")
    assert numbers(peer.said()) == [(2, 2)]
    peer.session.unsent(2)
    peer.session.give_up(ask)
    assert numbers(peer.said()) == [(1, 1)]
    assert put.number == 1
