"""What `send_nowait` took, without I/O: tried again, given up, bounded, and failures told once."""

from typing import Any

import pytest

from tests.client.conversation import Peer
from zclient import BrokerUnreachable, ClosedError, DuplicateId, OutcomeUnknown, QueueFull
from zclient.outbox import MAX_FAILURES, MAX_JOBS, Entry, Outbox
from zclient.protocol import messages as m
from zclient.verbs import End, Wait, advance


class Sender:
    """A peer with an outbox; its jobs travel alone, so that each has an answer."""

    def __init__(self) -> None:
        self.peer = Peer()
        self.peer.connect()
        self.outbox = Outbox()

    def take(self, name: str, timeout_ms: float = 10_000, *, alone: bool = True) -> Entry:
        group = m.Group("q", {}, [name.encode()], [b"\x01"])
        entry = self.outbox.add(self.peer.session, group, self.peer.now, timeout_ms)
        assert entry.request is not None
        entry.request.alone = alone
        return entry

    def attend(self) -> Any:
        """One step of the procedure that works for the outbox."""
        return advance(self.outbox.attending(self.peer.session, self.peer.now))


def test_it_empties_with_the_answers() -> None:
    sender = Sender()
    entries = [sender.take(name) for name in "abc"]
    assert sender.outbox.size == 3
    sender.peer.said()
    sender.peer.hear(m.Ok([1, 3]))
    assert [entry.done for entry in entries] == [True, False, True]
    step = sender.attend()
    assert isinstance(step, Wait) and step.requests == (entries[1].request,)
    sender.peer.hear(m.Ok([2]))
    assert isinstance(sender.attend(), End) and not sender.outbox.entries and sender.outbox.size == 0
    sender.outbox.raise_failure()


def test_what_waits_together_leaves_together() -> None:
    sender = Sender()
    entries = [sender.take(name, alone=False) for name in "abc"]
    assert len(sender.peer.said()) == 1
    sender.peer.hear(m.Ok([1]))
    assert all(entry.done and entry.error is None for entry in entries)


def test_a_refusal_that_may_pass_is_followed_while_there_is_time() -> None:
    sender = Sender()
    entry = sender.take("a", 2000)
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    assert not entry.done and entry.request is None
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
    assert entry.done and isinstance(entry.error, QueueFull)


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
    entries = [sender.take(name) for name in "abc"]
    sender.peer.said()
    for number in (1, 2, 3):
        sender.peer.hear(m.Failure(number, "duplicate_id", f"job {number}", {}))
    entries[0].told = True
    with pytest.raises(DuplicateId, match="job 2") as told:
        sender.outbox.raise_failure()
    assert told.value.__notes__ == ["1 other jobs of send_nowait failed as well"]
    sender.outbox.raise_failure()


def test_it_is_bounded_and_keeps_only_the_first_failures() -> None:
    sender = Sender()
    for n in range(MAX_JOBS):
        sender.take(f"job{n}", alone=False)
    assert sender.outbox.is_full
    group = m.Group("q", {}, [b"late"], [b"\x01"])
    adding = sender.outbox.adding(sender.peer.session, sender.peer.now, group, 1000)
    step = advance(adding)
    assert isinstance(step, Wait)
    sender.peer.session.fail_all(ClosedError())
    assert not sender.outbox.is_full
    added = advance(adding, sender.peer.now)
    assert isinstance(added, End) and added.value in sender.outbox.entries
    with pytest.raises(ClosedError) as told:
        sender.outbox.raise_failure()
    assert told.value.__notes__ == [f"{MAX_JOBS - 1} other jobs of send_nowait failed as well"]
    assert MAX_FAILURES < MAX_JOBS


def test_closing_ends_what_waits_for_another_try() -> None:
    sender = Sender()
    entry = sender.take("a")
    sender.peer.said()
    sender.peer.hear(m.Failure(1, "queue_full", "full", {"retry_after_ms": 500}))
    sender.outbox.close(ClosedError())
    assert entry.done and isinstance(entry.error, ClosedError) and not sender.outbox.entries
