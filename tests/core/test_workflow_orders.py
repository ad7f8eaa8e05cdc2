"""Cancelling and retrying a whole workflow, and how long batches and workflows are kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.counted import BATCH, A, closed, counters, opened, question, refusal, rows_of, take
from tests.core.families import run_all
from tests.core.flows import CHORD, Step, W, code, job, messages_of, order, send, sent, state_of, steps
from tests.core.harness import Bench, Peer
from zbroker import limits
from zbroker.core.states import State
from zclient.protocol import messages as m
from zclient.protocol.plans import step_id

DAY_MS = 24 * 3600 * 1000
TEN = [Step("a", 30), Step("b", 200, "a"), Step("c", 1, "b", single=True)]


def start(**policy: Any) -> tuple[Bench, Peer]:
    slow = {"probe_ms": 10**9, "client_probe_ms": 10**9}  # days pass, and nobody asks who is there
    bench = Bench(policy={"backoff_jitter": 0.0, "max_attempts": 1, "lease_ms": 10**9, **policy}, **slow)
    return bench, bench.producer()


# ---- cancel


@pytest.mark.parametrize("crashes", [False, True])
def test_cancel_ends_what_waits_and_tells_what_runs(crashes: bool) -> None:
    bench, producer = start()
    sent(producer, TEN)
    worker = bench.worker("w", "q", capacity=3)
    held = take(worker)
    worker.ack(held[job(0, 0)], job(0, 0))
    held.update(take(worker))
    del held[job(0, 0)]
    producer.send(m.Watch([W.encode(), job(2).encode()]))
    if not crashes:
        assert order(producer, "cancel_workflow") == {"state": "running"}
    else:  # the broker dies in the commit of the order, and what is left of it goes on
        number = producer.next_number()
        bench.turn([(producer.route, m.Order(number, number, "cancel_workflow", {"id": W.encode()}))])
        bench.crash()
        producer.connect()
        fences = sorted(set(held.values()))
        worker.connect([m.Held(one, [name.encode() for name in held if held[name] == one], []) for one in fences])
    assert steps(producer) == {"a": "running 30/1/0/26", "b": "cancelled 200/0/0/200", "c": "cancelled 1/0/0/1"}
    told = {identifier for message in worker.take(m.Cancel) for identifier in message.ids}
    assert told == {name.encode() for name in held}
    bench.check()
    first, second, third = sorted(held)
    worker.ack(held[first], first)
    worker.nack(held[second], second)
    assert state_of(producer) == "running"
    worker.release(held[third], third)
    assert steps(producer)["a"] == "cancelled 30/2/0/28"
    assert state_of(producer) == "cancelled"
    if not crashes:
        assert producer.ends()[W] == ("cancelled", None, None)
    assert order(producer, "cancel_workflow") == {"state": "cancelled"}
    assert refusal(producer, "retry_workflow", id=W.encode())[0] == "workflow_cancelled"
    assert rows_of(bench, "edges") == [] and worker.jobs() == []
    bench.check()


def test_cancel_while_the_jobs_are_being_stored() -> None:
    bench, producer = start()
    many = [Step("a", 5_000), Step("b", 1, "a")]
    *parts, last = messages_of(many)
    send(producer, *parts)
    number = producer.next_number()
    watch = m.Watch([job(0, 4_999).encode()])
    bench.turn([(producer.route, last._replace(number=number, low=number)), (producer.route, watch)])
    number = producer.next_number()
    bench.turn([(producer.route, m.Order(number, number, "cancel_workflow", {"id": W.encode()}))])
    stored = len(rows_of(bench, "jobs"))
    assert 0 < stored < 2_000
    bench.check()
    bench.settle_down()
    bench.check()
    assert steps(producer) == {"a": "cancelled 5000/0/0/5000", "b": "cancelled 1/0/0/1"}
    assert state_of(producer) == "cancelled"
    assert producer.ends()[job(0, 4_999)] == ("cancelled", None, {"reason": "cancelled"})
    assert producer.ask("show", id=job(0, 4_999).encode())["state"] == "cancelled"
    assert rows_of(bench, "jobs") == []


def test_what_came_of_a_workflow_is_forgotten_when_it_is_cancelled() -> None:
    bench, producer = start()
    parts = messages_of(CHORD, most=1)
    send(producer, *parts[:2])
    assert order(producer, "cancel_workflow") == {"state": "cancelled"}
    assert rows_of(bench, "workflows") == [] and state_of(producer) == "gone"
    assert code(producer, parts[2])[0] == "not_found"
    bench.check()
    sent(producer, CHORD)
    assert state_of(producer) == "running"
    assert refusal(producer, "cancel_workflow", id=b"f" * 22)[0] == "not_found"


def test_cancel_takes_what_a_dead_step_holds() -> None:
    bench, producer = start()
    sent(producer, [Step("a", 2), Step("b", 3, "a")])
    worker = bench.worker("w", "q", capacity=2)
    held = take(worker)
    worker.reject(held[job(0)], job(0))
    worker.ack(held[job(0, 1)], job(0, 1))
    assert state_of(producer) == "dead"
    order(producer, "cancel_workflow")
    assert steps(producer) == {"a": "dead 2/1/1/0", "b": "cancelled 3/0/0/3"}
    assert state_of(producer) == "cancelled"
    bench.check()
    bench.advance(3 * DAY_MS)
    assert state_of(producer) == "cancelled"  # a job of it is dead still
    producer.order("drop", ids=[job(0).encode()])
    bench.advance(DAY_MS)
    assert state_of(producer) == "gone"
    bench.check()


def test_a_cancelled_workflow_takes_no_jobs_from_its_handlers() -> None:
    bench, producer = start()
    sent(producer, CHORD)
    worker = bench.worker("w", "f")
    ((identifier, fence),) = worker.jobs()
    order(producer, "cancel_workflow")
    group = m.Group("f", {"batch": step_id(W.encode(), 0)}, [b"added"], [b"p"])
    settlement = m.Settlement(fence, m.Outcome.ACK, [identifier.encode()], None)
    number = worker.next_number()
    worker.send(m.Settle(number, [settlement], [m.Sent(fence, identifier.encode(), [group])]))
    assert worker.value_of(number)["refused"][0][2] == "unsent"
    worker.nack(fence, identifier)
    assert steps(producer)["fetch"] == "cancelled 3/0/0/3"
    bench.check()


def test_added_jobs_are_cancelled_and_tried_again_with_the_rest() -> None:
    bench, producer = start()
    sent(producer, CHORD)
    worker = bench.worker("w", "f")
    for n in range(2):
        ((identifier, fence),) = worker.jobs()
        ids = [b"added-%d-%03d" % (n, k) for k in range(70)]
        group = m.Group("f", {"batch": step_id(W.encode(), 0)}, ids, [b"p"] * 70)
        settlement = m.Settlement(fence, m.Outcome.ACK, [identifier.encode()], None)
        worker.send(m.Settle(worker.next_number(), [settlement], [m.Sent(fence, identifier.encode(), [group])]))
    while jobs := worker.jobs():
        for identifier, fence in jobs:
            worker.reject(fence, identifier)
    assert steps(producer)["fetch"] == "dead 143/2/141/0"
    assert order(producer, "retry_workflow")["dead"] == 141
    bench.check()
    assert steps(producer)["fetch"] == "running 143/2/0/0"
    order(producer, "cancel_workflow")
    assert steps(producer)["fetch"] == "running 143/2/0/140"
    ((identifier, fence),) = worker.jobs()
    worker.nack(fence, identifier)
    assert state_of(producer) == "cancelled"
    bench.check()


# ---- retry


@pytest.mark.parametrize("crashes", [False, True])
def test_retry_replays_all_dead_jobs_of_all_steps(crashes: bool) -> None:
    bench, producer = start()
    sent(producer, [Step("a", 300), Step("b", 2, "a", "run"), Step("c", 1, "b")])
    worker = bench.worker("w", "q", capacity=1_000)
    assert refusal(producer, "retry_workflow", id=W.encode())[0] == "not_found"
    for identifier, fence in worker.jobs():
        worker.reject(fence, identifier)
    for identifier, fence in worker.jobs():
        worker.reject(fence, identifier)
    assert steps(producer) == {"a": "dead 300/0/300/0", "b": "dead 2/0/2/0", "c": "blocked 1/0/0/0"}
    assert state_of(producer) == "dead"
    if crashes:
        number = producer.next_number()
        bench.turn([(producer.route, m.Order(number, number, "retry_workflow", {"id": W.encode()}))])
        bench.check()
        bench.crash()
        producer.connect()
        worker.jobs()  # of these it knows nothing when it comes back
        worker.connect()
    else:
        assert order(producer, "retry_workflow")["dead"] == 302
    assert state_of(producer) == "running"
    bench.check()
    assert len(run_all(worker)) == 303
    assert state_of(producer) == "done"
    assert refusal(producer, "retry_workflow", id=W.encode())[0] == "not_found"
    bench.check()


def test_a_workflow_goes_on_from_the_order_to_retry_it() -> None:
    bench, producer = start()
    sent(producer, [Step("a", 900), Step("b", 1, "a")])
    worker = bench.worker("w", "q", capacity=1_000)
    jobs = worker.jobs()
    for identifier, fence in jobs[:-1]:
        worker.ack(fence, identifier)
    worker.reject(jobs[-1][1], jobs[-1][0])
    assert state_of(producer) == "dead"
    with bench.one_turn():  # its only dead job is the last, and is not reached in this turn
        for verb in ("retry_workflow", "retry_workflow"):
            producer.send(m.Order(producer.next_number(), producer.number, verb, {"id": W.encode()}))
        producer.send(m.Watch([W.encode()]))
    assert producer.ends() == {}
    producer.take(m.Answer)
    bench.check()
    run_all(worker)
    assert producer.ends()[W][0] == "done"


def test_a_retry_ends_where_the_workflow_is_cancelled() -> None:
    bench, producer = start()
    sent(producer, [Step("a", 900), Step("b", 1, "a")])
    worker = bench.worker("w", "q", capacity=1_000)
    for identifier, fence in worker.jobs():
        worker.reject(fence, identifier)
    with bench.one_turn():
        for verb in ("retry_workflow", "cancel_workflow"):
            producer.send(m.Order(producer.next_number(), producer.number, verb, {"id": W.encode()}))
    assert steps(producer) == {"a": "dead 900/0/900/0", "b": "cancelled 1/0/0/1"}
    assert state_of(producer) == "cancelled"
    bench.check()


def test_a_retried_step_that_dies_again() -> None:
    bench, producer = start()
    sent(producer, CHORD)
    worker = bench.worker("w", "f", capacity=3)
    for turn in range(2):
        for identifier, fence in worker.jobs():
            worker.reject(fence, identifier)
        producer.send(m.Watch([W.encode()]))
        assert producer.ends()[W][0] == "dead"
        assert order(producer, "retry_workflow")["dead"] == 3, turn
        bench.check()
    run_all(worker)
    assert steps(producer)["report"] == "running 1/0/0/0"


# ---- how long they are kept


def test_what_is_over_goes_after_a_day() -> None:
    bench, producer = start()
    sent(producer, TEN)
    opened(producer, keep_results=True, on_done={"queue": "q", "payload": b"p"})
    producer.put("q", *(f"{n}" for n in range(200)), **BATCH)
    closed(producer)
    run_all(bench.worker("w", "q", capacity=500))
    assert (state_of(producer), counters(producer)[0]) == ("done", "done")
    assert len(rows_of(bench, "batches")) > 400
    bench.advance(DAY_MS - 1)
    assert (state_of(producer), counters(producer)[0]) == ("done", "done")
    bench.check()
    bench.advance(1)
    assert rows_of(bench, "batches") == rows_of(bench, "workflows") == []
    assert state_of(producer) == "gone"
    assert question(producer, "batch", id=A.encode())[0] == "not_found"
    assert bench.core.state.batches_kept == 0
    assert bench.told("workflow incomplete") == []
    bench.check()


def test_removing_goes_on_after_a_crash() -> None:
    bench, producer = start()
    sent(producer, TEN)
    opened(producer, keep_results=True)
    producer.put("q", *(f"{n}" for n in range(200)), **BATCH)
    closed(producer)
    run_all(bench.worker("w", "q", capacity=500))
    bench.now += DAY_MS
    bench.wall += DAY_MS
    for _ in range(200):
        if not bench.core.wanted_in() and not rows_of(bench, "batches"):
            break
        bench.turn()
        bench.check()
        bench.reopen()
    assert rows_of(bench, "batches") == rows_of(bench, "workflows") == []
    bench.check()


def test_an_open_batch_stays_and_one_with_dead_jobs_too() -> None:
    bench, producer = start()
    worker = bench.worker("w", "q")
    opened(producer)
    bench.advance(2 * DAY_MS)
    assert counters(producer)[0] == "open"
    producer.put("q", "1", **BATCH)
    closed(producer)
    worker.reject(take(worker)["1"], "1")
    bench.advance(2 * DAY_MS)
    assert counters(producer)[0] == "dead"
    producer.order("replay", ids=[b"1"])
    bench.advance(2 * DAY_MS)
    run_all(worker)
    bench.advance(DAY_MS - 1)
    assert counters(producer)[0] == "done"
    bench.advance(1)
    assert rows_of(bench, "batches") == []
    bench.check()


def test_a_batch_stays_while_children_may_read_it() -> None:
    bench, producer = start()
    opened(producer, keep_results=True)
    closed(producer)
    producer.put("later", "child", after=[A.encode()], delay=DAY_MS + 1_000)
    bench.advance(DAY_MS + 2_000)
    assert counters(producer)[0] == "done"
    run_all(bench.worker("w", "later"))
    bench.advance(DAY_MS)
    assert rows_of(bench, "batches") == []
    bench.check()


def test_a_workflow_that_never_came_whole_is_removed_an_hour_after_its_last_part() -> None:
    bench, producer = start()
    parts = messages_of(CHORD, most=1)
    send(producer, *parts[:2])
    bench.advance(3_599_999)
    send(producer, parts[2])
    bench.advance(3_599_999)
    assert state_of(producer) == "coming"
    bench.crash()
    bench.advance(1)
    producer.connect()
    assert state_of(producer) == "gone"
    assert rows_of(bench, "workflows") == []
    assert bench.told("workflow incomplete") == [{"workflow": W, "parts": 4, "came": 3}]
    bench.check()


def test_an_id_is_not_taken_anew_before_its_rows_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, producer = start()
    sent(producer, TEN)
    run_all(bench.worker("w", "q", capacity=500))
    monkeypatch.setattr(limits, "MAX_WORKS", 0)
    bench.advance(DAY_MS)
    assert state_of(producer) == "done"  # it is busy, and looks again
    monkeypatch.setattr(limits, "MAX_WORKS", 1000)
    bench.now += 1_000
    bench.wall += 1_000
    bench.turn()
    (part,) = messages_of(TEN)
    number = producer.next_number()
    bench.turn([(producer.route, part._replace(number=number, low=number))])
    (refused,) = producer.take(m.Failure)
    assert (refused.code, refused.details) == ("busy", {"retry_after_ms": 1000})
    bench.settle_down()
    sent(producer, CHORD)
    assert bench.count("f", State.READY) + bench.count("f", State.LEASED) == 3
    bench.check()
