"""Kept topics: what stays, in which order, for how long, and how a new binding gets it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from tests.core.topics import (
    HOUR,
    MINUTE,
    SECOND,
    bind,
    copies_in,
    keep,
    log_of,
    order_refused,
    page,
    publication,
    publish,
    refused,
)
from zbroker import limits as broker_limits
from zclient.protocol import limits
from zclient.protocol import messages as m


def ids(found: list[tuple[int, str]]) -> list[str]:
    return [identifier for _, identifier in found]


def test_what_is_published_under_a_kept_pattern_stays_in_order() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a.#")
    keep(producer, "*.x")
    assert publish(producer, publication("a.x", "1"), publication("b.y", "2"), publication("b.x", "3")) == [0, 0, 0]
    publish(producer, publication("a", "4", headers={"n": 5}))
    assert ids(page(producer)) == ["1", "3", "4"]
    assert ids(page(producer, "b.#")) == ["3"]
    assert ids(page(producer, "#", filters=[["n", "=", 5]])) == ["4"]
    offsets = [offset for offset, _ in page(producer)]
    assert offsets == sorted(set(offsets))
    assert (log_of(bench, "a.#"), log_of(bench, "*.x")) == (["1", "4"], ["1", "3"])
    bench.crash()
    producer = bench.producer("p2")
    publish(producer, publication("a", "5"))
    assert ids(page(producer)) == ["1", "3", "4", "5"]
    assert [(row["pattern"], row["publications"]) for row in producer.ask("kept_topics")] == [("*.x", 2), ("a.#", 3)]
    bench.check()


def test_a_publication_that_is_sent_again_is_kept_once() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a")
    for _ in range(3):
        publish(producer, publication("a", "1"))
    keep(producer, "#")
    publish(producer, publication("a", "1"))
    assert ids(page(producer)) == ["1"]
    assert refused(producer, publication("a", "1", b"another")).code == "duplicate_id"
    bind(producer, "a", "q")
    assert publish(producer, publication("a", "1")) == [1], "a queue that was bound since gets its copy"
    bench.check()


def test_a_page_is_bounded_and_says_where_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "#")
    for n in range(150):
        publish(producer, publication("a" if n % 3 else "b", f"{n:03}"))
    told = producer.ask("publications", pattern="b", limit=7)
    assert [row[3] for row in told["publications"]] == [b"%03d" % n for n in range(0, 21, 3)]
    assert ids(page(producer, "b", limit=7)) == [f"{n:03}" for n in range(0, 150, 3)]
    first, last = told["publications"][2][0], told["publications"][5][0]
    assert ids(page(producer, "b", start=first, until=last)) == ["006", "009", "012"]
    monkeypatch.setattr(broker_limits, "PAGE_LOOKED", 20)
    told = producer.ask("publications", pattern="none")
    assert (told["publications"], told["next"]) == ([], 22)
    publish(producer, *(publication("large", f"l{n}", b"x" * (limits.MESSAGE_BYTES - 1)) for n in range(3)))
    told = producer.ask("publications", pattern="large", start=150)
    assert len(told["publications"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [{"pattern": "."}, {"start": -1}, {"since": "x"}, {"until": 1.5}, {"limit": 0}, {"limit": 1001}, {"filters": [1]}],
)
def test_pages_that_cannot_be(arguments: dict[str, Any]) -> None:
    producer = Bench().producer()
    number = producer.next_number()
    assert producer.refused(m.Ask(number, "publications", {"pattern": "#"} | arguments)).code == "invalid"


# ---- for how long


def test_what_is_too_old_is_forgotten() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a", keep_ms=HOUR)
    for n in range(5):
        publish(producer, publication("a", str(n)))
        bench.advance(20 * MINUTE)
    assert log_of(bench, "a") == ["3", "4"], "the third is an hour old now"
    bench.advance(HOUR - 1)
    assert log_of(bench, "a") == []
    assert not list(bench.store.scan("topics", b"i", b"j"))
    assert not list(bench.store.scan("timers", b"", b"\xff"))
    publish(producer, publication("a", "9"))
    bench.crash()
    bench.advance(HOUR + SECOND)
    assert log_of(bench, "a") == []
    bench.check()


def test_what_is_too_much_is_forgotten_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "TRIM_ROWS", 3)
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a", keep_ms=0, keep_bytes=1 << 20)
    for n in range(30):
        publish(producer, publication("a", f"{n:02}", b"x" * 1000))
    assert len(log_of(bench, "a")) == 30
    keep(producer, "a", keep_ms=0, keep_bytes=5500)
    bench.advance(100)
    assert log_of(bench, "a") == ["25", "26", "27", "28", "29"]
    for n in range(30, 40):
        publish(producer, publication("a", f"{n:02}", b"x" * 1000))
    assert log_of(bench, "a") == ["35", "36", "37", "38", "39"]
    (row,) = producer.ask("kept_topics")
    size = sum(len(value) for _, value in bench.store.scan("topics", b"l", b"m"))
    assert (row["publications"], row["bytes"]) == (5, size)
    told = producer.ask("publications", pattern="a", start=2)
    assert told["forgotten"] is True
    assert producer.ask("publications", pattern="a", start=told["publications"][0][0])["forgotten"] is False
    bench.check()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a kept topic is read in many turns."""
    monkeypatch.setattr(broker_limits, "STEP_ROWS", 2)
    monkeypatch.setattr(broker_limits, "TURN_STEPS", 1)


