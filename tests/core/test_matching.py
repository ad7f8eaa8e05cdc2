"""Patterns and filters against a matcher that tries everything, and against patterns that are made to hurt."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zbroker import limits
from zbroker.core.matching import Patterns, TooManyMatches, compiled, number_of, overlap, passes
from zclient.protocol.limits import MAX_OPEN_WORDS, MAX_TOPIC_WORDS
from zclient.protocol.topics import filters_fault, pattern_fault, topic_fault

# ---- the naive matcher


def takes(pattern: list[str], topic: list[str]) -> bool:
    """Whether a pattern takes a topic, by trying every number of words for each `#`."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(takes(pattern[1:], topic[n:]) for n in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and takes(pattern[1:], topic[1:])


def is_number(value: Any) -> bool:
    return type(value) in (int, float) or (
        type(value) is str and re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,18})?", value, re.ASCII) is not None
    )


def equals(header: Any, wanted: Any) -> bool:
    if type(wanted) is str:
        return type(header) is str and header == wanted
    if type(wanted) is bool:
        return header is wanted or header == ("true" if wanted else "false")
    return is_number(header) and float(header) == float(wanted)


def holds(name: str, test: str, value: Any, headers: dict[str, Any]) -> bool:
    if test in ("exists", "absent"):
        return (name in headers) == (test == "exists")
    if name not in headers:
        return False
    header = headers[name]
    if test == "=":
        return equals(header, value)
    if test == "in":
        return any(equals(header, one) for one in value)
    if test == "^=":
        return isinstance(header, str) and header.startswith(value)
    if not is_number(header):
        return False
    order = (float(header) > float(value)) - (float(header) < float(value))
    return order in {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1)}[test]


# ---- against it

WORDS = st.sampled_from(["a", "b", "c"])
TOPICS = st.lists(WORDS, min_size=1, max_size=6).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from(["*", "#"])), min_size=1, max_size=6).map(".".join)
NAMES = st.sampled_from(["x", "y"])
VALUES = st.sampled_from([1, 0, 10, 10.0, 2.5, True, False, "10", "10.0", "2.5", "true", "false", "1", "ab", "abc", ""])
FILTERS = st.lists(
    st.one_of(
        st.tuples(NAMES, st.just("="), VALUES),
        st.tuples(NAMES, st.just("in"), st.lists(VALUES, min_size=1, max_size=3)),
        st.tuples(NAMES, st.just("^="), st.sampled_from(["a", "ab", "1"])),
        st.tuples(NAMES, st.sampled_from(["exists", "absent"]), st.none()),
        st.tuples(NAMES, st.sampled_from(["<", "<=", ">", ">="]), st.sampled_from([1, 2.5, 10])),
    ).map(list),
    max_size=3,
)
HEADERS = st.dictionaries(NAMES, VALUES)


@given(
    st.lists(st.tuples(PATTERNS, st.integers(0, 3), FILTERS), max_size=12),
    st.lists(st.tuples(TOPICS, HEADERS), max_size=6),
)
def test_what_is_found_is_what_the_naive_matcher_finds(
    bound: list[tuple[str, int, list[Any]]], published: list[tuple[str, dict[str, Any]]]
) -> None:
    patterns: Patterns[int] = Patterns()
    kept: dict[tuple[str, int], list[Any]] = {}
    for n, (pattern, key, filters) in enumerate(bound):
        if n % 4 == 3:  # one of those before is taken out again
            pattern, key = next(iter(kept))
            patterns.remove(pattern, key)
            del kept[pattern, key]
        else:
            patterns.add(pattern, key, filters)
            kept[pattern, key] = filters
        for topic, headers in published:
            expected = {
                key
                for (pattern, key), filters in kept.items()
                if takes(pattern.split("."), topic.split(".")) and all(holds(*one, headers) for one in filters)
            }
            assert set(patterns.find(topic, headers)) == expected
        assert patterns.size == len(kept)
    for pattern, key in kept:
        patterns.remove(pattern, key)
    assert patterns.size == 0
    assert not patterns._root.following, "no node is left"


@given(FILTERS, HEADERS)
def test_filters_by_themselves(filters: list[Any], headers: dict[str, Any]) -> None:
    assert filters_fault(filters) is None
    assert passes(compiled(filters), headers) == all(holds(*one, headers) for one in filters)


@given(PATTERNS, PATTERNS, st.lists(TOPICS, max_size=20))
def test_patterns_that_share_a_topic_overlap(one: str, other: str, topics: list[str]) -> None:
    both = [
        topic
        for topic in topics
        if takes(one.split("."), topic.split(".")) and takes(other.split("."), topic.split("."))
    ]
    assert overlap(one, other) == overlap(other, one)
    assert overlap(one, other) or not both


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.*", "*.b", True),
        ("a.*", "b.#", False),
        ("#.a", "b.#", True),
        ("a", "a.#", True),
        ("a.#.b", "a.*.c", False),
        ("#", "x.y.z", True),
        ("*", "a.b", False),
        ("#.a.#", "*.*", True),
        ("a.b", "a.b", True),
        ("#.#", "#", True),
    ],
)
def test_which_patterns_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is expected


