"""`zbroker check` finds what is damaged of batches and workflows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.counted import BATCH, A, B, callback, closed, opened, take
from tests.core.flows import CHORD, W, job, messages_of, send, sent
from tests.core.harness import Bench
from zbroker.check import check_store
from zbroker.core import batches, rows, workflows
from zbroker.storage.memory import MemoryStore
from zclient.protocol.plans import step_id

FETCH, REPORT = step_id(W.encode(), 0), step_id(W.encode(), 1)
COMING = "f" * 22


@pytest.fixture
def store() -> MemoryStore:
    """A batch with a dead job and callbacks, one that is done, a workflow that runs, and one that comes."""
    bench = Bench(policy={"max_attempts": 1})
    producer, worker = bench.producer(), bench.worker("w", "q", "f", capacity=9)
    opened(producer, on_done=callback(), on_death=callback(), keep_results=True)
    producer.put("q", "1", "2", "3", **BATCH)
    held = take(worker)
    worker.ack(held["1"], "1", results=[b"r"])
    worker.reject(held["2"], "2")
    opened(producer, B)
    closed(producer, B)
    sent(producer, CHORD)
    held = take(worker)
    worker.ack(held[job(0)], job(0))
    send(producer, messages_of(CHORD, COMING, most=1)[0])
    bench.check()
    return bench.store


def damage(store: MemoryStore, space: str, key: bytes, value: bytes | None) -> list[str]:
    store.write({space: {key: value}}, [])
    return check_store(store).faults


def changed(store: MemoryStore, identifier: str | bytes, **changes: Any) -> list[str]:
    key = identifier.encode() if isinstance(identifier, str) else identifier
    batch = batches.decode(key, store.get("batches", key) or b"")
    return damage(store, "batches", key, replace(batch, **changes).row())


def changed_flow(store: MemoryStore, identifier: str, **changes: Any) -> list[str]:
    key = identifier.encode()
    flow = workflows.decode(key, store.get("workflows", key) or b"")
    return damage(store, "workflows", key, replace(flow, **changes).row())


def test_counters_that_are_off(store: MemoryStore) -> None:
    expected = f"batch {A}: 1 of its jobs go on and 1 are dead; its counters say 2 and 1"
    assert changed(store, A, total=4) == [expected]


def test_a_dead_job_that_is_not_counted(store: MemoryStore) -> None:
    faults = changed(store, A, dead=0, total=2)
    assert f"batch {A}: 1 of its jobs go on and 1 are dead; its counters say 1 and 0" in faults
    assert f"batch {A}: 0 jobs are dead, and 1 rows say so" in faults


def test_an_end_that_is_none(store: MemoryStore) -> None:
    assert changed(store, A, end="done", over_ms=5) == [f"batch {A} has ended 'done', and its counters say ''"]
    assert changed(store, B, end="", over_ms=0)[1] == f"batch {B} has ended '', and its counters say 'done'"


def test_a_callback_that_did_not_come(store: MemoryStore) -> None:
    assert changed(store, A, fired=0) == [f"batch {A}: callbacks are missing"]


def test_callbacks_that_are_lost(store: MemoryStore) -> None:
    faults = damage(store, "batches", rows.callbacks_key(A.encode()), None)
    assert faults == [f"batch {A}: what its callbacks are is not there"]


def test_a_result_too_many(store: MemoryStore) -> None:
    assert damage(store, "batches", rows.result_key(A.encode(), b"4"), b"do") == [
        f"batch {A}: 1 jobs are done, and 2 rows say so"
    ]


def test_rows_of_no_batch(store: MemoryStore) -> None:
    key = b"e" * 32 + b"\0job"
    assert damage(store, "batches", key, b"do") == [f"batches has a row {key!r}, which is of no batch"]


def test_a_batch_that_is_lost(store: MemoryStore) -> None:
    faults = damage(store, "batches", A.encode(), None)
    assert f"jobs are of the batch {A}, which there is not" in faults
    assert "there are 3 batches and workflows, and their counter says 4" in faults


def test_timers_that_are_lost(store: MemoryStore) -> None:
    timers = list(store.scan("timers", b"", b"\xff" * 99))
    keys = {rows.TimerRow(*rows.unpack(value)).key: key for key, value in timers}
    assert damage(store, "timers", keys[B.encode()], None) == [f"no timer removes the batch {B}"]
    faults = damage(store, "timers", keys[COMING.encode()], None)
    assert faults[1:] == [f"no timer removes the workflow {COMING}, which is not complete"]


def test_a_child_that_waits_for_a_step_which_does_not_know_it(store: MemoryStore) -> None:
    assert changed(store, FETCH, is_parent=False) == [f"job {job(1)} waits for {W}000, which does not release it"]


def test_a_workflow_that_says_otherwise_than_its_steps(store: MemoryStore) -> None:
    assert changed_flow(store, W, ends=b"\1\0") == [f"workflow {W}: its steps have ended otherwise than it says"]
    assert changed_flow(store, W, ends=b"\0\0", over_ms=7) == [f"workflow {W} is running, and it is over"]


def test_a_workflow_that_is_lost(store: MemoryStore) -> None:
    faults = damage(store, "workflows", W.encode(), None)
    assert [f"the step {one.decode()} is of a workflow that there is not" for one in (FETCH, REPORT)] == faults[:2]


def test_a_plan_that_is_lost(store: MemoryStore) -> None:
    assert damage(store, "workflows", rows.plan_key(W.encode()), None) == [f"workflow {W} has no plan"]


def test_jobs_that_nobody_stores(store: MemoryStore) -> None:
    key = rows.staged_key(W.encode(), 0, 0)
    value = rows.pack([["f", {"batch": FETCH}, [b"x"], [b"p"]]])
    faults = damage(store, "workflows", key, value)
    assert faults == [
        f"batch {W}000: 3 of its jobs go on and 0 are dead; its counters say 2 and 0",
        f"jobs of the workflow {W} are laid aside, and nobody stores them",
    ]
