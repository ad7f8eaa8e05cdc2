"""What `send_nowait` took, without I/O: tried again, given up, bounded, and failures told once."""

from typing import Any

import pytest

from tests.client.conversation import Peer
from zclient import BrokerUnreachable, ClosedError, DuplicateId, OutcomeUnknown, QueueFull, TooManyPeers
from zclient.gathering import GATHER_JOBS
from zclient.outbox import MAX_FAILURES, MAX_JOBS, Outbox, Parcel
from zclient.protocol import messages as m
from zclient.requests import Request
from zclient.verbs import End, Wait, advance


def some(request: Request | None) -> Request:
    assert request is not None
    return request


class Sender:
    """A peer with an outbox."""

    def __init__(self) -> None:
        self.peer = Peer()
        self.peer.connect()
        self.outbox = Outbox()

    def take(self, name: str, timeout_ms: float = 10_000) -> Parcel:
        """Take a job that travels alone."""
        parcel, _ = self.share(name, timeout_ms)
        assert parcel.request is not None
        parcel.request.alone = True
        return parcel

    def share(self, name: str, timeout_ms: float = 10_000) -> tuple[Parcel, int]:
        """Take a job that may travel with others."""
        group = m.Group("q", {}, [name.encode()], [b"\x01"])
        return self.outbox.add(self.peer.session, group, self.peer.now, timeout_ms)

    def attend(self) -> Any:
        """One step of the procedure that works for the outbox."""
        return advance(self.outbox.attending(self.peer.session, self.peer.now))


def test_it_empties_with_the_answers() -> None:
    sender = Sender()
    parcels = [sender.take(name) for name in "abc"]
    assert sender.outbox.size == 3
    sender.peer.said()
    sender.peer.hear(m.Ok([1, 3]))
    assert [parcel.done for parcel in parcels] == [True, False, True]
    step = sender.attend()
    assert isinstance(step, Wait) and not step.requests[0].done
    sender.peer.hear(m.Ok([2]))
    assert step.requests[0].done, "who attends to it hears that it is empty"
    assert isinstance(sender.attend(), End) and not sender.outbox.parcels and sender.outbox.size == 0
    sender.outbox.raise_failure()


def test_what_waits_together_leaves_together() -> None:
    sender = Sender()
    taken = [sender.share(name) for name in "abc"]
    assert len({parcel for parcel, _ in taken}) == 1 and [position for _, position in taken] == [0, 1, 2]
    assert (sender.outbox.jobs, sender.outbox.size) == (3, 3)
    (put,) = sender.peer.said()
    assert put == m.Put(1, 1, [m.Group("q", {}, [b"a", b"b", b"c"], [b"\x01"] * 3)])
    late, position = sender.share("d")
    assert late is not taken[0][0] and position == 0, "what has left takes nothing more"
    sender.peer.hear(m.Ok([1]))
    assert all(parcel.of(position).done and parcel.of(position).error is None for parcel, position in taken)
    assert (sender.outbox.jobs, sender.outbox.size) == (1, 1)


@pytest.mark.parametrize(
    ("group", "timeout_ms"),
    [
        (m.Group("other", {}, [b"b"], [b"\x01"]), 10_000),
        (m.Group("q", {"priority": 1}, [b"b"], [b"\x01"]), 10_000),
        (m.Group("q", {}, [b"b"], [b"\x01"]), 11_000),
        (m.Group("q", {}, [b"b"], [b"\x01"]), 9_000),
    ],
)
def test_what_differs_is_judged_apart(group: m.Group, timeout_ms: float) -> None:
    sender = Sender()
    first, _ = sender.share("a")
    second, position = sender.outbox.add(sender.peer.session, group, sender.peer.now, timeout_ms)
    assert second is not first and position == 0


