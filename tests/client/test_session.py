"""The session as transcripts without I/O: how it meets a broker, what it watches, and what it says for a worker.

Its requests are in `test_requests.py`.
"""

import pytest

from tests.client.conversation import BROKER, INCARNATION, Peer, numbers
from zclient.errors import OutcomeUnknown, QueueClosed, TooManyPeers, UnsupportedVersion, WrongBroker
from zclient.protocol import messages as m
from zclient.protocol.codec import encode
from zclient.requests import Request
from zclient.session import WATCH_AGAIN_MS

# ---- meeting


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


def test_a_hello_whose_answer_was_lost_does_not_hide_that_of_the_next_one() -> None:
    peer = Peer()
    put = peer.put("a")
    peer.session.connected(peer.now)
    assert [type(message) for message in peer.said()] == [m.Hello]
    peer.now += 6000
    peer.session.tick(peer.now)
    assert [type(message) for message in peer.said()] == [m.Hello]
    peer.hear(m.Welcome(1, BROKER, 7, {}, []))
    assert peer.session.welcomed
    assert numbers(peer.said()) == [(1, 1)]
    peer.hear(m.Welcome(1, BROKER, 7, {}, []))
    assert peer.said() == [], "the first answer came late: nothing is sent once more"
    assert not put.done


def test_a_refusal_of_a_batch_that_was_sent_twice_leaves_the_outcome_open() -> None:
    peer = Peer()
    peer.connect()
    put = peer.put("a")
    assert numbers(peer.said()) == [(1, 1)]
    for _ in range(6):
        peer.now += 1000
        peer.hear(m.Ping())
        peer.session.tick(peer.now)
    assert numbers(peer.said()) == [(1, 1)]
    peer.hear(m.Failure(1, "closed", "it is drained", {}))
    assert isinstance(put.error, OutcomeUnknown), "the second copy may find the queue open"
    assert put.error.ids == ("a",)
    peer.hear(m.Ok([1]))
    assert isinstance(put.error, OutcomeUnknown)


def test_a_refusal_of_a_batch_that_was_sent_again_on_another_connection_is_one() -> None:
    peer = Peer()
    peer.connect()
    put = peer.put("a")
    peer.said()
    peer.lose()
    assert numbers(peer.connect()) == [(1, 1)]
    peer.hear(m.Failure(1, "closed", "it is drained", {}))
    assert isinstance(put.error, QueueClosed)


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


def test_a_job_that_nobody_knew_is_asked_for_again_for_who_came_since() -> None:
    peer = Peer()
    peer.connect()
    early = peer.session.watch(b"a")
    assert peer.said() == [m.Watch([b"a"])]
    late = peer.session.watch(b"a")  # its owner was told meanwhile that the job is stored
    peer.hear(m.Finished([(b"a", "unknown", None, None)]))
    assert not late.done
    assert peer.said() == [m.Watch([b"a"])]
    peer.hear(m.Finished([(b"a", "unknown", None, None)]))
    assert early.done and late.value == ("unknown", None, None)


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
    peer.session.say(m.Renew([1]))
    assert peer.connect() == []
    peer.session.say(m.Renew([1, 2]))
    assert peer.said() == [m.Renew([1, 2])]
    peer.session.goodbye()
    peer.put("a")
    assert peer.said() == [m.Goodbye()]
    peer.lose()
    peer.session.connected(peer.now)
    assert peer.said() == []
