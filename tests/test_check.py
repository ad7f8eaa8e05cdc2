"""`zbroker check` finds nothing wrong with what the core wrote, and finds what was damaged."""

from collections.abc import Iterator

import pytest

from zbroker.check import check_store
from zbroker.core import rows
from zbroker.core.states import State
from zbroker.storage.memory import MemoryStore
from zbroker.testing import LocalBroker
from zworker import Consumer


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """Jobs in every state, of two queues."""
    with LocalBroker(max_attempts=1) as broker:
        client = broker.client()
        client.send_many("a", range(300), priority=3)
        client.send_many("a", range(10), key="k")
        client.send_many("b", range(20), delay="1h")
        client.send("b", b"x" * 100_000)
        client.send_many("c", range(8))
        with Consumer(broker.endpoint, "c", transport=broker.transport, credit=8) as consumer:
            jobs = iter(consumer)
            for _ in range(2):
                next(jobs).nack("broken")
            for _ in range(2):
                next(jobs).ack()
            for _ in range(2):
                next(jobs).release()
        client.send_many("d", range(5))
        with Consumer(broker.endpoint, "d", transport=broker.transport) as holder:
            next(iter(holder))
            yield broker.store


def test_nothing_is_wrong(store: MemoryStore) -> None:
    report = check_store(store)
    assert report.faults == []
    assert report.counts["a: ready"] == 310
    assert report.counts["b: scheduled"] == 20
    assert report.counts["c: dead"] == 2


def damage(store: MemoryStore, space: str, key: bytes, value: bytes | None) -> list[str]:
    store.write({space: {key: value}}, [])
    return check_store(store).faults


def first(store: MemoryStore, space: str) -> tuple[bytes, bytes]:
    return next(store.scan(space, b"", b"\xff" * 300))


@pytest.mark.parametrize("space", ["jobs", "changes", "ready", "timers", "deliveries"])
def test_a_row_that_cannot_be_read(store: MemoryStore, space: str) -> None:
    faults = damage(store, space, first(store, space)[0], b"\xc1\xff")
    assert any("cannot be read" in fault for fault in faults)


def test_a_ready_row_that_is_gone(store: MemoryStore) -> None:
    faults = damage(store, "ready", first(store, "ready")[0], None)
    assert any("ready" in fault for fault in faults)


def test_a_counter_that_is_off(store: MemoryStore) -> None:
    key = rows.META_QUEUE + b"a"
    row = rows.QueueRow(*rows.unpack(store.get("meta", key) or b""))
    faults = damage(store, "meta", key, rows.pack(row._replace(jobs=[number + 1 for number in row.jobs])))
    assert any("counter" in fault for fault in faults)


def test_a_timer_that_is_lost(store: MemoryStore) -> None:
    faults = damage(store, "timers", first(store, "timers")[0], None)
    assert any(State.SCHEDULED in fault for fault in faults)


def test_a_payload_that_is_lost(store: MemoryStore) -> None:
    faults = damage(store, "payloads", first(store, "payloads")[0], None)
    assert any("payload" in fault for fault in faults)


def test_a_change_without_its_job(store: MemoryStore) -> None:
    faults = damage(store, "changes", b"nobody", rows.encode_change(rows.Change(State.READY, 1)))
    assert any("no job" in fault for fault in faults)


def test_an_index_of_the_dead_that_lies(store: MemoryStore) -> None:
    faults = damage(store, "dead", rows.dead_key("a", 1, b"nobody"), b"attempts")
    assert any("not dead" in fault for fault in faults)


@pytest.fixture
def holding() -> Iterator[MemoryStore]:
    """A job that expires, with a unique text for as long as it goes on, and one with a text for a time."""
    with LocalBroker() as broker:
        client = broker.client()
        client.send("e", 1, id="one", ttl="1h", unique="u", key="k")
        client.send("e", 2, id="two", unique="v", unique_for="1h")
        assert check_store(broker.store).faults == []
        yield broker.store


def test_a_unique_text_of_a_job_that_is_over(holding: MemoryStore) -> None:
    value = rows.pack(rows.UniqueRow(b"gone", 0))
    assert damage(holding, "unique", rows.unique_key("e", "w"), value) == [
        "job gone has the unique text w, and does not go on"
    ]
    assert len(damage(holding, "unique", rows.unique_key("e", "v"), rows.pack(rows.UniqueRow(b"one", 0)))) == 2


def test_a_unique_text_that_nothing_sets_free(holding: MemoryStore) -> None:
    timers = holding.scan("timers", b"", b"\xff" * 300)
    (timer,) = [key for key, _ in timers if rows.kind_of(key) == rows.TIMER_UNIQUE]
    assert damage(holding, "timers", timer, None) == ["no timer sets free the unique text v of two"]


def test_a_job_that_nothing_lets_expire(holding: MemoryStore) -> None:
    timers = holding.scan("timers", b"", b"\xff" * 300)
    (timer,) = [key for key, _ in timers if rows.kind_of(key) == rows.TIMER_EXPIRY]
    assert damage(holding, "timers", timer, None) == ["queue e: 1 jobs that wait expire, and timers name 0"]


