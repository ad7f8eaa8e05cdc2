"""What people do to queues and waiting jobs: purge, pause, resume, cancel."""

from __future__ import annotations

from itertools import count

import pytest

from tests.core.harness import Bench, Peer
from zbroker.core.states import State
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


def test_watchers_are_told_of_a_purge() -> None:
    bench, producer = filled(600)
    producer.send(m.Watch([b"00000", b"00599"]))
    producer.order("purge", queue="q")
    ends = producer.ends()
    assert ends == {identifier: ("cancelled", None, {"reason": "purged"}) for identifier in ("00000", "00599")}


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


# ---- cancel, in every state


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
