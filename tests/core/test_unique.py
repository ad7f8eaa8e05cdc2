"""Unique texts: at most one job of a queue has one, for as long as it says, and the answer tells which job that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from tests.core.unique_texts import instead, restart, taken
from zbroker import limits as broker_limits
from zclient.protocol import messages as m

# ---- until it is over


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("options", [{}, {"delay": 60_000}, {"key": "k", "priority": 2}])
def test_a_second_job_is_the_first_while_that_waits_or_runs(restarted: bool, options: dict[str, Any]) -> None:
    bench = Bench()
    producer = bench.producer()
    assert instead(producer.put("q", "a", unique="x", **options)) == {}
    if restarted:
        restart(bench, producer)
    assert instead(producer.put("q", "b", unique="x")) == {"b": "a"}
    bench.advance(60_000)
    worker = bench.worker("w", "q")
    fence = worker.job()[1]
    assert instead(producer.put("q", "c", unique="x")) == {"c": "a"}
    worker.snooze(fence, "a", delay=1_000)
    assert instead(producer.put("q", "d", unique="x")) == {"d": "a"}
    bench.advance(1_000)
    worker.ack(worker.job()[1], "a")
    assert instead(producer.put("q", "e", unique="x")) == {}
    assert worker.ids() == ["e"]
    bench.check()


def ack(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.ack(worker.job()[1], "a")


def reject(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.reject(worker.job()[1], "a")


def attempts(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.nack(worker.job()[1], "a", delay=0)
    worker.nack(worker.job()[1], "a", delay=0)


def lost(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"delivery": "at_most_once"})
    worker.release(worker.job()[1], "a")


def cancelled(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("cancel", id=b"a")


def cancelled_while_it_ran(bench: Bench, producer: Peer, worker: Peer) -> None:
    fence = worker.job()[1]
    producer.order("cancel", id=b"a")
    worker.release(fence, "a")


def expired(bench: Bench, producer: Peer, worker: Peer) -> None:
    bench.advance(10_000)


def expired_in_backoff(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.nack(worker.job()[1], "a", delay=20_000)
    bench.advance(10_000)


def expired_and_dropped(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"on_expiry": "drop"})
    bench.advance(10_000)


def expired_and_dropped_when_it_came_back(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"on_expiry": "drop"})
    fence = worker.job()[1]
    bench.advance(10_000)
    worker.nack(fence, "a")


def moved(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"dead_to": "graves"})
    reject(bench, producer, worker)


def purged(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("purge", queue="q")


RUNNING = (
    ack,
    reject,
    attempts,
    lost,
    cancelled_while_it_ran,
    expired_in_backoff,
    expired_and_dropped_when_it_came_back,
    moved,
)
WAITING = (cancelled, expired, expired_and_dropped, purged)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", [*RUNNING, *WAITING])
def test_the_text_is_free_when_the_job_is_over(way: Callable[[Bench, Peer, Peer], None], restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="x", ttl=10_000, max_attempts=2)
    worker = bench.worker("w", "q", capacity=1 if way in RUNNING else 0)
    way(bench, producer, worker)
    assert taken(bench) == {}
    if restarted:
        restart(bench, producer)
    assert instead(producer.put("q", "b", unique="x")) == {}
    assert taken(bench) == {"q/x": "b"}
    bench.check()


@pytest.mark.parametrize("conflict", ["existing", "replace", "debounce"])
def test_what_a_purge_made_void_has_no_text_before_it_is_swept(monkeypatch: pytest.MonkeyPatch, conflict: str) -> None:
    monkeypatch.setattr(broker_limits, "STEP_ROWS", 1)
    monkeypatch.setattr(broker_limits, "TURN_STEPS", 1)
    bench = Bench()
    producer = bench.producer()
    for n in range(20):
        producer.put("q", f"old{n}", unique=f"x{n}")
    producer.send(m.Watch([b"old19"]))
    one, two = producer.next_number(), producer.next_number()
    put = m.Put(two, one, [m.Group("q", {"unique": "x19", "on_conflict": conflict}, [b"new"], [b"p"])])
    bench.turn([(producer.route, m.Order(one, one, "purge", {"queue": "q"})), (producer.route, put)])
    assert instead(producer.answer(two)) == {}
    restart(bench, producer)
    bench.settle_down()
    assert taken(bench) == {"q/x19": "new"}
    assert bench.counts("q") == {"ready": 1}
    assert instead(producer.put("q", "late", unique="x19")) == {"late": "new"}
    bench.check()


def test_a_void_job_whose_id_is_used_again_takes_its_text_along() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="x")
    with bench.one_turn():
        producer.send(
            m.Order(50, 50, "purge", {"queue": "q"}),
            m.Put(51, 51, [m.Group("q", {}, [b"a"], [b"p"])]),
            m.Put(52, 51, [m.Group("q", {"unique": "x"}, [b"b"], [b"p"])]),
        )
    assert producer.one(m.Ok) == m.Ok([51, 52])
    assert bench.counts("q") == {"ready": 2}
    assert taken(bench) == {"q/x": "b"}
    bench.check()


# ---- until it is delivered


@pytest.mark.parametrize("restarted", [False, True])
def test_while_waiting_the_text_is_free_with_the_delivery(restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="x", unique_for="waiting")
    assert instead(producer.put("q", "b", unique="x", unique_for="waiting")) == {"b": "a"}
    worker = bench.worker("w", "q")
    fence = worker.job()[1]
    assert taken(bench) == {}
    if restarted:
        bench.crash()
        producer.connect()
        worker.connect([(fence, [b"a"], [])])
    assert instead(producer.put("q", "c", unique="x", unique_for="waiting")) == {}
    worker.send(m.Capacity(0))
    worker.release(fence, "a")  # it waits again, and the text is not its own any more
    assert instead(producer.put("q", "d", unique="x", unique_for="waiting")) == {"d": "c"}
    worker.send(m.Capacity(2))
    for identifier, fence in worker.jobs():
        worker.ack(fence, identifier)
    assert taken(bench) == {}
    bench.check()


# ---- for a time


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", [None, ack, reject, moved])
def test_for_a_time_the_text_outlives_the_job(way: Callable[[Bench, Peer, Peer], None] | None, restarted: bool) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=1 if way else 0)
    producer.put("q", "a", unique="x", unique_for=9_000)
    if way is not None:
        way(bench, producer, worker)
    if restarted:
        restart(bench, producer)
    bench.advance(8_999)
    assert instead(producer.put("q", "b", unique="x", unique_for=9_000)) == {"b": "a"}
    bench.advance(1)
    assert taken(bench) == {}
    assert not list(bench.store.scan("timers", b"", b"\xff"))
    assert instead(producer.put("q", "c", unique="x", unique_for=9_000)) == {}
    bench.check()


@pytest.mark.parametrize("way", WAITING)
def test_for_a_time_a_job_that_never_ran_leaves_its_text(way: Callable[[Bench, Peer, Peer], None]) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=0)
    producer.put("q", "a", unique="x", unique_for=100_000, ttl=10_000)
    way(bench, producer, worker)
    assert instead(producer.put("q", "b", unique="x", unique_for=100_000)) == {}
    bench.advance(90_000)
    assert instead(producer.put("q", "c", unique="x")) == {"c": "b"}, "the first one's time is not the second one's"
    bench.advance(10_000)
    assert taken(bench) == {}
    bench.check()


def test_a_time_that_is_over_while_the_job_waits_frees_the_text() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="x", unique_for=1_000, delay=5_000)
    bench.advance(1_000)
    assert instead(producer.put("q", "b", unique="x")) == {}
    assert bench.counts("q") == {"scheduled": 1, "ready": 1}
    bench.advance(4_000)
    worker = bench.worker("w", "q", capacity=2)
    for identifier, fence in worker.jobs():
        worker.ack(fence, identifier)
    assert taken(bench) == {}
    bench.check()


def test_times_that_end_while_the_broker_is_down_are_over_at_once() -> None:
    bench = Bench()
    producer = bench.producer()
    for n in range(300):
        producer.put("q", f"a{n}", unique=f"x{n}", unique_for=1_000 + n % 2)
    bench.wall += 1_000
    restart(bench, producer)
    assert len(taken(bench)) == 150
    assert instead(producer.put("q", "b", unique="x0")) == {}
    assert instead(producer.put("q", "c", unique="x1")) == {"c": "a1"}
    bench.check()
