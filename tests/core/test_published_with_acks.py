"""What a handler publishes with its job's ack: in the commit of that ack, or not at all."""

from __future__ import annotations

import pytest

from tests.core.harness import Bench, Peer
from tests.core.test_sends import group, running, state_of, verdicts
from tests.core.topics import bind, copies_in, copy_id, follow, keep, log_of, publication, told
from zclient.protocol import limits
from zclient.protocol import messages as m


def settling(worker: Peer, fence: int, *sends: m.Sent) -> m.Settle:
    """A SETTLE that acks the jobs of these."""
    settlement = m.Settlement(fence, m.Outcome.ACK, [sent.id for sent in sends], None)
    return m.Settle(worker.next_number(), [settlement], list(sends))


@pytest.mark.parametrize(("ends", "both"), [("before commit", False), ("before send", True)])
def test_a_crash_leaves_neither_or_both(ends: str, both: bool) -> None:
    bench, worker, fence = running("a")
    producer = bench.producer("binds")
    bind(producer, "t.#", "one")
    bind(producer, "t.*", "two")
    keep(producer, "t.x")
    sent = m.Sent(fence, b"a", [group("n")], [publication("t.x", "p"), publication("none", "q")])
    bench.turn([(worker.route, settling(worker, fence, sent))], ends=ends)
    bench.crash()
    expected = ["p"] if both else []
    assert [copies_in(bench, "one"), copies_in(bench, "two"), log_of(bench, "t.x")] == [expected] * 3
    assert state_of(bench, "n") == ("ready" if both else "")
    assert state_of(bench, "a") == ("" if both else "leased")
    bench.check()


def test_it_is_told_to_tails_and_a_repetition_publishes_once() -> None:
    bench, worker, fence = running("a")
    reader = bench.producer("reader")
    bind(reader, "t", "one")
    follow(reader, 1, "#")
    message = settling(worker, fence, m.Sent(fence, b"a", [], [publication("t", "p")]))
    assert verdicts(worker, message) == []
    assert verdicts(worker, message) == []
    assert copies_in(bench, "one") == ["p"]
    assert told(reader) == [(1, 0, ["p"])]


def test_what_is_refused_leaves_the_job_held_and_stores_nothing_of_it() -> None:
    bench, worker, fence = running("a", "b", "c", "d")
    producer = bench.producer("binds")
    bind(producer, "t.#", "one")
    bind(producer, "t.full", "small")
    keep(producer, "#")
    producer.order("set", queue="small", options={"max_bytes": 1})
    message = settling(
        worker,
        fence,
        m.Sent(fence, b"a", [group("n1")], [publication("t.full", "p1")]),
        m.Sent(fence, b"b", [group("n2")], [publication("t.x", "p2")]),
        m.Sent(fence, b"c", [group("n3", priority=101)], [publication("t.x", "p3")]),
        m.Sent(fence, b"d", [group(copy_id(b"p4", "one").decode(), queue="one")], [publication("t.x", "p4")]),
    )
    refused = verdicts(worker, message)
    assert [(one[1], one[2], one[3].partition(":")[0]) for one in refused] == [
        (b"a", "unsent", "queue_full"),
        (b"c", "unsent", "invalid"),
        (b"d", "unsent", "invalid"),
    ]
    assert (copies_in(bench, "one"), copies_in(bench, "small"), log_of(bench, "#")) == (["p2"], [], ["p2"])
    assert [state_of(bench, one) for one in ("n1", "n2", "n3", "a", "b")] == ["", "ready", "", "leased", ""]
    bench.check()


def test_what_the_jobs_of_one_message_publish_is_bounded_and_one_alone_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_COPIES", 3)
    bench, worker, fence = running("a", "b")
    producer = bench.producer("binds")
    for n in range(2):
        bind(producer, "t", f"q{n}")
    sends = [m.Sent(fence, job, [], [publication("t", job.decode())]) for job in (b"a", b"b")]
    assert worker.refused(settling(worker, fence, *sends)).code == "batch_too_large"
    assert verdicts(worker, settling(worker, fence, sends[0])) == []
    many = m.Sent(fence, b"b", [], [publication("t", "x"), publication("t", "y")])
    ((_, _, verdict, why),) = verdicts(worker, settling(worker, fence, many))
    assert (verdict, why.partition(":")[0]) == ("unsent", "batch_too_large")
    assert verdicts(worker, settling(worker, fence, sends[1])) == []
    assert copies_in(bench, "q0") == copies_in(bench, "q1") == ["a", "b"]


def test_a_broker_that_takes_nothing_now_leaves_it_to_another_try() -> None:
    bench: Bench
    bench, worker, fence = running("a")
    bench.core.set_disk_low(True)
    message = settling(worker, fence, m.Sent(fence, b"a", [], [publication("none", "p")]))
    ((_, _, verdict, why),) = verdicts(worker, message)
    assert (verdict, why.partition(":")[0]) == ("unsent", "disk_full")
