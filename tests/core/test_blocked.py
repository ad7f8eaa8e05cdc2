"""Blocked jobs beside everything else: delays, lanes, keys, limits, unique texts, and what people are told of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.families import edges, group, parents, refused, run_all, send, state_of, states
from tests.core.harness import WALL, Bench, Peer
from tests.core.unique_texts import instead, restart
from zbroker import limits
from zbroker.calendar import Calendar
from zclient.protocol import limits as wire
from zclient.protocol import messages as m

# ---- times


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("options", [{"delay": 10_000}, {"at": WALL + 10_000}])
def test_a_delay_that_is_not_over_is_waited_for_afterwards(options: dict[str, Any], restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a")
    producer.put("q", "b", after=[b"a"], **options)
    worker = bench.worker("w", "q")
    bench.advance(4_000)
    run_all(worker)
    bench.check()
    assert state_of(producer, "b") == "scheduled"
    assert producer.ask("why", id=b"b")["reasons"][0]["wait_ms"] == 6_000
    if restarted:
        restart(bench, producer, worker)
    bench.advance(5_999)
    assert state_of(producer, "b") == "scheduled"
    bench.advance(1)
    assert run_all(worker) == ["b"]
    assert edges(bench) == []
    bench.check()


def test_a_delay_that_is_over_is_not_waited_for() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a")
    producer.put("q", "b", after=[b"a"], delay=1_000)
    bench.advance(2_000)
    assert state_of(producer, "b") == "blocked"
    bench.check()
    worker = bench.worker("w", "q")
    assert run_all(worker) == ["a", "b"]


def test_a_delay_with_parents_that_are_done_before() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    run_all(worker)
    producer.put("q", "b", "c", after=[b"a"], delay=1_000)
    assert states(producer, "b c") == ["scheduled", "scheduled"]
    bench.check()
    bench.advance(1_000)
    assert run_all(worker) == ["b", "c"]
    assert edges(bench) == []


def test_the_time_to_begin_counts_from_the_delay() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "a")
    producer.put("q", "b", after=[b"a"], delay=5_000, ttl=1_000)
    bench.advance(5_999)
    assert state_of(producer, "b") == "blocked"
    bench.advance(1)
    assert state_of(producer, "b") == "dead"
    bench.check()


# ---- lanes, keys, unique texts


@pytest.mark.parametrize("restarted", [False, True])
def test_a_child_comes_behind_what_is_ready_when_it_is_released(restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    send(producer, group("p", "a"), group("q", "child", after="a"), group("q", "urgent", after="a", priority=5))
    producer.put("q", "b")
    run_all(bench.worker("w", "p"))
    producer.put("q", "c")
    if restarted:
        restart(bench, producer)
    bench.check()
    assert run_all(bench.worker("v", "q")) == ["urgent", "b", "child", "c"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_blocked_job_does_not_hold_its_key(restarted: bool) -> None:
    bench = Bench(policy={"key_limit": 1})
    producer = bench.producer()
    send(producer, group("p", "a"), group("q", "child", after="a", key="k"), group("q", "b", key="k"))
    if restarted:
        restart(bench, producer)
    worker = bench.worker("w", "q", capacity=4)
    ((identifier, fence),) = worker.jobs()
    assert identifier == "b"
    run_all(bench.worker("v", "p"))
    assert worker.jobs() == []
    bench.check()
    worker.ack(fence, "b")
    assert run_all(worker) == ["child"]
    assert edges(bench) == []
    bench.check()


def test_a_blocked_job_has_its_unique_text() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    producer.put("other", "b", after=[b"a"], unique="u")
    assert instead(producer.put("other", "c", unique="u")) == {"c": "b"}
    producer.put("other", "d", after=[b"a"], unique="u", on_conflict="replace")
    assert states(producer, "b d") == ["cancelled", "blocked"]
    assert edges(bench) == ["a>d"]
    bench.check()
    run_all(worker)
    assert run_all(bench.worker("v", "other")) == ["d"]
    assert edges(bench) == []
    bench.check()


def test_blocked_jobs_count_for_the_limits_of_their_queue() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "p")
    producer.order("set", queue="q", options={"max_jobs": 2, "max_bytes": 100_000})
    producer.put("p", "a")
    producer.put("q", "b", after=[b"a"], payload=b"x" * 70_000)
    bench.check()
    assert refused(producer, group("q", "c", payload=b"x" * 70_000))[0] == "queue_full"
    producer.put("q", "c", after=[b"a"])
    assert refused(producer, group("q", "d", after="a"))[0] == "queue_full"
    row = producer.ask("queue", queue="q")
    assert row["blocked"] == 2 and row["waiting_bytes"] > 70_000
    size = row["waiting_bytes"]
    run_all(worker)
    row = producer.ask("queue", queue="q")
    assert (row["blocked"], row["ready"], row["waiting_bytes"]) == (0, 2, size)
    bench.check()
    assert sorted(run_all(bench.worker("v", "q"))) == ["b", "c"]
    assert producer.ask("queue", queue="q")["waiting_bytes"] == 0


def test_jobs_that_a_handler_sends_with_its_ack_may_wait_for_it() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    settlement = m.Settlement(fence, m.Outcome.ACK, [b"a"], [b"result"])
    sent = m.Sent(fence, b"a", [group("other", "c", after="b a"), group("other", "b", after="a")])
    worker.send(m.Settle(worker.next_number(), [settlement], [sent]))
    bench.check()
    assert states(producer, "a b c") == ["done", "ready", "blocked"]
    assert parents(producer, "b") == {"a": ("done", b"result")}
    assert run_all(bench.worker("v", "other")) == ["b", "c"]
    assert edges(bench) == []


# ---- results


def test_the_parents_of_a_job_come_in_pages() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=9)
    names = [f"p{number}" for number in range(9)]
    producer.put("q", *names)
    producer.put("other", "child", after=[name.encode() for name in reversed(names)])
    for name, fence in worker.jobs():
        worker.ack(fence, name, results=[name.encode() * 50_000])
    bench.check()
    start, found, pages = 0, [], 0
    while start is not None:
        answer = producer.ask("parents", id=b"child", start=start)
        assert sum(len(row["result"]) for row in answer["parents"]) < wire.MESSAGE_BYTES + 100_000
        found += [(row["id"].decode(), row["state"], row["result"][:2].decode()) for row in answer["parents"]]
        start, pages = answer["next"], pages + 1
    assert found == [(name, "done", name) for name in reversed(names)]
    assert pages == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"id": b"nobody"}, "not_found"),
        ({"id": b"b", "start": -1}, "invalid"),
        ({"id": b"b", "start": True}, "invalid"),
    ],
)
def test_questions_for_parents_that_are_refused(arguments: dict[str, Any], code: str) -> None:
    bench = Bench()
    producer = bench.producer()
    send(producer, group("q", "a"), group("q", "b", after="a"))
    assert producer.refused(m.Ask(producer.next_number(), "parents", arguments)).code == code
    assert producer.ask("parents", id=b"a") == {"parents": [], "next": None}
    assert producer.ask("parents", id=b"b", start=7) == {"parents": [], "next": None}


def test_results_stay_as_long_as_a_child_needs_them_and_no_longer() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.order("set", queue="q", options={"keep_done": 0})
    producer.put("q", "a")
    producer.put("x", "b", after=[b"a"])
    producer.put("y", "c", after=[b"a"])
    worker.ack(worker.job()[1], "a", results=[b"kept"])
    assert state_of(producer, "a") == "gone"
    run_all(bench.worker("v", "x"))
    assert edges(bench) == ["a>", "a>c"]
    restart(bench, producer)
    assert parents(producer, "c") == {"a": ("done", b"kept")}
    run_all(bench.worker("u", "y"))
    assert edges(bench) == []
    bench.check()


def test_an_empty_result_is_none() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    producer.put("other", "b", after=[b"a"])
    worker.ack(worker.job()[1], "a", results=[b""])
    assert parents(producer, "b") == {"a": ("done", None)}


# ---- what people see


def test_why_a_job_is_blocked() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", "b")
    producer.put("other", "c", after=[b"a", b"b"])
    (reason,) = producer.ask("why", id=b"c")["reasons"]
    assert reason == {
        "code": "parents",
        "text": "it waits for 2 of 2 jobs: a (leased), b (ready)",
        "pending": 2,
        "waits_for": ["a", "b"],
    }
    worker.ack(worker.job()[1], "a")
    (reason,) = producer.ask("why", id=b"c")["reasons"]
    assert reason["text"] == "it waits for 1 of 2 jobs: b (leased)"


def test_why_names_some_of_many_parents() -> None:
    bench = Bench()
    producer = bench.producer()
    names = [f"{number:03}" for number in range(30)]
    producer.put("q", *names)
    producer.put("q", "c", after=[name.encode() for name in names])
    (reason,) = producer.ask("why", id=b"c")["reasons"]
    assert reason["text"].endswith(f"009 (ready) and {30 - limits.WHY_NAMED} more")
    assert (reason["pending"], reason["waits_for"]) == (30, names[: limits.WHY_NAMED])


def listed(producer: Peer, **arguments: Any) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = producer.ask("list", cursor=cursor, **arguments)
        assert len(page["jobs"]) <= arguments["limit"]
        found += [row["id"].decode() for row in page["jobs"]]
        cursor = page["cursor"]
        if cursor is None:
            return found


def test_blocked_jobs_are_listed_once_each_in_pages() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    parent_ids = [f"p{number}" for number in range(5)]
    producer.put("q", *parent_ids)
    children = [f"c{number:03}" for number in range(150)]
    for number, child in enumerate(children):
        chosen = [f"p{(number + n) % 5}".encode() for n in range(1 + number % 3)]
        producer.put("r" if number % 2 else "s", child, after=chosen)
    producer.put("r", "expired", after=[b"p4"], ttl=1_000)
    bench.advance(1_000)
    for limit in (1, 7, 1_000):
        assert sorted(listed(producer, state="blocked", limit=limit)) == children
        assert sorted(listed(producer, state="blocked", queue="r", limit=limit)) == children[1::2]
    everything = listed(producer, limit=7)
    assert sorted(everything) == sorted([*parent_ids, *children, "expired"])
    worker.ack(worker.job()[1], "p0")
    blocked = listed(producer, state="blocked", limit=7)
    assert sorted(blocked) == [child for child in children if state_of(producer, child) == "blocked"]
    assert 0 < len(blocked) < 150
    bench.check()


def test_a_listing_of_jobs_with_many_parents_runs_in_slices() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=500)
    names = [f"{number:04}" for number in range(1_000)]
    producer.put("q", *names)
    producer.put("other", *"abcdefgh", after=[name.encode() for name in names])
    for identifier, fence in worker.jobs():
        worker.ack(fence, identifier)
    assert len(worker.jobs()) == 500
    turns = bench.turns
    assert sorted(listed(producer, state="blocked", limit=100)) == [*"abcdefgh"]
    looked = 8 * 500 * 500 / 16
    assert bench.turns - turns > looked / limits.STEP_ROWS / limits.TURN_STEPS
    bench.check()


def test_a_watcher_is_told_when_a_child_is_released() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    producer.put("other", "b", after=[b"a"])
    producer.send(m.Watch([b"b"], True))
    assert [row["state"] for row in producer.one(m.Changed).jobs] == ["blocked"]
    run_all(worker)
    assert [row["state"] for row in producer.one(m.Changed).jobs] == ["ready"]


def test_a_schedule_has_no_parents() -> None:
    bench = Bench(calendar=Calendar())
    producer = bench.producer()
    producer.put("q", "a")
    arguments = {"name": "s", "queue": "q", "every": 60_000, "payload": b"p", "options": {"after": [b"a"]}}
    refusal = producer.refused(m.Order(9, 9, "set_schedule", arguments))
    assert refusal.code == "invalid" and "after" in refusal.text
