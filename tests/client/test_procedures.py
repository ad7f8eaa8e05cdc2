"""What clients do, driven by hand: refusals that are followed, pipelines that fail in part, timeouts, interruptions."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from zclient import verbs
from zclient.batches import WINDOW, Chunks, Pipeline
from zclient.errors import (
    BrokerUnreachable,
    DuplicateId,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    OutcomeUnknown,
    ProtocolFault,
    QueueFull,
    ResultExpired,
    ResultTimeout,
)
from zclient.handles import Jobs
from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode
from zclient.session import Session
from zclient.verbs import LAST_TRY_MS, End, Feed, Report, Wait, advance

GROUP = m.Group("q", {}, [b"a"], [b"\x01"])


class Bench:
    """A welcomed session, a clock, and a broker that the test speaks for."""

    def __init__(self, *, connected: bool = True) -> None:
        self.now = 0.0
        self.session = Session(bytes(16), name="test", info={})
        if connected:
            self.session.connected(self.now)
            self.said()
            self.say(m.Welcome(1, b"one", 1, {}, []))

    def said(self) -> list[Any]:
        return [decode(frames) for frames in self.session.outgoing(self.now)]

    def say(self, message: m.Message) -> None:
        self.session.receive(encode(message), self.now)


def full(number: int, retry_after_ms: int) -> m.Failure:
    return m.Failure(number, "queue_full", "full", {"retry_after_ms": retry_after_ms})


def test_a_refusal_that_says_when_is_followed() -> None:
    bench = Bench()
    procedure = verbs.sending(bench.session, bench.now, GROUP, 10_000)
    step = advance(procedure)
    assert isinstance(step, Wait) and step.until_ms == 10_000
    bench.said()
    bench.say(full(1, 2000))
    assert advance(procedure, bench.now) == Wait((), 2000)
    assert bench.said() == []
    bench.now = 2000
    advance(procedure, bench.now)
    assert bench.said() == [m.Put(2, 2, [GROUP])]
    bench.say(m.Ok([2]))
    assert advance(procedure, bench.now) == End({})


def test_a_refusal_that_stays_is_raised_after_a_last_try_that_has_time_for_its_answer() -> None:
    bench = Bench()
    procedure = verbs.sending(bench.session, bench.now, GROUP, 1000)
    advance(procedure)
    bench.said()
    bench.say(full(1, 2000))
    bench.now = 1000.0 - LAST_TRY_MS
    assert advance(procedure, 5) == Wait((), bench.now)
    advance(procedure, bench.now)
    assert bench.said() == [m.Put(2, 2, [GROUP])]
    bench.say(full(2, 2000))
    with pytest.raises(QueueFull):
        advance(procedure, bench.now)
    assert bench.said() == []


def test_a_refusal_without_a_when_or_without_time_is_raised_at_once() -> None:
    for refusal, timeout_ms in ((m.Failure(1, "duplicate_id", "", {}), 1000), (full(1, 10), 0), (full(1, 10), 150)):
        bench = Bench()
        procedure = verbs.sending(bench.session, bench.now, GROUP, timeout_ms)
        advance(procedure)
        bench.said()
        bench.say(refusal)
        with pytest.raises(DuplicateId if timeout_ms == 1000 else QueueFull):
            advance(procedure, bench.now)


def test_a_caller_that_slept_through_its_time_sends_nothing_more() -> None:
    bench = Bench()
    procedure = verbs.sending(bench.session, bench.now, GROUP, 10_000)
    advance(procedure)
    bench.said()
    bench.say(full(1, 2000))
    advance(procedure, bench.now)
    bench.now = 10_001
    with pytest.raises(QueueFull):
        advance(procedure, bench.now)
    assert bench.said() == []


def test_a_taken_unique_text_tells_the_job_that_has_it() -> None:
    bench = Bench()
    procedure = verbs.sending(bench.session, bench.now, GROUP, 1000)
    advance(procedure)
    bench.said()
    bench.say(m.Answer(1, {"instead": [[b"a", b"first"]]}))
    assert advance(procedure, bench.now) == End({b"a": b"first"})


@pytest.mark.parametrize(
    "answer", [7, {}, {"instead": [[b"a"]]}, {"instead": [["a", "b"]]}, {"instead": [[b"a", b""]]}]
)
def test_an_answer_to_a_put_that_cannot_be_read_is_a_fault_of_the_broker(answer: Any) -> None:
    with pytest.raises(ProtocolFault):
        verbs.instead_of(answer)


@pytest.mark.parametrize("sent", [False, True])
def test_an_interrupted_call_gives_up_what_it_asked_for(sent: bool) -> None:
    bench = Bench()
    procedure = verbs.sending(bench.session, bench.now, GROUP, 1000)
    step = advance(procedure)
    assert isinstance(step, Wait)
    if sent:
        bench.said()
    procedure.close()
    assert isinstance(step.requests[0].error, OutcomeUnknown if sent else BrokerUnreachable)
    assert bench.said() == []


def test_an_answer_that_cannot_be_read_is_a_fault_of_the_broker() -> None:
    for verb, answer in ((verbs.show("a"), {"id": b"a"}), (verbs.purge("q"), []), (verbs.queues(), [1])):
        bench = Bench()
        procedure = verbs.asking(bench.session, bench.now, verb, 1000)
        advance(procedure)
        bench.said()
        bench.say(m.Answer(1, answer))
        with pytest.raises(ProtocolFault, match=verb.name):
            advance(procedure, bench.now)


# ---- results


@pytest.mark.parametrize(
    ("state", "result", "cause", "ends_with"),
    [
        ("done", b"\x05", None, 5),
        ("done", None, None, None),
        ("cancelled", None, None, JobCancelled),
        ("cancelled", None, {"reason": "replaced", "by": b"b"}, JobCancelled),
        ("unknown", None, None, ResultExpired),
        ("dead", None, {"reason": "attempts", "error": {"type": "KeyError", "text": "'x'"}, "attempts": 3}, JobFailed),
        ("dead", None, None, JobFailed),
        ("dead", None, {"error": "odd"}, JobFailed),
    ],
)
def test_how_jobs_end(state: str, result: Any, cause: Any, ends_with: Any) -> None:
    bench = Bench()
    procedure = verbs.ending(bench.session, bench.now, b"a", math.inf)
    step = advance(procedure)
    assert isinstance(step, Wait) and step.until_ms == math.inf
    bench.said()
    bench.say(m.Finished([(b"a", state, result, cause)]))
    if not isinstance(ends_with, type):
        assert advance(procedure, bench.now) == End(ends_with)
        return
    with pytest.raises(ends_with) as error:
        advance(procedure, bench.now)
    if cause and "attempts" in cause:
        assert error.value.reason == "attempts" and error.value.error == cause["error"]
        assert str(error.value) == "job a is dead (attempts): KeyError: 'x'"


@pytest.mark.parametrize(
    ("cause", "text", "reason", "by"),
    [
        (None, "job a was cancelled", "cancelled", None),
        ({"reason": "purged"}, "job a was purged", "purged", None),
        ({"reason": "replaced", "by": b"b"}, "job a was replaced by b", "replaced", "b"),
    ],
)
def test_why_a_job_was_cancelled(cause: Any, text: str, reason: str, by: str | None) -> None:
    with pytest.raises(JobCancelled) as error:
        verbs.outcome(b"a", "cancelled", None, cause)
    assert (str(error.value), error.value.reason, error.value.by) == (text, reason, by)


def test_where_a_dead_job_went() -> None:
    with pytest.raises(JobFailed) as error:
        verbs.outcome(b"a", "dead", None, {"reason": "attempts", "moved_to": "graveyard"})
    assert error.value.moved_to == error.value.details["moved_to"] == "graveyard"
    assert str(error.value) == "job a is dead (attempts); it went to the queue graveyard"


def test_a_result_that_does_not_come_in_time() -> None:
    bench = Bench()
    first = verbs.ending(bench.session, bench.now, b"a", 1000)
    second = verbs.ending(bench.session, bench.now, b"a", 5000)
    advance(first)
    advance(second)
    bench.said()
    with pytest.raises(ResultTimeout):
        advance(first, 1000)
    assert bench.said() == [], "the other one still watches"
    bench.say(m.Finished([(b"a", "done", b"\x05", None)]))
    assert advance(second, 1000) == End(5)
    unreached = verbs.ending(Bench(connected=False).session, 0, b"a", 1000)
    advance(unreached)
    with pytest.raises(BrokerUnreachable):
        advance(unreached, 1000)


# ---- pipelines


class Producer:
    """Runs a pipeline over a bench: ``answer`` is called with each PUT, and may say something."""

    def __init__(self, bench: Bench, payloads: Any, answer: Callable[[m.Put], None], **given: Any) -> None:
        self.bench = bench
        self.answer = answer
        self.chunks = Chunks(payloads)
        self.pipeline = Pipeline(bench.session, "q", {}, given.get("timeout_ms", 1000), given.get("jobs", 10))
        self.reports: list[int] = []
        self.waits = 0

    def run(self) -> Any:
        procedure = self.pipeline.run(self.bench.now)
        step = advance(procedure)
        while not isinstance(step, End):
            for put in self.bench.said():
                self.answer(put)
            if isinstance(step, Feed):
                try:
                    step = advance(procedure, (self.bench.now, self.chunks.next(step)))
                except InvalidArgument as error:
                    step = advance(procedure, failure=error)
            elif isinstance(step, Report):
                self.reports.append(step.confirmed)
                step = advance(procedure, self.bench.now)
            else:
                self.waits += 1
                if not any(request.done for request in step.requests):
                    self.bench.now = step.until_ms
                step = advance(procedure, self.bench.now)
        return step.value


def test_batches_follow_each_other_and_all_ids_are_told_in_order() -> None:
    bench = Bench()
    heard: list[m.Put] = []

    def answer(put: m.Put) -> None:
        heard.append(put)
        bench.say(m.Ok([put.number]))

    producer = Producer(bench, range(95), answer)
    ids = producer.run()
    assert [len(put.groups[0].ids) for put in heard] == [10] * 9 + [5]
    assert list(ids) == [identifier for put in heard for identifier in put.groups[0].ids]
    assert producer.reports[-1] == 95
    assert bench.session.pending is False


def test_the_window_bounds_what_is_on_its_way() -> None:
    bench = Bench()
    open_puts: list[m.Put] = []
    most = 0

    def answer(put: m.Put) -> None:
        nonlocal most
        open_puts.append(put)
        most = max(most, len(open_puts))
        if len(open_puts) == WINDOW:
            bench.say(m.Ok([open_puts.pop(3).number]))

    producer = Producer(bench, range(300), answer)
    with pytest.raises(OutcomeUnknown) as error:
        producer.run()
    assert most == WINDOW
    assert len(error.value.unknown) == (WINDOW - 1) * 10
    assert len(error.value.confirmed) == 300 - (WINDOW - 1) * 10
    assert set(error.value.unknown).isdisjoint(error.value.confirmed)


def test_batches_are_cut_by_bytes_and_by_what_the_broker_takes() -> None:
    bench = Bench()
    bench.session.limits = {"batch_jobs": 4, "batch_bytes": 1000}
    sizes: list[int] = []

    def answer(put: m.Put) -> None:
        sizes.append(len(put.groups[0].ids))
        bench.say(m.Ok([put.number]))

    Producer(bench, [b"x"] * 6 + [b"x" * 600] * 4, answer).run()
    assert sizes == [4, 4, 2]


def test_a_full_queue_delays_its_batch_alone() -> None:
    bench = Bench()
    numbers: list[tuple[int, int]] = []

    def answer(put: m.Put) -> None:
        numbers.append((put.number, put.groups[0].payloads[0][0]))
        bench.say(full(put.number, 200) if put.number == 2 else m.Ok([put.number]))

    producer = Producer(bench, range(30), answer)
    assert len(producer.run()) == 30
    assert numbers == [(1, 0), (2, 10), (3, 20), (4, 10)]
    assert bench.now == 200
    assert producer.reports[-1] == 30


def test_a_queue_that_stays_full_ends_its_batch_as_full() -> None:
    bench = Bench()
    numbers: list[int] = []

    def answer(put: m.Put) -> None:
        numbers.append(put.number)
        bench.say(full(put.number, 400) if put.number > 1 else m.Ok([put.number]))

    with pytest.raises(QueueFull) as error:
        Producer(bench, range(20), answer, timeout_ms=1000).run()
    assert numbers == [1, 2, 3, 4]
    assert bench.now == 1000 - LAST_TRY_MS
    assert len(error.value.confirmed) == 10 and len(error.value.unknown) == 0


def test_without_time_a_full_queue_ends_the_pipeline_at_once() -> None:
    bench = Bench()
    with pytest.raises(QueueFull):
        Producer(bench, range(20), lambda put: bench.say(full(put.number, 400)), timeout_ms=0).run()
    assert bench.now == 0


def test_jobs_that_were_there_already_stand_in_the_places_of_those_that_were_not_stored() -> None:
    bench = Bench()

    def answer(put: m.Put) -> None:
        ids = put.groups[0].ids
        bench.say(m.Answer(put.number, {"instead": [[ids[1], b"first"], [ids[4], b"second"]]}))

    ids = Producer(bench, range(5), answer, jobs=5).run()
    jobs = Jobs(ids, lambda identifier, existing=False: (identifier, existing))
    assert [job for job in jobs if job[1]] == [("first", True), ("second", True)]
    assert [position for position, (_, existing) in enumerate(jobs) if existing] == [1, 4]
    assert [identifier for identifier, _ in jobs] == list(jobs.ids)
    assert list(jobs[4:0:-3]) == [("second", True), ("first", True)]
    assert jobs[0] == (ids.id(0).decode(), False)


def test_a_refusal_ends_the_pipeline_and_the_others_are_waited_for() -> None:
    bench = Bench()
    heard: list[m.Put] = []

    def answer(put: m.Put) -> None:
        heard.append(put)
        if len(heard) == 4:
            # Answers come late: the third batch is refused while others are on their way.
            bench.say(m.Failure(heard[2].number, "duplicate_id", "", {}))
        elif len(heard) < 3:
            bench.say(m.Ok([put.number]))

    with pytest.raises(DuplicateId) as error:
        Producer(bench, range(1000), answer).run()
    assert len(heard) == 4
    assert list(error.value.confirmed) == [i.decode() for put in heard[:2] for i in put.groups[0].ids]
    assert list(error.value.unknown) == [i.decode() for i in heard[3].groups[0].ids]
    assert error.value.__notes__ == ["20 jobs are confirmed, 10 unknown, none else is stored"]


def test_a_payload_that_cannot_be_encoded_ends_the_pipeline() -> None:
    bench = Bench()
    with pytest.raises(InvalidArgument) as error:
        Producer(bench, [*range(25), object()], lambda put: bench.say(m.Ok([put.number]))).run()
    assert len(error.value.confirmed) == 20


def test_waiting_for_the_callers_payloads_costs_no_batch_its_time() -> None:
    bench = Bench()
    procedure = Pipeline(bench.session, "q", {}, 1000, 1).run(bench.now)
    advance(procedure)
    assert isinstance(advance(procedure, (0.0, [b"\x01"])), Feed)
    bench.said()
    bench.now = 5000
    step = advance(procedure, (bench.now, []))
    assert isinstance(step, Wait) and step.until_ms == 6000
    bench.say(m.Ok([1]))
    assert advance(procedure, bench.now) == Report(1)
    assert isinstance(advance(procedure, bench.now), End)


def test_an_interrupted_pipeline_gives_up_its_batches() -> None:
    bench = Bench()
    procedure = Pipeline(bench.session, "q", {}, 1000, 1).run(bench.now)
    advance(procedure)
    advance(procedure, (0.0, [b"\x01"]))
    bench.said()
    advance(procedure, (0.0, [b"\x02"]))
    procedure.close()
    bench.session.put([GROUP], bench.now)
    assert bench.said() == [m.Put(2, 2, [GROUP])]
