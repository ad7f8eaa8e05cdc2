"""The pictures of the benchmarks show the medians that were measured, and nothing that was not."""

import importlib.util
import re
from pathlib import Path

import pytest

from benchmarks import plots

VALUES: plots.Values = {
    "zbroker, batches of 10": {"lifecycles/s": [50.0, 40.0, 45.0]},
    "Redis Streams, batches of 10": {"lifecycles/s": [15.0]},
    "zbroker, two producers": {"lifecycles/s": [60.0]},
}
GROWING: plots.Values = {
    "nothing waiting": {"lifecycles/s": [10.0]},
    "5,000,000 waiting": {"lifecycles/s": [8.0]},
    "100,000 waiting": {"lifecycles/s": [9.0]},
    "1 worker": {"us a job": [20.0]},
    "1 worker, 20 in flight": {"us a job": [60.0]},
    "1,000 queues": {"us a job": [25.0]},
    "1 queue": {"us a job": [23.0]},
}


def section(values: plots.Values, **missing: str) -> dict[str, object]:
    return {"title": "", "values": values, "missing": missing}


def test_medians_with_least_and_most() -> None:
    assert plots.ranges(VALUES, "lifecycles/s")[0] == ("zbroker, batches of 10", 40.0, 45.0, 50.0)
    assert plots.ranges(VALUES, "puts/s") == []


def test_two_systems_are_paired_by_what_they_did() -> None:
    ((way, ours, theirs),) = plots.pairs(VALUES, "lifecycles/s", "zbroker", "Redis Streams")
    assert (way, ours.median, theirs.median) == ("batches of 10", 45.0, 15.0)


def test_runs_named_by_a_number_make_a_curve() -> None:
    points = plots.curves(GROWING, "lifecycles/s")["waiting"]
    assert [(point.number, point.range.median) for point in points] == [(0, 10.0), (100_000, 9.0), (5_000_000, 8.0)]
    by_noun = plots.curves(GROWING, "us a job")
    assert [(point.number, point.range.median) for point in by_noun["queues"]] == [(1, 23.0), (1000, 25.0)]
    assert "workers" not in by_noun, "one point is no curve"


def test_rates_come_from_their_section() -> None:
    rates: plots.Values = {"2,000 a second": {"p50 ms": [20.0]}, "100 a second": {"p50 ms": [1.0]}}
    points = plots.rates({"latency-rates": section(rates), "tasks": section({})}, "p50 ms")
    assert [(point.number, point.range.median) for point in points] == [(100, 1.0), (2000, 20.0)]


@pytest.mark.parametrize(
    ("number", "text"),
    [(5_000_000, "5 M"), (100_000, "100 k"), (95_002.4, "95,002"), (2_000, "2,000"), (12.34, "12.3"), (0.476, "0.48")],
)
def test_numbers_of_a_scale_are_short(number: float, text: str) -> None:
    assert plots.short(number) == text
    assert plots.exact(91_000) == "91,000"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not there: make plots")
def test_a_picture_is_drawn_of_what_there_is_the_same_each_time(tmp_path: Path) -> None:
    run = {"lifecycles/s": [90_000.0, 91_000.0, 92_000.0]}
    document = {
        "machine": "2 cores",
        "sections": {"lifecycle": section({"zbroker": run, "Redis Streams": run}, NATS="no program nats-server")},
    }
    (first,) = plots.draw(document, tmp_path / "one")
    (second,) = plots.draw(document, tmp_path / "two")
    assert first.name == "lifecycles.svg"
    drawn = first.read_text(encoding="utf-8")
    assert drawn == second.read_text(encoding="utf-8")
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", drawn)
    assert {"zbroker", "Redis Streams", "91,000", "jobs a second"} <= set(texts)
    assert any("medians of 3 rounds" in text and text.endswith("not measured: NATS") for text in texts)
