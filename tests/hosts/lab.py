"""`Lab`: a broker, two workers and a client, each on a host of its own; the test watches from outside the network.

It adds hosts to `tests.system.system.System`, and nothing to what its processes do.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.hosts.network import Host, Network
from tests.system.processes import BrokerProcess, Child
from tests.system.system import System
from zclient import Client

PORT = 5555


class HostedBroker(BrokerProcess):
    """``zbroker start`` on a host, for all of its addresses. ``control`` is a way in that no link leads through."""

    def __init__(self, host: Host, data: Path, log: Path, control: str, **settings: Any) -> None:
        super().__init__(data, log, bind=f"tcp://0.0.0.0:{PORT}", insecure=True, **settings)
        self.control = control
        self.endpoints = [f"tcp://{link.address}:{PORT}" for link in host.links]
        self._host = host

    def _line(self) -> list[str]:
        return [*self._host.enter, *super()._line(), "--bind", self.control]


class Lab(System):
    """Four hosts, and what runs on them. Each has two links: to the first switch, and to the second."""

    def __init__(self, folder: Path, network: Network) -> None:
        super().__init__(folder)
        self.broker_host, self.one, self.two, self.client_host = (network.host(links=2) for _ in range(4))
        # A socket's path has hardly more than a hundred characters, and a test's folder may need them all.
        self._control = tempfile.TemporaryDirectory(prefix="zbroker-")

    def serve(self, **settings: Any) -> tuple[HostedBroker, Client]:
        """A broker on its host, and a client that sees it whatever the links do."""
        settings.setdefault("data", self.folder / "broker")
        control = f"ipc://{self._control.name}/control"
        broker = HostedBroker(self.broker_host, log=self._log("broker"), control=control, **settings)
        self.children.append(broker)
        broker.start()
        return broker, self.client(control)

    def run_on(self, host: Host, program: str, **arguments: Any) -> Child:
        """One of the programs of ``tests.system.programs``, started on this host."""
        command = [sys.executable, "-m", "tests.system.programs", program, json.dumps(arguments)]
        child = Child([*host.enter, *command], self._log(program))
        self.children.append(child)
        child.spawn()
        return child

    def worker_on(self, host: Host, *endpoints: str, **options: Any) -> Child:
        """A worker of the queue `q` on this host, which the broker knows of."""
        worker = self.run_on(host, "worker", endpoint=endpoints, queues=["q"], **options)
        worker.expect("ready")
        return worker

    def end(self) -> None:
        """End all of it, whatever its state. The hosts stay: they are the network's."""
        super().end()
        self._control.cleanup()
