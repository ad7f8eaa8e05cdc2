"""What exceptions mean, and what of them travels to the broker."""

import pytest

from zclient.errors import InvalidArgument
from zclient.protocol.limits import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS
from zclient.protocol.messages import Outcome
from zworker import Cancelled, Reject, Retry, Snooze
from zworker.outcomes import Reported, error_map, failed


def raised(error: BaseException) -> BaseException:
    """The error as an ``except`` sees it, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_is_retried_with_type_text_and_traceback() -> None:
    outcome, value = failed(raised(KeyError("who")))
    assert outcome == Outcome.NACK
    assert (value["type"], value["text"]) == ("KeyError", "'who'")
    assert "raise error" in value["traceback"]
    assert value["traceback"].rstrip().endswith("KeyError: 'who'")


def test_the_type_of_an_error_of_a_library_names_its_module() -> None:
    assert error_map(InvalidArgument("no"))["type"] == "zclient.errors.InvalidArgument"


def test_an_error_that_the_task_does_not_have_retried_is_a_rejection() -> None:
    outcome, value = failed(raised(KeyError("who")), may_retry=False)
    assert (outcome, value["type"]) == (Outcome.REJECT, "KeyError")


def test_what_says_itself_how_the_job_ends_is_taken_at_its_word() -> None:
    ends = [failed(error, may_retry=False).outcome for error in (Retry(), Retry(5), Snooze(5), Reject())]
    assert ends == [Outcome.NACK, Outcome.NACK, Outcome.SNOOZE, Outcome.REJECT]
    assert failed(Cancelled()) == (Outcome.REJECT, {"type": "Cancelled", "text": "cancelled while it ran"})


def test_retry_carries_its_delay_and_its_reason() -> None:
    assert failed(Retry(delay="5s", reason="rate limited")) == (
        Outcome.NACK,
        {"type": "zworker.outcomes.Retry", "text": "rate limited", "delay": 5000},
    )
    assert "delay" not in failed(Retry()).value
    assert failed(Retry(0)).value["delay"] == 0


def test_retry_and_reject_keep_the_error_they_come_from() -> None:
    try:
        try:
            raise KeyError("who")
        except KeyError as error:
            raise Reject("unknown user") from error
    except Reject as error:
        outcome, value = failed(error)
    assert outcome == Outcome.REJECT
    assert (value["type"], value["text"]) == ("KeyError", "unknown user: 'who'")
    assert "KeyError" in value["traceback"]


def test_snooze_carries_its_time() -> None:
    assert failed(Snooze("5m")) == (Outcome.SNOOZE, 300_000)


@pytest.mark.parametrize("wrong", ["soon", -1, "4000d", None])
def test_a_time_that_cannot_be_is_refused_where_it_is_written(wrong: object) -> None:
    with pytest.raises(InvalidArgument):
        Snooze(wrong)  # type: ignore[arg-type]


def test_texts_are_cut_at_their_end_and_tracebacks_at_their_start() -> None:
    told = error_map(raised(ValueError("x" * 50_000)))
    assert len(told["text"]) == MAX_ERROR_CHARS and told["text"].endswith("x…")
    assert len(told["traceback"]) == MAX_TRACEBACK_CHARS and told["traceback"].startswith("…x")
    deep = error_map({"text": "a" * 5000, "traceback": "b" * 50_000 + "end", "other": 1})
    assert len(deep["text"]) == MAX_ERROR_CHARS
    assert len(deep["traceback"]) == MAX_TRACEBACK_CHARS and deep["traceback"].endswith("bend")
    assert "other" not in deep


def test_an_error_that_cannot_be_told_is_still_an_error() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    told = error_map(raised(Silent()))
    assert told["type"].endswith("Silent")
    assert "RuntimeError" in told["text"]


def test_text_that_utf8_cannot_carry_is_escaped() -> None:
    told = error_map(raised(OSError("no such file: \udcff")))
    for text in told.values():
        text.encode()
    assert "\\udcff" in told["text"]


def test_a_plain_reason_and_a_reported_map() -> None:
    assert error_map("because") == {"text": "because"}
    assert error_map(Reported({"type": "exit code 3", "text": "sh ended"})) == {
        "type": "exit code 3",
        "text": "sh ended",
    }


def test_endless_recursion_is_told_within_the_limits() -> None:
    def again() -> None:
        again()

    try:
        again()
    except RecursionError as error:
        told = error_map(error)
    assert told["type"] == "RecursionError"
    assert len(told["traceback"]) <= MAX_TRACEBACK_CHARS
