"""The judge of the kill loop, on ledgers made by hand: what it must let pass, and what it must not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kill_loop.ledger import Effect, End, Ledger, ProducerLedger, Run, Sent, read_producers
from tests.kill_loop.verdict import Kill, history, judge

KILLS = [
    Kill(1.9, "consumer/1", "stopped"),
    Kill(2.5, "threads/1", "killed"),
    Kill(3.1, "broker/1", "killed"),
    Kill(3.4, "consumer/1", "continued"),
]


def ledger() -> Ledger:
    """A job whose first worker was killed, one that is unknown and absent, one whose first worker stood still."""
    sent = {
        "a": [Sent(1.0, "sender/1", "intent"), Sent(1.1, "sender/1", "confirmed")],
        "b": [Sent(1.2, "sender/1", "intent")],
        "c": [Sent(1.3, "sender/1", "intent"), Sent(1.4, "sender/1", "confirmed")],
    }
    runs = {
        "a": [Run(2.0, 11, 1, "threads/1"), Run(3.0, 12, 2, "threads/2")],
        "c": [Run(2.0, 21, 1, "consumer/1"), Run(3.0, 22, 2, "threads/2")],
    }
    told = {("c", 21): {"lost": 3.5}}
    effects = {"a": [Effect(7, 12)], "c": [Effect(7, 21)]}
    return Ledger(sent, runs, told, effects, {"a": End("done", 12), "c": End("done", 22)})


def faults(of: Ledger) -> list[tuple[str, str]]:
    return [(fault.job, fault.what) for fault in judge(of, KILLS, dict.fromkeys("abc", 7)).faults]


def test_what_may_happen_is_no_fault() -> None:
    verdict = judge(ledger(), KILLS, dict.fromkeys("abc", 7))
    assert verdict == ([], 2, 2, 1, 1, 2, 1, 1)


def lose_an_effect(of: Ledger) -> None:
    del of.effects["a"]


def lose_a_job(of: Ledger) -> None:
    del of.effects["a"], of.runs["a"], of.ends["a"]


def double_an_effect(of: Ledger) -> None:
    of.effects["a"] *= 2


def change_an_effect(of: Ledger) -> None:
    of.effects["a"] = [Effect(8, 12)]


def invent_a_job(of: Ledger) -> None:
    del of.sent["a"]


def deliver_twice_under_one_fence(of: Ledger) -> None:
    of.runs["a"][0] = of.runs["a"][0]._replace(fence=12)


def deliver_to_two_who_live(of: Ledger) -> None:
    of.runs["a"][0] = of.runs["a"][0]._replace(who="threads/2")


def repeat_what_was_not_lost(of: Ledger) -> None:
    of.told.clear()


def take_it_from_the_living(of: Ledger) -> None:
    of.runs["c"][0] = of.runs["c"][0]._replace(who="coroutines/1")


def let_fences_shrink(of: Ledger) -> None:
    of.runs["a"].append(Run(4.0, 10, 3, "threads/2"))


def take_it_long_after_it_stood_still(of: Ledger) -> None:
    of.runs["c"] = [run._replace(at=run.at + 10) for run in of.runs["c"]]


def count_no_attempt(of: Ledger) -> None:
    of.runs["a"][1] = of.runs["a"][1]._replace(attempt=1)


def let_attempts_shrink(of: Ledger) -> None:
    of.runs["a"][0] = of.runs["a"][0]._replace(attempt=3)


def run_what_is_done(of: Ledger) -> None:
    of.ends["a"] = End("done", 11)


def count_a_run_that_was_none(of: Ledger) -> None:
    of.ends["a"] = End("done", 13)


def forget_the_end(of: Ledger) -> None:
    del of.ends["a"]


def take_an_effect_from_nowhere(of: Ledger) -> None:
    of.effects["a"] = [Effect(7, 9)]


def store_half(of: Ledger) -> None:
    of.runs["b"] = [Run(2.0, 30, 1, "threads/2")]


WRONGS = {
    lose_an_effect: "it was confirmed, and its effect is not there",
    lose_a_job: "it was confirmed, and its effect is not there",
    double_an_effect: "its effect is there 2 times",
    change_an_effect: "its effect is another one than was sent",
    invent_a_job: "nobody sent it, and it ran, or had an effect",
    deliver_twice_under_one_fence: "it ran twice under one fence",
    deliver_to_two_who_live: "it ran again, and the run under fence 11 was neither lost nor failed",
    repeat_what_was_not_lost: "it ran again, and the run under fence 21 was neither lost nor failed",
    take_it_from_the_living: "it ran again, and the run under fence 21 was taken from a worker that lived",
    take_it_long_after_it_stood_still: "it ran again, and the run under fence 21 was taken from a worker that lived",
    let_fences_shrink: "a run under fence 10 began after one under fence 12",
    count_no_attempt: "the run under fence 11 burnt no attempt",
    let_attempts_shrink: "its attempts went down",
    run_what_is_done: "it was done under fence 11, and ran again",
    count_a_run_that_was_none: "it is done under fence 13, under which it never ran",
    forget_the_end: "it is neither done nor absent",
    take_an_effect_from_nowhere: "its effect is of a run that was not delivered",
    store_half: "it is neither done nor absent",
}


@pytest.mark.parametrize("wrong", WRONGS, ids=lambda wrong: wrong.__name__)
def test_what_must_not_happen_is_found(wrong: Callable[[Ledger], None]) -> None:
    judged = ledger()
    wrong(judged)
    assert WRONGS[wrong] in [what for _, what in faults(judged)]


def test_a_history_tells_it_in_order() -> None:
    lines = history("a", ledger(), KILLS).splitlines()
    assert [line.split(maxsplit=1)[-1] for line in lines] == [
        "a",
        "sender/1 notes intent",
        "sender/1 notes confirmed",
        "threads/1 runs it: fence 11, attempt 1",
        "threads/1 is killed",
        "threads/2 runs it: fence 12, attempt 2",
        "broker/1 is killed",
        "of 7 under fence 12",
        "broker: done under fence 12",
    ]


def test_a_producer_finds_what_the_one_before_it_noted(tmp_path: Path) -> None:
    ProducerLedger(tmp_path, "sender", "sender/1").note("intent", "a")
    second = ProducerLedger(tmp_path, "sender", "sender/2")
    second.note("confirmed", "a")
    assert [line.what for line in second.lines["a"]] == ["intent"]
    told = read_producers([tmp_path / "sender.ledger"])["a"]
    assert [(line.who, line.what) for line in told] == [("sender/1", "intent"), ("sender/2", "confirmed")]
    assert told[0].at <= told[1].at
