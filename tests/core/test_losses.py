"""Jobs that lose their worker: counted apart, delivered alone, and dead only for what they did alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits
from zclient.protocol import messages as m


def crash_worker(bench: Bench, worker: Peer) -> None:
    """The process dies without a word."""
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.turn()
    bench.advance(1_100)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("restarts", [False, True])
def test_of_a_thousand_jobs_the_one_killer_dies_and_no_other(workers: int, restarts: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(1000)))
    killer = "137"
    pool = [bench.worker(f"w{n}", "q", capacity=50) for n in range(workers)]
    crashes = 0
    for _ in range(5000):
        busy = False
        for position, worker in enumerate(pool):
            jobs = worker.jobs()
            busy = busy or bool(jobs)
            if any(identifier == killer for identifier, _ in jobs):
                crashes += 1
                crash_worker(bench, worker)
                pool[position] = bench.worker(f"again{crashes}", "q", capacity=50)
                if restarts and crashes == 2:
                    bench.crash()
                    producer.connect()
                    for other in pool:
                        other.connect()
                continue
            for identifier, fence in jobs:
                worker.ack(fence, identifier)
        if not busy:
            break
    assert bench.counts("q") == {"dead": 1}
    row = producer.ask("show", id=killer.encode())
    assert (row["reason"], row["losses"], crashes) == ("poison", 4, 4)
    assert bench.core.state.queues["q"].counts.totals["done"] == 999
    bench.check()


def lost_once(*ids: str, **policy: Any) -> tuple[Bench, Peer]:
    """A bench on which these jobs lost a worker together, and no worker is there."""
    bench = Bench(policy=policy)
    producer = bench.producer()
    producer.put("q", *ids)
    crash_worker(bench, bench.worker("first", "q", capacity=len(ids)))
    assert bench.counts("q") == {"ready": len(ids)}
    return bench, producer


def test_a_suspect_goes_alone_to_an_empty_worker() -> None:
    bench, producer = lost_once("a", "b", "c")
    worker = bench.worker("w", "q", capacity=10)
    for expected in "abc":
        identifier, fence = worker.job()
        assert identifier == expected
        worker.ack(fence, identifier)
    producer.put("q", "d", "e")
    assert worker.ids() == ["d", "e"]
    bench.check()


def test_suspects_go_to_several_workers_at_once() -> None:
    bench, _ = lost_once("a", "b", "c")
    workers = [bench.worker(f"w{n}", "q", capacity=10) for n in range(4)]
    assert [worker.ids() for worker in workers] == [["a"], ["b"], ["c"], []]
    bench.check()


def test_under_load_one_worker_runs_empty_for_the_suspects_while_the_others_work_on() -> None:
    bench, producer = lost_once("suspect")
    with bench.one_turn():
        workers = [Peer(bench, f"w{n}", ("q",), 3) for n in range(2)]
        for worker in workers:
            worker.route = bench.new_route(worker)
            worker.send(m.Hello(1, worker.incarnation, worker.name, 3, ["q"], [], 0, {}))
        producer.send(m.Put(5, 5, [m.Group("q", {}, [b"%d" % n for n in range(100)], [b""] * 100)]))
    bench.check()
    ran = 0
    came: list[str] = []
    for _ in range(200):
        for worker in workers:
            for identifier, fence in worker.jobs():
                came.append(identifier)
                (holder,) = (p for p in bench.core.state.peers.values() if fence in p.deliveries)
                if identifier == "suspect":
                    assert holder.unsettled == 1
                    ran = len(came)
                worker.ack(fence, identifier)
                bench.check()
    assert ran and bench.counts("q") == {}


def test_a_suspect_among_busy_workers_is_not_forgotten() -> None:
    bench, producer = lost_once("a", "b")
    worker = bench.worker("w", "q", capacity=2)
    identifier, fence = worker.job()
    producer.put("q", *(f"{n}" for n in range(20)))
    assert worker.jobs() == [], "it holds a suspect, and gets nothing else"
    worker.ack(fence, identifier)
    assert worker.job()[0] == "b"
    bench.check()


def test_only_losses_suffered_alone_are_poison() -> None:
    bench = Bench(policy={"poison_losses": 2, "max_attempts": 100})
    producer = bench.producer()
    producer.put("q", "a", "b")
    for n in range(2):
        crash_worker(bench, bench.worker(f"w{n}", "q", capacity=2))
        row = producer.ask("show", id=b"a")
        assert row["state"] == "ready" and row["losses"] == n + 1
    crash_worker(bench, bench.worker("w3", "q", capacity=2))
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["reason"]) == ("dead", "poison")
    bench.check()


def test_losses_burn_attempts() -> None:
    bench, producer = lost_once("a", max_attempts=2)
    crash_worker(bench, bench.worker("w", "q"))
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["reason"]) == ("dead", "attempts")
    bench.check()


@pytest.mark.parametrize("how", ["purge", "cancel", "pause", "quiet"])
def test_a_worker_kept_empty_for_a_suspect_that_does_not_come_works_again(how: str) -> None:
    bench, producer = lost_once("suspect")
    # Both workers hold something else when the suspect's turn comes, and one is to run empty for it.
    producer.order("pause", queue="q")
    workers = [bench.worker(f"w{n}", "q", "r", capacity=2) for n in range(2)]
    producer.put("r", "1", "2")
    held = [worker.job() for worker in workers]
    producer.order("resume", queue="q")
    reserved = [peer for peer in bench.core.state.peers.values() if peer.reserved]
    assert len(reserved) == 1
    if how == "purge":
        producer.order("purge", queue="q")
    elif how == "cancel":
        producer.order("cancel", id=b"suspect")
    elif how == "pause":
        producer.order("pause", queue="q")
    else:
        (quiet,) = (worker for worker in workers if worker.name == reserved[0].name)
        quiet.send(m.Capacity(0))
    bench.check()
    for worker, (identifier, fence) in zip(workers, held, strict=True):
        worker.ack(fence, identifier)
    producer.put("r", *(f"more{n}" for n in range(4)))
    came = sorted(identifier for worker in workers for identifier in worker.ids())
    if how == "quiet":
        assert came == ["suspect"]
    else:
        assert came == ["more0", "more1", "more2", "more3"]
    bench.check()


def test_a_replayed_job_is_no_suspect() -> None:
    bench, producer = _dead_of_losses()
    producer.order("replay", ids=[b"a"])
    producer.put("q", "b")
    worker = bench.worker("v", "q", capacity=10)
    assert worker.ids() == ["a", "b"]
    bench.check()


def _dead_of_losses() -> tuple[Bench, Peer]:
    bench = Bench(policy={"max_attempts": 1})
    producer = bench.producer()
    producer.put("q", "a")
    crash_worker(bench, bench.worker("w", "q"))
    assert bench.counts("q") == {"dead": 1}
    return bench, producer


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("lanes", [0, 100])
def test_jobs_behind_a_suspect_do_not_wait_for_it(lanes: int, restarted: bool) -> None:
    bench = Bench(resident_lanes=lanes)
    producer = bench.producer()
    producer.put("q", "a", "b")
    crash_worker(bench, bench.worker("first", "q", capacity=2))
    producer.put("q", *(f"more{n}" for n in range(20)))
    if restarted:
        bench.crash()
    one = bench.worker("one", "q", capacity=5)
    held = one.jobs()
    # A restart forgets which jobs are suspects until their turn comes; then they wait for an empty worker.
    assert [identifier for identifier, _ in held] == ([f"more{n}" for n in range(5)] if restarted else ["a"])
    two = bench.worker("two", "q", capacity=5)
    assert two.ids() == (["a"] if restarted else ["b"])
    three = bench.worker("three", "q", capacity=50)
    assert three.ids() == (["b"] if restarted else [f"more{n}" for n in range(20)])
    assert bench.core.wanted_in() > 0
    bench.check()


def test_suspects_do_not_wait_for_a_worker_that_is_wedged() -> None:
    bench, producer = lost_once("suspect")
    producer.order("pause", queue="q")
    one, two = (bench.worker(name, "q", "r", capacity=2) for name in ("one", "two"))
    producer.put("r", "1", "2")
    held = {worker: worker.job() for worker in (one, two)}
    producer.order("resume", queue="q")
    (reserved,) = (worker for worker in (one, two) if _peer(bench, worker).reserved)
    (other,) = {one, two} - {reserved}
    for _ in range(8):
        bench.advance(5_000)  # the reserved one renews nothing
        other.send(m.Renew([held[other][1]]))
    assert _peer(bench, reserved).wedged and _peer(bench, other).reserved
    other.ack(held[other][1], held[other][0])
    assert other.ids() in (["suspect"], [held[reserved][0]])
    bench.check()


def _peer(bench: Bench, worker: Peer) -> Any:
    return bench.core.state.peers[worker.incarnation]


@pytest.mark.parametrize("restarted", [False, True])
def test_suspects_of_one_key_do_not_wait_for_each_other(restarted: bool) -> None:
    """They ran side by side before jobs of a key were to run in order; then each keeps the turn of the key."""
    bench = Bench()
    bench.lowered = True
    producer, first = bench.producer(), bench.worker("first", "q", capacity=3)
    producer.put("q", "1", "2", "3", "4")
    producer.order("set", queue="q", options={"key_limit": 1})
    first.cut()
    bench.core.unreachable(first.route)
    bench.advance(2_000)
    if restarted:
        bench.crash()
    workers = [bench.worker(f"w{n}", "q") for n in range(2)]
    for expected in ("1", "2", "3", "4"):
        ((worker, identifier, fence),) = [(worker, *job) for worker in workers for job in worker.jobs()]
        assert identifier == expected, "one at a time, in order"
        worker.ack(fence, identifier)
    assert bench.counts("q") == {}
    bench.check()


def test_a_suspect_behind_many_that_their_key_holds_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STEP_ROWS", 3)
    bench = Bench()
    bench.lowered = True
    producer, first = bench.producer(), bench.worker("first", "q", capacity=20)
    producer.put("q", *(f"a{n}" for n in range(10)), key="a")
    producer.put("q", "b", key="b")
    assert len(first.jobs()) == 11
    producer.order("set", queue="q", options={"key_limit": 2})
    crash_worker(bench, first)
    workers = [bench.worker(f"w{n}", "q") for n in range(3)]
    for _ in range(5):
        bench.turn()
    assert [worker.ids() for worker in workers] == [["a0"], ["a1"], ["b"]]
    bench.check()


@pytest.mark.parametrize("jobs", range(3, 13))
def test_suspects_that_their_key_holds_back_are_looked_at_once(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STEP_ROWS", 3)
    bench = Bench()
    bench.lowered = True
    producer, first = bench.producer(), bench.worker("first", "q", capacity=20)
    producer.put("q", *(f"a{n}" for n in range(jobs)), key="a")
    assert len(first.jobs()) == jobs
    producer.order("set", queue="q", options={"key_limit": 2})
    crash_worker(bench, first)
    workers = [bench.worker(f"w{n}", "q") for n in range(3)]
    for _ in range(10):
        bench.turn()
    assert [worker.ids() for worker in workers] == [["a0"], ["a1"], []]
    assert bench.core.wanted_in() > 0, "the core looks at the same suspects turn after turn"
    bench.check()
