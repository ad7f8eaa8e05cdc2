"""The soak, a small size of it; `make soak HOURS=8` is the large one. ZBROKER_TEST_SOAK_S sets how many seconds.

In a minute only what grows fast is seen, so less is allowed. That the judge sees slow growth is in ``test_trend``.
"""

import os
from pathlib import Path

import pytest

from tests.soak.soak import BOUNDS, SETTINGS, Fault, Soak
from tests.soak.trend import Bound

SECONDS = float(os.environ.get("ZBROKER_TEST_SOAK_S", "60"))

INTERVAL_S = SECONDS / 20

KEPT = SETTINGS | {"keep_done": "10s", "keep_done_count": 300}
"""What is kept has its full size after a quarter of a minute."""

BRIEF = {
    "memory": Bound(4, 0, "MiB"),
    "broker's memory": Bound(16, 0, "MiB"),
    "descriptors": Bound(4, 0, "open"),
    "threads": Bound(6, 0, "threads"),
    "disk": Bound(24, 0, "MiB"),
    "waiting": Bound(300, 0, "jobs"),
    "latency": Bound(5_000, 0, "ms"),
    "slowest": Bound(20_000, 0, "ms"),
}
"""Other tests run beside it, in the same minute and on the same processors: what a call takes says more about them than
about the broker, and what is left to judge is that each is answered. What a process has, nobody else changes: in a
minute no buffer gets far, so less is allowed than in hours."""


@pytest.mark.timeout(SECONDS + 180)
def test_nothing_grows_under_a_steady_load(tmp_path: Path) -> None:
    soak = Soak(tmp_path, rate=150, bounds=BRIEF, settings=KEPT)
    try:
        lines = list(soak.run(SECONDS, INTERVAL_S))
    finally:
        soak.end()
    print(*lines, *(told.told() for told in soak.trends()), sep="\n")
    assert len(lines) >= 10
    assert {told.name.partition(" of ")[0] for told in soak.trends()} == set(BOUNDS)
    soak.bounds = {name: bound._replace(units=-1e6, share=0) for name, bound in BRIEF.items()}
    with pytest.raises(Fault, match="GROWS  broker's memory of broker"):
        soak.verdict()
