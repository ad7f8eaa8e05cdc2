"""The fixtures of this folder: hosts, and a skip where a machine permits none or lacks a tool."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.hosts.lab import Lab
from tests.hosts.network import Network, Unavailable

OrSkip = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def or_skip() -> OrSkip:
    """Skips the test if what is done under it is not available on this machine."""

    @contextmanager
    def guard() -> Iterator[None]:
        try:
            yield
        except Unavailable as reason:
            pytest.skip(str(reason))

    return guard


@pytest.fixture
def network(or_skip: OrSkip) -> Iterator[Network]:
    """Two switches without hosts."""
    with or_skip():
        network = Network(switches=2)
    try:
        yield network
    finally:
        network.close()


@pytest.fixture
def lab(network: Network, tmp_path: Path, or_skip: OrSkip) -> Iterator[Lab]:
    """Four hosts on which nothing runs yet. Whatever happens on them, the data they leave behind has no fault."""
    with or_skip():
        lab = Lab(tmp_path, network)
    try:
        yield lab
    finally:
        lab.end()
        for child in lab.children:  # pytest shows it with a test that failed
            print(f"{child.log.name}, process {child.pid}:\n{child.story()}")
    lab.check()
