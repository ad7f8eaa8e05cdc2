"""Schedules: one job for each occurrence, whatever happens to broker and clock; and what people do with them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.core.harness import WALL, Bench, Peer
from zbroker import limits as broker_limits
from zbroker.calendar import Calendar
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.protocol.record import header_of

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 24 * 3_600_000
FIRST = WALL + 40_000
"""The first whole minute behind the start of a bench."""


def bench_of(**settings: Any) -> Bench:
    """A broker whose workers hold their jobs for long."""
    return Bench(calendar=Calendar(), policy={"lease_ms": DAY}, **settings)


def person(bench: Bench) -> Peer:
    """Somebody new, with orders that nobody else numbered so."""
    return bench.producer(f"person {bench.now} {len(bench.routes)} {bench.turns}"[:16])


def add(peer: Peer, name: str = "s", **changes: Any) -> dict[str, Any]:
    """Set a schedule of every minute."""
    told = {"name": name, "cron": "* * * * *", "queue": "q", "payload": b"p"} | changes
    if "every" in told:
        told.pop("cron")
    answer: dict[str, Any] = peer.order("set_schedule", **told)
    return answer


def refused(peer: Peer, verb: str = "set_schedule", **changes: Any) -> m.Failure:
    told = {"name": "s", "cron": "* * * * *", "queue": "q", "payload": b"p"} | changes
    number = peer.next_number()
    return peer.refused(m.Order(number, number, verb, told))


def one(peer: Peer, name: str = "s") -> dict[str, Any]:
    """What the broker tells of a schedule."""
    (found,) = [row for row in peer.ask("schedules") if row["name"] == name]
    return dict(found)


def made(bench: Bench, name: str = "s") -> list[int]:
    """When the occurrences were whose jobs were put and still wait, in order."""
    prefix = f"{name}@".encode()
    ids = [key.removeprefix(prefix) for key, _ in bench.store.scan("jobs", prefix, prefix + b"\xff")]
    return sorted(int(time) for time in ids if time.isdigit())


def put(bench: Bench, queue: str = "q") -> int:
    """How many jobs a queue was ever given."""
    found = bench.core.state.queues.get(queue)
    return found.counts.totals["put"] if found is not None else 0


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
    assert put(bench) == limits.MAX_CATCH_UP + 60
    assert made(bench) == [bench.wall - n * SECOND for n in reversed(range(limits.MAX_CATCH_UP + 60))]


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


# ---- people


def test_run_now_is_one_job_beside_the_occurrences() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer)
    bench.wall = FIRST  # the very millisecond of an occurrence
    with bench.one_turn():
        for number in (101, 102):
            producer.send(m.Order(number, 101, "run_schedule", {"name": "s"}))
    ids = [producer.value_of(number)["id"] for number in (101, 102)]
    assert ids == [b"s@%d.run" % FIRST, b"s@%d.run" % (FIRST + 1)]
    assert put(bench) == 3 and made(bench) == [FIRST]
    producer.number = 102
    again = producer.order("run_schedule", number=102, name="s")
    assert (again["id"], put(bench)) == (ids[1], 3), "an order sent again is done once"
    row = one(producer)
    assert (row["jobs"], row["last_id"], row["next_at"]) == (3, b"s@%d" % FIRST, FIRST + MINUTE)


def test_an_occurrence_does_not_overlap_with_a_run_that_was_asked_for() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer, overlap="skip")
    worker = bench.worker("w", "q", capacity=5)
    bench.advance(MINUTE)
    first, first_fence = worker.job()
    producer.order("run_schedule", name="s")
    run, fence = worker.job()
    assert run.endswith(".run"), "whoever asks for it gets it, whatever runs"
    worker.ack(fence, run)
    bench.advance(MINUTE)
    assert worker.jobs() == [], "the occurrence before still runs"
    producer.order("run_schedule", name="s")
    run, fence = worker.job()
    worker.ack(first_fence, first)
    bench.advance(MINUTE)
    assert worker.jobs() == [], "the run still goes on"
    worker.ack(fence, run)
    bench.advance(MINUTE)
    assert len(worker.jobs()) == 1


def test_run_now_is_refused_as_any_job_is() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer, every=DAY)
    producer.order("set", queue="q", options={"max_jobs": 1})
    producer.put("q", "a")
    assert refused(producer, "run_schedule").code == "queue_full"
    producer.order("drain", queue="q")
    assert refused(producer, "run_schedule").code == "closed"
    bench.core.set_disk_low(True)
    assert refused(producer, "run_schedule").code == "disk_full"
    assert (one(producer)["jobs"], put(bench)) == (0, 1)


def test_a_paused_schedule_rests_and_catches_up_on_nothing() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer, catch_up="all")
    bench.advance(MINUTE)
    row = producer.order("pause_schedule", name="s")
    assert (row["paused"], row["next_at"]) == (True, None)
    bench.advance(HOUR)
    bench.crash()
    bench.advance(HOUR)
    producer.connect()
    assert put(bench) == 1
    producer.order("run_schedule", name="s")
    assert put(bench) == 2
    row = producer.order("resume_schedule", name="s")
    assert (row["paused"], row["next_at"]) == (False, FIRST + 2 * HOUR + MINUTE)
    bench.advance(MINUTE)
    assert put(bench) == 3
    assert [fact["schedule"] for fact in bench.told("schedule paused") + bench.told("schedule resumed")] == ["s", "s"]


def test_a_removed_schedule_leaves_its_jobs_and_can_be_made_anew() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer)
    bench.advance(MINUTE)
    assert producer.order("remove_schedule", name="s")["jobs"] == 1
    assert producer.ask("schedules") == []
    bench.advance(HOUR)
    assert made(bench) == [FIRST]
    assert add(producer, cron="0 * * * *")["jobs"] == 0
    bench.advance(HOUR)
    assert put(bench) == 2


def test_a_change_holds_from_now_on_and_keeps_the_past() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer, every=MINUTE)
    bench.advance(90 * SECOND)
    row = add(producer, every=MINUTE, queue="other", payload=b"new", overlap="skip")
    assert (row["next_at"], row["jobs"], row["queue"]) == (WALL + 2 * MINUTE, 1, "other")
    row = add(producer, cron="0 * * * *", queue="other")
    assert (row["every_ms"], row["jobs"]) == (0, 1)
    assert datetime.fromtimestamp(row["next_at"] / 1000, UTC).minute == 0
    bench.advance(HOUR)
    assert (put(bench), put(bench, "other")) == (1, 1)
    assert bench.worker("w", "other").one(m.Deliver).records[0].endswith(b"p")


def test_setting_the_same_again_and_again_writes_nothing_more() -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer, cron="0 0 1 1 *")
    for payload in (b"1", b"2", b"1", b"2", b"2"):
        add(producer, cron="0 0 1 1 *", payload=payload)
    assert len(list(bench.store.scan("timers", b"", b"\xff"))) == 1
    assert len(bench.told("schedule set")) == 5


def test_a_paused_schedule_that_is_set_to_go_on_begins_from_now() -> None:
    bench = bench_of()
    producer = bench.producer()
    assert add(producer, paused=True)["next_at"] is None
    bench.advance(HOUR)
    assert put(bench) == 0
    assert add(producer, paused=False)["next_at"] == FIRST + HOUR
    bench.advance(MINUTE)
    assert put(bench) == 1


@pytest.mark.parametrize("verb", ["remove_schedule", "run_schedule", "pause_schedule", "resume_schedule"])
@pytest.mark.parametrize("name", ["nobody", 7, None, ["s"]])
def test_what_is_not_there_is_not_found(verb: str, name: Any) -> None:
    bench = bench_of()
    producer = bench.producer()
    add(producer)
    assert refused(producer, verb, name=name).code == "not_found"
    assert len(producer.ask("schedules")) == 1


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


# ---- the file


def declared(bench: Bench, **schedules: dict[str, Any]) -> None:
    """Start the broker anew with a file that declares these."""
    told = {name: {"cron": "* * * * *", "queue": "q", "payload": b"p"} | one for name, one in schedules.items()}
    bench.settings = replace(bench.settings, schedules=told)
    bench.crash()


def names(bench: Bench) -> dict[str, bool]:
    return {row["name"]: row["declared"] for row in bench.producer("asks").ask("schedules")}


def test_what_the_file_declares_is_made_changed_and_removed_at_a_start() -> None:
    bench = bench_of()
    declared(bench, a={}, b={"queue": "other"})
    assert names(bench) == {"a": True, "b": True}
    bench.advance(MINUTE)
    assert (put(bench), put(bench, "other")) == (1, 1)
    declared(bench, a={"queue": "other"}, c={})
    assert names(bench) == {"a": True, "c": True}
    assert [fact["schedule"] for fact in bench.told("schedule removed")] == ["b"]
    bench.advance(MINUTE)
    assert (put(bench), put(bench, "other")) == (2, 2)
    assert one(bench.producer(), "a")["jobs"] == 2


def test_a_start_with_the_same_file_writes_and_says_nothing_and_misses_nothing() -> None:
    bench = bench_of()
    declared(bench, a={"cron": "0 0 1 1 *"}, b={"cron": "0 * * * *", "catch_up": "all"})
    told = len(bench.told("schedule set"))
    for _ in range(3):
        bench.wall += HOUR
        declared(bench, a={"cron": "0 0 1 1 *"}, b={"cron": "0 * * * *", "catch_up": "all"})
    assert len(bench.told("schedule set")) == told == 2
    assert put(bench) == 3
    assert len(list(bench.store.scan("timers", b"", b"\xff"))) == 2


def test_what_people_set_wins_over_the_file_until_they_remove_it() -> None:
    bench = bench_of()
    declared(bench, s={})
    add(bench.producer(), queue="mine")
    declared(bench, s={})
    assert one(bench.producer())["queue"] == "mine" and names(bench) == {"s": False}
    declared(bench)
    assert names(bench) == {"s": False}
    person(bench).order("remove_schedule", name="s")
    declared(bench, s={})
    assert one(bench.producer())["queue"] == "q" and names(bench) == {"s": True}


def test_a_declared_schedule_that_somebody_paused_stays_paused() -> None:
    bench = bench_of()
    declared(bench, s={}, t={"paused": True})
    producer = person(bench)
    producer.order("pause_schedule", name="s")
    producer.order("resume_schedule", name="t")
    declared(bench, s={"queue": "other"}, t={"paused": True})
    assert (one(bench.producer())["paused"], one(bench.producer(), "t")["paused"]) == (True, False)
    assert names(bench) == {"s": True, "t": True}


def test_what_the_file_declares_and_cannot_be_is_told_and_nothing_more() -> None:
    bench = bench_of()
    declared(bench, bad={"payload": bytes(limits.MAX_PAYLOAD_BYTES + 1)}, good={})
    assert names(bench) == {"good": True}
    ((ignored),) = bench.told("schedule ignored")
    assert ignored["schedule"] == "bad" and "payload" in ignored["reason"]


# ---- refusals


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "n" * 41}, "1 to 40"),
    ({"name": "a b"}, "letters"),
    ({"name": 7}, "name"),
    ({"cron": ""}, "cron expression, or an interval"),
    ({"every": 1000}, "cron expression, or an interval"),
    ({"cron": "", "every": 999}, "1000 ms to ten years"),
    ({"cron": "", "every": limits.MAX_DELAY_MS + 1}, "1000 ms to ten years"),
    ({"cron": "", "every": 1000.0}, "cron expression, or an interval"),
    ({"cron": "61 * * * *"}, "no cron expression"),
    ({"cron": "* * * *"}, "no cron expression"),
    ({"cron": "9" * 5000 + " * * * *"}, "at most 200 characters"),
    ({"cron": "0 0 30 2 *"}, "no cron expression"),
    ({"cron": "0 0 */30 2 mon#5"}, "never comes"),
    ({"cron": "", "every": 1000, "zone": "Mars/Base"}, "no time zone"),
    ({"zone": "../../etc/passwd"}, "no time zone"),
    ({"zone": "z" * 5000}, "no time zone"),
    ({"zone": 7}, "zone"),
    ({"overlap": "maybe"}, "overlap"),
    ({"catch_up": "some"}, "catch_up"),
    ({"catch_up": ["one"]}, "catch_up"),
    ({"catch_up_limit": 0}, "catch_up_limit"),
    ({"catch_up_limit": 101}, "catch_up_limit"),
    ({"payload": "text"}, "payload"),
    ({"payload": bytes(limits.MAX_PAYLOAD_BYTES + 1)}, "payload"),
    ({"queue": "mmi.x"}, "mmi."),
    ({"queue": 7}, "queue"),
    ({"options": {"at": 5}}, "no at"),
    ({"options": {"unique": "u"}}, "no unique"),
    ({"options": {"priority": 101}}, "priority"),
    ({"options": {"headers": 7}}, "headers"),
    ({"options": {"headers": {"h": "x" * 8150}}}, "headers"),
    ({"options": []}, "options"),
]


@pytest.mark.parametrize(("changes", "says"), BAD)
def test_what_no_schedule_can_be_is_refused(changes: dict[str, Any], says: str) -> None:
    bench = bench_of()
    producer = bench.producer()
    failure = refused(producer, **changes)
    assert failure.code in ("invalid", "too_large") and says in failure.text
    assert producer.ask("schedules") == []


def test_a_refused_change_changes_nothing() -> None:
    bench = bench_of()
    producer = bench.producer()
    before = add(producer)
    refused(producer, cron="nonsense")
    assert producer.ask("schedules") == [before]


def test_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "MAX_SCHEDULES", 3)
    bench = bench_of()
    producer = bench.producer()
    for name in ("a", "b", "c"):
        add(producer, name)
    assert "as many as there may be" in refused(producer, name="d").text
    add(producer, "c", queue="other")
    bench.crash()
    producer.connect()
    assert refused(producer, name="d").code == "invalid"
    producer.order("remove_schedule", name="a")
    add(producer, "d")


def test_a_core_without_a_calendar_has_none() -> None:
    bench = Bench()
    producer = bench.producer()
    assert refused(producer).code == "not_found"
    assert producer.ask("schedules") == []


def test_names_of_the_longest_kind_make_ids_that_jobs_can_have() -> None:
    bench = bench_of()
    producer = bench.producer()
    name = "n" * limits.MAX_SCHEDULE_CHARS
    add(producer, name)
    bench.advance(MINUTE)
    identifier = producer.order("run_schedule", name=name)["id"]
    assert len(identifier) <= limits.MAX_ID_BYTES
    assert producer.ask("show", id=one(producer, name)["last_id"])["queue"] == "q"


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
