"""Jobs that must begin by a time: expired while they wait, wherever they wait, and never delivered after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zbroker.core import rows
from zclient.protocol import messages as m

DAY = 24 * 3_600_000
EXPIRED = {"reason": "expired", "error": {}, "attempts": 0}


def ended(producer: Peer, identifier: str) -> tuple[Any, Any, int]:
    """State, reason, attempts."""
    row = producer.ask("show", id=identifier.encode())
    return row["state"], row.get("reason"), row["attempt"]


def restart(bench: Bench, *peers: Peer) -> None:
    bench.crash()
    for peer in peers:
        peer.connect()


# ---- from when, and whose word counts


@pytest.mark.parametrize("restarted", [False, True])
def test_a_job_that_was_not_begun_in_its_time_is_dead(restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", "b", ttl=1000)
    producer.put("q", "c")
    assert producer.ask("show", id=b"a")["expires_at"] == bench.wall + 1000
    if restarted:
        restart(bench, producer)
    producer.send(m.Watch([b"a"]))
    bench.advance(999)
    assert bench.counts("q") == {"ready": 3}
    bench.advance(1)
    assert bench.counts("q") == {"ready": 1, "dead": 2}
    assert producer.ends() == {"a": ("dead", None, EXPIRED)}
    assert ended(producer, "b") == ("dead", "expired", 0)
    assert bench.worker("w", "q", capacity=5).ids() == ["c"]
    bench.check()


def test_the_time_counts_from_when_it_may_first_run() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "delayed", delay=5000, ttl=100)
    producer.put("q", "at", at=bench.wall + 7000, ttl=100)
    producer.put("q", "past", at=bench.wall - 7000, ttl=100)
    due = {
        name: producer.ask("show", id=name.encode())["expires_at"] - bench.wall for name in ("delayed", "at", "past")
    }
    assert due == {"delayed": 5100, "at": 7100, "past": 100}
    bench.advance(5099)
    assert bench.counts("q") == {"ready": 1, "scheduled": 1, "dead": 1}
    bench.advance(1)
    assert bench.counts("q") == {"scheduled": 1, "dead": 2}
    bench.advance(2000)
    assert bench.counts("q") == {"dead": 3}
    bench.check()


def test_the_job_has_the_last_word_and_0_says_never() -> None:
    bench = Bench(policy={"ttl_ms": 500})
    producer = bench.producer()
    producer.order("set", queue="r", options={"ttl": 1000})
    for queue in ("q", "r"):
        producer.put(queue, f"{queue}-own", ttl=2000)
        producer.put(queue, f"{queue}-never", ttl=0)
        producer.put(queue, f"{queue}-plain")
        producer.put(queue, f"{queue}-later", delay=250)
    bench.advance(500)
    assert bench.counts("q") == {"ready": 3, "dead": 1} and bench.counts("r") == {"ready": 4}
    bench.advance(500)
    assert bench.counts("q") == {"ready": 2, "dead": 2} and bench.counts("r") == {"ready": 3, "dead": 1}
    bench.advance(DAY)
    assert bench.worker("w", "q", "r", capacity=9).ids() == ["q-never", "r-never"]
    bench.check()


def test_a_queue_that_says_another_time_says_it_of_new_jobs() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.order("set", queue="q", options={"ttl": 1000})
    producer.put("q", "before")
    producer.order("set", queue="q", options={"ttl": 10})
    producer.put("q", "between")
    producer.order("unset", queue="q", options=["ttl"])
    producer.put("q", "after")
    bench.advance(10)
    assert ended(producer, "between")[1] == "expired"
    bench.advance(DAY)
    assert bench.worker("w", "q", capacity=9).ids() == ["after"]
    bench.check()


# ---- wherever it waits


def backoff(bench: Bench, worker: Peer) -> None:
    worker.nack(worker.job()[1], "a", delay=5000)


def snoozed(bench: Bench, worker: Peer) -> None:
    worker.snooze(worker.job()[1], "a", delay=5000)


def suspect(bench: Bench, worker: Peer) -> None:
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.advance(1_100)


def released(bench: Bench, worker: Peer) -> None:
    fence = worker.job()[1]
    worker.send(m.Capacity(0))
    worker.release(fence, "a")


@pytest.mark.parametrize("key_limit", [0, 1])
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("wait", "runs"), [(backoff, 1), (snoozed, 0), (suspect, 1), (released, 0)])
def test_it_expires_wherever_it_waits(
    wait: Callable[[Bench, Peer], None], runs: int, restarted: bool, key_limit: int
) -> None:
    bench = Bench(policy={"key_limit": key_limit})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", ttl=3000)
    wait(bench, worker)
    if restarted:
        restart(bench, producer)
    bench.advance(3000)
    assert bench.counts("q") == {"dead": 1}
    assert ended(producer, "a") == ("dead", "expired", runs)
    bench.check()
    worker.send(m.Capacity(0))
    producer.put("q", "next")
    assert bench.worker("v", "q").ids() == ["next"], "it left nothing behind that others wait for"
    bench.advance(5000)
    bench.check()


@pytest.mark.parametrize(
    ("outcome", "value", "runs"),
    [
        (m.Outcome.NACK, {}, 1),
        (m.Outcome.RELEASE, None, 0),
        (m.Outcome.RELEASE, True, 0),
        (m.Outcome.SNOOZE, 10, 0),
        (None, None, 1),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_running_job_is_left_alone_until_it_would_come_back(
    outcome: m.Outcome | None, value: Any, runs: int, restarted: bool
) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", ttl=1000)
    fence = worker.job()[1]
    bench.advance(2000)
    if restarted:
        bench.crash()
        producer.connect()
        worker.connect([(fence, [b"a"], [])])
        bench.advance(2000)
    assert bench.counts("q") == {"leased": 1}
    if outcome is None:
        bench.advance(30_000)
    else:
        assert worker.settle(outcome, fence, "a", values=[value]) == []
        assert worker.settle(outcome, fence, "a", values=[value]) == [], "repeated, it is answered as the first time"
    assert bench.counts("q") == {"dead": 1}
    assert ended(producer, "a") == ("dead", "expired", runs)
    bench.check()


def test_a_running_job_that_is_done_late_is_done_and_a_rejected_one_rejected() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b", ttl=1000)
    fence = worker.one(m.Deliver).fence
    bench.advance(5000)
    worker.ack(fence, "a")
    worker.reject(fence, "b")
    assert ended(producer, "a")[0] == "done"
    assert ended(producer, "b")[:2] == ("dead", "rejected")
    bench.check()


# ---- dropped instead


@pytest.mark.parametrize("restarted", [False, True])
def test_a_queue_may_drop_what_expired(restarted: bool) -> None:
    bench = Bench(policy={"on_expiry": "drop"})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "running", "waits", ttl=1000)
    producer.put("q", "large", payload=bytes(70_000), ttl=1000)
    producer.put("q", "delayed", delay=500, ttl=500)
    producer.put("q", "stays")
    fence = worker.job()[1]
    if restarted:
        bench.crash()
        producer.connect()
        worker.connect([(fence, [b"running"], [])])
    producer.send(m.Watch([b"running", b"waits"]))
    bench.advance(1000)
    assert producer.ends() == {"waits": ("dead", None, {"reason": "expired"})}
    assert bench.counts("q") == {"leased": 1, "ready": 1}
    worker.nack(fence, "running", delay=10)
    assert producer.ends() == {"running": ("dead", None, {"reason": "expired"})}
    assert worker.job()[0] == "stays"
    assert bench.core.state.queues["q"].counts.totals["dropped"] == 4
    for space in ("changes", "payloads", "dead", "timers"):
        assert not list(bench.store.scan(space, b"", b"\xff")), space
    assert producer.refused(m.Ask(99, "show", {"id": b"waits"})).code == "not_found"
    assert worker.nack(fence, "running") == [(fence, b"running", "unknown")]
    bench.check()


# ---- replay


def test_a_replayed_job_runs_whenever_that_is() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", ttl=1000)
    bench.advance(1000)
    producer.order("replay", ids=[b"a"])
    restart(bench, producer)
    assert producer.ask("show", id=b"a")["expires_at"] is None
    bench.advance(DAY)
    worker = bench.worker("w", "q")
    worker.nack(worker.job()[1], "a", delay=20_000)
    bench.advance(20_000)
    worker.ack(worker.job()[1], "a")
    assert ended(producer, "a")[0] == "done"
    bench.check()


def test_a_job_that_was_replayed_before_its_time_does_not_expire_then() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", ttl=1000)
    fence = worker.job()[1]
    worker.send(m.Capacity(0))
    worker.reject(fence, "a")
    producer.order("replay", ids=[b"a"])
    bench.advance(2000)
    assert bench.counts("q") == {"ready": 1}
    bench.check()


# ---- many


def test_thousands_expire_over_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "TURN_TIMERS", 300)
    bench = Bench()
    producer = bench.producer()
    for start in range(0, 4000, 1000):
        producer.put("q", *(f"{n:05}" for n in range(start, start + 1000)), ttl=1000)
    bench.now += 1000
    bench.wall += 1000
    bench.turn()
    assert 100 <= bench.counts("q")["dead"] < 400
    bench.turn(ends="before commit")
    bench.crash()
    bench.settle_down()
    assert bench.counts("q") == {"dead": 4000}
    assert not list(bench.store.scan("timers", b"", b"\xff"))
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("wait", [None, released, suspect])
def test_what_expired_is_not_delivered_while_its_timer_waits_for_its_turn(
    monkeypatch: pytest.MonkeyPatch, restarted: bool, wait: Callable[[Bench, Peer], None] | None
) -> None:
    monkeypatch.setattr(broker_limits, "TURN_TIMERS", 10)
    bench = Bench(policy={"max_attempts": 100})
    producer = bench.producer()
    producer.put("q", "a", ttl=4000)
    if wait is not None:
        wait(bench, bench.worker("w", "q"))
    for n in range(20):
        producer.put("r", *(f"{n}-{i}" for i in range(10)), ttl=1000)
    producer.put("q", "b")
    if restarted:
        restart(bench, producer)
    worker = Peer(bench, "late", ("q",), 5)
    worker.route = bench.new_route(worker)
    bench.now += 5000
    bench.wall += 5000
    # One turn: far more timers are due than it fires, and a worker asks for jobs.
    bench.turn([(worker.route, m.Hello(1, worker.incarnation, "late", 5, ["q"], [], 0, {}))])
    assert bench.counts("r")["ready"] > 0
    assert worker.ids() == ["b"]
    bench.check()
    bench.settle_down()
    assert ended(producer, "a")[:2] == ("dead", "expired")
    assert worker.ids() == []
    bench.check()


def test_what_fell_due_and_expired_while_the_broker_was_down_is_dead() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", "b", delay=1000, ttl=1000)
    producer.put("q", "c", delay=1000, ttl=DAY)
    bench.wall += 5000
    restart(bench, producer)
    assert bench.counts("q") == {"ready": 1, "dead": 2}
    assert bench.worker("w", "q", capacity=5).ids() == ["c"]
    bench.check()


# ---- clocks that jump


def test_a_clock_that_jumps_forward_expires_what_waits_and_not_what_runs() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "runs", "waits", ttl=1000)
    fence = worker.job()[1]
    bench.advance(0, wall_ms=DAY)
    assert bench.counts("q") == {"leased": 1, "dead": 1}
    worker.ack(fence, "runs")
    assert ended(producer, "runs")[0] == "done"
    bench.check()


def test_what_expired_stays_dead_when_the_clock_jumps_back() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", ttl=1000)
    producer.put("q", "b")
    bench.advance(1000)
    bench.advance(0, wall_ms=-DAY)
    worker = bench.worker("w", "q", capacity=5)
    assert worker.ids() == ["b"]
    producer.order("replay", ids=[b"a"])
    assert worker.ids() == ["a"]
    restart(bench, producer)
    bench.check()
    assert bench.counts("q") == {"leased": 2}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", ["release", "nack", "snooze", "lost"])
def test_what_outlived_its_time_and_comes_back_after_the_clock_was_set_back_expires_in_time(
    way: str, restarted: bool
) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", ttl=1000, backoff="constant", backoff_min=DAY, backoff_max=DAY, backoff_jitter=0)
    producer.put("q", "b", ttl=DAY)
    fence = worker.job()[1]
    bench.advance(1000)
    bench.advance(0, wall_ms=-500)
    producer.order("pause", queue="q")
    if restarted:
        bench.crash()
        producer.connect()
        worker.connect([m.Held(fence, [b"a"], [])])
    if way == "lost":
        worker.cut()
        bench.advance(100, wall_ms=-2_100)  # a probe finds out that it is gone, and then there is a grace
        bench.advance(2_000)
    elif way == "snooze":
        worker.snooze(fence, "a", delay=DAY)
    else:
        (worker.release if way == "release" else worker.nack)(fence, "a")
    assert sum(bench.counts("q").values()) == 2 and "leased" not in bench.counts("q")
    bench.check()
    expires_at = producer.ask("show", id=b"a")["expires_at"]
    assert expires_at > bench.wall
    bench.advance(expires_at - bench.wall - 1)
    assert "dead" not in bench.counts("q")
    bench.advance(1)
    assert bench.counts("q") == {"ready": 1, "dead": 1}
    assert ended(producer, "a")[1] == "expired"
    bench.check()


def test_a_start_reads_few_timers_of_a_time_at_which_very_many_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    producer = bench.producer()
    at, jobs = bench.wall + 1000, 3 * broker_limits.STEP_ROWS
    for n in range(jobs):
        producer.put("q", f"{n}", at=at, ttl=10_000, priority=1 if n == jobs - 1 else 0)
    bench.advance(1000)
    worker = bench.worker("w", "q", capacity=1)
    last, fence = worker.job()
    assert last == f"{jobs - 1}"
    read: list[int] = []
    row = rows.TimerRow

    def counted(*fields: Any) -> rows.TimerRow:
        read.append(1)
        return row(*fields)

    with monkeypatch.context() as patched:
        patched.setattr(rows, "TimerRow", counted)
        bench.crash()
        assert 0 < len(read) <= broker_limits.STEP_ROWS
    producer.connect()
    producer.order("pause", queue="q")
    worker.connect([m.Held(fence, [last.encode()], [])])
    worker.release(fence, last)
    bench.check()
    bench.advance(10_000)
    bench.advance(0)
    assert bench.counts("q") == {"dead": jobs}, "each expires once, however many timers name it"
    bench.check()


def test_a_ghost_of_a_time_does_not_wake_another_job_of_its_id() -> None:
    """The timers of a job that moved on stay where they were, and it may wait for the same time elsewhere."""
    bench = Bench(keep_done_count=0)
    producer = bench.producer()
    at = bench.wall + 5000
    for queue, options in (("q", {}), ("r", {}), ("q", {"priority": 1}), ("r", {"key": "k"})):
        producer.put(queue, "a", at=at, **options)
        producer.order("cancel", id=b"a")
        bench.check()
    producer.put("q", "a", at=at, priority=2)
    producer.put("q", "first", priority=2)
    bench.check()
    bench.advance(5000)
    assert bench.counts("q") == {"ready": 2} and bench.counts("r") == {}
    assert bench.worker("w", "q", "r", capacity=5).ids() == ["first", "a"]
    bench.check()
