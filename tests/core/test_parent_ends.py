"""What becomes of a child when a parent ends in another way than done, and when the child itself does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.core.counted import BATCH, A
from tests.core.families import edges, group, parents, run_all, send, state_of, states, unfinished
from tests.core.harness import Bench, Peer
from zbroker import limits
from zbroker.core.tick import View
from zclient.protocol import messages as m

# ---- ways in which the parent "a" of the queue "q" ends; a worker "w" of capacity 1 serves the queue


def rejected(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.reject(worker.job()[1], "a")


def out_of_attempts(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.nack(worker.job()[1], "a", delay=0)
    assert state_of(producer, "b") == "blocked"
    worker.nack(worker.job()[1], "a", delay=0)


def expired(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.snooze(worker.job()[1], "a", delay=65_000)
    bench.advance(60_000)


def expired_and_dropped(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"on_expiry": "drop"})
    expired(bench, producer, worker)


def poison(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"poison_losses": 1})
    worker.job()
    worker.cut()
    bench.advance(20_000)
    worker.connect()


def cancelled_while_it_waits(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.snooze(worker.job()[1], "a", delay=50_000)
    producer.order("cancel", id=b"a")


def cancelled_while_it_runs(bench: Bench, producer: Peer, worker: Peer) -> None:
    fence = worker.job()[1]
    producer.order("cancel", id=b"a")
    assert state_of(producer, "b") == "blocked"
    worker.release(fence, "a")


def purged(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("pause", queue="q")
    worker.release(worker.job()[1], "a")
    producer.order("purge", queue="q")
    producer.order("resume", queue="q")


def dropped(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.reject(worker.job()[1], "a")
    producer.order("drop", ids=[b"a"])


def dropped_with_its_queue(bench: Bench, producer: Peer, worker: Peer) -> None:
    worker.reject(worker.job()[1], "a")
    producer.order("drop", queue="q")
    bench.settle_down()


def replaced(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("pause", queue="q")
    worker.release(worker.job()[1], "a")
    producer.put("q", "new", unique="u", on_conflict="replace")


def moved(bench: Bench, producer: Peer, worker: Peer) -> None:
    producer.order("set", queue="q", options={"dead_to": "graves"})
    worker.reject(worker.job()[1], "a")


Way = Callable[[Bench, Peer, Peer], None]

DEAD: list[Way] = [rejected, out_of_attempts, expired, poison, moved]
GONE: list[Way] = [
    expired_and_dropped,
    cancelled_while_it_waits,
    cancelled_while_it_runs,
    purged,
    dropped,
    dropped_with_its_queue,
    replaced,
]


def family(restarted: bool, rule: str = "", **options: object) -> tuple[Bench, Peer, Peer]:
    """A parent "a" that runs, its child "b", and the child "c" of that one."""
    bench = Bench(policy={"max_attempts": 2})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", unique="u", ttl=60_000)
    told = {"on_parent_death": rule} if rule else {}
    send(producer, group("next", "b", after="a", **told, **options), group("last", "c", after="b"))
    if restarted:
        ((identifier, fence),) = worker.jobs()
        bench.crash()
        producer.connect()
        worker.connect([m.Held(fence, [identifier.encode()], [])])
        worker.inbox.append(m.Deliver("q", fence, 30_000, [identifier.encode()], [1], [b""], {}))
    bench.check()
    return bench, producer, worker


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", [*DEAD, *GONE])
def test_cancel_goes_down_the_chain(way: Way, restarted: bool) -> None:
    bench, producer, worker = family(restarted)
    producer.send(m.Watch([b"b", b"c"], False))
    way(bench, producer, worker)
    bench.check()
    assert states(producer, "b c") == ["cancelled", "cancelled"]
    assert producer.ends() == {
        "b": ("cancelled", None, {"reason": "parent", "parent": b"a"}),
        "c": ("cancelled", None, {"reason": "parent", "parent": b"b"}),
    }
    producer.send(m.Watch([b"b"], False))
    assert producer.ends()["b"] == ("cancelled", None, {"reason": "parent", "parent": b"a"})
    shown = producer.ask("show", id=b"b")
    assert (shown["reason"], shown["parent"]) == ("parent", b"a")
    assert edges(bench) == unfinished(bench) == []


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", [*DEAD, *GONE])
def test_run_runs_it_all_the_same(way: Way, restarted: bool) -> None:
    bench, producer, worker = family(restarted, "run")
    way(bench, producer, worker)
    bench.check()
    assert states(producer, "b c") == ["ready", "blocked"]
    how, result = parents(producer, "b")["a"]
    assert how == ("cancelled" if way in GONE else "ready" if way is moved else "dead") and result is None
    assert run_all(bench.worker("v", "next", "last", capacity=2)) == ["b", "c"]
    bench.check()
    assert edges(bench) == unfinished(bench) == []


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", DEAD)
def test_wait_waits_for_the_replay(way: Way, restarted: bool) -> None:
    bench, producer, worker = family(restarted, "wait")
    way(bench, producer, worker)
    bench.check()
    assert states(producer, "b c") == ["blocked", "blocked"]
    if way is moved:
        worker = bench.worker("graves", "graves")
    else:
        producer.order("replay", ids=[b"a"])
        assert states(producer, "b c") == ["blocked", "blocked"]
        bench.check()
    ((identifier, fence),) = worker.jobs()
    worker.ack(fence, identifier, results=[b"at last"])
    assert states(producer, "b c") == ["ready", "blocked"]
    assert parents(producer, "b") == {"a": ("done", b"at last")}
    assert run_all(bench.worker("v", "next", "last", capacity=2)) == ["b", "c"]
    bench.check()
    assert edges(bench) == unfinished(bench) == []


@pytest.mark.parametrize("way", GONE)
def test_wait_does_not_wait_for_what_is_gone(way: Way) -> None:
    bench, producer, worker = family(False, "wait")
    way(bench, producer, worker)
    assert states(producer, "b c") == ["cancelled", "cancelled"]
    assert edges(bench) == unfinished(bench) == []
    bench.check()


def test_wait_for_a_dead_parent_ends_when_that_is_dropped() -> None:
    bench, producer, worker = family(False, "wait")
    rejected(bench, producer, worker)
    bench.crash()
    producer.connect()
    assert states(producer, "b c") == ["blocked", "blocked"]
    producer.order("drop", ids=[b"a"])
    assert states(producer, "b c") == ["cancelled", "cancelled"]
    assert edges(bench) == unfinished(bench) == []
    bench.check()


def test_a_replay_and_its_end_overtake_no_child_of_the_death() -> None:
    """The children of a death are all cancelled, though the parent is replayed and done before they were looked at."""
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    names = [f"{number:04}" for number in range(900)]
    producer.put("next", *names, after=[b"a"])
    fence = worker.job()[1]
    bench.turn([(worker.route, m.Settle(9, [m.Settlement(fence, m.Outcome.REJECT, [b"a"], [None])]))])
    bench.turn([(producer.route, m.Order(99, 99, "replay", {"ids": [b"a"]}))])
    fence = worker.job()[1]
    bench.turn([(worker.route, m.Settle(10, [m.Settlement(fence, m.Outcome.ACK, [b"a"], None)]))])
    assert bench.count("next", "blocked") == 900 - 3 * limits.TURN_CHILDREN  # type: ignore[arg-type]
    bench.crash()
    assert bench.counts("next") == {}
    assert bench.core.state.queues["next"].counts.totals["cancelled"] == 900
    assert edges(bench) == unfinished(bench) == []
    bench.check()


# ---- the child's own ends


def test_a_child_that_is_cancelled_leaves_nothing() -> None:
    bench, producer, worker = family(False)
    producer.order("cancel", id=b"b")
    assert states(producer, "b c") == ["cancelled", "cancelled"]
    assert edges(bench) == []
    bench.check()
    run_all(worker)
    assert edges(bench) == unfinished(bench) == []
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("kept", [True, False])
def test_the_ttl_of_a_child_runs_while_it_is_blocked(kept: bool, restarted: bool) -> None:
    bench, producer, worker = family(restarted, ttl=5_000)
    if not kept:
        producer.order("set", queue="next", options={"on_expiry": "drop"})
    bench.advance(4_999)
    assert states(producer, "b c") == ["blocked", "blocked"]
    bench.advance(1)
    assert states(producer, "b c") == ["dead" if kept else "gone", "cancelled"]
    bench.check()
    run_all(worker)
    assert edges(bench) == (["a>", "a>b"] if kept else [])
    assert unfinished(bench) == []
    bench.check()


def test_an_expired_child_that_is_replayed_is_blocked_again() -> None:
    bench, producer, worker = family(False, "wait", ttl=5_000)
    bench.advance(5_000)
    assert state_of(producer, "b") == "dead"
    rejected(bench, producer, worker)
    producer.order("replay", ids=[b"b"])
    bench.check()
    assert state_of(producer, "b") == "blocked"
    bench.crash()
    producer.connect()
    worker.connect()
    producer.order("replay", ids=[b"a"])
    bench.advance(6_000)
    assert state_of(producer, "b") == "blocked"
    assert run_all(worker) == ["a"]
    assert run_all(bench.worker("v", "next")) == ["b"]
    assert edges(bench) == unfinished(bench) == []
    bench.check()


@pytest.mark.parametrize("order", ["child first", "parent first", "queue"])
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", DEAD)
def test_a_dead_child_that_is_replayed_waits_for_a_parent_that_died_meanwhile(
    way: Way, restarted: bool, order: str
) -> None:
    bench, producer, worker = family(False, ttl=5_000)
    if way is out_of_attempts:
        bench.advance(4_999)  # that way looks at the child between its two attempts
        worker.nack(worker.job()[1], "a", delay=0)
        bench.advance(1)
        worker.nack(worker.job()[1], "a", delay=0)
    else:
        bench.advance(5_000)
        way(bench, producer, worker)
    if restarted:
        bench.crash()
        producer.connect()
        worker.connect()
    assert state_of(producer, "b") == "dead"
    names = ["a", "b"] if order == "parent first" else ["b", "a"]
    for name in names:
        if order == "queue":
            producer.order("replay", queue="next" if name == "b" else "q")
            bench.settle_down()
        elif way is not moved or name == "b":
            producer.order("replay", ids=[name.encode()])
        bench.check()
    assert state_of(producer, "b") == "blocked"
    reader = bench.worker("v", "next", "graves")
    assert reader.ids() == (["a"] if way is moved else [])
    if way is moved:
        reader.ack(bench.core.state.leased[b"a"].fence, "a")
    else:
        assert run_all(worker) == ["a"]
    assert run_all(reader) == ["b"]
    assert edges(bench) == unfinished(bench) == []
    bench.check()


@pytest.mark.parametrize("end", ["dropped", "dies again"])
def test_a_replayed_child_is_cancelled_when_its_parent_is_not_done_after_all(end: str) -> None:
    bench, producer, worker = family(False, ttl=5_000)
    bench.advance(5_000)
    rejected(bench, producer, worker)
    producer.order("replay", ids=[b"b"])
    (reason,) = producer.ask("why", id=b"b")["reasons"]
    assert (reason["text"], reason["waits_for"]) == ("it waits for 1 of 1 jobs: a (dead)", ["a"])
    if end == "dropped":
        producer.order("drop", ids=[b"a"])
    else:
        producer.order("replay", ids=[b"a"])
        rejected(bench, producer, worker)
    assert state_of(producer, "b") == "cancelled"
    assert edges(bench) == unfinished(bench) == []
    bench.check()


def test_a_replayed_child_waits_for_a_batch_that_died_meanwhile() -> None:
    bench = Bench(policy={"max_attempts": 1})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.order("open_batch", id=A.encode())
    producer.put("q", "a", **BATCH)
    producer.put("next", "b", after=[A.encode()], ttl=5_000)
    producer.order("close_batch", id=A.encode())
    bench.advance(5_000)
    rejected(bench, producer, worker)
    assert states(producer, "a b") == ["dead", "dead"]
    for queue in ("next", "q"):
        producer.order("replay", queue=queue)
        bench.settle_down()
        assert state_of(producer, "b") == "blocked"
        bench.check()
    assert run_all(worker) == ["a"]
    assert run_all(bench.worker("v", "next")) == ["b"]
    bench.check()


def test_a_replayed_child_does_not_wait_for_what_is_gone() -> None:
    bench, producer, worker = family(False, ttl=5_000)
    bench.advance(5_000)
    dropped(bench, producer, worker)
    producer.order("replay", ids=[b"b"])
    assert run_all(bench.worker("v", "next")) == ["b"]
    assert edges(bench) == []
    bench.check()


def test_a_replayed_child_that_runs_in_any_case_waits_for_nobody() -> None:
    bench, producer, worker = family(False, "run", ttl=5_000)
    bench.advance(5_000)
    rejected(bench, producer, worker)
    producer.order("replay", ids=[b"b"])
    assert run_all(bench.worker("v", "next")) == ["b"]
    bench.check()


def test_an_expired_child_that_is_replayed_after_its_parents_runs() -> None:
    bench, producer, worker = family(False, ttl=5_000)
    bench.advance(5_000)
    run_all(worker)
    producer.order("replay", ids=[b"b"])
    assert state_of(producer, "b") == "ready"
    assert parents(producer, "b") == {"a": ("done", b"a")}
    bench.check()
    assert run_all(bench.worker("v", "next")) == ["b"]
    assert edges(bench) == []


@pytest.mark.parametrize("restarted", [False, True])
def test_a_dead_child_keeps_its_parents_results_for_a_replay(restarted: bool) -> None:
    bench, producer, worker = family(False)
    worker.ack(worker.job()[1], "a", results=[b"x" * 200_000])
    reader = bench.worker("v", "next")
    reader.reject(reader.job()[1], "b")
    if restarted:
        bench.crash()
        producer.connect()
        reader.connect()
    assert edges(bench) == ["a>", "a>b"]
    bench.check()
    producer.order("replay", ids=[b"b"])
    assert parents(reader, "b") == {"a": ("done", b"x" * 200_000)}
    reader.ack(reader.job()[1], "b")
    assert edges(bench) == []
    bench.check()


def test_a_dead_child_that_is_dropped_leaves_nothing() -> None:
    bench, producer, worker = family(False)
    run_all(worker)
    reader = bench.worker("v", "next")
    reader.reject(reader.job()[1], "b")
    producer.order("drop", ids=[b"b"])
    assert edges(bench) == unfinished(bench) == []
    bench.check()


@pytest.mark.parametrize("when", ["it ran", "it was blocked"])
def test_a_dead_child_that_moves_leaves_its_parents(when: str) -> None:
    bench, producer, worker = family(False, ttl=5_000)
    producer.order("set", queue="next", options={"dead_to": "graves"})
    if when == "it ran":
        run_all(worker)
        reader = bench.worker("v", "next")
        reader.reject(reader.job()[1], "b")
    else:
        bench.advance(5_000)
        run_all(worker)
    assert states(producer, "b c") == ["ready", "cancelled"]
    assert parents(producer, "b") == {}
    assert edges(bench) == unfinished(bench) == []
    assert run_all(bench.worker("g", "graves")) == ["b"]
    bench.check()


def test_a_purge_of_children_that_are_ready() -> None:
    bench, producer, worker = family(False)
    run_all(worker)
    producer.order("purge", queue="next")
    assert states(producer, "b c") == ["gone", "cancelled"]
    assert edges(bench) == unfinished(bench) == []
    bench.check()


def test_a_purge_leaves_what_is_blocked() -> None:
    bench, producer, worker = family(False)
    producer.order("purge", queue="next")
    run_all(worker)
    assert run_all(bench.worker("v", "next", "last")) == ["b", "c"]
    assert edges(bench) == []
    bench.check()


def test_a_parent_that_is_sent_and_not_stored_is_none() -> None:
    """Another job has its unique text; the child waits for the id that it names."""
    bench, producer, _worker = family(False)
    send(producer, group("q", "again", unique="u"), group("next", "child", after="again"))
    assert states(producer, "again child") == ["gone", "cancelled"]
    bench.check()


def test_the_end_of_a_child_does_not_go_through_those_that_ended_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is deleted still costs a store that looks there: the next child behind tells as well that there is one."""
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    children = [f"c{n:02}" for n in range(40)]
    producer.put("q", *children, after=[b"a"])
    worker.ack(worker.job()[1], "a")
    from_first = []
    scan = View.scan

    def noted(self: View, space: str, start: bytes, *arguments: bytes, **more: bool) -> Iterator[tuple[bytes, bytes]]:
        if (space, start) == ("edges", b"a\0\1"):
            from_first.append(start)
        return scan(self, space, start, *arguments, **more)

    monkeypatch.setattr(View, "scan", noted)
    assert run_all(worker) == children
    assert len(from_first) == 1, "only the last child has nobody behind it"
    assert list(bench.store.scan("edges", b"", b"\xff")) == []
    bench.check()
