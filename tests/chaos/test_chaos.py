"""Chaos, a small size of it; `make chaos MINUTES=60` is the large one. ZBROKER_TEST_CHAOS_S sets how many seconds."""

import os
from pathlib import Path

from tests.chaos.chaos import run_rounds

SECONDS = float(os.environ.get("ZBROKER_TEST_CHAOS_S", "3"))


def test_nothing_is_lost_or_doubled_whatever_is_done(tmp_path: Path) -> None:
    """Proxies only: hosts are tried in `tests/hosts`, and by the large size."""
    came = next(run_rounds(tmp_path, SECONDS, seed=1, hosts=False))
    assert came.report.counts["confirmed"] > 0
    assert sum(came.harms.values()) > 0
