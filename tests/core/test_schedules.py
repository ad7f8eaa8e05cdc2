"""Schedules: one job for each occurrence, whatever happens to the broker and its clock."""

from __future__ import annotations

import pytest

from tests.core.harness import WALL
from tests.core.schedules import DAY, FIRST, HOUR, MINUTE, SECOND, add, bench_of, made, one, person, put
from zbroker import limits as broker_limits
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.protocol.record import header_of

# ---- occurrences


def test_a_job_comes_at_each_minute_and_not_before() -> None:
    bench = bench_of()
    told = add(bench.producer(), options={"priority": 3, "headers": {"trace": "x"}})
    assert (told["next_at"], told["last_at"], told["words"]) == (FIRST, None, "Every minute")
    bench.advance(39_999)
    assert put(bench) == 0
    bench.advance(1)
    assert made(bench) == [FIRST]
    bench.advance(2 * MINUTE)
    assert made(bench) == [FIRST, FIRST + MINUTE, FIRST + 2 * MINUTE]
    worker = bench.worker("w", "q", capacity=1)
    delivery = worker.one(m.Deliver)
    assert delivery.ids == [b"s@%d" % FIRST]
    header = header_of(delivery.records[0])
    assert header.options == {"priority": 3, "headers": {"trace": "x", "schedule": "s", "occurrence": FIRST}}
    row = one(worker)
    assert (row["jobs"], row["skipped"]) == (3, 0)
    assert (row["last_at"], row["last_id"]) == (FIRST + 2 * MINUTE, b"s@%d" % (FIRST + 2 * MINUTE))
    assert row["next_at"] == FIRST + 3 * MINUTE
    bench.check()


def test_intervals_are_counted_from_when_the_schedule_was_made() -> None:
    bench = bench_of()
    told = add(bench.producer(), every=7 * SECOND)
    assert (told["next_at"], told["cron"], told["every_ms"]) == (WALL + 7000, "", 7000)
    bench.advance(3 * MINUTE)
    assert made(bench) == [WALL + n * 7000 for n in range(1, 26)]
    bench.crash()
    bench.advance(7 * SECOND)
    assert made(bench)[-1] == WALL + 26 * 7000


@pytest.mark.parametrize("ends", ["before commit", "before send", "committed"])
def test_a_crash_loses_no_occurrence_and_doubles_none(ends: str) -> None:
    bench = bench_of()
    add(bench.producer(), cron="*/2 * * * * *")
    for n in range(1, 31):
        bench.now += 2000
        bench.wall += 2000
        bench.turn(ends="" if ends == "committed" else ends)
        bench.crash()
        assert made(bench) == [WALL + 2000 * k for k in range(1, n + 1)]
    bench.check()


def test_jobs_that_are_done_and_forgotten_do_not_come_again() -> None:
    bench = bench_of(keep_done_count=0)
    add(bench.producer(), cron="* * * * * *")
    worker = bench.worker("w", "q", capacity=10)
    seen: list[str] = []
    for _ in range(20):
        bench.advance(SECOND)
        for identifier, fence in worker.jobs():
            seen.append(identifier)
            assert worker.ack(fence, identifier) == []
        bench.crash()
        worker.connect()
    assert seen == [f"s@{WALL + n * SECOND}" for n in range(1, 21)]


def test_occurrences_of_the_last_minute_are_on_time_whatever_is_caught_up_on() -> None:
    for catch_up in ("none", "one", "all"):
        bench = bench_of()
        add(bench.producer(), cron="*/10 * * * * *", catch_up=catch_up)
        bench.wall += 59_000
        bench.crash()
        assert made(bench) == [WALL + n * 10_000 for n in range(1, 6)], catch_up


@pytest.mark.parametrize(("late", "come"), [(60_000, 1), (60_001, 0)])
def test_a_minute_late_is_on_time_and_later_is_missed(late: int, come: int) -> None:
    bench = bench_of()
    first = add(bench.producer(), cron="0 * * * *", catch_up="none")["next_at"]
    bench.wall = first + late
    bench.crash()
    assert made(bench) == [first] * come


