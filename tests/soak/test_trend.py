"""The judge of the soak: what it must call flat, and what growth."""

import random

import pytest

from tests.soak.trend import Bound, slope, trend

BOUND = Bound(units=8, share=0.05, unit="MiB")
HOURS_S = 8 * 3600
TIMES = range(0, HOURS_S, 60)


def noise(seed: int, most: float) -> list[float]:
    chance = random.Random(seed)
    return [chance.uniform(-most, most) for _ in TIMES]


def row(*parts: list[float]) -> list[tuple[float, float]]:
    return [(float(t), sum(values)) for t, *values in zip(TIMES, *parts, strict=True)]


LEVEL = [100.0] * len(TIMES)
FILLS_UP = [100.0 + 50.0 * min(t / (0.2 * HOURS_S), 1) for t in TIMES]
SAWTOOTH = [(t % 3000) / 3000 * 40 for t in TIMES]
PEAKS = [500.0 if t % 7200 == 0 else 0.0 for t in TIMES]
LEAK = [t / HOURS_S * 16 for t in TIMES]
STEPS = [8.0 * (t // (HOURS_S // 4)) for t in TIMES]


@pytest.mark.parametrize(
    "samples",
    [row(LEVEL), row(FILLS_UP), row(LEVEL, SAWTOOTH), row(LEVEL, PEAKS, noise(1, 10)), row(LEVEL, noise(2, 30))],
    ids=["level", "fills up to its limit", "sawtooth", "peaks", "noise"],
)
def test_what_is_flat(samples: list[tuple[float, float]]) -> None:
    told = trend("memory", samples, BOUND)
    assert not told.grows, told.told()
    assert told.told().startswith("flat")


@pytest.mark.parametrize(
    "samples",
    [row(LEVEL, LEAK), row(LEVEL, LEAK, SAWTOOTH), row(LEVEL, LEAK, noise(3, 30), PEAKS), row(LEVEL, STEPS)],
    ids=["leak", "leak under a sawtooth", "leak under noise", "steps"],
)
def test_what_grows(samples: list[tuple[float, float]]) -> None:
    told = trend("memory", samples, BOUND)
    assert told.grows, told.told()
    assert told.told().startswith("GROWS  memory: ")


def test_a_slope_is_in_units_a_second() -> None:
    assert slope([(0, 1), (2, 2), (4, 3)]) == 0.5
    assert slope([(0, 1)]) == 0
    assert slope(row(LEAK)) == pytest.approx(16 / HOURS_S)


def test_what_shrinks_does_not_grow() -> None:
    assert not trend("disk", [(t, -value) for t, value in row(LEAK)], BOUND).grows


def test_a_share_counts_where_it_is_more(tmp_path: object) -> None:
    assert trend("disk", row([1000.0] * len(TIMES)), BOUND).allowed == 50
    assert trend("memory", row(LEVEL), BOUND).allowed == 8


def test_too_few_samples_are_no_proof() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend("memory", [(t, 1.0) for t in range(6)], BOUND)
