"""Jobs come in: once under each number, once under each id, whole or not at all, within the limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer, payloads
from zbroker.core.states import State
from zclient.protocol import limits
from zclient.protocol import messages as m


def group(queue: str = "q", *ids: bytes, payload: bytes = b"p", **options: Any) -> m.Group:
    ids = ids or (b"a",)
    return m.Group(queue, options, list(ids), [payload] * len(ids))


def put(*groups: m.Group, number: int = 1, low: int = 1) -> m.Put:
    return m.Put(number, low, list(groups))


# ---- numbers


def test_a_number_is_applied_once() -> None:
    bench = Bench()
    producer = bench.producer()
    for _ in range(3):
        assert producer.put("q", "a", number=1) == m.Ok([1])
    assert bench.counts("q") == {"ready": 1}
    bench.check()


def test_a_number_is_applied_once_over_a_restart_even_with_other_jobs_in_it() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", number=1)
    bench.crash()
    producer.resend_below = 2
    producer.connect()
    assert producer.put("q", "b", number=1) == m.Ok([1])
    assert bench.counts("q") == {"ready": 1}


@pytest.mark.parametrize("ends", ["before commit", "before send"])
def test_a_batch_whose_commit_or_answer_was_lost_is_applied_once(ends: str) -> None:
    bench = Bench()
    producer = bench.producer()
    message = put(group("q", b"a", b"b"))
    bench.turn([(producer.route, message)], ends=ends)
    bench.crash()
    assert ("q" in bench.core.state.queues) == (ends == "before send")
    producer.connect()
    producer.send(message)
    assert producer.answer(1) == m.Ok([1])
    assert bench.counts("q") == {"ready": 2}
    assert bench.core.state.queues["q"].counts.totals["put"] == 2
    bench.check()


def test_a_refused_number_is_judged_afresh() -> None:
    bench = Bench()
    producer = bench.producer()
    bench.core.set_disk_low(True)
    assert producer.refused(put(group())).code == "disk_full"
    bench.core.set_disk_low(False)
    producer.send(put(group()))
    assert producer.answer(1) == m.Ok([1])


def test_numbers_below_low_are_forgotten() -> None:
    bench = Bench()
    producer = bench.producer()
    for number in (1, 2, 3):
        producer.put("q", f"job{number}", number=number, low=1)
    producer.put("q", "job4", number=4, low=4)
    state = bench.core.state
    (peer,) = state.peers.values()
    assert peer.producer is not None and peer.producer.applied == {4}
    # Nobody who keeps to the protocol sends one of them again: it is not applied a second time.
    assert producer.refused(put(group("q", b"another"), number=3)).code == "outcome_unknown"
    assert bench.counts("q") == {"ready": 4}


def test_the_number_that_low_names_is_remembered() -> None:
    bench = Bench()
    producer = bench.producer()
    for number, low in ((1, 1), (2, 1), (3, 2)):
        producer.put("q", f"job{number}", number=number, low=low)
    assert producer.put("q", "another", number=2, low=2) == m.Ok([2]), "answered as the first time"
    assert bench.counts("q") == {"ready": 3}
    bench.check()


def test_what_was_sent_to_a_broker_that_remembers_nothing_has_an_unknown_outcome() -> None:
    bench = Bench()
    producer = Peer(bench, "producer", (), 0)
    producer.resend_below = 5
    producer.connect()
    assert producer.refused(put(group(), number=4)).code == "outcome_unknown"
    assert producer.put("q", "a", number=5) == m.Ok([5])


def test_too_many_unanswered_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_OPEN_BATCHES", 3)
    bench = Bench()
    producer = bench.producer()
    for number in (1, 2, 3):
        producer.put("q", f"job{number}", number=number, low=1)
    assert producer.refused(put(group("q", b"b"), number=4, low=1)).code == "invalid"
    assert producer.put("q", "b", number=4, low=2) == m.Ok([4])


def test_numbers_outlive_a_day_after_the_last_contact_and_no_longer() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", number=1)
    bench.advance(20 * 3_600_000)  # nothing is sent, but it is there
    producer.cut()
    bench.advance(23 * 3_600_000)
    producer.resend_below = 2
    producer.connect()
    assert producer.put("q", "a", number=1) == m.Ok([1])
    producer.cut()
    bench.advance(26 * 3_600_000)
    producer.connect()
    assert producer.refused(put(group())).code == "outcome_unknown"


def test_goodbye_forgets_the_numbers() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", number=1)
    assert list(bench.store.scan("producers", b"", b"\xff" * 17))
    producer.send(m.Goodbye())
    assert not list(bench.store.scan("producers", b"", b"\xff" * 17))
    assert not bench.core.state.peers


# ---- ids


def test_the_same_job_under_another_number_is_one_job() -> None:
    bench = Bench()
    producer = bench.producer()
    options = {"priority": 3, "headers": {"a": 1}}
    assert producer.put("q", "a", "b", **options) == m.Ok([1])
    assert producer.put("q", "b", "c", **options) == m.Ok([2])
    assert bench.counts("q") == {"ready": 3}
    bench.check()


@pytest.mark.parametrize(
    "other",
    [group("r", b"b"), group("q", b"b", payload=b"x"), group("q", b"b", priority=1), group("q", b"b", key="k")],
)
def test_another_job_under_the_same_id_refuses_the_whole_batch(other: m.Group) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "b")
    failure = producer.refused(put(group("q", b"a", b"c"), other, number=9))
    assert failure.code == "duplicate_id" and failure.details["id"] == "b"
    assert bench.counts("q") == {"ready": 1}
    bench.check()


def test_a_job_that_waits_for_a_time_is_the_same_with_another_delay() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a", delay=1000)
    assert producer.put("q", "a", delay=2000) == m.Ok([2])
    assert bench.counts("q") == {"scheduled": 1}


def test_a_finished_job_that_the_history_holds_is_the_same_job() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    worker.ack(worker.job()[1], "a")
    producer.put("q", "a")
    assert worker.jobs() == [] and bench.counts("q") == {}


def test_an_id_that_nobody_remembers_is_free_again() -> None:
    bench = Bench(keep_done_count=0)
    producer, worker = bench.producer(), bench.worker("w", "q")
    for _ in range(3):
        producer.put("q", "a")
        worker.ack(worker.job()[1], "a")
    bench.check()


def test_an_id_used_again_is_not_taken_for_what_its_first_owner_left_behind() -> None:
    """A cancelled job leaves its ready entry; the same sequence in another queue is another place."""
    bench = Bench(keep_done_count=0)
    producer = bench.producer()
    producer.put("q", "a", "b")
    producer.order("cancel", id=b"a")
    producer.put("r", "a")
    worker = bench.worker("w", "q", capacity=10)
    assert worker.ids() == ["b"]
    bench.check()
    other = bench.worker("v", "r", capacity=10)
    assert other.ids() == ["a"]
    bench.check()


def test_an_id_used_again_in_its_own_queue_has_its_new_place() -> None:
    bench = Bench(keep_done_count=0)
    producer = bench.producer()
    producer.put("q", "a", "b")
    producer.order("cancel", id=b"a")
    producer.put("q", "c", "a")
    worker = bench.worker("w", "q", capacity=10)
    assert worker.ids() == ["b", "c", "a"]
    bench.check()


def test_an_id_used_again_is_not_taken_for_a_neighbour_that_runs_on() -> None:
    """The row of a delivery names all its jobs until the last is settled; one of the ids may be a new job by then."""
    bench = Bench(keep_done_count=0)
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b")
    ((_, fence), _) = worker.jobs()
    worker.send(m.Capacity(0))
    worker.ack(fence, "a")
    producer.put("q", "a")
    bench.crash()
    bench.check()
    assert bench.counts("q") == {"ready": 1, "leased": 1}
    worker.connect([m.Held(fence, [b"b"], [])])
    assert worker.ack(fence, "b") == []
    bench.check()


def test_the_time_of_a_cancelled_job_is_not_taken_from_its_neighbours() -> None:
    bench = Bench(keep_done_count=0)
    producer = bench.producer()
    producer.put("q", "a", "b", "c", at=bench.wall + 5000)
    producer.order("cancel", id=b"a")
    producer.put("q", "a", at=bench.wall + 5000)
    bench.advance(5000)
    assert bench.counts("q") == {"ready": 3}
    bench.check()


# ---- judged as a whole

LONG = "x" * 300


@pytest.mark.parametrize(
    ("groups", "code"),
    [
        ([group("")], "invalid"),
        ([group("no spaces")], "invalid"),
        ([group("mmi.service")], "invalid"),
        ([group("q" * 129)], "invalid"),
        ([group("q", b"a\n")], "invalid"),
        ([group("q", b"\xff\xfe")], "invalid"),
        ([group("q", b"a", b"a")], "invalid"),
        ([group("q", b"a"), group("r", b"a")], "invalid"),
        ([group(priority=101)], "invalid"),
        ([group(priority=True)], "invalid"),
        ([group(priority=1.0)], "invalid"),
        ([group(key=LONG)], "invalid"),
        ([group(key="a\0b")], "invalid"),
        ([group(key=b"bytes")], "invalid"),
        ([group(delay=-1)], "invalid"),
        ([group(delay=limits.MAX_DELAY_MS + 1)], "invalid"),
        ([group(at=1 << 52)], "invalid"),
        ([group(delay=1, at=1)], "invalid"),
        ([group(max_attempts=0)], "invalid"),
        ([group(headers=[])], "invalid"),
        ([group(headers={"a": None})], "invalid"),
        ([group(headers={1: "a"})], "invalid"),
        ([group(headers={str(n): "x" * 100 for n in range(100)})], "too_large"),
        ([group(colour="red")], "invalid"),
        ([group(payload=bytes(limits.MAX_PAYLOAD_BYTES + 1))], "too_large"),
        ([group("q", *(b"%d" % n for n in range(20)), payload=bytes(limits.MAX_PAYLOAD_BYTES))], "batch_too_large"),
        ([group("q", *(b"%d" % n for n in range(limits.MAX_BATCH_JOBS + 1)))], "batch_too_large"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(groups: list[m.Group], code: str) -> None:
    bench = Bench()
    producer = bench.producer()
    assert producer.refused(put(group("fine", b"fine"), *groups)).code == code
    assert not list(bench.store.scan("jobs", b"", b"\xff" * 65))
    bench.check()


def test_what_is_just_within_the_limits_is_taken() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=1000)
    options = {"priority": 100, "key": "k" * 256, "max_attempts": 10_000, "headers": {"s": "x" * 8000, "b": True}}
    largest = bytes(limits.MAX_PAYLOAD_BYTES)
    assert producer.put("q", *(f"{n}" for n in range(16)), payload=largest, **options) == m.Ok([1])
    assert producer.put("q", *(f"small{n}" for n in range(1000)), priority=-100) == m.Ok([2])
    deliveries = worker.take(m.Deliver)
    assert payloads(deliveries[0])[0] == largest
    assert sum(len(delivery.ids) for delivery in deliveries) == 1000
    bench.check()


def test_large_and_small_payloads_of_one_group_keep_their_order() -> None:
    bench = Bench()
    producer = bench.producer()
    sizes = [1, limits.LARGE_BYTES, 2, limits.LARGE_BYTES + 1, limits.LARGE_BYTES + 2, 3]
    ids = [b"%d" % n for n in range(6)]
    producer.send(put(m.Group("q", {}, ids, [bytes(size) for size in sizes])))
    bench.crash()
    worker = bench.worker("w", "q", capacity=10)
    came = worker.take(m.Deliver)
    assert [identifier for delivery in came for identifier in delivery.ids] == ids
    assert [len(payload) for delivery in came for payload in payloads(delivery)] == sizes
    for delivery in came:
        worker.ack(delivery.fence, *(identifier.decode() for identifier in delivery.ids))
    assert not list(bench.store.scan("payloads", b"", b"\xff" * 65))
    bench.check()


def test_a_low_disk_refuses_jobs_and_takes_settlements() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    bench.core.set_disk_low(True)
    failure = producer.refused(put(group("q", b"b"), number=7))
    assert failure.code == "disk_full" and failure.details["retry_after_ms"] > 0
    assert worker.ack(worker.job()[1], "a") == []
    bench.core.set_disk_low(False)
    bench.turn()
    assert [facts["refusing_jobs"] for facts in bench.told("disk low") + bench.told("disk has room")] == [True, False]


def test_a_record_stays_in_memory_until_it_is_delivered_within_its_budget() -> None:
    bench = Bench(fresh_bytes=1000)
    producer = bench.producer()
    for n in range(100):
        producer.put("q", f"{n}", payload=bytes(100))
    assert 0 < bench.core.state.fresh_bytes < 1300
    worker = bench.worker("w", "q", capacity=1000)
    assert worker.ids() == [str(n) for n in range(100)]
    assert bench.core.state.fresh_bytes == 0
    assert bench.count("q", State.LEASED) == 100
    bench.check()
