"""Connections that delay, drop and break, as TCP under ZeroMQ does: in order within one, in any order between them.

It owns what is under way, and which side knows of a cut. A message is never doubled here: ZeroMQ does not; a session
that sends again after a reconnect does. ``Transport`` is to a session what `zclient.link.Link` is, turn for turn.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from tests.simulation.world import Process, World
from zclient.link import RECONNECT_MAX_MS, RECONNECT_MS
from zclient.session import Session

if TYPE_CHECKING:
    from zclient.protocol.messages import Message

NEVER = 1 << 60
HEARTBEAT_MS = (8_000.0, 10_000.0)
"""After so long without a sign the other side is given up."""

RESET_MS = (0.1, 100.0)
"""After so long a living host tells that a process of it is gone."""


class Weather:
    """How the network is. Milliseconds."""

    def __init__(self) -> None:
        self.latency = (0.1, 1.0)
        self.late = 0.0  # share of the messages that are late
        self.late_ms = (0.0, 0.0)


class Listener(Protocol):
    """The broker, as the network sees it."""

    alive: bool
    stopped: bool
    life: int

    def arrive(self, connection: Connection, frames: list[bytes]) -> None: ...

    def met(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Network:
    """All connections to one broker."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.broker: Listener
        self.connections: dict[bytes, Connection] = {}
        self.dark: dict[Process, float] = {}  # processes whose link is down, and until when
        self.deaf_ms: list[float] = []  # so long nothing gets through to the peer of the next connection, and so on
        self._routes = 0

    def latency(self) -> float:
        weather = self.weather
        if weather.late and self.world.chance(weather.late):
            return self.world.between(*weather.late_ms)
        return self.world.between(*weather.latency)

    def is_dark(self, process: Process) -> bool:
        return self.world.now < self.dark.get(process, 0.0)

    def dial(self, transport: Transport) -> Connection | None:
        """A new connection, if somebody listens; it is there when both sides have heard of it."""
        broker = self.broker
        if not broker.alive or broker.stopped or self.is_dark(transport.process):
            return None
        self._routes += 1
        connection = Connection(self, self._routes.to_bytes(5, "big"), transport)
        if self.deaf_ms:
            connection.deaf_until = self.world.now + self.deaf_ms.pop()
        self.connections[connection.route] = connection
        self.world.after(self.latency(), self._met, connection, broker.life)
        return connection

    def _met(self, connection: Connection, life: int) -> Any:
        if connection.is_cut:
            return False
        if life != self.broker.life or not self.broker.alive:
            connection.cut(0.1, 0.1)
            return False
        self.broker.met(connection)
        connection.last_down = self.world.now + self.latency()
        self.world.after(connection.last_down - self.world.now, connection.transport.established, connection)
        return True

    def black_out(self, process: Process, ms: float) -> None:
        """The link of a process is down for so long: nothing arrives, and both sides find out by their heartbeats."""
        self.dark[process] = self.world.now + ms
        for connection in list(self.connections.values()):
            if connection.transport.process is process:
                connection.cut(self.world.between(*HEARTBEAT_MS), self.world.between(*HEARTBEAT_MS))


class Connection:
    """One connection. Messages of one direction arrive in order, and after a cut only those that had got far enough."""

    __slots__ = (
        "congested_until",
        "deaf_until",
        "down_end",
        "down_got",
        "down_sent",
        "is_cut",
        "last_down",
        "last_up",
        "network",
        "route",
        "transport",
        "up_end",
        "up_got",
        "up_sent",
    )

    def __init__(self, network: Network, route: bytes, transport: Transport) -> None:
        self.network = network
        self.route = route
        self.transport = transport
        self.is_cut = False
        self.congested_until = 0.0  # until then neither side can send
        self.deaf_until = 0.0  # until then the broker cannot: the peer does not read
        self.last_up = self.last_down = 0.0
        self.up_sent = self.up_got = self.down_sent = self.down_got = 0
        self.up_end = self.down_end = NEVER

    @property
    def congested(self) -> bool:
        return self.network.world.now < self.congested_until

    @property
    def is_full(self) -> bool:
        """Whether the broker can send nothing here."""
        return self.network.world.now < max(self.congested_until, self.deaf_until)

    def up(self, frames: list[bytes]) -> None:
        """The peer sends."""
        world = self.network.world
        self.last_up = max(self.last_up, world.now + self.network.latency())
        world.after(self.last_up - world.now, self._arrived_up, self.up_sent, frames)
        self.up_sent += 1

    def down(self, frames: list[bytes], held_ms: float) -> None:
        """The broker sends, after it was held up for so long."""
        world = self.network.world
        self.last_down = max(self.last_down, world.now + held_ms + self.network.latency())
        world.after(self.last_down - world.now, self._arrived_down, self.down_sent, frames)
        self.down_sent += 1

    def _arrived_up(self, number: int, frames: list[bytes]) -> Any:
        if number >= self.up_end:
            return False
        self.up_got = number + 1
        self.network.broker.arrive(self, frames)
        return True

    def _arrived_down(self, number: int, frames: list[bytes]) -> Any:
        if number >= self.down_end:
            return False
        self.down_got = number + 1
        return self.transport.arrive(self, frames)

    def cut(self, peer_knows_ms: float, broker_knows_ms: float) -> None:
        """It breaks: of what is under way in each direction a part from its beginning still arrives."""
        if self.is_cut:
            return
        self.is_cut = True
        world = self.network.world
        self.up_end = world.random.randint(self.up_got, self.up_sent)
        self.down_end = world.random.randint(self.down_got, self.down_sent)
        world.after(peer_knows_ms, self.transport.broken, self)
        world.after(broker_knows_ms, self._forgotten)

    def _forgotten(self) -> None:
        self.network.connections.pop(self.route, None)
        self.network.broker.lost(self)