# ---- what hurts


def test_ten_thousand_bindings_are_walked_in_a_few_steps() -> None:
    patterns: Patterns[int] = Patterns()
    for n in range(10_000):
        patterns.add(f"orders.{n % 100}.{n // 100}.*", n, [["region", "=", f"r{n}"]] if n % 2 else ())
    assert list(patterns.find("orders.42.7.created", {})) == [742]
    assert list(patterns.find("orders.43.7.created", {"region": "r743"})) == [743]
    assert not patterns.find("orders.43.7.created", {"region": "r745"})
    assert patterns.looked <= 6


def test_many_filters_of_one_pattern_are_found_by_value() -> None:
    patterns: Patterns[int] = Patterns()
    for n in range(10_000):
        patterns.add("orders.#", n, [["amount", ">", 5], ["tenant", "=", n]])
    assert list(patterns.find("orders.new", {"tenant": "77", "amount": 6})) == [77]
    assert not patterns.find("orders.new", {"tenant": 77, "amount": 5})
    assert patterns.looked <= 4


def test_patterns_made_to_hurt_are_walked_in_bounded_steps() -> None:
    patterns: Patterns[int] = Patterns()
    worst = ".".join(["#", "a"] * MAX_OPEN_WORDS)
    patterns.add(worst, 1)
    patterns.add(worst + ".#.b"[2:], 2)
    assert pattern_fault(worst) is None
    topic = ".".join(["a"] * MAX_TOPIC_WORDS)
    assert topic_fault(topic) is None
    assert list(patterns.find(topic, {})) == [1]
    assert not patterns.find(topic + "b", {})


def test_more_than_may_be_looked_at_is_refused_and_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns: Patterns[int] = Patterns()
    monkeypatch.setattr(limits, "MATCH_STEPS", 50)
    for n in range(60):
        patterns.add("a", n, [["x", "<", n]])
    with pytest.raises(TooManyMatches):
        patterns.find("a", {"x": 1})
    for n in range(60):
        patterns.add(f"#.*.{n}.#", n)
    with pytest.raises(TooManyMatches):
        patterns.find("0.1.2.3.4.5.6.7.8.9", {})


def test_what_is_remembered_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns: Patterns[int] = Patterns()
    monkeypatch.setattr(limits, "KNOWN_TOPICS", 5)
    patterns.add("a.#", 1)
    for n in range(20):
        assert list(patterns.find(f"a.{n}", {})) == [1]
        assert len(patterns._known) <= 5
    patterns.add("a.*", 2)
    assert sorted(patterns.find("a.19", {})) == [1, 2]
    patterns.remove("a.#", 1)
    assert list(patterns.find("a.19", {})) == [2]


# ---- what can be


@pytest.mark.parametrize(
    ("text", "topic", "pattern"),
    [
        ("orders.eu.created", True, True),
        ("a", True, True),
        ("A-1.b_2.c:d/e@f", True, True),
        ("orders.*", False, True),
        ("#", False, True),
        ("a.#.b", False, True),
        ("", False, False),
        (".a", False, False),
        ("a.", False, False),
        ("a..b", False, False),
        ("a b", False, False),
        ("a*", False, False),
        ("ö", False, False),
        ("a" * 201, False, False),
        (".".join("a" * 33), False, False),
        (".".join("#" * 9), False, False),
        (7, False, False),
        (None, False, False),
        ("a\n", False, False),
    ],
)
def test_what_topics_and_patterns_can_be(text: Any, topic: bool, pattern: bool) -> None:
    assert ((topic_fault(text) is None), (pattern_fault(text) is None)) == (topic, pattern)


@pytest.mark.parametrize(
    "test",
    [
        ["x", "~", 1],
        ["", "=", 1],
        ["x", "=", None],
        ["x", "=", [1]],
        ["x", "=", float("nan")],
        ["x", "in", []],
        ["x", "in", "ab"],
        ["x", "in", [None]],
        ["x", "in", list(range(101))],
        ["x", "^=", ""],
        ["x", "^=", 1],
        ["x", "exists", True],
        ["x", "<", "1"],
        ["x", "<", True],
        ["x", "<", float("nan")],
        ["x", "="],
        "x",
        [1, "=", 1],
        ["x", ["="], 1],
        ["x" * 257, "exists", None],
    ],
)
def test_what_filters_cannot_be(test: Any) -> None:
    assert filters_fault([test]) is not None
    assert filters_fault(test) is not None
    assert filters_fault([["x", "exists", None]] * 21) is not None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("1" * 25, int("1" * 25)),
        ("10", 10),
        ("-1.5", -1.5),
        ("1e3", 1000.0),
        (" 1", None),
        ("1_0", None),
        ("0x1", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (True, None),
        (None, None),
        ("9" * 41, None),
        ("1e999", None),
        (float("nan"), None),
        (3, 3),
        ("٣", None),
    ],
)
def test_which_headers_are_numbers(value: Any, number: Any) -> None:
    assert number_of(value) == number