def test_a_key_that_waits_for_a_job_which_does_not_wait(holding: MemoryStore) -> None:
    faults = damage(holding, "heads", rows.head_key("e", b"k", b"one"), b"")
    assert faults == ["a key of queue e waits for one, which does not wait"]


def test_a_schedule_that_has_no_timer() -> None:
    with LocalBroker() as broker:
        broker.client().schedule("s", "q", cron="* * * * *")
        broker.client().schedule("t", "q", cron="* * * * *", paused=True)
        assert check_store(broker.store).faults == []
        faults = damage(broker.store, "timers", first(broker.store, "timers")[0], None)
    assert faults == ["no timer has the next occurrence of schedule s"]


# ---- topics


@pytest.fixture
def published() -> Iterator[MemoryStore]:
    """Two bindings, one of which is still being backfilled, and two kept topics."""
    with LocalBroker() as broker:
        client = broker.client()
        client.keep_topic("a.#", keep_for="1d")
        client.keep_topic("b", keep_bytes="1MB")
        client.publish_many("a.x", range(20))
        client.publish("b", b"x" * 70_000)
        client.bind("a.*", "all", start="beginning")
        client.set_queue("full", max_jobs=3)
        client.bind("a.#", "full", filters=["n=1"])
        client.bind("a.#", "full", start="beginning")
        yield broker.store


def test_nothing_is_wrong_with_topics(published: MemoryStore) -> None:
    assert check_store(published).faults == []


@pytest.mark.parametrize(
    ("space", "prefix", "value", "fault"),
    [
        ("topics", b"l", None, "19 publications"),
        ("topics", b"i", None, "not found by its id"),
        ("topics", b"ka.", None, "in a log that no kept topic has"),
        ("topics", b"o", rows.number8(5), "lies outside of its log"),
        ("topics", b"r", rows.number8(500), "still to come"),
        ("topics", b"i", rows.number8(500), "is of no kept publication"),
        ("topics", b"ba.x\0nowhere", rows.pack(rows.BindingRow([], 0)), "which does not exist"),
        ("topics", b"ba..x\0all", rows.pack(rows.BindingRow([], 0)), "takes nothing"),
        ("topics", b"ba.x\0all", rows.pack(rows.BindingRow([], 0, 7)), "none goes on"),
        ("meta", b"work/", None, "none goes on"),
        ("timers", b"", None, "no timer looks at"),
    ],
)
def test_rows_of_topics_that_are_wrong(
    published: MemoryStore, space: str, prefix: bytes, value: bytes | None, fault: str
) -> None:
    found = next((key for key, _ in published.scan(space, prefix, prefix + b"\xff" * 9)), prefix)
    assert any(fault in text for text in damage(published, space, found, value))


# ---- jobs after others


@pytest.fixture
def family() -> Iterator[MemoryStore]:
    """`late` waits for `first`, which is done, and for `second`, which waits; `patient` for `grave`."""
    with LocalBroker(max_attempts=1) as broker:
        client = broker.client()
        for name in ("first", "grave"):
            client.send("a", id=name)
        client.send("b", id="second")
        client.send("c", id="late", after=["first", "second"])
        client.send("c", id="patient", after="grave", on_parent_death="wait")
        with Consumer(broker.endpoint, "a", transport=broker.transport, credit=2) as consumer:
            jobs = iter(consumer)
            next(jobs).ack("result")
            next(jobs).nack("broken")
            broker.wait_idle()
            assert check_store(broker.store).faults == []
            yield broker.store


def test_an_edge_that_is_lost(family: MemoryStore) -> None:
    faults = damage(family, "edges", rows.edge_key(b"second", b"late"), None)
    assert "job late waits for 1 parents, and has 0 edges" in faults


def test_an_edge_of_a_child_that_is_gone(family: MemoryStore) -> None:
    faults = damage(family, "edges", rows.edge_key(b"second", b"nobody"), b"")
    assert faults == ["an edge is of nobody, which has no parent second"]


@pytest.mark.parametrize("parent", [b"earlier", b"second", b"zzz"])
def test_the_end_of_a_parent_without_children(family: MemoryStore, parent: bytes) -> None:
    if parent == b"second":
        damage(family, "edges", rows.edge_key(parent, b"late"), None)
    faults = damage(family, "edges", rows.edge_key(parent, b""), rows.pack(("done", None)))
    assert f"how {parent.decode()} ended is kept, and it has no children" in faults


def test_a_parent_that_does_not_know_that_it_is_one(family: MemoryStore) -> None:
    change = rows.decode_change(family.get("changes", b"second") or b"")
    faults = damage(family, "changes", b"second", rows.encode_change(change._replace(is_parent=False)))
    assert faults == ["job late waits for second, which does not release it"]


def test_a_dead_parent_whose_children_were_not_looked_at(family: MemoryStore) -> None:
    change = rows.decode_change(family.get("changes", b"grave") or b"")
    assert change.state is State.DEAD
    damage(family, "edges", rows.edge_key(b"grave", b"late"), b"")
    record = family.get("jobs", b"late") or b""
    faults = damage(family, "jobs", b"late", record.replace(b"first", b"grave"))
    assert "job late waits for grave, which does not release it" in faults
    faults = damage(family, "meta", rows.META_OVER + b"grave", rows.pack(["dead"]))
    assert "job late waits for grave, which does not release it" not in faults
