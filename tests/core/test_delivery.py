"""Jobs go out: in turn over the workers, by priority and key and place, as far as credit goes, each once."""

from __future__ import annotations

import pytest

from tests.core.harness import Bench, Peer, payloads
from zbroker import limits as broker_limits
from zbroker.core import dispatch
from zclient.protocol import limits
from zclient.protocol import messages as m


def test_jobs_go_round_the_workers_one_at_a_time() -> None:
    bench = Bench()
    workers = [bench.worker(f"w{n}", "q", capacity=10) for n in range(2)]
    bench.producer().put("q", "a", "b", "c", "d")
    assert [worker.ids() for worker in workers] == [["a", "c"], ["b", "d"]]


def test_single_jobs_go_round_the_workers_too() -> None:
    bench = Bench()
    workers = [bench.worker(f"w{n}", "q", capacity=10) for n in range(3)]
    producer = bench.producer()
    for n in range(6):
        producer.put("q", f"{n}")
    assert [worker.ids() for worker in workers] == [["0", "3"], ["1", "4"], ["2", "5"]]


def test_one_delivery_a_worker_carries_all_its_jobs() -> None:
    bench = Bench()
    workers = [bench.worker(f"w{n}", "q", capacity=100) for n in range(4)]
    bench.producer().put("q", *(str(n) for n in range(80)))
    assert [len(worker.one(m.Deliver).ids) for worker in workers] == [20] * 4
    bench.check()


def test_jobs_that_came_before_the_worker_come_in_their_order() -> None:
    bench = Bench()
    producer = bench.producer()
    ids = [f"{n:04}" for n in range(1000)]
    producer.put("q", *ids)
    bench.crash()
    worker = bench.worker("w", "q", capacity=7)
    came: list[str] = []
    while jobs := worker.jobs():
        came += [identifier for identifier, _ in jobs]
        for identifier, fence in jobs:
            worker.ack(fence, identifier)
    assert came == ids
    bench.check()


def test_credit_bounds_what_is_delivered_and_returns_with_settlements() -> None:
    bench = Bench()
    worker = bench.worker("w", "q", capacity=3)
    bench.producer().put("q", *"abcdefg")
    jobs = worker.jobs()
    assert [identifier for identifier, _ in jobs] == ["a", "b", "c"]
    worker.ack(jobs[0][1], "a", "b")
    assert worker.ids() == ["d", "e"]
    bench.check()


def test_capacity_is_absolute_and_zero_pauses() -> None:
    bench = Bench()
    worker = bench.worker("w", "q", capacity=2)
    bench.producer().put("q", *"abcdefgh")
    ((_, fence), _) = worker.jobs()
    worker.send(m.Capacity(0))
    worker.ack(fence, "a", "b")
    assert worker.jobs() == []
    worker.send(m.Capacity(3))
    assert worker.ids() == ["c", "d", "e"]
    worker.send(m.Capacity(1))
    worker.send(m.Capacity(4))
    assert worker.ids() == ["f"]
    bench.check()


def test_a_worker_gets_only_what_it_serves() -> None:
    bench = Bench()
    worker = bench.worker("w", "q", "r", capacity=10)
    producer = bench.producer()
    producer.put("q", "a")
    producer.put("other", "b")
    producer.put("r", "c")
    assert worker.ids() == ["a", "c"]
    worker.queues = ["r", "other"]
    worker.hello([m.Held(1, [], [])])
    assert worker.ids() == ["b"]
    producer.put("q", "d")
    assert worker.ids() == []
    bench.check()


def test_credit_is_one_over_all_queues_of_a_worker() -> None:
    bench = Bench()
    worker = bench.worker("w", "q", "r", capacity=3)
    producer = bench.producer()
    with bench.one_turn():
        producer.send(m.Put(1, 1, [m.Group(name, {}, [b"%b%d" % (name.encode(), n) for n in range(5)], [b""] * 5)
                                   for name in ("q", "r")]))  # fmt: skip
    assert len(worker.jobs()) == 3
    bench.check()


def test_priority_then_keys_in_turn_then_place() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "x1", "x2", "x3", key="x")
    producer.put("q", "y1", "y2", key="y")
    producer.put("q", "low", priority=-1)
    producer.put("q", "high", priority=1)
    worker = bench.worker("w", "q", capacity=10)
    assert worker.ids() == ["high", "x1", "y1", "x2", "y2", "x3", "low"]


def test_fences_grow_and_attempts_are_told() -> None:
    bench = Bench()
    worker = bench.worker("w", "q", capacity=1)
    bench.producer().put("q", "a")
    first = worker.one(m.Deliver)
    worker.release(first.fence, "a")
    second = worker.one(m.Deliver)
    assert second.attempts == [1] and second.fence > first.fence
    worker.nack(second.fence, "a", delay=0)
    third = worker.one(m.Deliver)
    assert third.attempts == [2] and third.fence > second.fence
    assert (third.queue, third.lease_ms, payloads(third)) == ("q", 30_000, [b"p"])