def test_what_left_beside_another_parcel_takes_nothing_more() -> None:
    sender = Sender()
    sender.share("a")
    group = m.Group("other", {}, [b"b"], [b"\x01"])
    beside, _ = sender.outbox.add(sender.peer.session, group, sender.peer.now, 10_000)
    assert len(sender.peer.said()) == 1
    again = m.Group("other", {}, [b"c"], [b"\x01"])
    assert sender.outbox.add(sender.peer.session, again, sender.peer.now, 10_000)[0] is not beside
    (put,) = sender.peer.said()
    assert put == m.Put(2, 1, [again])


def test_what_left_first_beside_the_request_of_another_caller_takes_nothing_more() -> None:
    sender = Sender()
    first, _ = sender.share("a")
    sender.peer.put("other", alone=False)
    (put,) = sender.peer.said()
    assert isinstance(put, m.Put) and put.groups[0].ids == [b"a", b"other"]
    assert sender.share("b")[0] is not first
    assert sender.peer.said() == [m.Put(2, 1, [m.Group("q", {}, [b"b"], [b"\x01"])])]


@pytest.mark.parametrize("value", [True, 1.0])
def test_headers_that_are_equal_and_not_the_same_are_kept_apart(value: Any) -> None:
    sender = Sender()
    one, other = (m.Group("q", {"headers": {"n": n}}, [repr(n).encode()], [b"\x01"]) for n in (1, value))
    parcels = [sender.outbox.add(sender.peer.session, group, sender.peer.now, 1000)[0] for group in (one, other)]
    assert parcels[0] is not parcels[1]
    (put,) = sender.peer.said()
    assert isinstance(put, m.Put)
    assert [type(group.options["headers"]["n"]) for group in put.groups] == [int, type(value)]


def test_jobs_with_a_unique_text_share_nothing() -> None:
    sender = Sender()
    groups = [m.Group("q", {"unique": "x"}, [name], [b"\x01"]) for name in (b"a", b"b")]
    parcels = {sender.outbox.add(sender.peer.session, group, sender.peer.now, 1000)[0] for group in groups}
    assert len(parcels) == 2


def test_refused_together_each_is_sent_alone_and_ends_as_what_it_is() -> None:
    sender = Sender()
    taken = [sender.share(name) for name in "abc"]
    flush = sender.outbox.emptying(sender.peer.session, sender.peer.now, 5000)
    assert isinstance(advance(flush), Wait)
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "duplicate_id", "b is another job", {}))
    assert not any(parcel.of(position).done for parcel, position in taken) and sender.outbox.jobs == 3
    assert [put.groups[0].ids for put in sender.peer.said() if isinstance(put, m.Put)] == [[b"a"], [b"b"], [b"c"]]
    sender.peer.hear(m.Failure(3, "duplicate_id", "b is another job", {}))
    sender.peer.hear(m.Ok([2, 4]))
    ends = [parcel.of(position).error for parcel, position in taken]
    assert ends[0] is None and isinstance(ends[1], DuplicateId) and ends[2] is None
    assert not sender.outbox.parcels and sender.outbox.jobs == sender.outbox.size == 0
    with pytest.raises(DuplicateId):
        advance(flush, sender.peer.now)


def test_of_what_came_apart_one_can_be_waited_for_alone() -> None:
    sender = Sender()
    taken = [sender.share(name) for name in "ab"]
    parcel, position = taken[1]
    waiting = sender.outbox.ending(sender.peer.session, sender.peer.now, parcel, position, 5000)
    assert isinstance(advance(waiting), Wait)
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    step = advance(waiting, sender.peer.now)
    assert isinstance(step, Wait) and step.requests == (parcel.of(1).request,)
    sender.peer.said()
    sender.peer.hear(m.Ok([3]))
    end = advance(waiting, sender.peer.now)
    assert isinstance(end, End) and end.value is True and not parcel.of(0).done


