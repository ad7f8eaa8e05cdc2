"""A second job with a unique text: which of the two is stored, what a full or resent PUT says, and replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from tests.core.unique_texts import instead, restart, taken
from zclient.protocol import messages as m


def ack(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.ack(worker.job()[1], "a")


def reject(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.reject(worker.job()[1], "a")


def moved(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"dead_to": "graves"})
    reject(bench, producer, worker)


# ---- what becomes of a second job


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("conflict", ["replace", "debounce"])
@pytest.mark.parametrize("options", [{}, {"delay": 5_000}])
def test_a_job_that_waits_gives_way(conflict: str, options: dict[str, Any], restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="x", **options)
    if restarted:
        restart(bench, producer)
    producer.send(m.Watch([b"a"]))
    assert instead(producer.put("q", "b", payload=b"new", unique="x", on_conflict=conflict)) == {}
    assert producer.ends() == {"a": ("cancelled", None, {"reason": "replaced", "by": b"b"})}
    assert producer.ask("show", id=b"a")["reason"] == "replaced"
    bench.advance(5_000)
    worker = bench.worker("w", "q", capacity=5)
    assert worker.ids() == ["b"]
    assert taken(bench) == {"q/x": "b"}
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
def test_replace_tells_a_job_that_runs_to_end(restarted: bool) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x")
    fence = worker.job()[1]
    assert instead(producer.put("q", "b", unique="x", on_conflict="replace")) == {}
    assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    if restarted:
        bench.crash()
        producer.connect()
        worker.connect([(fence, [b"a"], [])])
        assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    worker.nack(fence, "a")
    assert producer.ask("show", id=b"a")["state"] == "cancelled"
    assert worker.ids() == ["b"]
    assert taken(bench) == {"q/x": "b"}
    bench.check()


def test_debounce_lets_a_job_that_runs_go_on_and_keeps_the_last() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x", on_conflict="debounce", delay=1_000)
    for n in range(5):
        bench.advance(900)
        assert instead(producer.put("q", f"b{n}", unique="x", on_conflict="debounce", delay=1_000)) == {}
    bench.advance(1_000)
    identifier, fence = worker.job()
    assert identifier == "b4"
    assert instead(producer.put("q", "c", unique="x", on_conflict="debounce")) == {}
    assert not worker.take(m.Cancel)
    assert worker.ack(fence, "b4") == []
    assert producer.ask("show", id=b"b4")["state"] == "done"
    assert taken(bench) == {"q/x": "c"}, "its end does not free what is not its own"
    assert worker.ids() == ["c"]
    bench.check()


@pytest.mark.parametrize("conflict", ["replace", "debounce"])
@pytest.mark.parametrize("way", [ack, reject])
def test_the_text_of_a_job_that_is_over_is_taken_from_it(
    way: Callable[[Bench, Peer, Peer], None], conflict: str
) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x", unique_for=60_000)
    way(bench, producer, worker)
    before = producer.ask("show", id=b"a")["state"]
    assert instead(producer.put("q", "b", unique="x", on_conflict=conflict)) == {}
    assert producer.ask("show", id=b"a")["state"] == before
    assert taken(bench) == {"q/x": "b"}
    bench.advance(60_000)
    assert taken(bench) == {"q/x": "b"}, "the time of the first is not the second one's"
    bench.check()


@pytest.mark.parametrize("conflict", ["replace", "debounce"])
def test_a_job_that_went_to_the_dead_is_not_replaced_there(conflict: str) -> None:
    bench = Bench(policy={"max_jobs": 1})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x", unique_for=60_000)
    moved(bench, producer, worker)
    worker.send(m.Capacity(0))
    assert instead(producer.put("q", "b", unique="x", on_conflict=conflict)) == {}
    assert bench.counts("graves") == {"ready": 1} and bench.counts("q") == {"ready": 1}
    bench.check()


def test_a_job_that_is_back_in_its_queue_may_be_without_its_text() -> None:
    """Another took it while it ran, and is over: that is no fault of the rows."""
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x")
    _, fence = worker.job()
    worker.send(m.Capacity(0))
    producer.put("q", "b", unique="x", on_conflict="debounce")
    worker.release(fence, "a")
    producer.order("cancel", id=b"b")
    assert bench.counts("q") == {"ready": 1} and taken(bench) == {}
    bench.check()


# ---- what one PUT may carry


@pytest.mark.parametrize(("conflict", "stored"), [("existing", "a"), ("replace", "c"), ("debounce", "c")])
def test_of_many_ids_in_one_put_one_is_stored(conflict: str, stored: str) -> None:
    bench = Bench()
    producer = bench.producer()
    answer = producer.put("q", "a", "b", "c", unique="x", on_conflict=conflict)
    assert instead(answer) == {other: stored for other in "abc" if other != stored}
    answer = producer.put("q", "d", "e", unique="x", on_conflict=conflict)
    if conflict == "existing":
        assert instead(answer) == {"d": "a", "e": "a"}
    else:
        assert instead(answer) == {"d": "e"}
        assert producer.ask("show", id=b"c")["reason"] == "replaced"
    assert bench.counts("q") == {"ready": 1}
    bench.check()


def test_groups_of_one_put_are_judged_one_after_the_other() -> None:
    bench = Bench()
    producer = bench.producer()
    groups = [
        m.Group("q", {"unique": "x"}, [b"a", b"b"], [b"1", b"2"]),
        m.Group("q", {"unique": "x", "on_conflict": "replace"}, [b"c"], [b"3"]),
        m.Group("q", {"unique": "y"}, [b"d"], [b"4"]),
        m.Group("r", {"unique": "x"}, [b"e"], [b"5"]),
        m.Group("q", {}, [b"f"], [b"6"]),
        m.Group("q", {"unique": "y"}, [b"g"], [bytes(70_000)]),
    ]
    producer.send(m.Put(1, 1, groups))
    assert instead(producer.answer(1)) == {"b": "a", "g": "d"}
    assert taken(bench) == {"q/x": "c", "q/y": "d", "r/x": "e"}
    assert bench.counts("q") == {"ready": 3} and bench.counts("r") == {"ready": 1}
    assert producer.ask("show", id=b"a")["reason"] == "replaced"
    assert not list(bench.store.scan("payloads", b"", b"\xff"))
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
def test_the_answer_is_kept_for_a_resend(restarted: bool) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x", number=1)
    first = producer.put("q", "b", unique="x", number=2, low=1)
    assert instead(first) == {"b": "a"}
    worker.ack(worker.job()[1], "a")
    if restarted:
        restart(bench, producer, worker)
    assert instead(producer.put("q", "b", unique="x", number=2, low=1)) == {"b": "a"}, "though the text is free now"
    assert producer.put("q", "a", unique="x", number=1) == m.Ok([1])
    assert taken(bench) == {} and bench.counts("q") == {}
    bench.check()


@pytest.mark.parametrize("ends", ["before commit", "before send"])
def test_a_resend_after_a_crash_makes_exactly_one_job(ends: str) -> None:
    bench = Bench()
    producer, other = bench.producer(), bench.producer("other")
    put = m.Put(1, 1, [m.Group("q", {"unique": "x"}, [b"a"], [b"p"])])
    bench.turn([(producer.route, put)], ends=ends)
    restart(bench, producer, other)
    told = instead(other.put("q", "b", unique="x"))
    producer.send(put)
    answer = instead(producer.answer(1))
    assert (told, answer) == (({}, {"a": "b"}) if ends == "before commit" else ({"b": "a"}, {}))
    assert bench.counts("q") == {"ready": 1}
    bench.check()


def test_producers_in_one_turn_make_exactly_one_job() -> None:
    bench = Bench()
    producers = [bench.producer(f"p{n}") for n in range(5)]
    with bench.one_turn():
        for producer in producers:
            group = m.Group("q", {"unique": "x"}, [producer.name.encode()], [b"p"])
            producer.send(m.Put(1, 1, [group]))
    assert [instead(producer.answer(1)) for producer in producers] == [{}, *({f"p{n}": "p0"} for n in range(1, 5))]
    assert bench.counts("q") == {"ready": 1}
    bench.check()


def test_other_queues_are_not_concerned() -> None:
    bench = Bench()
    producer = bench.producer()
    for queue in ("q", "q2", "r"):
        assert instead(producer.put(queue, queue, unique="x")) == {}
    assert taken(bench) == {"q/x": "q", "q2/x": "q2", "r/x": "r"}
    bench.check()


def test_a_refused_put_takes_and_replaces_nothing() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="x")
    groups = [
        m.Group("q", {"unique": "x", "on_conflict": "replace"}, [b"b"], [b"p"]),
        m.Group("q", {"unique": ""}, [b"c"], [b"p"]),
    ]
    assert producer.refused(m.Put(9, 9, groups)).code == "invalid"
    assert taken(bench) == {"q/x": "a"} and bench.counts("q") == {"ready": 1}


@pytest.mark.parametrize("conflict", ["existing", "replace", "debounce"])
def test_a_full_queue_takes_what_needs_no_more_room(conflict: str) -> None:
    bench = Bench(policy={"max_jobs": 2})
    producer = bench.producer()
    producer.put("q", "a", unique="x")
    producer.put("q", "b")
    answer = producer.put("q", "c", unique="x", on_conflict=conflict)
    assert instead(answer) == ({"c": "a"} if conflict == "existing" else {})
    assert bench.counts("q") == {"ready": 2}
    put = m.Put(9, 9, [m.Group("q", {"unique": "y", "on_conflict": conflict}, [b"d"], [b"p"])])
    assert producer.refused(put).code == "queue_full"
    bench.check()


# ---- the same id again


def test_the_same_id_is_the_same_job_whatever_its_text_does() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    options = {"unique": "x", "unique_for": 5_000, "ttl": 9_000, "backoff": [5, 10], "backoff_jitter": 0.5}
    assert producer.put("q", "a", **options) == m.Ok([1])
    assert producer.put("q", "a", **options) == m.Ok([2])
    fence = worker.job()[1]
    assert producer.put("q", "a", **options) == m.Ok([3])
    worker.ack(fence, "a")
    assert producer.put("q", "a", **options) == m.Ok([4])
    assert bench.core.state.queues["q"].counts.totals["put"] == 1
    bench.check()


@pytest.mark.parametrize(
    "other",
    [
        {"unique": "y"},
        {"unique": "x", "unique_for": "waiting"},
        {"unique": "x", "on_conflict": "replace"},
        {"unique": "x", "ttl": 1},
        {"unique": "x", "backoff": [1]},
        {"unique": "x", "max_attempts": 2},
        {},
    ],
)
def test_another_job_under_the_same_id_is_refused(other: dict[str, Any]) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="x")
    failure = producer.refused(m.Put(9, 9, [m.Group("q", other, [b"a"], [b"p"])]))
    assert (failure.code, failure.details) == ("duplicate_id", {"id": "a"})
    assert taken(bench) == {"q/x": "a"}
    bench.check()


# ---- replay


def test_a_dead_job_whose_text_another_has_is_not_replayed() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    for identifier in ("a", "b"):
        producer.put("q", identifier, unique=identifier)
        worker.reject(worker.job()[1], identifier)
    worker.send(m.Capacity(0))
    producer.put("q", "a2", unique="a")
    failure = producer.refused(m.Order(producer.next_number(), 1, "replay", {"ids": [b"b", b"a"]}))
    assert (failure.code, failure.details) == ("conflict", {"id": "a2"})
    assert bench.counts("q") == {"ready": 1, "dead": 2}, "all or none"
    producer.order("replay", queue="q")
    assert bench.counts("q") == {"ready": 2, "dead": 1}, "the one that could not go is passed over"
    assert taken(bench) == {"q/a": "a2", "q/b": "b"}
    assert instead(producer.put("q", "b2", unique="b")) == {"b2": "b"}
    bench.check()


def test_two_dead_jobs_of_one_text_are_not_replayed_together() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    for identifier in ("a", "b"):
        producer.put("q", identifier, unique="x")
        worker.reject(worker.job()[1], identifier)
    failure = producer.refused(m.Order(producer.next_number(), 1, "replay", {"ids": [b"a", b"b"]}))
    assert (failure.code, failure.details) == ("conflict", {"id": "a"})
    assert bench.counts("q") == {"dead": 2}
    assert producer.order("replay", ids=[b"a", b"a"]) == {"replayed": 1}
    bench.check()


def test_a_dead_job_that_has_its_text_for_a_time_may_be_replayed_and_begins_that_time_anew() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x", unique_for=10_000)
    worker.reject(worker.job()[1], "a")
    bench.advance(9_000)
    producer.order("replay", ids=[b"a"])
    bench.advance(9_000)
    assert instead(producer.put("q", "b", unique="x")) == {"b": "a"}
    bench.advance(1_000)
    assert taken(bench) == {}
    bench.check()


def test_a_dropped_job_frees_nothing_that_is_another_ones() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="x")
    worker.reject(worker.job()[1], "a")
    producer.put("q", "b", unique="x")
    producer.order("drop", ids=[b"a"])
    assert taken(bench) == {"q/x": "b"}
    bench.check()
