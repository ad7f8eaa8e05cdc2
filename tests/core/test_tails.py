"""Tails: what is published is told after its commit, as far as the reader allows; the rest is counted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from tests.core.topics import bind, follow, keep, log_of, publication, publish, refused, told
from zbroker import limits as broker_limits
from zclient.protocol import limits
from zclient.protocol import messages as m


def test_a_tail_is_told_what_it_takes_from_then_on() -> None:
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    publish(producer, publication("a.x", "0"))
    answer = follow(reader, 7, "a.*", ["n", "<", 5])
    assert answer == {"offset": 1, "position": 0, "octets": 0, "kept": False}
    sent = [("a.x", "1", 1), ("b.x", "2", 1), ("a.y", "3", 9), ("a.y", "4", 2)]
    publish(producer, *(publication(topic, name, headers={"n": n}) for topic, name, n in sent))
    (message,) = reader.take(m.Publications)
    assert (message.tail, message.position) == (7, 0)
    assert message.publications == [
        m.Told(0, "a.x", {"headers": {"n": 1}}, b"1", bench.wall, b"p"),
        m.Told(0, "a.y", {"headers": {"n": 2}}, b"4", bench.wall, b"p"),
    ]
    assert producer.take(m.Publications) == []


@pytest.mark.parametrize(("ends", "stored"), [("before commit", []), ("before send", ["1"])])
def test_nothing_is_told_before_its_commit(ends: str, stored: list[str]) -> None:
    """A publication whose commit was lost is told to nobody, and as a new one when it is sent again; else only the log
    tells it."""
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    keep(producer, "a")
    follow(reader, 1, "#")
    message = m.Publish(producer.next_number(), producer.number, [publication("a", "1")])
    bench.turn([(producer.route, message)], ends=ends)
    bench.crash()
    producer.connect()
    reader.connect()
    follow(reader, 1, "#")
    assert log_of(bench, "a") == stored
    assert told(reader) == []
    producer.send(message)
    assert [names for _, _, names in told(reader)] == ([] if stored else [["1"]])
    assert log_of(bench, "a") == ["1"]


def test_what_is_kept_has_its_offset_and_is_told_once() -> None:
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    keep(producer, "a")
    publish(producer, publication("a", "1"))
    answer = follow(reader, 1, "#")
    assert answer["kept"] is True
    for _ in range(2):
        publish(producer, publication("a", "2"), publication("b", "3"))
    (first, again) = reader.take(m.Publications)
    assert [(one.offset, one.id) for one in first.publications] == [(answer["offset"], b"2"), (0, b"3")]
    assert [one.id for one in again.publications] == [b"3"], "that the first is the same one the broker knows"


def test_a_reader_that_allows_no_more_misses_and_learns_how_many() -> None:
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    follow(reader, 1, "#", position=3)
    publish(producer, *(publication("a", str(n)) for n in range(5)))
    publish(producer, publication("a", "5"))
    assert told(reader) == [(1, 0, ["0", "1", "2"])]
    answer = follow(reader, 1, "#", position=8)
    assert (answer["position"], answer["octets"]) == (6, 3)
    publish(producer, *(publication("a", str(n)) for n in range(6, 10)))
    assert told(reader) == [(1, 6, ["6", "7"])]
    assert producer.ask("stats")["counters"]["untold"] == 5


def test_octets_are_allowed_as_well_and_the_one_that_crosses_is_told() -> None:
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    follow(reader, 1, "#", octets=15)
    publish(producer, *(publication("a", str(n), b"x" * 10) for n in range(4)))
    assert told(reader) == [(1, 0, ["0", "1"])]
    assert follow(reader, 1, "#", octets=25)["octets"] == 20
    publish(producer, publication("a", "4", b"x" * 10))
    assert told(reader) == [(1, 4, ["4"])]


def test_what_is_told_is_cut_into_messages() -> None:
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    follow(reader, 1, "#", octets=1 << 30)
    large = b"x" * (limits.MESSAGE_BYTES // 2)
    publish(producer, *(publication("a", str(n), large) for n in range(5)))
    assert told(reader) == [(1, 0, ["0", "1"]), (1, 2, ["2", "3"]), (1, 4, ["4"])]


def test_tails_end_when_told_and_with_their_connection() -> None:
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    for number in (1, 2):
        follow(reader, number, "#")
    number = reader.next_number()
    reader.send(m.Tail(number, 1, None, [], 0, 0))
    assert reader.value_of(number) == {}
    publish(producer, publication("a", "1"))
    assert told(reader) == [(2, 0, ["1"])]
    reader.connect()
    publish(producer, publication("a", "2"))
    assert told(reader) == []
    assert follow(reader, 2, "#")["position"] == 0
    reader.send(m.Goodbye())
    assert bench.core.state.topics.tails.size == 0
    publish(producer, publication("a", "3"))
    assert told(reader) == []


def test_tails_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_TAILS_PER_PEER", 2)
    monkeypatch.setattr(broker_limits, "MAX_TAILS", 3)
    bench = Bench()
    one, other = bench.producer("one"), bench.producer("other")
    follow(one, 1, "#")
    follow(one, 2, "#")

    def refusal(peer: Peer, tail: int, pattern: str = "#", *filters: Any) -> str:
        return peer.refused(m.Tail(peer.next_number(), tail, pattern, list(filters), 1, 1)).code

    assert refusal(one, 3) == "invalid"
    follow(other, 1, "#")
    assert refusal(other, 2) == "busy"
    follow(other, 1, "#", position=5)
    one.send(m.Tail(one.next_number(), 2, None, [], 0, 0))
    assert refusal(other, 2, "a..b") == "invalid"
    assert refusal(other, 2, "a", ["x", "~", 1]) == "invalid"
    assert refusal(other, 2, "a", ["x", "=", "y" * limits.MAX_HEADERS_BYTES]) == "too_large"
    follow(other, 2, "#")


def test_a_batch_for_very_many_tails_is_to_be_sent_in_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "TOLD_COPIES", 3)
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    bind(producer, "#", "q")
    for number in range(4):
        follow(reader, number, "#")
    number = producer.next_number()
    message = m.Publish(number, number, [publication("a", "1"), publication("a", "2")])
    assert producer.refused(message).code == "batch_too_large"
    assert publish(producer, publication("a", "1")) == [1]
    assert len(told(reader)) == 4


def test_where_too_much_would_be_looked_at_each_tail_learns_that_it_may_have_missed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    producer, reader = bench.producer(), bench.producer("reader")
    for number in range(3):
        follow(reader, number, "#.a.#")
    monkeypatch.setattr(broker_limits, "MATCH_STEPS", 2)
    assert publish(producer, publication("x.a", "1")) == [0]
    assert told(reader) == []
    monkeypatch.setattr(broker_limits, "MATCH_STEPS", 1000)
    publish(producer, publication("x.a", "2"))
    assert told(reader) == [(number, 1, ["2"]) for number in range(3)]
    assert producer.ask("stats")["counters"]["untold"] == 3


def test_patterns_of_kept_topics_that_would_take_too_long_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "#.a.#")
    monkeypatch.setattr(broker_limits, "MATCH_STEPS", 2)
    assert refused(producer, publication("x.a", "1")).code == "batch_too_large"
