"""Where clients, workers and consumers look for the broker when nobody tells them: what the environment says."""

import asyncio

import pytest

from tests.system.processes import BrokerProcess
from zclient import AsyncClient, Client, InvalidArgument
from zclient.config import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, endpoints_of
from zworker import Consumer, Worker


@pytest.mark.parametrize("shape", ["{}", " {} ", "tcp://127.0.0.1:1 {}"])
def test_without_an_endpoint_the_environment_says_where(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, shape.format(broker.endpoint))
    worker = Worker()
    worker.task("e-work")(lambda n: n + 1)

    async def call() -> object:
        async with AsyncClient() as other:
            return await other.call("e-work", 2)

    with worker, Client() as client:
        assert client.call("e-work", 1) == 2
        assert asyncio.run(call()) == 3
        client.send("e-take", "a")
        with Consumer(None, "e-take") as consumer:
            job = consumer.get(10)
            assert job is not None and job.payload == "a"
            job.ack()


def test_what_is_given_comes_first_and_the_default_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "tcp://a:1  tcp://b:2")
    assert endpoints_of(None) == ("tcp://a:1", "tcp://b:2")
    assert endpoints_of("tcp://c:3") == endpoints_of(["tcp://c:3"]) == ("tcp://c:3",)
    monkeypatch.setenv(ENDPOINT_VARIABLE, "")
    assert endpoints_of(None) == (DEFAULT_ENDPOINT,)
    monkeypatch.delenv(ENDPOINT_VARIABLE)
    assert endpoints_of(None) == (DEFAULT_ENDPOINT,)


def test_an_environment_that_says_nonsense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "queue-host:5555")
    for make in (Client, AsyncClient, Worker, lambda: Consumer(None, "q")):
        with pytest.raises(InvalidArgument, match=r"^ZBROKER_ENDPOINT: an endpoint looks like"):
            make()
    Client("tcp://queue-host:5555").close()
