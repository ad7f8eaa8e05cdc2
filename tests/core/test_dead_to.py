"""A queue that gives its dead jobs to another queue: each goes on there, under its id, and says where it came from."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer, payloads
from tests.core.unique_texts import instead, restart, taken
from zclient.protocol import messages as m
from zclient.protocol.record import header_of

LARGE = bytes(70_000)


def graves(*ids: str, **options: Any) -> tuple[Bench, Peer, Peer]:
    """A bench whose queue gives its dead to `graves`, with these jobs put: bench, producer, worker of q alone."""
    bench = Bench(policy={"backoff_jitter": 0.0})
    producer = bench.producer()
    producer.order("set", queue="q", options={"dead_to": "graves"})
    producer.put("q", *ids, **options)
    return bench, producer, bench.worker("w", "q", capacity=len(ids))


def headers_of(producer: Peer, identifier: str) -> dict[str, Any]:
    headers = producer.ask("show", id=identifier.encode())["headers"]
    assert isinstance(headers, dict)
    return headers


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("payload", [b"small", LARGE])
def test_a_dead_job_goes_on_in_the_other_queue(payload: bytes, restarted: bool) -> None:
    bench, producer, worker = graves(
        "a", payload=payload, max_attempts=2, headers={"from": "test"}, priority=3, key="k"
    )
    producer.send(m.Watch([b"a"]))
    worker.nack(worker.job()[1], "a", type="E", text="first")
    bench.advance(1_000)
    worker.nack(worker.job()[1], "a", type="ValueError", text="second")
    ((state, _, cause),) = producer.ends().values()
    assert state == "dead" and cause is not None
    assert (cause["reason"], cause["moved_to"], cause["attempts"]) == ("attempts", "graves", 2)
    assert cause["error"]["text"] == "second"
    assert bench.counts("q") == {} and bench.counts("graves") == {"ready": 1}
    if restarted:
        restart(bench, producer)
    row = producer.ask("show", id=b"a")
    assert (row["queue"], row["state"], row["attempt"], row["priority"], row["key"]) == ("graves", "ready", 0, 3, "k")
    assert row["headers"] == {
        "from": "test",
        "dead_queue": "q",
        "dead_reason": "attempts",
        "dead_error": "ValueError: second",
        "dead_attempts": 2,
    }
    assert [attempt["error"]["text"] for attempt in row["attempts"]] == ["first", "second"], "its log comes along"
    assert row["max_attempts"] == 5, "what it asked for was asked of the other queue"
    bench.check()
    digger = bench.worker("digger", "graves")
    delivery = digger.one(m.Deliver)
    assert (delivery.ids, delivery.attempts, payloads(delivery)) == ([b"a"], [1], [payload])
    assert header_of(delivery.records[0]).options["headers"]["dead_queue"] == "q"
    bench.check()
    digger.ack(delivery.fence, "a")
    assert producer.ask("show", id=b"a")["state"] == "done"
    for space in ("jobs", "changes", "payloads", "dead"):
        assert not list(bench.store.scan(space, b"", b"\xff")), space
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
def test_the_other_queue_treats_it_by_its_own_policy(restarted: bool) -> None:
    bench, producer, worker = graves("a", max_attempts=1)
    producer.order("set", queue="graves", options={"max_attempts": 2, "backoff": [500]})
    worker.nack(worker.job()[1], "a", type="E", text="q")
    if restarted:
        restart(bench, producer)
    digger = bench.worker("digger", "graves")
    digger.nack(digger.job()[1], "a", text="g1")
    bench.advance(500)
    digger.nack(digger.job()[1], "a", text="g2")
    row = producer.ask("show", id=b"a")
    assert (row["queue"], row["state"], row["reason"], row["attempt"]) == ("graves", "dead", "attempts", 2)
    assert [attempt["error"]["text"] for attempt in row["attempts"]] == ["q", "g1", "g2"]
    producer.order("replay", ids=[b"a"])
    assert digger.job()[0] == "a"
    assert bench.counts("q") == {} and bench.counts("graves") == {"leased": 1}
    bench.check()


def test_every_way_to_die_leads_there() -> None:
    bench, producer, worker = graves("rejected", "lost", "poison", "expired", "delayed", "backoff", ttl=5_000)
    producer.order("set", queue="q", options={"poison_losses": 1, "delivery": "at_most_once"})
    fence = worker.one(m.Deliver).fence
    worker.reject(fence, "rejected", text="never")
    worker.release(fence, "lost")
    producer.order("unset", queue="q", options=["delivery"])
    worker.settle(m.Outcome.SNOOZE, fence, "delayed", values=[60_000])
    worker.nack(fence, "backoff", delay=60_000)
    worker.send(m.Capacity(0))
    worker.release(fence, "expired")
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.advance(5_000)
    assert bench.counts("q") == {} and bench.counts("graves") == {"ready": 6}
    told = {
        name: headers_of(producer, name) for name in ("rejected", "lost", "poison", "expired", "delayed", "backoff")
    }
    assert {name: headers["dead_reason"] for name, headers in told.items()} == {
        "rejected": "rejected",
        "lost": "lost",
        "poison": "poison",
        "expired": "expired",
        "delayed": "expired",
        "backoff": "expired",
    }
    assert (told["expired"]["dead_error"], told["expired"]["dead_attempts"]) == ("", 0)
    assert bench.core.state.queues["q"].counts.totals["moved"] == 6
    bench.check()
    restart(bench, producer)
    bench.advance(60_000)
    assert bench.counts("graves") == {"ready": 6}, "they expire no more, and no old time wakes them"
    bench.check()


def test_a_time_that_it_waited_for_before_does_not_meet_the_one_it_waits_for_now() -> None:
    bench, producer, worker = graves("a", ttl=1_000)
    due = bench.wall + 60_000
    worker.nack(worker.job()[1], "a", delay=60_000)
    bench.advance(1_000)
    digger = bench.worker("digger", "graves")
    digger.nack(digger.job()[1], "a", delay=due - bench.wall)
    digger.send(m.Capacity(0))
    assert producer.ask("show", id=b"a")["due_at"] == due
    bench.check()
    bench.advance(59_000)
    assert bench.counts("graves") == {"ready": 1} and bench.counts("q") == {}
    bench.check()


def test_its_unique_text_is_free_and_the_other_queue_does_not_take_it() -> None:
    bench, producer, worker = graves("a", unique="x")
    worker.reject(worker.job()[1], "a")
    assert taken(bench) == {}
    assert instead(producer.put("q", "b", unique="x")) == {}
    assert instead(producer.put("graves", "c", unique="x")) == {}
    assert taken(bench) == {"q/x": "b", "graves/x": "c"}
    digger = bench.worker("digger", "graves")
    identifier, fence = digger.job()
    assert identifier == "a"
    digger.ack(fence, identifier)
    assert taken(bench) == {"q/x": "b", "graves/x": "c"}
    bench.check()


def test_a_late_or_repeated_settlement_is_answered_as_before() -> None:
    bench, producer, worker = graves("a")
    fence = worker.job()[1]
    worker.reject(fence, "a", text="never")
    for restarted in (False, True):
        if restarted:
            restart(bench, producer, worker)
        assert worker.reject(fence, "a", text="never") == [], "its answer was lost"
        assert worker.ack(fence, "a") == [(fence, b"a", "lost")]
        assert worker.nack(fence, "a") == [(fence, b"a", "lost")]
    digger = bench.worker("digger", "graves")
    assert digger.job()[0] == "a"
    assert worker.ack(fence, "a") == [(fence, b"a", "lost")]
    assert bench.counts("graves") == {"leased": 1}
    bench.check()


def test_it_waits_in_the_line_of_the_other_queue() -> None:
    bench, producer, worker = graves("a")
    producer.put("graves", "before")
    worker.reject(worker.job()[1], "a")
    producer.put("graves", "after")
    assert bench.worker("digger", "graves", capacity=5).ids() == ["before", "a", "after"]
    bench.check()


@pytest.mark.parametrize("options", [{"max_jobs": 1}, {"max_bytes": 1}])
def test_a_full_or_closed_queue_takes_it_all_the_same(options: dict[str, int]) -> None:
    bench, producer, worker = graves("a", "b")
    producer.order("set", queue="graves", options=options)
    producer.order("drain", queue="graves")
    fence = worker.one(m.Deliver).fence
    worker.reject(fence, "a", "b")
    assert bench.counts("graves") == {"ready": 2}
    bench.check()


def test_a_suspect_is_none_in_the_other_queue() -> None:
    bench, producer, worker = graves("a", max_attempts=1)
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.advance(1_100)
    producer.put("graves", "b")
    assert bench.worker("digger", "graves", capacity=5).ids() == ["a", "b"]
    bench.check()


def test_the_turn_of_its_key_is_free() -> None:
    bench = Bench(policy={"key_limit": 1})
    producer = bench.producer()
    producer.order("set", queue="q", options={"dead_to": "graves"})
    producer.put("q", "a", "b", key="k")
    worker = bench.worker("w", "q")
    worker.reject(worker.job()[1], "a")
    assert worker.ids() == ["b"]
    assert bench.worker("digger", "graves", capacity=5).ids() == ["a"]
    bench.check()


# ---- what may be said


def test_a_chain_may_be_long_and_not_a_circle() -> None:
    bench = Bench()
    producer = bench.producer()
    for queue, target in (("a", "b"), ("b", "c"), ("c", "d")):
        producer.order("set", queue=queue, options={"dead_to": target})
    for queue, target in (("d", "a"), ("c", "a"), ("b", "b")):
        order = m.Order(producer.next_number(), 1, "set", {"queue": queue, "options": {"dead_to": target}})
        assert producer.refused(order).code == "invalid"
    restart(bench, producer)
    producer.put("a", "job")
    for queue in "abcd":
        worker = bench.worker(f"w{queue}", queue)
        worker.reject(worker.job()[1], "job", text=f"not in {queue}")
    row = producer.ask("show", id=b"job")
    assert (row["queue"], row["state"]) == ("d", "dead")
    assert [attempt["error"]["text"] for attempt in row["attempts"]] == [f"not in {queue}" for queue in "abcd"]
    assert (row["headers"]["dead_queue"], row["headers"]["dead_error"]) == ("c", "not in c")
    bench.check()


def test_one_queue_for_the_dead_of_all_keeps_its_own() -> None:
    bench = Bench(policy={"dead_to": "graves"})
    producer = bench.producer()
    producer.put("q", "a")
    for queue in ("q", "graves"):
        worker = bench.worker(f"w-{queue}", queue)
        worker.reject(worker.job()[1], "a")
    assert bench.counts("q") == {} and bench.counts("graves") == {"dead": 1}
    bench.check()


def test_what_is_set_later_holds_for_those_that_die_later() -> None:
    bench, producer, worker = graves("a", "b", "c")
    fence = worker.one(m.Deliver).fence
    producer.order("set", queue="q", options={"dead_to": ""})
    worker.reject(fence, "a")
    producer.order("set", queue="q", options={"dead_to": "others"})
    worker.reject(fence, "b")
    producer.order("unset", queue="q", options=["dead_to"])
    worker.reject(fence, "c")
    assert bench.counts("q") == {"dead": 2} and bench.counts("others") == {"ready": 1}
    bench.check()


def test_the_dead_of_a_queue_that_has_no_worker_wait_as_others_do() -> None:
    bench, producer, worker = graves(*(f"{n}" for n in range(300)))
    fence = worker.one(m.Deliver).fence
    for start in range(0, 300, 100):
        worker.reject(fence, *(f"{n}" for n in range(start, start + 100)))
    restart(bench, producer)
    assert bench.counts("graves") == {"ready": 300}
    assert producer.order("purge", queue="graves") == {"purged": 300}
    assert not list(bench.store.scan("jobs", b"", b"\xff"))
    bench.check()


def test_a_job_that_was_moved_is_another_for_a_producer_that_sends_it_again() -> None:
    bench, producer, worker = graves("a")
    worker.reject(worker.job()[1], "a")
    failure = producer.refused(m.Put(9, 9, [m.Group("q", {}, [b"a"], [b"p"])]))
    assert failure.code == "duplicate_id"
    assert bench.counts("graves") == {"ready": 1} and bench.counts("q") == {}
