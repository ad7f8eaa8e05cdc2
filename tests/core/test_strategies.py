"""Which worker gets a job: in turn, the least busy one, or any; with workers of unequal capacity and speed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.harness import Bench, Peer
from zbroker import limits
from zbroker.core import entities
from zclient.protocol import messages as m


def bench_of(strategy: str, *, seed: int = 0) -> tuple[Bench, Peer]:
    bench = Bench(seed=seed, policy={"strategy": strategy})
    return bench, bench.producer()


def join(bench: Bench, **capacities: int) -> dict[str, Peer]:
    return {name: bench.worker(name, "q", capacity=capacity) for name, capacity in capacities.items()}


def put(producer: Peer, first: int, jobs: int) -> None:
    producer.put("q", *(f"{n}" for n in range(first, first + jobs)))


def shares(workers: dict[str, Peer]) -> dict[str, int]:
    """How many jobs came to each worker since the last time."""
    return {name: len(worker.jobs()) for name, worker in workers.items()}


def served_one_by_one(bench: Bench, producer: Peer, workers: dict[str, Peer], jobs: int) -> list[str]:
    """Who gets each of so many jobs, if each is done before the next comes."""
    came: list[str] = []
    for n in range(jobs):
        put(producer, n, 1)
        ((name, identifier, fence),) = [(name, *job) for name, worker in workers.items() for job in worker.jobs()]
        workers[name].ack(fence, identifier)
        came.append(name)
    bench.check()
    return came


def test_round_robin_gives_one_to_each_in_turn_as_long_as_it_has_credit() -> None:
    bench, producer = bench_of("round_robin")
    workers = join(bench, a=2, b=10, c=20)
    put(producer, 0, 3)
    assert shares(workers) == {"a": 1, "b": 1, "c": 1}
    put(producer, 3, 6)
    assert shares(workers) == {"a": 1, "b": 3, "c": 2}
    put(producer, 9, 30)
    assert shares(workers) == {"a": 0, "b": 6, "c": 17}, "32 jobs are as many as they take"
    bench.check()


def test_round_robin_goes_round_though_each_job_is_done_before_the_next_comes() -> None:
    bench, producer = bench_of("round_robin")
    workers = join(bench, a=1, b=5, c=50)
    came = served_one_by_one(bench, producer, workers, 30)
    assert Counter(came) == {"a": 10, "b": 10, "c": 10}
    assert came[:3] == came[3:6] == came[27:]


def in_turn(jobs: list[int], rooms: dict[str, int], order: list[str]) -> dict[str, list[int]]:
    """The rule itself, a job at a time; ``order`` is changed to the turns after it."""
    got: dict[str, list[int]] = {name: [] for name in rooms}
    for job in jobs:
        while len(got[order[0]]) == rooms[order[0]]:
            del order[0]
        got[order[0]].append(job)
        order.append(order.pop(0))
    return got


@given(rooms=st.lists(st.integers(1, 9), min_size=1, max_size=6), parts=st.lists(st.integers(1, 12), max_size=4))
def test_round_robin_is_the_same_as_one_at_a_time(rooms: list[int], parts: list[int]) -> None:
    bench, producer = bench_of("round_robin")
    left = {f"w{n}": room for n, room in enumerate(rooms)}
    workers = join(bench, **left)
    order = list(workers)
    first = 0
    for part in parts:
        jobs = list(range(first, first + min(part, sum(left.values()))))
        if not jobs:
            break
        expected = in_turn(jobs, left, order)
        put(producer, first, len(jobs))
        got = {name: [int(identifier) for identifier, _ in worker.jobs()] for name, worker in workers.items()}
        assert got == expected
        left = {name: room - len(got[name]) for name, room in left.items()}
        first += len(jobs)


def deliveries(bench: Bench, producer: Peer, jobs: int, workers: dict[str, Peer]) -> dict[str, list[int]]:
    """How many jobs each delivery has, if so many go out at once, in turns of 20."""
    producer.order("pause", queue="q")
    put(producer, 0, jobs)
    producer.order("resume", queue="q")
    bench.check()
    return {name: [len(delivery.ids) for delivery in worker.take(m.Deliver)] for name, worker in workers.items()}


@pytest.mark.parametrize("strategy", ["round_robin", "least_busy", "random"])
def test_workers_that_one_turn_cannot_fill_are_filled_one_after_the_other(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each a little, in many deliveries."""
    monkeypatch.setattr(limits, "TURN_DELIVERIES", 20)
    bench, producer = bench_of(strategy)
    workers = join(bench, **{f"w{n}": 10 for n in range(6)})
    assert deliveries(bench, producer, 100, workers) == {name: [10] for name in workers}


