"""`key_limit`: never more of a key in flight, whatever happens; and with 1, the jobs of a key in their order."""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker.core.states import State
from zclient.protocol import messages as m

ROOM = pytest.mark.parametrize("lanes", [0, 2, 100])
"""Lanes that memory has room for."""

RESTARTED = pytest.mark.parametrize("restarted", [False, True])


def group(*ids: str, lanes: int = 100, key: str = "k", **policy: Any) -> tuple[Bench, Peer, Peer]:
    """A bench with jobs of one key that run one at a time, and a worker with room for many, which has the first."""
    bench = Bench(resident_lanes=lanes, policy={"key_limit": 1, "backoff_jitter": 0, **policy})
    producer = bench.producer()
    options: dict[str, Any] = {"key": key} if key else {}
    producer.put("q", *ids, **options)
    return bench, producer, bench.worker("w", "q", capacity=10)


def crash(bench: Bench, *peers: Peer) -> None:
    bench.crash()
    for peer in peers:
        peer.connect()


def kill(bench: Bench, worker: Peer) -> None:
    """The worker dies without a word, and does not come back."""
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.turn()
    bench.advance(1_100)


def rest_in_order(bench: Bench, worker: Peer, *expected: str) -> None:
    """The jobs come one by one, each when the one before is done."""
    for identifier in expected:
        came, fence = worker.job()
        assert came == identifier
        bench.check()
        worker.ack(fence, came)
    assert worker.jobs() == [] and bench.core.wanted_in() > 0
    assert bench.core.state.queues["q"].ring.keys.running == {}
    assert not list(bench.store.scan("heads", b"", b"\xff"))
    bench.check()


# ---- in order, whatever happens to the first


@ROOM
@RESTARTED
@pytest.mark.parametrize("key", ["", "k"])
@pytest.mark.parametrize("how", ["nack", "snooze", "release"])
def test_a_job_that_comes_again_goes_before_the_others_of_its_key(
    lanes: int, restarted: bool, key: str, how: str
) -> None:
    bench, _, worker = group("a", "b", "c", lanes=lanes, key=key)
    _, fence = worker.job()
    if how == "release":
        worker.send(m.Capacity(0))
        worker.release(fence, "a")
    else:
        worker.nack(fence, "a") if how == "nack" else worker.snooze(fence, "a", delay=1_000)
        assert worker.jobs() == [], "the others wait for it"
    bench.check()
    if restarted:
        worker.capacity = 0 if how == "release" else 10
        crash(bench, worker)
        bench.check()
        assert worker.jobs() == []
    if how == "release":
        worker.send(m.Capacity(10))
    else:
        bench.advance(999)
        assert worker.jobs() == []
        bench.advance(1)
    rest_in_order(bench, worker, "a", "b", "c")


@ROOM
@RESTARTED
@pytest.mark.parametrize("key", ["", "k"])
def test_a_job_that_lost_its_worker_goes_before_the_others_of_its_key(lanes: int, restarted: bool, key: str) -> None:
    bench, producer, worker = group("a", "b", "c", lanes=lanes, key=key)
    producer.put("q", "other", key="other")
    assert worker.ids() == ["a", "other"]
    other = bench.worker("busy", "q", capacity=10)
    producer.put("q", "filler", key="filler")
    held = dict(other.jobs() + worker.jobs())
    kill(bench, worker)
    bench.check()
    if restarted:
        crash(bench)
        bench.check()
    third = bench.worker("third", "q", capacity=10)
    came: list[str] = []
    for _ in range(40):
        for peer in (third, other) if not restarted else (third,):
            for identifier, fence in peer.jobs():
                came.append(identifier)
                peer.ack(fence, identifier)
        bench.advance(1_000)
        bench.check()
    assert [identifier for identifier in came if identifier in "abc"] == ["a", "b", "c"]
    assert set(came) | set(held) == {"a", "b", "c", "other", "filler"}


@ROOM
@pytest.mark.parametrize("ends", ["before commit", "before send"])
@pytest.mark.parametrize("how", ["nack", "snooze", "release", "ack"])
def test_a_restart_at_any_point_keeps_the_order(lanes: int, ends: str, how: str) -> None:
    bench, _, worker = group("a", "b", "c", lanes=lanes)
    _, fence = worker.job()
    outcome = m.Outcome[how.upper()]
    values: list[Any] = [1_000] if how == "snooze" else [{}] if how == "nack" else [None]
    settle = m.Settle(worker.next_number(), [m.Settlement(fence, outcome, [b"a"], values)])
    bench.turn([(worker.route, settle)], ends=ends)
    bench.crash()
    bench.check()
    settled = ends == "before send"
    worker.connect([] if settled else [m.Held(fence, [b"a"], [])])
    if settled:
        bench.advance(1_000)
        rest_in_order(bench, worker, *("bc" if how == "ack" else "abc"))
    else:
        assert worker.jobs() == [], "it still runs"
        worker.ack(fence, "a")
        rest_in_order(bench, worker, "b", "c")


