"""Workflows: sent as one, step after step, results by step, and how the whole and its steps are told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.counted import put_code, question, rows_of, take
from tests.core.families import run_all
from tests.core.flows import (
    CHORD,
    Step,
    W,
    code,
    groups_of,
    job,
    messages_of,
    order,
    plan_of,
    send,
    sent,
    state_of,
    steps,
)
from tests.core.harness import WALL, Bench, Peer
from zbroker import limits
from zclient.protocol import messages as m
from zclient.protocol.plans import step_id


def start(**policy: Any) -> tuple[Bench, Peer]:
    bench = Bench(policy={"backoff_jitter": 0.0, "max_attempts": 1, **policy})
    return bench, bench.producer()


@pytest.mark.parametrize("most", [1000, 2])
def test_a_chord_runs_its_callback_once_all_are_done(most: int) -> None:
    bench, producer = start()
    sent(producer, CHORD, most=most)
    bench.check()
    told = producer.ask("workflow", id=W.encode())
    assert (told["name"], told["state"], told["created"], told["over"], told["jobs"]) == (
        "flow",
        "running",
        WALL,
        None,
        4,
    )
    assert told["steps"][1] == {
        "name": "report",
        "jobs": 1,
        "single": True,
        "after": [0],
        "inputs": [0],
        "rule": "wait",
        "state": "blocked",
        "total": 1,
        "done": 0,
        "dead": 0,
        "cancelled": 0,
    }
    worker, reporter = bench.worker("w", "f", capacity=3), bench.worker("v", "r")
    held = take(worker)
    assert sorted(held) == [job(0, n) for n in range(3)]
    for n in (2, 0):
        worker.ack(held[job(0, n)], job(0, n), results=[b"result %d" % n])
    assert steps(producer) == {"fetch": "running 3/2/0/0", "report": "blocked 1/0/0/0"}
    assert reporter.jobs() == []
    bench.crash()
    producer.connect()
    reporter.connect()
    worker.connect([m.Held(held[job(0, 1)], [job(0, 1).encode()], [])])
    worker.ack(held[job(0, 1)], job(0, 1), results=[b"result 1"])
    ((identifier, fence),) = reporter.jobs()
    assert identifier == job(1)
    (parent,) = reporter.ask("parents", id=identifier.encode())["parents"]
    assert (parent["id"], parent["state"], parent["result"]) == (step_id(W.encode(), 0), "done", None)
    assert (parent["batch"]["name"], parent["batch"]["step"], parent["batch"]["done"]) == ("fetch", 0, 3)
    results = reporter.ask("results", id=parent["id"])
    assert results == [(job(0, n).encode(), "done", b"result %d" % n) for n in range(3)]
    producer.send(m.Watch([W.encode()]))
    reporter.ack(fence, identifier, results=[b"all"])
    assert producer.one(m.Finished).ends == [(W.encode(), "done", None, None)]
    assert producer.ask("results", id=step_id(W.encode(), 1)) == [(job(1).encode(), "done", b"all")]
    assert steps(producer) == {"fetch": "done 3/3/0/0", "report": "done 1/1/0/0"}
    assert rows_of(bench, "edges") == []
    bench.check()


def test_nothing_runs_before_the_last_part_is_there() -> None:
    bench, producer = start()
    worker = bench.worker("w", "f", "r", capacity=9)
    *first, last = messages_of(CHORD, most=1)
    for part in first:
        assert isinstance(send(producer, part)[0], m.Ok)
        assert worker.jobs() == [] and state_of(producer) == "coming"
        bench.check()
    assert steps(producer)["fetch"] == "coming 3/0/0/0"
    assert put_code(producer, "q", "child", after=[step_id(W.encode(), 0)]) == "unknown_parent"
    bench.crash()
    producer.connect()
    worker.connect()
    send(producer, last)
    assert sorted(take(worker)) == [job(0, n) for n in range(3)]
    bench.check()


def test_a_step_without_jobs_is_done_at_once() -> None:
    bench, producer = start()
    sent(producer, [Step("none", 0), Step("after", 1, "none"), Step("last", 0, "after")])
    assert steps(producer) == {"none": "done 0/0/0/0", "after": "running 1/0/0/0", "last": "done 0/0/0/0"}
    worker = bench.worker("w", "q")
    assert run_all(worker) == [job(1)]
    assert state_of(producer) == "done"
    bench.check()
    empty = "f" * 22
    (part,) = send(producer, m.Workflow(0, 0, empty.encode(), 0, 1, plan_of([Step("a", 0)]), []))
    assert isinstance(part, m.Ok) and state_of(producer, empty) == "done"
    bench.check()


def test_a_graph_of_steps_runs_in_its_order() -> None:
    bench, producer = start()
    graph = [Step("d", 1, "b c"), Step("b", 2, "a"), Step("a", 1), Step("c", 1, "a"), Step("e", 1, "d a")]
    sent(producer, graph)
    worker = bench.worker("w", "q", capacity=9)
    order_of_steps = []
    while jobs := worker.jobs():
        for identifier, fence in jobs:
            order_of_steps.append(graph[int(identifier[22:25], 16)].name)
            worker.ack(fence, identifier)
        bench.check()
    assert order_of_steps[0] == "a" and sorted(order_of_steps[1:4]) == ["b", "b", "c"]
    assert order_of_steps[4:] == ["d", "e"]
    assert state_of(producer) == "done"
    assert rows_of(bench, "edges") == []


@pytest.mark.parametrize(
    ("rule", "child", "whole"),
    [("cancel", "cancelled 1/0/0/1", "dead"), ("run", "done 1/1/0/0", "dead"), ("wait", "blocked 1/0/0/0", "dead")],
)
def test_a_dead_step(rule: str, child: str, whole: str) -> None:
    bench, producer = start()
    sent(producer, [Step("a", 2, queue="a"), Step("b", 1, "a", rule), Step("c", 1, "b", rule)])
    producer.send(m.Watch([W.encode()]))
    worker = bench.worker("w", "a", capacity=2)
    held = take(worker)
    worker.reject(held[job(0)], job(0))
    assert producer.take(m.Finished) == []
    worker.ack(held[job(0)], job(0, 1))
    run_all(bench.worker("v", "q"))
    assert steps(producer) == {"a": "dead 2/1/1/0", "b": child, "c": child}
    assert state_of(producer) == whole
    assert producer.one(m.Finished).ends == [(W.encode(), whole, None, None)]
    bench.check()


def test_a_dead_step_holds_what_waits_for_it_and_not_the_rest() -> None:
    bench, producer = start()
    sent(producer, [Step("a", queue="a"), Step("b", 1, "a"), Step("c", 1, queue="c"), Step("d", 1, "b c", "run")])
    worker, other = bench.worker("w", "a"), bench.worker("v", "c")
    worker.reject(take(worker)[job(0)], job(0))
    assert state_of(producer) == "running"
    run_all(other)
    assert state_of(producer) == "dead"
    assert steps(producer)["d"] == "blocked 1/0/0/0"
    order(producer, "retry_workflow")
    assert state_of(producer) == "running"
    bench.check()
    run_all(worker)
    assert len(run_all(bench.worker("u", "q"))) == 2
    assert state_of(producer) == "done"
    bench.check()


# ---- the same again, and what is refused


@pytest.mark.parametrize("most", [1000, 2])
def test_the_same_workflow_again_is_the_same(most: int) -> None:
    bench, producer = start()
    parts = messages_of(CHORD, most=most)
    for _ in range(2):
        assert all(isinstance(answer, m.Ok) for answer in send(producer, *parts))
    run_all(bench.worker("w", "f", "r"))
    bench.crash()
    producer.connect()
    assert all(isinstance(answer, m.Ok) for answer in send(producer, *parts))
    assert state_of(producer) == "done" and bench.counts("f") == {}
    assert code(producer, messages_of(CHORD, most=most, name="other")[0])[0] == "duplicate_id"
    group = parts[-1].groups[-1]
    other = parts[-1]._replace(groups=[*parts[-1].groups[:-1], group._replace(payloads=[b"x"] * len(group.ids))])
    assert code(producer, other)[0] == "duplicate_id"
    assert code(producer, parts[0]._replace(parts=7))[0] == "duplicate_id"
    bench.check()


def test_a_number_that_was_applied_is_answered_as_then() -> None:
    bench, producer = start()
    (part,) = messages_of(CHORD)
    for _ in range(2):
        producer.send(part._replace(number=9, low=9))
        assert producer.answer(9) == m.Ok([9])
    bench.check()


def test_parts_come_in_order() -> None:
    bench, producer = start()
    parts = messages_of(CHORD, most=1)
    assert code(producer, parts[1])[0] == "not_found"
    send(producer, parts[0])
    assert code(producer, parts[2]) == ("invalid", "part 1 of 4 is to come next, not part 2 of 4")
    assert code(producer, parts[1]._replace(parts=9))[0] == "invalid"
    send(producer, *parts[1:])
    assert state_of(producer) == "running"
    bench.check()


def step(*changes: Any) -> dict[str, Any]:
    """A plan of one step, and of what is changed in it."""
    fields = ["a", 1, [], "wait", False]
    for place, value in changes:
        fields[place] = value
    return {"name": "n", "steps": [fields]}


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ({}, "name"),
        ({"name": "n" * 129, "steps": []}, "name"),
        ({"name": "n", "steps": []}, "1 to 1000 steps"),
        ({"name": "n", "steps": [["a", 1]]}, "a step is"),
        (step((0, "")), "name of a step"),
        (step((0, "a\n")), "name of a step"),
        (step((1, -1)), "jobs is"),
        (step((1, True)), "jobs is"),
        (step((2, [1])), "places in the plan"),
        (step((2, [0])), "circle: a"),
        (step((3, "never")), "rule is one of"),
        (step((1, 2), (4, True)), "single"),
        (step((1, 100_001)), "jobs is"),
        (plan_of([Step("a"), Step("a")]), "two steps have one name"),
        (plan_of([Step("a", 60_000), Step("b", 60_000)]), "at most 100000 jobs"),
        (plan_of([Step("a"), Step("b", 1, "a a")]), "names a step twice"),
        ({"name": "w", "steps": [["a", 1, [], "wait", False, 1]]}, "named is how many of the 0 steps"),
        (plan_of([Step("x"), Step("a", 1, "x b"), Step("b", 1, "c"), Step("c", 1, "a")]), "circle: a, b, c"),
        (plan_of([Step("a"), *(Step(f"b{n}", 90_000 // 9, "a") for n in range(9))]), ""),
    ],
)
def test_what_cannot_be_a_plan(plan: dict[str, Any], text: str) -> None:
    bench, producer = start()
    refused, told = code(producer, m.Workflow(0, 0, W.encode(), 0, 1, plan, []))
    assert refused == "invalid" and text in told
    assert rows_of(bench, "workflows") == rows_of(bench, "batches") == []


def test_plans_have_so_many_edges() -> None:
    _, producer = start()
    many = [Step(f"a{n}", 1) for n in range(101)]
    names = " ".join(one.name for one in many)
    plan = plan_of([*many, *(Step(f"b{n}", 1, names) for n in range(100))])
    assert "pairs of steps" in code(producer, m.Workflow(0, 0, W.encode(), 0, 1, plan, []))[1]
    plan = plan_of([*many, Step("b", 10_000, names)])
    assert "pairs of a job" in code(producer, m.Workflow(0, 0, W.encode(), 0, 1, plan, []))[1]


@pytest.mark.parametrize(
    ("changes", "refused", "text"),
    [
        ({"batch": b"a" * 32}, "invalid", "no step of this workflow"),
        ({"batch": W.encode() + b"00f"}, "invalid", "no step of this workflow"),
        ({"batch": None}, "invalid", "no step of this workflow"),
        ({"unique": "u"}, "invalid", "no unique"),
        ({"after": [b"x"]}, "invalid", "after is not"),
        ({"after": None}, "invalid", "after is not"),
        ({"on_parent_death": "run"}, "invalid", "is wait in the plan"),
        ({"priority": 1_000}, "invalid", "priority"),
        ({"headers": {"h": "x" * 9_000}}, "too_large", "headers"),
    ],
)
def test_options_that_do_not_agree(changes: dict[str, Any], refused: str, text: str) -> None:
    bench, producer = start()
    (part,) = messages_of(CHORD)
    group = part.groups[1]
    options = {name: value for name, value in {**group.options, **changes}.items() if value is not None}
    told = code(producer, part._replace(groups=[part.groups[0], group._replace(options=options)]))
    assert told[0] == refused and text in told[1]
    assert rows_of(bench, "workflows") == rows_of(bench, "batches") == rows_of(bench, "jobs") == []


def test_ids_and_numbers_of_jobs_agree_with_the_plan() -> None:
    bench, producer = start()
    (part,) = messages_of(CHORD)
    fetch, report = part.groups
    missing = fetch._replace(ids=fetch.ids[:2], payloads=fetch.payloads[:2])
    assert "2 of 3 jobs have come" in code(producer, part._replace(groups=[missing, report]))[1]
    assert "more come" in code(producer, part._replace(groups=[fetch, report, report]))[1]
    assert "come in order" in code(producer, part._replace(groups=[fetch._replace(ids=fetch.ids[::-1]), report]))[1]
    other = fetch._replace(ids=[b"x", *fetch.ids[1:]])
    assert "come in order" in code(producer, part._replace(groups=[other, report]))[1]
    producer.put("f", job(0, 1))
    assert code(producer, part)[0] == "duplicate_id"
    run_all(bench.worker("w", "f"))
    assert code(producer, part)[0] == "duplicate_id"  # history knows it
    assert rows_of(bench, "workflows") == []


def test_limits_hold_for_workflows_as_for_any_job() -> None:
    bench, producer = start()
    producer.order("set", queue="f", options={"max_jobs": 2})
    (part,) = messages_of(CHORD)
    assert code(producer, part)[0] == "queue_full"
    producer.order("unset", queue="f", options=["max_jobs"])
    producer.order("set", queue="r", options={"lease": 1_000})
    producer.order("drain", queue="r")
    assert code(producer, part)[0] == "closed"
    producer.order("resume", queue="r")
    bench.core.set_disk_low(True)
    assert code(producer, part)[0] == "disk_full"
    assert code(producer, m.Workflow(0, 0, W.encode(), 0, 1, plan_of([Step("a", 0)]), []))[0] == "disk_full"
    bench.core.set_disk_low(False)
    assert rows_of(bench, "workflows") == rows_of(bench, "jobs") == []
    send(producer, part)
    assert state_of(producer) == "running"


def test_limits_hold_for_all_parts_together_also_over_a_restart() -> None:
    bench, producer = start()
    producer.order("set", queue="f", options={"max_jobs": 5})
    first, second, third, last = messages_of([Step("fetch", 8, queue="f")], most=2)
    assert all(isinstance(answer, m.Ok) for answer in send(producer, first, second))
    bench.crash()
    producer = bench.producer("again")
    assert code(producer, third) == ("queue_full", "6 jobs at once are more than may wait in queue f (max_jobs 5)")
    producer.order("set", queue="f", options={"max_jobs": 8})
    producer.put("f", "other")
    assert isinstance(send(producer, third)[0], m.Ok)
    assert code(producer, last) == ("queue_full", "1 jobs wait in queue f, and 8 more would be above max_jobs 8")
    assert run_all(bench.worker("w", "f")) == ["other"]
    assert isinstance(send(producer, last)[0], m.Ok)
    assert state_of(producer) == "running"
    bench.check()


def test_limits_of_queues_of_earlier_parts_hold_when_the_last_one_decides() -> None:
    bench, producer = start()
    producer.order("set", queue="f", options={"max_jobs": 3})
    first, last = messages_of(CHORD, most=3)
    assert isinstance(send(producer, first)[0], m.Ok)
    producer.put("f", "meanwhile")
    assert code(producer, last)[0] == "queue_full"
    assert run_all(bench.worker("w", "f")) == ["meanwhile"]
    assert isinstance(send(producer, last)[0], m.Ok)
    bench.check()


def test_there_are_so_many_workflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BATCHES", 1)
    bench, producer = start()
    sent(producer, CHORD)
    assert code(producer, messages_of(CHORD, "f" * 22)[0])[0] == "too_many_batches"
    sent(producer, CHORD)
    monkeypatch.setattr(limits, "MAX_WORKS", 0)
    monkeypatch.setattr(limits, "MAX_BATCHES", 9)
    monkeypatch.setattr(limits, "WORKFLOW_AT_ONCE", 0)
    assert code(producer, messages_of(CHORD, "f" * 22)[0])[0] == "busy"
    bench.check()


# ---- what else may be done with steps


def test_a_job_from_outside_may_be_after_a_step_and_none_may_join_it() -> None:
    bench, producer = start()
    sent(producer, CHORD)
    first, last = step_id(W.encode(), 0), step_id(W.encode(), 1)
    producer.put("other", "child", after=[first, last])
    assert put_code(producer, "f", "x", batch=first) == "batch_closed"
    run_all(bench.worker("w", "f", "r"))
    assert run_all(bench.worker("v", "other")) == ["child"]
    bench.check()


def test_what_a_handler_adds_to_its_step_cannot_wait_for_a_later_one() -> None:
    bench, producer = start()
    sent(producer, [Step("a", queue="a"), Step("b", 1, "a"), Step("c", 1, "b")])
    worker = bench.worker("w", "a")
    ((identifier, fence),) = worker.jobs()
    options = {"batch": step_id(W.encode(), 0), "after": [step_id(W.encode(), 2)]}
    settlement = m.Settlement(fence, m.Outcome.ACK, [identifier.encode()], None)
    number = worker.next_number()
    added = m.Sent(fence, identifier.encode(), [m.Group("a", options, [b"added"], [b"p"])])
    worker.send(m.Settle(number, [settlement], [added]))
    ((_, _, unsent, why),) = worker.value_of(number)["refused"]
    assert unsent == "unsent" and "others that wait for this batch" in why
    bench.check()


def test_a_handler_adds_jobs_to_its_own_step() -> None:
    bench, producer = start()
    sent(producer, CHORD)
    worker, reporter = bench.worker("w", "f"), bench.worker("v", "r")
    ((identifier, fence),) = worker.jobs()
    group = m.Group("f", {"batch": step_id(W.encode(), 0)}, [b"added-1", b"added-2"], [b"p"] * 2)
    settlement = m.Settlement(fence, m.Outcome.ACK, [identifier.encode()], None)
    worker.send(m.Settle(worker.next_number(), [settlement], [m.Sent(fence, identifier.encode(), [group])]))
    assert steps(producer)["fetch"] == "running 5/1/0/0"
    bench.check()
    assert len(run_all(worker)) == 4
    assert run_all(reporter) == [job(1)]
    assert steps(producer)["fetch"] == "done 5/5/0/0"
    bench.check()


def test_workflows_are_listed_newest_first() -> None:
    bench, producer = start()
    ids = [f"{n:022x}" for n in range(1, 8)]
    for n, identifier in enumerate(ids):
        sent(producer, CHORD, identifier, most=2 if n % 2 else 1000, name=f"flow {n}")
    run_all(bench.worker("w", "f", "r", capacity=9))
    send(producer, messages_of(CHORD, W, most=1)[0])
    page = producer.ask("workflows", limit=3)
    assert [row["name"] for row in page["workflows"]] == ["flow", "flow 6", "flow 5"]
    assert page["workflows"][0]["state"] == "coming" and page["workflows"][0]["came"] == 1
    assert "steps" not in page["workflows"][1]
    page = producer.ask("workflows", cursor=page["cursor"], state="done")
    assert [row["id"] for row in page["workflows"]] == [identifier.encode() for identifier in ids[4::-1]]
    assert page["cursor"] is None
    assert question(producer, "workflows", state="open")[0] == "invalid"
    assert producer.ask("batches") == {"batches": [], "cursor": None}


def test_why_names_the_steps_that_a_job_waits_for() -> None:
    _, producer = start()
    sent(producer, CHORD)
    (reason,) = producer.ask("why", id=job(1).encode())["reasons"]
    assert reason["text"] == f"it waits for 1 of 1 jobs: {W}000 (batch, running)"


def test_a_workflow_that_nobody_sent() -> None:
    _, producer = start()
    assert question(producer, "workflow", id=W.encode())[0] == "not_found"
    assert question(producer, "workflow", id=7)[0] == "not_found"
    assert groups_of([]) == []
