"""Jobs that wait for others: blocked until all of them are over, and released with the commit that says so."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest

from tests.core.families import edges, group, parents, refused, run_all, send, state_of, states, unfinished
from tests.core.harness import Bench
from zbroker import limits
from zclient.protocol import limits as wire
from zclient.protocol import messages as m


def test_a_child_is_blocked_until_all_its_parents_are_done() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=3)
    producer.put("q", "a", "b", "c")
    producer.put("q", "d", after=[b"a", b"b", b"c"])
    bench.check()
    assert bench.counts("q") == {"leased": 3, "blocked": 1}
    assert producer.ask("show", id=b"d")["after"] == [b"a", b"b", b"c"]
    fences = dict(worker.jobs())
    for identifier in "cab":
        assert state_of(producer, "d") == "blocked"
        worker.ack(fences[identifier], identifier, results=[b"r" + identifier.encode()])
        bench.check()
    identifier, fence = worker.job()
    assert identifier == "d"
    assert parents(worker, "d") == {name: ("done", b"r" + name.encode()) for name in "abc"}
    worker.ack(fence, "d")
    assert edges(bench) == unfinished(bench) == []
    bench.check()


def test_parents_of_one_ack_have_each_its_own_result() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=3)
    producer.put("q", "a", "b", "c")
    producer.put("other", "d", after=[b"c", b"a"])
    ((_, fence), *_rest) = worker.jobs()
    worker.ack(fence, "a", "b", "c", results=[b"A", b"B", b"C"])
    assert parents(producer, "d") == {"c": ("done", b"C"), "a": ("done", b"A")}
    assert edges(bench) == ["a>", "a>d", "c>", "c>d"]
    bench.check()


@pytest.mark.parametrize(
    ("ends", "expected"), [("before commit", ["leased", "blocked"]), ("before send", ["done", "ready"])]
)
def test_the_release_is_in_the_commit_of_the_ack(ends: str, expected: list[str]) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=1)
    producer.put("q", "a")
    fence = worker.job()[1]
    producer.put("other", "b", after=[b"a"])
    bench.turn([(worker.route, m.Settle(9, [m.Settlement(fence, m.Outcome.ACK, [b"a"], [b"r"])]))], ends=ends)
    bench.crash()
    bench.check()
    producer.connect()
    worker.connect([m.Held(fence, [b"a"], [])])
    assert states(producer, "a b") == expected
    bench.check()


def test_a_parent_that_runs_in_a_restarted_broker_still_has_its_children() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=1)
    producer.put("q", "a")
    fence = worker.job()[1]
    producer.put("q", "b", after=[b"a"])
    bench.crash()
    producer.connect()
    worker.connect([m.Held(fence, [b"a"], [])])
    bench.check()
    worker.ack(fence, "a", results=[b"result"])
    assert worker.job()[0] == "b"
    assert parents(worker, "b") == {"a": ("done", b"result")}


# ---- graphs


def test_a_diamond() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=8)
    send(producer, group("q", "a"), group("q", "b", "c", after="a"), group("q", "d", after="b c"))
    assert worker.ids() == ["a"]
    bench.crash()
    worker.connect()
    assert run_all(worker) == ["a", "b", "c", "d"]
    assert edges(bench) == []
    bench.check()


def test_a_chain_of_a_thousand_in_one_put_in_any_order() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=8)
    names = [f"{number:04}" for number in range(1_000)]
    groups = [group("q", names[0])] + [group("q", b, after=a) for a, b in itertools.pairwise(names)]
    Random(5).shuffle(groups)
    send(producer, *groups)
    bench.check()
    assert bench.count("q", "blocked") == 999  # type: ignore[arg-type]
    assert run_all(worker) == names
    assert edges(bench) == unfinished(bench) == []
    bench.check()


def test_a_dead_head_cancels_a_chain_of_a_thousand_in_bounded_turns() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    names = [f"{number:04}" for number in range(1_000)]
    send(producer, group("q", names[0]), *(group("q", b, after=a) for a, b in itertools.pairwise(names)))
    turns = bench.turns
    worker.reject(worker.job()[1], names[0])
    assert bench.turns - turns > 999 / limits.TURN_CHILDREN
    assert bench.counts("q") == {"dead": 1}
    assert edges(bench) == unfinished(bench) == []
    assert producer.ask("why", id=names[7].encode())["reasons"][0]["text"] == "it was cancelled (parent 0006)"
    bench.check()


@pytest.mark.parametrize("ends", ["before commit", "before send"])
def test_ten_thousand_children_are_released_in_turns_over_a_crash(ends: str) -> None:
    bench = Bench(keep_done_count=100_000)
    producer, worker = bench.producer(), bench.worker("w", "p", capacity=1)
    producer.put("p", "root")
    names = [f"{number:05}" for number in range(10_000)]
    for start in range(0, 10_000, 1_000):
        producer.put("q", *names[start : start + 1_000], after=[b"root"])
    fence = worker.job()[1]
    bench.turn([(worker.route, m.Settle(9, [m.Settlement(fence, m.Outcome.ACK, [b"root"], [b"r"])]))])
    assert bench.count("q", "ready") == limits.TURN_CHILDREN  # type: ignore[arg-type]
    for _ in range(5):
        bench.turn()
    bench.check()
    assert bench.count("q", "ready") == 6 * limits.TURN_CHILDREN  # type: ignore[arg-type]
    bench.turn(ends=ends)
    assert unfinished(bench) == ["root"]
    bench.crash()
    bench.check()
    assert bench.counts("q") == {"ready": 10_000}
    assert unfinished(bench) == []
    producer.connect()
    reader = bench.worker("r", "q", capacity=1_000)
    ran = run_all(reader)
    assert sorted(ran) == names
    assert edges(bench) == []
    bench.check()


def test_a_child_of_a_thousand_parents() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=64)
    names = [f"{number:04}" for number in range(wire.MAX_PARENTS)]
    producer.put("q", *names)
    producer.put("end", "child", after=[name.encode() for name in names])
    assert refused(producer, group("end", "more", after=" ".join([*names, "child"])))[0] == "invalid"
    bench.check()
    run_all(worker)
    assert state_of(producer, "child") == "ready"
    (last,) = [bench.worker("l", "end").job()]
    told = parents(producer, "child")
    assert told == {name: ("done", name.encode()) for name in names}
    bench.check()
    bench.worker("m", "end").ack(last[1], "child")
    assert edges(bench) == []


def test_a_batch_has_a_bound_on_its_edges() -> None:
    bench = Bench()
    producer = bench.producer()
    names = [f"{number:04}" for number in range(wire.MAX_PARENTS)]
    producer.put("q", *names)
    most = [f"child{number}" for number in range(wire.MAX_BATCH_EDGES // wire.MAX_PARENTS)]
    assert refused(producer, group("q", *most, "another", after=" ".join(names)))[0] == "batch_too_large"
    assert isinstance(send(producer, group("q", *most, after=" ".join(names))), m.Ok)
    bench.check()


# ---- parents that are over before


def test_parents_that_are_done_before() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=4)
    producer.put("q", "a", "b")
    run_all(worker)
    producer.put("q", "c", after=[b"a", b"b"])
    bench.check()
    identifier, fence = worker.job()
    assert (identifier, parents(worker, "c")) == ("c", {"a": ("done", b"a"), "b": ("done", b"b")})
    worker.ack(fence, "c")
    assert edges(bench) == []


@pytest.mark.parametrize(
    ("rule", "expected"), [("cancel", "cancelled"), ("run", "ready"), ("wait", "blocked"), (None, "cancelled")]
)
@pytest.mark.parametrize("how", ["dead", "cancelled"])
def test_parents_that_ended_badly_before(how: str, rule: str | None, expected: str) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    if how == "dead":
        worker.reject(worker.job()[1], "a")
    else:
        producer.order("cancel", id=b"a")
        worker.release(worker.job()[1], "a")
    producer.put("p", "fine")
    options = {"on_parent_death": rule} if rule else {}
    producer.put("other", "b", "c", after=[b"fine", b"a"], **options)
    bench.check()
    if how == "cancelled" and rule == "wait":
        expected = "cancelled"  # nobody can replay it
    if expected == "ready":
        assert states(producer, "b c") == ["blocked", "blocked"]
        assert parents(producer, "b")["a"] == (how, None)
        run_all(bench.worker("v", "p"))
    assert states(producer, "b c") == [expected, expected]
    if expected == "cancelled":
        assert edges(bench) == []
    bench.check()


def test_a_parent_that_died_and_was_done_after_a_replay() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    worker.reject(worker.job()[1], "a")
    producer.put("other", "b", after=[b"a"], on_parent_death="run")
    assert parents(producer, "b") == {"a": ("dead", None)}
    producer.order("replay", ids=[b"a"])
    worker.ack(worker.job()[1], "a", results=[b"late"])
    producer.put("other", "c", after=[b"a"])
    assert parents(producer, "c") == {"a": ("done", b"late")}
    assert parents(producer, "b") == {"a": ("done", b"late")}
    bench.check()
    run_all(bench.worker("v", "other", capacity=2))
    assert edges(bench) == []


# ---- what is refused


def test_unknown_parents_are_refused_and_nothing_is_stored() -> None:
    bench = Bench()
    producer = bench.producer()
    assert refused(producer, group("q", "a"), group("q", "b", after="a nobody")) == ("unknown_parent", "nobody")
    assert states(producer, "a b") == ["gone", "gone"]
    assert edges(bench) == []
    bench.check()


def test_a_parent_that_history_keeps_no_more_is_unknown() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.order("set", queue="q", options={"keep_done": 1_000})
    producer.put("q", "a")
    run_all(worker)
    bench.advance(2_000)
    assert refused(producer, group("q", "b", after="a")) == ("unknown_parent", "a")


def test_circles_are_refused_and_nothing_is_stored() -> None:
    bench = Bench()
    producer = bench.producer()
    circle = [group("q", "a", after="c"), group("q", "b", after="a"), group("q", "c", after="b")]
    for groups in ([group("q", "a", after="a")], [group("q", "a", "b", after="a")], circle, [group("q", "x"), *circle]):
        assert refused(producer, *groups)[0] == "invalid"
    assert bench.core.state.queues == {}
    bench.check()


@pytest.mark.parametrize(
    "options",
    [
        {"after": []},
        {"after": b"a"},
        {"after": ["a"]},
        {"after": [b""]},
        {"after": [b"a"], "on_parent_death": "cry"},
        {"on_parent_death": "run"},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a")
    failure = producer.put("q", "b", **options)
    assert isinstance(failure, m.Failure) and failure.code == "invalid"


# ---- once


def test_a_put_that_is_sent_again_counts_once_though_its_parents_are_gone() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.order("set", queue="q", options={"keep_done": 0})
    producer.put("q", "a")
    number = producer.next_number()
    first = m.Put(number, number, [group("other", "b", after="a")])
    producer.send(first)
    producer.answer(number)
    run_all(worker)
    producer.send(first)
    assert isinstance(producer.answer(number), m.Ok)
    assert isinstance(send(producer, group("other", "b", after="a")), m.Ok)  # under another number: the id is known
    assert refused(producer, group("other", "c", "b", after="a")) == ("unknown_parent", "a")
    assert bench.counts("other") == {"ready": 1}
    assert run_all(bench.worker("v", "other")) == ["b"]
    bench.check()


def test_the_same_id_with_other_parents_is_another_job() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", "b")
    producer.put("q", "c", after=[b"a"])
    assert refused(producer, group("q", "c", after="b")) == ("duplicate_id", "c")
    assert refused(producer, group("q", "c")) == ("duplicate_id", "c")
    assert isinstance(send(producer, group("q", "c", after="a")), m.Ok)
    bench.check()


def test_a_parent_named_twice_is_one() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    producer.put("q", "b", after=[b"a", b"a"])
    assert run_all(worker) == ["a", "b"]
    assert edges(bench) == []
    bench.check()
