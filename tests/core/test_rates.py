"""Rates, of a queue and of each key: never more in any stretch of time, never less, and woken in time for the next."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.harness import Bench, Peer
from zbroker.core.keys import BURST_MS, FORGET_KEYS, Keys, Rate, rate_of
from zbroker.core.states import State
from zclient.protocol import messages as m

RATES = [
    (1, 1_000),
    (3, 1_000),
    (7, 1_000),
    (10, 1_000),
    (30, 1_000),
    (333, 1_000),
    (1_000, 1_000),
    (5, 60_000),
    (2, 3),
]


def most(rate: tuple[int, int], window_ms: int) -> Fraction:
    """How many jobs may go in a stretch of so long, both ends included. A time that is no whole millisecond is rounded
    up to one: the stretch may have been longer by less than that."""
    jobs, per_ms = rate
    burst = max(Fraction(1), Fraction(BURST_MS * jobs, per_ms))
    rounded = Fraction(jobs - 1, jobs) if per_ms % jobs else 0
    return burst + (window_ms + rounded) * Fraction(jobs, per_ms)


def check_windows(times: list[int], rate: tuple[int, int]) -> None:
    """No stretch of time, from any job to any later one, holds more than the rate allows."""
    for start in range(len(times)):
        for end in range(start, len(times), max(1, len(times) // 50)):
            assert end - start + 1 <= most(rate, times[end] - times[start]), (start, end, times[start : end + 1])


def run(bench: Bench, worker: Peer, ms: int, *, acks: bool = True) -> list[tuple[int, str]]:
    """When each job came, on the bench's clock, while time passes and nothing happens but what the core asks for."""
    came: list[tuple[int, str]] = []
    end = bench.now + ms
    while True:
        for identifier, fence in worker.jobs():
            came.append((bench.now, identifier))
            if acks:
                worker.ack(fence, identifier)
        if bench.now >= end:
            return came
        bench.advance(min(max(1, bench.core.wanted_in()), end - bench.now))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("acks", [True, False])
def test_a_queue_sends_no_more_and_no_less_than_its_rate(rate: tuple[int, int], acks: bool) -> None:
    bench = Bench(policy={"rate": rate, "lease_ms": 86_400_000})
    producer = bench.producer()
    for start in (0, 1_000):
        producer.put("q", *(f"{n}" for n in range(start, start + 1_000)))
    worker = bench.worker("w", "q", capacity=2_000)
    span = 600 * rate[1] // rate[0]
    came = run(bench, worker, span, acks=acks)
    times = [at for at, _ in came]
    check_windows(times, rate)
    assert len(came) >= 1 + Fraction(span * rate[0], rate[1]) // 1, "it is woken for each, and loses no fraction"
    assert [identifier for _, identifier in came] == [f"{n}" for n in range(len(came))]
    bench.check()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("lanes", [0, 2, 100])
def test_each_key_has_a_rate_of_its_own(rate: tuple[int, int], lanes: int) -> None:
    bench = Bench(policy={"key_rate": rate, "lease_ms": 3_600_000}, resident_lanes=lanes)
    producer = bench.producer()
    keys = ["", "a", "b", "c"]
    for key in keys:
        options: dict[str, Any] = {"key": key} if key else {}
        producer.put("q", *(f"{key}-{n}" for n in range(300)), **options)
    worker = bench.worker("w", "q", capacity=1_000)
    came = run(bench, worker, 60 * rate[1] // rate[0])
    times: dict[str, list[int]] = defaultdict(list)
    for at, identifier in came:
        times[identifier.partition("-")[0]].append(at)
    assert set(times) == set(keys)
    for key in keys:
        check_windows(times[key], rate)
        assert len(times[key]) >= 60
    bench.check()


@pytest.mark.parametrize("option", ["rate", "key_rate"])
def test_after_a_pause_what_comes_in_a_tenth_of_a_second_goes_at_once(option: str) -> None:
    bench = Bench(policy={option: (100, 1_000)})
    producer = bench.producer()
    worker = bench.worker("w", "q", capacity=1_000)
    for _ in range(3):
        bench.advance(60_000)
        producer.put("q", *(f"{bench.now}/{n}" for n in range(50)))
        times = [at for at, _ in run(bench, worker, 1_000)]
        assert bisect_left(times, times[0] + 1) == 10
        assert len(times) == 50 and times[-1] - times[0] == 400
    bench.check()


@pytest.mark.parametrize("option", ["rate", "key_rate"])
def test_a_stall_of_the_broker_lets_no_more_through(option: str) -> None:
    bench = Bench(policy={option: (10, 1_000)})
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(100)))
    worker = bench.worker("w", "q", capacity=100)
    assert len(worker.jobs()) == 1
    bench.now += 60_000
    bench.wall += 60_000
    bench.turn(stalled_ms=60_000)
    bench.settle_down()
    assert worker.jobs() == [], "its clock stood still as well"
    times = [at for at, _ in run(bench, worker, 2_000)]
    check_windows(times, (10, 1_000))
    assert len(times) == 20
    bench.check()


