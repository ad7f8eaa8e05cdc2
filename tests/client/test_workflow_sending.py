"""A workflow on its way, with a broker that the test speaks for: parts in a pipeline, refusals, what goes back."""

from typing import Any

import pytest

from tests.client.test_procedures import Bench, full
from zclient.composition import Workflow, group, step
from zclient.errors import BatchClosed, BrokerUnreachable, DuplicateId, OutcomeUnknown, QueueFull, Refused
from zclient.parts import TAKE_BACK_MS, WINDOW, Parts, Sending, parts_of, to_be_sent
from zclient.protocol import messages as m
from zclient.verbs import LAST_TRY_MS, End, Wait, advance


def large(parts: int) -> Parts:
    """A workflow of so many parts."""
    return parts_of(group("q", range(10 * parts)).workflow("w"), jobs=10)


class Sender:
    """A procedure that sends, and its bench."""

    def __init__(self, parts: Parts, timeout_ms: float = 10_000, *, connected: bool = True) -> None:
        self.bench = Bench(connected=connected)
        self.parts = parts
        self.procedure = Sending(self.bench.session, parts, timeout_ms).run(self.bench.now)
        self.step: Any = advance(self.procedure)

    def go_on(self) -> Any:
        self.step = advance(self.procedure, self.bench.now)
        return self.step

    def said(self) -> list[tuple[int, int]]:
        """Number and part of each message of the workflow that leaves now."""
        told = [message for message in self.bench.said() if isinstance(message, m.Workflow)]
        assert all(message.id == self.parts.id and message.parts == len(self.parts.bodies) for message in told)
        assert all((message.plan is not None) == (message.part == 0) for message in told)
        return [(message.number, message.part) for message in told]

    def refuse(self, number: int, code: str) -> None:
        self.bench.say(m.Failure(number, code, code, {}))


def test_one_part_and_its_answer() -> None:
    sender = Sender(large(1))
    assert sender.said() == [(1, 0)]
    sender.bench.say(m.Ok([1]))
    assert sender.go_on() == End(None)


def test_parts_are_pipelined_and_end_in_their_order() -> None:
    sender = Sender(large(WINDOW + 3))
    assert [part for _, part in sender.said()] == list(range(WINDOW))
    sender.bench.say(m.Ok([2]))
    sender.go_on()
    assert sender.said() == []  # the first one is not answered
    sender.bench.say(m.Ok([1]))
    sender.go_on()
    sender.go_on()
    assert sender.said() == [(WINDOW + 1, WINDOW), (WINDOW + 2, WINDOW + 1)]
    sender.bench.say(m.Ok(list(range(3, WINDOW + 3))))
    sender.go_on()
    sender.go_on()
    assert sender.said() == [(WINDOW + 3, WINDOW + 2)]
    sender.bench.say(m.Ok([WINDOW + 3]))
    assert sender.go_on() == End(None)


def test_a_part_that_is_answered_gives_those_behind_it_their_time() -> None:
    sender = Sender(large(2), timeout_ms=1000)
    sender.said()
    sender.bench.now = 900
    sender.bench.say(m.Ok([1]))
    assert sender.go_on().until_ms == 1900


def test_a_refusal_that_says_when_is_followed_from_that_part_on() -> None:
    sender = Sender(large(3))
    assert sender.said() == [(1, 0), (2, 1), (3, 2)]
    sender.bench.say(m.Ok([1]))
    sender.bench.say(full(2, 2000))
    sender.refuse(3, "invalid")  # it is out of order now
    assert sender.go_on() == Wait([], 2000)
    assert sender.said() == []
    sender.bench.now = 2000
    sender.go_on()
    assert sender.said() == [(4, 1), (5, 2)]
    sender.bench.say(m.Ok([4, 5]))
    assert sender.go_on() == End(None)