@pytest.mark.parametrize(
    ("catch_up", "most", "come"),
    [("none", 100, []), ("one", 100, [5]), ("all", 100, [1, 2, 3, 4, 5]), ("all", 2, [4, 5])],
)
def test_what_was_missed_is_caught_up_on_as_the_schedule_says(catch_up: str, most: int, come: list[int]) -> None:
    bench = bench_of()
    first = WALL + 46 * MINUTE + 40_000  # the next whole hour
    assert add(bench.producer(), cron="0 * * * *", catch_up=catch_up, catch_up_limit=most)["next_at"] == first
    bench.wall = first + 4 * HOUR + 10 * MINUTE
    bench.crash()
    assert made(bench) == [first + (n - 1) * HOUR for n in come]
    row = one(bench.producer())
    assert (row["next_at"], row["jobs"], row["skipped"]) == (first + 5 * HOUR, len(come), 0)
    bench.check()


def test_one_on_time_stands_for_those_that_were_missed() -> None:
    bench = bench_of()
    add(bench.producer())
    bench.wall += 3 * HOUR
    bench.crash()
    assert made(bench) == [FIRST + 3 * HOUR - MINUTE]


def test_all_is_bounded_after_a_long_time() -> None:
    bench = bench_of()
    add(bench.producer(), every=SECOND, catch_up="all")
    bench.wall += 400 * DAY
    bench.crash()
    assert put(bench) == limits.MAX_CATCH_UP + 61  # those of the last minute, both ends of it included
    assert made(bench) == [bench.wall - n * SECOND for n in reversed(range(limits.MAX_CATCH_UP + 61))]


def test_a_clock_that_jumps_ahead_fires_once_and_back_fires_nothing_again() -> None:
    bench = bench_of()
    add(bench.producer(), cron="0 * * * *")
    bench.advance(0, wall_ms=2 * DAY)
    assert put(bench) == 1
    bench.advance(0, wall_ms=-2 * DAY)
    bench.advance(HOUR)
    assert put(bench) == 1, "these hours had their jobs, or were missed"
    producer = person(bench)
    assert producer.order("pause_schedule", name="s")["next_at"] is None
    row = producer.order("resume_schedule", name="s")
    assert row["next_at"] - bench.wall <= HOUR
    bench.advance(HOUR)
    assert put(bench) == 2


# ---- what is in the way


def test_with_skip_nothing_comes_while_the_job_before_goes_on() -> None:
    bench = bench_of()
    add(bench.producer(), overlap="skip")
    worker = bench.worker("w", "q", capacity=10)
    bench.advance(4 * MINUTE)
    job, fence = worker.job()
    assert (job, one(worker)["skipped"]) == (f"s@{FIRST}", 3)
    worker.nack(fence, job, delay=90_000)
    bench.advance(MINUTE)
    assert worker.jobs() == [], "it waits for its next try"
    bench.advance(MINUTE)
    job, fence = worker.job()
    assert job == f"s@{FIRST}"
    worker.reject(fence, job)
    bench.advance(MINUTE)
    job, fence = worker.job()
    assert job == f"s@{FIRST + 6 * MINUTE}", "the one before is dead"
    worker.ack(fence, job)
    bench.advance(MINUTE)
    assert worker.ids() == [f"s@{FIRST + 7 * MINUTE}"]
    assert one(worker)["jobs"] == 3


@pytest.mark.parametrize("overlap", ["skip", "queue_one"])
def test_a_job_that_died_is_not_in_the_way_where_another_queue_gets_it(overlap: str) -> None:
    bench = bench_of()
    bench.producer("other").order("set", queue="q", options={"dead_to": "graves"})
    add(bench.producer(), overlap=overlap)
    worker = bench.worker("w", "q")
    bench.advance(MINUTE)
    job, fence = worker.job()
    worker.reject(fence, job)
    assert bench.counts("graves") == {"ready": 1}
    bench.advance(MINUTE)
    assert worker.ids() == [f"s@{FIRST + MINUTE}"]
    assert one(worker)["skipped"] == 0


def test_with_queue_one_a_single_job_waits_behind_the_one_that_runs() -> None:
    bench = bench_of()
    add(bench.producer(), overlap="queue_one")
    worker = bench.worker("w", "q")
    bench.advance(5 * MINUTE)
    job, fence = worker.job()
    assert bench.counts("q") == {"leased": 1, "ready": 1}
    worker.ack(fence, job)
    assert worker.ids() == [f"s@{FIRST + MINUTE}"]
    bench.advance(MINUTE)
    assert bench.counts("q") == {"leased": 1, "ready": 1}
    assert one(worker)["jobs"] == 3


