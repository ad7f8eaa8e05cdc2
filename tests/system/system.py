"""`System`: the brokers, workers and clients of one test, each a process but for the clients. All ends with it."""

import json
import sys
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.system.peer import Peer
from tests.system.processes import BrokerProcess, Child
from tests.system.proxy import Proxy
from zbroker.check import check_directory
from zclient import Client


class Closes(Protocol):
    def close(self) -> Any: ...


C = TypeVar("C", bound=Closes)


class System:
    """What a test started. Nothing of it outlives `end`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[Child] = []
        self._closing: list[Closes] = []

    def broker(self, name: str = "broker", **settings: Any) -> BrokerProcess:
        """A broker that serves."""
        settings.setdefault("data", self.folder / name)
        broker = BrokerProcess(log=self._log(name), **settings)
        self.children.append(broker)
        broker.start()
        return broker

    def run(self, program: str, **arguments: Any) -> Child:
        """One of `programs`, started."""
        command = [sys.executable, "-m", "tests.system.programs", program, json.dumps(arguments)]
        child = Child(command, self._log(program))
        self.children.append(child)
        child.spawn()
        return child

    def worker(self, endpoint: str, *queues: str, **options: Any) -> Child:
        """A worker that the broker knows of."""
        worker = self.run("worker", endpoint=endpoint, queues=queues or ("q",), **options)
        worker.expect("ready")
        return worker

    def client(self, endpoint: str, **options: Any) -> Client:
        return self.adopt(Client(endpoint, **options))

    def peer(self, endpoint: str, **hello: Any) -> Peer:
        """A peer that sends message by message; it has said HELLO."""
        peer = self.adopt(Peer(endpoint))
        peer.hello(**hello)
        return peer

    def proxy(self, endpoint: str) -> Proxy:
        """A TCP proxy in front of a broker."""
        return self.adopt(Proxy(endpoint))

    def adopt(self, closes: C) -> C:
        """Have it closed at the end."""
        self._closing.append(closes)
        return closes

    def end(self) -> None:
        """End all of it, whatever its state."""
        for closes in reversed(self._closing):
            closes.close()
        for child in reversed(self.children):
            child.end()

    def check(self) -> dict[str, int]:
        """`zbroker check` of all data, after the end; the counts of all of it. AssertionError for a fault."""
        counts: dict[str, int] = {}
        for data in {broker.data for broker in self.children if isinstance(broker, BrokerProcess) and broker.checked}:
            report = check_directory(data)
            assert report.faults == [], data
            counts |= report.counts
        return counts

    def _log(self, name: str) -> Path:
        return self.folder / f"{len(self.children)}-{name}.log"
