"""Cancel: in every state, durable, told to the worker, and against the end of the job."""

from __future__ import annotations

import pytest

from tests.core.harness import Bench
from tests.core.test_queues import rows_of
from zbroker.core.states import State
from zclient.protocol import limits
from zclient.protocol import messages as m


@pytest.mark.parametrize("delay", [0, 1000])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_waiting_job_is_cancelled_at_once(delay: int, restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", "b", delay=delay)
    if restarted:
        bench.crash()
        producer.connect()
    producer.send(m.Watch([b"a"]))
    assert producer.order("cancel", id=b"a") == {"state": "cancelled"}
    assert producer.ends() == {"a": ("cancelled", None, {"reason": "cancelled"})}
    assert producer.ask("show", id=b"a")["state"] == "cancelled"
    bench.advance(2000)
    assert bench.worker("w", "q", capacity=5).ids() == ["b"]
    assert producer.order("cancel", id=b"a") == {"state": "cancelled"}
    bench.check()


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        (m.Outcome.ACK, "done"),
        (m.Outcome.NACK, "cancelled"),
        (m.Outcome.REJECT, "cancelled"),
        (m.Outcome.RELEASE, "cancelled"),
        (m.Outcome.SNOOZE, "cancelled"),
        (None, "cancelled"),
    ],
)
def test_a_running_job_is_told_and_ends_with_its_run(outcome: m.Outcome | None, ends: str) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", payload=bytes(limits.LARGE_BYTES))
    producer.send(m.Watch([b"a"]))
    fence = worker.job()[1]
    assert producer.order("cancel", id=b"a") == {"state": "leased"}
    assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    assert producer.ask("show", id=b"a")["cancel_requested"]
    if outcome is None:
        bench.advance(30_000)
    else:
        worker.settle(outcome, fence, "a", values=[1000] if outcome is m.Outcome.SNOOZE else None)
    assert producer.ends()["a"][0] == ends
    assert producer.ask("show", id=b"a")["state"] == ends
    assert "jobs" not in rows_of(bench) and "changes" not in rows_of(bench)
    assert bench.counts("q") == {}
    bench.check()


def test_dead_and_finished_jobs_are_left_as_they_are_by_cancel() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b")
    fence = worker.one(m.Deliver).fence
    worker.reject(fence, "a")
    worker.ack(fence, "b")
    assert producer.order("cancel", id=b"a") == {"state": "dead"}
    assert producer.order("cancel", id=b"b") == {"state": "done"}
    assert producer.refused(m.Order(50, 50, "cancel", {"id": b"c"})).code == "not_found"
    assert bench.count("q", State.DEAD) == 1


@pytest.mark.parametrize("arguments", [{}, {"id": "text"}, {"id": b""}, {"id": b"x" * 65}, {"id": b"\x00"}])
def test_ids_that_cannot_be(arguments: dict[str, object]) -> None:
    producer = Bench().producer()
    assert producer.refused(m.Order(50, 50, "cancel", arguments)).code == "invalid"
    assert producer.refused(m.Ask(51, "show", arguments)).code == "invalid"


# ---- what else waits


def test_a_suspect_is_cancelled_and_keeps_no_worker_waiting() -> None:
    bench = Bench()
    producer, lost = bench.producer(), bench.worker("lost", "q")
    producer.put("q", "suspect")
    lost.jobs()
    lost.cut()
    bench.advance(5000)
    worker = bench.worker("w", "q", "r", capacity=0)
    assert producer.order("cancel", id=b"suspect") == {"state": "cancelled"}
    assert not bench.core.state.queues["q"].suspects
    worker.send(m.Capacity(2))
    producer.put("r", "a", "b")
    assert worker.ids() == ["a", "b"]
    assert producer.ask("show", id=b"suspect")["losses"] == 1, "what became of it is still told"
    bench.check()


def test_a_worker_that_was_running_empty_for_a_cancelled_suspect_gets_work_again() -> None:
    bench = Bench()
    producer, lost = bench.producer(), bench.worker("lost", "q")
    producer.put("q", "suspect")
    lost.jobs()
    busy = bench.worker("busy", "r", capacity=2)
    producer.put("r", "a")
    fence = busy.job()[1]
    lost.cut()
    bench.advance(5000)
    busy.hello([m.Held(fence, [b"a"], [])], queues=["q", "r"])
    producer.put("r", "b")
    assert busy.ids() == [], "it runs empty for the suspect"
    producer.order("cancel", id=b"suspect")
    assert busy.ids() == ["b"]
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("how", ["nack", "snooze", "loss"])
def test_a_job_that_its_key_waits_for_is_cancelled_and_the_key_goes_on(how: str, restarted: bool) -> None:
    bench = Bench(policy={"key_limit": 1})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "first", "second", key="k")
    identifier, fence = worker.job()
    assert identifier == "first"
    worker.send(m.Capacity(0))
    if how == "nack":
        worker.nack(fence, "first", delay=60_000)
    elif how == "snooze":
        worker.snooze(fence, "first", delay=60_000)
    else:
        bench.advance(30_000)
    if restarted:
        bench.crash()
        producer.connect()
    late = bench.worker("v", "q", capacity=0)
    assert producer.order("cancel", id=b"first") == {"state": "cancelled"}
    late.send(m.Capacity(5))
    assert late.ids() == ["second"]
    assert not list(bench.store.scan("heads", b"", b"\xff"))
    bench.check()


