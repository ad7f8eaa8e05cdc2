"""Floods of a moment. What they cost is judged by `make fuzz`, on a machine that does nothing else."""

from pathlib import Path

from tests.fuzz import flood


def test_honest_work_goes_on_and_nothing_is_left_of_the_flood(tmp_path: Path) -> None:
    cost = flood.measure("slow", 0, tmp_path, rounds=5)
    assert cost.connections <= 0
    assert cost.rss_bytes < flood.MOST_RSS_BYTES
    assert cost.quiet_us > 0
