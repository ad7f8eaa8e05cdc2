"""The kill loop, a small size of it; `make kill-loop` is the large one."""

from pathlib import Path

import pytest

from tests.kill_loop.loop import run_bouts

STORES = {"rocksdb": 10, "sqlite": 6}
"""How many kills for each store."""


@pytest.mark.parametrize("store", STORES)
def test_nothing_is_lost_or_doubled_whatever_is_killed(tmp_path: Path, store: str) -> None:
    (bout,) = run_bouts(tmp_path, STORES[store], seed=3, store=store)
    assert bout.total("killed") >= STORES[store]
    assert bout.report.counts["confirmed"] > 0
