"""A sample of the crash points; `make crashpoints` runs them all."""

from pathlib import Path

import pytest

from tests.crashpoints import making, points, steps


@pytest.mark.parametrize("store", ["rocksdb", "sqlite"])
def test_a_broker_that_dies_at_a_step_loses_and_invents_nothing(tmp_path: Path, store: str) -> None:
    asked = points.sample(store)
    assert list(points.run_points(tmp_path, asked, seed=1, store=store)) == asked


def test_a_directory_whose_making_was_cut_short_is_made_whole(tmp_path: Path) -> None:
    asked = ("making, before FORMAT is in its place",)
    assert tuple(making.points(tmp_path, "rocksdb", asked)) == asked


def test_every_step_is_among_the_points() -> None:
    """A step that is added and forgotten in the list would never be a death."""
    told = {point.split("/")[0] for store in ("rocksdb", "sqlite") for point in points.all_points(store)}
    groups = (
        steps.LOOP,
        steps.SLICES,
        steps.READING,
        tuple(steps.BACKGROUND),
        tuple(steps.CHECKPOINT),
        steps.OPENING,
        steps.MAKING,
        steps.STOPPING,
    )
    assert told | set(making.FIRST) == {step for group in groups for step in group}