@pytest.mark.parametrize("option", ["rate", "key_rate"])
def test_a_jump_of_the_wall_clock_changes_nothing(option: str) -> None:
    bench = Bench(policy={option: (10, 1_000)})
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(100)))
    worker = bench.worker("w", "q", capacity=100)
    for jump in (3_600_000, -7_200_000):
        bench.advance(0, wall_ms=jump)
        assert len(run(bench, worker, 1_000)) in (10, 11)
    bench.check()


@pytest.mark.parametrize("option", ["rate", "key_rate"])
def test_a_rate_holds_from_the_moment_it_is_set(option: str) -> None:
    bench = Bench(policy={"lease_ms": 3_600_000})
    producer = bench.producer()
    producer.order("set", queue="q", options={option: [1, 86_400_000]})
    producer.put("q", *(f"{n}" for n in range(1_000)))
    worker = bench.worker("w", "q", capacity=1_000)
    assert len(run(bench, worker, 60_000)) == 1
    producer.order("set", queue="q", options={option: [1, 1_000]})
    assert len(run(bench, worker, 10_000)) in (10, 11), "the debt to a slower rate is forgotten"
    producer.order("set", queue="q", options={option: [1, 86_400_000]})
    assert len(run(bench, worker, 60_000)) <= 1
    producer.order("unset", queue="q", options=[option])
    assert len(run(bench, worker, 1)) > 900
    bench.check()


@pytest.mark.parametrize("option", ["rate", "key_rate"])
def test_a_restart_begins_with_no_debt(option: str) -> None:
    bench = Bench(policy={option: (10, 1_000), "lease_ms": 3_600_000}, return_ms=60_000)
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(100)))
    worker = bench.worker("w", "q", capacity=100)
    held = [identifier.encode() for _, identifier in run(bench, worker, 3_000, acks=False)]
    fences = sorted(bench.core.state.deliveries)
    bench.crash()
    by_fence = bench.core.state.deliveries
    worker.connect([m.Held(fence, by_fence[fence].ids, []) for fence in fences])
    assert sum(len(delivery.ids) for delivery in by_fence.values()) >= len(held)
    assert 10 <= len(run(bench, worker, 1_000)) <= 12
    bench.check()


@pytest.mark.parametrize("options", [{"in_flight_limit": 1}, {"key_limit": 1}, {"in_flight_limit": 3, "key_limit": 2}])
@pytest.mark.parametrize("option", ["rate", "key_rate"])
def test_a_rate_beside_a_limit_rests_while_the_limit_holds(option: str, options: dict[str, int]) -> None:
    bench = Bench(policy={option: (10, 1_000), "lease_ms": 3_600_000, **options})
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(20)))
    worker = bench.worker("w", "q", capacity=20)
    limit = min(options.values())
    held = run(bench, worker, 5_000, acks=False)
    assert len(held) == limit
    fence = min(bench.core.state.deliveries)
    worker.ack(fence, held[0][1])
    assert len(worker.jobs()) == 1
    bench.check()


@pytest.mark.parametrize("key_limit", [0, 1, 2])
def test_a_suspect_waits_for_the_rate_of_its_key(key_limit: int) -> None:
    bench = Bench(policy={"key_rate": (1, 10_000), "lease_ms": 1_000, "max_attempts": 9, "key_limit": key_limit})
    producer = bench.producer()
    producer.put("q", "a", key="k")
    worker = bench.worker("w", "q")
    assert worker.ids() == ["a"]
    bench.advance(1_000)
    assert bench.count("q", State.READY) == 1
    worker.hello()
    times = run(bench, worker, 9_000)
    assert [(identifier, at) for at, identifier in times] == [("a", 1_010_000)]
    bench.check()


