"""Why a job is not running, or what became of it: every reason with its figures, and what the answer costs."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits
from zclient.protocol import messages as m


def why(peer: Peer, identifier: str) -> dict[str, dict[str, Any]]:
    """The reasons by code, in their order."""
    answer = peer.ask("why", id=identifier.encode())
    assert answer["id"] == identifier.encode() and answer["state"] == peer.ask("show", id=answer["id"])["state"]
    reasons = {reason["code"]: reason for reason in answer["reasons"]}
    assert len(reasons) == len(answer["reasons"]) > 0 and all(reason["text"] for reason in reasons.values())
    return reasons


def waiting(*ids: str, options: dict[str, Any] | None = None, **job: Any) -> tuple[Bench, Peer]:
    """A bench with jobs that wait in the queue q, whose options these are."""
    bench = Bench()
    producer = bench.producer()
    if options:
        producer.order("set", queue="q", options=options)
    if ids:
        producer.put("q", *ids, **job)
    return bench, producer


# ---- no worker that could


def test_no_worker_ever_served_the_queue() -> None:
    _, producer = waiting("a")
    assert list(why(producer, "a")) == ["no_worker", "position"]
    assert why(producer, "a")["no_worker"]["text"] == "no worker serves queue q, and none ever did"
    assert "gone_ms" not in why(producer, "a")["no_worker"]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("how", ["goodbye", "lost", "other queues"])
def test_the_last_worker_left_a_while_ago(how: str, restarted: bool) -> None:
    bench, producer = waiting("a")
    worker = bench.worker("w", "q", "r", capacity=0)
    bench.advance(1000)
    if how == "goodbye":
        worker.send(m.Goodbye())
    elif how == "other queues":
        worker.hello(queues=["r"])
    else:
        worker.cut()
        bench.advance(1000)  # until the next probe
    left = bench.wall
    bench.advance(1000)
    if restarted:
        bench.crash()
        producer.connect()
    bench.advance(240_000)
    reason = why(producer, "a")["no_worker"]
    assert reason["gone_ms"] == bench.wall - left
    assert reason["text"] == "no worker serves queue q; the last one left 4 min ago"


def test_a_worker_that_was_there_when_the_broker_stopped_left_then() -> None:
    bench, producer = waiting("a")
    bench.worker("w", "q", capacity=0)
    bench.advance(60_000)
    bench.crash()
    bench.advance(5000)
    producer.connect()
    assert why(producer, "a")["no_worker"]["gone_ms"] == 5000
    bench.crash()
    producer.connect()
    assert "gone_ms" in why(producer, "a")["no_worker"]


def test_no_worker_has_room_and_who_holds_it() -> None:
    bench, producer = waiting()
    workers = [bench.worker(f"w{n}", "q", capacity=n) for n in range(3)]
    producer.put("q", "a", "b", "c", "d")
    reason = why(producer, "d")["no_credit"]
    assert reason["workers"] == [
        {"name": "w0", "leased": 0, "capacity": 0, "why": "takes no jobs now"},
        {"name": "w1", "leased": 1, "capacity": 1, "why": "1/1"},
        {"name": "w2", "leased": 2, "capacity": 2, "why": "2/2"},
    ]
    assert reason["text"] == "no worker of queue q has room: w0 (takes no jobs now), w1 (1/1), w2 (2/2)"
    assert list(why(producer, "d")) == ["no_credit", "position"]
    workers[2].cut()
    assert len(why(producer, "d")["no_credit"]["workers"]) == 3, "nobody has found out yet"


def test_what_else_keeps_a_worker_from_taking_jobs() -> None:
    bench, producer = waiting("a", "b")
    wedged = bench.worker("wedged", "q")
    bench.advance(30_000)
    assert wedged.one(m.Who) == m.Who()
    full = bench.worker("full", "q", capacity=0)
    full.full = True
    full.send(m.Capacity(5))
    told = {worker["name"]: worker["why"] for worker in why(producer, "b")["no_credit"]["workers"]}
    assert told == {
        "wedged": "let a lease run out, and was not heard of since",
        "full": "its connection is full",
    }


def test_a_worker_is_kept_for_a_job_that_lost_one_before() -> None:
    bench, producer = waiting("suspect")
    lost = bench.worker("lost", "q")
    lost.jobs()
    busy = bench.worker("busy", "q", capacity=2)
    producer.put("q", "a")
    busy.jobs()
    lost.cut()
    bench.advance(5000)
    producer.put("q", "b")
    assert busy.jobs() == []
    reasons = why(producer, "suspect")
    assert reasons["suspect"]["losses"] == 1
    assert reasons["suspect"]["text"] == "it lost 1 worker, so it waits for one that holds nothing else"
    (worker,) = why(producer, "b")["no_credit"]["workers"]
    assert worker["why"] == "1/2, kept for a job that lost a worker before"


# ---- the queue holds it back


def test_a_paused_queue() -> None:
    bench, producer = waiting("a")
    bench.worker("w", "q", capacity=0).send(m.Capacity(0))
    producer.order("pause", queue="q")
    assert next(iter(why(producer, "a"))) == "paused"
    producer.put("q", "later", delay=1000)
    assert list(why(producer, "later")) == ["delayed", "paused"]


def test_a_broker_that_stops() -> None:
    bench, producer = waiting("a")
    bench.core.drain()
    assert why(producer, "a")["stopping"]["text"] == "the broker is stopping"


def test_the_limit_of_jobs_in_flight() -> None:
    bench, producer = waiting("a", "b", "c", options={"in_flight_limit": 2})
    bench.worker("w", "q", capacity=5)
    reasons = why(producer, "c")
    assert list(reasons) == ["in_flight_limit", "position"], "the worker has room: it is the limit alone"
    assert (reasons["in_flight_limit"]["in_flight"], reasons["in_flight_limit"]["limit"]) == (2, 2)
    assert reasons["in_flight_limit"]["text"] == "in-flight limit 2/2 of queue q is reached"


def test_the_rate_of_a_queue_and_when_the_next_job_may_go() -> None:
    bench, producer = waiting("a", "b", options={"rate": [30, 60_000]})
    worker = bench.worker("w", "q", capacity=5)
    assert worker.ids() == ["a"]
    bench.advance(800)
    reason = why(producer, "b")["rate"]
    assert (reason["wait_ms"], reason["text"]) == (1200, "rate limit of queue q: next job in 1.2 s")
    bench.advance(1199)
    assert why(producer, "b")["rate"]["wait_ms"] == 1 and worker.ids() == []
    bench.advance(1)
    assert worker.ids() == ["b"], "and it was right"


# ---- its key holds it back


def test_the_limit_of_a_key_and_which_jobs_hold_it() -> None:
    bench, producer = waiting("a1", "a2", "a3", options={"key_limit": 2}, key="a")
    producer.put("q", "b1", key="b")
    bench.worker("w", "q", capacity=9)
    reason = why(producer, "a3")["key_limit"]
    assert (reason["key"], reason["in_flight"], reason["limit"]) == ("a", 2, 2)
    assert sorted(reason["held_by"]) == ["a1", "a2"]
    assert reason["text"].startswith("key limit 2/2 of key 'a', held by a")


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("how", ["leased", "snoozed", "backoff", "suspect", "restarted"])
def test_where_jobs_run_in_order_the_one_that_they_wait_for(how: str, key: str | None) -> None:
    options = {"key": key} if key else {}
    bench, producer = waiting("a", "b", options={"key_limit": 1}, **options)
    worker = bench.worker("w", "q")
    fence = worker.job()[1]
    worker.send(m.Capacity(0))
    if how == "snoozed" or how == "restarted":
        worker.snooze(fence, "a", delay=60_000)
    elif how == "backoff":
        worker.nack(fence, "a", delay=60_000)
    elif how == "suspect":
        bench.advance(30_000)
    if how == "restarted":
        bench.crash()
        producer.connect()
    reason = why(producer, "b")["key_limit"]
    assert (reason["held_by"], reason["in_flight"], reason["limit"]) == (["a"], 1, 1)
    assert ("jobs without a key" in reason["text"]) == (key is None)
    assert "key_limit" not in why(producer, "a"), "it has the turn itself"


def test_the_rate_of_a_key() -> None:
    bench, producer = waiting("a", "b", options={"key_rate": [1, 5000]}, key="k")
    producer.put("q", "free", key="other")
    worker = bench.worker("w", "q", capacity=5)
    assert worker.ids() == ["a", "free"]
    bench.advance(1000)
    reason = why(producer, "b")["key_rate"]
    assert (reason["wait_ms"], reason["text"]) == (4000, "rate limit of key 'k': next job in 4.0 s")
    bench.advance(4000)
    assert worker.ids() == ["b"]


def test_holders_are_named_up_to_a_few() -> None:
    ids = [f"{n:03}" for n in range(40)]
    bench, producer = waiting(*ids, options={"key_limit": 30}, key="k")
    bench.worker("w", "q", capacity=100)
    reason = why(producer, "039")["key_limit"]
    assert (reason["in_flight"], len(reason["held_by"])) == (30, limits.WHY_NAMED)


# ---- its place


def test_the_place_in_its_lane() -> None:
    bench, producer = waiting(*(f"{n}" for n in range(10)))
    assert why(producer, "0")["position"]["position"] == 1
    reason = why(producer, "7")["position"]
    assert (reason["ahead"], reason["is_more"], reason["lanes"], reason["position"]) == (7, False, 1, 8)
    assert reason["text"] == "next in line: about position 8; 7 jobs of its lane are before it"
    worker = bench.worker("w", "q", capacity=3)
    worker.jobs()
    assert why(producer, "7")["position"]["ahead"] == 4, "what was taken of a block is not before it"
    worker.send(m.Capacity(0))
    worker.release(next(iter(bench.core.state.deliveries)), "0", "2")
    assert why(producer, "7")["position"]["ahead"] == 6
    bench.crash()
    producer.connect()
    bench.advance(6000)
    assert why(producer, "7")["position"]["ahead"] == 7, "those that came back count once"
    bench.check()


def test_lanes_have_turns() -> None:
    _, producer = waiting("a0", "a1", "a2", key="a")
    producer.put("q", "b0", "b1", key="b")
    reason = why(producer, "a2")["position"]
    assert (reason["ahead"], reason["lanes"], reason["position"]) == (2, 2, 5)
    assert "2 lanes have turns" in reason["text"]


# ---- it waits for a time


def test_a_delay() -> None:
    bench, producer = waiting("a", delay=90_000)
    bench.advance(5000)
    (reason,) = why(producer, "a").values()
    assert (reason["code"], reason["wait_ms"], reason["due_at"]) == ("delayed", 85_000, bench.wall + 85_000)
    assert reason["text"] == "it is delayed; it may run in 85 s"


def test_a_snooze() -> None:
    bench, producer = waiting("a")
    worker = bench.worker("w", "q")
    worker.snooze(worker.job()[1], "a", delay=3_600_000)
    (reason,) = why(producer, "a").values()
    assert (reason["code"], reason["wait_ms"]) == ("snoozed", 3_600_000)
    assert reason["text"] == "its handler put it off; it goes on in 60 min"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_backoff_after_which_attempt(restarted: bool) -> None:
    bench, producer = waiting("a", max_attempts=3)
    worker = bench.worker("w", "q")
    worker.nack(worker.job()[1], "a", delay=0, text="first")
    worker.nack(worker.job()[1], "a", delay=7000, type="E", text="second")
    if restarted:
        bench.crash()
        producer.connect()
    (reason,) = why(producer, "a").values()
    assert (reason["code"], reason["attempt"], reason["max_attempts"]) == ("backoff", 2, 3)
    assert reason["wait_ms"] == 7000 and reason["text"] == "attempt 2 of 3 failed; the next is in 7.0 s"
    attempts = producer.ask("why", id=b"a")["attempts"]
    assert [attempt["error"]["text"] for attempt in attempts] == ["first", "second"]


def test_a_snooze_after_a_failed_run_is_a_snooze() -> None:
    bench, producer = waiting("a")
    worker = bench.worker("w", "q")
    worker.nack(worker.job()[1], "a", delay=0)
    worker.snooze(worker.job()[1], "a", delay=1000)
    assert list(why(producer, "a")) == ["snoozed"]


# ---- it runs


def test_who_runs_it_since_when_and_until_when() -> None:
    bench, producer = waiting("a")
    worker = bench.worker("w", "q")
    fence = worker.job()[1]
    bench.advance(12_000)
    worker.send(m.Renew([fence]))
    bench.advance(3000)
    (reason,) = why(producer, "a").values()
    assert reason["text"] == "w runs it for 15 s, attempt 1; its lease ends in 27 s"
    figures = {name: reason[name] for name in ("worker", "since_ms", "lease_ms", "attempt", "fence")}
    assert figures == {"worker": "w", "since_ms": 15_000, "lease_ms": 27_000, "attempt": 1, "fence": fence}


def test_its_worker_is_silent() -> None:
    bench, producer = waiting("a")
    worker = bench.worker("w", "q")
    worker.jobs()
    bench.crash()
    producer.connect()
    reasons = why(producer, "a")
    assert list(reasons) == ["running", "worker_silent"]
    assert reasons["worker_silent"]["text"] == "the connection of w is gone; it may come back"


def test_alive_and_no_progress_for_a_while_and_told_to_end() -> None:
    bench, producer = waiting("a", options={"lease": 600_000})
    worker = bench.worker("w", "q")
    fence = worker.job()[1]
    worker.send(m.Progress([(fence, b"a", None, "page 7")]))
    bench.advance(240_000)
    producer.order("cancel", id=b"a")
    reasons = why(producer, "a")
    assert list(reasons) == ["running", "progress", "cancel_requested"]
    assert reasons["progress"]["text"] == "last progress 4 min ago: page 7, and its worker is alive"
    progress = reasons["progress"]
    assert (progress["fraction"], progress["told"], progress["age_ms"]) == (None, "page 7", 240_000)


# ---- it is over


def test_what_became_of_a_finished_job() -> None:
    bench, producer = waiting("done", "cancelled")
    worker = bench.worker("w", "q")
    worker.nack(worker.job()[1], "done", delay=0, text="first")
    worker.ack(worker.job()[1], "done")
    worker.release(worker.job()[1], "cancelled")
    producer.order("cancel", id=b"cancelled")
    worker.settle(m.Outcome.RELEASE, worker.job()[1], "cancelled")
    (done,) = why(producer, "done").values()
    assert (done["code"], done["text"], done["finished_at"]) == ("done", "it was done by w, attempt 2", bench.wall)
    assert [attempt["error"]["text"] for attempt in producer.ask("why", id=b"done")["attempts"]] == ["first"]
    (cancelled,) = why(producer, "cancelled").values()
    assert (cancelled["code"], cancelled["text"]) == ("cancelled", "it was cancelled (cancelled)")


def test_what_became_of_a_dead_job_attempt_by_attempt() -> None:
    bench, producer = waiting("a", max_attempts=2)
    worker = bench.worker("w", "q")
    worker.nack(worker.job()[1], "a", delay=0, type="Oops", text="one")
    worker.nack(worker.job()[1], "a", type="Oops", text="two")
    (reason,) = why(producer, "a").values()
    assert (reason["code"], reason["reason"], reason["finished_at"]) == ("dead", "attempts", bench.wall)
    assert reason["text"] == "it is dead (attempts) after 2 attempts; Oops: two"
    attempts = producer.ask("why", id=b"a")["attempts"]
    assert [(attempt["number"], attempt["kind"], attempt["worker"]) for attempt in attempts] == [
        (1, "error", "w"),
        (2, "error", "w"),
    ]


def test_of_a_job_that_nobody_knows() -> None:
    _, producer = waiting("a")
    assert producer.refused(m.Ask(50, "why", {"id": b"nobody"})).code == "not_found"
    assert producer.refused(m.Ask(51, "why", {})).code == "invalid"


# ---- what it costs


def test_a_long_lane_is_counted_up_to_a_bound() -> None:
    bench, producer = waiting()
    numbers = count()
    for _ in range(30):
        producer.put("q", *(f"{next(numbers)}" for _ in range(1000)))
    reads: list[str] = []
    scan = bench.store.scan

    def counting(space: str, start: bytes, stop: bytes, **keywords: Any) -> Any:
        for row in scan(space, start, stop, **keywords):
            reads.append(space)
            yield row

    bench.store.scan = counting  # type: ignore[method-assign]
    reason = why(producer, "29999")["position"]
    assert reason["is_more"] and 0 < reason["ahead"] < 30_000
    assert reason["text"].startswith("more than ") and "next in line" not in reason["text"]
    assert len(reads) <= limits.WHY_BLOCKS + 1


def test_workers_are_named_up_to_a_few() -> None:
    bench, producer = waiting()
    for n in range(50):
        bench.worker(f"w{n:02}", "q")
    producer.put("q", *(f"{n}" for n in range(51)))
    reason = why(producer, "50")["no_credit"]
    assert len(reason["workers"]) == limits.WHY_NAMED
    assert reason["text"].endswith(" and 40 more")


def test_who_holds_a_key_is_looked_for_among_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WHY_LOOKED", 2)
    bench, producer = waiting("a", "b", options={"key_limit": 1}, key="k")
    for n in range(5):
        producer.put("q", f"{n}", key=f"{n}")
    for n in range(6):
        bench.worker(f"w{n}", "q")
    assert why(producer, "b")["key_limit"]["held_by"] == ["a"]
    producer.put("q", "c", key="4")
    reason = why(producer, "c")["key_limit"]
    assert reason["held_by"] == [] and reason["text"] == "key limit 1/1 of key '4', held by jobs that run"