def test_a_refusal_that_stays_is_raised_when_the_time_is_over_and_what_is_staged_is_taken_back() -> None:
    sender = Sender(large(2), timeout_ms=1000)
    sender.said()
    sender.bench.say(full(1, 5000))
    sender.refuse(2, "not_found")
    assert sender.go_on().until_ms == 1000 - LAST_TRY_MS
    sender.bench.now = 1000.0 - LAST_TRY_MS
    sender.go_on()
    assert sender.said() == [(3, 0), (4, 1)]
    sender.bench.now = 900
    sender.bench.say(full(3, 5000))
    sender.go_on()
    (order,) = sender.bench.said()
    assert (order.verb, order.arguments) == ("cancel_workflow", {"id": sender.parts.id})
    sender.bench.say(m.Failure(order.number, "not_found", "", {}))
    with pytest.raises(QueueFull):
        sender.go_on()


def test_a_refusal_takes_back_what_was_staged_and_waits_for_that_no_longer_than_a_moment() -> None:
    sender = Sender(large(3))
    sender.said()
    sender.bench.say(m.Ok([1]))
    sender.refuse(2, "batch_closed")
    step = sender.go_on()
    (order,) = sender.bench.said()
    assert order.verb == "cancel_workflow" and step.until_ms == TAKE_BACK_MS
    sender.bench.now = step.until_ms
    with pytest.raises(BatchClosed):
        sender.go_on()
    assert sender.bench.said() == []


@pytest.mark.parametrize(("parts", "code", "error"), [(1, "closed", Refused), (2, "duplicate_id", DuplicateId)])
def test_nothing_is_taken_back_where_nothing_is_staged_or_it_is_somebody_elses(
    parts: int, code: str, error: type[Exception]
) -> None:
    sender = Sender(large(parts))
    sender.said()
    sender.refuse(1, code)
    with pytest.raises(error):
        sender.go_on()
    assert sender.bench.said() == []


def test_without_a_broker_nothing_was_sent() -> None:
    sender = Sender(large(2), timeout_ms=1000, connected=False)
    sender.bench.now = 1000
    with pytest.raises(BrokerUnreachable):
        sender.go_on()


def test_unknown_is_only_what_left_as_a_whole() -> None:
    sender = Sender(large(2), timeout_ms=1000)
    assert len(sender.said()) == 2
    sender.bench.now = 1000
    with pytest.raises(OutcomeUnknown) as caught:
        sender.go_on()
    assert caught.value.id == sender.parts.id.decode()

    sender = Sender(large(WINDOW + 1), timeout_ms=1000)
    assert len(sender.said()) == WINDOW
    sender.bench.now = 1000
    with pytest.raises(BrokerUnreachable):  # the last part never left: it can never be there
        sender.go_on()


def test_a_sending_that_is_interrupted_withdraws_what_did_not_leave() -> None:
    sender = Sender(large(3))
    sender.procedure.close()
    assert sender.said() == []


def test_a_connection_that_is_lost_brings_the_parts_again_under_their_numbers() -> None:
    sender = Sender(large(2))
    first = sender.said()
    sender.bench.session.disconnected(sender.bench.now)
    sender.bench.session.connected(sender.bench.now)
    assert sender.said() == []
    sender.bench.say(m.Welcome(1, b"one", 1, {}, []))
    assert sender.said() == first
    sender.bench.say(m.Ok([1, 2]))
    assert sender.go_on() == End(None)


def test_a_workflow_that_was_confirmed_is_not_sent_again_by_mistake() -> None:
    flow = step("q").workflow("w")
    same, parts = to_be_sent(flow, None, None)
    assert same is flow and to_be_sent(flow, None, None)[1] is parts  # not confirmed: the same once more
    flow.sent = True
    for given in (None, flow.id):
        with pytest.raises(ValueError, match=r"copy\(\)"):
            to_be_sent(flow, None, given)
    piece = step("q")
    made = [to_be_sent(piece, "named", None) for _ in range(2)]
    assert made[0][1].id != made[1][1].id and made[0][0].name == "named"
    assert to_be_sent(piece, None, parts.id.decode())[1].id == parts.id
    wrong: list[Any] = ["q", [piece], None]
    for each in wrong:
        with pytest.raises(ValueError, match="a Workflow, or what"):
            to_be_sent(each, None, None)
    with pytest.raises(ValueError, match="name already"):
        to_be_sent(Workflow("w"), "other", None)
