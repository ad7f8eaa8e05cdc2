"""What exceptions mean, and what of them travels to the broker."""

import pytest

from zclient.errors import InvalidArgument
from zclient.protocol.limits import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS
from zclient.protocol.messages import Outcome
from zworker import Reject, Retry, Snooze
from zworker.outcomes import Reported, error_map, failed, failed_with


def raised(error: BaseException) -> BaseException:
    """The error as an ``except`` sees it, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_is_retried_with_type_text_and_traceback() -> None:
    outcome, value = failed(raised(KeyError("who")), attempt=1, max_attempts=None)
    assert outcome == Outcome.NACK
    assert (value["type"], value["text"]) == ("KeyError", "'who'")
    assert "raise error" in value["traceback"]
    assert value["traceback"].rstrip().endswith("KeyError: 'who'")


def test_the_type_of_an_error_of_a_library_names_its_module() -> None:
    assert error_map(InvalidArgument("no"))["type"] == "zclient.errors.InvalidArgument"


@pytest.mark.parametrize(("attempt", "reason"), [(1, None), (2, None), (3, "attempts"), (4, "attempts")])
def test_the_last_attempt_of_a_task_is_rejected_for_its_attempts(attempt: int, reason: str | None) -> None:
    for outcome, value in (
        failed(ValueError("x"), attempt, max_attempts=3),
        failed(Retry(delay="5s"), attempt, max_attempts=3),
        failed_with("timeout", "too long", attempt, max_attempts=3),
    ):
        assert outcome == (Outcome.NACK if reason is None else Outcome.REJECT)
        assert value.get("reason") == reason
        assert reason is None or "delay" not in value


def test_retry_carries_its_delay_and_its_reason() -> None:
    assert failed(Retry(delay="5s", reason="rate limited"), 1, None) == (
        Outcome.NACK,
        {"type": "zworker.outcomes.Retry", "text": "rate limited", "delay": 5000},
    )
    assert "delay" not in failed(Retry(), 1, None).value
    assert failed(Retry(0), 1, None).value["delay"] == 0


def test_retry_and_reject_keep_the_error_they_come_from() -> None:
    try:
        try:
            raise KeyError("who")
        except KeyError as error:
            raise Reject("unknown user") from error
    except Reject as error:
        outcome, value = failed(error, 1, None)
    assert outcome == Outcome.REJECT
    assert (value["type"], value["text"]) == ("KeyError", "unknown user: 'who'")
    assert "KeyError" in value["traceback"]


def test_snooze_burns_nothing_whatever_the_attempt() -> None:
    assert failed(Snooze("5m"), 99, max_attempts=1) == (Outcome.SNOOZE, 300_000)


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
