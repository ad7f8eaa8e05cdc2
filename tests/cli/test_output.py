"""What people and programs get to read: JSON, tables, durations, moments, and nothing that steers a terminal."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from zclient.cli import output


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x00\xff", {"base64": "AP8="}),
        ({"a": [b"x", (1, None)]}, {"a": [{"base64": "eA=="}, [1, None]]}),
        ({1: "a", None: "b", b"k": "c"}, {"1": "a", "null": "b", '{"base64": "aw=="}': "c"}),
        (float("inf"), "inf"),
        (datetime(2031, 5, 4, 12, 30, tzinfo=UTC), "2031-05-04T12:30:00.000Z"),
        (True, True),
    ],
)
def test_every_value_of_a_payload_has_a_json_form(value: object, expected: object) -> None:
    assert json.loads(output.json_text(value)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (0.25, "0.25s"),
        (1, "1s"),
        (59.6, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (3605, "1h"),
        (90000, "1d 1h"),
        (-4, "0s"),
    ],
)
def test_durations_are_told_in_two_units(seconds: float, expected: str) -> None:
    assert output.span(seconds) == expected


def test_a_moment_is_local_and_has_its_age() -> None:
    at = datetime(2031, 5, 4, 12, 30, tzinfo=UTC)
    assert output.moment(at, at + timedelta(minutes=5)) == "2031-05-04T07:30:00-05:00 (5m ago)"
    assert output.moment(at, at - timedelta(hours=2)) == "2031-05-04T07:30:00-05:00 (in 2h)"
    assert output.moment(None, at) == "-"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        ("", "-"),
        (True, "yes"),
        (["a", 1], '["a", 1]'),
        ("naïve ✓", "naïve ✓"),
        ("\x1b[2Jgone\nline", "\\x1b[2Jgone\\nline"),
        ("\ud800", "\\ud800"),
    ],
)
def test_text_for_people_is_one_printable_line(value: object, expected: str) -> None:
    assert output.plain(value) == expected


def test_a_block_keeps_its_lines_and_nothing_that_steers() -> None:
    assert output.block("Traceback:\n\tx\x1b]0;t\x07") == "    Traceback:\n        x\\x1b]0;t\\x07"


def test_columns_are_aligned_and_numbers_stand_right(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("id", "state", "jobs"), [("a", "ready", 7), ("long-one", None, 1200)])
    assert capsys.readouterr().out == (
        "id        state  jobs\n"
        "a         ready     7\n"
        "long-one  -      1200\n"
    )  # fmt: skip


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields({"id": "a", "worker": None, "paused": False})
    assert capsys.readouterr().out == "id      a\npaused  no\n"


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False), ("", True)])
def test_colour_is_for_terminals_and_not_against_the_owners_wish(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool
) -> None:
    assert output.in_colour() is False
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert output.in_colour() is coloured


def test_a_terminal_gets_no_line_longer_than_it_is_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    output.print_table(("id", "error"), [("0123456789", "an error of many words")])
    assert capsys.readouterr().out.splitlines()[1] == "0123456789  an erro…"