def test_entries_that_count_no_more_do_not_use_up_the_rate() -> None:
    bench = Bench(policy={"key_rate": (1, 1_000)})
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(50)), key="k")
    for n in range(40):
        producer.order("cancel", id=b"%d" % n)
    worker = bench.worker("w", "q", capacity=10)
    assert worker.ids() == ["40"]
    bench.advance(1_000)
    assert worker.ids() == ["41"]
    bench.check()


# ---- the schedule against a naive one


@example(rate=(2, 1), asks=[(0, 1), (1, 1)], start=0)
@example(rate=(7, 1_000), asks=[(0, 1), *[(143, 1)] * 6, (142, 1), (143, 1)], start=0)
@given(
    rate=st.tuples(st.integers(1, 2_000), st.integers(1, 120_000)),
    asks=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50)), max_size=60),
    start=st.integers(0, 1 << 40),
)
@settings(max_examples=300, deadline=None)
def test_a_rate_is_a_token_bucket(rate: tuple[int, int], asks: list[tuple[int, int]], start: int) -> None:
    """Tokens come at the rate, up to the burst; each job takes one; a job goes while there is one. Where the burst is
    one job, what comes beyond it within a millisecond is kept: nobody could have gone earlier."""
    schedule = rate_of(rate)
    assert schedule is not None
    interval = Fraction(rate[1], rate[0])
    burst = max(Fraction(1), BURST_MS / interval)
    tokens, now, used_until, at = burst, start, 0.0, start
    for wait, want in asks:
        now += wait
        tokens += (now - at) / interval
        if tokens > burst and (schedule.slack >= 1 or (tokens - burst) * interval >= 1):
            tokens = burst
        at = now
        free = schedule.free(used_until, now)
        close = Fraction(1, 1_000)  # a token that is as good as there may go, and one that only just is may wait
        assert int(tokens - close) <= free <= int(tokens + close)
        assert schedule.free(schedule.take(used_until, now, free), now) == 0
        if free == 0:
            later = schedule.next_at(used_until)
            assert later > now, "whoever waits until then would ask again and again"
            assert schedule.free(used_until, later) == 1
        taken = min(want, free)
        used_until = schedule.take(used_until, now, taken)
        tokens -= taken


@given(
    limit=st.integers(0, 3),
    rate=st.sampled_from([None, Rate(100.0, 0.0), Rate(10.0, 90.0)]),
    steps=st.lists(
        st.tuples(st.sampled_from(["took", "gave", "untook", "wait"]), st.sampled_from([b"", b"a", b"b"])), max_size=80
    ),
)
@settings(max_examples=200, deadline=None)
def test_keys_against_a_naive_count(limit: int, rate: Rate | None, steps: list[tuple[str, bytes]]) -> None:
    keys = Keys()
    keys.configure(limit, rate, {})
    running: dict[bytes, int] = defaultdict(int)
    went: dict[bytes, list[int]] = defaultdict(list)
    now = 1_000
    for step, key in steps:
        if step == "wait":
            now += 37
        elif step == "took" and keys.room(key, now) > 0:
            keys.took(key, 1, now)
            running[key] += 1
            went[key].append(now)
        elif step == "gave" and running[key]:
            keys.gave(key, 1)
            running[key] -= 1
        elif step == "untook" and running[key] and went[key] and went[key][-1] == now:
            keys.untook(key, 1)
            running[key] -= 1
            went[key].pop()
        assert keys.running == {key: jobs for key, jobs in running.items() if jobs}
        room = keys.room(key, now)
        if limit:
            assert room <= limit - running[key]
            assert running[key] <= limit
        if rate is None:
            assert room == (limit - running[key] if limit else 1 << 30)
            assert keys.next_at(key) is None
        else:
            check_windows(went[key], (10, 1_000) if rate.slack == 0 else (100, 1_000))
            if room <= 0 and (not limit or running[key] < limit):
                at = keys.next_at(key)
                assert at is not None and at > now and keys.room(key, at) > 0


def test_what_is_remembered_of_keys_with_a_rate_is_bounded_by_those_that_use_it() -> None:
    keys = Keys()
    keys.configure(0, rate_of((10, 1_000)), {})
    for n in range(100 * FORGET_KEYS):
        keys.took(b"%d" % n, 1, n)
        keys.gave(b"%d" % n, 1)
        assert len(keys._used_until) <= 2 * FORGET_KEYS
