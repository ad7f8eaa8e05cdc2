"""The same id again: the same job, or a refusal, also when the first one is long over. And the order of one moment."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import WALL, Bench, Peer
from zclient.protocol import messages as m

MADE = "0" * 31
"""All but the last digit of an id as clients make them."""


def sent(queue: str, identifier: str, payload: bytes = b"p", number: int = 100, **options: Any) -> m.Put:
    return m.Put(number, number, [m.Group(queue, options, [identifier.encode()], [payload])])


def over(bench: Bench, how: str, identifier: str, **options: Any) -> tuple[Peer, Peer]:
    """A job that is over in this way; the producer, and a worker."""
    producer, worker = bench.producer(), bench.worker("w", "q")
    worker.send(m.Capacity(0 if how == "cancelled" else 1))
    producer.put("q", identifier, **options)
    if how == "cancelled":
        producer.order("cancel", id=identifier.encode())
    elif how == "cancelled while it ran":
        fence = worker.job()[1]
        producer.order("cancel", id=identifier.encode())
        worker.reject(fence, identifier)
    else:
        worker.ack(worker.job()[1], identifier)
    assert bench.counts("q") == {}
    return producer, worker


@pytest.mark.parametrize("how", ["done", "cancelled", "cancelled while it ran"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_chosen_id_whose_job_is_over_is_that_job_and_no_other(how: str, restarted: bool) -> None:
    bench = Bench()
    producer, worker = over(bench, how, "order-17", priority=3, headers={"b": 1, "a": 2})
    if restarted:
        bench.crash()
        producer.connect()
    same = sent("q", "order-17", priority=3, headers={"b": 1, "a": 2})
    producer.send(same)
    assert producer.answer(100) == m.Ok([100]) and bench.counts("q") == {}
    others = [
        sent("other", "order-17", priority=3, headers={"b": 1, "a": 2}, number=101),
        sent("q", "order-17", b"another", priority=3, headers={"b": 1, "a": 2}, number=102),
        sent("q", "order-17", priority=4, headers={"b": 1, "a": 2}, number=103),
    ]
    for other in others:
        refused = producer.refused(other)
        assert (refused.code, refused.details["id"]) == ("duplicate_id", "order-17")
    assert not bench.counts("q") and "other" not in bench.core.state.queues
    bench.check()


def test_a_job_that_was_leased_at_a_restart_is_known_by_what_it_was() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "mine", payload=bytes(100_000))
    fence = worker.job()[1]
    bench.crash()
    producer.connect()
    worker.connect([m.Held(fence, [b"mine"], [])])
    assert worker.ack(fence, "mine") == []
    assert producer.refused(sent("q", "mine")).code == "duplicate_id"
    producer.send(sent("q", "mine", bytes(100_000), number=101))
    assert producer.answer(101) == m.Ok([101]) and bench.counts("q") == {}


def test_an_id_that_a_client_made_costs_no_digest_and_names_its_queue() -> None:
    bench = Bench()
    producer, worker = over(bench, "done", MADE + "a")
    (value,) = (value for _, value in bench.store.scan("history", b"", b"\xff"))
    assert worker.number and b"digest" not in value and not bench.core.state.deliveries
    assert producer.refused(sent("other", MADE + "a")).code == "duplicate_id"
    producer.send(sent("q", MADE + "a", number=101))
    assert producer.answer(101) == m.Ok([101]) and bench.counts("q") == {}


# ---- one moment


@pytest.mark.parametrize("restarted", [False, True])
def test_jobs_of_one_moment_become_ready_in_the_order_in_which_they_came(restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    came = ["z", "b", "y", "a", "x"]
    for identifier in came:
        producer.put("q", identifier, at=WALL + 5_000)
    if restarted:
        bench.crash()
        producer.connect()
        producer.put("q", "c", at=WALL + 5_000)
        came.append("c")
    worker = bench.worker("w", "q", capacity=10)
    bench.advance(5_000)
    assert worker.ids() == came
    bench.check()


# ---- more than a queue may ever hold


def test_a_batch_that_never_fits_is_refused_for_good_and_one_that_may_is_told_when_to_try_again() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.order("set", queue="q", options={"max_jobs": 3})
    ids = [b"a", b"b", b"c", b"d"]
    refused = producer.refused(m.Put(100, 100, [m.Group("q", {}, ids, [b"p"] * 4)]))
    assert refused.code == "queue_full" and refused.details == {"max_jobs": 3}
    assert "4 jobs at once" in refused.text
    producer.number = 100
    producer.put("q", "a", "b")
    refused = producer.refused(m.Put(102, 102, [m.Group("q", {}, ids[2:], [b"p"] * 2)]))
    assert refused.code == "queue_full" and refused.details["retry_after_ms"] > 0
    producer.number = 102
    producer.order("set", queue="r", options={"max_bytes": 50})
    refused = producer.refused(m.Put(110, 110, [m.Group("r", {}, [b"e"], [bytes(60)])]))
    assert refused.code == "queue_full" and refused.details == {"max_bytes": 50}
    bench.check()
