"""Jobs that wait for a time: due at their time, in slices, over restarts, and whatever the wall clock does."""

from __future__ import annotations

import pytest

from tests.core.harness import Bench
from zbroker import limits as broker_limits
from zclient.protocol import messages as m

DAY = 24 * 3_600_000


@pytest.mark.parametrize("restarted", [False, True])
def test_a_delayed_job_becomes_ready_at_its_time_and_no_sooner(restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", delay=5000)
    producer.put("q", "b", at=bench.wall + 4000)
    if restarted:
        bench.crash()
    bench.advance(3_999)
    assert bench.counts("q") == {"scheduled": 2}
    bench.advance(1)
    assert bench.counts("q") == {"scheduled": 1, "ready": 1}
    bench.advance(1_000)
    worker = bench.worker("w", "q", capacity=5)
    assert worker.ids() == ["b", "a"], "they line up as they become ready"
    bench.check()


def test_a_time_that_is_past_is_now() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", at=bench.wall - 1)
    producer.put("q", "b", at=0)
    producer.put("q", "c", delay=0)
    assert bench.counts("q") == {"ready": 3}


def test_what_fell_due_while_the_broker_was_down_is_due_now() -> None:
    bench = Bench()
    bench.producer().put("q", *(f"{n}" for n in range(600)), delay=1000)
    bench.wall += DAY
    bench.crash()
    assert bench.counts("q") == {"ready": 600}
    assert bench.worker("w", "q", capacity=1000).ids() == [f"{n}" for n in range(600)]
    bench.check()


def test_many_at_once_become_ready_in_slices_in_the_order_of_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "TURN_TIMERS", 100)
    bench = Bench()
    producer = bench.producer()
    for n in reversed(range(5)):
        producer.put("q", *(f"{n}-{i:03}" for i in range(300)), delay=1000 + n)
    bench.now += 2000
    bench.wall += 2000
    bench.turn()
    assert 100 <= bench.counts("q")["ready"] < 400
    assert bench.core.wanted_in() == 0
    bench.settle_down()
    worker = bench.worker("w", "q", capacity=2000)
    assert worker.ids() == [f"{n}-{i:03}" for n in range(5) for i in range(300)]
    bench.check()


def test_the_core_wants_its_turn_when_the_first_is_due() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "later", delay=700)
    producer.put("q", "sooner", delay=300)
    producer.put("q", "soonest", delay=20)
    assert bench.core.wanted_in() == 20
    bench.advance(20)
    assert bench.core.wanted_in() == 280


def test_a_job_keeps_its_priority_and_key_while_it_waits() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a1", "a2", key="a", delay=10)
    producer.put("q", "b1", "b2", key="b", delay=10)
    producer.put("q", "high", priority=1, delay=10)
    bench.advance(10)
    assert bench.worker("w", "q", capacity=9).ids() == ["high", "a1", "b1", "a2", "b2"]
    bench.check()


def test_a_snoozed_job_returns_to_its_place() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", "b", "c")
    worker.snooze(worker.job()[1], "a", delay=500)
    identifier, fence = worker.job()
    bench.advance(500)
    worker.ack(fence, identifier)
    assert worker.job()[0] == "a"
    bench.check()


def test_a_time_row_that_counts_no_more_is_skipped() -> None:
    bench = Bench(keep_done_count=0)
    producer = bench.producer()
    producer.put("q", "a", "b", delay=1000)
    producer.order("cancel", id=b"a")
    producer.put("q", "a")
    bench.advance(1000)
    assert bench.worker("w", "q", capacity=5).ids() == ["a", "b"]
    assert not list(bench.store.scan("timers", b"", b"\xff"))
    bench.check()


# ---- clocks that jump


def test_the_wall_clock_jumps_forward() -> None:
    bench = Bench(policy={"keep_done_ms": 10 * DAY})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "held", "waits")
    producer.put("q", "later", delay=DAY)
    bench.advance(0, wall_ms=2 * DAY)
    assert bench.counts("q") == {"leased": 1, "ready": 2}, "leases are not of the wall clock"
    bench.advance(29_000)
    assert bench.counts("q") == {"leased": 1, "ready": 2} and not worker.take(m.Lost)
    bench.check()


def test_the_wall_clock_jumps_back_and_nothing_fires_twice_or_never() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "early", delay=1000)
    producer.put("q", "late", delay=60_000)
    bench.advance(1000)
    identifier, fence = worker.job()
    assert identifier == "early"
    bench.advance(0, wall_ms=-DAY)
    bench.advance(10_000)
    assert bench.counts("q") == {"leased": 1, "scheduled": 1}
    worker.nack(fence, "early", delay=500)
    bench.advance(500)
    worker.ack(worker.job()[1], "early")
    bench.advance(0, wall_ms=DAY)
    bench.advance(60_000 - 11_500)
    assert worker.job()[0] == "late"
    bench.check()


def test_leases_run_on_the_monotonic_clock_when_the_wall_clock_goes_back() -> None:
    bench = Bench()
    producer = bench.producer()
    bench.worker("w", "q")
    producer.put("q", "a")
    bench.advance(0, wall_ms=-DAY)
    bench.advance(29_999)
    assert bench.counts("q") == {"leased": 1}
    bench.advance(1)
    assert bench.counts("q") == {"ready": 1}
    bench.check()
