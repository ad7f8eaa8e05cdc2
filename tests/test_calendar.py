"""When cron expressions fire: against a second opinion, on the days when clocks change, forwards and backwards."""

import warnings
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from croniter import croniter

from zbroker.calendar import MAX_CRON_CHARS, Calendar

CALENDAR = Calendar()
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Sydney", "America/Sao_Paulo")
DAY_MS = 24 * 3_600_000


def at(zone: str, text: str) -> int:
    """A local time of the zone, the first one where the clock shows it twice; ``later`` behind it for the second."""
    moment = datetime.fromisoformat(text.removesuffix(" later")).replace(tzinfo=ZoneInfo(zone))
    return int(moment.replace(fold=int(text.endswith("later"))).timestamp() * 1000)


def forwards(cron: str, zone: str, start: int, stop: int) -> list[int]:
    """The occurrences after one time, up to another."""
    found = []
    now = CALENDAR.after(cron, zone, start)
    while now is not None and now <= stop:
        found.append(now)
        now = CALENDAR.after(cron, zone, now)
    return found


def backwards(cron: str, zone: str, start: int, stop: int) -> list[int]:
    """The same, asked from the end."""
    return list(takewhile(lambda found: found > start, CALENDAR.until(cron, zone, stop)))[::-1]


# ---- expressions


def numbers(low: int, high: int, *, star: bool = True) -> st.SearchStrategy[str]:
    """A field of a cron expression: a star, a number, a range, steps, or a list of such."""
    one = st.integers(low, high)
    span = st.sets(one, min_size=2, max_size=2).map(sorted)
    some = st.one_of(
        one.map(str),
        span.map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.tuples(span, st.integers(1, 9)).map(lambda told: f"{told[0][0]}-{told[0][1]}/{told[1]}"),
    )
    listed = st.lists(some, min_size=1, max_size=3).map(",".join)
    steps = st.integers(1, high).map(lambda step: f"*/{step}")
    return st.one_of(st.just("*"), listed, steps) if star else listed


WEEKDAYS = ["sun", "mon", "TUE", "wed", "thu", "fri", "Sat"]
DAYS = st.one_of(
    st.tuples(numbers(1, 31), st.just("*")),
    st.tuples(st.just("*"), numbers(0, 6)),
    st.tuples(st.just("*"), st.sampled_from(WEEKDAYS)),
    st.tuples(numbers(1, 28, star=False), numbers(0, 6, star=False)),  # one of both
    st.just(("L", "*")),
)
EXPRESSIONS = st.tuples(numbers(0, 59), numbers(0, 23), DAYS, numbers(1, 12)).map(
    lambda told: f"{told[0]} {told[1]} {told[2][0]} {told[3]} {told[2][1]}"
)


@settings(max_examples=400)
@given(EXPRESSIONS, st.sampled_from(ZONES), st.integers(0, 20_000_000))
def test_they_fire_when_another_library_says(cron: str, zone: str, second: int) -> None:
    if CALENDAR.fault(cron, zone):
        return  # such as the 31st of February
    start = datetime(2026, 1, 5, tzinfo=ZoneInfo(zone)) + timedelta(seconds=second)
    other = croniter(cron, start)
    now = int(start.timestamp() * 1000)
    for _ in range(5):
        found = CALENDAR.after(cron, zone, now)
        assert found is not None
        expected = other.get_next(datetime)
        if changes_near(zone, found) or changes_near(zone, int(expected.timestamp() * 1000)):
            return  # the days of change have expectations of their own, below
        assert datetime.fromtimestamp(found / 1000, ZoneInfo(zone)) == expected
        now = found