@ROOM
@RESTARTED
@pytest.mark.parametrize("how", ["cancel", "expiry", "dead", "kept dead"])
def test_the_others_go_on_when_the_first_is_over(lanes: int, restarted: bool, how: str) -> None:
    bench = Bench(resident_lanes=lanes, policy={"key_limit": 1, "max_attempts": 2, "backoff_min_ms": 60_000})
    producer = bench.producer()
    producer.put("q", "a", key="k", ttl=5_000 if how == "expiry" else 0)
    producer.put("q", "b", "c", key="k")
    worker = bench.worker("w", "q", capacity=10)
    _, fence = worker.job()
    worker.nack(fence, "a", delay=10_000)
    if restarted:
        crash(bench, producer, worker)
    assert worker.jobs() == []
    if how == "cancel":
        producer.order("cancel", id=b"a")
    elif how == "expiry":
        bench.advance(5_000)
    else:
        bench.advance(10_000)
        worker.nack(worker.job()[1], "a")
        assert bench.counts("q")["dead"] == 1
    bench.check()
    rest_in_order(bench, worker, "b", "c")
    if how == "dead":
        producer.order("replay", ids=[b"a"])
        rest_in_order(bench, worker, "a")
    elif how == "kept dead":
        producer.order("drop", ids=[b"a"])
        assert bench.counts("q") == {}


@ROOM
def test_a_replayed_job_takes_its_place_behind_the_others(lanes: int) -> None:
    bench, producer, worker = group("a", "b", lanes=lanes)
    _, fence = worker.job()
    worker.reject(fence, "a")
    producer.order("replay", ids=[b"a"])
    rest_in_order(bench, worker, "b", "a")


@ROOM
@RESTARTED
@pytest.mark.parametrize("waits", ["scheduled", "suspect"])
def test_a_purge_lets_a_key_go_on(lanes: int, restarted: bool, waits: str) -> None:
    bench, producer, worker = group("a", "b", "c", lanes=lanes, lease_ms=1_000)
    _, fence = worker.job()
    if waits == "scheduled":
        worker.nack(fence, "a", delay=5_000)
    else:
        bench.advance(1_000)
        assert bench.count("q", State.READY) == 3
    if restarted:
        crash(bench, producer)
    producer.order("purge", queue="q")
    bench.check()
    producer.put("q", "d", key="k")
    if restarted:
        worker.connect()
    else:
        worker.hello()
    rest_in_order(bench, worker, "d")
    if waits == "scheduled":  # it survives, and has lost its place: it lines up anew
        bench.advance(5_000)
        rest_in_order(bench, worker, "a")
    assert bench.counts("q") == {}
    bench.check()


@ROOM
@RESTARTED
def test_jobs_without_a_key_are_one_strict_line(lanes: int, restarted: bool) -> None:
    bench = Bench(seed=3, resident_lanes=lanes, policy={"key_limit": 1, "max_attempts": 100, "poison_losses": 100})
    producer = bench.producer()
    producer.put("q", *(f"{n:02}" for n in range(40)))
    random = Random(7)
    names = count()
    workers = [bench.worker(f"w{next(names)}", "q", capacity=5) for _ in range(3)]
    done: list[str] = []
    for _ in range(2_000):
        for worker in list(workers):
            for identifier, fence in worker.jobs():
                assert identifier == f"{len(done):02}", "nobody has a later one before"
                how = random.randrange(8)
                if how < 3:
                    worker.ack(fence, identifier)
                    done.append(identifier)
                elif how == 3:
                    worker.nack(fence, identifier, delay=random.randrange(3_000))
                elif how == 4:
                    worker.snooze(fence, identifier, delay=random.randrange(3_000))
                elif how == 5:
                    worker.release(fence, identifier)
                elif how == 6:
                    worker.cut()
                    bench.core.unreachable(worker.route)
                    bench.turn()
                    workers.remove(worker)
                    workers.append(bench.worker(f"w{next(names)}", "q", capacity=5))
                elif restarted:
                    crash(bench, producer, *workers)
                else:
                    worker.connect()  # which says that it never arrived
        if len(done) == 40:
            break
        bench.advance(200)
    assert len(done) == 40
    bench.check()


