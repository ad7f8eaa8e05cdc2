"""Fixtures: a broker process for a module, and one of a test's own that it may kill."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import BrokerProcess
from zclient import Client


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that the tests of a module share: each uses queues of its own, and leaves it running."""
    folder = tmp_path_factory.mktemp("broker")
    process = BrokerProcess(folder / "data", folder / "broker.log")
    process.start()
    yield process
    process.end()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker of the test's own, running."""
    process = BrokerProcess(tmp_path / "data", tmp_path / "broker.log")
    process.start()
    yield process
    process.end()


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Client]:
    with Client(broker.endpoint) as client:
        yield client
