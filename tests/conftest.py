"""What every test shares: how hypothesis searches, the options of the suite, and how `make test` shares its files
among processes.

Fixtures live beside the tests that use them, never here.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A failure must be the change's fault: the same examples each run, and no verdict from a slow clock.
settings.register_profile("ci", derandomize=True, deadline=None)
# For a long search by hand: pytest --hypothesis-profile=search tests/core
settings.register_profile("search", deadline=None, max_examples=5_000)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-transcripts",
        action="store_true",
        help="write into tests/transcripts/*.txt what the broker really sends",
    )


# ---- several processes (pytest-xdist): a file runs in one of them, from its first test to its last

LONGEST_FIRST = ("soak/test_soak.py",)
"""What is begun first, so that no process is left with a long file at the end; all others come in pytest's order."""

MOST_WORKERS = 9


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: tests wait much of their time. No more than have files to run for long."""
    return min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In each process of several, and alike in all of them."""
    if hasattr(config, "workerinput"):
        folder = Path(__file__).parent
        place = {folder / name: number for number, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: place.get(item.path, len(place)))