# ---- never more than so many


@RESTARTED
def test_jobs_without_a_key_that_end_at_once_make_room_for_as_many(restarted: bool) -> None:
    bench = Bench(policy={"key_limit": 3})
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=10)
    producer.put("q", *(f"{n}" for n in range(9)))
    for first in (0, 3, 6):
        delivery = worker.one(m.Deliver)
        assert delivery.ids == [b"%d" % n for n in range(first, first + 3)]
        if restarted:
            bench.crash()
            worker.connect([m.Held(delivery.fence, delivery.ids, [])])
        worker.ack(delivery.fence, *(identifier.decode() for identifier in delivery.ids))
    assert bench.core.state.queues["q"].ring.keys.running == {}
    bench.check()


@pytest.mark.parametrize("limit", [1, 2, 3])
@ROOM
def test_a_limit_of_a_key_is_never_exceeded(limit: int, lanes: int) -> None:
    bench = Bench(
        resident_lanes=lanes,
        policy={"key_limit": limit, "max_attempts": 4, "poison_losses": 2, "lease_ms": 3_000, "backoff_max_ms": 2_000},
    )
    producer = bench.producer()
    random = Random(limit * 10 + lanes)
    names = count()
    workers = [bench.worker(f"w{next(names)}", "q", capacity=6) for _ in range(3)]
    held: dict[Peer, list[tuple[str, int]]] = {worker: [] for worker in workers}
    for step in range(400):
        if step < 150:
            options: dict[str, Any] = {"ttl": 4_000} if random.random() < 0.2 else {}
            producer.put("q", f"{step}", f"{step}'", key=random.choice("abcd"), priority=random.randrange(2), **options)
        worker = random.choice(workers)
        held[worker] += worker.jobs()
        how = random.randrange(12) if step < 250 else 0
        if how < 6 and held[worker]:
            identifier, fence = held[worker].pop(0)
            settle = (worker.ack, worker.ack, worker.nack, worker.release, worker.reject)[min(how, 4)]
            settle(fence, identifier)
        elif how == 6:
            order = {"id": b"%d" % random.randrange(step)}
            producer.send(m.Order(number := producer.next_number(), number, "cancel", order))
        elif how == 7 and random.random() < 0.2:
            producer.order("purge", queue="q")
        elif how == 8 and random.random() < 0.3:
            worker.cut()
            bench.core.unreachable(worker.route)
            bench.turn()
            workers.remove(worker)
            workers.append(bench.worker(f"w{next(names)}", "q", capacity=6))
            held[workers[-1]] = []
        elif how == 9 and random.random() < 0.3:
            crash(bench, producer, *workers)
            held = {worker: [] for worker in workers}
        elif how == 10:
            named = [m.Held(fence, [identifier.encode()], []) for identifier, fence in held[worker][:2]]
            worker.connect(named)
            held[worker] = held[worker][:2]
        else:
            bench.advance(random.randrange(1_500))
        bench.check()
    work_off(bench, workers)


def work_off(bench: Bench, workers: list[Peer]) -> None:
    """All that is left goes to one good worker, and nothing stays behind."""
    for worker in workers:
        worker.cut()
        bench.core.unreachable(worker.route)
    bench.turn()
    bench.advance(10_000)
    good = bench.worker("good", "q", capacity=50)
    for _ in range(1_000):
        for identifier, fence in good.jobs():
            good.ack(fence, identifier)
        if set(bench.counts("q")) <= {"dead"}:
            break
        bench.advance(200)
    assert set(bench.counts("q")) <= {"dead"}
    assert bench.core.state.queues["q"].ring.keys.running == {}
    bench.check()


@ROOM
def test_the_limit_changes_while_jobs_run(lanes: int) -> None:
    bench = Bench(resident_lanes=lanes, policy={"backoff_min_ms": 5_000, "backoff_jitter": 0})
    producer = bench.producer()
    producer.order("set", queue="q", options={"key_limit": 1})
    producer.put("q", *"abcdefghij", key="k")
    worker = bench.worker("w", "q", capacity=20)
    identifier, fence = worker.job()
    worker.nack(fence, identifier)
    assert worker.jobs() == []
    producer.order("set", queue="q", options={"key_limit": 0})
    held = dict(worker.jobs())
    assert sorted(held) == list("bcdefghij"), "nothing waits for the first any more"
    bench.lowered = True
    producer.order("set", queue="q", options={"key_limit": 2})
    producer.put("q", "k", "l", "m", "n", key="k")
    bench.check()
    for identifier in "bcdefgh":
        worker.ack(held[identifier], identifier)
        assert worker.jobs() == [], "as many as were in flight already, or more"
    worker.ack(held["i"], "i")
    worker.ack(held["j"], "j")
    bench.lowered = False
    running = dict(worker.jobs())
    assert list(running) == ["k", "l"]
    bench.lowered = True
    producer.order("set", queue="q", options={"key_limit": 1})
    worker.ack(running["k"], "k")
    assert worker.jobs() == []
    bench.lowered = False
    worker.ack(running["l"], "l")
    bench.check()
    ((identifier, fence),) = worker.jobs()
    assert identifier == "m"
    bench.advance(5_000)
    worker.ack(fence, "m")
    rest_in_order(bench, worker, "a", "n")


