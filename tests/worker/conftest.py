"""A broker for the tests of workers with a real one, shared by a file, and a client of it."""

import itertools
from collections.abc import Iterator

import pytest

from tests.worker.brokers import FAST, BrokerProcess
from zclient import Client

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The endpoint of a broker without a disk."""
    with BrokerProcess(*FAST) as broker:
        yield broker.endpoint


@pytest.fixture
def client(broker: str) -> Iterator[Client]:
    with Client(broker) as client:
        yield client


@pytest.fixture
def queue() -> str:
    """A queue of the test's own."""
    return f"q{next(_numbers)}"