def test_of_what_left_together_each_is_unknown_under_its_own_id() -> None:
    sender = Sender()
    first, _ = sender.share("a", 1000)
    sender.peer.now += 50
    assert sender.share("b", 1000) == (first, 1)
    sender.peer.said()
    sender.peer.now += 960  # the time of the second is not over yet
    assert isinstance(sender.attend(), Wait) and not first.done
    sender.peer.now += 50
    assert isinstance(sender.attend(), End)
    errors = [first.of(position).error for position in (0, 1)]
    assert [error.ids for error in errors if isinstance(error, OutcomeUnknown)] == [("a",), ("b",)]
    with pytest.raises(OutcomeUnknown) as told:
        sender.outbox.raise_failure()
    assert told.value.__notes__ == ["1 other jobs of send_nowait failed as well"]


def test_a_full_parcel_takes_no_more() -> None:
    sender = Sender()
    first, _ = sender.share("0")
    for n in range(1, GATHER_JOBS):
        assert sender.share(str(n)) == (first, n)
    assert sender.share("late")[0] is not first


def test_a_refusal_that_may_pass_is_followed_while_there_is_time() -> None:
    sender = Sender()
    parcel = sender.take("a", 2000)
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    assert not parcel.done and parcel.request is None
    step = sender.attend()
    assert isinstance(step, Wait) and step.until_ms == sender.peer.now + 500
    sender.peer.now += 500
    sender.attend()
    assert [message.number for message in sender.peer.said() if isinstance(message, m.Put)] == [2]
    sender.peer.hear(m.Failure(2, "queue_full", "full", {"retry_after_ms": 60_000}))
    sender.peer.now += 1300  # the last try comes a little before its time is over
    sender.attend()
    assert len(sender.peer.said()) == 1
    sender.peer.hear(m.Failure(3, "queue_full", "full", {"retry_after_ms": 500}))
    assert parcel.done and isinstance(parcel.error, QueueFull)


def test_one_without_time_is_given_up_as_what_it_is() -> None:
    sender = Sender()
    left = sender.take("a", 1000)
    sender.peer.said()
    stayed = sender.take("b", 1000)
    sender.peer.now += 1001
    assert isinstance(sender.attend(), End)
    assert isinstance(left.error, OutcomeUnknown) and left.error.ids == ("a",)
    assert isinstance(stayed.error, BrokerUnreachable)


def test_whoever_waits_tries_again_what_is_due() -> None:
    """The thread of the outbox may come later than the caller: who then waits for it to come holds the lock."""
    sender = Sender()
    parcel = sender.take("a", 2000)
    sender.peer.said()
    flush = sender.outbox.emptying(sender.peer.session, sender.peer.now, 5000)
    assert isinstance(advance(flush), Wait)
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    step = advance(flush, sender.peer.now)
    assert step == Wait((), sender.peer.now + 500)
    sender.peer.now += 500
    step = advance(flush, sender.peer.now)
    assert step == Wait((parcel.request,), step.until_ms) and len(sender.peer.said()) == 1


def test_who_attends_looks_sooner_where_something_has_less_time() -> None:
    sender = Sender()
    sender.take("a", 10_000)
    step = sender.attend()
    assert isinstance(step, Wait) and step.until_ms == sender.peer.now + 10_000
    sender.take("b", 500)
    assert step.requests[0].done
    step = sender.attend()
    assert isinstance(step, Wait) and step.until_ms == sender.peer.now + 500
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 100}))
    assert step.requests[0].done


def test_one_that_was_refused_and_tried_no_more_failed_as_refused() -> None:
    sender = Sender()
    parcel = sender.take("a", 1000)
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    sender.peer.now += 2000  # the process stood still
    assert isinstance(sender.attend(), End) and isinstance(parcel.error, QueueFull) and not sender.peer.said()


