"""What people do to queues: purge, pause, drain, resume."""

from __future__ import annotations

from itertools import count

import pytest

from tests.core.harness import Bench, Peer
from zclient.protocol import limits
from zclient.protocol import messages as m

SPACES = ("jobs", "payloads", "changes", "ready", "timers", "deliveries", "dead")


def rows_of(bench: Bench) -> dict[str, int]:
    found = {space: sum(1 for _ in bench.store.scan(space, b"", b"\xff" * 300)) for space in SPACES}
    return {space: rows for space, rows in found.items() if rows}


def filled(jobs: int, **options: object) -> tuple[Bench, Peer]:
    bench = Bench()
    producer = bench.producer()
    for start in range(0, jobs, 500):
        producer.put("q", *(f"{n:05}" for n in range(start, min(start + 500, jobs))), **options)
    return bench, producer


# ---- purge


def test_a_purge_voids_at_once_and_sweeps_in_slices() -> None:
    bench, producer = filled(4000)
    number = producer.next_number()
    bench.turn([(producer.route, m.Order(number, number, "purge", {"queue": "q"}))])
    assert producer.value_of(number) == {"purged": 4000}
    assert bench.counts("q") == {}
    assert rows_of(bench)["jobs"] > 1500, "the rows go in slices"
    worker = Peer(bench, "w", ("q",), 9)
    worker.route = bench.new_route(worker)
    hello = m.Hello(1, worker.incarnation, "w", 9, ["q"], [], 0, {})
    number = producer.next_number()
    put = m.Put(number, number, [m.Group("q", {}, [b"new"], [b""])])
    bench.turn([(worker.route, hello), (producer.route, put)])
    identifier, fence = worker.job()
    assert identifier == "new"
    worker.ack(fence, "new")
    for identifier in (b"00000", b"03999"):
        assert producer.refused(m.Ask(99, "show", {"id": identifier})).code == "not_found"
    bench.settle_down()
    assert rows_of(bench) == {}
    assert bench.told("purge finished") == [{"queue": "q"}]
    bench.check()


def test_a_purge_goes_on_after_a_restart() -> None:
    bench, producer = filled(3000)
    number = producer.next_number()
    bench.turn([(producer.route, m.Order(number, number, "purge", {"queue": "q"}))])
    bench.turn(ends="before commit")
    left = rows_of(bench)["jobs"]
    assert 0 < left < 3000
    worker = Peer(bench, "w", ("q",), 10)
    bench.crash()
    worker.connect()
    assert worker.jobs() == [] and rows_of(bench) == {}
    bench.check()


def test_what_a_purge_took_is_void_for_the_next_broker_before_it_is_swept() -> None:
    bench, producer = filled(4000)
    number = producer.next_number()
    bench.turn([(producer.route, m.Order(number, number, "purge", {"queue": "q"}))])
    bench.reopen()
    worker = Peer(bench, "w", ("q",), 9)
    hellos: list[tuple[bytes, m.Message]] = []
    for peer in (worker, producer):
        peer.route = bench.new_route(peer)
        hellos.append((peer.route, m.Hello(1, peer.incarnation, peer.name, peer.capacity, peer.queues, [], 0, {})))
    put = m.Put(98, 98, [m.Group("q", {}, [b"new"], [b""])])
    bench.turn([*hellos, (producer.route, put), (producer.route, m.Ask(99, "show", {"id": b"03999"}))])
    assert rows_of(bench)["jobs"] > 500
    assert worker.ids() == ["new"]
    told = producer.answer(99)
    assert isinstance(told, m.Failure) and told.code == "not_found"
    bench.settle_down()
    bench.check()


def test_what_runs_waits_for_a_time_or_is_dead_survives_a_purge() -> None:
    bench, producer = filled(5)
    worker = bench.worker("w", "q", capacity=2)
    fence = worker.one(m.Deliver).fence
    worker.send(m.Capacity(0))
    worker.nack(fence, "00001", delay=5000)
    producer.put("q", "later", delay=7000)
    producer.put("q", "high", priority=5)
    assert producer.order("purge", queue="q") == {"purged": 4}
    assert bench.counts("q") == {"leased": 1, "scheduled": 2}
    producer.put("q", "after")
    worker.release(fence, "00000")
    bench.check()
    bench.advance(10_000)
    worker.send(m.Capacity(10))
    assert worker.ids() == ["after", "00000", "00001", "later"], "their old places are void, so they line up anew"
    bench.check()
    bench.crash()
    bench.check()


def test_what_comes_back_after_a_purge_and_a_restart_is_found() -> None:
    bench, producer = filled(5)
    worker = bench.worker("w", "q", capacity=2)
    fence = worker.one(m.Deliver).fence
    producer.order("purge", queue="q")
    bench.crash()
    worker.connect([m.Held(fence, [b"00000"], [b"00001"])])
    worker.send(m.Capacity(0))
    worker.release(fence, "00000", "00001")
    assert bench.counts("q") == {"ready": 2}
    bench.check()
    bench.crash()
    worker.connect()
    assert worker.ids() == ["00000", "00001"]
    bench.check()


