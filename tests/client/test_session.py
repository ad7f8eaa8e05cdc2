"""The session as transcripts without I/O: what it says when, and what it makes of what it hears."""

from typing import Any

import pytest

from zclient.errors import (
    AnswerTimeout,
    BrokerUnreachable,
    ClosedError,
    DuplicateId,
    OutcomeUnknown,
    QueueFull,
    TooManyPeers,
    UnsupportedVersion,
    WrongBroker,
)
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode
from zclient.requests import Request
from zclient.session import ASK_AGAIN_MS, WATCH_AGAIN_MS, Session

INCARNATION = bytes(range(16))
BROKER = b"broker-one-16byt"


class Peer:
    """A session with a clock, fed and read as messages."""

    def __init__(self, **given: Any) -> None:
        self.now = 1000.0
        self.session = Session(INCARNATION, name="test", info={}, **given)

    def connect(self) -> list[m.Message]:
        """A connection comes up and is welcomed; what the session says behind its HELLO."""
        self.session.connected(self.now)
        said = self.said()
        assert [type(message) for message in said] == [m.Hello]
        self.hear(m.Welcome(1, BROKER, 7, {}, []))
        return self.said()

    def lose(self) -> None:
        self.session.disconnected(self.now)

    def said(self) -> list[m.Message]:
        return [decode(frames) for frames in self.session.outgoing(self.now)]

    def hear(self, message: m.Message) -> list[m.Message]:
        return self.session.receive(encode(message), self.now)

    def put(self, name: str) -> Request:
        return self.session.put([m.Group("q", {}, [name.encode()], [b"\x01"])], self.now)

    def order(self) -> Request:
        return self.session.order("pause", {"queue": "q"}, self.now)


def numbers(messages: list[m.Message]) -> list[tuple[int, int]]:
    """(number, low) of the PUTs and ORDERs among them."""
    return [(message.number, message.low) for message in messages if isinstance(message, m.Put | m.Order)]


def test_nothing_leaves_before_the_welcome() -> None:
    peer = Peer()
    put = peer.put("a")
    assert peer.said() == []
    peer.session.connected(peer.now)
    assert peer.said() == [m.Hello(1, INCARNATION, "test", 0, [], [], 0, {})]
    assert peer.said() == []
    assert not put.sent
    assert peer.hear(m.Welcome(1, BROKER, 7, {"batch_jobs": 10}, [])) == [
        m.Welcome(1, BROKER, 7, {"batch_jobs": 10}, [])
    ]
    assert peer.session.limits == {"batch_jobs": 10}
    assert peer.said() == [m.Put(1, 1, [m.Group("q", {}, [b"a"], [b"\x01"])])]
    assert put.sent and not put.done


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


def test_what_found_no_room_goes_out_again_and_never_counts_as_sent() -> None:
    peer = Peer()
    peer.connect()
    requests = [peer.put("a"), peer.put("b"), peer.put("c")]
    peer.session.renew([5])
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


def test_an_unsent_hello_is_said_later_with_what_is_held_then() -> None:
    held: list[m.Held] = []
    peer = Peer(capacity=2, queues=["q"], held=lambda: list(held))
    peer.session.connected(peer.now)
    peer.said()
    peer.session.unsent(1)
    held.append(m.Held(9, [b"a"], []))
    assert peer.said() == [m.Hello(1, INCARNATION, "test", 2, ["q"], held, 0, {})]


def test_who_is_answered_with_one_hello_and_everything_unanswered() -> None:
    peer = Peer()
    peer.connect()
    peer.put("a")
    peer.put("b")
    before = peer.said()
    peer.hear(m.Who())
    peer.hear(m.Who())
    assert [type(message) for message in peer.said()] == [m.Hello]
    peer.hear(m.Who())
    assert peer.said() == []
    peer.hear(m.Welcome(1, BROKER, 8, {}, []))
    assert peer.said() == before


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


# ---- watches


def test_waiters_of_one_job_share_a_watch() -> None:
    peer = Peer()
    peer.connect()
    first, second = peer.session.watch(b"a"), peer.session.watch(b"a")
    assert first is second
    ended: list[Request] = []
    first.on_done(ended.append)
    second.on_done(ended.append)
    peer.session.watch(b"b")
    assert peer.said() == [m.Watch([b"a", b"b"])]
    peer.hear(m.Finished([(b"a", "done", b"\x05", None), (b"unasked", "done", None, None)]))
    assert first.value == ("done", b"\x05", None)
    assert ended == [first, first]


def test_watches_are_said_again_on_a_new_connection_and_now_and_then() -> None:
    peer = Peer()
    peer.connect()
    peer.session.watch(b"a")
    peer.said()
    peer.lose()
    assert peer.connect() == [m.Watch([b"a"])]
    peer.now += WATCH_AGAIN_MS
    peer.hear(m.Ping())
    peer.session.tick(peer.now)
    assert peer.said() == [m.Watch([b"a"])]


def test_the_last_waiter_to_give_up_ends_the_watch() -> None:
    peer = Peer()
    peer.connect()
    watch = peer.session.watch(b"a")
    peer.session.watch(b"a")
    peer.said()
    peer.session.give_up(watch)
    assert not watch.done
    peer.session.give_up(watch)
    assert watch.done
    assert peer.said() == [m.Unwatch([b"a"])]


def test_many_watches_travel_in_messages_of_bounded_size() -> None:
    peer = Peer()
    peer.connect()
    for number in range(2500):
        peer.session.watch(b"%d" % number)
    assert [len(message.ids) for message in peer.said() if isinstance(message, m.Watch)] == [1000, 1000, 500]
    peer.session.unsent(2)
    assert [len(message.ids) for message in peer.said() if isinstance(message, m.Watch)] == [1000, 500]


