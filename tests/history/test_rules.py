"""The judge, on a sound history and on one with a fault planted: what it must let pass, and what it must name."""

from pathlib import Path

import pytest

from tests.history import records as r
from tests.history.rules import NAMES
from tests.history.sound import ACK, NACK, RELEASE, Book, Plant, sound


def test_what_may_happen_is_no_fault(tmp_path: Path) -> None:
    report = sound().judged(tmp_path)
    assert report.lines()[1:] == ["no fault"]
    told = {name: count for name, count in report.counts.items() if name != "records"}
    sent = {"sent": 16, "confirmed": 13, "unknown": 2, "recovered": 1, "absent": 1, "failed": 1}
    ran = {"runs": 18, "repeats": 5, "done": 11, "dead": 2, "cancelled": 1, "ordered": 4, "torn": 0}
    repeats = {"repeat: killed": 1, "repeat: stopped": 1, "repeat: failed": 2, "repeat: given back": 1}
    assert told == sent | ran | repeats | {"late effects": 1}
    assert report.counts["records"] == len(sound().lines) + len({line[0] for line in sound().lines})  # and the headers


def lose_a_job(book: Book) -> None:
    book.without("recovered", r.UNKNOWN, r.START, r.SETTLE, r.ANSWER, r.FINAL)
    book.note("sender/1", r.CONFIRMED, 1.5, "recovered")


def lose_what_ran(book: Book) -> None:
    book.without("lane 2", r.FINAL)


def lose_what_was_unknown_and_ran(book: Book) -> None:
    book.without("recovered", r.FINAL)


def leave_it_ready(book: Book) -> None:
    book.change("lane 2", r.FINAL, 3, "ready")


def invent_a_job(book: Book) -> None:
    book.without("lane 2", r.SEND, r.CONFIRMED)


def store_what_was_refused(book: Book) -> None:
    book.ran("threads/2", "refused", 99, 5)
    book.over("refused", "done", 99)


def lose_an_effect(book: Book) -> None:
    book.without("killed", r.EFFECT)


def double_an_effect(book: Book) -> None:
    book.note("driver/1", r.EFFECT, 3.5, "killed", 12, 7)


def change_an_effect(book: Book) -> None:
    book.change("killed", r.EFFECT, 4, 8)


def take_an_effect_from_nowhere(book: Book) -> None:
    book.change("killed", r.EFFECT, 3, 10)


def have_the_effect_after_the_end(book: Book) -> None:
    book.change("stopped", r.FINAL, 4, 21)
    book.change("stopped", r.EFFECT, 3, 22)


def run_twice_under_one_fence(book: Book) -> None:
    book.note("consumer/1", r.START, 212.1, "lane 2", 82, 1)


def begin_late_in_one_who_was_not_harmed(book: Book) -> None:
    book.note("threads/2", r.START, 5.5, "killed", 10, 1)


def repeat_what_was_not_lost(book: Book) -> None:
    book.ran("consumer/1", "lane 2", 90, 213, attempt=2)
    book.without("lane 2", r.SETTLE, r.ANSWER)


def give_to_two_who_live(book: Book) -> None:
    book.lines = [line for line in book.lines if line[1] != r.HARM or line[4] != "threads/1"]


def take_it_from_the_living(book: Book) -> None:
    book.lines = [line for line in book.lines if line[1] != r.HARM or line[4] != "consumer/1"]


def take_it_long_after_it_stood_still(book: Book) -> None:
    for kind in (r.START, r.SETTLE):
        book.change("stopped", kind, 1, 20)
        book.change("stopped", kind, 1, 25, which=1)


def take_it_because_of_the_broker(book: Book) -> None:
    take_it_from_the_living(book)
    book.harm(3, "broker/1", "killed")


def run_what_is_done(book: Book) -> None:
    book.note("threads/2", r.START, 4, "killed", 13, 3)


def run_what_was_rejected(book: Book) -> None:
    book.ran("threads/2", "rejected", 54, 103, attempt=2)


def overlap_two_leases(book: Book) -> None:
    """The first of two runs was counted, although the other one had begun."""
    book.note("threads/1", r.SETTLE, 3.2, "killed", 11, NACK)
    book.note("threads/1", r.ANSWER, 3.3, "killed", 11, True)


def overlap_two_leases_that_were_asked_for(book: Book) -> None:
    book.note("consumer/1", r.VALID, 4.7, "stopped", 21)


def overlap_with_the_one_after_the_next(book: Book) -> None:
    book.note("threads/2", r.START, 4.2, "killed", 13, 3)
    book.note("threads/1", r.VALID, 4.3, "killed", 11)


def overlap_the_older_within_the_newer(book: Book) -> None:
    book.change("stopped", r.START, 1, 4.8)
    book.note("consumer/1", r.VALID, 4.9, "stopped", 21)


def run_twice_at_most(book: Book) -> None:
    book.change("once", r.SETTLE, 4, RELEASE)
    book.ran("consumer/1", "once", 62, 103)
    book.change("once", r.FINAL, 4, 62)


def let_attempts_shrink(book: Book) -> None:
    book.change("killed", r.START, 4, 3)


def burn_no_attempt(book: Book) -> None:
    book.change("dying", r.START, 4, 1, which=1)


def die_early_as_the_broker_says(book: Book) -> None:
    book.change("dying", r.FINAL, 5, 2)


def die_early_as_the_workers_say(book: Book) -> None:
    book.lines = [line for line in book.lines if line[3] != "dying" or 43 not in line or line[1] == r.FINAL]


def die_of_nothing(book: Book) -> None:
    book.change("rejected", r.SETTLE, 4, NACK)


def die_lost_although_it_may_run_again(book: Book) -> None:
    book.change("rejected", r.FINAL, 6, "lost")