@pytest.mark.parametrize("left", ["cancel", "ack"])
def test_of_two_that_their_key_waits_for_each_is_the_head_until_it_is_over(left: str) -> None:
    """A limit was lowered to 1 while two jobs of a key ran, and both failed."""
    bench = Bench(policy={"key_limit": 2, "backoff_jitter": 0})
    producer = bench.producer()
    producer.put("q", *"abcd", key="k")
    worker = bench.worker("w", "q", capacity=9)
    held = dict(worker.jobs())
    bench.lowered = True
    producer.order("set", queue="q", options={"key_limit": 1})
    worker.nack(held["a"], "a", delay=1_000)
    worker.nack(held["b"], "b", delay=9_000)
    bench.check()
    if left == "cancel":
        producer.order("cancel", id=b"a")
    else:
        bench.advance(1_000)
        assert worker.jobs() == [], "b waits as well"
    crash(bench, producer, worker)
    bench.check()
    assert worker.jobs() == [], "after a restart too"
    bench.advance(9_000)
    rest_in_order(bench, worker, *("bcd" if left == "cancel" else "abcd"))


@pytest.mark.parametrize("end", ["cancelled", "dead"])
def test_a_suspect_goes_when_another_of_its_key_is_over(end: str) -> None:
    bench = Bench(policy={"poison_losses": 1})
    producer = bench.producer()
    producer.put("q", *"abc", key="k")
    kill(bench, bench.worker("first", "q", capacity=3))
    assert bench.counts("q") == {"ready": 3}
    bench.lowered = True
    producer.order("set", queue="q", options={"key_limit": 1})
    one, two = (bench.worker(name, "q", capacity=3) for name in ("one", "two"))
    identifier, fence = one.job()
    assert identifier == "a" and two.jobs() == []
    if end == "cancelled":
        one.send(m.Capacity(0))
        one.nack(fence, "a", delay=60_000)
        assert two.jobs() == []
        producer.order("cancel", id=b"a")
    else:
        kill(bench, one)
        assert bench.count("q", State.DEAD) == 1
    bench.check()
    rest_in_order(bench, two, "b", "c")


@ROOM
def test_many_held_keys_on_disk_cost_no_turns_until_one_is_free(lanes: int) -> None:
    keys = 300
    bench = Bench(resident_lanes=lanes, policy={"key_limit": 1, "lease_ms": 3_600_000})
    producer = bench.producer()
    for n in range(keys):
        producer.put("q", f"{n}/0", f"{n}/1", key=f"{n}")
    worker = bench.worker("w", "q", capacity=1_000)
    held = dict(worker.jobs())
    assert sorted(held) == sorted(f"{n}/0" for n in range(keys))
    before = bench.turns
    bench.advance(500)
    assert bench.turns - before < 10
    for n in (0, 17, keys - 1):
        worker.ack(held[f"{n}/0"], f"{n}/0")
        assert worker.ids() == [f"{n}/1"]
        assert bench.core.wanted_in() > 0
    bench.check()


def test_keys_of_two_queues_have_nothing_to_do_with_each_other() -> None:
    bench = Bench(policy={"key_limit": 1})
    producer = bench.producer()
    for queue in ("q", "r"):
        producer.put(queue, f"{queue}1", f"{queue}2", key="k")
    worker = bench.worker("w", "q", "r", capacity=9)
    assert Counter(worker.ids()) == Counter(["q1", "r1"])
    bench.check()


def test_a_suspect_keeps_its_key_over_a_restart_also_from_a_job_of_a_better_priority() -> None:
    bench, producer, worker = group("a", "b")
    assert worker.job()[0] == "a"
    kill(bench, worker)
    producer.put("q", "urgent", key="k", priority=9)
    crash(bench, producer)
    other = bench.worker("other", "q", capacity=10)
    rest_in_order(bench, other, "a", "urgent", "b")
