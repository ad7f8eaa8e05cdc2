"""Priorities, and the turns of keys: strict between priorities, fair between keys, in memory and on disk."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits
from zbroker.core.tick import View
from zclient.protocol import messages as m

ROOM = pytest.mark.parametrize("lanes", [0, 1, 2, 100])
"""Lanes that memory has room for: the others are found by a walk over the disk."""


def served(worker: Peer, jobs: int) -> list[str]:
    """The next jobs of the worker, in the order in which they came; it acks all that came before it looks again."""
    came: list[str] = []
    while len(came) < jobs:
        deliveries = worker.take(m.Deliver)
        assert deliveries, f"{len(came)} of {jobs} jobs came: {came[-20:]}"
        for delivery in deliveries:
            ids = [identifier.decode() for identifier in delivery.ids]
            came += ids
            worker.ack(delivery.fence, *ids)
    return came


def fill(producer: Peer, key: str, jobs: int, **options: Any) -> None:
    """Jobs of one key, named after it and their order."""
    ids = [f"{key}-{n}" for n in range(jobs)]
    for start in range(0, jobs, 1000):
        producer.put("q", *ids[start : start + 1000], key=key, **options)


def key_of(identifier: str) -> str:
    return identifier.partition("-")[0]


# ---- priority


@ROOM
@pytest.mark.parametrize("restarted", [False, True])
def test_priority_is_strict_and_jobs_of_one_come_in_their_order(lanes: int, restarted: bool) -> None:
    bench = Bench(resident_lanes=lanes)
    producer = bench.producer()
    for n in range(5):
        for priority in (0, -100, 7, 100):
            producer.put("q", f"{priority}/{n}", priority=priority)
    if restarted:
        bench.crash()
    worker = bench.worker("w", "q")
    expected = [f"{priority}/{n}" for priority in (100, 7, 0, -100) for n in range(5)]
    assert served(worker, 20) == expected
    bench.check()


@ROOM
def test_a_better_priority_that_comes_later_goes_first(lanes: int) -> None:
    bench = Bench(resident_lanes=lanes)
    producer = bench.producer()
    worker = bench.worker("w", "q")
    producer.put("q", *"abc")
    identifier, fence = worker.job()
    producer.put("q", "urgent", priority=1)
    worker.ack(fence, identifier)
    assert served(worker, 3) == ["urgent", "b", "c"]
    bench.check()


@ROOM
@pytest.mark.parametrize(
    ("how", "restarted"),
    [("nack", False), ("nack", True), ("release", False), ("release", True), ("snooze", True), ("lost", False)],
)
def test_a_job_that_comes_again_keeps_its_place(lanes: int, how: str, restarted: bool) -> None:
    bench = Bench(resident_lanes=lanes, policy={"backoff_min_ms": 10})
    producer = bench.producer()
    worker = bench.worker("w", "q")
    producer.put("q", *"abcd")
    identifier, fence = worker.job()
    worker.send(m.Capacity(0))
    if how == "nack":
        worker.nack(fence, identifier)
    elif how == "release":
        worker.release(fence, identifier)
    elif how == "snooze":
        worker.snooze(fence, identifier, delay=20)
    else:
        bench.advance(30_000)
        worker.hello(capacity=0)
    bench.advance(50)
    if restarted:
        worker.capacity = 0
        bench.crash()
        worker.connect()
    worker.send(m.Capacity(1))
    assert served(worker, 4) == list("abcd")
    bench.check()


# ---- fairness


@ROOM
@pytest.mark.parametrize("restarted", [False, True])
def test_a_tenant_with_thousands_of_jobs_does_not_delay_the_first_of_another(lanes: int, restarted: bool) -> None:
    bench = Bench(resident_lanes=lanes)
    producer = bench.producer()
    fill(producer, "large", 5_000)
    for n in range(5):
        fill(producer, f"small{n}", 1)
    if restarted:
        bench.crash()
    worker = bench.worker("w", "q", capacity=1)
    first = served(worker, 12)
    assert sorted(key_of(identifier) for identifier in first if not identifier.startswith("large")) == [
        f"small{n}" for n in range(5)
    ]
    bench.check()


@ROOM
def test_a_key_that_goes_on_sending_does_not_delay_the_others(lanes: int) -> None:
    bench = Bench(resident_lanes=lanes)
    producer = bench.producer()
    worker = bench.worker("w", "q")
    keys = ["aa", "kk", "ss", "zz"]
    for key in keys:
        fill(producer, key, 50)
    came: Counter[str] = Counter()
    for n in range(80):
        identifier, fence = worker.job()
        came[key_of(identifier)] += 1
        producer.put("q", f"aa-more{n}", key="aa")
        worker.ack(fence, identifier)
    assert all(abs(came[key] - 20) <= 2 for key in keys), came
    bench.check()


@ROOM
def test_a_key_whose_jobs_come_back_does_not_delay_the_others(lanes: int) -> None:
    bench = Bench(resident_lanes=lanes)
    producer = bench.producer()
    worker = bench.worker("w", "q")
    keys = ["aa", "kk", "ss", "zz"]
    for key in keys:
        fill(producer, key, 30)
    came: Counter[str] = Counter()
    for _ in range(80):
        identifier, fence = worker.job()
        came[key_of(identifier)] += 1
        if key_of(identifier) == "aa":
            worker.release(fence, identifier)
        else:
            worker.ack(fence, identifier)
    assert all(abs(came[key] - 20) <= 2 for key in keys), came
    bench.check()


@ROOM
@pytest.mark.parametrize("capacity", [1, 3, 40])
@pytest.mark.parametrize("restarted", [False, True])
def test_weights_say_how_many_turns_a_key_gets(lanes: int, capacity: int, restarted: bool) -> None:
    bench = Bench(resident_lanes=lanes, policy={"key_weights": {"b": 3, "c": 5}})
    producer = bench.producer()
    for key in "abcd":
        fill(producer, key, 200)
    if restarted:
        bench.crash()
    worker = bench.worker("w", "q", capacity=capacity)
    came = Counter(key_of(identifier) for identifier in served(worker, 200)[:200])
    for key, weight in {"a": 1, "b": 3, "c": 5, "d": 1}.items():
        assert abs(came[key] - 20 * weight) <= 2 * weight, came
    bench.check()


def test_weights_hold_from_the_moment_they_are_set() -> None:
    bench = Bench()
    producer = bench.producer()
    for key in "ab":
        fill(producer, key, 100)
    worker = bench.worker("w", "q")
    assert Counter(map(key_of, served(worker, 20))) == {"a": 10, "b": 10}
    producer.order("set", queue="q", options={"key_weights": {"b": 4}})
    came = Counter(map(key_of, served(worker, 50)))
    assert abs(came["b"] - 40) <= 4
    producer.order("unset", queue="q", options=["key_weights"])
    came = Counter(map(key_of, served(worker, 20)))
    assert abs(came["a"] - 10) <= 2
    bench.check()


@ROOM
def test_every_key_of_thousands_has_its_first_turn_before_any_has_its_second(lanes: int) -> None:
    keys = 2_000
    bench = Bench(resident_lanes=lanes)
    producer = bench.producer()
    for start in range(0, keys, 500):
        with bench.one_turn():
            for n in range(start, start + 500):
                number = producer.next_number()
                ids = [b"%d-%d" % (n, i) for i in range(2)]
                producer.send(m.Put(number, number, [m.Group("q", {"key": f"{n:04}"}, ids, [b""] * 2)]))
    worker = bench.worker("w", "q", capacity=100)
    came = served(worker, 2 * keys)
    slack = 100 + lanes  # what is in memory has turns of its own beside the walk
    assert len({key_of(identifier) for identifier in came[: keys + slack]}) >= keys - slack
    assert sorted(Counter(map(key_of, came)).values()) == [2] * keys
    bench.check()


def test_a_hundred_thousand_keys_are_served_without_looking_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = 100_000
    bench = Bench(policy={"key_limit": 1})
    producer = bench.producer()
    for start in range(0, keys, 1000):
        number = producer.next_number()
        groups = [m.Group("q", {"key": f"{n}"}, [b"%d" % n], [b""]) for n in range(start, start + 1000)]
        producer.send(m.Put(number, number, groups))
    scans: list[str] = []
    scan = View.scan

    def counted(view: View, space: str, *where: bytes, **options: Any) -> Any:
        scans.append(space)
        return scan(view, space, *where, **options)

    monkeypatch.setattr(View, "scan", counted)
    worker = bench.worker("w", "q", capacity=1000)
    assert len(set(served(worker, keys))) == keys
    assert scans.count("ready") <= 10, "all lanes are in memory, and nothing is looked for"
    assert bench.core.state.queues["q"].ring.keys.running == {}
    assert keys < limits.RESIDENT_LANES


@ROOM
@pytest.mark.parametrize("first", ["better", "worse"])
@pytest.mark.parametrize("restarted", [False, True])
def test_keys_that_may_send_nothing_do_not_hold_up_a_worse_priority(lanes: int, first: str, restarted: bool) -> None:
    bench = Bench(resident_lanes=lanes, policy={"key_limit": 1})
    producer = bench.producer()
    for priority in (5, 0) if first == "better" else (0, 5):
        for key in ("abcdefgh", "xyz")[priority == 0]:
            producer.put("q", f"{key}0", f"{key}1", key=key, priority=priority)
    if restarted:
        bench.crash()
    worker = bench.worker("w", "q", capacity=50)
    held = dict(worker.jobs())
    assert sorted(held) == [f"{key}0" for key in "abcdefghxyz"]
    assert bench.core.wanted_in() > 0
    worker.ack(held.pop("c0"), "c0")
    assert worker.job()[0] == "c1", "the walk comes back to the better priority"
    worker.ack(held.pop("y0"), "y0")
    assert worker.job()[0] == "y1"
    bench.check()
