"""Reading a stream: what the session says and keeps, and what `Stream` makes of it. No socket, no broker."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.conversation import Peer
from zclient.errors import (
    BrokerUnreachable,
    ClosedError,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    QueueClosed,
    ResultExpired,
    ResultTimeout,
    StreamRestarted,
)
from zclient.jobs import encode_payload
from zclient.protocol import messages as m
from zclient.protocol.limits import MESSAGE_BYTES, STREAM_BYTES
from zclient.readers import READ_AGAIN_MS
from zclient.streaming import END, Reading
from zclient.verbs import End, Wait, advance

WINDOW = 8


class Reader:
    """A peer that reads the stream ``a``, and what comes of it when it takes values."""

    def __init__(self, **given: Any) -> None:
        self.peer = Peer()
        self.peer.connect()
        options = {"timeout": 10, "on_restart": "raise", "window": WINDOW, "options": {}, **given}
        self.reading = Reading("q", None, "a", **options)

    def begin(self, answer: m.Message | None = None) -> list[m.Message]:
        """Send the job, and begin; what the session says then."""
        procedure = self.reading.begin(self.peer.session, self.peer.now, 10_000)
        assert isinstance(advance(procedure), Wait)
        (put,) = self.peer.said()
        assert isinstance(put, m.Put) and put.groups[0].options["stream"] is True
        self.peer.hear(answer or m.Ok([put.number]))
        assert isinstance(advance(procedure, self.peer.now), Wait), "one turn more"
        said = self.peer.said()
        assert isinstance(advance(procedure, self.peer.now), End)
        return said

    def part(self, first: int, *values: Any, fence: int = 7, last: bool = False) -> None:
        self.peer.hear(m.Part(b"a", fence, first, [encode_payload(value) for value in values], last))

    def end(self, state: str, result: Any = None, cause: Any = None) -> None:
        self.peer.hear(m.Finished([(b"a", state, encode_payload(result), cause)]))

    def take(self) -> Any:
        """The next value; None if there is none yet."""
        procedure = self.reading.next(self.peer.session, self.peer.now)
        try:
            step = advance(procedure)
            return step.value if isinstance(step, End) else None
        finally:
            procedure.close()

    def takes(self, count: int) -> list[Any]:
        return [self.take() for _ in range(count)]

    def reads(self) -> list[m.Read]:
        """What the session says of the stream now."""
        return [message for message in self.peer.said() if isinstance(message, m.Read)]


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    assert reader.begin() == [m.Read(b"a", 0, 0, WINDOW, False), m.Watch([b"a"])]
    yield reader
    assert reader.peer.session.faults == 0


def test_values_come_in_order_each_once_and_then_the_result(reader: Reader) -> None:
    reader.part(0, "zero", "one")
    reader.part(1, "one", "two")
    reader.part(0, "zero")
    assert reader.takes(4) == ["zero", "one", "two", None]
    reader.part(3, last=True)
    assert reader.reads() == [m.Read(b"a", 7, 3, 3 + WINDOW, False)]
    reader.end("done", "result")
    assert reader.take() is END and reader.take() is END
    assert (reader.reading.result, reader.reading.restarts) == ("result", 0)
    assert reader.peer.said() == [], "nothing is to be cancelled, and nobody reads any more"


def test_more_is_granted_when_half_of_the_window_is_taken(reader: Reader) -> None:
    reader.part(0, *range(1, WINDOW + 1))
    assert reader.takes(WINDOW // 2 - 1) == [1, 2, 3]
    assert reader.reads() == []
    assert reader.take() == 4
    assert reader.reads() == [m.Read(b"a", 7, WINDOW, WINDOW + 4, False)]
    assert reader.takes(4) == [5, 6, 7, 8]
    assert reader.reads() == [m.Read(b"a", 7, WINDOW, 2 * WINDOW, False)]


def test_what_is_large_is_told_soon_and_kept_back_while_much_is_here(reader: Reader) -> None:
    large = bytes(MESSAGE_BYTES)
    reader.part(0, large)
    assert reader.reads() == [m.Read(b"a", 7, 1, WINDOW, False)]
    reader.part(1, large, large)
    assert reader.reads() == [m.Read(b"a", 7, 3, WINDOW, False)]
    reader.part(3, large, large)
    assert reader.reads() == [], "more than 1 MiB is here"
    assert reader.take() == large and reader.reads() == []
    assert reader.take() == large
    assert reader.reads() == [m.Read(b"a", 7, 5, 2 + WINDOW, False)]
    assert 3 * MESSAGE_BYTES <= STREAM_BYTES < 5 * MESSAGE_BYTES


def test_a_gap_is_asked_for_once(reader: Reader) -> None:
    reader.part(0, 1)
    reader.part(2, 3)
    reader.part(3, 4)
    assert reader.reads() == [m.Read(b"a", 7, 1, WINDOW, True)]
    reader.part(4, 5)
    assert reader.reads() == []
    reader.part(1, 2, 3, 4, 5)
    assert reader.takes(6) == [1, 2, 3, 4, 5, None]


def test_who_waits_for_long_says_again_what_it_has_and_so_does_a_new_connection(reader: Reader) -> None:
    reader.part(0, 1)
    reader.peer.now += READ_AGAIN_MS
    reader.peer.session.tick(reader.peer.now)
    assert reader.reads() == [], "there is something to take: more is not waited for"
    reader.take()
    reader.peer.now += 1000
    reader.peer.session.tick(reader.peer.now)
    assert reader.reads() == [m.Read(b"a", 7, 1, WINDOW + 1, True)]
    reader.peer.lose()
    assert [one for one in reader.peer.connect() if isinstance(one, m.Read)] == [m.Read(b"a", 7, 1, WINDOW + 1, True)]


def test_another_run_is_raised_between_its_values_and_those_before(reader: Reader) -> None:
    reader.part(0, 1, 2)
    reader.part(0, fence=9)
    assert reader.reads() == [m.Read(b"a", 9, 0, WINDOW - 3, False)], "what lies here counts"
    reader.part(2, 3)
    reader.part(0, 11, 12, fence=9)
    assert reader.takes(2) == [1, 2]
    with pytest.raises(StreamRestarted) as caught:
        reader.take()
    assert (caught.value.values, caught.value.restarts, reader.reading.restarts) == (2, 1, 1)
    assert reader.takes(3) == [11, 12, None]
    reader.end("done")
    assert reader.take() is END


def test_a_run_of_which_nothing_came_is_not_told(reader: Reader) -> None:
    reader.part(0, fence=8)
    reader.part(0, fence=9)
    reader.part(0, 1, fence=9)
    assert reader.takes(2) == [1, None] and reader.reading.restarts == 0


def test_restarts_may_be_passed_over() -> None:
    reader = Reader(on_restart="continue")
    reader.begin()
    reader.part(0, 1)
    reader.part(0, 1, 2, fence=9)
    assert reader.takes(3) == [1, 1, 2] and reader.reading.restarts == 1


@pytest.mark.parametrize(
    ("state", "cause", "kind"),
    [("dead", {"reason": "attempts"}, JobFailed), ("cancelled", {"reason": "unread"}, JobCancelled)],
)
def test_the_end_that_is_none_is_raised_after_the_values(
    reader: Reader, state: str, cause: Any, kind: type[Exception]
) -> None:
    reader.part(0, 1)
    reader.end(state, cause=cause)
    assert reader.take() == 1
    with pytest.raises(kind):
        reader.take()
    assert reader.take() is END


@pytest.mark.parametrize("lost", [False, True])
def test_after_the_end_no_more_is_asked_for_although_values_are_still_here(reader: Reader, lost: bool) -> None:
    reader.part(0, *range(1, WINDOW + 1))
    reader.end("dead", cause={"reason": "attempts"})
    said: list[m.Message] = []
    if lost:
        reader.peer.lose()
        said = reader.peer.connect()
    assert reader.takes(WINDOW) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert not [message for message in (*said, *reader.peer.said()) if isinstance(message, m.Read)]
    with pytest.raises(JobFailed):
        reader.take()


def test_a_value_that_does_not_come_in_time_cancels_the_job(reader: Reader) -> None:
    procedure = reader.reading.next(reader.peer.session, reader.peer.now)
    wait = advance(procedure)
    assert isinstance(wait, Wait) and wait.until_ms == reader.peer.now + 10_000
    reader.peer.said()
    reader.peer.now = wait.until_ms
    with pytest.raises(ResultTimeout, match="cancelled"):
        advance(procedure, reader.peer.now)
    said = reader.peer.said()
    assert [(one.verb, one.arguments) for one in said if isinstance(one, m.Order)] == [("cancel", {"id": b"a"})]
    assert m.Unwatch([b"a"]) in said + reader.peer.said()
    assert reader.take() is END


def test_who_leaves_cancels_the_job_and_only_once(reader: Reader) -> None:
    assert reader.reading.leave() and not reader.reading.leave()
    assert reader.peer.session.pending
    assert [type(one) for one in reader.peer.said()].count(m.Order) == 1
    reader.part(0, 1)
    assert reader.take() is END and reader.peer.session.faults == 0


def test_a_job_that_nobody_knows_is_left_so_that_it_does_not_wait_for_its_reader(reader: Reader) -> None:
    reader.end("unknown")
    with pytest.raises(ResultExpired):
        reader.take()
    assert [one.arguments for one in reader.peer.said() if isinstance(one, m.Order)] == [{"id": b"a"}]
    assert reader.take() is END


def test_the_brokers_refusal_is_raised(reader: Reader) -> None:
    reader.peer.hear(m.Failure(0, "invalid", "job a has another reader", {"id": "a"}))
    with pytest.raises(InvalidArgument, match="another reader"):
        reader.take()
    assert m.Unwatch([b"a"]) in reader.peer.said()
    assert reader.take() is END


def test_a_job_that_is_refused_is_not_read() -> None:
    reader = Reader()
    with pytest.raises(QueueClosed):
        reader.begin(m.Failure(1, "closed", "it is drained", {}))
    assert reader.peer.said() == [] and reader.take() is END


def test_who_is_interrupted_while_it_begins_leaves() -> None:
    reader = Reader()
    procedure = reader.reading.begin(reader.peer.session, reader.peer.now, 10_000)
    advance(procedure)
    (put,) = reader.peer.said()
    assert isinstance(put, m.Put)
    reader.peer.hear(m.Ok([put.number]))
    advance(procedure, reader.peer.now)
    procedure.close()
    assert [type(one) for one in reader.peer.said()].count(m.Order) == 1 and reader.take() is END


def test_a_stream_is_read_where_it_was_begun(reader: Reader) -> None:
    other = Peer()
    other.connect()
    with pytest.raises(ClosedError):
        advance(reader.reading.next(other.session, other.now))


def test_a_broker_out_of_reach() -> None:
    reader = Reader()
    reader.peer.lose()
    procedure = reader.reading.begin(reader.peer.session, reader.peer.now, 10_000)
    advance(procedure)
    reader.peer.now += 10_000
    with pytest.raises(BrokerUnreachable):
        advance(procedure, reader.peer.now)


@pytest.mark.parametrize(
    "given",
    [
        {"window": 0},
        {"window": 1001},
        {"on_restart": "ignore"},
        {"timeout": "soon"},
        {"options": {"unique": "u"}},
        {"options": {"stream": True}},
    ],
)
def test_what_cannot_be_said_of_a_stream(given: Any) -> None:
    with pytest.raises(InvalidArgument):
        Reader(**given)


def test_the_job_expires_with_the_patience_unless_it_says_otherwise() -> None:
    for given, ttl in (({"timeout": 3}, 3000), ({"timeout": 3, "options": {"ttl": "1h"}}, 3_600_000)):
        unsent = Reader(**given).reading._unsent
        assert unsent is not None and unsent.options["ttl"] == ttl
    unsent = Reader(timeout=None).reading._unsent
    assert unsent is not None and "ttl" not in unsent.options
