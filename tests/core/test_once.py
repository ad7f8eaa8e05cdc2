"""Queues that deliver at most once: what may have begun never comes again, whoever or whatever failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zclient.protocol import messages as m

Way = Callable[[Bench, Peer, int], None]


def running(*ids: str, **options: Any) -> tuple[Bench, Peer, Peer, int]:
    """A bench whose worker has these jobs of a queue that delivers at most once: bench, producer, worker, fence."""
    bench = Bench(policy={"delivery": "at_most_once", "max_attempts": 5})
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=len(ids))
    producer.put("q", *ids, **options)
    return bench, producer, worker, worker.one(m.Deliver).fence


def gone(bench: Bench, worker: Peer) -> None:
    """The process dies without a word."""
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.turn()


def nack(bench: Bench, worker: Peer, fence: int) -> None:
    assert worker.nack(fence, "a", delay=0) == []


def reject(bench: Bench, worker: Peer, fence: int) -> None:
    assert worker.reject(fence, "a") == []


def release(bench: Bench, worker: Peer, fence: int) -> None:
    assert worker.release(fence, "a") == []


def release_not(bench: Bench, worker: Peer, fence: int) -> None:
    assert worker.settle(m.Outcome.RELEASE, fence, "a", values=[False]) == []


def snooze(bench: Bench, worker: Peer, fence: int) -> None:
    assert worker.snooze(fence, "a", delay=10) == []


def crash(bench: Bench, worker: Peer, fence: int) -> None:
    gone(bench, worker)
    bench.advance(1_100)


def wedge(bench: Bench, worker: Peer, fence: int) -> None:
    bench.advance(30_000)


def goodbye(bench: Bench, worker: Peer, fence: int) -> None:
    worker.send(m.Goodbye())


def stay_away(bench: Bench, worker: Peer, fence: int) -> None:
    bench.crash()
    bench.advance(5_100)


def stay_away_twice(bench: Bench, worker: Peer, fence: int) -> None:
    bench.crash()
    bench.advance(2_000)
    stay_away(bench, worker, fence)


def lost_tick(bench: Bench, worker: Peer, fence: int) -> None:
    """The tick in which it would be lost is lost itself."""
    gone(bench, worker)
    bench.now += 1_100
    bench.wall += 1_100
    bench.turn(ends="before commit")
    stay_away(bench, worker, fence)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (nack, "attempts"),
        (reject, "rejected"),
        (release, "lost"),
        (release_not, "lost"),
        (snooze, "lost"),
        (crash, "lost"),
        (wedge, "lost"),
        (goodbye, "lost"),
        (stay_away, "lost"),
        (stay_away_twice, "lost"),
        (lost_tick, "lost"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"max_attempts": 9}, {"key": "k"}, {"ttl": 50_000}])
def test_what_may_have_begun_never_comes_again(way: Way, reason: str, options: dict[str, Any]) -> None:
    bench, producer, worker, fence = running("a", **options)
    producer.send(m.Watch([b"a"]))
    way(bench, worker, fence)
    bench.check()
    assert bench.counts("q") == {"dead": 1}
    if producer.route in bench.routes:
        assert producer.ends()["a"][0] == "dead"
    producer.connect()
    assert producer.ask("show", id=b"a")["reason"] == reason
    other = bench.worker("other", "q", capacity=5)
    bench.advance(100_000)
    assert other.jobs() == [] and worker.jobs() == []
    bench.check()


def test_what_is_done_is_done_once() -> None:
    bench, producer, worker, fence = running("a", "b")
    assert worker.ack(fence, "a") == []
    assert worker.ack(fence, "a", "b") == []
    assert bench.counts("q") == {}
    assert producer.ask("show", id=b"b")["attempt"] == 1
    bench.check()


def test_a_run_that_took_too_long_is_dead() -> None:
    bench = Bench(policy={"delivery": "at_most_once", "max_run_ms": 1_000})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    bench.advance(1_000)
    row = producer.ask("show", id=b"a")
    assert (row["reason"], row["attempts"][0]["kind"]) == ("attempts", "max_run")
    assert worker.ack(fence, "a") == [(fence, b"a", "lost")]
    bench.check()


# ---- what never began comes again


def test_a_worker_may_say_that_it_never_began_a_job() -> None:
    bench, _, worker, fence = running("a", "b")
    other = bench.worker("other", "q", capacity=5)
    assert worker.settle(m.Outcome.RELEASE, fence, "a", values=[True]) == []
    came = worker.jobs() + other.jobs()
    assert [identifier for identifier, _ in came] == ["a"]
    assert bench.counts("q") == {"leased": 2}
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_worker_does_not_name_when_it_is_back_never_arrived(restarted: bool) -> None:
    bench, _, worker, fence = running("a", "b", "c")
    if restarted:
        bench.crash()
    else:
        gone(bench, worker)
        bench.advance(500)
    worker.connect([(fence, [b"a"], [b"b"])])
    assert worker.ids() == ["c"]
    assert worker.ack(fence, "a", "b") == []
    bench.check()


def test_a_delivery_that_could_not_be_sent_never_arrived() -> None:
    bench = Bench(policy={"delivery": "at_most_once"})
    producer = bench.producer()
    worker = bench.worker("w", "q")
    worker.full = True
    producer.put("q", "a")
    assert bench.counts("q") == {"ready": 1}
    worker.full = False
    bench.advance(200)
    assert worker.ids() == ["a"]
    bench.check()


def test_a_connection_that_was_gone_at_the_delivery_took_nothing() -> None:
    bench = Bench(policy={"delivery": "at_most_once"})
    producer = bench.producer()
    bench.worker("w", "q").cut()
    producer.put("q", "a")
    bench.advance(2_000)
    assert bench.counts("q") == {"ready": 1}
    assert bench.worker("other", "q").ids() == ["a"]
    bench.check()


@pytest.mark.parametrize("back", [True, False])
def test_a_delivery_that_was_committed_and_not_sent_comes_again_only_if_its_worker_says_so(back: bool) -> None:
    bench = Bench(policy={"delivery": "at_most_once"})
    producer, worker = bench.producer(), bench.worker("w", "q")
    number = producer.next_number()
    put = m.Put(number, number, [m.Group("q", {}, [b"a"], [b"p"])])
    bench.turn([(producer.route, put)], ends="before send")
    bench.crash()
    assert bench.counts("q") == {"leased": 1}
    if back:
        worker.connect()
        assert worker.ids() == ["a"]
    else:
        bench.advance(5_100)
        assert bench.counts("q") == {"dead": 1}
    bench.check()


def test_a_lost_job_may_be_replayed_by_somebody_who_knows() -> None:
    bench, producer, worker, fence = running("a")
    crash(bench, worker, fence)
    producer.order("replay", ids=[b"a"])
    assert bench.worker("other", "q").ids() == ["a"]
    bench.check()


def test_the_queue_says_so_at_the_moment_when_it_comes_out() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", "b")
    fence = worker.job()[1]
    producer.order("set", queue="q", options={"delivery": "at_most_once"})
    worker.release(fence, "a")
    assert producer.ask("show", id=b"a")["reason"] == "lost"
    identifier, fence = worker.job()
    producer.order("unset", queue="q", options=["delivery"])
    worker.release(fence, identifier)
    assert worker.ids() == ["b"]
    bench.check()


def test_a_wish_to_cancel_ends_it_as_cancelled() -> None:
    bench, producer, worker, fence = running("a")
    producer.order("cancel", id=b"a")
    crash(bench, worker, fence)
    assert producer.ask("show", id=b"a")["state"] == "cancelled"
    bench.check()


def test_of_many_in_a_lost_worker_all_are_dead() -> None:
    bench, producer, worker, fence = running(*(f"{n}" for n in range(1000)))
    worker.ack(fence, *(f"{n}" for n in range(0, 1000, 2)))
    gone(bench, worker)
    bench.advance(1_100)
    assert bench.counts("q") == {"dead": 500}
    groups = producer.ask("dead_groups", queue="q")
    assert [(group["reason"], group["jobs"]) for group in groups] == [("lost", 500)]
    bench.check()