def test_watchers_are_told_of_a_purge() -> None:
    bench, producer = filled(600)
    producer.send(m.Watch([b"00000", b"00599"]))
    producer.order("purge", queue="q")
    ends = producer.ends()
    assert ends == {identifier: ("cancelled", None, {"reason": "purged"}) for identifier in ("00000", "00599")}


def test_who_asks_while_a_purge_is_swept_is_told_of_it_too() -> None:
    bench, producer = filled(4000)
    number = producer.next_number()
    bench.turn([(producer.route, m.Order(number, number, "purge", {"queue": "q"}))])
    bench.turn([(producer.route, m.Watch([b"03999", b"nobody"]))])
    assert rows_of(bench)["jobs"], "its rows are still there"
    ends = producer.ends()
    assert ends == {"03999": ("cancelled", None, {"reason": "purged"}), "nobody": ("unknown", None, None)}


@pytest.mark.parametrize("first", ["plain", "returned", "suspect", "large", "scheduled"])
@pytest.mark.parametrize("again", ["q", "r"])
@pytest.mark.parametrize("second", [{}, {"delay": 1000}, {"priority": 1}])
def test_an_id_may_be_used_again_while_its_purge_is_swept(first: str, again: str, second: dict[str, int]) -> None:
    bench = Bench()
    producer = bench.producer()
    payload = bytes(limits.LARGE_BYTES) if first == "large" else b"p"
    producer.put("q", "a", payload=payload, delay=10 if first == "scheduled" else 0)
    bench.advance(10)
    if first in ("returned", "suspect"):
        worker = bench.worker("w", "q")
        fence = worker.job()[1]
        worker.send(m.Capacity(0))
        if first == "returned":
            worker.release(fence, "a")
        else:
            bench.advance(30_000)
    assert bench.counts("q") == {"ready": 1}
    with bench.one_turn():
        producer.send(
            m.Watch([b"a"]),
            m.Order(50, 50, "purge", {"queue": "q"}),
            m.Put(51, 51, [m.Group(again, second, [b"a"], [b"new"])]),
        )
    assert producer.ends() == {"a": ("cancelled", None, {"reason": "purged"})}
    assert producer.answer(51) == m.Ok([51])
    bench.check()
    bench.crash()
    bench.advance(6000)
    late = bench.worker("v", again, capacity=5)
    assert late.ids() == ["a"]
    bench.check()


def test_a_purge_of_an_empty_queue() -> None:
    bench, producer = filled(1)
    producer.order("cancel", id=b"00000")
    assert producer.order("purge", queue="q") == {"purged": 0}
    producer.put("q", "b")
    assert bench.worker("w", "q").ids() == ["b"]
    bench.check()


def test_a_purge_of_many_lanes() -> None:
    bench = Bench(resident_lanes=5, resident_jobs=50, window_jobs=10)
    producer = bench.producer()
    numbers = count(1)
    for _ in range(5):
        groups = [
            m.Group("q", {"key": f"k{k}", "priority": k % 3}, [b"%d" % next(numbers) for _ in range(4)], [b""] * 4)
            for k in range(40)
        ]
        number = producer.next_number()
        producer.send(m.Put(number, number, groups))
    assert producer.order("purge", queue="q") == {"purged": 800}
    assert rows_of(bench) == {}
    producer.put("q", "new", key="k1")
    assert bench.worker("w", "q", capacity=5).ids() == ["new"]
    bench.check()


def test_a_purge_is_refused_whole_when_too_much_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, producer = filled(10)
    monkeypatch.setattr("zbroker.limits.MAX_WORKS", 0)
    assert producer.refused(m.Order(50, 50, "purge", {"queue": "q"})).code == "busy"
    assert bench.counts("q") == {"ready": 10}
    assert bench.worker("w", "q", capacity=20).ids() == [f"{n:05}" for n in range(10)]
    bench.check()


# ---- pause and resume


def test_a_paused_queue_takes_jobs_and_settlements_and_delivers_nothing_even_after_a_restart() -> None:
    bench, producer = filled(3)
    worker = bench.worker("w", "q")
    fence = worker.job()[1]
    assert producer.order("pause", queue="q") == {"paused": True, "closed": False}
    assert worker.ack(fence, "00000") == []
    producer.put("q", "more")
    assert worker.jobs() == []
    bench.crash()
    producer.connect()
    worker.connect()
    bench.advance(6000)
    assert worker.jobs() == [] and producer.ask("queue", queue="q")["paused"]
    assert producer.order("resume", queue="q") == {"paused": False, "closed": False}
    assert worker.ids() == ["00001"]
    bench.check()


# ---- drain


