"""Questions: what they answer, page by page, in every state, while the jobs go on changing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zclient.protocol import messages as m

STATES = ["leased", "ready", "scheduled", "dead", "done", "cancelled"]


def pages(peer: Peer, limit: int, verb: str = "list", **arguments: Any) -> list[list[dict[str, Any]]]:
    """All pages of a listing."""
    found = []
    cursor = None
    while True:
        answer = peer.ask(verb, limit=limit, cursor=cursor, **arguments)
        found.append(answer["jobs"])
        cursor = answer["cursor"]
        if cursor is None:
            return found


def listed(peer: Peer, limit: int = 100, **arguments: Any) -> list[str]:
    """The ids of a whole listing; fails if one comes twice or a page is too long."""
    found = pages(peer, limit, **arguments)
    assert all(len(page) == limit for page in found[:-1]) and len(found[-1]) <= limit
    ids = [row["id"].decode() for page in found for row in page]
    assert len(set(ids)) == len(ids), ids
    return ids


def one_of_each(per_state: int = 3) -> tuple[Bench, Peer]:
    """Two queues with jobs in every state."""
    bench = Bench(policy={"max_attempts": 1})
    producer = bench.producer()
    for queue in ("q", "r"):
        for state in STATES:
            ids = [f"{queue}-{state}-{n}" for n in range(per_state)]
            if state in ("ready", "scheduled"):
                continue
            producer.put(queue, *ids)
            if state == "cancelled":
                for identifier in ids:
                    producer.order("cancel", id=identifier.encode())
                continue
            worker = bench.worker(f"{queue}-{state}", queue, capacity=per_state)
            fence = worker.one(m.Deliver).fence
            worker.send(m.Capacity(0))
            if state == "dead":
                worker.nack(fence, *ids, text="no")
            elif state == "done":
                worker.ack(fence, *ids)
        producer.put(queue, *(f"{queue}-scheduled-{n}" for n in range(per_state)), delay=5000)
        producer.put(queue, *(f"{queue}-ready-{n}" for n in range(per_state)))
    return bench, producer


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("queue", ["q", None])
@pytest.mark.parametrize("state", [*STATES, None])
def test_every_state_is_listed_page_by_page(state: str | None, queue: str | None, limit: int, restarted: bool) -> None:
    bench, producer = one_of_each()
    if restarted:
        bench.crash()
        producer.connect()
    expected = sorted(
        f"{name}-{each}-{n}"
        for name in ("q", "r")
        for each in STATES
        for n in range(3)
        if state in (None, each) and queue in (None, name)
    )
    assert sorted(listed(producer, limit, state=state, queue=queue)) == expected
    rows = [row for page in pages(producer, limit, state=state, queue=queue) for row in page]
    for row in rows:
        name, each, _ = row["id"].decode().split("-")
        assert (row["queue"], row["state"]) == (name, each)
    bench.check()


def test_a_job_that_came_back_is_listed_once_in_its_place() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=2)
    producer.put("q", "a", "b", "c")
    fence = worker.one(m.Deliver).fence
    worker.send(m.Capacity(0))
    worker.release(fence, "b", "a")
    assert sorted(listed(producer, state="ready")) == ["a", "b", "c"]
    assert sorted(listed(producer, 1, state="ready")) == ["a", "b", "c"]
    assert producer.ask("queue", queue="q")["ready"] == 3


def test_jobs_that_change_between_the_pages_are_neither_doubled_nor_invented() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=50)
    ids = [f"{n:04}" for n in range(400)]
    producer.put("q", *ids)
    first = producer.ask("list", queue="q", state="ready", limit=100)
    seen = [row["id"].decode() for row in first["jobs"]]
    cursor = first["cursor"]
    while cursor is not None:
        for identifier, fence in worker.jobs():
            if int(identifier) % 2:
                worker.ack(fence, identifier)
            else:
                worker.release(fence, identifier)
        producer.order("cancel", id=b"0399")
        page = producer.ask("list", queue="q", state="ready", limit=100, cursor=cursor)
        assert all(row["state"] == "ready" for row in page["jobs"])
        seen += [row["id"].decode() for row in page["jobs"]]
        cursor = page["cursor"]
    assert len(seen) == len(set(seen))
    # What was ready all the time is listed.
    assert set(seen) >= set(listed(producer, state="ready")) - {f"{n:04}" for n in range(200)}
    bench.check()


def test_done_is_listed_newest_first() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    for n in range(5):
        producer.put("q", f"{n}")
        worker.ack(worker.job()[1], f"{n}")
    assert listed(producer, 2, state="done") == ["4", "3", "2", "1", "0"]


def test_a_long_listing_goes_in_slices_and_others_are_served_meanwhile() -> None:
    bench = Bench()
    producer, other = bench.producer(), bench.producer("other")
    for start in range(0, 3000, 1000):
        producer.put("q", *(f"{n}" for n in range(start, start + 1000)))
    bench.turn([(producer.route, m.Ask(900, "list", {"queue": "q", "limit": 1000}))])
    assert not producer.take(m.Answer)
    bench.turn([(other.route, m.Ask(1, "queues", {}))])
    assert other.value_of(1)[0]["ready"] == 3000
    bench.settle_down()
    assert len(producer.value_of(900)["jobs"]) == 1000


def test_a_listing_nobody_waits_for_ends() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(1000)))
    bench.turn([(producer.route, m.Ask(900, "list", {"queue": "q", "limit": 1000}))])
    producer.connect()
    assert not producer.take(m.Answer) and not bench.core.state.works


def test_listings_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zbroker.limits.MAX_WORKS", 2)
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(1000)))
    asks = [(producer.route, m.Ask(900 + n, "list", {"limit": 1000})) for n in range(3)]
    bench.turn(asks)
    bench.settle_down()
    assert len(producer.value_of(900)["jobs"]) == len(producer.value_of(901)["jobs"]) == 1000
    failure = producer.answer(902)
    assert isinstance(failure, m.Failure) and failure.code == "busy" and failure.details["retry_after_ms"] > 0


def test_dead_is_a_listing_with_the_reasons() -> None:
    bench, producer = one_of_each()
    (rows,) = pages(producer, 10, "dead", queue="q")
    assert [row["id"] for row in rows] == [b"q-dead-0", b"q-dead-1", b"q-dead-2"]
    assert {row["reason"] for row in rows} == {"attempts"} and rows[0]["error"] == {"type": "", "text": "no"}


def test_show_tells_all_of_a_job() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", payload=b"payload", priority=3, key="k", headers={"h": 1}, max_attempts=7)
    fence = worker.job()[1]
    bench.advance(1000)
    row = producer.ask("show", id=b"a")
    expected = {
        "id": b"a",
        "queue": "q",
        "state": "leased",
        "priority": 3,
        "key": "k",
        "headers": {"h": 1},
        "max_attempts": 7,
        "attempt": 1,
        "attempts": [],
        "losses": 0,
        "error": None,
        "worker": "w",
        "fence": fence,
        "lease_ms": 29_000,
        "payload": b"payload",
        "result": None,
        "cancel_requested": False,
        "created_at": bench.wall - 1000,
        "started_at": bench.wall - 1000,
    }
    assert {name: row[name] for name in expected} == expected


def test_queues_workers_and_stats_agree() -> None:
    bench, producer = one_of_each()
    rows = {row["queue"]: row for row in producer.ask("queues")}
    for row in rows.values():
        assert [row[state] for state in ("ready", "scheduled", "leased", "dead", "blocked")] == [3, 3, 3, 3, 0]
        assert row["workers"] == 3 and not row["paused"]
    queue = producer.ask("queue", queue="q")
    assert queue["policy"]["max_attempts"] == (1, "default") and queue["ready"] == 3
    workers = {row["name"]: row for row in producer.ask("workers")}
    assert sorted(workers) == sorted(f"{q}-{s}" for q in "qr" for s in ("leased", "dead", "done"))
    assert workers["q-leased"]["leased"] == 3 and workers["q-leased"]["queues"] == ["q"]
    assert not workers["q-dead"]["leased"] and workers["q-dead"]["connected"]
    stats = producer.ask("stats")
    assert stats["jobs"] == {"ready": 6, "scheduled": 6, "leased": 6, "dead": 6, "blocked": 0}
    assert stats["totals"]["put"] == 36 and stats["totals"]["done"] == 6 and stats["finished_kept"] == 12
    assert stats["epoch"] == 1 and stats["workers"] == 6 and stats["peers"] == 7


@pytest.mark.parametrize(
    ("verb", "arguments", "code"),
    [
        ("list", {"state": "odd"}, "invalid"),
        ("list", {"state": ["ready"]}, "invalid"),
        ("list", {"limit": 0}, "invalid"),
        ("list", {"limit": 1001}, "invalid"),
        ("list", {"limit": True}, "invalid"),
        ("list", {"queue": "none"}, "not_found"),
        ("list", {"queue": 5}, "not_found"),
        ("list", {"cursor": "x"}, "invalid"),
        ("list", {"cursor": ["ready", "x", 0]}, "invalid"),
        ("list", {"cursor": [["ready"], b"", 0]}, "invalid"),
        ("list", {"cursor": ["nowhere", b"", 0]}, "invalid"),
        ("queue", {}, "not_found"),
        ("show", {"id": b"nobody"}, "not_found"),
        ("what", {}, "not_found"),
    ],
)
def test_questions_that_cannot_be(verb: str, arguments: dict[str, Any], code: str) -> None:
    producer = Bench().producer()
    assert producer.refused(m.Ask(5, verb, arguments)).code == code


@pytest.mark.parametrize("stage", [*STATES])
@pytest.mark.parametrize("key", [b"", b"\xff" * 70, b"q\0", b"nonsense", bytes(20)])
@pytest.mark.parametrize("n", [-1, 0, 1 << 40])
def test_a_made_up_cursor_harms_nobody(stage: str, key: bytes, n: int) -> None:
    _, producer = one_of_each(1)
    answer = producer.ask("list", cursor=[stage, key, n])
    assert answer["cursor"] is None or answer["jobs"]


# ---- in time


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("state", [*STATES, None])
def test_since_and_until_bound_when_it_was_over_or_when_it_came(state: str | None, restarted: bool) -> None:
    bench, producer = one_of_each(2)
    first = bench.wall
    bench.advance(1000)
    producer.put("q", "q-ready-late")
    producer.put("q", "q-scheduled-late", delay=60_000)
    producer.put("q", "q-cancelled-late")
    producer.order("cancel", id=b"q-cancelled-late")
    if restarted:
        bench.crash()
        producer.connect()

    def ids(**arguments: Any) -> set[str]:
        return set(listed(producer, 2, state=state, **arguments))

    everything = ids()
    late = {identifier for identifier in everything if identifier.endswith("late")}
    assert ids(since=first + 1) == late == ids(since=first + 1000)
    assert ids(until=first + 1) == ids(until=first + 1000) == everything - late
    assert ids(since=first, until=first + 1001) == everything
    assert ids(until=first) == ids(since=first + 1001) == set()
    assert ids(since=first + 1, queue="r") == set()
    assert bool(late) == (state in ("ready", "scheduled", "cancelled", None))


def test_a_job_that_came_early_and_ended_late_is_listed_where_it_ended() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    came = bench.wall
    fence = worker.job()[1]
    bench.advance(5000)
    assert listed(producer, since=came, until=came + 1) == ["a"]
    worker.ack(fence, "a")
    assert listed(producer, since=came, until=came + 1) == []
    (row,) = pages(producer, 10, since=came + 5000)[0]
    assert (row["created_at"], row["finished_at"], row["state"]) == (came, came + 5000, "done")


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("value", [-1, 1.5, "yesterday", True, 1 << 53, None])
def test_times_that_cannot_be(name: str, value: Any) -> None:
    producer = Bench().producer()
    assert producer.refused(m.Ask(5, "list", {name: value})).code == "invalid"


def test_a_trimmed_job_is_listed_no_more_and_asked_for_in_vain() -> None:
    bench = Bench(policy={"keep_done_ms": 1000})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    worker.ack(worker.job()[1], "a", results=[b"result"])
    assert listed(producer, state="done") == ["a"]
    bench.advance(1000)
    assert listed(producer, state="done") == []
    for verb in ("show", "why"):
        assert producer.refused(m.Ask(producer.next_number(), verb, {"id": b"a"})).code == "not_found"
    producer.send(m.Watch([b"a"]))
    assert producer.ends() == {"a": ("unknown", None, None)}, "told at once, not waited for"
