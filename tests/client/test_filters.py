"""Filters as people write them, read and written again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zclient import InvalidArgument
from zclient.filters import parse_filter, wire_filters, written_filter
from zclient.protocol.topics import filters_fault


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("region=eu", ["region", "=", "eu"]),
        (" region = eu ", ["region", "=", "eu"]),
        ("n=10", ["n", "=", 10]),
        ("n=10.5", ["n", "=", 10.5]),
        ("n=-1e3", ["n", "=", -1000.0]),
        ('n="10"', ["n", "=", "10"]),
        ("paid=true", ["paid", "=", True]),
        ('paid="true"', ["paid", "=", "true"]),
        ("empty=", ["empty", "=", ""]),
        ("path=a=b", ["path", "=", "a=b"]),
        ("region in eu,us", ["region", "in", ["eu", "us"]]),
        ('x in "a,b", 7 ,c d,"\\"q\\""', ["x", "in", ["a,b", 7, "c d", '"q"']]),
        ("name^=ab", ["name", "^=", "ab"]),
        ("name^=10", ["name", "^=", "10"]),
        ('name^="a b"', ["name", "^=", "a b"]),
        ("amount>=10", ["amount", ">=", 10]),
        ("amount < 1.5", ["amount", "<", 1.5]),
        ("exists region", ["region", "exists", None]),
        ("!region", ["region", "absent", None]),
        ("in=in", ["in", "=", "in"]),
    ],
)
def test_what_a_filter_reads_as(text: str, test: list[Any]) -> None:
    assert parse_filter(text) == test
    assert parse_filter(written_filter(test)) == test


@pytest.mark.parametrize(
    "text",
    [
        "",
        "region",
        "=eu",
        "x!=3",
        "x=='3'y\"",
        'x="open',
        "x in",
        "x in ,",
        "x in a,,b",
        "x>ten",
        "x>=true",
        'x<"3"',
        "! ",
        "a b=c",
    ],
)
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(InvalidArgument):
        wire_filters([text])


@pytest.mark.parametrize(
    "given", ["region=eu", [("x",)], [("x", "~", 1)], [("x", "=", None)], [7], [("x", "in", "ab")]]
)
def test_parts_that_are_no_filter(given: Any) -> None:
    with pytest.raises(InvalidArgument):
        wire_filters(given)


def test_filters_in_parts() -> None:
    told = wire_filters([("x", "in", ("a", 1)), ("y", "exists"), ("z", ">=", 2.5), "w=1"])
    assert told == [["x", "in", ["a", 1]], ["y", "exists", None], ["z", ">=", 2.5], ["w", "=", 1]]


NAMES = st.from_regex(r"[a-z._-]{1,8}", fullmatch=True)
VALUES = st.one_of(
    st.text(max_size=8), st.integers(-(10**17), 10**17), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)


@given(NAMES, st.sampled_from(["=", "in", "^=", ">="]), st.lists(VALUES, min_size=1, max_size=4))
def test_what_is_written_reads_as_the_same(name: str, test: str, values: list[Any]) -> None:
    value = values if test == "in" else values[0]
    written = [name, test, value]
    if filters_fault([written]) is None:
        assert parse_filter(written_filter(written)) == written