def changes_near(zone: str, ms: int) -> bool:
    """Whether the clocks change within a day of it."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    offsets = {(moment + timedelta(days=days)).astimezone(ZoneInfo(zone)).utcoffset() for days in (-1, 0, 1)}
    return len(offsets) > 1


CHANGES = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Australia/Sydney": ["2026-04-05", "2026-10-04"],
}
"""Days of change in zones whose clocks move by an hour, at night but not at midnight. Where they leave out midnight, as
in Havana, cronsim begins the day at 01:00 forwards and not backwards; the core does not rely on that one time.
"""


@settings(max_examples=400)
@given(
    EXPRESSIONS,
    st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days]),
    st.integers(-36 * 3600, 36 * 3600),
    st.integers(0, 999),
)
@example("30 2 * * *", ("Europe/Berlin", "2026-10-25"), 2 * 3600 + 4200, 0)
@example("30 2 * * *", ("Europe/Berlin", "2026-03-29"), 3600, 0)
def test_backwards_they_are_those_of_forwards(cron: str, change: tuple[str, str], second: int, ms: int) -> None:
    zone, day = change
    if CALENDAR.fault(cron, zone):
        return
    middle = at(zone, f"{day} 00:00") + second * 1000 + ms
    start = middle - DAY_MS
    found = forwards(cron, zone, start, middle)
    assert found == sorted(set(found))
    assert all(start < one <= middle for one in found)
    assert backwards(cron, zone, start, middle) == found


# ---- summer time, written out


@pytest.mark.parametrize(
    ("zone", "cron", "day", "times"),
    [
        # A fixed time that the clock leaves out: once, when the clock has moved on.
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", ["2026-03-29 03:00"]),
        ("America/New_York", "15,45 2 * * *", "2026-03-08", ["2026-03-08 03:00"]),
        ("Australia/Sydney", "30 2 * * *", "2026-10-04", ["2026-10-04 03:00"]),
        ("America/Havana", "30 0 * * *", "2026-03-08", ["2026-03-08 01:00"]),
        # One that it shows twice: once, the first time.
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["2026-10-25 02:30"]),
        ("America/New_York", "30 1 * * *", "2026-11-01", ["2026-11-01 01:30"]),
        ("Australia/Sydney", "0 2 * * *", "2026-04-05", ["2026-04-05 02:00"]),
        ("America/Havana", "0 0 * * *", "2026-11-01", ["2026-11-01 00:00"]),
        # One that no change touches: as on any day.
        ("Europe/Berlin", "0 12 * * *", "2026-03-29", ["2026-03-29 12:00"]),
        ("Europe/Berlin", "0 12 * * *", "2026-10-25", ["2026-10-25 12:00"]),
        # Every so many minutes: as they really pass.
        (
            "Europe/Berlin",
            "*/30 1-3 * * *",
            "2026-03-29",
            ["2026-03-29 01:00", "2026-03-29 01:30", "2026-03-29 03:00", "2026-03-29 03:30"],
        ),
        (
            "Europe/Berlin",
            "*/30 2 * * *",
            "2026-10-25",
            ["2026-10-25 02:00", "2026-10-25 02:30", "2026-10-25 02:00 later", "2026-10-25 02:30 later"],
        ),
        # Without summer time there is nothing to it.
        ("Asia/Kolkata", "30 2 * * *", "2026-03-29", ["2026-03-29 02:30"]),
    ],
)
def test_on_the_days_of_change(zone: str, cron: str, day: str, times: list[str]) -> None:
    start = at(zone, f"{day} 00:00") - 1
    stop = int((datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) + timedelta(days=1)).timestamp() * 1000) - 1
    expected = [at(zone, text) for text in times]
    assert forwards(cron, zone, start, stop) == expected
    assert backwards(cron, zone, start, stop) == expected


@pytest.mark.parametrize(
    ("zone", "day", "hours"), [("Europe/Berlin", "2026-03-29", 23), ("Europe/Berlin", "2026-10-25", 25)]
)
def test_every_hour_is_every_hour_that_passes(zone: str, day: str, hours: int) -> None:
    start = at(zone, f"{day} 00:00") - 1
    stop = int((datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)) + timedelta(days=1)).timestamp() * 1000) - 1
    found = forwards("0 * * * *", zone, start, stop)
    assert len(found) == hours and {later - sooner for sooner, later in pairwise(found)} == {3_600_000}
    assert backwards("0 * * * *", zone, start, stop) == found


def test_an_hour_shown_for_the_second_time_does_not_fire_again() -> None:
    """In the search for fixed times the clock on the wall counts: it must not find what is over."""
    now = at("Europe/Berlin", "2026-10-25 02:10 later")
    assert CALENDAR.after("30 2 * * *", "Europe/Berlin", now) == at("Europe/Berlin", "2026-10-26 02:30")
    assert next(CALENDAR.until("30 2 * * *", "Europe/Berlin", now)) == at("Europe/Berlin", "2026-10-25 02:30")


# ---- edges


def test_until_includes_its_time_and_after_does_not() -> None:
    midnight = at("UTC", "2026-01-01 00:00")
    for ms in (0, 1, 999):
        assert next(CALENDAR.until("0 0 * * *", "UTC", midnight + ms)) == midnight
        assert CALENDAR.after("0 0 * * *", "UTC", midnight + ms) == midnight + DAY_MS
    assert CALENDAR.after("0 0 * * *", "UTC", midnight - 1) == midnight
    assert next(CALENDAR.until("0 0 * * *", "UTC", midnight - 1)) == midnight - DAY_MS


def test_six_fields_begin_with_seconds() -> None:
    start = at("UTC", "2026-01-01 00:00")
    found = forwards("*/20 * * * * *", "UTC", start, start + 60_000)
    assert [one - start for one in found] == [20_000, 40_000, 60_000]


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "x",
        "* * * *",
        "* * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "1-0 * * * *",
        "*/0 * * * *",
        "L * * * *",
        "* * * * mon#6",
        "0 0 31 2 *",
        "٣ * * * *",
        "* * * * 5L/2",
        "@daily",
        "0 0 */30 2 mon#5",
        "9" * 5000 + " * * * *",
        "9" * 150 + " * * * *",
        "*/" + "9" * 150 + " * * * x",
        " ".join(["1,2"] * 60),
    ],
)
def test_what_is_no_expression_has_a_fault(cron: str) -> None:
    fault = CALENDAR.fault(cron, "UTC")
    assert fault is not None and len(fault) < 400


@pytest.mark.parametrize("zone", ["", "Mars/Base", "../x", "/etc/passwd", "Europe", "x\0y", "z" * 5000, "\udcff"])
def test_what_is_no_zone_has_a_fault(zone: str) -> None:
    assert "no time zone" in str(CALENDAR.fault("* * * * *", zone))


@given(st.text("0123456789*/,-#L monfrijan@?W", max_size=MAX_CRON_CHARS + 10))
def test_no_text_does_harm(cron: str) -> None:
    if CALENDAR.fault(cron, "UTC") is None:
        assert CALENDAR.words(cron)
        assert CALENDAR.after(cron, "UTC", 0) is not None


@given(EXPRESSIONS)
def test_every_expression_has_words(cron: str) -> None:
    if CALENDAR.fault(cron, "UTC") is None:
        assert CALENDAR.words(cron)[0].isupper()


def test_words() -> None:
    assert CALENDAR.words("30 3 * * mon-fri") == "At 03:30 on Monday through Friday"
    assert CALENDAR.words("*/10 * * * * *") == "Every 10th second of every minute"