def test_with_allow_they_pile_up() -> None:
    bench = bench_of()
    add(bench.producer(), overlap="allow")
    bench.worker("w", "q")
    bench.advance(5 * MINUTE)
    assert bench.counts("q") == {"leased": 1, "ready": 4}


def test_a_schedule_that_skips_catches_up_on_one() -> None:
    bench = bench_of()
    add(bench.producer(), cron="0 * * * *", overlap="skip", catch_up="all")
    bench.wall += 5 * HOUR
    bench.crash()
    row = one(bench.producer())
    assert (row["jobs"], row["skipped"]) == (1, 4)


# ---- what stands in the way of the broker


def test_with_a_low_disk_they_wait_and_then_catch_up() -> None:
    bench = bench_of()
    add(bench.producer(), cron="0 * * * *", catch_up="all")
    bench.core.set_disk_low(True)
    bench.advance(3 * HOUR)
    assert put(bench) == 0
    bench.check()
    bench.core.set_disk_low(False)
    bench.advance(2 * SECOND)
    assert put(bench) == 3
    assert len(list(bench.store.scan("timers", b"", b"\xff"))) == 1


def test_a_start_that_still_reads_its_history_postpones_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer, every=MINUTE)
    producer.put("h", *(f"{n}" for n in range(1000)))
    worker = bench.worker("w", "h", capacity=1000)
    for identifier, fence in worker.jobs():
        worker.ack(fence, identifier)
    monkeypatch.setattr(broker_limits, "READ_BACK_JOBS", 1)
    bench.wall += 61 * SECOND
    bench.reopen()
    bench.turn()
    assert not bench.core.state.history.complete and put(bench) == 0
    bench.settle_down()
    bench.advance(SECOND)
    assert bench.core.state.history.complete and made(bench) == [WALL + MINUTE]


def test_a_closed_queue_is_passed_over_and_that_is_counted_and_told() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer)
    producer.order("set", queue="q", options={"lease": DAY})
    producer.order("drain", queue="q")
    bench.advance(3 * MINUTE)
    row = one(producer)
    assert (put(bench), row["jobs"], row["skipped"], row["last_id"]) == (0, 0, 3, None)
    assert bench.told("schedule skipped") == [{"schedule": "s", "queue": "q", "reason": "closed"}] * 3
    assert add(producer, name="second")["next_at"] is not None, "a queue that is closed now may be open then"
    producer.order("resume", queue="q")
    bench.advance(MINUTE)
    assert put(bench) == 2


def test_occurrences_do_not_stop_at_the_length_of_the_queue() -> None:
    bench = bench_of()
    producer = bench.producer()
    producer.order("set", queue="q", options={"max_jobs": 1})
    add(producer)
    bench.advance(3 * MINUTE)
    assert bench.counts("q") == {"ready": 3}


def test_occurrences_take_the_options_of_jobs() -> None:
    bench = bench_of()
    add(bench.producer(), options={"delay": 5000, "ttl": 10_000, "max_attempts": 1, "key": "k"})
    bench.advance(40 * SECOND)
    assert bench.counts("q") == {"scheduled": 1}
    bench.advance(5 * SECOND)
    assert bench.counts("q") == {"ready": 1}
    bench.advance(10 * SECOND)
    assert bench.counts("q") == {"dead": 1}
    bench.check()


# ---- many


def test_thousands_that_fall_together_fire_in_slices_and_are_listed_in_order() -> None:
    bench = bench_of()
    producer = bench.producer()
    names = [f"s{n:04}" for n in range(2000)]
    with bench.one_turn():
        for number, name in enumerate(names, 1):
            told = {"name": name, "cron": "* * * * *", "queue": "q", "payload": b"p"}
            producer.send(m.Order(number, number, "set_schedule", told))
    producer.number = len(names)
    bench.now += 40_000
    bench.wall += 40_000
    bench.turn()
    most = broker_limits.TURN_TIMERS / broker_limits.SCHEDULE_WEIGHT
    assert 0 < put(bench) <= most
    bench.settle_down()
    assert put(bench) == len(names)
    assert [row["name"] for row in producer.ask("schedules")] == names
    bench.check()