# ---- workers


def test_capacity_is_told_when_it_changes() -> None:
    peer = Peer(capacity=4, queues=["q"])
    assert peer.connect() == []
    peer.session.set_capacity(2)
    peer.session.set_capacity(3)
    assert peer.said() == [m.Capacity(3)]
    peer.session.set_capacity(5)
    peer.session.outgoing(peer.now)
    peer.session.unsent(1)
    assert peer.said() == [m.Capacity(5)]
    peer.lose()
    peer.session.set_capacity(0)
    assert peer.connect() == []


def deliver(fence: int) -> m.Deliver:
    return m.Deliver("q", fence, 30_000, [b"a"], [1], [b"\0\0"], {})


def test_a_delivery_that_a_hello_crossed_is_the_workers() -> None:
    peer = Peer(capacity=4, queues=["q"])
    peer.connect()
    peer.session.hello()
    peer.said()
    assert peer.hear(deliver(3)) == [deliver(3)], "the broker takes back nothing that it sent on this connection"
    peer.hear(m.Welcome(1, BROKER, 7, {}, []))
    assert peer.hear(deliver(4)) == [deliver(4)]


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


def test_a_worker_that_hears_nothing_says_hello() -> None:
    peer = Peer(capacity=4, queues=["q"])
    peer.connect()
    peer.now += 2900
    peer.session.tick(peer.now)
    assert peer.said() == []
    peer.now += 1100
    peer.session.tick(peer.now)
    assert [type(message) for message in peer.said()] == [m.Hello]
    peer.now += 1000
    peer.session.tick(peer.now)
    assert peer.said() == [], "one at a time"


def test_renewals_need_a_connection_and_goodbye_is_the_last_word() -> None:
    peer = Peer(capacity=4, queues=["q"])
    peer.session.renew([1])
    assert peer.connect() == []
    peer.session.renew([1, 2])
    assert peer.said() == [m.Renew([1, 2])]
    peer.session.goodbye()
    peer.put("a")
    assert peer.said() == [m.Goodbye()]
    peer.lose()
    peer.session.connected(peer.now)
    assert peer.said() == []


def test_settlements_tell_what_was_refused() -> None:
    peer = Peer(capacity=4, queues=["q"])
    peer.connect()
    settle = peer.session.settle([m.Settlement(1, m.Outcome.ACK, [b"a"], None)], peer.now)
    peer.said()
    peer.hear(m.Answer(1, {"refused": [[1, b"a", "lost"]]}))
    assert settle.value == {"refused": [[1, b"a", "lost"]]}


# ---- refusals and faults


def test_a_broker_that_is_full_is_asked_again_later() -> None:
    peer = Peer()
    put = peer.put("a")
    peer.session.connected(peer.now)
    peer.said()
    peer.hear(m.Failure(0, "too_many_peers", "", {}))
    peer.session.tick(peer.now)
    assert peer.said() == []
    peer.now += 1100
    peer.session.tick(peer.now)
    assert [type(message) for message in peer.said()] == [m.Hello]
    peer.hear(m.Failure(0, "too_many_peers", "", {}))
    peer.session.give_up(put)
    assert type(put.error) is type(peer.session.refusal)
    assert isinstance(put.error, TooManyPeers)


def test_another_version_fails_everything_at_once() -> None:
    peer = Peer()
    put = peer.put("a")
    watch = peer.session.watch(b"a")
    peer.session.connected(peer.now)
    peer.said()
    peer.hear(m.Failure(0, "unsupported_version", "", {"versions": [2]}))
    assert isinstance(put.error, UnsupportedVersion) and put.error.details == {"versions": [2]}
    assert isinstance(watch.error, UnsupportedVersion)
    assert isinstance(peer.put("b").error, UnsupportedVersion)


def test_another_broker_is_refused_where_endpoints_are_of_one() -> None:
    peer = Peer(one_broker=True)
    peer.connect()
    put = peer.put("a")
    peer.said()
    peer.lose()
    peer.session.connected(peer.now)
    peer.said()
    peer.hear(m.Welcome(1, b"another", 1, {}, []))
    assert peer.session.misdirected
    assert isinstance(peer.session.refusal, WrongBroker)
    assert peer.said() == []
    peer.lose()
    assert numbers(peer.connect()) == [(1, 1)]
    assert not put.done


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\x91"],
        [b"not a message"],
        [b"\x91\x63"],
        [b"\x92\x42\xc0"],
        [b"\x92\x43\x01"],
        encode(m.Goodbye()),
        encode(m.Put(1, 1, [m.Group("q", {}, [b"a"], [b""])])),
    ],
)
def test_what_cannot_be_understood_is_counted_and_dropped(frames: list[bytes]) -> None:
    peer = Peer()
    peer.connect()
    put = peer.put("a")
    peer.said()
    assert peer.session.receive(frames, peer.now) == []
    assert peer.session.faults == 1
    assert peer.session.last_fault is not None
    peer.hear(m.Ok([1, 99]))
    assert put.done and put.error is None


def test_a_refusal_carries_its_details() -> None:
    peer = Peer()
    peer.connect()
    put = peer.put("a")
    peer.said()
    peer.hear(m.Failure(1, "duplicate_id", "another job", {"id": "a"}))
    assert isinstance(put.error, DuplicateId)
    assert put.error.details == {"id": "a"} and str(put.error) == "another job"


def test_closing_ends_everything() -> None:
    peer = Peer()
    peer.connect()
    requests = [peer.put("a"), peer.session.watch(b"a")]
    peer.said()
    requests.append(peer.put("b"))
    peer.session.fail_all(ClosedError())
    assert all(isinstance(request.error, ClosedError) for request in requests)