def test_what_does_not_fill_all_workers_is_shared_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TURN_DELIVERIES", 20)
    bench, producer = bench_of("round_robin")
    workers = join(bench, **{f"w{n}": 10 for n in range(6)})
    shared = deliveries(bench, producer, 30, workers)
    assert {name: sum(sizes) for name, sizes in shared.items()} == dict.fromkeys(workers, 5)


@pytest.mark.parametrize("at_once", [1, 7, 30])
def test_least_busy_fills_workers_to_the_same_share(at_once: int) -> None:
    bench, producer = bench_of("least_busy")
    workers = join(bench, a=10, b=20, c=30)
    for first in range(0, 30, at_once):
        put(producer, first, min(at_once, 30 - first))
    got = shares(workers)
    assert sum(got.values()) == 30
    for name, capacity in {"a": 10, "b": 20, "c": 30}.items():
        assert abs(got[name] - capacity / 2) <= 1, got
    bench.check()


def test_least_busy_looks_at_what_a_worker_holds_of_other_queues() -> None:
    bench, producer = bench_of("least_busy")
    one = bench.worker("one", "q", "r", capacity=10)
    producer.put("r", *(f"r{n}" for n in range(6)))
    two = bench.worker("two", "q", capacity=10)
    put(producer, 0, 6)
    assert (len(one.jobs()) - 6, len(two.jobs())) == (0, 6)
    bench.check()


def test_least_busy_prefers_the_fast_one() -> None:
    """A worker that settles its jobs at once gets the next ones; one that keeps them does not."""
    bench, producer = bench_of("least_busy")
    workers = join(bench, fast=10, slow=10)
    fast = slow = 0
    for n in range(60):
        put(producer, n, 1)
        for identifier, fence in workers["fast"].jobs():
            workers["fast"].ack(fence, identifier)
            fast += 1
        slow += len(workers["slow"].jobs())
    assert (fast, slow) == (59, 1)
    bench.check()


def test_among_the_equally_busy_it_goes_in_turn() -> None:
    bench, producer = bench_of("least_busy")
    workers = join(bench, a=4, b=4, c=8)
    assert Counter(served_one_by_one(bench, producer, workers, 30)) == {"a": 10, "b": 10, "c": 10}


def random_run(seed: int) -> list[tuple[str, list[str]]]:
    bench, producer = bench_of("random", seed=seed)
    workers = join(bench, a=100, b=200, c=300)
    put(producer, 0, 90)
    return [(name, worker.ids()) for name, worker in workers.items()]


def test_random_is_repeated_by_its_seed() -> None:
    assert random_run(1) == random_run(1)
    assert len({repr(random_run(seed)) for seed in range(5)}) == 5


def test_random_is_uniform_over_the_workers_with_credit() -> None:
    bench, producer = bench_of("random")
    workers = join(bench, a=10_000, b=20_000, c=30_000, d=5)
    for first in range(0, 9_000, 1_000):
        put(producer, first, 1_000)
    got = shares(workers)
    assert sum(got.values()) == 9_000 and got["d"] == 5, "who has no credit gets no more"
    for name in "abc":
        assert abs(got[name] - 3_000) < 200, got
    bench.check()


@pytest.mark.parametrize("strategy", ["round_robin", "least_busy", "random"])
def test_no_credit_is_left_over_and_none_is_overdrawn(strategy: str) -> None:
    bench, producer = bench_of(strategy)
    capacities = {"a": 1, "b": 3, "c": 250, "d": 17}
    workers = join(bench, **capacities)
    put(producer, 0, 1_000)
    assert shares(workers) == capacities
    workers["b"].send(m.Capacity(5))
    workers["e"] = bench.worker("e", "q", capacity=40)
    assert shares(workers) == {"a": 0, "b": 2, "c": 0, "d": 0, "e": 40}
    bench.check()


def test_a_strategy_is_changed_while_jobs_come() -> None:
    bench, producer = bench_of("round_robin")
    workers = join(bench, a=10, b=90)
    put(producer, 0, 10)
    assert shares(workers) == {"a": 5, "b": 5}
    producer.order("set", queue="q", options={"strategy": "least_busy"})
    put(producer, 10, 40)
    assert shares(workers) == {"a": 0, "b": 40}
    bench.check()


def test_of_many_idle_workers_a_turn_looks_at_no_more_than_it_has_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, producer = bench_of("round_robin")
    workers = join(bench, **{f"w{n}": 8 for n in range(400)})
    looks: list[None] = []
    credit = entities.Peer.credit.fget

    def looked_at(peer: entities.Peer) -> int:
        looks.append(None)
        assert credit is not None
        return int(credit(peer))

    monkeypatch.setattr(entities.Peer, "credit", property(looked_at))
    put(producer, 0, 3)
    assert sum(shares(workers).values()) == 3 and len(looks) < 30
    monkeypatch.undo()
    bench.check()
