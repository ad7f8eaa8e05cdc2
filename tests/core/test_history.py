"""Finished jobs: told to those who watch, kept for a while, found again after a restart, trimmed at their limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zclient.protocol import limits
from zclient.protocol import messages as m


def worked(*ids: str, **settings: Any) -> tuple[Bench, Peer, Peer]:
    """A bench on which these jobs are done, each in a tick of its own."""
    bench = Bench(**settings)
    producer, worker = bench.producer(), bench.worker("w", "q")
    for identifier in ids:
        producer.put("q", identifier)
        worker.ack(worker.job()[1], identifier, results=[b"of " + identifier.encode()])
        bench.advance(1)
    return bench, producer, worker


# ---- watching


def test_a_watched_job_is_told_once_with_its_result() -> None:
    bench = Bench()
    producer, other, worker = bench.producer(), bench.producer("other"), bench.worker("w", "q", capacity=5)
    producer.put("q", "a", "b", "c")
    producer.send(m.Watch([b"a", b"b"]))
    other.send(m.Watch([b"a", b"a"]))
    fence = worker.one(m.Deliver).fence
    large = bytes(limits.MAX_RESULT_BYTES)
    worker.ack(fence, "a", "b", "c", results=[large, None, b"c"])
    assert producer.ends() == {"a": ("done", large, None), "b": ("done", None, None)}
    assert other.ends() == {"a": ("done", large, None)}
    assert not bench.core.state.watchers
    assert all(not peer.watched for peer in bench.core.state.peers.values())


def test_what_is_over_is_told_at_once() -> None:
    bench, producer, worker = worked("done")
    producer.put("q", "dead", "gone", max_attempts=1)
    worker.nack(worker.job()[1], "dead", type="E", text="no")
    worker.release(worker.job()[1], "gone")
    producer.order("cancel", id=b"gone")
    worker.take(m.Deliver)
    producer.send(m.Watch([b"done", b"dead", b"nobody"]))
    ends = producer.ends()
    assert ends["done"] == ("done", b"of done", None)
    assert ends["dead"] == ("dead", None, {"reason": "attempts", "error": {"type": "E", "text": "no"}, "attempts": 1})
    assert ends["nobody"] == ("unknown", None, None)


def test_a_retry_is_no_end_and_a_death_is() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", max_attempts=2)
    producer.send(m.Watch([b"a"]))
    worker.nack(worker.job()[1], "a", delay=0)
    assert producer.ends() == {}
    worker.nack(worker.job()[1], "a", text="again")
    assert producer.ends()["a"][0] == "dead"


def test_unwatch_and_a_broken_connection_end_a_watch() -> None:
    bench = Bench()
    producer, other, worker = bench.producer(), bench.producer("other"), bench.worker("w", "q")
    producer.put("q", "a")
    for peer in (producer, other):
        peer.send(m.Watch([b"a"]))
    producer.send(m.Unwatch([b"a", b"never watched"]))
    other.connect()
    worker.ack(worker.job()[1], "a")
    assert producer.ends() == other.ends() == {} and not bench.core.state.watchers
    other.send(m.Watch([b"a"]))
    assert other.ends()["a"][0] == "done"


def test_watches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_WATCHED_PER_PEER", 3)
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *"abcd")
    producer.send(m.Watch([b"a", b"b"]))
    producer.send(m.Watch([b"c", b"d"]))
    assert producer.one(m.Failure).code == "invalid"
    assert sorted(bench.core.state.watchers) == [b"a", b"b"]


# ---- after a restart


@pytest.fixture
def _read_back_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read back before the first peer comes."""
    monkeypatch.setattr(broker_limits, "READ_BACK_JOBS", 0)
    monkeypatch.setattr(broker_limits, "TURN_STEPS", 2)


@pytest.mark.usefixtures("_read_back_slowly")
def test_what_was_finished_is_found_again_after_a_restart() -> None:
    bench, producer, _ = worked(*(f"{n:04}" for n in range(700)))
    bench.reopen()
    assert not bench.core.state.history.complete, "it is read back in slices"
    producer.route = bench.new_route(producer)
    hello = m.Hello(1, producer.incarnation, "producer", 0, [], [], 0, {})
    bench.turn(
        [
            (producer.route, hello),
            (producer.route, m.Watch([b"0000", b"0699", b"nobody"])),
            (producer.route, m.Ask(900, "show", {"id": b"0001"})),
            (producer.route, m.Ask(901, "show", {"id": b"nobody"})),
        ]
    )
    bench.settle_down()
    assert producer.ends() == {
        "0000": ("done", b"of 0000", None),
        "0699": ("done", b"of 0699", None),
        "nobody": ("unknown", None, None),
    }
    assert producer.value_of(900)["result"] == b"of 0001"
    failure = producer.answer(901)
    assert isinstance(failure, m.Failure) and failure.code == "not_found"
    assert bench.core.state.history.jobs == 700
    assert not bench.core.state.watchers


