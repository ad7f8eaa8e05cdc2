"""Durations: what people may write, and that what is written is read back."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zclient.durations import duration_ms, format_duration, parse_duration
from zclient.errors import InvalidArgument


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5s", 5),
        ("300ms", 0.3),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("7", 7),
        (" 7 s ", 7),
        (7, 7),
        (0.25, 0.25),
        (0, 0),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations_as_people_write_them(written: Any, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "s",
        "-5s",
        "5 weeks",
        "5s5m",
        "1e3",
        "٣s",
        -1,
        float("nan"),
        float("inf"),
        10**400,
        True,
        None,
        b"5s",
        [],
        timedelta(seconds=-1),
    ],
)
def test_what_is_no_duration(written: Any) -> None:
    with pytest.raises(InvalidArgument, match="a duration is written like"):
        parse_duration(written)


@given(st.integers(0, 10**14))
def test_what_is_formatted_is_read_back(milliseconds: int) -> None:
    assert duration_ms(format_duration(milliseconds / 1000)) == milliseconds


def test_a_little_is_not_nothing() -> None:
    assert duration_ms(0.0001) == 1
    assert duration_ms(0) == 0
    assert format_duration(90) == "90s"
    assert format_duration(1.5) == "1500ms"
    assert format_duration(7200) == "2h"


@given(st.text(max_size=12))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except InvalidArgument as error:
        assert error.exit_code == 2
