"""`Broker` inside a process, and `zbroker start` in this one: how they end."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from zbroker import Broker
from zbroker.cli import program
from zbroker.config import given_config
from zbroker.engine import Engine
from zbroker.server import Server
from zbroker.storage import StoreFailed
from zclient import Client, InvalidArgument, NotFound


def test_it_stops_and_starts_again_with_its_jobs(tmp_path: Path) -> None:
    broker = Broker(data=tmp_path / "data")
    with broker, Client(broker.endpoint) as client:
        job = client.send("q", 1)
    with broker, Client(broker.endpoint) as client:
        assert client.get(job.id).state == "ready"
    broker.stop()  # a second one does nothing


def test_with_durability_memory_nothing_is_on_disk_and_nothing_survives(tmp_path: Path) -> None:
    broker = Broker(data=tmp_path / "data", durability="memory")
    with broker, Client(broker.endpoint) as client:
        job = client.send("q", 1)
        assert job.status().state == "ready"
    with broker, Client(broker.endpoint) as client, pytest.raises(NotFound):
        client.get(job.id)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_tells_what_ended_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(data=tmp_path / "data").start()

    def fail(engine: Engine, *, drained: bool) -> None:
        raise StoreFailed("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "finish", fail)
        assert broker._thread is not None
        broker._thread.join(timeout=30)  # the loop turns each second at least, to look at the disk
        with pytest.raises(StoreFailed, match="the disk is gone"):
            broker.stop()
    broker.start().stop()


def test_a_config_is_given_alone(tmp_path: Path) -> None:
    config = given_config({"data": str(tmp_path / "data"), "bind": "tcp://127.0.0.1:*"})
    with Broker(config=config) as broker:
        assert broker.endpoint.startswith("tcp://127.0.0.1:")
    with pytest.raises(InvalidArgument, match="give it alone"):
        Broker(data="elsewhere", config=config)
    with pytest.raises(InvalidArgument, match="give it alone"):
        Broker(config=config, lease="1m")


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts back how this process takes signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


def test_no_signal_is_written_to_a_descriptor_that_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: None
) -> None:
    """While the store closes, a file of it may have got that number."""
    seen: list[int] = []

    def close(server: Server) -> None:
        seen.append(signal.set_wakeup_fd(-1))
        closes(server)

    closes = Server.close
    monkeypatch.setattr(Server, "close", close)
    monkeypatch.setattr(Server, "serve", lambda server: None)
    monkeypatch.setattr("zbroker.cli.serving._prepare_process", lambda: None)
    data = str(tmp_path / "data")
    result = CliRunner().invoke(program.program, ["start", "--data", data, "--bind", "tcp://127.0.0.1:*"])
    assert (result.exit_code, seen) == (0, [-1])
    signal.raise_signal(signal.SIGTERM)  # the handler is still there, and finds everything closed
