"""Batches: counters over every way out of a job, callbacks, who may add to one, and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.counted import (
    BATCH,
    A,
    B,
    callback,
    closed,
    counters,
    opened,
    put_code,
    question,
    refusal,
    rows_of,
    take,
)
from tests.core.families import run_all, state_of
from tests.core.harness import WALL, Bench, Peer
from zbroker import limits
from zclient.protocol import messages as m


def start(**policy: Any) -> tuple[Bench, Peer, Peer]:
    bench = Bench(policy={"backoff_jitter": 0.0, **policy})
    return bench, bench.producer(), bench.worker("w", "q", capacity=100)


def test_a_batch_counts_its_jobs_until_all_are_over() -> None:
    bench, producer, worker = start(max_attempts=1)
    told = opened(producer, name="import")
    assert told["state"] == "open" and told["created"] == WALL and told["name"] == "import"
    producer.put("q", "1", "2", "3", "4", **BATCH)
    assert counters(producer) == ("open", 4, 0, 0, 0)
    held = take(worker)
    worker.ack(held["1"], "1", "2")
    worker.nack(held["3"], "3")
    producer.order("cancel", id=b"4")
    worker.nack(held["4"], "4")
    assert counters(producer) == ("open", 4, 2, 1, 1)
    assert closed(producer)["state"] == "cancelled"
    bench.check()
    assert producer.ask("batch", id=A.encode())["over"] == WALL


def test_jobs_without_a_batch_have_no_part_in_it() -> None:
    bench, producer, worker = start()
    opened(producer)
    producer.put("q", "1", key="k")
    run_all(worker)
    assert counters(producer) == ("open", 0, 0, 0, 0)
    bench.check()


def test_an_empty_batch_is_done_when_it_is_closed() -> None:
    bench, producer, _ = start()
    opened(producer, on_done=callback(), on_settled=callback("settled"), on_death=callback("death"))
    told = closed(producer)
    assert (told["state"], told["fired"]) == ("done", ["on_done", "on_settled"])
    assert run_all(bench.worker("v", "after", "settled", "death")) == [f"{A}.done", f"{A}.settled"]
    bench.check()


def test_callbacks_come_once_each_and_in_the_commit_of_the_transition() -> None:
    bench, producer, worker = start(max_attempts=1)
    options = {"priority": 3, "headers": {"trace": "t"}}
    opened(
        producer, on_done=callback("d", b"D", **options), on_settled=callback("s", b"S"), on_death=callback("x", b"X")
    )
    producer.put("q", "1", "2", **BATCH)
    closed(producer)
    fence = take(worker)["1"]
    before = bench.turns
    worker.nack(fence, "1")
    assert state_of(producer, f"{A}.death") == "ready" and bench.turns == before + 2  # its own, and the question's
    worker.ack(fence, "2")
    assert [state_of(producer, f"{A}.{one}") for one in ("settled", "done")] == ["ready", "gone"]
    assert counters(producer) == ("dead", 2, 1, 1, 0)
    producer.order("replay", ids=[b"1"])
    assert counters(producer) == ("running", 2, 1, 0, 0)
    worker.nack(take(worker)["1"], "1")
    producer.order("replay", ids=[b"1"])
    worker.ack(take(worker)["1"], "1")
    assert counters(producer) == ("done", 2, 2, 0, 0)
    shown = producer.ask("show", id=f"{A}.done".encode())
    assert (shown["queue"], shown["payload"], shown["priority"]) == ("d", b"D", 3)
    assert shown["headers"] == {"trace": "t", "batch": A}
    assert sorted(run_all(bench.worker("v", "d", "s", "x"))) == [f"{A}.death", f"{A}.done", f"{A}.settled"]
    bench.crash()
    producer.connect()
    assert bench.count("d", "ready") == bench.count("s", "ready") == bench.count("x", "ready") == 0  # type: ignore[arg-type]
    bench.check()


def test_callbacks_wait_for_no_room_and_for_no_open_queue() -> None:
    bench, producer, worker = start()
    opened(producer, on_done=callback("full"), on_settled=callback("drained"))
    producer.order("set", queue="full", options={"max_jobs": 1})
    producer.put("full", "there")
    producer.order("drain", queue="drained")
    producer.put("q", "1", **BATCH)
    closed(producer)
    run_all(worker)
    assert bench.counts("full") == {"ready": 2} and bench.counts("drained") == {"ready": 1}
    bench.check()


def test_a_job_that_died_and_was_replayed_in_one_turn_has_died() -> None:
    bench, producer, worker = start()
    opened(producer, on_death=callback())
    producer.put("q", "1", **BATCH)
    fence = take(worker)["1"]
    with bench.one_turn():
        worker.send(m.Settle(worker.next_number(), [m.Settlement(fence, m.Outcome.REJECT, [b"1"], [{}])]))
        producer.send(m.Order(producer.next_number(), producer.number, "replay", {"ids": [b"1"]}))
    assert counters(producer) == ("open", 1, 0, 0, 0)
    assert run_all(bench.worker("v", "after")) == [f"{A}.death"]
    bench.check()


def test_a_job_after_a_batch_that_goes_on_again_in_the_same_turn_waits_for_it() -> None:
    bench, producer, worker = start(max_attempts=1)
    opened(producer)
    producer.put("q", "1", **BATCH)
    closed(producer)
    worker.nack(take(worker)["1"], "1")
    assert counters(producer)[0] == "dead"
    with bench.one_turn():
        producer.send(m.Order(producer.next_number(), producer.number, "replay", {"ids": [b"1"]}))
        child = m.Group("q", {"after": [A.encode()]}, [b"child"], [b"p"])
        producer.send(m.Put(producer.next_number(), producer.number, [child]))
    assert state_of(producer, "child") == "blocked"
    assert run_all(worker) == ["1", "child"]
    bench.check()


@pytest.mark.parametrize("added", ["sent", "together", "with the ack"])
def test_a_circle_through_a_batch_is_refused(added: str) -> None:
    """A job of the batch that waits for one which waits for the batch, however far away it is."""
    bench, producer, worker = start()
    opened(producer)
    if added == "together":
        between = m.Group("q", {"after": [A.encode()]}, [b"between"], [b"p"])
        last = m.Group("q", {"after": [b"between"], **BATCH}, [b"last"], [b"p"])
        number = producer.next_number()
        failure = producer.refused(m.Put(number, number, [last, between]))
        assert (failure.code, A in failure.text) == ("invalid", True)
        assert rows_of(bench, "jobs") == rows_of(bench, "edges") == []
        return
    producer.put("q", "first", **BATCH)
    held = take(worker)["first"]
    producer.put("q", "far", after=[A.encode()])
    producer.put("q", "near", after=[b"far", b"first"])
    last = m.Group("q", {"after": [b"near"], **BATCH}, [b"last"], [b"p"])
    if added == "sent":
        assert put_code(producer, "q", "last", after=[b"near"], **BATCH) == "invalid"
    else:
        number = worker.next_number()
        settlement = m.Settlement(held, m.Outcome.ACK, [b"first"], None)
        worker.send(m.Settle(number, [settlement], [m.Sent(held, b"first", [last])]))
        ((_, _, unsent, why),) = worker.value_of(number)["refused"]
        assert unsent == "unsent" and "others that wait for this batch" in why
    producer.put("q", "fine", after=[b"first"], **BATCH)
    worker.ack(held, "first")
    closed(producer)
    assert run_all(worker) == ["fine", "far", "near"]
    bench.check()


# ---- every way out of a job


def test_what_brings_nobody_back_counts_as_cancelled() -> None:
    bench, producer, worker = start(max_attempts=1)
    worker.send(m.Capacity(0))
    opened(producer)
    producer.put("q", "purged", "again", **BATCH)
    producer.order("purge", queue="q")
    assert counters(producer) == ("open", 2, 0, 0, 2)
    producer.put("q", "again", **BATCH)
    producer.put("q", "replaced", unique="u", **BATCH)
    producer.put("q", "replacing", unique="u", on_conflict="replace", **BATCH)
    assert counters(producer) == ("open", 5, 0, 0, 3)
    producer.order("set", queue="q", options={"on_expiry": "drop"})
    producer.put("q", "expired", ttl=1_000, **BATCH)
    bench.advance(1_000)
    assert counters(producer) == ("open", 6, 0, 0, 4)
    worker.send(m.Capacity(100))
    held = take(worker)
    worker.reject(held["replacing"], "replacing")
    worker.ack(held["again"], "again")
    assert counters(producer) == ("open", 6, 1, 1, 4)
    producer.order("drop", ids=[b"replacing"])
    assert counters(producer) == ("open", 6, 1, 0, 5)
    assert closed(producer)["state"] == "cancelled"
    bench.check()


def test_a_job_that_is_not_stored_is_not_counted() -> None:
    bench, producer, worker = start()
    opened(producer)
    producer.put("q", "1", unique="u", **BATCH)
    producer.put("q", "2", "3", unique="u", **BATCH)
    producer.put("q", "1", unique="u", **BATCH)
    assert counters(producer) == ("open", 1, 0, 0, 0)
    run_all(worker)
    producer.put("q", "1", unique="u", **BATCH)  # history still knows it
    assert counters(producer) == ("open", 1, 1, 0, 0)
    bench.check()


def test_an_expired_job_is_dead_and_a_lost_one_too() -> None:
    bench, producer, worker = start(delivery="at_most_once")
    opened(producer)
    producer.put("q", "lost", **BATCH)
    producer.put("other", "expired", ttl=1_000, **BATCH)
    bench.advance(1_000)
    assert counters(producer) == ("open", 2, 0, 1, 0)
    fence = take(worker)["lost"]
    worker.release(fence, "lost")
    assert counters(producer) == ("open", 2, 0, 2, 0)
    bench.check()


@pytest.mark.parametrize("end", ["ack", "reject"])
def test_a_dead_job_that_moves_counts_by_its_end_there(end: str) -> None:
    bench, producer, worker = start(max_attempts=1)
    producer.order("set", queue="q", options={"dead_to": "graves"})
    opened(producer, on_death=callback(), keep_results=True)
    producer.put("q", "1", **BATCH)
    closed(producer)
    worker.reject(take(worker)["1"], "1")
    assert counters(producer) == ("running", 1, 0, 0, 0)
    other = bench.worker("v", "graves")
    bench.check()
    getattr(other, end)(take(other)["1"], "1")
    ended = {"ack": ("done", 1, 1, 0, 0), "reject": ("dead", 1, 0, 1, 0)}[end]
    assert counters(producer) == ended
    assert state_of(producer, f"{A}.death") == ("ready" if end == "reject" else "gone")
    bench.check()


# ---- who may add


def test_who_may_add_jobs() -> None:
    bench, producer, worker = start()
    assert put_code(producer, "q", "1", **BATCH) == "unknown_batch"
    opened(producer)
    producer.put("q", "1", **BATCH)
    fence = take(worker)["1"]
    closed(producer)
    assert put_code(producer, "q", "2", **BATCH) == "batch_closed"
    producer.put("q", "1", **BATCH)  # it is there already
    opened(producer, B)
    producer.put("q", "other", batch=B.encode())
    held = take(worker)

    def sends(job: str, fence: int, child: str) -> m.Message:
        number = worker.next_number()
        settlement = m.Settlement(fence, m.Outcome.ACK, [job.encode()], None)
        group = m.Group("q", {"batch": A.encode()}, [child.encode()], [b"p"])
        worker.send(m.Settle(number, [settlement], [m.Sent(fence, job.encode(), [group])]))
        return worker.answer(number)

    refused = sends("other", held["other"], "x")
    assert isinstance(refused, m.Answer) and refused.value["refused"][0][2:] == (
        "unsent",
        f"batch_closed: the batch '{A}' is closed",
    )
    assert isinstance(sends("1", fence, "added"), m.Ok)
    assert counters(producer) == ("running", 2, 1, 0, 0)
    worker.ack(take(worker)["added"], "added")
    assert counters(producer) == ("done", 2, 2, 0, 0)
    bench.check()


def test_the_same_batch_again_is_the_same() -> None:
    bench, producer, _ = start()
    words: dict[str, Any] = {"name": "n", "keep_results": True, "on_done": callback(priority=1)}
    first = opened(producer, **words)
    bench.advance(5)
    assert opened(producer, **words) == first
    bench.crash()
    producer.connect()
    assert opened(producer, **words) == first
    for other in ({"name": "m"}, {"keep_results": False}, {"on_done": callback()}, {"on_death": callback()}):
        assert refusal(producer, "open_batch", id=A.encode(), **{**words, **other})[0] == "duplicate_id"
    closed(producer)
    assert opened(producer, **words)["state"] == "done"
    bench.check()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"id": b"short"}, "invalid"),
        ({"id": A.upper().encode()}, "invalid"),
        ({"id": "a" * 32}, "invalid"),
        ({"name": 7}, "invalid"),
        ({"name": "n" * 129}, "invalid"),
        ({"keep_results": 1}, "invalid"),
        ({"on_done": []}, "invalid"),
        ({"on_done": {"queue": "q"}}, "invalid"),
        ({"on_done": callback("no queue's name")}, "invalid"),
        ({"on_settled": callback(unknown=1)}, "invalid"),
        ({"on_settled": callback(after=[b"x"])}, "invalid"),
        ({"on_settled": callback(batch=b"x")}, "invalid"),
        ({"on_settled": callback(unique="x")}, "invalid"),
        ({"on_death": callback(payload=b"x" * 2_000_000)}, "too_large"),
        ({"on_death": callback(headers={"x": "y" * 8_150})}, "too_large"),
        ({"on_death": callback("closed")}, "closed"),
    ],
)
def test_what_cannot_be_a_batch(arguments: dict[str, Any], code: str) -> None:
    bench, producer, _ = start()
    producer.order("set", queue="closed", options={"lease": 1_000})
    producer.order("drain", queue="closed")
    assert refusal(producer, "open_batch", **{"id": A.encode(), **arguments})[0] == code
    assert rows_of(bench, "batches") == []


def test_an_id_that_a_job_has_is_no_batch() -> None:
    _, producer, worker = start()
    producer.put("q", A, B)
    assert refusal(producer, "open_batch", id=A.encode())[0] == "duplicate_id"
    run_all(worker)
    assert refusal(producer, "open_batch", id=A.encode())[0] == "duplicate_id"


def test_there_are_so_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BATCHES", 1)
    bench, producer, _ = start()
    opened(producer)
    bench.crash()
    producer.connect()
    assert refusal(producer, "open_batch", id=B.encode())[0] == "too_many_batches"
    opened(producer)


def test_nothing_is_opened_while_the_disk_is_low() -> None:
    bench, producer, _ = start()
    bench.core.set_disk_low(True)
    assert refusal(producer, "open_batch", id=A.encode())[0] == "disk_full"


def test_a_batch_that_nobody_opened() -> None:
    _, producer, _ = start()
    assert refusal(producer, "close_batch", id=A.encode())[0] == "not_found"
    assert refusal(producer, "close_batch", id=7)[0] == "invalid"
    assert question(producer, "batch", id=b"\xff")[0] == "not_found"
    assert question(producer, "results", id=A.encode())[0] == "not_found"


# ---- what is told


def test_results_are_told_in_pages_by_job() -> None:
    bench, producer, worker = start(max_attempts=1)
    opened(producer, keep_results=True)
    producer.put("q", "1", "2", "3", "4", **BATCH)
    held = take(worker)
    worker.ack(held["2"], "2", results=[b"x" * 300_000])
    worker.ack(held["1"], "1", "4", results=[b"one", None])
    worker.reject(held["3"], "3")
    bench.crash()
    producer.connect()
    worker.connect()
    assert producer.ask("results", id=A.encode()) == [(b"1", "done", b"one"), (b"2", "done", b"x" * 300_000)]
    assert producer.ask("results", id=A.encode(), after=b"2") == [(b"3", "dead", None), (b"4", "done", None)]
    assert producer.ask("results", id=A.encode(), after=b"4") == []
    producer.order("replay", ids=[b"3"])
    assert producer.ask("results", id=A.encode(), after=b"2") == [(b"4", "done", None)]
    worker.ack(take(worker)["3"], "3", results=[b"three"])
    assert producer.ask("results", id=A.encode(), after=b"2")[0] == (b"3", "done", b"three")
    assert question(producer, "results", id=A.encode(), after=7)[0] == "invalid"
    opened(producer, B)
    assert question(producer, "results", id=B.encode())[0] == "invalid"
    bench.check()


def test_the_end_is_told_to_those_who_watch() -> None:
    bench, producer, worker = start()
    opened(producer)
    producer.send(m.Watch([A.encode()]), m.Watch([B.encode()], changes=True))
    assert [end[:2] for message in producer.take(m.Finished) for end in message.ends] == [(B.encode(), "unknown")]
    producer.put("q", "1", **BATCH)
    closed(producer)
    assert producer.take(m.Finished) == []
    fence = take(worker)["1"]
    worker.reject(fence, "1")
    assert producer.one(m.Finished).ends == [(A.encode(), "dead", None, None)]
    producer.order("replay", ids=[b"1"])
    producer.send(m.Watch([A.encode()], changes=True))
    run_all(worker)
    assert producer.one(m.Finished).ends == [(A.encode(), "done", None, None)]
    producer.send(m.Watch([A.encode()]))
    assert producer.one(m.Finished).ends == [(A.encode(), "done", None, None)]
    bench.check()


def test_batches_are_listed_newest_first() -> None:
    bench, producer, worker = start()
    ids = [f"{n:032x}" for n in range(40)]
    for n, identifier in enumerate(ids):
        opened(producer, identifier, name=str(n), keep_results=True, on_done=callback())
        producer.put("q", f"{n}-1", f"{n}-2", batch=identifier.encode())
    run_all(worker)
    for identifier in ids[::2]:
        closed(producer, identifier)
    page = producer.ask("batches", limit=30)
    assert [row["name"] for row in page["batches"]] == [str(n) for n in range(39, 9, -1)]
    rest = producer.ask("batches", cursor=page["cursor"])
    assert [row["name"] for row in rest["batches"]] == [str(n) for n in range(9, -1, -1)]
    assert rest["cursor"] is None
    done = producer.ask("batches", state="done")["batches"]
    assert [row["name"] for row in done] == [str(n) for n in range(38, -1, -2)]
    assert producer.ask("batches", state="running") == {"batches": [], "cursor": None}
    assert question(producer, "batches", state="gone")[0] == "invalid"
    assert question(producer, "batches", cursor=["x"])[0] == "invalid"
