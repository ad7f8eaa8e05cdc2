"""The longest run that a queue allows: counted from the delivery, whatever is renewed, and no loss."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zclient.protocol import messages as m


def running(*ids: str, capacity: int = 0, **policy: Any) -> tuple[Bench, Peer, Peer, int]:
    """A bench on which a worker runs these jobs: bench, producer, worker, fence."""
    bench = Bench(policy={"max_run_ms": 50_000, "backoff_jitter": 0.0, **policy})
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=capacity or len(ids))
    producer.put("q", *ids)
    return bench, producer, worker, worker.one(m.Deliver).fence


def live(bench: Bench, worker: Peer, fence: int, ms: int) -> None:
    """Time passes, and the worker renews."""
    for passed in range(0, ms, 5_000):
        bench.advance(min(5_000, ms - passed))
        worker.send(m.Renew([fence]))


def test_a_run_that_is_renewed_ends_at_its_time() -> None:
    bench, producer, worker, fence = running("a")
    live(bench, worker, fence, 49_999)
    assert not worker.take(m.Lost)
    bench.advance(1)
    assert worker.take(m.Lost) == [m.Lost([(fence, [b"a"])], "max_run")]
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["attempt"], row["losses"]) == ("scheduled", 1, 0)
    (attempt,) = row["attempts"]
    assert (attempt["kind"], attempt["error"]["type"]) == ("max_run", "max_run")
    assert row["due_at"] == bench.wall + 1_000, "it has its backoff, as after any failure"
    assert attempt["ended_ms"] - attempt["started_ms"] == 50_000
    assert worker.ack(fence, "a") == [(fence, b"a", "lost")]
    assert worker.nack(fence, "a") == [(fence, b"a", "lost")]
    bench.check()
    bench.advance(1_000)
    assert worker.one(m.Deliver).attempts == [2], "the worker is not taken for wedged"
    bench.check()


def test_an_extension_does_not_go_beyond_it() -> None:
    bench, producer, worker, fence = running("a")
    number = worker.next_number()
    worker.send(m.Extend(number, fence, b"a", 3_600_000))
    assert worker.answer(number) == m.Ok([number])
    assert producer.ask("show", id=b"a")["lease_ms"] == 50_000
    bench.advance(49_999)
    assert bench.counts("q") == {"leased": 1}
    bench.advance(1)
    assert producer.ask("show", id=b"a")["attempts"][0]["kind"] == "max_run"


def test_a_lease_that_ends_before_is_a_loss() -> None:
    bench, producer, _, _ = running("a")
    bench.advance(30_000)
    row = producer.ask("show", id=b"a")
    assert (row["attempts"][0]["kind"], row["losses"]) == ("lease expired", 1)


def test_a_job_that_always_takes_too_long_is_dead() -> None:
    bench, producer, worker, _ = running("a", max_attempts=2, lease_ms=100_000)
    bench.advance(51_000)
    bench.advance(50_000)
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["reason"], row["losses"]) == ("dead", "attempts", 0)
    assert [attempt["kind"] for attempt in row["attempts"]] == ["max_run", "max_run"]
    assert row["error"]["text"] == "it ran longer than the queue's max_run of 50 s"
    assert len(worker.take(m.Lost)) == 2
    bench.check()


@pytest.mark.parametrize("down_ms", [0, 10_000, 100_000])
def test_it_counts_over_a_restart_of_the_broker(down_ms: int) -> None:
    bench, producer, worker, fence = running("a")
    live(bench, worker, fence, 30_000)
    bench.wall += down_ms
    bench.crash()
    producer.connect()
    worker.connect([(fence, [b"a"], [])])
    left = max(0, 20_000 - down_ms)
    if left:
        live(bench, worker, fence, left - 1)
        assert bench.counts("q") == {"leased": 1} and not worker.take(m.Lost)
        bench.advance(1)
    assert worker.take(m.Lost) == [m.Lost([(fence, [b"a"])], "max_run")]
    assert producer.ask("show", id=b"a")["attempts"][0]["kind"] == "max_run"
    bench.check()


def test_a_worker_that_comes_back_too_late_for_it_is_told_at_once() -> None:
    bench, producer, worker, fence = running("a", lease_ms=30_000)
    live(bench, worker, fence, 49_000)
    bench.crash()
    producer.connect()
    bench.advance(3_000)  # its time is over, but it may still come back: until then nothing is held against it
    assert bench.counts("q") == {"leased": 1}
    worker.connect([(fence, [b"a"], [])])
    bench.advance(1)
    assert worker.take(m.Lost) == [m.Lost([(fence, [b"a"])], "max_run")]
    assert producer.ask("show", id=b"a")["attempts"][0]["kind"] == "max_run"
    bench.check()


def test_a_worker_that_does_not_come_back_after_a_restart_burns_nothing() -> None:
    bench, producer, worker, fence = running("a")
    live(bench, worker, fence, 48_000)
    bench.crash()
    producer.connect()
    bench.advance(5_000)
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["attempt"]) == ("ready", 0)
    bench.check()


def test_what_a_queue_says_later_holds_for_later_deliveries() -> None:
    bench, producer, worker, fence = running("a", "b", capacity=1, lease_ms=200_000)
    producer.order("set", queue="q", options={"max_run": 1_000})
    bench.advance(49_999)
    assert bench.counts("q") == {"leased": 1, "ready": 1}
    worker.ack(fence, "a")
    bench.advance(1_000)
    assert producer.ask("show", id=b"b")["attempts"][0]["kind"] == "max_run"
    producer.order("unset", queue="q", options=["max_run"])
    bench.check()


def test_of_a_large_delivery_all_that_still_run_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "STEP_ROWS", 10)
    bench, _, worker, fence = running(*(f"{n:03}" for n in range(200)), lease_ms=100_000)
    worker.ack(fence, *(f"{n:03}" for n in range(0, 200, 2)))
    bench.now += 50_000
    bench.wall += 50_000
    bench.turn([(worker.route, m.Renew([fence]))])
    bench.turn([(worker.route, m.Renew([fence]))])
    bench.settle_down()
    (lost,) = worker.take(m.Lost)
    assert (len(lost.leases[0][1]), lost.reason) == (100, "max_run")
    assert bench.counts("q") == {"scheduled": 100}
    bench.check()


def test_a_cancelled_run_that_takes_too_long_is_cancelled() -> None:
    bench, producer, worker, fence = running("a")
    producer.order("cancel", id=b"a")
    live(bench, worker, fence, 50_000)
    assert producer.ask("show", id=b"a")["state"] == "cancelled"
    bench.check()


def test_with_a_time_to_begin_that_is_over_it_is_expired() -> None:
    bench, producer, worker, fence = running("a", ttl_ms=10_000)
    live(bench, worker, fence, 50_000)
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["reason"], row["attempt"]) == ("dead", "expired", 1)
    bench.check()
