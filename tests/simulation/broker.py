"""The broker's process: the production engine in the place of `zbroker.server.Server`, turn for turn.

It owns the inbox, the clocks that it hands to the core, and how the process ends. The core, its dialect and the commit
are the ones that ship.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.disk import Died, Disk
from tests.simulation.network import RESET_MS, Connection, Network
from tests.simulation.world import Process, Violation, World
from zbroker.commit import Commit, Durability
from zbroker.core.core import Core
from zbroker.engine import Engine
from zbroker.limits import TURN_MESSAGES
from zbroker.server import _stall_ms
from zbroker.storage.interface import StoreError
from zclient.protocol import messages as m

if TYPE_CHECKING:
    from tests.simulation.leases import Leases
    from zbroker.core.state import Settings

MOST_IDLE_TURNS = 2_000
"""Turns in a row that a core may want at once while nothing arrives; more is a loop that never rests."""


class HeardCore(Core):
    """The core, with somebody who listens to what it is told of leases."""

    leases: Leases | None = None

    def receive(self, route: bytes, message: m.Message) -> None:
        if self.leases is not None and type(message) is m.Hello:
            self.leases.hello(self, route, message)
        super().receive(route, message)
        if self.leases is not None:
            self.leases.heard(self, route, message)


class BrokerProcess(Process):
    """The broker. ``core`` is that of the process that runs, or of the last one."""

    def __init__(self, world: World, network: Network, disk: Disk, settings: Settings, leases: Leases) -> None:
        super().__init__(world, "broker")
        network.broker = self
        self.disk = disk
        self.core: HeardCore
        self.most_messages = TURN_MESSAGES
        self.dies_after_sends = -1  # it dies when it has sent so many messages of a turn
        self.dies_in_slices = False  # it dies when it is in the middle of what comes in slices
        self.slow_ms = 0.0  # what its next commit takes
        self.turns = 0
        self.restarts = 0
        self._settings = settings
        self._leases = leases
        self._network = network
        self._idle_turns = 0

    # ---- its life

    def start(self) -> bool:
        """Open what is on the disk and listen. False if it died at that."""
        world = self.world
        self.begin()
        self._inbox: deque[tuple[bytes, list[bytes]]] = deque()
        self._routes: dict[bytes, Connection] = {}
        self._held_ms = 0.0
        self._worked = self._waits_ms = 0
        store = self.disk.mount()
        self.core = HeardCore(store, self._settings, Random(world.random.random()))
        self._engine = Engine(self.core, Commit(store, Durability.FSYNC, self._wait))
        now = int(world.now)
        try:
            self._engine.open(world.wall, now, b"simulated broker")
        except (Died, StoreError) as end:
            self._ended(end)
            return False
        self.core.serving(now)
        self.core.notices()
        self.core.leases = self._leases
        self._leases.opened(self.core)
        self._waited_from = now
        world.note("broker", "started", self.core.state.epoch)
        self.wake()
        return True

    def kill(self, *, power: bool) -> None:
        """It dies between two turns; with ``power``, of its host."""
        self._ended(Died("between two turns"), power=power)

    def _ended(self, end: BaseException, *, power: bool | None = None) -> None:
        """The process is gone. Whether the system lives decides what of its writes does."""
        self.world.note("broker", "died", f"{type(end).__name__}: {end}")
        self.end()
        self.restarts += 1
        self.disk.mishap = ""
        self.disk.refusals = 0
        if power is None:
            power = not isinstance(end, Died) or self.world.chance(0.7)
        if power:
            self.disk.power_lost()
        else:
            self.disk.process_died()
        for connection in list(self._routes.values()):
            connection.cut(self.world.between(*RESET_MS), 0.0)

    def _wait(self, seconds: float) -> None:
        """The commit waits for room: what it sends then leaves so much later."""
        self._held_ms += seconds * 1000

    # ---- what the network tells

    def met(self, connection: Connection) -> None:
        self._routes[connection.route] = connection

    def lost(self, connection: Connection) -> None:
        self._routes.pop(connection.route, None)

    def arrive(self, connection: Connection, frames: list[bytes]) -> None:
        if self.alive and connection.route in self._routes:
            self._inbox.append((connection.route, frames))
            self.wake(self.world.random.random())

    # ---- a turn

    def run(self) -> Any:
        """One turn, as `Server.serve` takes it."""
        world, core = self.world, self.core
        woken = int(world.now)
        stalled = _stall_ms(self._worked, woken - self._waited_from, self._waits_ms)
        try:
            core.begin(world.wall, woken)
            if stalled:
                world.note("broker", "stalled", stalled)
                core.stalled(stalled)
            self._leases.turn(core, woken, stalled)
            drained = self._receive()
            core.set_disk_low(self.disk.low)
            self._held_ms, self.slow_ms = self.slow_ms, 0.0
            outgoing = self._engine.finish(drained=drained)
            self._send(outgoing)
            self._die_in_slices()
        except (Died, StoreError) as end:
            self._ended(end)
            return True
        core.notices()
        self.turns += 1
        self._worked = int(self._held_ms)
        self._waited_from = woken + self._worked
        self._waits_ms = core.wanted_in()
        self._rest_or_go_on(bool(outgoing))
        return True

    def _rest_or_go_on(self, did_something: bool) -> None:
        self._idle_turns = 0 if did_something or self._waits_ms else self._idle_turns + 1
        if self._idle_turns > MOST_IDLE_TURNS:
            raise Violation(f"the core wants turn after turn, and does nothing in {MOST_IDLE_TURNS} of them")
        self.stop(self._held_ms)
        self.wake(self._held_ms + (min(self._waits_ms, 1_000) or 0.05))
        if self._inbox:
            self.wake(self._held_ms + 0.05)

    def _receive(self) -> bool:
        """Take what has arrived, up to the turn's budget; whether that was all."""
        inbox, receive = self._inbox, self._engine.receive
        for _ in range(self.most_messages):
            if not inbox:
                return True
            receive(*inbox.popleft())
        return False

    def _send(self, outgoing: list[Any]) -> None:
        core = self.core
        if outgoing and self.disk.unsynced:
            raise Violation("messages leave before the commit of what they tell")
        for position, (route, frames, fence) in enumerate(outgoing):
            if position == self.dies_after_sends:
                self.dies_after_sends = -1
                raise Died(f"after {position} of {len(outgoing)} messages")
            connection = self._routes.get(route)
            if connection is not None and not connection.is_full:
                connection.down(frames, self._held_ms)
                continue
            if connection is None:
                core.unreachable(route)
            else:
                core.congested(route)
            if fence:
                self._leases.unsent.add(fence)
                core.undelivered(fence)

    def _die_in_slices(self) -> None:
        state = self.core.state
        if self.dies_in_slices and (state.works or state.over):
            self.dies_in_slices = False
            raise Died("in the middle of what comes in slices")

    @property
    def has_mail(self) -> bool:
        """Whether messages wait that it has not read."""
        return bool(self._inbox)
