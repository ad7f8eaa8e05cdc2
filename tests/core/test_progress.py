"""Progress: kept with the job, believed only from the holder of its lease, told wherever the job is told of."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zclient.protocol import codec, limits
from zclient.protocol import messages as m


def running(*ids: str, capacity: int = 1, **options: Any) -> tuple[Bench, Peer, Peer, int]:
    """A worker that runs these jobs, in one delivery; its fence."""
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=capacity)
    producer.put("q", *ids, **options)
    return bench, producer, worker, worker.one(m.Deliver).fence


def tell(worker: Peer, fence: int, identifier: str, fraction: float | None, text: str = "") -> None:
    worker.send(m.Progress([(fence, identifier.encode(), fraction, text)]))


def progress_of(producer: Peer, identifier: str) -> Any:
    return producer.ask("show", id=identifier.encode())["progress"]


def test_the_latest_one_is_kept_and_shown_wherever_the_job_is() -> None:
    bench, producer, worker, fence = running("a")
    assert progress_of(producer, "a") is None
    (row,) = producer.ask("workers")
    assert row["last_progress_ms"] is None
    tell(worker, fence, "a", 0.25, "parsing")
    bench.advance(1000)
    tell(worker, fence, "a", 0.5, "sorting")
    told_at = bench.wall
    bench.advance(4000)
    assert progress_of(producer, "a") == {"fraction": 0.5, "text": "sorting", "at": told_at}
    (listed,) = producer.ask("list", queue="q", state="leased")["jobs"]
    assert listed["progress"] == progress_of(producer, "a")
    (row,) = producer.ask("workers")
    assert (row["last_progress_ms"], row["running_for_ms"]) == (4000, 5000)
    reasons = {reason["code"]: reason for reason in producer.ask("why", id=b"a")["reasons"]}
    assert (reasons["progress"]["fraction"], reasons["progress"]["age_ms"]) == (0.5, 4000)
    assert reasons["progress"]["text"] == "last progress 4.0 s ago: 50%, sorting, and its worker is alive"
    bench.check()


def test_it_is_there_after_a_restart_of_the_broker_and_with_the_finished_job() -> None:
    bench, producer, worker, fence = running("a")
    tell(worker, fence, "a", 0.9, "nearly")
    told = progress_of(producer, "a")
    bench.crash()
    producer.connect()
    assert progress_of(producer, "a") == told
    worker.connect([m.Held(fence, [b"a"], [])])
    (row,) = producer.ask("workers")
    assert row["last_progress_ms"] == 0
    worker.ack(fence, "a")
    assert progress_of(producer, "a") == told
    bench.crash()
    producer.connect()
    assert progress_of(producer, "a") == told
    assert not list(bench.store.scan("changes", b"", b"\xff" * 70))


@pytest.mark.parametrize("fraction", [None, 0, 0.0, 1, 1.0])
def test_a_fraction_and_a_text_are_each_optional(fraction: float | None) -> None:
    _, producer, worker, fence = running("a")
    tell(worker, fence, "a", fraction, "x" * limits.MAX_PROGRESS_CHARS)
    assert progress_of(producer, "a")["fraction"] == fraction
    tell(worker, fence, "a", fraction)
    kept = "x" * limits.MAX_PROGRESS_CHARS if fraction is None else ""
    assert progress_of(producer, "a")["text"] == kept, "what says neither only says that it goes on"


@pytest.mark.parametrize(
    "entries",
    [
        [(1, b"a", 1.001, "")],
        [(1, b"a", -0.001, "")],
        [(1, b"a", math.nan, "")],
        [(1, b"a", math.inf, "")],
        [(1, b"a", True, "")],
        [(1, b"a", "half", "")],
        [(1, b"a", 0.5, None)],
        [(1, b"a", 0.5, "x" * (limits.MAX_PROGRESS_CHARS + 1))],
        [(1, b"a", 0.5, "")] * (limits.MAX_ORDER_IDS + 1),
    ],
)
def test_progress_that_cannot_be_is_no_message(entries: list[Any]) -> None:
    with pytest.raises(codec.MalformedMessage):
        codec.decode(codec.encode(m.Progress(entries)))


def test_only_the_holder_of_the_lease_is_believed() -> None:
    bench, producer, worker, fence = running("a")
    other = bench.worker("other", "q")
    tell(other, fence, "a", 0.1, "not mine")
    tell(producer, fence, "a", 0.2, "not a worker")
    tell(worker, fence + 1, "a", 0.3, "another delivery")
    tell(worker, fence, "b", 0.4, "no such job")
    assert progress_of(producer, "a") is None
    assert not any(peer.take(m.Failure) for peer in (other, producer, worker)), "it has no answer"
    bench.advance(30_000)  # its lease runs out
    ((_, later),) = other.jobs()
    tell(worker, fence, "a", 0.5, "too late")
    assert progress_of(producer, "a") is None
    tell(other, later, "a", 0.6, "mine now")
    assert progress_of(producer, "a")["text"] == "mine now"
    bench.check()


def test_it_says_nothing_of_a_job_that_waits_or_is_over() -> None:
    bench, producer, worker, fence = running("a", "b", capacity=2)
    worker.send(m.Capacity(0))
    worker.release(fence, "a")
    worker.ack(fence, "b")
    tell(worker, fence, "a", 0.5)
    tell(worker, fence, "b", 0.5)
    assert progress_of(producer, "a") is None and progress_of(producer, "b") is None
    bench.check()


def test_that_of_an_earlier_run_is_shown_and_is_no_sign_of_life_of_this_one() -> None:
    bench, producer, worker, fence = running("a", backoff="constant", backoff_min=1000, backoff_jitter=0)
    tell(worker, fence, "a", 0.8, "first run")
    bench.advance(100)
    worker.nack(fence, "a")
    assert progress_of(producer, "a")["text"] == "first run"
    bench.advance(1000)
    fence = worker.job()[1]
    bench.advance(1000)
    assert progress_of(producer, "a")["text"] == "first run"
    assert [reason["code"] for reason in producer.ask("why", id=b"a")["reasons"]] == ["running"]
    (row,) = producer.ask("workers")
    assert row["last_progress_ms"] is None
    tell(worker, fence, "a", 0.1, "second run")
    assert [reason["code"] for reason in producer.ask("why", id=b"a")["reasons"]] == ["running", "progress"]


def test_it_does_not_renew_the_lease_and_does_not_settle() -> None:
    bench, producer, worker, fence = running("a")
    for _ in range(3):
        bench.advance(9_000)
        tell(worker, fence, "a", 1.0)
    bench.advance(3_000)
    assert worker.one(m.Lost).leases == [(fence, [b"a"])]
    assert producer.ask("show", id=b"a")["state"] == "ready"


def test_many_jobs_in_one_message_and_the_same_one_twice() -> None:
    ids = [f"{n}" for n in range(limits.MAX_ORDER_IDS)]
    bench, producer, worker, fence = running(*ids, capacity=len(ids))
    worker.send(m.Progress([(fence, identifier.encode(), 0.5, identifier) for identifier in ids]))
    worker.send(m.Progress([(fence, b"7", 0.6, "earlier"), (fence, b"7", 0.7, "later")]))
    assert progress_of(producer, "7") == {"fraction": 0.7, "text": "later", "at": bench.wall}
    assert progress_of(producer, "8")["text"] == "8"
    worker.ack(fence, *ids)
    assert not list(bench.store.scan("changes", b"", b"\xff" * 70))
    bench.check()


@pytest.mark.parametrize("ends", ["before commit", "before send"])
def test_it_counts_from_its_commit_on(ends: str) -> None:
    bench, producer, worker, fence = running("a")
    bench.turn([(worker.route, m.Progress([(fence, b"a", 0.5, "told")]))], ends=ends)
    bench.crash()
    producer.connect()
    assert (progress_of(producer, "a") is None) == (ends == "before commit")
    bench.check()
