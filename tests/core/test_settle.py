"""Settlements: which count, which repeat what was done, which are too late; and what an outcome makes of a job."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zclient.protocol import limits
from zclient.protocol import messages as m


def leased(*ids: str, **settings: Any) -> tuple[Bench, Peer, Peer, int]:
    """A bench with a producer and a worker that holds these jobs of one delivery."""
    bench = Bench(**settings)
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=len(ids))
    producer.put("q", *ids)
    return bench, producer, worker, worker.one(m.Deliver).fence


def test_ack_ends_a_job_with_its_result() -> None:
    bench, producer, worker, fence = leased("a", "b")
    assert worker.ack(fence, "a", "b", results=[b"one", None]) == []
    assert bench.counts("q") == {}
    row = producer.ask("show", id=b"a")
    assert (row["state"], row["result"], row["fence"], row["worker"], row["attempt"]) == ("done", b"one", fence, "w", 1)
    assert producer.ask("show", id=b"b")["result"] is None
    assert not list(bench.store.scan("deliveries", b"", b"\xff" * 9))
    bench.check()


def test_a_result_above_the_limit_is_refused_and_the_job_still_held() -> None:
    bench, _, worker, fence = leased("a", "b", "c")
    large = bytes(limits.MAX_RESULT_BYTES + 1)
    assert worker.ack(fence, "a", "b", "c", results=[b"x", large, b"y"]) == [(fence, b"b", "too_large")]
    assert bench.counts("q") == {"leased": 1}
    assert worker.reject(fence, "b", text="too large") == []
    assert bench.counts("q") == {"dead": 1}
    bench.check()


def test_a_large_result_is_kept_and_removed_with_its_job() -> None:
    bench, producer, worker, fence = leased("a", "b")
    large = bytes(limits.MAX_RESULT_BYTES)
    worker.ack(fence, "a", "b", results=[large, b"small"])
    bench.crash()
    producer.connect()
    assert producer.ask("show", id=b"a")["result"] == large
    assert producer.ask("show", id=b"b")["result"] == b"small"
    bench.advance(3_600_000)
    assert not list(bench.store.scan("results", b"", b"\xff" * 65))


def test_every_outcome_at_once_in_one_message() -> None:
    bench, _, worker, fence = leased("a", "b", "c", "d", "e")
    number = worker.next_number()
    worker.send(
        m.Capacity(0),
        m.Settle(
            number,
            [
                m.Settlement(fence, 1, [b"a"], [b"r"]),
                m.Settlement(fence, 2, [b"b"], None),
                m.Settlement(fence, 3, [b"c"], [{"text": "never"}]),
                m.Settlement(fence, 4, [b"d"], None),
                m.Settlement(fence, 5, [b"e"], [5000]),
            ],
        ),
    )
    assert worker.answer(number) == m.Ok([number])
    assert bench.counts("q") == {"scheduled": 2, "dead": 1, "ready": 1}
    bench.check()


OUTCOMES = [
    (m.Outcome.ACK, [b"r"]),
    (m.Outcome.NACK, [{"text": "no"}]),
    (m.Outcome.NACK, [{"delay": 0}]),
    (m.Outcome.REJECT, [{"text": "never"}]),
    (m.Outcome.RELEASE, None),
    (m.Outcome.SNOOZE, [5000]),
]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("redelivered", [False, True])
@pytest.mark.parametrize(("outcome", "values"), OUTCOMES)
def test_a_repeated_settlement_is_answered_as_the_first_time(
    outcome: m.Outcome, values: list[Any] | None, redelivered: bool, restarted: bool
) -> None:
    bench, producer, worker, fence = leased("a")
    worker.send(m.Capacity(0))
    assert worker.settle(outcome, fence, "a", values=values) == []
    totals = dict(bench.core.state.queues["q"].counts.totals)
    if redelivered:
        bench.worker("v", "q")
        bench.advance(6000)
    if restarted:
        bench.crash()
        worker.connect()
    assert worker.settle(outcome, fence, "a", values=values) == []
    assert bench.core.state.queues["q"].counts.totals == totals
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1), (3, 1), (4, 2), (1, 4)])
def test_another_outcome_for_what_was_settled_is_refused(first: int, second: int, restarted: bool) -> None:
    bench, _, worker, fence = leased("a")
    worker.send(m.Capacity(0))
    worker.settle(m.Outcome(first), fence, "a")
    if restarted:
        bench.crash()
        worker.connect()
    before = bench.counts("q")
    assert worker.settle(m.Outcome(second), fence, "a") == [(fence, b"a", "lost")]
    assert bench.counts("q") == before
    bench.check()


def test_a_settlement_of_a_lost_lease_is_refused_while_others_of_it_count() -> None:
    bench, producer, worker, fence = leased("a", "b")
    bench.advance(30_000)
    assert worker.one(m.Lost).leases == [(fence, [b"a", b"b"])]
    other = bench.worker("v", "q", capacity=2)
    assert worker.ack(fence, "a", "b") == [(fence, b"a", "lost"), (fence, b"b", "lost")]
    for _ in range(2):
        for identifier, newer in [*other.jobs(), *worker.jobs()]:
            (other if newer in _fences(bench, "v") else worker).ack(newer, identifier)
    assert producer.ask("show", id=b"a")["state"] == "done"
    bench.check()


@pytest.mark.parametrize("outcome", m.Outcome)
def test_an_old_fence_does_not_count_while_its_neighbours_still_run(outcome: m.Outcome) -> None:
    bench, _, worker, fence = leased("a", "b")
    worker.release(fence, "a")
    identifier, newer = worker.job()
    assert identifier == "a" and newer > fence
    values = [5000] if outcome is m.Outcome.SNOOZE else None
    refused = worker.settle(outcome, fence, "a", values=values)
    assert refused == ([] if outcome is m.Outcome.RELEASE else [(fence, b"a", "lost")])
    assert bench.counts("q") == {"leased": 2}
    assert worker.ack(newer, "a") == worker.ack(fence, "b") == []
    bench.check()


def _fences(bench: Bench, name: str) -> set[int]:
    return {fence for peer in bench.core.state.peers.values() if peer.name == name for fence in peer.deliveries}


def test_a_job_long_gone_is_unknown_which_is_neutral() -> None:
    bench, _, worker, fence = leased("a", policy={"keep_done_ms": 1000})
    worker.ack(fence, "a")
    bench.advance(1000)
    assert worker.ack(fence, "a") == [(fence, b"a", "unknown")]
    assert worker.ack(77, "never there") == [(77, b"never there", "unknown")]


def test_a_settlement_names_each_job_once() -> None:
    bench, _, worker, fence = leased("a", "b")
    worker.ack(fence, "a", "a", "b", "b", results=[b"1", b"2", b"3", b"4"])
    assert bench.core.state.queues["q"].counts.totals["done"] == 2
    bench.check()


def test_another_incarnation_may_settle_what_it_names() -> None:
    bench, producer, _, fence = leased("a")
    assert producer.ack(fence, "a") == []
    bench.check()


def test_settlements_of_strangers_are_dropped_and_they_are_asked_who_they_are() -> None:
    bench, _, worker, fence = leased("a")
    stranger = Peer(bench, "stranger", (), 0)
    stranger.route = bench.new_route(stranger)
    stranger.send(m.Settle(1, [m.Settlement(fence, 1, [b"a"], None)]))
    assert stranger.inbox == [m.Who()] and bench.counts("q") == {"leased": 1}


def test_the_error_travels_trimmed() -> None:
    bench, producer, worker, fence = leased("a")
    worker.nack(fence, "a", type="T" * 999, text="x" * 99_999, traceback="first" + "y" * 99_999 + "last", extra=1)
    (attempt,) = producer.ask("show", id=b"a")["attempts"]
    error = attempt["error"]
    assert set(error) == {"type", "text", "traceback"}
    assert len(error["text"]) == limits.MAX_ERROR_CHARS and len(error["traceback"]) == limits.MAX_TRACEBACK_CHARS
    assert error["traceback"].endswith("last")
    assert attempt["worker"] == "w" and attempt["kind"] == "error" and attempt["number"] == 1


@pytest.mark.parametrize("value", [{"delay": -5}, {"delay": "soon"}, {"delay": 1 << 60}, {"type": 5, "text": None}, {}])
def test_an_odd_error_map_harms_nobody(value: dict[str, Any]) -> None:
    bench, _, worker, fence = leased("a")
    assert worker.settle(m.Outcome.NACK, fence, "a", values=[value]) == []
    assert bench.counts("q") == {"scheduled": 1}
    bench.check()
