"""The soak, a small size of it; `make soak HOURS=8` is the large one. ZBROKER_TEST_SOAK_S sets how many seconds.

In a few seconds only what grows fast is seen. That the judge sees what grows slowly is in ``test_trend``.
"""

import os
from pathlib import Path

import pytest

from tests.soak.soak import BOUNDS, Fault, Soak
from tests.soak.trend import Bound

SECONDS = float(os.environ.get("ZBROKER_TEST_SOAK_S", "3"))


# What a call takes in a few seconds says more about the machine than about the broker.
BRIEF = BOUNDS | {"latency": Bound(5_000, 0, "ms"), "slowest": Bound(20_000, 0, "ms")}


def test_nothing_grows_under_a_steady_load(tmp_path: Path) -> None:
    soak = Soak(tmp_path, rate=150, bounds=BRIEF)
    try:
        lines = list(soak.run(SECONDS, interval_s=SECONDS / 12))
    finally:
        soak.end()
    assert len(lines) >= 10
    assert {told.name.partition(" of ")[0] for told in soak.trends()} == set(BOUNDS)
    soak.bounds = {name: bound._replace(units=-1e6, share=0) for name, bound in BRIEF.items()}
    with pytest.raises(Fault, match="GROWS  broker's memory of broker"):
        soak.verdict()