class Transport:
    """What carries a session's frames in the simulated network; see `zclient.link.Transport`."""

    def __init__(self, network: Network, process: Process, session: Session) -> None:
        self.process = process
        self._network = network
        self._world = network.world
        self._session = session
        self._life = process.life
        self._inbox: deque[list[bytes]] = deque()
        self._events: list[bool] = []  # connected, disconnected
        self._connection: Connection | None = None
        self._up = False
        self._attempts = 0
        self._waited_ms = 0.0  # what its owner waited, which only one that ends does
        self._closed = False
        self._blocked = False
        self._world.after(0.0, self._dial)

    # ---- what its owner calls

    def now(self) -> float:
        return self._world.now + self._waited_ms

    @property
    def ready(self) -> bool:
        return bool(self._inbox or self._events) or (self._session.pending and not self._blocked)

    def filenos(self) -> tuple[int, ...]:
        return ()

    def turn(self) -> list[Message]:
        session = self._session
        now = self.now()
        received: list[Message] = []
        while self._inbox:
            received += session.receive(self._inbox.popleft(), now)
        events, self._events = self._events, []
        for connected in events:
            (session.connected if connected else session.disconnected)(now)
        session.tick(now)
        self._blocked = False
        if not (session.hello_due and received):
            self._send(now)
        return received

    def wait(self, timeout_ms: float) -> None:
        """For the owner's last words only: nothing arrives any more while it waits."""
        self._waited_ms += max(timeout_ms, 1.0)

    def wake(self) -> None:
        self.process.wake()

    def close(self) -> None:
        if not self._closed:
            self._send(self.now())
            self.abandon()

    def abandon(self) -> None:
        """The process is gone, and its sockets with it."""
        self._closed = True
        if self._connection is not None:
            self._connection.cut(0.0, self._world.between(*RESET_MS))

    def _send(self, now: float) -> None:
        session = self._session
        while messages := session.outgoing(now):
            for position, frames in enumerate(messages):
                connection = self._connection
                if connection is None or not self._up or connection.congested:
                    session.unsent(len(messages) - position)
                    self._blocked = True
                    self.process.wake(50.0)
                    return
                self._world.note(self.process.name, "->", frames)
                connection.up(frames)

    # ---- what the network tells

    def _dial(self) -> Any:
        if self._closed or self._life != self.process.life:
            return False
        if self.process.stopped:
            self._world.after(self.process.stopped_until - self._world.now, self._dial)
            return False
        self._connection = self._network.dial(self)
        if self._connection is not None:
            self._attempts = 0
            return True
        wait_ms = min(RECONNECT_MS << min(self._attempts, 6), RECONNECT_MAX_MS) * self._world.between(0.5, 1.0)
        self._attempts += 1
        self._world.after(wait_ms, self._dial)
        return False

    def established(self, connection: Connection) -> Any:
        if connection is not self._connection or self._closed or connection.is_cut:
            return False
        self._world.note(self.process.name, "connected", connection.route)
        self._up = True
        self._events.append(True)
        self.process.wake(self._world.between(0.0, 1.0))
        return True

    def broken(self, connection: Connection) -> Any:
        if connection is not self._connection or self._closed:
            return False
        if self._up:
            self._world.note(self.process.name, "disconnected", connection.route)
            self._events.append(False)
            self.process.wake(self._world.between(0.0, 1.0))
        self._up = False
        self._connection = None
        self._world.after(self._world.between(RECONNECT_MS, 4 * RECONNECT_MS), self._dial)
        return True

    def arrive(self, connection: Connection, frames: list[bytes]) -> Any:
        if connection is not self._connection or not self._up or self._closed:
            return False
        self._world.note(self.process.name, "<-", frames)
        self._inbox.append(frames)
        self.process.wake(self._world.between(0.0, 0.5))
        return True
