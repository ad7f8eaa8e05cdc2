"""Publishing: a copy for each bound queue, once, all of them in one commit or none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench
from tests.core.topics import (
    bind,
    copies_in,
    copy_id,
    order_refused,
    publication,
    publish,
    refused,
)
from zbroker import limits as broker_limits
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.protocol.codec import MalformedMessage, decode, encode
from zclient.protocol.record import header_of


def test_each_bound_queue_gets_a_copy_of_its_own() -> None:
    bench = Bench()
    producer = bench.producer()
    bind(producer, "orders.*.created", "mail")
    bind(producer, "orders.#", "audit")
    bind(producer, "orders.eu.*", "audit")  # both bindings take it: one copy
    bind(producer, "users.#", "others")
    assert publish(producer, publication("orders.eu.created", "1", headers={"n": 7}, priority=3)) == [2]
    assert [copies_in(bench, queue) for queue in ("mail", "audit", "others")] == [["1"], ["1"], []]
    worker = bench.worker("w", "mail", capacity=5)
    delivery = worker.one(m.Deliver)
    assert delivery.ids == [copy_id(b"1", "mail")]
    assert header_of(delivery.records[0]).options == {
        "priority": 3,
        "headers": {"n": 7, "topic": "orders.eu.created"},
    }
    worker.ack(delivery.fence, delivery.ids[0].decode())
    assert [copies_in(bench, queue) for queue in ("mail", "audit")] == [[], ["1"]], "each has its own life"
    bench.check()


def test_no_binding_is_no_error_and_is_counted() -> None:
    bench = Bench()
    producer = bench.producer()
    assert publish(producer, publication("a", "1"), publication("b", "2")) == [0, 0]
    bind(producer, "b", "q")
    assert publish(producer, publication("a", "3"), publication("b", "4")) == [0, 1]
    counters = producer.ask("stats")["counters"]
    assert (counters["published"], counters["unrouted"]) == (4, 3)


def test_filters_decide_by_headers_and_are_replaced() -> None:
    bench = Bench()
    producer = bench.producer()
    bind(producer, "a", "q", ["amount", ">=", 10], ["region", "in", ["eu", "us"]])
    sent = [
        {"amount": 10, "region": "eu"},
        {"amount": "10.5", "region": "us"},
        {"amount": 9, "region": "eu"},
        {"amount": 11},
    ]
    assert publish(producer, *(publication("a", str(n), headers=one) for n, one in enumerate(sent))) == [1, 1, 0, 0]
    bind(producer, "a", "q", ["region", "absent", None])
    assert publish(producer, *(publication("a", f"x{n}", headers=one) for n, one in enumerate(sent))) == [0, 0, 0, 1]
    told = producer.ask("bindings")
    assert [row["filters"] for row in told["bindings"]] == [[["region", "absent", None]]]
    bench.crash()
    assert publish(bench.producer("p2"), publication("a", "y", headers={"amount": 11})) == [1]


# ---- once


def test_the_same_number_and_the_same_id_are_the_same_publication() -> None:
    bench = Bench()
    producer = bench.producer()
    bind(producer, "a", "q")
    number = producer.next_number()
    message = m.Publish(number, number, [publication("a", "1"), publication("none", "2")])
    producer.send(message)
    assert producer.value_of(number) == {"queues": [1, 0]}
    bind(bench.producer("other"), "none", "q")
    producer.send(message)
    assert producer.value_of(number) == {"queues": [1, 0]}, "the answer of the first time"
    assert publish(producer, publication("a", "1")) == [1]
    assert copies_in(bench, "q") == ["1"]
    worker = bench.worker("w", "q")
    job, fence = worker.job()
    worker.ack(fence, job)
    assert publish(producer, publication("a", "1")) == [1], "also when it is done"
    assert copies_in(bench, "q") == []
    failure = refused(producer, publication("a", "1", b"another"))
    assert failure.code == "duplicate_id"


@pytest.mark.parametrize("ends", ["before commit", "before send", ""])
def test_a_crash_loses_no_answered_publication_and_doubles_none(ends: str) -> None:
    bench = Bench()
    producer = bench.producer()
    bind(producer, "#", "q")
    bind(producer, "a", "r")
    message = m.Publish(9, 9, [publication("a", "1", b"x" * limits.LARGE_BYTES)])
    bench.turn([(producer.route, message)], ends=ends)
    bench.crash()
    producer.inbox.clear()
    assert copies_in(bench, "q") == copies_in(bench, "r") == ([] if ends == "before commit" else ["1"])
    producer.connect()
    producer.send(message)
    assert producer.value_of(9) == {"queues": [2]}
    assert copies_in(bench, "q") == copies_in(bench, "r") == ["1"]
    bench.check()


# ---- all or none


def test_one_refusal_refuses_the_whole() -> None:
    bench = Bench()
    producer = bench.producer()
    for queue in ("a1", "a2", "a3"):
        bind(producer, "a", queue)
    producer.order("set", queue="a2", options={"max_jobs": 1})
    assert publish(producer, publication("a", "1")) == [3]
    failure = refused(producer, publication("a", "2"), publication("b", "3"))
    assert (failure.code, failure.details) == ("queue_full", {"retry_after_ms": 200})
    assert [copies_in(bench, queue) for queue in ("a1", "a2", "a3")] == [["1"]] * 3
    producer.order("unset", queue="a2", options=["max_jobs"])
    producer.order("drain", queue="a3")
    assert refused(producer, publication("a", "2")).code == "closed"
    producer.order("resume", queue="a3")
    bench.core.set_disk_low(True)
    assert refused(producer, publication("none", "2")).code == "disk_full"
    bench.core.set_disk_low(False)
    assert publish(producer, publication("a", "2")) == [3]
    bench.check()


@pytest.mark.parametrize(
    ("publications", "code"),
    [
        ([publication("a.*", "1")], "invalid"),
        ([publication("", "1")], "invalid"),
        ([publication("a", "1"), publication("b", "1")], "invalid"),
        ([publication("a", "i" * 41)], "invalid"),
        ([publication("a", "1", unique="x")], "invalid"),
        ([publication("a", "1", after=[b"x"])], "invalid"),
        ([publication("a", "1", nonsense=1)], "invalid"),
        ([publication("a", "1", priority=1000)], "invalid"),
        ([publication("a", "1", headers={"topic": "x"})], "invalid"),
        ([publication("a", "1", headers={"x": "y" * limits.MAX_HEADERS_BYTES})], "too_large"),
        ([publication("a", "1", b"x" * (limits.MAX_PAYLOAD_BYTES + 1))], "too_large"),
    ],
)
def test_what_cannot_be_published_is_refused_whether_anybody_takes_it_or_not(
    publications: list[m.Publication], code: str
) -> None:
    bench = Bench()
    producer = bench.producer()
    for _ in range(2):
        assert refused(producer, publication("b", "first"), *publications).code == code
        bind(producer, "#", "q")
    assert copies_in(bench, "q") == []


def test_the_longest_topic_and_headers_fit_into_a_copy() -> None:
    bench = Bench()
    producer = bench.producer()
    bind(producer, "#", "q" * limits.MAX_NAME_CHARS)
    topic = "t" * limits.MAX_TOPIC_CHARS
    headers = {"x": "y" * (limits.MAX_HEADERS_BYTES - limits.MAX_TOPIC_CHARS - 20)}
    assert publish(producer, publication(topic, "i" * limits.MAX_PUBLICATION_ID_BYTES, headers=headers)) == [1]


def test_what_one_message_may_copy_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    producer = bench.producer()
    for n in range(3):
        bind(producer, "a", f"q{n}")
    monkeypatch.setattr(limits, "MAX_COPIES", 5)
    told = refused(producer, publication("a", "1"), publication("a", "2"))
    assert (told.code, told.text.partition(": ")[2]) == (
        "batch_too_large",
        "at most 5 copies are made at once, of 64 MiB together",
    )
    assert publish(producer, publication("a", "1")) == [3]
    monkeypatch.setattr(limits, "MAX_COPY_BYTES", 250)
    assert refused(producer, publication("a", "2", b"x" * 100)).code == "batch_too_large"
    monkeypatch.setattr(broker_limits, "MATCH_STEPS", 2)
    assert refused(producer, publication("a", "3")).code == "batch_too_large"


# ---- bindings


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"pattern": "a..b"}, "invalid"),
        ({"pattern": 7}, "invalid"),
        ({"filters": [["x", "~", 1]]}, "invalid"),
        ({"filters": [["x", "=", "y" * limits.MAX_HEADERS_BYTES]]}, "too_large"),
        ({"queue": "mmi.x"}, "invalid"),
        ({"queue": 7}, "invalid"),
        ({"start": -1}, "invalid"),
        ({"start": "beginning"}, "invalid"),
    ],
)
def test_what_cannot_be_bound(arguments: dict[str, Any], code: str) -> None:
    bench = Bench()
    producer = bench.producer()
    told = {"pattern": "a", "queue": "q", "filters": []} | arguments
    assert order_refused(producer, "bind", **told).code == code
    assert producer.ask("bindings") == {"bindings": [], "cursor": None}
    assert "q" not in bench.core.state.queues


def test_binding_makes_the_queue_and_unbinding_leaves_its_jobs() -> None:
    bench = Bench()
    producer = bench.producer()
    told = bind(producer, "a.*", "q")
    assert told == {
        "pattern": "a.*",
        "queue": "q",
        "filters": [],
        "created_at": bench.wall,
        "backfilling": False,
    }
    assert [row["queue"] for row in producer.ask("queues")] == ["q"]
    publish(producer, publication("a.b", "1"))
    assert producer.order("unbind", pattern="a.*", queue="q") == told
    assert publish(producer, publication("a.b", "2")) == [0]
    assert copies_in(bench, "q") == ["1"]
    assert order_refused(producer, "unbind", pattern="a.*", queue="q").code == "not_found"
    assert order_refused(producer, "unbind", pattern="a.*", queue="other").code == "not_found"


def test_bindings_are_listed_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    producer = bench.producer()
    monkeypatch.setattr(broker_limits, "MAX_BINDINGS", 200)
    for n in range(200):
        bind(producer, f"a.{n:03}", "even" if n % 2 == 0 else "odd")
    assert order_refused(producer, "bind", pattern="b", queue="q").code == "invalid"
    found, cursor = [], b""
    while cursor is not None:
        told = producer.ask("bindings", queue="odd", limit=30, cursor=cursor)
        assert len(told["bindings"]) <= 30
        found += [row["pattern"] for row in told["bindings"]]
        cursor = told["cursor"]
    assert found == [f"a.{n:03}" for n in range(1, 200, 2)]
    bench.crash()
    assert publish(bench.producer("p2"), publication("a.007", "1")) == [1]
    assert bench.core.state.topics.bindings.size == 200


# ---- frames


def test_large_payloads_are_frames_of_their_own() -> None:
    large = b"x" * limits.LARGE_BYTES
    told = m.Publish(1, 1, [publication("a", "1", large), publication("b", "2")])
    frames = encode(told)
    assert [len(frame) for frame in frames[1:]] == [len(large)]
    assert decode(frames) == told
    back = m.Publications(3, 9, [m.Told(4, "a", {"priority": 1}, b"1", 5, large), m.Told(0, "b", {}, b"2", 6, b"p")])
    assert decode(encode(back)) == back


@pytest.mark.parametrize(
    "fields",
    [
        [14, 1, 1, []],
        [14, 1, 1, [["a", {}, b"", b"p"]]],
        [14, 1, 1, [["a", {}, b"1", 5]]],
        [14, 1, 1, [["a", [], b"1", b"p"]]],
        [14, 1, 1, [["a", {}, b"1"]]],
        [15, 1, 1, 7, [], 1, 1],
        [15, 1, 1, "a", {}, 1, 1],
        [15, 1, 1, "a", [], -1, 1],
    ],
)
def test_what_is_no_publish_and_no_tail(fields: list[Any]) -> None:
    import msgpack

    with pytest.raises(MalformedMessage) as caught:
        decode([msgpack.packb(fields)])
    assert caught.value.number == 1