# ---- a wish is kept


def test_a_wish_is_kept_over_restarts_and_told_again_when_the_worker_names_the_job() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b")
    fence = worker.one(m.Deliver).fence
    worker.cut()
    assert producer.order("cancel", id=b"a") == {"state": "leased"}, "nobody is there to be told"
    for _ in range(2):
        bench.crash()
        worker.connect([m.Held(fence, [b"a", b"b"], [])])
        assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    producer.connect()
    producer.send(m.Watch([b"a"]))
    assert worker.nack(fence, "a", text="ended, as you wished") == []
    assert producer.ends() == {"a": ("cancelled", None, {"reason": "cancelled"})}
    assert producer.ask("show", id=b"a")["attempts"][0]["error"]["text"] == "ended, as you wished"
    assert bench.counts("q") == {"leased": 1}
    bench.check()


def test_a_wish_is_told_again_after_each_hello_on_the_same_connection_too() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    producer.order("cancel", id=b"a")
    worker.take(m.Cancel)
    worker.hello([m.Held(fence, [b"a"], [])])
    assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    worker.hello([])
    assert worker.take(m.Cancel) == [], "it does not name the job"


def test_a_wish_that_met_a_full_connection_is_told_with_the_next_renewal() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b")
    fence = worker.one(m.Deliver).fence
    worker.full = True
    producer.order("cancel", id=b"a")
    assert worker.take(m.Cancel) == []
    worker.full = False
    worker.send(m.Renew([fence]))
    assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    worker.nack(fence, "a")
    worker.send(m.Renew([fence]))
    assert worker.take(m.Cancel) == [], "it has ended"
    bench.check()


@pytest.mark.parametrize("connected", [False, True])
def test_a_job_that_was_to_end_is_cancelled_when_its_worker_does_not_come_back(connected: bool) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    worker.jobs()
    producer.order("cancel", id=b"a")
    bench.crash()
    producer.connect()
    producer.send(m.Watch([b"a"]))
    if connected:
        worker.connect()  # and names nothing: it never arrived
    bench.advance(6000)
    assert producer.ends() == {"a": ("cancelled", None, {"reason": "cancelled"})}
    assert bench.worker("v", "q").jobs() == [] and bench.counts("q") == {}
    bench.check()


@pytest.mark.parametrize("ends", ["before commit", "before send"])
def test_a_wish_counts_from_its_commit_on(ends: str) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    number = producer.next_number()
    bench.turn([(producer.route, m.Order(number, number, "cancel", {"id": b"a"}))], ends=ends)
    assert worker.take(m.Cancel) == []
    bench.crash()
    worker.connect([m.Held(fence, [b"a"], [])])
    assert len(worker.take(m.Cancel)) == (1 if ends == "before send" else 0)


# ---- cancel against finish


def test_the_first_commit_wins() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "acked", "wished")
    fence = worker.one(m.Deliver).fence
    with bench.one_turn():
        worker.send(m.Settle(70, [m.Settlement(fence, m.Outcome.ACK, [b"acked"], [b"result"])]))
        producer.send(m.Order(70, 70, "cancel", {"id": b"acked"}))
    assert producer.value_of(70) == {"state": "done"} and worker.take(m.Cancel) == []
    with bench.one_turn():
        producer.send(m.Order(71, 71, "cancel", {"id": b"wished"}))
        worker.send(m.Settle(71, [m.Settlement(fence, m.Outcome.ACK, [b"wished"], [b"result"])]))
    assert producer.value_of(71) == {"state": "leased"}
    for identifier, marked in ((b"acked", False), (b"wished", True)):
        row = producer.ask("show", id=identifier)
        assert (row["state"], row["result"], row["cancel_requested"]) == ("done", b"result", marked)
    bench.check()


def test_a_job_that_was_cancelled_then_acked_is_done_with_a_mark_and_stays_so() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    producer.order("cancel", id=b"a")
    worker.ack(fence, "a", results=[b"result"])
    bench.crash()
    producer.connect()
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["result"], row["cancel_requested"]) == ("done", b"result", True)
    (reason,) = producer.ask("why", id=b"a")["reasons"]
    assert reason["code"] == "done" and "wished it cancelled" in reason["text"]
    assert producer.order("cancel", id=b"a") == {"state": "done"}


def test_an_ack_of_a_job_that_was_cancelled_while_it_waited_anew_is_too_late() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    bench.advance(30_000)
    producer.order("cancel", id=b"a")
    assert worker.ack(fence, "a") == [(fence, b"a", "lost")]
    assert producer.ask("show", id=b"a")["state"] == "cancelled"
    bench.check()


def test_a_wish_may_come_again_and_again() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="text")
    fence = worker.job()[1]
    for _ in range(3):
        assert producer.order("cancel", id=b"a") == {"state": "leased"}
    assert worker.take(m.Cancel) == [m.Cancel(fence, [b"a"])] * 3
    worker.release(fence, "a")
    assert bench.counts("q") == {} and not list(bench.store.scan("unique", b"", b"\xff"))
    assert bench.core.state.queues["q"].counts.totals["cancelled"] == 1
