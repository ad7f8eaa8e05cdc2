"""What people and the file do with schedules: set, change, pause, run and remove them; and what none can be."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.core.harness import WALL, Bench
from tests.core.schedules import DAY, FIRST, HOUR, MINUTE, SECOND, add, bench_of, made, one, person, put, refused
from zbroker import limits as broker_limits
from zclient.protocol import limits
from zclient.protocol import messages as m

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


def test_at_a_time_from_before_a_change_nothing_comes() -> None:
    bench = bench_of()
    producer = bench.producer()
    producer.put("q", "other")
    add(producer, every=MINUTE)
    add(producer, every=HOUR)
    bench.advance(HOUR - 1)
    assert put(bench) == 1
    bench.advance(1)
    assert put(bench) == 2


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
