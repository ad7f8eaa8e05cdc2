"""A tail by hand: what the session says and hears, and what `tail` makes of it. No socket, no broker."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.client.conversation import Peer
from zclient import tails
from zclient.errors import BrokerUnreachable, InvalidArgument, ProtocolFault
from zclient.protocol import messages as m
from zclient.tailing import LOOK_AGAIN_MS, Tailing
from zclient.tails import WINDOW, WINDOW_BYTES
from zclient.verbs import End, advance

PAYLOAD = b"\x01"


def told(offset: int, name: str = "") -> m.Told:
    return m.Told(offset, "a", {}, (name or str(offset)).encode(), 5, PAYLOAD)


class Reader:
    """One who follows `a`, and a peer that the test plays the broker for."""

    def __init__(self, since_ms: int | None = None, patience_ms: float = math.inf) -> None:
        self.peer = Peer()
        self.peer.connect()
        self.tailing = Tailing("a", [], since_ms, patience_ms, 1000.0)
        self.steps: Any = None
        self.step: Any = None
        self.said: list[m.Message] = []

    def begin(self, offset: int = 10, kept: bool = True) -> m.Tail:
        """Ask for a publication, and answer the TAIL that follows; it."""
        self.go()
        asked = self.tail()
        self.answer(asked, offset, kept=kept)
        return asked

    def go(self) -> Any:
        """Ask for the next, or let what was asked go on; the publication if it is there, else None."""
        if self.steps is None:
            self.steps = self.tailing.next(self.peer.session, self.peer.now)
            self.step = advance(self.steps)
        else:
            self.step = advance(self.steps, self.peer.now)
        while not isinstance(self.step, End) and (
            self.step.until_ms <= self.peer.now or any(request.done for request in self.step.requests)
        ):
            self.step = advance(self.steps, self.peer.now)
        if isinstance(self.step, End):
            self.steps = None
            return self.step.value
        return None

    def tail(self) -> m.Tail:
        return self._said(m.Tail)

    def tail_anew(self) -> m.Tail:
        """The TAIL that begins, of what was said since."""
        self.said += self.peer.said()
        found = next(message for message in self.said if isinstance(message, m.Tail) and message.pattern)
        self.said.clear()
        return found

    def answer(self, asked: m.Tail, offset: int, position: int = 0, octets: int = 0, kept: bool = True) -> None:
        value = {"offset": offset, "position": position, "octets": octets, "kept": kept}
        self.peer.hear(m.Answer(asked.number, value))

    def page(
        self, *rows: m.Told, following: int | None = None, forgotten: bool = False, removed: int = 0
    ) -> dict[str, Any]:
        """Answer the question for what is kept; its arguments."""
        asked = self._said(m.Ask)
        publications = [list(row) for row in rows]
        value = {"publications": publications, "next": following, "forgotten": forgotten, "removed": removed}
        self.peer.hear(m.Answer(asked.number, value))
        return asked.arguments

    def _said(self, kind: type[Any]) -> Any:
        """The one message of a kind that was said and not looked at yet."""
        self.said += self.peer.said()
        (found,) = [message for message in self.said if isinstance(message, kind)]
        self.said.remove(found)
        return found

    def hear(self, asked: m.Tail, position: int, *rows: m.Told) -> None:
        self.peer.hear(m.Publications(asked.tail, position, list(rows)))


def test_live_only() -> None:
    reader = Reader()
    asked = reader.begin()
    assert asked == m.Tail(asked.number, 1, "a", [], WINDOW, WINDOW_BYTES)
    assert reader.go() is None
    reader.hear(asked, 0, told(0, "x"), told(10))
    one, other = reader.go(), reader.go()
    assert (one.id, one.offset, one.missed, other.id, other.offset) == ("x", None, 0, "10", 10)


def test_what_is_kept_comes_first_and_what_came_live_meanwhile_comes_once() -> None:
    reader = Reader(since_ms=0)
    asked = reader.begin(offset=4)
    assert reader.go() is None
    reader.hear(asked, 0, told(4))
    assert reader.page(told(1), told(2), following=3)["until"] == 4
    seen = [reader.go(), reader.go()]
    assert reader.go() is None
    assert reader.page(told(3))["start"] == 3
    seen += [reader.go(), reader.go()]
    assert [one.offset for one in seen] == [1, 2, 3, 4]


def test_a_gap_is_read_from_what_is_kept_and_the_rest_is_told_as_missed() -> None:
    reader = Reader()
    asked = reader.begin(offset=10)
    reader.hear(asked, 0, told(10))
    assert reader.go().offset == 10
    reader.hear(asked, 4, told(14))  # three did not arrive
    assert reader.go() is None
    assert reader.page(told(11), told(13))["start"] == 11
    seen = [reader.go(), reader.go(), reader.go()]
    assert [(one.offset, one.missed) for one in seen] == [(11, 0), (13, 0), (14, 1)]


def test_a_gap_of_what_nobody_keeps_is_told() -> None:
    reader = Reader()
    asked = reader.begin(kept=False)
    reader.hear(asked, 0, told(0, "x"))
    reader.hear(asked, 7, told(0, "y"))
    assert (reader.go().missed, reader.go().missed) == (0, 6)


def test_what_the_connection_lost_shows_when_the_broker_is_asked_where_it_stands() -> None:
    reader = Reader()
    asked = reader.begin(offset=10)
    reader.go()
    reader.peer.now += LOOK_AGAIN_MS
    reader.go()
    again = reader.tail()
    assert (again.tail, again.position) == (asked.tail, WINDOW)
    reader.answer(again, offset=12, position=2, octets=500)
    assert reader.go() is None
    assert reader.page(told(10), told(11)) == {"pattern": "a", "filters": [], "start": 10, "since": 0, "until": 12}
    assert [reader.go().offset, reader.go().offset] == [10, 11]
    assert reader.tail().octets == WINDOW_BYTES + 500, "what was told and lost is allowed anew"


def test_more_is_allowed_when_half_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "WINDOW", 4)
    reader = Reader()
    asked = reader.begin()
    reader.hear(asked, 0, *(told(10 + n) for n in range(4)))
    assert [reader.go().offset for _ in range(2)] == [10, 11]
    assert reader.peer.said() == []
    assert reader.go().offset == 12
    assert reader.tail().position == 7


@pytest.mark.parametrize("kept", [True, False])
def test_another_connection_begins_another_tail_even_where_an_answer_was_under_way(kept: bool) -> None:
    reader = Reader()
    asked = reader.begin(offset=10, kept=kept)
    reader.hear(asked, 0, told(10 if kept else 0, "x"))
    assert reader.go().id == "x"
    assert reader.go() is None
    reader.peer.now += LOOK_AGAIN_MS
    reader.go()
    under_way = reader.tail()
    reader.peer.lose()
    again = [message for message in reader.peer.connect() if isinstance(message, m.Tail)]
    assert [message.number for message in again] == [under_way.number]
    reader.answer(again[0], offset=20, kept=kept)  # it is of a tail that began anew, at the broker alone
    assert reader.go() is None
    left, fresh = [message for message in reader.peer.said() if isinstance(message, m.Tail)]
    if left.pattern is not None:
        left, fresh = fresh, left
    assert (left.tail, left.pattern) == (asked.tail, None)
    assert (fresh.tail, fresh.position) == (asked.tail + 1, WINDOW)
    reader.hear(asked, 0, told(19))  # nobody listens there any more
    reader.answer(fresh, offset=20, kept=kept)
    assert reader.go() is None
    if kept:
        assert reader.page(told(12))["start"] == 11
        assert [(one.offset, one.missed) for one in [reader.go()]] == [(12, 0)]
    reader.go()
    reader.hear(fresh, 0, told(20))
    one = reader.go()
    assert (one.offset, one.missed) == (20, 0 if kept else None)


def test_what_was_asked_without_a_connection_does_not_hide_that_another_one_came() -> None:
    reader = Reader()
    asked = reader.begin(offset=10)
    reader.go()
    reader.peer.lose()
    reader.peer.now += LOOK_AGAIN_MS
    reader.go()  # it would look whether all has arrived
    reader.peer.connect()
    assert reader.go() is None
    fresh = reader.tail_anew()
    assert fresh.tail == asked.tail + 1
    reader.answer(fresh, offset=12)
    assert reader.go() is None
    assert reader.page(told(10), told(11))["start"] == 10
    assert [reader.go().offset, reader.go().offset] == [10, 11]


def test_a_connection_that_is_lost_before_the_first_answer() -> None:
    reader = Reader(since_ms=0)
    reader.go()
    asked = reader.tail()
    reader.peer.lose()
    (again,) = [message for message in reader.peer.connect() if isinstance(message, m.Tail)]
    assert again.number == asked.number
    reader.answer(again, offset=5)
    reader.hear(again, 0, told(5, "live"))  # what is kept comes before it
    assert reader.go() is None
    fresh = reader.tail_anew()
    reader.answer(fresh, offset=6)
    assert reader.go() is None
    assert reader.page(told(5))["start"] == 1
    assert reader.go().missed == 0


def test_what_came_before_somebody_kept_it_may_be_missing() -> None:
    reader = Reader()
    reader.begin(offset=10, kept=False)
    reader.go()
    reader.peer.lose()
    reader.peer.connect()
    reader.go()
    reader.answer(reader.tail_anew(), offset=12, kept=True)
    reader.go()
    reader.page(told(11))
    assert reader.go().missed is None


@pytest.mark.parametrize(("first", "second", "missed"), [(True, True, None), (False, True, None), (True, False, 0)])
def test_what_was_forgotten_while_it_was_read_is_a_gap(first: bool, second: bool, missed: int | None) -> None:
    reader = Reader(since_ms=0)
    reader.begin(offset=9)
    reader.go()
    reader.page(told(1), following=2, forgotten=first)
    assert reader.go().missed == 0
    reader.go()
    reader.page(told(7), forgotten=second)
    assert reader.go().missed == missed


def test_what_was_removed_after_it_began_is_a_gap_and_told_once() -> None:
    reader = Reader(since_ms=0)
    reader.begin(offset=9)
    reader.go()
    reader.page(told(1), following=2, removed=8)
    assert reader.go().missed == 0, "that was gone when it began"
    reader.go()
    reader.page(told(3), following=4, removed=20)
    assert reader.go().missed is None
    reader.go()
    reader.page(told(5), removed=20)
    assert reader.go().missed == 0


@pytest.mark.parametrize(("last", "missed"), [(11, 0), (12, None), (13, None)])
def test_what_was_removed_while_the_connection_was_gone_is_a_gap(last: int, missed: int | None) -> None:
    reader = Reader()
    asked = reader.begin(offset=10)
    reader.hear(asked, 0, told(10), told(11))
    assert [reader.go().offset, reader.go().offset] == [10, 11]
    reader.go()
    reader.peer.lose()
    reader.peer.connect()
    reader.go()
    reader.answer(reader.tail_anew(), offset=20)
    reader.go()
    reader.page(told(15), removed=last)
    assert reader.go().missed == missed


def test_it_ends_when_nothing_came_for_so_long() -> None:
    reader = Reader(patience_ms=300.0)
    reader.begin()
    assert reader.go() is None and reader.steps is not None
    reader.peer.now += 300
    assert reader.go() is None and reader.steps is None


def test_a_broker_that_is_not_there_or_refuses_is_said() -> None:
    reader = Reader()
    reader.peer.lose()
    reader.go()
    reader.peer.now += 1000
    with pytest.raises(BrokerUnreachable):
        reader.go()
    reader = Reader()
    reader.go()
    reader.peer.hear(m.Failure(reader.tail().number, "invalid", "no such pattern", {}))
    with pytest.raises(InvalidArgument):
        reader.go()


@pytest.mark.parametrize("value", [None, {}, {"offset": "x", "kept": 1, "position": 0, "octets": 0}])
def test_an_answer_that_cannot_be_read_is_said(value: Any) -> None:
    reader = Reader()
    reader.go()
    reader.peer.hear(m.Answer(reader.tail().number, value))
    with pytest.raises(ProtocolFault):
        reader.go()