def page_while(bench: Bench, producer: Peer, asked: dict[str, Any], verb: str, **arguments: Any) -> Any:
    """The page that is asked for so, if this order comes when the first slice of it is read."""
    number, order = producer.next_number(), producer.next_number()
    bench.turn([(producer.route, m.Ask(number, "publications", asked))])
    bench.turn([(producer.route, m.Order(order, order, verb, arguments))])
    bench.settle_down()
    return producer.value_of(number)


@pytest.mark.usefixtures("small_slices")
def test_a_page_ends_where_something_was_forgotten_before_it_was_read() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a")
    for n in range(1, 9):
        publish(producer, publication("a", str(n)))
    told = page_while(bench, producer, {"pattern": "a", "start": 1}, "keep_topic", pattern="a", keep_bytes=60)
    following = producer.ask("publications", pattern="a", start=told["next"])
    assert told["forgotten"] is False and len(told["publications"]) < 8
    assert following["forgotten"] is True and following["publications"][0][0] > told["next"]


def test_one_that_is_larger_than_all_that_is_kept_is_not_kept() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a", keep_ms=0, keep_bytes=100)
    bind(producer, "a", "q")
    assert publish(producer, publication("a", "1", b"x" * 200)) == [1]
    assert (log_of(bench, "a"), copies_in(bench, "q")) == ([], ["1"])
    bench.check()


def test_forgetting_a_topic_and_keeping_it_again_begins_anew() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a")
    keep(producer, "b")
    publish(producer, publication("a", "1"), publication("b", "2"))
    assert producer.order("forget_topic", pattern="a")["publications"] == 1
    assert ids(page(producer)) == ["2"]
    assert order_refused(producer, "forget_topic", pattern="a").code == "not_found"
    keep(producer, "a")
    publish(producer, publication("a", "1"))
    assert ids(page(producer)) == ["2", "1"]
    bench.crash()
    assert ids(page(bench.producer("p2"))) == ["2", "1"]
    bench.check()


@pytest.mark.usefixtures("small_slices")
def test_a_page_tells_where_something_was_removed_last() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a")
    keep(producer, "*")
    for n in range(1, 5):
        publish(producer, publication("a", str(n)))
    told = page_while(bench, producer, {"pattern": "a"}, "forget_topic", pattern="a")
    assert (told["removed"], len(told["publications"])) == (0, 2), "the next one tells what is gone meanwhile"
    last = told["publications"][1][0]
    following = producer.ask("publications", pattern="a", start=told["next"])
    assert following["removed"] > last + 2 and following["forgotten"] is False
    bench.crash()
    producer = bench.producer("p2")
    assert producer.ask("publications", pattern="a")["removed"] == following["removed"]
    publish(producer, publication("a", "5"))
    told = producer.ask("publications", pattern="a", start=following["removed"])
    assert [row[3] for row in told["publications"]] == [b"5"]
    assert told["publications"][0][0] > following["removed"]
    bench.check()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep_ms": -1},
        {"keep_ms": "1d"},
        {"keep_bytes": -1, "keep_ms": 1},
        {"keep_ms": limits.MAX_DELAY_MS + 1},
        {"keep_ms": 1, "pattern": "a..b"},
    ],
)
def test_what_cannot_be_kept(arguments: dict[str, Any]) -> None:
    bench = Bench()
    producer = bench.producer()
    assert order_refused(producer, "keep_topic", **({"pattern": "a"} | arguments)).code == "invalid"
    assert producer.ask("kept_topics") == []