def die_of_an_attempt_that_did_not_fail(book: Book) -> None:
    book.change("once", r.SETTLE, 4, RELEASE)
    book.change("once", r.FINAL, 3, "dead")
    book.change("once", r.FINAL, 6, "attempts")


def die_late(book: Book) -> None:
    book.ran("threads/2", "dying", 44, 105, NACK, 4)


def be_done_by_nobody(book: Book) -> None:
    book.change("lane 2", r.FINAL, 4, 99)


def die_although_it_was_done(book: Book) -> None:
    book.change("dying", r.SETTLE, 4, ACK, which=2)


def cancel_what_nobody_cancelled(book: Book) -> None:
    book.without("cancelled", r.ORDER)


def run_what_was_cancelled(book: Book) -> None:
    book.ran("threads/2", "cancelled", 91, 106)


def swap_a_group(book: Book) -> None:
    book.change("strict 1", r.START, 1, 212.7)
    book.change("strict 1", r.SETTLE, 1, 212.8)


def swap_a_lane(book: Book) -> None:
    for kind in (r.START, r.SETTLE, r.ANSWER):
        book.change("lane 1", kind, 3, 90)
    book.change("lane 1", r.FINAL, 4, 90)


def run_a_group_together(book: Book) -> None:
    book.change("strict 1", r.SETTLE, 1, 212.2)


PLANTS: dict[Plant, str] = {
    lose_a_job: "lost",
    lose_what_ran: "lost",
    lose_what_was_unknown_and_ran: "unfinished",
    leave_it_ready: "unfinished",
    invent_a_job: "invented",
    store_what_was_refused: "refused and stored",
    lose_an_effect: "effect lost",
    double_an_effect: "effect doubled",
    change_an_effect: "effect changed",
    take_an_effect_from_nowhere: "effect of nobody",
    have_the_effect_after_the_end: "effect of nobody",
    run_twice_under_one_fence: "fence twice",
    begin_late_in_one_who_was_not_harmed: "late start",
    repeat_what_was_not_lost: "repeated",
    give_to_two_who_live: "repeated",
    take_it_from_the_living: "taken",
    take_it_long_after_it_stood_still: "taken",
    take_it_because_of_the_broker: "taken",
    run_what_is_done: "run after its end",
    run_what_was_rejected: "run after its end",
    overlap_two_leases: "overlap",
    overlap_two_leases_that_were_asked_for: "overlap",
    overlap_with_the_one_after_the_next: "overlap",
    overlap_the_older_within_the_newer: "overlap",
    run_twice_at_most: "more than once",
    let_attempts_shrink: "attempts",
    burn_no_attempt: "attempts",
    die_early_as_the_broker_says: "dead early",
    die_early_as_the_workers_say: "dead early",
    die_of_nothing: "dead early",
    die_lost_although_it_may_run_again: "dead early",
    die_of_an_attempt_that_did_not_fail: "dead early",
    die_late: "dead late",
    be_done_by_nobody: "end of nobody",
    die_although_it_was_done: "end of nobody",
    cancel_what_nobody_cancelled: "cancelled",
    run_what_was_cancelled: "cancelled",
    swap_a_group: "order",
    swap_a_lane: "order",
    run_a_group_together: "together",
}


def test_every_fault_is_planted() -> None:
    assert set(PLANTS.values()) == set(NAMES)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_named(plant: Plant, tmp_path: Path) -> None:
    book = sound()
    plant(book)
    report = book.judged(tmp_path)
    assert PLANTS[plant] in report.named
    assert {fault.name for fault in report.faults} == set(report.named)
    assert any(f"{fault.name}: job {fault.job}" in line for fault in report.faults for line in report.lines())


def test_fences_of_one_tick_are_no_order(tmp_path: Path) -> None:
    """With two workers a tick has two deliveries: the first job of a lane may be in the second."""
    book = sound()
    for kind in (r.START, r.SETTLE, r.ANSWER):
        book.change("lane 1", kind, 3, 83)
        book.change("lane 3", kind, 3, 84)
    book.change("lane 1", r.FINAL, 4, 83)
    book.change("lane 3", r.FINAL, 4, 84)
    assert book.judged(tmp_path).is_clean


def test_order_is_not_asked_of_a_lane_to_whose_worker_something_was_done(tmp_path: Path) -> None:
    book = sound()
    swap_a_lane(book)
    book.harm(201.5, "threads/2", "cut")
    report = book.judged(tmp_path)
    assert (report.is_clean, report.counts["ordered"]) == (True, 2)


def test_a_run_that_begins_late_without_a_lease_overlaps_nothing(tmp_path: Path) -> None:
    """It was delivered, its process stood still, and began it when another run was done."""
    book = sound()
    book.change("stopped", r.START, 1, 5.05)
    assert book.judged(tmp_path).is_clean


def test_a_link_belongs_to_all_processes_of_its_place(tmp_path: Path) -> None:
    book = sound()
    take_it_from_the_living(book)
    book.harm(2.2, "consumer", "dark")
    report = book.judged(tmp_path)
    assert (report.named, report.counts["repeat: dark"]) == ({}, 1)


def test_a_story_tells_it_in_order(tmp_path: Path) -> None:
    book = sound()
    lose_an_effect(book)
    (story,) = book.judged(tmp_path).stories
    assert [line.split(maxsplit=1)[-1] for line in story.splitlines()] == [
        "killed",
        "sender/1 notes send bank None 0 {'effect': 7}",
        "sender/1 notes confirmed",
        "threads/1 notes start 11 1",
        "threads/1 is killed",
        "threads/2 notes start 12 2",
        "threads/2 notes settle 12 1",
        "threads/2 notes answer 12 True",
        "driver/1 notes final done 12 2 None",
    ]
