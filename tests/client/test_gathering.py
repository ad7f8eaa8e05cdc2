"""Small PUTs that wait together travel as one, and end as if each had travelled alone."""

from tests.client.conversation import BROKER, Peer
from zclient.errors import BrokerUnreachable, ClosedError, OutcomeUnknown, QueueFull
from zclient.gathering import GATHER_BYTES, GATHER_JOBS
from zclient.protocol import limits
from zclient.protocol import messages as m


def connected() -> Peer:
    peer = Peer()
    peer.connect()
    return peer


def ids(message: m.Message) -> list[bytes]:
    assert isinstance(message, m.Put)
    return [identifier for group in message.groups for identifier in group.ids]


def test_what_waits_together_leaves_as_one_put_and_its_answer_is_that_of_each() -> None:
    peer = connected()
    requests = [peer.put(name, alone=False) for name in "abc"]
    assert peer.said() == [m.Put(1, 1, [m.Group("q", {}, [b"a", b"b", b"c"], [b"\x01"] * 3)])]
    assert all(request.sent for request in requests)
    peer.hear(m.Ok([1]))
    assert [(request.done, request.error) for request in requests] == [(True, None)] * 3
    assert not peer.said()


def test_other_queues_and_options_are_groups_of_their_own_in_the_order_of_the_sends() -> None:
    peer = connected()
    peer.put("a", alone=False)
    peer.put("b", "other", alone=False)
    peer.put("c", "other", alone=False, priority=3)
    peer.put("d", "other", alone=False, priority=3)
    peer.put("e", alone=False)
    (put,) = peer.said()
    assert isinstance(put, m.Put)
    assert [(group.queue, group.options, group.ids) for group in put.groups] == [
        ("q", {}, [b"a"]),
        ("other", {}, [b"b"]),
        ("other", {"priority": 3}, [b"c", b"d"]),
        ("q", {}, [b"e"]),
    ]


def test_jobs_that_are_judged_by_others_travel_alone_and_keep_their_place() -> None:
    peer = connected()
    for name, options in (("a", {}), ("b", {"unique": "text"}), ("c", {"after": [b"a"]}), ("d", {}), ("e", {})):
        peer.put(name, alone=False, **options)
    assert list(map(ids, peer.said())) == [[b"a"], [b"b"], [b"c"], [b"d", b"e"]]


def test_an_order_between_two_sends_stays_between_them() -> None:
    peer = connected()
    peer.put("a", alone=False)
    peer.order()
    peer.put("b", alone=False)
    assert [type(message) for message in peer.said()] == [m.Put, m.Order, m.Put]


def test_a_gathered_put_is_bounded_in_jobs_and_bytes() -> None:
    peer = connected()
    for n in range(GATHER_JOBS + 1):
        peer.put(f"job{n}", alone=False)
    assert [len(ids(put)) for put in peer.said()] == [GATHER_JOBS, 1]
    payload = bytes(GATHER_BYTES // 2)
    for n in range(3):
        peer.session.put([m.Group("q", {}, [b"large%d" % n], [payload])], peer.now)
    assert [len(ids(put)) for put in peer.said()] == [2, 1]


def test_refused_together_each_is_sent_alone_and_judged_by_itself() -> None:
    peer = connected()
    first, second, third = [peer.put(name, alone=False) for name in "abc"]
    assert len(peer.said()) == 1
    peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    assert not any(request.done for request in (first, second, third))
    assert list(map(ids, peer.said())) == [[b"a"], [b"b"], [b"c"]]
    peer.hear(m.Ok([2, 4]))
    peer.hear(m.Failure(3, "queue_full", "full", {"retry_after_ms": 500}))
    assert first.error is third.error is None and first.done and third.done
    assert isinstance(second.error, QueueFull) and second.error.retry_after == 0.5


def test_one_that_is_refused_together_and_given_up_before_it_left_again_is_not_stored() -> None:
    peer = connected()
    first, second = peer.put("a", alone=False), peer.put("b", alone=False)
    peer.said()
    peer.hear(m.Failure(1, "queue_full", "full", {}))
    peer.session.give_up(first)
    assert isinstance(first.error, BrokerUnreachable)
    assert list(map(ids, peer.said())) == [[b"b"]]
    assert not second.done


def test_each_may_give_up_and_the_last_one_takes_the_put_along() -> None:
    peer = connected()
    first, second = peer.put("a", alone=False), peer.put("b", alone=False)
    peer.said()
    peer.session.give_up(first)
    assert isinstance(first.error, OutcomeUnknown) and first.error.ids == ("a",)
    assert not second.done
    assert peer.put("c").number == 0 and peer.said()[0] == m.Put(2, 1, [m.Group("q", {}, [b"c"], [b"\x01"])])
    peer.session.give_up(second)
    assert isinstance(second.error, OutcomeUnknown) and second.error.ids == ("b",)
    peer.hear(m.Ok([2]))
    peer.put("d")
    assert peer.said() == [m.Put(3, 3, [m.Group("q", {}, [b"d"], [b"\x01"])])]
    peer.lose()
    assert list(map(ids, peer.connect())) == [[b"d"]]


def test_a_new_connection_gets_the_same_put_under_the_same_number() -> None:
    peer = connected()
    requests = [peer.put(name, alone=False) for name in "ab"]
    said = peer.said()
    peer.lose()
    late = peer.put("c", alone=False)
    again = peer.connect()
    assert again[0] == said[0] and ids(again[1]) == [b"c"]
    peer.hear(m.Ok([1, 2]))
    assert all(request.done and request.error is None for request in (*requests, late))


def test_what_found_no_room_is_gathered_anew_without_what_was_given_up() -> None:
    peer = connected()
    first, second = peer.put("a", alone=False), peer.put("b", alone=False)
    assert len(peer.session.outgoing(peer.now)) == 1
    peer.session.unsent(1)
    assert not first.sent and not second.sent
    peer.session.give_up(first)
    assert isinstance(first.error, BrokerUnreachable)
    third = peer.put("c", alone=False)
    assert peer.said() == [m.Put(1, 1, [m.Group("q", {}, [b"b", b"c"], [b"\x01"] * 2)])]
    peer.hear(m.Ok([1]))
    assert second.done and third.done


def test_an_outcome_that_nobody_knows_names_to_each_its_own_job() -> None:
    peer = connected()
    requests = [peer.put(name, alone=False) for name in "ab"]
    peer.said()
    peer.hear(m.Failure(1, "outcome_unknown", "forgotten", {}))
    errors = [request.error for request in requests]
    assert [error.ids for error in errors if isinstance(error, OutcomeUnknown)] == [("a",), ("b",)]


def test_what_is_too_old_to_be_sent_again_is_given_up_for_each() -> None:
    peer = connected()
    requests = [peer.put(name, alone=False) for name in "ab"]
    peer.said()
    peer.lose()
    peer.now += limits.RESEND_LIMIT_MS + 1
    assert peer.connect() == []
    errors = [request.error for request in requests]
    assert [error.ids for error in errors if isinstance(error, OutcomeUnknown)] == [("a",), ("b",)]


def test_an_end_of_the_client_ends_each() -> None:
    peer = connected()
    requests = [peer.put(name, alone=False) for name in "ab"]
    peer.said()
    peer.session.fail_all(ClosedError())
    assert all(isinstance(request.error, ClosedError) for request in requests)
    peer.hear(m.Welcome(1, BROKER, 7, {}, []))
    assert not peer.said()
