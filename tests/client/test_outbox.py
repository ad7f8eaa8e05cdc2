"""What `send_nowait` took, without I/O: tried again, given up, bounded, and failures told once."""

from typing import Any

import pytest

from tests.client.conversation import Peer
from zclient import BrokerUnreachable, ClosedError, DuplicateId, OutcomeUnknown, QueueFull
from zclient.gathering import GATHER_JOBS
from zclient.outbox import MAX_FAILURES, MAX_JOBS, Outbox, Parcel
from zclient.protocol import messages as m
from zclient.verbs import End, Wait, advance


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
    assert isinstance(step, Wait) and step.requests == (parcels[1].request,)
    sender.peer.hear(m.Ok([2]))
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
