"""Finished jobs: told to those who watch, kept for a while, found again after a restart, trimmed at their limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zbroker.storage.interface import KEYSPACES
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
    assert kept(producer, "a") == ""
    bench.advance(broker_limits.RECENT_MS)
    assert end(producer, "a") == ("unknown", None, None)


# ---- of what nothing is kept


def end(peer: Peer, identifier: str) -> tuple[str, bytes | None, dict[str, Any] | None]:
    """What is told at once of a job that is over."""
    peer.send(m.Watch([identifier.encode()]))
    (told,) = peer.ends().values()
    return told


@pytest.mark.parametrize("nothing", [{"policy": {"keep_done_ms": 0}}, {"keep_done_count": 0}])
def test_who_asks_a_moment_later_is_told_the_end_of_which_nothing_is_kept(nothing: dict[str, Any]) -> None:
    bench, producer, worker = worked("a", **nothing)
    producer.put("q", "b")
    worker.ack(worker.job()[1], "b", results=[bytes(limits.MAX_RESULT_BYTES)])
    bench.advance(broker_limits.RECENT_MS - 2)
    assert end(producer, "a") == ("done", b"of a", None)
    assert end(bench.producer("other"), "a") == ("done", b"of a", None)
    assert end(producer, "b") == ("done", bytes(limits.MAX_RESULT_BYTES), None)
    bench.advance(2)
    assert end(producer, "a") == end(producer, "b") == ("unknown", None, None)
    bench.check()


def test_why_one_was_cancelled_of_which_nothing_is_kept_is_told_a_moment_later() -> None:
    bench = Bench(policy={"keep_done_ms": 0})
    producer, worker = bench.producer(), bench.worker("w", "first", "q")
    producer.put("q", "plain", delay=1000)
    producer.order("cancel", id=b"plain")
    producer.put("first", "parent", max_attempts=1)
    producer.put("q", "child", after=[b"parent"])
    worker.nack(worker.job()[1], "parent")
    producer.order("set", queue="q", options={"on_expiry": "drop"})
    producer.order("pause", queue="q")
    producer.put("q", "late", ttl=10)
    bench.advance(10)
    assert end(producer, "plain") == ("cancelled", None, {"reason": "cancelled"})
    assert end(producer, "child") == ("cancelled", None, {"reason": "parent", "parent": b"parent"})
    assert end(producer, "late") == ("dead", None, {"reason": "expired"})


def test_an_id_that_is_used_again_is_another_job() -> None:
    bench, producer, worker = worked("a", policy={"keep_done_ms": 0})
    bench.advance(5000)
    producer.put("q", "a")
    producer.send(m.Watch([b"a"]))
    assert producer.ends() == {}, "it goes on"
    worker.ack(worker.job()[1], "a", results=[b"second"])
    assert producer.ends()["a"] == ("done", b"second", None)
    bench.advance(broker_limits.RECENT_MS - 1)
    assert end(producer, "a") == ("done", b"second", None), "the first one was forgotten meanwhile"


def test_ends_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "RECENT_JOBS", 3)
    monkeypatch.setattr(broker_limits, "RECENT_BYTES", 10)
    bench, producer, _ = worked("a", "b", "c", "d", policy={"keep_done_ms": 0})  # results of 4 bytes each
    assert [end(producer, one)[0] for one in "abcd"] == ["unknown", "unknown", "done", "done"]
    monkeypatch.setattr(broker_limits, "RECENT_BYTES", 1000)
    worker = bench.worker("x", "r", capacity=4)
    producer.put("r", *"efgh")
    worker.ack(worker.one(m.Deliver).fence, *"efgh")
    assert [end(producer, one)[0] for one in "cdefgh"] == ["unknown"] * 6, "together they are more than may be"


def test_a_restart_forgets_ends_of_which_nothing_is_kept() -> None:
    bench, producer, _ = worked("a", policy={"keep_done_ms": 0})
    bench.crash()
    producer.connect()
    assert end(producer, "a") == ("unknown", None, None)


# ---- each queue keeps for itself


def finished_in(bench: Bench, producer: Peer, worker: Peer, queue: str, *ids: str) -> None:
    """These jobs are done, each in a tick of its own."""
    for identifier in ids:
        producer.put(queue, identifier)
        worker.ack(worker.job()[1], identifier)


def kept(producer: Peer, *ids: str) -> str:
    """Those of the ids that history holds, as one text."""
    held = ""
    for identifier in ids:
        number = producer.next_number()
        producer.send(m.Ask(number, "show", {"id": identifier.encode()}))
        held += identifier if isinstance(producer.answer(number), m.Answer) else ""
    return held


def test_each_queue_keeps_its_finished_jobs_as_long_as_it_says() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "short", "long", "none")
    producer.order("set", queue="short", options={"keep_done": 1000})
    producer.order("set", queue="none", options={"keep_done": 0})
    finished_in(bench, producer, worker, "short", "a")
    bench.advance(500)
    finished_in(bench, producer, worker, "long", "b")
    finished_in(bench, producer, worker, "short", "c")
    finished_in(bench, producer, worker, "none", "d")
    assert kept(producer, *"abcd") == "abc"
    bench.advance(500)
    assert kept(producer, *"abcd") == "bc"
    bench.advance(500)
    assert kept(producer, *"abcd") == "b"
    bench.advance(3_600_000 - 1001)
    assert kept(producer, *"abcd") == "b"
    bench.advance(1)
    assert kept(producer, *"abcd") == "" and not list(bench.store.scan("history", b"", b"\xff"))


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_queue_keeps_may_change_at_run_time(restarted: bool) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    finished_in(bench, producer, worker, "q", "a")
    bench.advance(2000)
    finished_in(bench, producer, worker, "q", "b")
    producer.order("set", queue="q", options={"keep_done": 1000})
    if restarted:
        bench.crash()
        producer.connect()
        worker.connect()
    assert kept(producer, *"ab") == "b", "what is too old already goes at once"
    producer.order("set", queue="q", options={"keep_done": 5000})
    bench.advance(4999)
    assert kept(producer, "b") == "b"
    bench.advance(1)
    assert kept(producer, "b") == ""
    finished_in(bench, producer, worker, "q", "c")
    producer.order("set", queue="q", options={"keep_done": 0})
    assert kept(producer, "c") == ""
    producer.order("unset", queue="q", options=["keep_done"])
    finished_in(bench, producer, worker, "q", "d")
    bench.advance(3_599_999)
    assert kept(producer, "d") == "d"
    bench.advance(1)
    assert kept(producer, "d") == ""


def test_a_queue_whose_last_finished_job_is_gone_is_not_looked_at_again() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    finished_in(bench, producer, worker, "q", "a")
    producer.order("set", queue="q", options={"keep_done": 1000})  # so it is to be looked at twice
    bench.advance(3_600_000)
    index = bench.core.state.history
    assert not index.jobs and not index.of_queue and not index.due and not index.due_at


def test_a_queue_that_keeps_less_keeps_new_jobs_no_longer_than_that() -> None:
    bench = Bench(policy={"keep_done_ms": 3_600_000}, keep_done_count=1)
    producer, worker = bench.producer(), bench.worker("w", "q", "other")
    finished_in(bench, producer, worker, "q", "a")
    finished_in(bench, producer, worker, "other", "b")  # one is kept in all, so that "a" is gone
    producer.order("set", queue="q", options={"keep_done": 1000})
    finished_in(bench, producer, worker, "q", "c")
    assert kept(producer, *"abc") == "c"
    bench.advance(1000)
    assert kept(producer, "c") == ""


def test_the_count_is_of_all_queues_together_the_oldest_go_first() -> None:
    bench = Bench(keep_done_count=3)
    producer, worker = bench.producer(), bench.worker("w", "q", "r")
    finished_in(bench, producer, worker, "q", "a", "b")
    finished_in(bench, producer, worker, "r", "c")
    finished_in(bench, producer, worker, "q", "d")
    assert kept(producer, *"abcd") == "bcd"
    finished_in(bench, producer, worker, "r", "e", "f")
    assert kept(producer, *"abcdef") == "def"


def test_what_is_read_back_stands_in_its_order_by_queue_and_in_all() -> None:
    bench = Bench(keep_done_count=6)
    producer, worker = bench.producer(), bench.worker("w", "q", "r")
    producer.order("set", queue="r", options={"keep_done": 10_000})
    for n, queue in enumerate("qrqrqr"):
        finished_in(bench, producer, worker, queue, f"{n}")
        bench.advance(1000)
    bench.crash()
    producer.connect()
    worker.connect()
    index = bench.core.state.history
    assert list(index.blocks) == sorted(index.blocks) and index.jobs == 6
    assert all(list(blocks) == sorted(blocks) for blocks in index.of_queue.values())
    finished_in(bench, producer, worker, "q", "6")
    assert kept(producer, *"0123456") == "123456", "the oldest of all makes room"
    bench.advance(6000)
    assert kept(producer, *"123456") == "23456"
    bench.advance(2000)
    assert kept(producer, *"23456") == "2456"


def test_a_broker_that_finishes_many_jobs_does_not_grow() -> None:
    bench = Bench(keep_done_count=200)
    producer, worker = bench.producer(), bench.worker("w", "q", "r", capacity=500)
    sizes = []
    for round_number in range(40):
        for queue in ("q", "r"):
            producer.put(queue, *(f"{round_number}-{queue}-{n}" for n in range(500)))
            for delivery in worker.take(m.Deliver):
                worker.ack(delivery.fence, *(identifier.decode() for identifier in delivery.ids))
        index = bench.core.state.history
        rows = sum(1 for space in KEYSPACES for _ in bench.store.scan(space, b"", b"\xff" * 300))
        blocks = sum(map(len, index.of_queue.values()))
        sizes.append((rows, len(index.block_of), len(index.blocks), len(index.due), blocks))
    assert len(set(sizes[2:])) == 1, sizes
    assert bench.core.state.queues["q"].counts.totals["done"] == 20_000
    bench.check()


# ---- results of each size


EDGES = [broker_limits.INLINE_RESULT_BYTES, limits.LARGE_BYTES, limits.MAX_RESULT_BYTES]


@pytest.mark.parametrize("size", [0, 1, *(edge + by for edge in EDGES for by in (-1, 0, 1) if edge + by <= EDGES[-1])])
def test_a_result_of_any_size_is_told_shown_and_there_after_a_restart(size: int) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=3)
    producer.put("q", "a", "b", "c")
    result = b"r" * size or None  # an empty one is none
    producer.send(m.Watch([b"b"]))
    worker.ack(worker.one(m.Deliver).fence, *"abc", results=[b"first", b"r" * size, None])
    ((state, told, _),) = producer.ends().values()
    assert state == "done" and (told or None) == result
    apart = [key for key, _ in bench.store.scan("results", b"", b"\xff")]
    assert apart == ([b"b"] if size > broker_limits.INLINE_RESULT_BYTES else [])
    for _ in range(2):
        assert [producer.ask("show", id=name)["result"] for name in (b"a", b"b", b"c")] == [b"first", result, None]
        producer.send(m.Watch([b"b"]))
        assert producer.ends() == {"b": ("done", result, None)}
        bench.crash()
        producer.connect()
    bench.advance(3_600_000)
    assert not list(bench.store.scan("results", b"", b"\xff"))


def test_a_result_that_is_too_large_leaves_the_job_with_its_worker() -> None:
    bench = Bench(max_payload=5000)
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b")
    fence = worker.one(m.Deliver).fence
    refused = worker.ack(fence, "a", "b", results=[bytes(5001), bytes(5000)])
    assert refused == [(fence, b"a", "too_large")]
    assert bench.counts("q") == {"leased": 1}
    assert worker.ack(fence, "a", results=[bytes(5000)]) == []
    bench.check()
