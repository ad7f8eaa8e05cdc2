"""Watching with changes: how a job is now, then each change, then its end; once a commit, and nothing before it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker.core.states import State
from zclient.protocol import codec, limits
from zclient.protocol import messages as m


def changes(peer: Peer) -> list[tuple[str, str]]:
    """Id and state of each job told in CHANGED since the last time, in order."""
    return [(row["id"].decode(), str(row["state"])) for message in peer.take(m.Changed) for row in message.jobs]


def follow(peer: Peer, *ids: str) -> None:
    peer.send(m.Watch([identifier.encode() for identifier in ids], True))


def test_the_state_is_told_at_once_then_after_each_change_then_the_end() -> None:
    bench = Bench(policy={"backoff": "constant", "backoff_jitter": 0})
    producer = bench.producer()
    producer.put("q", "a", delay=5000)
    follow(producer, "a")
    (row,) = producer.one(m.Changed).jobs
    shown = producer.ask("show", id=b"a")
    assert row == {name: value for name, value in shown.items() if name not in ("payload", "result")}
    bench.advance(5000)
    assert changes(producer) == [("a", "ready")]
    worker = bench.worker("w", "q")
    (row,) = producer.one(m.Changed).jobs
    assert (row["state"], row["worker"], row["attempt"]) == ("leased", "w", 1)
    fence = worker.job()[1]
    worker.send(m.Progress([(fence, b"a", 0.5, "half")]))
    (row,) = producer.one(m.Changed).jobs
    assert row["progress"] == {"fraction": 0.5, "text": "half", "at": bench.wall}
    worker.nack(fence, "a", type="E", text="no")
    (row,) = producer.one(m.Changed).jobs
    assert (row["state"], row["error"]["type"], row["due_at"]) == ("scheduled", "E", bench.wall + 1000)
    bench.advance(1000)
    assert changes(producer) == [("a", "leased")], "due and delivered in one commit is one change"
    producer.order("cancel", id=b"a")
    (row,) = producer.one(m.Changed).jobs
    assert row["cancel_requested"]
    assert producer.ends() == {}
    worker.ack(worker.job()[1], "a", results=[b"result"])
    assert producer.ends() == {"a": ("done", b"result", None)}
    assert producer.take(m.Changed) == [], "the end is told in FINISHED alone"
    bench.check()


def test_renewals_and_what_becomes_of_others_is_no_change() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b")
    fence = worker.one(m.Deliver).fence
    follow(producer, "a")
    changes(producer)
    worker.send(m.Renew([fence]))
    worker.send(m.Extend(worker.next_number(), fence, b"a", 60_000))
    worker.ack(fence, "b")
    producer.put("q", "c")
    bench.advance(10_000)
    assert producer.take(m.Changed) == []


def test_the_changes_of_one_commit_are_told_as_one() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=3)
    producer.put("q", "a", "b")
    fence = worker.one(m.Deliver).fence
    follow(producer, "a", "b")
    changes(producer)
    with bench.one_turn():
        for n in range(10):
            worker.send(m.Progress([(fence, b"a", n / 10, ""), (fence, b"b", None, "text")]))
        producer.send(m.Order(50, 50, "cancel", {"id": b"a"}))
    (told,) = producer.take(m.Changed)
    assert [(row["id"], row["cancel_requested"]) for row in told.jobs] == [(b"a", True), (b"b", False)]
    assert told.jobs[0]["progress"]["fraction"] == 0.9
    with bench.one_turn():
        worker.send(m.Progress([(fence, b"a", 1.0, "")]))
        worker.send(m.Settle(60, [m.Settlement(fence, m.Outcome.ACK, [b"a"], None)]))
    assert producer.ends() == {"a": ("done", None, None)}
    assert producer.take(m.Changed) == [], "an end in the same commit makes the change old"


@pytest.mark.parametrize(
    ("outcome", "value", "told"),
    [
        (m.Outcome.NACK, {"delay": 1000}, "scheduled"),
        (m.Outcome.SNOOZE, 1000, "scheduled"),
        (m.Outcome.RELEASE, None, "ready"),
    ],
)
def test_each_way_back_is_a_change(outcome: m.Outcome, value: Any, told: str) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    follow(producer, "a")
    changes(producer)
    fence = worker.job()[1]
    worker.send(m.Capacity(0))
    worker.settle(outcome, fence, "a", values=[value])
    assert changes(producer) == [("a", told)] and producer.ends() == {}


def test_a_lost_worker_is_a_change() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    follow(producer, "a")
    worker.jobs()
    changes(producer)
    worker.cut()
    bench.advance(5000)
    assert changes(producer) == [("a", "ready")]
    assert producer.ask("show", id=b"a")["losses"] == 1


@pytest.mark.parametrize("ends", ["before commit", "before send"])
def test_nothing_is_told_before_its_commit(ends: str) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    follow(producer, "a")
    changes(producer)
    bench.turn([(worker.route, m.Progress([(fence, b"a", 0.5, "")]))], ends=ends)
    assert producer.take(m.Changed) == []
    bench.crash()
    producer.connect()
    follow(producer, "a")
    (row,) = producer.one(m.Changed).jobs
    assert (row["progress"] is not None) == (ends == "before send"), "what is told is what is on disk"


# ---- the ends


def test_what_is_over_or_nowhere_is_told_in_finished_alone() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "done", "dead")
    fence = worker.one(m.Deliver).fence
    worker.ack(fence, "done")
    worker.reject(fence, "dead", text="no")
    follow(producer, "done", "dead", "nobody")
    assert {identifier: end[0] for identifier, end in producer.ends().items()} == {
        "done": "done",
        "dead": "dead",
        "nobody": "unknown",
    }
    assert producer.take(m.Changed) == [] and not bench.core.state.followers


@pytest.mark.parametrize("how", ["cancel", "purge", "expiry", "discard", "death", "replaced", "moved"])
def test_each_end_is_told_once_and_ends_the_watch(how: str) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=0)
    options: dict[str, Any] = {"on_expiry": "drop"} if how == "discard" else {"dead_to": "r"} if how == "moved" else {}
    if options:
        producer.order("set", queue="q", options=options)
    producer.put("q", "a", unique="text", max_attempts=1, ttl=1000)
    follow(producer, "a")
    changes(producer)
    if how == "cancel":
        producer.order("cancel", id=b"a")
    elif how == "purge":
        producer.order("purge", queue="q")
    elif how in ("expiry", "discard"):
        bench.advance(1000)
    elif how == "replaced":
        producer.put("q", "b", unique="text", on_conflict="replace")
    else:
        worker.send(m.Capacity(1))
        worker.nack(worker.job()[1], "a", text="no")
        assert changes(producer) == [("a", "leased")]
    expected = {
        "cancel": ("cancelled", {"reason": "cancelled"}),
        "purge": ("cancelled", {"reason": "purged"}),
        "expiry": ("dead", {"reason": "expired", "error": {}, "attempts": 0}),
        "discard": ("dead", {"reason": "expired"}),
        "death": ("dead", {"reason": "attempts", "error": {"type": "", "text": "no"}, "attempts": 1}),
        "replaced": ("cancelled", {"reason": "replaced", "by": b"b"}),
        "moved": ("dead", {"reason": "attempts", "error": {"type": "", "text": "no"}, "attempts": 1, "moved_to": "r"}),
    }
    state, cause = expected[how]
    assert producer.ends() == {"a": (state, None, cause)}
    assert producer.take(m.Changed) == [] and not bench.core.state.followers and not bench.core.state.watchers
    bench.check()


# ---- whose watches


def test_the_end_alone_or_the_changes_as_well_is_for_each_peer_to_say() -> None:
    bench = Bench()
    producer, other, worker = bench.producer(), bench.producer("other"), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    follow(producer, "a")
    other.send(m.Watch([b"a"]))
    worker.send(m.Progress([(fence, b"a", 0.5, "")]))
    assert len(changes(producer)) == 2 and changes(other) == []
    follow(other, "a")
    assert changes(other) == [("a", "leased")], "and may ask for more later"
    assert changes(producer) == [], "which is no change, and told to nobody else"
    worker.ack(fence, "a")
    assert producer.ends() == other.ends() == {"a": ("done", None, None)}


def test_unwatch_ends_the_changes_too() -> None:
    bench = Bench()
    producer, other, worker = bench.producer(), bench.producer("other"), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    follow(producer, "a")
    follow(other, "a")
    producer.send(m.Unwatch([b"a"]))
    changes(producer)
    worker.send(m.Progress([(fence, b"a", 0.5, "")]))
    assert changes(producer) == [] and len(changes(other)) == 2
    other.send(m.Unwatch([b"a"]))
    assert not bench.core.state.followers and not bench.core.state.watchers


def test_a_watch_and_its_end_in_one_turn_leave_nothing() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a")
    with bench.one_turn():
        follow(producer, "a")
        producer.send(m.Unwatch([b"a"]))
    assert producer.take(m.Changed) == [] and not bench.core.state.followers and not bench.core.state.changed


@pytest.mark.parametrize("how", ["reconnect", "goodbye", "gone"])
def test_watches_belong_to_the_connection(how: str) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    follow(producer, "a")
    changes(producer)
    if how == "reconnect":
        producer.connect()
    elif how == "goodbye":
        producer.send(m.Goodbye())
    else:
        producer.cut()
        bench.advance(10_000)
    assert not bench.core.state.followers and not bench.core.state.watchers
    worker.send(m.Progress([(fence, b"a", 0.5, "")]))
    assert changes(producer) == []
    if how == "reconnect":
        follow(producer, "a")
        assert changes(producer) == [("a", "leased")]
    bench.check()


def test_watches_are_bounded_and_a_refused_message_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_WATCHED_PER_PEER", 3)
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *"abcd")
    follow(producer, "a", "b")
    follow(producer, "c", "d")
    assert producer.one(m.Failure).code == "invalid"
    assert sorted(bench.core.state.followers) == [b"a", b"b"]
    with pytest.raises(codec.MalformedMessage):
        codec.decode(codec.encode(m.Watch([b"%d" % n for n in range(limits.MAX_BATCH_JOBS + 1)], True)))


def test_many_watchers_of_many_jobs_leave_nothing_behind() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=300)
    watchers = [bench.producer(f"watcher {n}") for n in range(5)]
    ids = [f"{n}" for n in range(300)]
    for _ in range(3):
        producer.put("q", *ids)
        for watcher in watchers:
            follow(watcher, *ids)
            assert len(changes(watcher)) == 300
        for delivery in worker.take(m.Deliver):
            worker.ack(delivery.fence, *(identifier.decode() for identifier in delivery.ids))
        for watcher in watchers:
            assert len(watcher.ends()) == 300
        state = bench.core.state
        assert not state.followers and not state.watchers and not state.changed
        assert all(not peer.watched for peer in state.peers.values())
        producer.order("set", queue="q", options={"keep_done": 0})  # so that the ids may come again
        assert bench.count("q", State.LEASED) == 0


def test_what_is_told_at_once_comes_in_messages_that_a_connection_carries() -> None:
    bench = Bench()
    producer = bench.producer()
    ids = [f"{n}" for n in range(200)]
    for start in range(0, 200, 100):
        producer.put("q", *ids[start : start + 100], headers={"h": "x" * 8000})
    follow(producer, *ids)
    told = producer.take(m.Changed)
    assert sum(len(message.jobs) for message in told) == 200
    largest = max(sum(map(len, codec.encode(message))) for message in told)
    assert largest < 2 * limits.MESSAGE_BYTES
