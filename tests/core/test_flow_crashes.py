"""A crash at each commit of a workflow: whatever the store held when the broker died, the end is the same, and what the
broker itself stores comes once. And ten thousand jobs with a callback, of which no turn does more than a bounded part.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.core.counted import BATCH, END, A, callback, rows_of
from tests.core.families import run_all
from tests.core.flows import Step, W, job, messages_of, order, sent, state_of, steps
from tests.core.harness import Bench, Peer
from zbroker import limits
from zbroker.core import rows
from zbroker.storage.interface import KEYSPACES
from zbroker.storage.memory import MemoryStore
from zclient.protocol import messages as m
from zclient.protocol.plans import step_id

GRAPH = [
    Step("split", 1, queue="first"),
    Step("work", 5, "split"),
    Step("fails", 2, "split", queue="weak"),
    Step("join", 1, "work fails", queue="last"),
]
POLICY = {"max_attempts": 1, "lease_ms": 10**9}


class Recorded(Bench):
    """A bench that keeps what the store held after each commit."""

    def __init__(self) -> None:
        super().__init__(policy=POLICY)
        self.commits: list[MemoryStore] = []

    def turn(self, *arguments: object, **told: object) -> None:
        before = self.store._sequence
        super().turn(*arguments, **told)  # type: ignore[arg-type]
        if self.store._sequence != before:
            self.commits.append(copied(self.store))


def copied(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    copy.write({space: dict(store.scan(space, b"", END)) for space in KEYSPACES}, [])
    return copy


def recovered(store: MemoryStore) -> Bench:
    """A broker that starts on what another one left."""
    bench = Bench(policy=POLICY)
    bench.store = store
    bench.reopen()
    bench.settle_down()
    bench.advance(6_000)  # the workers of before do not come back
    bench.check()
    return bench


def finish(bench: Bench, run: str) -> None:
    """Send what was not confirmed, and do whatever there is to do; the weak step is tried again as a whole."""
    producer = bench.producer(f"asks {run}")
    send_all(bench.producer(f"sends {run}"))
    worker = bench.worker(f"w {run}", "first", "q", "after", capacity=9)
    weak, last = bench.worker(f"v {run}", "weak", capacity=9), bench.worker(f"u {run}", "last")
    for _ in range(4):
        run_all(worker)
        for identifier, fence in weak.jobs():
            weak.reject(fence, identifier)
        if state_of(producer) == "dead":
            order(producer, "retry_workflow")
            run_all(weak)
        run_all(last)


def send_all(producer: Peer) -> None:
    producer.order("open_batch", id=A.encode(), on_done=callback(), on_settled=callback())
    sent(producer, GRAPH, most=2)
    number = producer.next_number()
    group = m.Group("q", dict(BATCH), [b"one", b"two"], [b"p"] * 2)
    producer.send(m.Put(number, number, [group]))
    assert isinstance(producer.answer(number), m.Ok | m.Failure)  # it was closed after it had come
    producer.order("close_batch", id=A.encode())


def test_a_crash_at_each_commit_leads_to_the_same_end() -> None:
    whole = Recorded()
    finish(whole, "1")
    assert len(whole.commits) > 25
    expected = ended(whole)
    assert expected["after"] == 2 and expected["last"] == 1
    for store in whole.commits:
        bench = recovered(store)
        finish(bench, "2")
        assert ended(bench) == expected
        bench.check()


def test_a_crash_at_each_commit_of_a_cancellation_leads_to_the_same_end() -> None:
    whole = Recorded()
    sent(whole.producer(), [Step("a", 300), Step("b", 100, "a", "run"), Step("c", 1, "b")])
    first = len(whole.commits) - 1  # it is there from this commit on
    order(whole.producer("stops"), "cancel_workflow")
    assert len(whole.commits) - first > 6
    for store in whole.commits[first:]:
        bench = recovered(store)
        producer = bench.producer("stops again")
        order(producer, "cancel_workflow")
        assert steps(producer) == {"a": "cancelled 300/0/0/300", "b": "cancelled 100/0/0/100", "c": "cancelled 1/0/0/1"}
        assert state_of(producer) == "cancelled"
        assert rows_of(bench, "jobs") == rows_of(bench, "edges") == rows_of(bench, "changes") == []
        bench.check()


def ended(bench: Bench) -> dict[str, object]:
    """How it all ended, and how many jobs the broker was given of each queue: no callback twice."""
    producer = bench.producer("looks")
    told: dict[str, object] = dict(steps(producer))
    told["state"] = state_of(producer)
    told["batch"] = producer.ask("batch", id=A.encode())["state"]
    told["results"] = [producer.ask("results", id=step_id(W.encode(), place)) for place in range(len(GRAPH))]
    assert rows_of(bench, "edges") == rows_of(bench, "deliveries") == rows_of(bench, "jobs") == []
    for queue in ("first", "q", "weak", "last", "after"):
        told[queue] = bench.core.state.queues[queue].counts.totals["put"]
    return told


# ---- ten thousand


def count_turns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The most rows that one turn wrote to jobs, edges, changes and batches since it was last asked."""
    most = 0
    write = bench.store.write

    def watched(changed: rows.Any, ranges: rows.Any) -> None:
        nonlocal most
        most = max(most, sum(len(changed[space]) for space in ("jobs", "edges", "changes", "batches")))
        write(changed, ranges)

    monkeypatch.setattr(bench.store, "write", watched)

    def asked() -> int:
        nonlocal most
        told, most = most, 0
        return told

    return asked