def test_kept_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "MAX_KEPT_TOPICS", 2)
    producer = Bench().producer()
    keep(producer, "a")
    keep(producer, "b")
    keep(producer, "b", keep_ms=5000)
    assert order_refused(producer, "keep_topic", pattern="c", keep_ms=1).code == "invalid"


# ---- backfills


def test_a_new_binding_may_begin_before_it_was_made() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "a.#")
    keep(producer, "#.eu")
    for n, topic in enumerate(("a.eu", "a.us", "b.eu", "b.us")):
        publish(producer, publication(topic, str(n), headers={"n": n}))
        bench.advance(MINUTE)
    told = bind(producer, "#", "all", start=0)
    assert told["backfilling"] is True
    bind(producer, "a.*", "some", ["n", ">=", 1], start=0)
    bind(producer, "#", "late", start=bench.wall - 2 * MINUTE)
    bind(producer, "#", "now")
    bench.settle_down()
    assert copies_in(bench, "all") == ["0", "1", "2"], "the last one nobody kept"
    assert (copies_in(bench, "some"), copies_in(bench, "late"), copies_in(bench, "now")) == (["1"], ["2"], [])
    assert publish(producer, publication("a.eu", "5", headers={"n": 5})) == [4]
    assert not any(row["backfilling"] for row in producer.ask("bindings")["bindings"])
    bench.check()


def test_a_backfill_goes_on_after_a_crash_and_doubles_nothing() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "#")
    for n in range(0, 600, 100):
        publish(producer, *(publication("a", f"{k:03}") for k in range(n, n + 100)))
    order = m.Order(
        producer.next_number(), producer.number, "bind", {"pattern": "a", "queue": "q", "filters": [], "start": 0}
    )
    bench.turn([(producer.route, order)])
    bench.turn(ends="before send")
    assert 0 < len(copies_in(bench, "q")) < 600
    bench.crash()
    producer = bench.producer("p2")
    publish(producer, publication("a", "600"))
    bench.settle_down()
    assert copies_in(bench, "q") == [f"{n:03}" for n in range(601)]
    bind(producer, "a", "q", start=0)
    bench.settle_down()
    assert len(copies_in(bench, "q")) == 601
    bench.check()


def test_a_backfill_waits_for_a_full_queue_and_ends_with_its_binding() -> None:
    bench = Bench(policy={"lease_ms": HOUR})
    producer = bench.producer()
    keep(producer, "#")
    for n in range(10):
        publish(producer, publication("a", str(n)))
    producer.order("set", queue="q", options={"max_jobs": 4})
    bind(producer, "a", "q", start=0)
    bench.advance(5 * SECOND)
    assert len(copies_in(bench, "q")) == 4
    worker = bench.worker("w", "q", capacity=3)
    bench.advance(SECOND)
    assert len(copies_in(bench, "q")) == 7
    producer.order("unbind", pattern="a", queue="q")
    bench.advance(SECOND)
    worker.send(m.Capacity(100))
    bench.advance(SECOND)
    assert len(worker.jobs()) == 7
    assert [notice.event for notice in bench.notices].count("backfill finished") == 1
    assert not list(bench.store.scan("meta", b"work/", b"work0"))
    bench.check()


def test_a_backfill_passes_over_what_can_never_come() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "#")
    for n, size in enumerate((10, 1000, 10)):
        publish(producer, publication("a", str(n), b"x" * size))
    producer.order("set", queue="q", options={"max_bytes": 500})
    bind(producer, "a", "q", start=0)
    bench.advance(SECOND)
    assert copies_in(bench, "q") == ["0", "2"]
    assert [notice.facts["reason"] for notice in bench.notices if notice.event == "backfill skipped"] == ["queue_full"]


def test_a_binding_that_is_made_again_begins_another_backfill() -> None:
    bench = Bench()
    producer = bench.producer()
    keep(producer, "#")
    for n in range(100):
        publish(producer, publication("a" if n % 2 else "b", f"{n:02}", headers={"n": n}))
    with bench.one_turn():
        for number, filters in ((501, [["n", "<", 10]]), (502, [["n", ">=", 90]])):
            told = {"pattern": "a", "queue": "q", "filters": filters, "start": 0}
            producer.send(m.Order(number, 501, "bind", told))
    bench.settle_down()
    assert copies_in(bench, "q") == [f"{n}" for n in range(91, 100, 2)]
    assert not list(bench.store.scan("meta", b"work/", b"work0"))
