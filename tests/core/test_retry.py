"""A failed job: its backoff, its place, its end as dead; replay and drop of what is dead."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zbroker.core import policy
from zbroker.core.policy import QueuePolicy
from zbroker.core.states import State
from zclient.protocol import limits
from zclient.protocol import messages as m


def fail_until_dead(bench: Bench, worker: Peer) -> list[int]:
    """Nack whatever comes until all is dead; the attempts that were told."""
    attempts: list[int] = []
    for _ in range(100):
        for delivery in worker.take(m.Deliver):
            attempts += delivery.attempts
            ids = [identifier.decode() for identifier in delivery.ids]
            for start in range(0, len(ids), limits.MAX_ORDER_IDS):
                worker.nack(delivery.fence, *ids[start : start + limits.MAX_ORDER_IDS], delay=0)
        if bench.counts("q").keys() <= {"dead"}:
            return attempts
    raise AssertionError("it never ends")


def dead(*ids: str, **settings: Any) -> tuple[Bench, Peer]:
    """A bench whose queue holds these jobs, dead, and nothing else."""
    bench = Bench(policy={"max_attempts": 1}, **settings)
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=1000)
    for start in range(0, len(ids), 1000):
        producer.put("q", *ids[start : start + 1000])
    fail_until_dead(bench, worker)
    worker.cut()
    bench.advance(2000)
    return bench, producer


# ---- policy, a pure function


def test_backoff_doubles_from_its_least_to_its_most() -> None:
    steady = QueuePolicy(backoff_jitter=0.0)
    delays = [policy.retry_delay(steady, {}, {}, runs, Random(0)) for runs in (1, 2, 3, 9, 10, 11, 50, 10_000)]
    assert delays == [1_000, 2_000, 4_000, 256_000, 512_000, 600_000, 600_000, 600_000]


def test_full_jitter_spreads_over_the_whole_delay() -> None:
    random = Random(1)
    delays = [policy.retry_delay(QueuePolicy(), {}, {}, 5, random) for _ in range(2000)]
    assert min(delays) < 500 and max(delays) > 15_500 and max(delays) <= 16_000
    assert 7_500 < sum(delays) / 2000 < 8_500
    half = [policy.retry_delay(QueuePolicy(backoff_jitter=0.5), {}, {}, 5, random) for _ in range(500)]
    assert min(half) >= 8_000


def test_the_job_has_the_last_word_on_attempts_then_the_task_then_the_queue() -> None:
    five, three, two = QueuePolicy(max_attempts=5), {"max_attempts": 3}, {"max_attempts": 2}
    assert policy.attempts_allowed(five, {}, {}) == 5
    assert policy.attempts_allowed(five, three, {}) == 3
    assert policy.attempts_allowed(five, three, two) == 2
    assert policy.attempts_allowed(five, two, three) == 3
    assert policy.attempts_allowed(QueuePolicy(delivery="at_most_once"), three, two) == 1


def delays(queue: QueuePolicy, *, task: dict[str, Any] | None = None, job: dict[str, Any] | None = None) -> list[int]:
    """The waits before the first six retries, without chance."""
    without = {"backoff_jitter": 0.0, **(job or {})}
    return [policy.retry_delay(queue, task or {}, without, runs, Random(0)) for runs in range(1, 7)]


def test_the_kinds_of_backoff() -> None:
    assert delays(QueuePolicy(backoff="linear")) == [1_000, 2_000, 3_000, 4_000, 5_000, 6_000]
    assert delays(QueuePolicy(backoff="constant", backoff_min_ms=700)) == [700] * 6
    assert delays(QueuePolicy(backoff=[10, 20, 900_000])) == [10, 20, 900_000, 900_000, 900_000, 900_000]
    assert delays(QueuePolicy(backoff_max_ms=3_000)) == [1_000, 2_000, 3_000, 3_000, 3_000, 3_000]


def test_the_job_has_the_last_word_on_each_part_of_the_backoff_by_itself() -> None:
    queue = QueuePolicy(backoff="linear", backoff_min_ms=100)
    assert delays(queue, task={"backoff_min": 10}) == [10, 20, 30, 40, 50, 60]
    assert delays(queue, task={"backoff_min": 10}, job={"backoff": "constant"}) == [10] * 6
    assert delays(queue, task={"backoff": "exponential"}, job={"backoff": [5]}) == [5] * 6
    assert delays(queue, task={"backoff_max": 250}, job={"backoff_max": 150}) == [100, 150, 150, 150, 150, 150]


# ---- retry


def test_a_retry_waits_for_its_backoff_and_goes_to_its_own_place() -> None:
    bench = Bench(policy={"backoff_jitter": 0.0})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", "b", "c")
    worker.nack(worker.job()[1], "a", text="no")
    assert worker.job()[0] == "b"
    worker.send(m.Capacity(0))
    bench.advance(999)
    assert bench.counts("q") == {"scheduled": 1, "ready": 1, "leased": 1}
    bench.advance(1)
    assert bench.counts("q") == {"ready": 2, "leased": 1}
    worker.send(m.Capacity(3))
    assert worker.ids() == ["a", "c"]
    bench.check()


def test_a_job_that_waits_for_its_backoff_is_not_met_in_its_old_place_after_a_restart() -> None:
    """The block that it came in lies on disk until the last job of it is taken."""
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", "b", "c")
    worker.nack(worker.job()[1], "a", delay=5_000)
    assert worker.ids() == ["b"]
    bench.crash()
    worker.connect()
    assert worker.ids() == ["b"]
    assert bench.counts("q") == {"scheduled": 1, "ready": 1, "leased": 1}
    bench.check()


def test_the_worker_may_say_when() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    worker.nack(worker.job()[1], "a", delay=70_000)
    assert producer.ask("show", id=b"a")["due_at"] == bench.wall + 70_000
    bench.advance(69_999)
    assert worker.jobs() == []
    bench.advance(1)
    assert worker.one(m.Deliver).attempts == [2]


@pytest.mark.parametrize("restarts", [False, True])
def test_attempts_run_out_and_all_are_told(restarts: bool) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", max_attempts=3)
    for attempt in (1, 2, 3):
        delivery = worker.one(m.Deliver)
        assert delivery.attempts == [attempt]
        worker.nack(delivery.fence, "a", type="ValueError", text=f"no {attempt}")
        if restarts:
            bench.crash()
            producer.connect()
            worker.connect()
        bench.advance(10_000)
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["reason"], row["attempt"]) == ("dead", "attempts", 3)
    assert [attempt["error"]["text"] for attempt in row["attempts"]] == ["no 1", "no 2", "no 3"]
    assert [attempt["number"] for attempt in row["attempts"]] == [1, 2, 3]
    assert row["error"] == {"type": "ValueError", "text": "no 3"}
    assert bench.told("job dead")[0]["attempts"] == 3
    bench.check()


def test_a_reject_is_not_tried_again() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    worker.reject(worker.job()[1], "a", text="never")
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["reason"], row["attempts"][0]["kind"]) == ("dead", "rejected", "rejected")


def test_release_and_snooze_burn_nothing() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", max_attempts=1)
    for _ in range(5):
        worker.release(worker.job()[1], "a")
        worker.snooze(worker.job()[1], "a", delay=1000)
        assert bench.counts("q") == {"scheduled": 1}
        bench.advance(1000)
    assert worker.one(m.Deliver).attempts == [1]
    bench.check()


def test_the_log_of_attempts_is_bounded_and_the_count_goes_on() -> None:
    bench = Bench(policy={"max_attempts": 80})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    assert fail_until_dead(bench, worker) == list(range(1, 81))
    row = producer.ask("show", id=b"a")
    assert row["attempt"] == 80 and [attempt["number"] for attempt in row["attempts"]] == list(range(31, 81))


# ---- dead


def test_replay_begins_anew_at_the_end_of_the_lane() -> None:
    bench, producer = dead("a", "b")
    producer.put("q", "c")
    assert producer.order("replay", ids=[b"b"]) == {"replayed": 1}
    worker = bench.worker("v", "q", capacity=1)
    worker.ack(worker.job()[1], "c")
    again = worker.one(m.Deliver)
    assert (again.ids, again.attempts) == ([b"b"], [1])
    row = producer.ask("show", id=b"b")
    assert (row["state"], row["attempt"], len(row["attempts"])) == ("leased", 1, 1)
    worker.nack(again.fence, "b", text="again")
    assert bench.counts("q") == {"dead": 2}
    bench.check()


def test_a_replayed_job_has_left_its_old_place_even_after_a_restart() -> None:
    bench = Bench(policy={"max_attempts": 1})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", "b", "c")
    fence = worker.job()[1]
    worker.send(m.Capacity(0))
    worker.nack(fence, "a")
    producer.order("replay", ids=[b"a"])
    bench.crash()
    worker.capacity = 5
    worker.connect()
    assert worker.ids() == ["b", "c", "a"]
    bench.check()


def test_replay_of_some_is_all_or_none() -> None:
    bench, producer = dead("a", "b")
    producer.put("q", "c")
    for verb in ("replay", "drop"):
        failure = producer.refused(m.Order(producer.next_number(), 1, verb, {"ids": [b"a", b"c"]}))
        assert failure.code == "not_found"
    assert bench.counts("q") == {"dead": 2, "ready": 1}
    assert producer.order("replay", ids=[b"a", b"a"]) == {"replayed": 1}
    assert producer.order("drop", ids=[b"b"]) == {"dropped": 1}
    assert bench.counts("q") == {"ready": 2}
    bench.check()


def test_an_order_is_applied_once() -> None:
    bench, producer = dead("a")
    answer = producer.order("replay", number=40, ids=[b"a"])
    assert producer.order("replay", number=40, ids=[b"a"]) == answer
    bench.crash()
    producer.connect()
    assert producer.order("replay", number=40, ids=[b"a"]) == answer
    assert bench.core.state.queues["q"].counts.totals["replayed"] == 1


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_all_dead_of_a_queue_in_slices_and_over_a_restart(verb: str) -> None:
    bench, producer = dead(*(f"{n:04}" for n in range(1500)))
    number = producer.next_number()
    order = m.Order(number, number, verb, {"queue": "q"})
    bench.turn([(producer.route, order)])
    answer = producer.value_of(number)
    assert answer["dead"] == 1500 and answer["work"] == 1
    left = bench.count("q", State.DEAD)
    assert 0 < 1500 - left <= broker_limits.TURN_STEPS * broker_limits.STEP_ROWS, "one turn does some of it"
    bench.turn(ends="before commit")
    bench.crash()
    assert bench.counts("q") == ({"ready": 1500} if verb == "replay" else {})
    assert not list(bench.store.scan("meta", b"work/", b"work0"))
    producer.connect()
    producer.send(order)
    assert producer.value_of(number) == answer, "and it is not begun again"
    assert bench.core.state.queues["q"].counts.totals[{"replay": "replayed", "drop": "dropped"}[verb]] == 1500
    bench.check()


@pytest.mark.parametrize("rate", [1, 7, 40, 1000])
def test_replay_at_a_rate(rate: int) -> None:
    bench, producer = dead(*(f"{n}" for n in range(100)))
    producer.order("replay", queue="q", rate=rate)
    bench.advance(2000)
    expected = min(100, 2 * rate)
    assert abs(bench.counts("q").get("ready", 0) - expected) <= max(1, rate // 20)
    bench.check()


def test_what_dies_after_the_order_is_not_replayed_by_it() -> None:
    bench, producer = dead("a")
    worker = bench.worker("v", "q")
    producer.order("replay", queue="q", rate=1)
    bench.advance(1)
    worker.nack(worker.job()[1], "a", text="again")
    bench.advance(10_000)
    assert bench.counts("q") == {"dead": 1}


def test_nothing_dead_is_left_behind_by_drop() -> None:
    bench, producer = dead("a", "b")
    producer.order("drop", queue="q")
    for space in ("jobs", "changes", "dead"):
        assert not list(bench.store.scan(space, b"", b"\xff"))
    assert producer.refused(m.Ask(99, "show", {"id": b"a"})).code == "not_found"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"queue": 5}, {"queue": "none"}, {"ids": []}, {"ids": ["text"]}, {"ids": [b"x"] * 1001}, {"ids": [b"\xff"]}],
)
@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_orders_that_cannot_be(verb: str, arguments: dict[str, Any]) -> None:
    bench, producer = dead("a")
    assert producer.refused(m.Order(50, 1, verb, arguments)).code in ("invalid", "not_found")
    assert bench.counts("q") == {"dead": 1}


@pytest.mark.parametrize("rate", [-1, 1.5, "fast", 1 << 40, True])
def test_rates_that_cannot_be(rate: Any) -> None:
    _, producer = dead("a")
    assert producer.refused(m.Order(50, 1, "replay", {"queue": "q", "rate": rate})).code == "invalid"


def test_show_tells_the_attempts_that_the_task_allows_also_between_two_runs() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    worker.hello(tasks={"q": {"max_attempts": 2}})
    producer.put("q", "a", "b", max_attempts=7)
    producer.put("q", "c")
    worker.nack(worker.job()[1], "a")
    assert producer.ask("show", id=b"a")["max_attempts"] == 7
    for identifier in ("b", "c"):
        worker.take(m.Deliver)
        assert producer.ask("show", id=identifier.encode())["max_attempts"] == (7 if identifier == "b" else 2)


# ---- what the task of a worker says


def serve(bench: Bench, name: str, capacity: int = 1, **task: Any) -> Peer:
    """A worker of queue q whose task says this of its jobs."""
    worker = Peer(bench, name, ("q",), capacity)
    worker.route = bench.new_route(worker)
    worker.hello(tasks={"q": task} if task else {})
    return worker


def test_the_job_wins_over_the_task_and_the_task_over_the_queue() -> None:
    bench = Bench(policy={"backoff_jitter": 0.0, "max_attempts": 9})
    producer = bench.producer()
    producer.order("set", queue="q", options={"max_attempts": 4, "backoff": "constant", "backoff_min": 7_000})
    worker = serve(bench, "w", 4, max_attempts=3, backoff="linear", backoff_min=2_000)
    producer.put("q", "plain")
    producer.put("q", "own", max_attempts=2, backoff=[50_000])
    producer.put("q", "part", backoff_min=100)
    producer.put("q", "capped", backoff_max=1_500)
    told = {row: producer.ask("show", id=row.encode())["max_attempts"] for row in ("plain", "own", "part")}
    assert told == {"plain": 3, "own": 2, "part": 3}
    for identifier, fence in worker.jobs():
        worker.nack(fence, identifier)
    names = ("plain", "own", "part", "capped")
    due = {name: producer.ask("show", id=name.encode())["due_at"] - bench.wall for name in names}
    assert due == {"plain": 2_000, "own": 50_000, "part": 100, "capped": 1_500}
    bench.check()


def test_what_a_task_says_holds_for_the_jobs_of_its_worker() -> None:
    bench = Bench()
    producer = bench.producer()
    one, two = serve(bench, "one", max_attempts=1), serve(bench, "two")
    producer.put("q", "a", "b")
    for worker in (one, two):
        identifier, fence = worker.job()
        worker.nack(fence, identifier, delay=60_000)
    assert bench.counts("q") == {"dead": 1, "scheduled": 1}
    bench.check()


@pytest.mark.parametrize("tells_again", [True, False])
def test_a_worker_says_it_with_every_hello(tells_again: bool) -> None:
    bench = Bench()
    producer, worker = bench.producer(), serve(bench, "w", max_attempts=1)
    producer.put("q", "a")
    fence = worker.job()[1]
    bench.crash()
    producer.connect()
    worker.route = bench.new_route(worker)
    worker.hello([m.Held(fence, [b"a"], [])], tasks={"q": {"max_attempts": 1}} if tells_again else {})
    worker.nack(fence, "a", delay=60_000)
    assert bench.counts("q") == ({"dead": 1} if tells_again else {"scheduled": 1})
    bench.check()


def test_the_task_decides_of_a_worker_that_is_lost_as_well() -> None:
    bench = Bench()
    producer, worker = bench.producer(), serve(bench, "w", max_attempts=1)
    producer.put("q", "a")
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.advance(1_100)
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["reason"]) == ("dead", "attempts")
    bench.check()


@pytest.mark.parametrize(
    "task",
    [
        {"max_attempts": 0},
        {"backoff": "never"},
        {"backoff_jitter": 2},
        {"max_run": 5},
        {"priority": 1},
        {"backoff": []},
    ],
)
def test_task_options_that_cannot_be(task: dict[str, Any]) -> None:
    bench = Bench()
    worker = Peer(bench, "w", ("q",), 1)
    worker.route = bench.new_route(worker)
    worker.send(m.Hello(1, worker.incarnation, "w", 1, ["q"], [], 0, {}, {"q": task}))
    failure = worker.one(m.Failure)
    assert (failure.number, failure.code) == (0, "invalid") and "q" in failure.text
    assert not bench.core.state.peers


# ---- what burns an attempt, and what does not


def test_the_wish_of_a_worker_has_no_cap_but_ten_years() -> None:
    bench = Bench(policy={"backoff_max_ms": 5_000})
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b")
    fence = worker.one(m.Deliver).fence
    worker.nack(fence, "a", delay=3_600_000)
    worker.nack(fence, "b", delay=1 << 50)
    due = [producer.ask("show", id=name)["due_at"] - bench.wall for name in (b"a", b"b")]
    assert due == [3_600_000, limits.MAX_DELAY_MS]
    bench.check()


@pytest.mark.parametrize("delay", [-1, 1.5, "soon", True, None])
def test_a_wish_that_cannot_be_is_no_wish(delay: Any) -> None:
    bench = Bench(policy={"backoff_jitter": 0.0})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    worker.nack(worker.job()[1], "a", delay=delay)
    assert producer.ask("show", id=b"a")["due_at"] == bench.wall + 1_000


def test_attempts_are_burnt_by_failures_alone() -> None:
    bench = Bench(policy={"poison_losses": 10})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", max_attempts=3)
    attempts = []
    for end in ("release", "never began", "snooze", "nack", "restart", "goodbye", "lease", "release"):
        delivery = worker.one(m.Deliver)
        attempts.append(delivery.attempts[0])
        if end == "release":
            worker.release(delivery.fence, "a")
        elif end == "never began":
            worker.settle(m.Outcome.RELEASE, delivery.fence, "a", values=[True])
        elif end == "snooze":
            worker.snooze(delivery.fence, "a", delay=0)
        elif end == "nack":
            worker.nack(delivery.fence, "a", delay=0)
        elif end == "restart":
            bench.crash()
            producer.connect()
            bench.advance(5_100)
            worker.connect()
        elif end == "goodbye":
            worker.send(m.Goodbye())
            worker.connect()
        else:
            bench.advance(30_000)
            worker.connect()
    assert attempts == [1, 1, 1, 1, 2, 2, 2, 3]
    assert worker.one(m.Deliver).attempts == [3]
    bench.check()