def test_one_that_a_broker_with_too_many_peers_never_took_is_given_up_in_its_time() -> None:
    sender = Sender()
    sender.peer.lose()
    sender.peer.session.connected(sender.peer.now)
    sender.peer.said()
    sender.peer.hear(m.Failure(0, "too_many_peers", "full", {"retry_after_ms": 1000}))
    taken = [sender.share(name, 500) for name in "ab"]
    sender.peer.now += 500
    assert isinstance(sender.attend(), End)
    assert all(isinstance(parcel.of(position).error, TooManyPeers) for parcel, position in taken)


def test_what_is_over_holds_no_payload() -> None:
    sender = Sender()
    taken = [sender.share(name) for name in "abc"]
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "duplicate_id", "b is another job", {}))
    sender.peer.said()
    sender.peer.hear(m.Ok([2, 4]))
    sender.peer.hear(m.Failure(3, "duplicate_id", "b is another job", {}))
    for parcel, position in taken:
        for one in (parcel, parcel.of(position)):
            assert one.done and one.request is None and not one.group.payloads
    assert [parcel.identifier(position) for parcel, position in taken] == [b"a", b"b", b"c"]


def test_it_is_waited_for_where_it_was_sent() -> None:
    sender, child = Sender(), Sender()
    parcel, position = sender.share("a")
    with pytest.raises(ClosedError):
        advance(child.outbox.ending(child.peer.session, child.peer.now, parcel, position, 5000))


def test_a_failure_behind_many_that_were_told_is_told() -> None:
    sender = Sender()
    for n in range(MAX_FAILURES):
        parcel = sender.take(str(n), 100)
        sender.peer.session.give_up(some(parcel.request))
        parcel.told = True
    for name in "ab":
        sender.peer.session.give_up(some(sender.take(name, 100).request))
    with pytest.raises(BrokerUnreachable) as told:
        sender.outbox.raise_failure()
    assert told.value.__notes__ == ["1 other jobs of send_nowait failed as well"]


def test_of_very_many_failures_the_newest_is_kept_as_well() -> None:
    sender = Sender()
    parcels = [sender.take(str(n), 100) for n in range(MAX_FAILURES + 10)]
    for parcel in parcels:
        sender.peer.session.give_up(some(parcel.request))
    for parcel in parcels[:-1]:
        parcel.told = True
    with pytest.raises(BrokerUnreachable):
        sender.outbox.raise_failure()


def test_failures_are_told_once_by_whoever_waits_or_all_together() -> None:
    sender = Sender()
    parcels = [sender.take(name) for name in "abc"]
    sender.peer.said()
    for number in (1, 2, 3):
        sender.peer.hear(m.Failure(number, "duplicate_id", f"job {number}", {}))
    parcels[0].told = True
    with pytest.raises(DuplicateId, match="job 2") as told:
        sender.outbox.raise_failure()
    assert told.value.__notes__ == ["1 other jobs of send_nowait failed as well"]
    sender.outbox.raise_failure()


def test_it_is_bounded_and_keeps_only_the_first_failures() -> None:
    sender = Sender()
    for n in range(MAX_JOBS):
        sender.share(f"job{n}")
    assert sender.outbox.is_full
    group = m.Group("q", {}, [b"late"], [b"\x01"])
    adding = sender.outbox.adding(sender.peer.session, sender.peer.now, group, 1000)
    step = advance(adding)
    assert isinstance(step, Wait)
    sender.peer.session.fail_all(ClosedError())
    assert not sender.outbox.is_full
    assert step.requests[0].done, "there is room again"
    added = advance(adding, sender.peer.now)
    assert isinstance(added, End) and added.value[0] in sender.outbox.parcels
    with pytest.raises(ClosedError) as told:
        sender.outbox.raise_failure()
    assert told.value.__notes__ == [f"{MAX_JOBS - 1} other jobs of send_nowait failed as well"]
    assert MAX_FAILURES < MAX_JOBS


def test_closing_ends_what_waits_for_another_try() -> None:
    sender = Sender()
    parcel = sender.take("a")
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    sender.outbox.close(ClosedError())
    assert parcel.done and isinstance(parcel.error, ClosedError) and not sender.outbox.parcels
