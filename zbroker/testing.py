"""`LocalBroker`: the real core on the memory store with a clock the test moves; clients and workers in one process.

No sockets, no files, no waiting for timers: what takes three days takes one call of `advance`. Everything else is
the production code: the core, the codec, the sessions, the worker's loop and threads.
"""

import contextlib
import random
import select
import socket as sockets
import threading
import time
from collections import deque
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from zbroker.commit import Commit, Durability
from zbroker.config import given_config
from zbroker.core.core import Core
from zbroker.engine import Engine
from zbroker.storage.memory import MemoryStore
from zclient.durations import parse_duration
from zclient.errors import ClosedError
from zclient.protocol.messages import Message
from zclient.session import TICK_MS

if TYPE_CHECKING:
    from zclient import AsyncClient, Client
    from zclient.session import Session

NEVER_MS = 10 * 366 * 86_400_000
"""Nobody is probed or goes silent inside one process."""

QUIET_SECONDS = 30.0
"""How long `advance` and `wait_idle` wait, in real time, for handlers to end."""


class Serves(Protocol):
    """What `LocalBroker.run` needs of a `zworker.Worker`, which this package does not import."""

    _transport: Any

    def start(self) -> None: ...

    def wait_ready(self, timeout: float = ...) -> None: ...

    def stop(self) -> None: ...