@pytest.mark.usefixtures("_read_back_slowly")
def test_many_watches_do_not_hold_up_what_they_wait_for() -> None:
    bench, producer, _ = worked(*(f"{n:04}" for n in range(700)))
    bench.reopen()
    producer.route = bench.new_route(producer)
    hello = m.Hello(1, producer.incarnation, "producer", 0, [], [], 0, {})
    ids = [b"%d-unknown" % n for n in range(1000)]
    turns = bench.turns
    bench.turn([(producer.route, hello), (producer.route, m.Watch(ids))])
    bench.settle_down()
    assert len(producer.ends()) == 1000
    assert bench.turns - turns < 40


@pytest.mark.usefixtures("_read_back_slowly")
def test_jobs_that_end_while_the_history_is_read_back_are_kept_with_it() -> None:
    bench, producer, worker = worked(*(f"{n:04}" for n in range(700)))
    producer.put("q", "new")
    fence = worker.job()[1]
    bench.reopen()
    worker.route = bench.new_route(worker)
    hello = m.Hello(1, worker.incarnation, "w", 1, ["q"], [m.Held(fence, [b"new"], [])], 0, {})
    bench.turn([(worker.route, hello), (worker.route, m.Settle(5, [m.Settlement(fence, 1, [b"new"], None)]))])
    assert not bench.core.state.history.complete
    bench.settle_down()
    assert bench.core.state.history.jobs == 701
    keys = list(bench.core.state.history.blocks)
    assert keys == sorted(keys)


# ---- trimming


def test_history_is_trimmed_by_age() -> None:
    bench, producer, _ = worked("a", "b", policy={"keep_done_ms": 1000})
    bench.advance(997)
    assert producer.ask("show", id=b"a")["state"] == "done"
    bench.advance(1)
    assert producer.refused(m.Ask(90, "show", {"id": b"a"})).code == "not_found"
    assert producer.ask("show", id=b"b")["state"] == "done"
    bench.advance(1)
    assert not list(bench.store.scan("history", b"", b"\xff")) and bench.core.state.history.jobs == 0


def test_history_is_trimmed_by_count() -> None:
    bench, producer, _ = worked(*(f"{n}" for n in range(20)), keep_done_count=5)
    assert bench.core.state.history.jobs == 5 == len(bench.core.state.history.block_of)
    assert producer.ask("show", id=b"15")["state"] == "done"
    assert producer.refused(m.Ask(90, "show", {"id": b"14"})).code == "not_found"


def test_trimming_keeps_up_with_single_settlements() -> None:
    bench = Bench(keep_done_count=100)
    producer = bench.producer()
    for start in range(0, 3000, 1000):
        producer.put("q", *(f"{n}" for n in range(start, start + 1000)))
    workers = [bench.worker(f"w{n}", "q", capacity=1) for n in range(300)]
    for _ in range(10):
        with bench.one_turn():
            for worker in workers:
                identifier, fence = worker.job()
                number = worker.next_number()
                worker.send(m.Settle(number, [m.Settlement(fence, 1, [identifier.encode()], None)]))
        assert bench.core.state.history.jobs <= 100 + 300
    assert len(bench.core.state.history.block_of) == bench.core.state.history.jobs


def test_large_results_go_with_their_jobs() -> None:
    bench, _, worker = worked("a", keep_done_count=1)
    producer = bench.producer("p2")
    producer.put("q", "b")
    worker.ack(worker.job()[1], "b", results=[bytes(broker_limits.INLINE_RESULT_BYTES + 1)])
    assert [key for key, _ in bench.store.scan("results", b"", b"\xff")] == [b"b"]
    producer.put("q", "c")
    worker.ack(worker.job()[1], "c")
    assert not list(bench.store.scan("results", b"", b"\xff"))


def test_nothing_is_kept_if_so_told() -> None:
    bench, producer, _ = worked("a", policy={"keep_done_ms": 0})
    assert not list(bench.store.scan("history", b"", b"\xff"))
    producer.send(m.Watch([b"a"]))
    assert producer.ends() == {"a": ("unknown", None, None)}
