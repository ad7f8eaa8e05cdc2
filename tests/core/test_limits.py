"""Limits of a queue: jobs in flight, and jobs and bytes that wait; what was accepted is never dropped for room."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker.core.states import State
from zclient.protocol import limits as wire
from zclient.protocol import messages as m
from zclient.protocol.record import stored_bytes

# ---- in flight


@pytest.mark.parametrize("key_limit", [0, 1])
@pytest.mark.parametrize("lanes", [0, 2, 100])
def test_no_more_jobs_are_in_flight_than_the_queue_allows(key_limit: int, lanes: int) -> None:
    bench = Bench(resident_lanes=lanes, policy={"in_flight_limit": 5, "key_limit": key_limit})
    producer = bench.producer()
    for n in range(30):
        producer.put("q", f"{n}", key=f"{n}")
    workers = [bench.worker(f"w{n}", "q", capacity=4) for n in range(3)]
    held = [(worker, *job) for worker in workers for job in worker.jobs()]
    assert len(held) == 5
    done = 0
    while held:
        worker, identifier, fence = held.pop(0)
        ways = (worker.ack, worker.ack, worker.reject, worker.release)
        ways[done % 4](fence, identifier)
        done += 1
        held += [(other, *job) for other in workers for job in other.jobs()]
        assert len(held) == bench.count("q", State.LEASED) <= 5
        assert len(held) == 5 or bench.count("q", State.READY) == 0, "what is given back is taken again at once"
        bench.check()
    assert bench.core.wanted_in() > 0


@pytest.mark.parametrize("how", ["lost", "expired", "goodbye", "restart", "raised", "unset"])
def test_room_in_flight_is_found_however_it_comes(how: str) -> None:
    bench = Bench(policy={"lease_ms": 5_000})
    producer = bench.producer()
    producer.order("set", queue="q", options={"in_flight_limit": 2})
    producer.put("q", *"abcdef")
    one = bench.worker("one", "q", capacity=2)
    assert one.ids() == ["a", "b"]
    two = bench.worker("two", "q", capacity=10)
    assert two.jobs() == []
    if how == "lost":
        one.cut()
        bench.core.unreachable(one.route)
        bench.turn()
        bench.advance(1_100)
    elif how == "expired":
        bench.advance(5_000)
    elif how == "goodbye":
        one.send(m.Goodbye())
    elif how == "restart":
        bench.crash()
        two.connect()
        assert two.jobs() == [], "what ran may still run"
        bench.advance(5_000)
    elif how == "raised":
        producer.order("set", queue="q", options={"in_flight_limit": 5})
    else:
        producer.order("unset", queue="q", options=["in_flight_limit"])
    came = len(two.jobs())
    assert came == {"raised": 3, "unset": 4, "lost": 1, "expired": 1}.get(how, 2), "a suspect takes a worker for itself"
    bench.check()


def test_a_lowered_limit_lets_what_runs_run() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *"abcdefgh")
    worker = bench.worker("w", "q", capacity=5)
    held = worker.jobs()
    producer.order("set", queue="q", options={"in_flight_limit": 2})
    for n, (identifier, fence) in enumerate(held):
        worker.ack(fence, identifier)
        assert len(worker.take(m.Deliver)) == (n >= 3)
    bench.check()


def test_the_order_in_which_a_job_may_be_held_back() -> None:
    """What `why` tells first is what has to change first: the order of docs/limits.md."""
    policy: dict[str, Any] = {"in_flight_limit": 1, "rate": (1, 60_000), "key_limit": 1}
    bench = Bench(policy=policy)
    producer = bench.producer()
    producer.put("q", *"abc", key="k")
    worker = bench.worker("w", "q", capacity=9)
    assert worker.ids() == ["a"]
    producer.order("pause", queue="q")

    def codes() -> list[str]:
        return [reason["code"] for reason in producer.ask("why", id=b"b")["reasons"]]

    assert codes()[:4] == ["paused", "in_flight_limit", "rate", "key_limit"]
    producer.order("resume", queue="q")
    producer.order("unset", queue="q", options=["in_flight_limit"])
    assert codes()[:2] == ["in_flight_limit", "rate"], "the broker's own setting holds again"
    producer.order("set", queue="q", options={"in_flight_limit": 0, "rate": 0})
    assert codes()[:1] == ["key_limit"]
    producer.order("set", queue="q", options={"key_limit": 0})
    assert worker.ids() == ["b", "c"]
    bench.check()


# ---- length and bytes


def refusal(producer: Peer, queue: str, *ids: str, payload: bytes = b"p", **options: Any) -> m.Failure | None:
    """The refusal of a PUT; None if it was accepted."""
    answer = producer.put(queue, *ids, payload=payload, **options)
    return answer if isinstance(answer, m.Failure) else None


def size_of(bench: Bench, *ids: str) -> int:
    """What these jobs take on disk."""
    return sum(stored_bytes(bench.store.get("jobs", identifier.encode()) or b"") for identifier in ids)


@pytest.mark.parametrize("delay", [0, 60_000])
def test_a_full_queue_refuses_a_whole_put_and_takes_what_fits_exactly(delay: int) -> None:
    bench = Bench(policy={"max_jobs": 5})
    producer = bench.producer()
    assert refusal(producer, "q", "a", "b", "c", delay=delay) is None
    failure = refusal(producer, "q", "d", "e", "f", delay=delay)
    assert failure is not None and failure.code == "queue_full" and failure.details["retry_after_ms"] > 0
    assert refusal(producer, "q", "d", "e", delay=delay) is None
    assert refusal(producer, "q", "f") is not None
    assert refusal(producer, "other", "f") is None, "other queues have room"
    assert refusal(producer, "q", "a", "b", "c", delay=delay) is None, "the same jobs again need none"
    assert bench.core.state.queues["q"].counts.waiting_jobs == 5
    bench.crash()
    producer.connect()
    assert refusal(producer, "q", "g") is not None, "after a restart too"
    bench.check()


@pytest.mark.parametrize("size", [1, 1_000, wire.LARGE_BYTES])
@pytest.mark.parametrize("options", [{}, {"key": "k", "priority": 3}, {"delay": 60_000}, {"ttl": 90_000}])
def test_bytes_are_counted_exactly_as_they_lie_on_disk(size: int, options: dict[str, Any]) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("probe", "1", payload=bytes(size), **options)
    one = size_of(bench, "1") + len("queue") - len("probe")
    producer.order("set", queue="queue", options={"max_bytes": 3 * one})
    assert refusal(producer, "queue", "a", "b", payload=bytes(size), **options) is None
    assert refusal(producer, "queue", "c", "d", payload=bytes(size), **options) is not None
    assert refusal(producer, "queue", "c", payload=bytes(size + 1), **options) is not None, "one byte too much"
    assert refusal(producer, "queue", "c", payload=bytes(size), **options) is None
    assert bench.core.state.queues["queue"].counts.waiting_bytes == 3 * one == size_of(bench, "a", "b", "c")
    assert refusal(producer, "queue", "d", payload=b"", **options) is not None
    bench.check()


def test_groups_of_one_put_count_together() -> None:
    bench = Bench(policy={"max_jobs": 3})
    producer = bench.producer()

    def put(*groups: tuple[str, list[bytes]]) -> m.Message:
        number = producer.next_number()
        producer.send(m.Put(number, number, [m.Group(queue, {}, ids, [b""] * len(ids)) for queue, ids in groups]))
        return producer.answer(number)

    assert isinstance(put(("q", [b"a", b"b"]), ("r", [b"c"]), ("q", [b"d", b"e"])), m.Failure)
    assert "q" not in bench.core.state.queues and "r" not in bench.core.state.queues, "none of it was stored"
    assert isinstance(put(("q", [b"a", b"b"]), ("r", [b"c"]), ("q", [b"d"])), m.Ok)
    assert isinstance(put(("r", [b"e"]), ("q", [b"f"])), m.Failure)
    assert isinstance(put(("r", [b"e", b"f"])), m.Ok)
    bench.check()


WAYS = ["ack", "reject", "cancel", "purge", "expiry", "drop expired", "leased", "unique"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", ["max_jobs", "max_bytes"])
def test_every_way_out_makes_room_and_every_way_back_takes_it(way: str, limit: str) -> None:
    bench = Bench(policy={"on_expiry": "drop" if way == "drop expired" else "dead", "backoff_min_ms": 10})
    producer = bench.producer()
    options: dict[str, Any] = {"ttl": 5_000} if "expir" in way else {"unique": "u"} if way == "unique" else {}
    assert refusal(producer, "q", "a", **options) is None
    full = 1 if limit == "max_jobs" else size_of(bench, "a")
    producer.order("set", queue="q", options={limit: full})
    assert refusal(producer, "q", "b") is not None
    counts = bench.core.state.queues["q"].counts
    if way in ("ack", "reject", "leased"):
        worker = bench.worker("w", "q")
        identifier, fence = worker.job()
        worker.send(m.Capacity(0))
        if way == "leased":
            worker.nack(fence, "a", delay=1_000)
            assert refusal(producer, "q", "b") is not None, "it waits again"
            producer.order("cancel", id=b"a")
        elif way == "ack":
            worker.ack(fence, identifier)
        else:
            worker.reject(fence, identifier)
    elif way == "cancel":
        producer.order("cancel", id=b"a")
    elif way == "purge":
        producer.order("purge", queue="q")
    elif way == "unique":
        assert refusal(producer, "q", "c", unique="u") is None, "it is that job"
        producer.order("cancel", id=b"a")
    else:
        bench.advance(5_000)
    assert (counts.waiting_jobs, counts.waiting_bytes) == (0, 0)
    bench.check()
    assert refusal(producer, "q", "b") is None
    assert refusal(producer, "q", "c") is not None
    bench.check()


@pytest.mark.parametrize("back", ["release", "nack", "snooze", "lost", "replay", "dead_to"])
def test_what_was_accepted_comes_back_though_the_queue_is_full(back: str) -> None:
    bench = Bench(policy={"max_attempts": 3, "lease_ms": 1_000})
    producer = bench.producer()
    if back == "dead_to":
        producer.order("set", queue="source", options={"dead_to": "q"})
    source = "source" if back == "dead_to" else "q"
    producer.put(source, "a")
    worker = bench.worker("w", source)
    _, fence = worker.job()
    worker.send(m.Capacity(0))
    producer.order("set", queue="q", options={"max_jobs": 1})
    if back == "replay":
        worker.reject(fence, "a")
    assert refusal(producer, "q", "b") is None
    if back == "release":
        worker.release(fence, "a")
    elif back == "nack":
        worker.nack(fence, "a")
    elif back == "snooze":
        worker.snooze(fence, "a", delay=10_000)
    elif back == "lost":
        bench.advance(1_000)
    elif back == "replay":
        producer.order("replay", ids=[b"a"])
    else:
        worker.reject(fence, "a")
    counts = bench.core.state.queues["q"].counts
    assert counts.waiting_jobs == 2
    assert refusal(producer, "q", "c") is not None
    bench.check()
    bench.crash()
    assert bench.core.state.queues["q"].counts.waiting_jobs == 2
    bench.check()


def test_a_lowered_limit_drops_nothing() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *"abcde")
    producer.order("set", queue="q", options={"max_jobs": 2})
    assert bench.counts("q") == {"ready": 5}
    assert refusal(producer, "q", "f") is not None
    worker = bench.worker("w", "q", capacity=9)
    assert worker.ids() == list("abcde")
    assert refusal(producer, "q", "f", "g") is None, "what is leased waits no more"
    bench.check()