class LocalBroker:
    """A broker for tests.

        with LocalBroker() as broker:
            job = broker.client().send("email", {"to": "ada@example.org"}, delay="3d")
            with broker.running(worker):
                broker.advance("3d")
                assert job.result() == "sent"

    Takes the settings of ``zbroker.config`` by name (``lease="10s"``, ``max_attempts=2``). ``seed`` decides what is
    left to chance. Safe to use from several threads.
    """

    def __init__(self, *, seed: int = 0, **settings: Any) -> None:
        self._config = given_config(settings)
        self._random = random.Random(seed)
        self._store = MemoryStore()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._elapsed = 0  # ms that the test has let pass
        self._born_wall = time.time_ns() // 1_000_000
        self._transports: dict[bytes, LocalTransport] = {}
        self._numbers = 0
        self._clients: list[Client] = []
        self._closed = False
        self._engine = self._open()

    endpoint = "ipc://in-this-process"
    """What to say where an endpoint is asked for; ``transport=`` is what counts."""

    # ---- who talks to it

    def client(self) -> "Client":
        """A client of this broker; closed with it."""
        from zclient import Client

        client = Client(transport=self.transport)
        self._clients.append(client)
        return client

    def async_client(self) -> "AsyncClient":
        """An asyncio client of this broker, for the caller to close."""
        from zclient import AsyncClient

        return AsyncClient(transport=self.transport)

    def transport(self, session: "Session") -> "LocalTransport":
        """A way to this broker, for ``transport=`` of a client, worker or consumer."""
        with self._lock:
            if self._closed:
                raise ClosedError("this LocalBroker is closed")
            self._numbers += 1
            route = self._numbers.to_bytes(5, "big")
            self._transports[route] = LocalTransport(self, route, session)
            return self._transports[route]

    @contextlib.contextmanager
    def running(self, worker: Any) -> Any:
        """Run a `zworker.Worker`, with the tasks it has, on this broker; it ends with the block."""
        serves: Serves = worker
        before = serves._transport
        serves._transport = self.transport
        try:
            serves.start()
            serves.wait_ready()
            yield worker
        finally:
            serves.stop()
            serves._transport = before

    # ---- time

    @property
    def now(self) -> float:
        """The broker's wall clock, in Unix seconds."""
        return (self._born_wall + self._elapsed) / 1000

    def advance(self, duration: str | float) -> None:
        """Let so much time pass. What falls due happens in its order, and runs that it starts are waited for.

        Runs that were under way before are not waited for; living workers renew their leases on the way.
        """
        with self._lock:
            end = self._elapsed + round(parse_duration(duration) * 1000)
            before = set(self._engine.core.state.leased)
            while self._elapsed < end:
                self._elapsed += max(1, min(self._engine.core.wanted_in(), self._until_renewal(), end - self._elapsed))
                self._renewed()
                self._turn()
                self._wait_idle(before)

    def wait_idle(self) -> None:
        """Wait, in real time, until nothing runs and nothing that is ready could run."""
        with self._lock:
            self._turn()
            self._wait_idle(set())

    # ---- looking inside

    @property
    def store(self) -> MemoryStore:
        """Its rows, for `zbroker.check.check_store`."""
        return self._store

    # ---- mishaps

    def restart(self) -> None:
        """The broker dies and starts again on the same store: what was not committed is gone, connections break."""
        with self._lock:
            self._engine = self._open()
            for transport in self._transports.values():
                transport.broken = True
                transport.inbox.clear()
                transport.wake()

    # ---- its life

    def close(self) -> None:
        """Close its clients, and take no more."""
        for client in self._clients:
            client.close()
        with self._lock:
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- inside

    def _open(self) -> Engine:
        settings = self._config.core()
        core = Core(self._store, replace(settings, probe_ms=NEVER_MS, client_probe_ms=NEVER_MS), self._random)
        engine = Engine(core, Commit(self._store, Durability.MEMORY, lambda seconds: None))
        engine.open(self._born_wall + self._elapsed, self._elapsed, self._random.randbytes(16))
        return engine

    def _turn(self) -> None:
        """One turn of the core, and whatever it sends to those it is for."""
        core = self._engine.core
        while True:
            core.begin(self._born_wall + self._elapsed, self._elapsed)
            for outgoing in self._engine.finish(drained=True):
                transport = self._transports.get(outgoing.route)
                if transport is None:
                    core.unreachable(outgoing.route)
                    if outgoing.fence:
                        core.undelivered(outgoing.fence)
                else:
                    transport.inbox.append(outgoing.frames)
                    transport.wake()
            core.notices()
            if core.wanted_in() > 0:
                return

    def _take(self, route: bytes, messages: list[list[bytes]]) -> None:
        core = self._engine.core
        core.begin(self._born_wall + self._elapsed, self._elapsed)
        for frames in messages:
            self._engine.receive(route, frames)
        self._turn()
        self._changed.notify_all()

    def _drop(self, route: bytes) -> None:
        with self._lock:
            self._transports.pop(route, None)
            self._engine.core.unreachable(route)
            self._changed.notify_all()

    def _until_renewal(self) -> int:
        """Time steps no further than a worker needs to renew its leases, if any holds one."""
        state = self._engine.core.state
        if not state.leased:
            return NEVER_MS
        return max(1, min((queue.policy.lease_ms for queue in state.queues.values()), default=NEVER_MS) // 6)

    def _renewed(self) -> None:
        """Let each worker that holds jobs have a turn at the new time, so that it renews."""
        state = self._engine.core.state
        holding = [self._transports[peer.route] for peer in state.peers.values() if peer.deliveries and peer.route]
        turns = [transport.turns for transport in holding]
        for transport in holding:
            transport.wake()
        self._changed.wait_for(
            lambda: all(t.turns > n or t.closed for t, n in zip(holding, turns, strict=True)), QUIET_SECONDS
        )

    def _wait_idle(self, ignored: set[bytes]) -> None:
        """Wait until no run goes on but the ignored ones, and no worker has both credit and something to do."""
        state = self._engine.core.state

        def is_idle() -> bool:
            # A run that yields goes on only as its reader, the test, takes values.
            waited_for = state.leased.keys() - ignored - state.streams.keys()
            return not waited_for and not (state.hot or state.eager or state.over)

        if not self._changed.wait_for(is_idle, QUIET_SECONDS):
            raise TimeoutError(f"handlers still run after {QUIET_SECONDS:g} s of real time")


class LocalTransport:
    """What a session gets in the place of a socket. Real time passes for it as well, so that timeouts end."""

    def __init__(self, broker: LocalBroker, route: bytes, session: "Session") -> None:
        self.inbox: deque[list[bytes]] = deque()
        self.broken = True  # until the next turn connects it
        self.closed = False
        self.turns = 0
        self._broker = broker
        self._route = route
        self._session = session
        self._connected = False
        self._waits = False
        self._read, self._write = sockets.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def now(self) -> float:
        """Monotonic milliseconds: real ones, and those that the test let pass."""
        return time.monotonic() * 1000 + self._broker._elapsed

    @property
    def ready(self) -> bool:
        return bool(self.inbox) or self.broken

    def filenos(self) -> tuple[int, ...]:
        return (self._read.fileno(),)

    def wait(self, timeout_ms: float) -> None:
        self._waits = True
        if not self.ready:
            select.select([self._read], [], [], min(max(0.0, timeout_ms), TICK_MS) / 1000)
        self._calm()

    def _calm(self) -> None:
        """Take the bytes that ended a wait. Where threads wait, only they do: a turn of another must not."""
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full, or closed: nobody has to be woken
            self._write.send(b"w")

    def turn(self) -> list[Message]:
        if not self._waits:  # an event loop watches the descriptor
            self._calm()
        received: list[Message] = []
        session = self._session
        with self._broker._lock:
            now = self.now()
            if self.broken:
                self.broken = False
                if self._connected:
                    session.disconnected(now)
                self._connected = True
                session.connected(now)
            session.tick(now)
            while True:
                while self.inbox:
                    received += session.receive(self.inbox.popleft(), now)
                if session.hello_due and received:
                    break  # its owner first takes note of what came, so that HELLO names it
                messages = session.outgoing(now)
                if not messages:
                    break
                self._broker._take(self._route, messages)
            self.turns += 1
            self._broker._changed.notify_all()
        return received

    def close(self) -> None:
        if self.closed:
            return
        self.turn()
        self.closed = True
        self._broker._drop(self._route)
        self._read.close()
        self._write.close()