def test_a_drained_queue_refuses_new_jobs_and_works_off_what_it_has() -> None:
    bench = Bench(policy={"max_attempts": 2, "backoff_jitter": 0})
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b", "c")
    producer.put("q", "later", delay=5000)
    assert producer.order("drain", queue="q") == {"paused": False, "closed": True}
    group = m.Group("q", {}, [b"new"], [b""])
    number = producer.next_number()
    refused = producer.refused(m.Put(number, number, [m.Group("other", {}, [b"x"], [b""]), group]))
    assert refused.code == "closed" and "other" not in bench.core.state.queues, "a PUT is refused whole"
    fence = worker.one(m.Deliver).fence
    worker.ack(fence, "a")
    worker.nack(fence, "b")
    assert worker.ids() == ["c"]
    bench.crash()
    producer.connect()
    assert producer.ask("queue", queue="q")["closed"], "over a restart as well"
    number = producer.next_number()
    assert producer.refused(m.Put(number, number, [group])).code == "closed"
    bench.advance(6000)
    late = bench.worker("v", "q", capacity=5)
    assert sorted(late.ids()) == ["b", "c", "later"], "a retry and a delayed job still run"
    assert producer.order("resume", queue="q") == {"paused": False, "closed": False}
    assert producer.put("q", "new") == m.Ok([producer.number])
    assert late.ids() == ["new"]
    bench.check()


def test_a_put_that_is_sent_again_is_answered_though_the_queue_was_drained_meanwhile() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", number=1)
    producer.send(m.Order(2, 1, "drain", {"queue": "q"}))
    assert producer.put("q", "a", number=1) == m.Ok([1])


def test_pause_and_drain_are_two_things() -> None:
    bench, producer = filled(1)
    producer.order("drain", queue="q")
    assert producer.order("pause", queue="q") == {"paused": True, "closed": True}
    assert bench.worker("w", "q").jobs() == []
    assert producer.order("resume", queue="q") == {"paused": False, "closed": False}
    assert bench.counts("q") == {"leased": 1}


@pytest.mark.parametrize("verb", ["pause", "drain", "resume", "purge"])
def test_orders_about_a_queue_that_is_not_there(verb: str) -> None:
    producer = Bench().producer()
    assert producer.refused(m.Order(50, 50, verb, {"queue": "q"})).code == "not_found"
    assert producer.refused(m.Order(51, 51, verb, {})).code == "not_found"


# ---- purge, of jobs that hold something


def test_a_purge_takes_suspects_and_gives_their_workers_other_work() -> None:
    bench = Bench()
    producer, lost = bench.producer(), bench.worker("lost", "q")
    producer.put("q", "suspect", key="k")
    lost.jobs()
    lost.cut()
    bench.advance(5000)
    busy = bench.worker("busy", "other", "q", capacity=0)
    assert bench.core.state.queues["q"].suspects
    assert producer.order("purge", queue="q") == {"purged": 1}
    assert not bench.core.state.queues["q"].suspects and rows_of(bench) == {}
    busy.send(m.Capacity(2))
    producer.put("q", "a", "b")
    assert busy.ids() == ["a", "b"], "it is kept for no suspect"
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_purge_sets_free_the_keys_of_jobs_that_wait(restarted: bool) -> None:
    bench = Bench(policy={"key_limit": 1, "backoff_jitter": 0})
    producer = bench.producer()
    lost = bench.worker("lost", "q", capacity=2)
    producer.put("q", "suspect", key="k")
    producer.put("q", "failed", key="l")
    (_, fence), (_, other) = lost.jobs()
    lost.send(m.Capacity(0))
    lost.nack(other if other != fence else fence, "failed", delay=20_000)
    lost.cut()
    bench.advance(5000)
    assert bench.counts("q") == {"ready": 1, "scheduled": 1}
    assert producer.order("purge", queue="q") == {"purged": 1}
    if restarted:
        bench.crash()
        producer.connect()
    producer.put("q", "k2", key="k")
    producer.put("q", "l2", key="l")
    worker = bench.worker("w", "q", capacity=5)
    assert sorted(worker.ids()) == ["k2", "l2"]
    bench.check()
    bench.advance(20_000)
    assert worker.ids() == [], "the purge voided the place of the one that failed: it lines up anew, behind"
    assert bench.counts("q") == {"leased": 2, "ready": 1}
    bench.check()


def test_a_purge_frees_unique_texts() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", unique="order-17")
    assert producer.put("q", "b", unique="order-17") == m.Answer(producer.number, {"instead": [(b"b", b"a")]})
    with bench.one_turn():
        producer.send(
            m.Order(50, 50, "purge", {"queue": "q"}),
            m.Put(51, 51, [m.Group("q", {"unique": "order-17"}, [b"c"], [b""])]),
        )
    assert producer.answer(51) == m.Ok([51]), "also before the sweep has come to it"
    assert bench.worker("w", "q", capacity=5).ids() == ["c"]
    producer.put("q", "d", unique="order-17")
    assert bench.counts("q") == {"leased": 1}, "the sweep left the text to its new owner"
    bench.check()
