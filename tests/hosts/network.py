"""Hosts of a test: network namespaces, each with addresses of its own, plugged into switches by links that can fail.

Nothing here touches the machine's own network: switches lie in a namespace too, no packet leaves it, and a namespace
lives only as long as the process that holds it, which ends with this one even if this one is killed. It knows nothing
of brokers.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence

TOOLS = ("ip", "unshare", "nsenter")
PATIENCE_S = 10.0
FORBIDDEN = ("not permitted", "Permission denied", "not supported", "Unknown device type", "Specified qdisc not found")
"""What the kernel says where it, or whoever set up this machine, does not allow what was asked. Any other failure of a
command is ours."""


class Unavailable(Exception):
    """This machine does not permit what was asked for, or lacks a tool for it; the text says what."""


def _run(command: Sequence[str], lines: Sequence[str] = ()) -> None:
    text = "".join(line + "\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        told = f"{' '.join(command)}: {done.stderr.strip()}"
        if any(reason.lower() in told.lower() for reason in FORBIDDEN):
            raise Unavailable(told)
        raise RuntimeError(told)


class Namespace:
    """A network namespace, held open by a process that waits for the end of its stdin."""

    def __init__(self, outer: "Namespace | None" = None) -> None:
        # Who is not root is root in a user namespace, and the namespaces of one network share that of the first.
        own_user = outer is None and os.geteuid() != 0
        unshare = ["unshare", *(["--user", "--map-root-user"] if own_user else []), "--net"]
        prefix = [] if outer is None else outer.enter_user
        self._user = own_user or bool(prefix)
        self._holder = subprocess.Popen(
            [*prefix, *unshare, "sh", "-c", "echo held && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if not self._holder.stdout.readline():
            reason = self._holder.stderr.read().strip()
            self.close()
            raise Unavailable(f"no network namespaces: {reason}")

    @property
    def pid(self) -> int:
        """The process that holds it: what `ip link ... netns` takes as its name."""
        return self._holder.pid

    @property
    def enter_user(self) -> list[str]:
        """What to put before a command so that it may change this network."""
        return ["nsenter", f"--target={self.pid}", "--user", "--preserve-credentials", "--"] if self._user else []

    @property
    def enter(self) -> list[str]:
        """What to put before a command so that it runs in this namespace, as the same process."""
        user = ["--user", "--preserve-credentials"] if self._user else []
        return ["nsenter", f"--target={self.pid}", *user, "--net", "--"]

    def ip(self, *commands: str) -> None:
        """Run commands of `ip` in it, all or up to the first that fails."""
        _run([*self.enter, "ip", "-batch", "-"], commands)

    def tc(self, command: str) -> None:
        """Run a command of `tc` in it."""
        _run([*self.enter, "tc", *command.split()])

    def close(self) -> None:
        """End it, with all that is left in it."""
        self._holder.communicate(timeout=PATIENCE_S)


class Link:
    """A cable from a host to a switch."""

    def __init__(self, host: Namespace, name: str, switches: Namespace, port: str, switch: str, address: str) -> None:
        self.address = address
        self._host, self._name = host, name
        self._switches, self._port, self._switch = switches, port, switch
        switches.ip(
            f"link add {port} type veth peer name {name} netns {host.pid}",
            f"link set {port} master {switch} up",
        )
        host.ip(f"address add {address}/24 dev {name}", f"link set {name} up")

    def down(self) -> None:
        """The host's end is switched off: the host knows, its routes over it are gone, and what it sends fails."""
        self._host.ip(f"link set {self._name} down")

    def up(self) -> None:
        self._host.ip(f"link set {self._name} up")

    def go_dark(self) -> None:
        """The switch forgets the port: nothing arrives any more in either direction, and nobody learns of it."""
        self._switches.ip(f"link set {self._port} nomaster")

    def come_back(self) -> None:
        self._switches.ip(f"link set {self._port} master {self._switch}")

    def slow(self, rate: str, queue: str) -> None:
        """Carry no more than ``rate`` in each direction; what waits longer than ``queue`` is dropped.

        `Unavailable` without `tc`, or without the kernel's token bucket filter.
        """
        if shutil.which("tc") is None:
            raise Unavailable("a link cannot be slowed down: there is no `tc`")
        shape = f"root tbf rate {rate} burst 16kb latency {queue}"
        self._host.tc(f"qdisc add dev {self._name} {shape}")
        self._switches.tc(f"qdisc add dev {self._port} {shape}")


class Host:
    """A machine of its own, as far as its network goes. ``link`` is its first one."""

    def __init__(self, namespace: Namespace, links: list[Link]) -> None:
        self._namespace = namespace
        self.links = links
        self.enter = namespace.enter

    @property
    def link(self) -> Link:
        return self.links[0]

    @property
    def address(self) -> str:
        return self.link.address


class Network:
    """``switches`` switches, each a network 10.77.n.0/24; `host` plugs a new host into the first ones of them."""

    def __init__(self, switches: int = 1) -> None:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise Unavailable(f"network namespaces need `{missing[0]}`, which is not installed")
        self._namespaces: list[Namespace] = []
        self._switches = self._namespace(None)
        try:
            for number in range(switches):
                self._switches.ip(f"link add switch{number} type bridge", f"link set switch{number} up")
        except Unavailable:
            self.close()
            raise

    def host(self, links: int = 1) -> Host:
        """A new host with so many links, the nth one to the nth switch."""
        number = len(self._namespaces)  # the switches' own is the first: hosts count from 1
        namespace = self._namespace(self._switches)
        namespace.ip("link set lo up")
        return Host(
            namespace,
            [
                Link(namespace, f"eth{n}", self._switches, f"port{number}.{n}", f"switch{n}", f"10.77.{n}.{number}")
                for n in range(links)
            ],
        )

    def _namespace(self, outer: Namespace | None) -> Namespace:
        namespace = Namespace(outer)
        self._namespaces.append(namespace)
        return namespace

    def close(self) -> None:
        """Take all of it down; the processes in it must have ended."""
        for namespace in reversed(self._namespaces):
            namespace.close()