def test_a_large_batch_is_spread_over_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "TURN_DELIVERIES", 100)
    bench = Bench()
    producer = bench.producer()
    for name in ("q", "r"):
        producer.put(name, *(f"{name}{n}" for n in range(1000)))
    before = bench.turns
    worker = bench.worker("w", "q", "r", capacity=2000)
    deliveries = worker.take(m.Deliver)
    assert sum(len(delivery.ids) for delivery in deliveries) == 2000
    assert max(len(delivery.ids) for delivery in deliveries) <= 100
    assert bench.turns - before >= 20
    assert {delivery.queue for delivery in deliveries[:4]} == {"q", "r"}, "no queue waits until the other is through"


def test_large_payloads_are_spread_over_turns() -> None:
    bench = Bench()
    producer = bench.producer()
    for n in range(30):
        producer.put("q", *(f"{n}-{i}" for i in range(16)), payload=bytes(limits.MAX_PAYLOAD_BYTES))
    worker = bench.worker("w", "q", capacity=1000)
    deliveries = worker.take(m.Deliver)
    assert sum(len(delivery.ids) for delivery in deliveries) == 480
    assert max(len(delivery.ids) for delivery in deliveries) <= dispatch.CHUNK
    bench.check()


def test_an_entry_that_stands_twice_is_delivered_once() -> None:
    """After a restart a job that came back has two entries: its block's, and its own."""
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=3)
    producer.put("q", *(str(n) for n in range(300)))
    jobs = worker.jobs()
    worker.send(m.Capacity(0))
    worker.release(jobs[0][1], "0", "1", "2")
    bench.crash()
    worker.capacity = 1000
    worker.connect()
    assert worker.ids() == [str(n) for n in range(300)]
    bench.check()


def full(bench: Bench) -> tuple[Peer, Peer]:
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    worker.full = True
    producer.put("q", "a", "b", "c")
    return producer, worker


def test_what_a_full_connection_refuses_goes_to_others_and_burns_nothing() -> None:
    bench = Bench()
    _, worker = full(bench)
    assert bench.counts("q") == {"ready": 3}
    other = bench.worker("v", "q", capacity=10)
    came = other.one(m.Deliver)
    assert came.ids == [b"a", b"b", b"c"] and came.attempts == [1, 1, 1]
    assert worker.jobs() == []
    bench.check()


def test_a_full_connection_is_tried_again_after_a_while() -> None:
    bench = Bench()
    _, worker = full(bench)
    worker.full = False
    bench.advance(broker_limits.CONGESTED_MS)
    assert worker.ids() == ["a", "b"]
    bench.check()


def test_a_drain_stops_deliveries_and_nothing_else() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b", "c")
    jobs = worker.jobs()
    bench.core.drain()
    assert worker.ack(jobs[0][1], "a") == []
    assert producer.put("q", "d") == m.Ok([2])
    worker.release(jobs[1][1], "b")
    worker.send(m.Capacity(5))
    assert worker.jobs() == [] and bench.core.leased == 0
    bench.core.say_closing("it stops")
    bench.turn()
    assert [peer.one(m.Closing).reason for peer in (producer, worker)] == ["it stops"] * 2
    bench.check()


# ---- several queues at one worker


def test_a_worker_is_served_from_its_queues_in_turn() -> None:
    bench = Bench()
    producer = bench.producer()
    for name in ("large", "small", "other"):
        producer.put(name, *(f"{name}{n}" for n in range(30 if name == "large" else 2)))
    worker = bench.worker("w", "large", "small", "other")
    served = []
    for _ in range(8):
        identifier, fence = worker.job()
        served.append(identifier)
        worker.ack(fence, identifier)
    assert served == ["large0", "small0", "other0", "large1", "small1", "other1", "large2", "large3"]
    bench.check()


def test_a_worker_of_few_queues_takes_its_turn_among_many() -> None:
    bench = Bench()
    producer = bench.producer()
    for n in range(20):
        producer.put(f"q{n}", *(f"{n}-{m}" for m in range(3)))
    one, two = bench.worker("one", "q3"), bench.worker("two", "q3", "q7")
    taken: dict[str, list[str]] = {"one": [], "two": []}
    for _ in range(6):
        for worker in (one, two):
            for identifier, fence in worker.jobs():
                taken[worker.name].append(identifier)
                worker.ack(fence, identifier)
    assert sorted(taken["one"] + taken["two"]) == ["3-0", "3-1", "3-2", "7-0", "7-1", "7-2"]
    assert set(taken["two"]) >= {"7-0", "7-1", "7-2"}
    bench.check()


def test_the_cost_of_a_settlement_does_not_grow_with_the_queues_that_a_worker_serves() -> None:
    bench = Bench()
    producer = bench.producer()
    names = [f"q{n}" for n in range(1000)]
    for name in names:
        producer.put(name, f"{name}-a", f"{name}-b")
    worker = bench.worker("w", *names)
    looked_at = []
    original = dispatch._dispatch_queue
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_dispatch_queue", lambda *args: looked_at.append(args[1]) or original(*args))
        for _ in range(50):
            identifier, fence = worker.job()
            worker.ack(fence, identifier)
    assert len(looked_at) <= 150
    bench.check()
