"""What a handler sends with its job's ack: stored in the commit of that ack, or not at all."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.core.harness import Bench, Peer, payloads
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.protocol.codec import MalformedMessage, decode, encode


def running(*ids: str, **settings: Any) -> tuple[Bench, Peer, int]:
    """A worker that runs these jobs: bench, worker, fence."""
    bench = Bench(**settings)
    bench.producer().put("q", *ids)
    worker = bench.worker("w", "q", capacity=len(ids))
    return bench, worker, worker.one(m.Deliver).fence


def group(*ids: str, queue: str = "next", payload: bytes = b"p", **options: Any) -> m.Group:
    return m.Group(queue, options, [identifier.encode() for identifier in ids], [payload] * len(ids))


def settling(
    worker: Peer,
    fence: int,
    sends: dict[str, list[m.Group]],
    *ids: str,
    outcome: int = m.Outcome.ACK,
    value: Any = None,
) -> m.Settle:
    """A SETTLE of these jobs, or of those that send something."""
    encoded = [identifier.encode() for identifier in ids or sends]
    settlement = m.Settlement(fence, outcome, encoded, None if value is None else [value] * len(encoded))
    sent = [m.Sent(fence, identifier.encode(), groups) for identifier, groups in sends.items()]
    return m.Settle(worker.next_number(), [settlement], sent)


def verdicts(worker: Peer, message: m.Settle) -> list[tuple[Any, ...]]:
    """Send it; what was refused."""
    worker.send(message)
    answer = worker.answer(message.number)
    if isinstance(answer, m.Ok):
        return []
    assert isinstance(answer, m.Answer), answer
    return [tuple(refused) for refused in answer.value["refused"]]


def state_of(bench: Bench, identifier: str) -> str:
    """The state of a job that lives, or nothing."""
    found = bench.core.state.find(identifier.encode())
    return found.state.value if found is not None else ""


def counts(bench: Bench, queue: str = "next") -> dict[str, int]:
    return bench.counts(queue) if queue in bench.core.state.queues else {}


# ---- neither or both


def test_what_is_sent_is_there_when_the_job_is_done() -> None:
    bench, worker, fence = running("a")
    sends = [group("b", "c", priority=5), group("d", queue="later", delay=1000)]
    assert verdicts(worker, settling(worker, fence, {"a": sends})) == []
    assert state_of(bench, "a") == ""
    assert (counts(bench), counts(bench, "later")) == ({"ready": 2}, {"scheduled": 1})
    assert bench.worker("v", "next", capacity=5).ids() == ["b", "c"]
    bench.check()


@pytest.mark.parametrize(("ends", "both"), [("before commit", False), ("before send", True), ("", True)])
def test_a_crash_leaves_neither_or_both(ends: str, both: bool) -> None:
    bench, worker, fence = running("a")
    message = settling(worker, fence, {"a": [group("b")]})
    bench.turn([(worker.route, message)], ends=ends)
    bench.crash()
    assert (state_of(bench, "a"), counts(bench)) == (("", {"ready": 1}) if both else ("leased", {}))
    # The worker got no answer: it names what it holds, and settles again.
    worker.inbox.clear()
    worker.connect([m.Held(fence, [b"a"], [])])
    assert verdicts(worker, message) == []
    assert (state_of(bench, "a"), counts(bench)) == ("", {"ready": 1})
    bench.check()


def test_a_repeated_settlement_sends_once_also_when_what_it_sent_is_long_done() -> None:
    bench, worker, fence = running("a", keep_done_count=1)
    message = settling(worker, fence, {"a": [group("b")]})
    assert verdicts(worker, message) == []
    other = bench.worker("v", "next")
    assert other.ack(other.one(m.Deliver).fence, "b") == []
    assert verdicts(worker, message) in ([], [(fence, b"a", "unknown")])
    bench.crash()
    worker.connect()
    assert verdicts(worker, message) in ([], [(fence, b"a", "unknown")])
    assert counts(bench) == {}
    assert bench.core.state.queues["next"].counts.totals["put"] == 1


@pytest.mark.parametrize(
    ("outcome", "value"),
    [(m.Outcome.NACK, {}), (m.Outcome.REJECT, {}), (m.Outcome.RELEASE, None), (m.Outcome.SNOOZE, 1000)],
)
def test_any_other_outcome_sends_nothing(outcome: m.Outcome, value: Any) -> None:
    bench, worker, fence = running("a")
    message = settling(worker, fence, {"a": [group("b")]}, outcome=outcome, value=value)
    assert verdicts(worker, message) == []
    assert counts(bench) == {} and state_of(bench, "b") == ""


def test_a_lost_lease_sends_nothing() -> None:
    bench, worker, fence = running("a", policy={"lease_ms": 1000})
    bench.advance(1001)
    assert verdicts(worker, settling(worker, fence, {"a": [group("b")]})) == [(fence, b"a", "lost")]
    assert counts(bench) == {}
    other = bench.worker("v", "q")
    newer = other.one(m.Deliver).fence
    assert verdicts(worker, settling(worker, fence, {"a": [group("b")]})) == [(fence, b"a", "lost")]
    assert counts(bench) == {}
    assert verdicts(other, settling(other, newer, {"a": [group("b")]})) == []
    assert counts(bench) == {"ready": 1}
    bench.check()


def test_a_job_that_the_message_does_not_ack_sends_nothing() -> None:
    bench, worker, fence = running("a", "b")
    assert verdicts(worker, settling(worker, fence, {"b": [group("c")]}, "a")) == []
    assert verdicts(worker, settling(worker, fence + 7, {"b": [group("c")]})) == [(fence + 7, b"b", "lost")]
    assert counts(bench) == {} and state_of(bench, "b") == "leased"


# ---- refusals


def full(bench: Bench, peer: Peer) -> None:
    peer.order("set", queue="next", options={"max_jobs": 1})


def closed(bench: Bench, peer: Peer) -> None:
    full(bench, peer)
    peer.order("drain", queue="next")


def low(bench: Bench, peer: Peer) -> None:
    bench.core.set_disk_low(True)


def nothing(bench: Bench, peer: Peer) -> None:
    """Nothing is wrong with the broker."""


TAKEN = group("taken", payload=b"another")


@pytest.mark.parametrize(
    ("prepare", "sends", "code"),
    [
        (full, [group("x", "y")], "queue_full"),
        (full, [group("x"), group("y")], "queue_full"),
        (closed, [group("x")], "closed"),
        (low, [group("x")], "disk_full"),
        (nothing, [group("x", priority=101)], "invalid"),
        (nothing, [group("x"), group("y", nonsense=1)], "invalid"),
        (nothing, [group("x", queue="mmi.x")], "invalid"),
        (nothing, [group("x", payload=bytes(limits.MAX_PAYLOAD_BYTES + 1))], "too_large"),
        (nothing, [group("x"), group("x", queue="other")], "invalid"),
        (nothing, [TAKEN._replace(payloads=[b"differs"])], "duplicate_id"),
    ],
)
def test_what_is_refused_leaves_the_job_held_and_the_others_are_settled(prepare: Any, sends: Any, code: str) -> None:
    bench, worker, fence = running("a", "b", "c")
    producer = bench.producer("other")
    producer.send(m.Put(producer.next_number(), 1, [TAKEN._replace(queue="parked")]))
    prepare(bench, producer)
    sent = {"a": sends, "b": [group("fine", queue="free")]} if prepare is not low else {"a": sends}
    (refused,) = verdicts(worker, settling(worker, fence, sent, "c", "a", "b"))
    assert refused[:3] == (fence, b"a", "unsent") and refused[3].startswith(f"{code}: ")
    assert [state_of(bench, identifier) for identifier in "abc"] == ["leased", "", ""]
    assert (counts(bench), counts(bench, "free")) == ({}, {"ready": 1} if "b" in sent else {})
    assert state_of(bench, "x") == state_of(bench, "y") == ""
    # What the worker does then.
    assert worker.nack(fence, "a", delay=0) == []
    assert worker.job()[0] == "a"
    bench.check()


def test_results_stay_in_step_when_some_jobs_are_not_done() -> None:
    bench, worker, fence = running("a", "b", "c")
    settlement = m.Settlement(fence, m.Outcome.ACK, [b"a", b"b", b"c"], [b"1", b"2", b"3"])
    bad = m.Sent(fence, b"b", [group("x", priority=101)])
    assert len(verdicts(worker, m.Settle(worker.next_number(), [settlement], [bad]))) == 1
    assert [worker.ask("show", id=identifier)["result"] for identifier in (b"a", b"c")] == [b"1", b"3"]
    assert worker.ask("show", id=b"b")["state"] == "leased"


def test_when_no_job_is_left_of_a_settlement_nothing_is_done() -> None:
    bench, worker, fence = running("a")
    message = settling(worker, fence, {"a": [group("x", priority=101)]}, value=b"r")
    assert [refused[2] for refused in verdicts(worker, message)] == ["unsent"]
    assert state_of(bench, "a") == "leased"
    bench.check()


def test_a_result_that_is_too_large_sends_nothing() -> None:
    bench, worker, fence = running("a", max_payload=1000)
    message = settling(worker, fence, {"a": [group("b")]}, value=bytes(1001))
    assert verdicts(worker, message) == [(fence, b"a", "too_large")]
    assert counts(bench) == {} and state_of(bench, "a") == "leased"


def test_jobs_are_judged_one_after_the_other() -> None:
    """The first has the last place in the queue; the second is told."""
    bench, worker, fence = running("a", "b")
    full(bench, bench.producer("other"))
    (refused,) = verdicts(worker, settling(worker, fence, {"a": [group("x")], "b": [group("y")]}))
    assert refused[1] == b"b" and counts(bench) == {"ready": 1}


def test_a_queue_that_delivers_at_most_once() -> None:
    bench, worker, fence = running("a", "b", policy={"delivery": "at_most_once"})
    sends = {"a": [group("x")], "b": [group("y", priority=101)]}
    assert [refused[1:3] for refused in verdicts(worker, settling(worker, fence, sends))] == [(b"b", "unsent")]
    assert (counts(bench), state_of(bench, "b")) == ({"ready": 1}, "leased")
    assert worker.nack(fence, "b") == []
    assert state_of(bench, "b") == "dead", "it ran, and is not run again"
    bench.check()


# ---- options that look at other jobs


def test_unique_texts_and_ids_hold_for_them_as_for_any() -> None:
    bench, worker, fence = running("a", "b")
    sends = {"a": [group("x", unique="u")], "b": [group("y", unique="u"), group("z")]}
    assert verdicts(worker, settling(worker, fence, sends)) == []
    assert [state_of(bench, identifier) for identifier in "xyz"] == ["ready", "", "ready"]


@pytest.mark.parametrize("conflict", ["existing", "replace", "debounce"])
def test_a_job_may_send_another_one_with_its_own_unique_text(conflict: str) -> None:
    """The text is free in the very commit in which the other job comes."""
    bench = Bench()
    producer = bench.producer()
    worker = bench.worker("w", "q")
    producer.put("q", "a", unique="u")
    _, fence = worker.job()
    sent = group("b", queue="q", unique="u", on_conflict=conflict)
    assert verdicts(worker, settling(worker, fence, {"a": [sent]})) == []
    job, fence = worker.job()
    assert (job, state_of(bench, "a")) == ("b", "")
    producer.put("q", "c", unique="u")
    assert state_of(bench, "c") == "", "b has the text now"
    worker.ack(fence, job)
    bench.check()


def test_a_text_that_is_taken_for_a_time_stays_taken_for_what_its_job_sends() -> None:
    bench = Bench()
    worker = bench.worker("w", "q")
    bench.producer().put("q", "a", unique="u", unique_for=60_000)
    _, fence = worker.job()
    assert verdicts(worker, settling(worker, fence, {"a": [group("b", queue="q", unique="u")]})) == []
    assert state_of(bench, "b") == ""
    bench.check()


def test_a_job_whose_sends_are_refused_has_its_unique_text_still() -> None:
    bench = Bench()
    producer = bench.producer()
    worker = bench.worker("w", "q")
    producer.put("q", "a", unique="u")
    _, fence = worker.job()
    (refused,) = verdicts(worker, settling(worker, fence, {"a": [group("b", queue="q", unique="u", priority=101)]}))
    assert refused[2] == "unsent"
    producer.put("q", "c", unique="u")
    assert state_of(bench, "c") == "", "a has it"
    bench.check()


def test_the_same_job_sent_by_two_runs_is_stored_once() -> None:
    bench, worker, fence = running("a", "b")
    assert verdicts(worker, settling(worker, fence, {"a": [group("x")], "b": [group("x")]})) == []
    assert counts(bench) == {"ready": 1}
    bench.check()


def test_a_job_may_send_to_its_own_queue_and_is_no_place_in_it() -> None:
    bench, worker, fence = running("a")
    bench.producer("other").order("set", queue="q", options={"max_jobs": 1})
    assert verdicts(worker, settling(worker, fence, {"a": [group("b", queue="q")]})) == []
    assert worker.ids() == ["b"]


def test_who_watches_a_sent_job_is_told_of_it() -> None:
    bench, worker, fence = running("a")
    watcher = bench.producer("other")
    worker.send(settling(worker, fence, {"a": [group("b")]}))
    watcher.send(m.Watch([b"b"]))
    other = bench.worker("v", "next")
    other.ack(other.one(m.Deliver).fence, "b")
    assert watcher.ends()["b"][0] == "done"


# ---- large, many


def test_several_jobs_with_large_payloads_travel_in_one_message() -> None:
    bench, worker, fence = running("a", "b", "c")
    large = bytes(limits.LARGE_BYTES)
    sends = {
        "a": [group("1", payload=b"1" + large), group("2", payload=b"2")],
        "b": [m.Group("next", {}, [b"3", b"4"], [b"3", b"4" + large])],
    }
    message = settling(worker, fence, sends, "a", "b", "c", value=b"r" + large)
    frames = encode(message)
    assert len(frames) == 6
    assert decode(frames) == message
    assert verdicts(worker, decode(frames)) == []  # type: ignore[arg-type]
    came = {
        identifier: payload[:1]
        for delivery in bench.worker("v", "next", capacity=9).take(m.Deliver)
        for identifier, payload in zip(delivery.ids, payloads(delivery), strict=True)
    }
    assert came == {b"%d" % n: b"%d" % n for n in (1, 2, 3, 4)}
    bench.check()


def test_what_one_message_sends_is_bounded() -> None:
    bench, worker, fence = running("a", "b")
    many = [f"j{n}" for n in range(limits.MAX_BATCH_JOBS)]
    over = settling(worker, fence, {"a": [group(*many)], "b": [group("one")]})
    assert worker.refused(over).code == "batch_too_large"
    heavy = [group(f"h{n}", payload=bytes(limits.MAX_PAYLOAD_BYTES)) for n in range(17)]
    assert worker.refused(settling(worker, fence, {"a": heavy})).code == "batch_too_large"
    assert state_of(bench, "a") == "leased" and counts(bench) == {}
    assert verdicts(worker, settling(worker, fence, {"a": [group(*many)]})) == []
    assert counts(bench) == {"ready": limits.MAX_BATCH_JOBS}


SENT = [7, b"a", [["q", {}, [b"x"], [b"p"]]], []]


@pytest.mark.parametrize(
    "sends",
    [
        None,
        7,
        [7],
        [[7, b"a"]],
        [[7, b"a", SENT[2]]],
        [[7, b"a", [], []]],
        [[7, b"a", SENT[2], 7]],
        [[7, b"a", [], [["topic", {}, b"x"]]]],
        [[7, b"", SENT[2], []]],
        [[-1, b"a", SENT[2], []]],
        [[7, b"a", [["q", {}, [], []]], []]],
        [[7, b"a", [["q", {}, [b"x"], [1]]], []]],
        [[7, b"a", [["q", {}, [b"x"], [b"p", b"p"]]], []]],
        [SENT, SENT],
        [[7, b"%d" % n, SENT[2], []] for n in range(limits.MAX_BATCH_JOBS + 1)],
    ],
)
def test_what_is_no_list_of_sent_jobs_is_malformed(sends: Any) -> None:

    with pytest.raises(MalformedMessage) as caught:
        decode([msgpack.packb([4, 5, [[7, 1, [b"a"], None]], sends])])
    assert caught.value.number == 5
