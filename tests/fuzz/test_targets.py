"""A small size of the fuzzing: examples that hypothesis chooses, and every input that ever found something.

`make fuzz` is the large one, guided by coverage.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import samples
from tests.fuzz.targets import TARGETS, seeds
from zclient.protocol import codec

FOUND = Path(__file__).parent / "found"
"""A folder for each target: inputs that broke it once. The names of the files say what they did."""

EXAMPLES = {"broker": 40}
USUAL_EXAMPLES = 100


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_comes_breaks_it(name: str) -> None:
    @settings(max_examples=EXAMPLES.get(name, USUAL_EXAMPLES), suppress_health_check=list(HealthCheck), database=None)
    @given(st.binary(max_size=300))
    def examples(data: bytes) -> None:
        TARGETS[name](data)

    examples()


@pytest.mark.parametrize("file", sorted(FOUND.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_once_broke_it_does_no_more(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())


def test_every_message_is_among_the_samples() -> None:
    """A message that is added and forgotten there would never be changed."""
    sampled = {type(message) for message in (*samples.from_peers(), *samples.from_brokers())}
    assert sampled == set(codec._COMMANDS)