def test_ten_thousand_jobs_and_a_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(policy=POLICY)
    producer = bench.producer()
    most = count_turns(bench, monkeypatch)
    sent(producer, [Step("many", 10_000), Step("callback", 1, "many", single=True, queue="last")])
    in_a_turn = limits.TURN_STEPS * (limits.SLICE_JOBS + 1) + 2
    assert most() <= in_a_turn
    bench.check()
    worker, last = bench.worker("w", "q", capacity=1_000), bench.worker("v", "last")
    while jobs := worker.take(m.Deliver):
        settlements = [m.Settlement(one.fence, m.Outcome.ACK, one.ids, [b"r"] * len(one.ids)) for one in jobs]
        for settlement in settlements:
            number = worker.next_number()
            worker.send(m.Settle(number, [settlement]))
            assert isinstance(worker.answer(number), m.Ok)
    ((identifier, fence),) = last.jobs()
    assert identifier == job(1)
    found, after = 0, b""
    while page := last.ask("results", id=step_id(W.encode(), 0), after=after):
        assert len(page) <= 1_000
        found, after = found + len(page), page[-1][0]
    assert found == 10_000
    last.ack(fence, identifier)
    assert state_of(producer) == "done"
    bench.check()
    assert len(rows_of(bench, "batches")) == 10_003


@pytest.mark.parametrize("how", ["release", "cancel", "fail"])
def test_ten_thousand_jobs_behind_one(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(policy=POLICY)
    producer = bench.producer()
    parts = messages_of([Step("one", queue="first"), Step("many", 10_000, "one", "cancel")])
    most = count_turns(bench, monkeypatch)
    for part in parts:
        number = producer.next_number()
        producer.send(part._replace(number=number, low=number))
    assert most() <= 2 * limits.TURN_STEPS * (limits.SLICE_JOBS + 1) + 10
    worker = bench.worker("w", "first")
    ((identifier, fence),) = worker.jobs()
    if how == "release":
        worker.ack(fence, identifier)
    elif how == "fail":
        worker.reject(fence, identifier)
    else:
        order(producer, "cancel_workflow")
    assert most() <= 6 * limits.TURN_CHILDREN
    ended = {"release": "running 10000/0/0/0", "cancel": "cancelled 10000/0/0/10000"}
    assert steps(producer)["many"] == ended.get(how, ended["cancel"])
    bench.check()
