"""The links between the broker and each place, and the harm that can be done to one: proxies, or hosts with cables.

A link has a name, that of its place. `harms` lists what can be done to it; each of these does it, and returns how it is
undone, or None for what is over at once. Who does it writes it down; nothing is decided here.
"""

import tempfile
from collections.abc import Callable
from typing import Protocol

from tests.hosts.network import Host, Link, Network
from tests.system.processes import Reserved
from tests.system.proxy import Proxy

Undo = Callable[[], None]
Step = Callable[[], Undo | None]

DELAYS_S = 0.15
"""How much later everything arrives on a slow link: more than the time between two turns, less than any deadline."""

PORT = 5555


class Wire(Protocol):
    """One link."""

    def harms(self) -> dict[str, Step]:
        """What can be done to it, by the word for it in the history."""
        ...


class ProxyWire:
    """A link through a proxy on this machine."""

    def __init__(self, target: str) -> None:
        self._proxy = Proxy(target)
        self.endpoint = self._proxy.endpoint
        self.close = self._proxy.close

    def harms(self) -> dict[str, Step]:
        return {
            "cut": self._proxy.cut,
            "dark": self._dark,
            "half-closed": lambda: self._half_closed(broker_side=False),
            "half-open": lambda: self._half_closed(broker_side=True),
            "slow": self._slow,
        }

    def _dark(self) -> Undo:
        self._proxy.go_dark()
        return self._proxy.come_back

    def _half_closed(self, *, broker_side: bool) -> Undo:
        self._proxy.half_close(broker_side=broker_side)
        return self._proxy.mend

    def _slow(self) -> Undo:
        self._proxy.delay(DELAYS_S)
        return lambda: self._proxy.delay(0)


class HostWire:
    """The cable of a host."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def harms(self) -> dict[str, Step]:
        return {"dark": self._dark, "down": self._down}

    def _dark(self) -> Undo:
        self._link.go_dark()
        return self._link.come_back

    def _down(self) -> Undo:
        self._link.down()
        return self._link.up


class Links(Protocol):
    """The links of all places, and where the broker listens."""

    wires: dict[str, Wire]

    def bind(self) -> tuple[str, str | None]:
        """Where the broker binds, and where the driver talks to it if that is somewhere else."""
        ...

    def options(self) -> list[str]:
        """Further options of the broker."""
        ...

    def connect(self, endpoint: str) -> None:
        """Lay the links, now that it is known where the broker listens."""
        ...

    def endpoint_of(self, name: str) -> str:
        """Where a place finds the broker."""
        ...

    def enter(self, name: str) -> list[str]:
        """What stands before the command of the process at a place."""
        ...

    def close(self) -> None:
        """Take all of it down; no process is left on it."""
        ...


class Proxies:
    """Everything on this machine, each place behind a proxy of its own."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._port = Reserved()
        self._proxies: dict[str, ProxyWire] = {}
        self.wires: dict[str, Wire] = {}

    def bind(self) -> tuple[str, str | None]:
        return self._port.endpoint, None

    def options(self) -> list[str]:
        return []

    def connect(self, endpoint: str) -> None:
        self._proxies = {name: ProxyWire(endpoint) for name in self._names}
        self.wires = dict(self._proxies)

    def endpoint_of(self, name: str) -> str:
        return self._proxies[name].endpoint

    def enter(self, name: str) -> list[str]:
        return []

    def close(self) -> None:
        for wire in self._proxies.values():
            wire.close()
        self._port.close()


class Hosts:
    """Each place on a host of its own, and the broker as well. Raises `tests.hosts.network.Unavailable`."""

    def __init__(self, names: list[str]) -> None:
        self._network = Network(switches=1)
        # A socket's path has hardly more than a hundred characters.
        self._control = tempfile.TemporaryDirectory(prefix="zbroker-")
        try:
            self._hosts: dict[str, Host] = {name: self._network.host() for name in ["broker", *names]}
        except BaseException:
            self.close()
            raise
        self.wires: dict[str, Wire] = {name: HostWire(host.link) for name, host in self._hosts.items()}

    def bind(self) -> tuple[str, str | None]:
        return f"tcp://0.0.0.0:{PORT}", f"ipc://{self._control.name}/control"

    def options(self) -> list[str]:
        return ["--insecure"]

    def connect(self, endpoint: str) -> None:
        """The cables are there since the beginning."""

    def endpoint_of(self, name: str) -> str:
        return f"tcp://{self._hosts['broker'].address}:{PORT}"

    def enter(self, name: str) -> list[str]:
        return self._hosts[name].enter

    def close(self) -> None:
        self._network.close()
        self._control.cleanup()
