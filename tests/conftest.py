"""What every test shares: how hypothesis searches, and the options of the suite.

Fixtures live beside the tests that use them, never here.
"""

import pytest
from hypothesis import settings

from tests import sharing

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return sharing.processes(sharing.usable_processors())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes; all of them must agree
        items[:] = sharing.ordered(items)
