"""The connection to a broker: one DEALER socket, its monitor, and a way to wake whoever waits on them.

A `Link` moves frames between a `Session` and the wire; it decides nothing about their meaning. It owns its ZeroMQ
context, so that nothing is shared between clients or with the program around it. `Transport` is what clients and
workers need of it, and what an in-process broker puts in its place.
"""

import contextlib
import os
import socket as sockets
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

import zmq

from zclient.errors import InvalidArgument
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.session import SEND_AT_ONCE, TICK_MS, Session

HIGH_WATER_MARK = 1000
"""Messages that wait in each direction inside libzmq. More stay in the session, or in the broker."""

HEARTBEAT_INTERVAL_MS, HEARTBEAT_TIMEOUT_MS = 2000, 8000
"""ZMTP heartbeats: a silent host is given up after the timeout. They run in libzmq's own thread."""

RECONNECT_MS, RECONNECT_MAX_MS = 50, 1000
"""Backoff between attempts to connect. A broker that starts again gives its workers five seconds to come back."""

CONNECT_MS = 2000
"""How long one attempt to connect may take. Without it TCP's own backoff decides, and is long after a dark minute."""

HANDSHAKE_MS = 5000
"""How long a connection may take to become one."""

LINGER_MS = 500
"""How long `Link.close` waits for what was sent to leave."""

ROTATE_MS = 500
"""With several endpoints, one that gives no connection for this long makes way for the next."""

RECEIVE_BUDGET = 500
"""Messages taken in one turn, so that what falls due is done between them."""

# As plain numbers: an operation on pyzmq's own, which are flags of an enum, costs as much as the call that it is for.
_EVENTS, _POLLIN, _POLLIN_OR_OUT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLIN | zmq.POLLOUT)
_DONTWAIT = int(zmq.DONTWAIT)


class Transport(Protocol):
    """What carries a session's frames. ``turn`` and ``close`` need outside locking; ``wait`` and ``wake`` need none."""

    def now(self) -> float:
        """Monotonic milliseconds: the clock of everything this session waits for."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the next turn has something to do at once."""
        ...

    def filenos(self) -> tuple[int, ...]:
        """Descriptors that turn readable when a turn has something to do; for event loops, which do not ``wait``."""
        ...

    def turn(self) -> list[m.Message]:
        """Receive and send what can be without waiting; returns what is for the session's owner."""
        ...

    def wait(self, timeout_ms: float) -> None:
        """Return when a turn has something to do, after ``wake``, or after the timeout; sooner does no harm."""
        ...

    def wake(self) -> None:
        """End a ``wait`` in another thread, or the next one."""
        ...

    def close(self) -> None:
        """Send what was asked for so far, within a short time, and let go of everything."""
        ...


class Link:
    """A `Transport` over ZeroMQ. Several endpoints are addresses of one broker, tried one after the other.

    `turn` may run in any thread, one at a time, while another is in `wait`: waiting looks at file descriptors only and
    never touches a socket. Such a turn may take what the descriptors told of, so if it leaves the link `ready`, its
    caller wakes who waits. `pump` is both, for an owner with one thread.
    """

    def __init__(self, session: Session, endpoints: str | Sequence[str], *, credentials: Any = None) -> None:
        if credentials is not None:
            raise InvalidArgument("credentials arrive in a later version")
        self._endpoints = check_endpoints(endpoints)
        self._session = session
        session.one_broker = len(self._endpoints) > 1
        session.where = " or ".join(self._endpoints)
        self._position = 0
        self._rotate_ms: float | None = None
        self._ready = True
        self._blocked = False
        self._armed = False  # the socket was not touched since it said that there is nothing
        self._happened = True  # the monitor may have something to tell
        self._waits = False
        self._closed = False
        self._pid = os.getpid()
        self._context = zmq.Context()
        self._wake_read, self._wake_write = sockets.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._woken = False  # a byte is in there, or about to be
        self._wake_fileno = self._wake_read.fileno()
        self._connected = False
        try:
            self._open()
        except BaseException:
            self._close_all(0)
            raise

    def now(self) -> float:
        """Monotonic milliseconds."""
        return time.monotonic() * 1000

    @property
    def connected(self) -> bool:
        """Whether there is a connection, welcomed or not."""
        return self._connected

    @property
    def ready(self) -> bool:
        """Whether the next turn has something to do at once."""
        return self._ready or (self._session.pending and not self._blocked)

    def filenos(self) -> tuple[int, ...]:
        """The descriptors to watch for reading. They change when the link moves on to another endpoint.

        They are edge-triggered: after each turn look at `ready` before watching them again.
        """
        return self._filenos

    def pump(self, timeout_ms: float) -> list[m.Message]:
        """One pass: wait at most this long for something to do, then do it. Returns what is for the owner."""
        self.wait(timeout_ms)
        return self.turn()

    def wait(self, timeout_ms: float) -> None:
        """Wait for the socket, its monitor or `wake`; at most a tick, since overdue things are looked for then."""
        timeout_ms = 0 if self.ready else min(max(timeout_ms, 0), TICK_MS, self._until_rotation())
        self._waits = True
        # The millisecond more keeps a caller's deadline from being met by a row of empty waits just before it.
        for descriptor, _ in self._poller.poll(int(timeout_ms) + 1 if timeout_ms else 0):
            # Only who waits takes the wake-up: a turn of another thread would take it from under the poll.
            if descriptor == self._wake_fileno:
                self._wake_read.recv(4096)
                self._woken = False
            elif descriptor == self._monitor_fileno:
                self._happened = True

    def wake(self) -> None:
        """End a `wait`; for other threads. One that is about to end for an earlier call ends for this one too: a system
        call after each short task would cost more than the task, and hand the interpreter over."""
        if self._woken:
            return
        self._woken = True
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_write.send(b"w")

    def turn(self) -> list[m.Message]:
        """Take what came, tell the session what happened to the connection, send what it wants sent."""
        session = self._session
        received: list[m.Message] = []
        drained = self._receive(received)
        # Each look at a socket costs as much as a message: at the monitor only when its descriptor said so, at the
        # socket, at the end, only after something was sent.
        if drained and (self._happened or not self._waits) and (events := self._events()):
            # What an old connection left must be taken before the session hears of a new one.
            drained = self._receive(received)
            for event in events:
                self._tell(event)
        now = self.now()
        session.tick(now)
        if session.misdirected or (self._rotate_ms is not None and now >= self._rotate_ms):
            self._rotate()
        self._blocked = False
        if not (session.hello_due and received):
            self._blocked = not self._send(now)
        # Looking at EVENTS last is what arms the descriptor again.
        wanted = _POLLIN_OR_OUT if self._blocked else _POLLIN
        self._ready = not drained or (not self._armed and _readable(self._socket, wanted))
        return received

    def close(self) -> None:
        """Send what the session has queued, and close; waits at most `LINGER_MS`. A forked child only forgets it."""
        if self._closed:
            return
        self._closed = True
        if self._pid != os.getpid():
            return
        with contextlib.suppress(zmq.ZMQError):
            self._send(self.now())
        self._close_all(LINGER_MS)

    # ---- the socket

    def _open(self) -> None:
        dealer = self._context.socket(zmq.DEALER)
        self._socket = dealer
        dealer.set(zmq.IMMEDIATE, 1)
        dealer.set(zmq.LINGER, LINGER_MS)
        dealer.set(zmq.SNDHWM, HIGH_WATER_MARK)
        dealer.set(zmq.RCVHWM, HIGH_WATER_MARK)
        dealer.set(zmq.MAXMSGSIZE, limits.MAX_FRAME_BYTES)
        dealer.set(zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS)
        dealer.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        dealer.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        dealer.set(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        dealer.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        dealer.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self._monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._filenos = (dealer.FD, self._monitor.FD)
        self._monitor_fileno = self._filenos[1]
        self._armed = False
        self._happened = True
        poller = zmq.Poller()
        for descriptor in (*self._filenos, self._wake_fileno):
            poller.register(descriptor, zmq.POLLIN)
        self._poller = poller
        endpoint = self._endpoints[self._position]
        if "[" in endpoint:  # only then: with it libzmq would try a name's IPv6 address first, and no other
            dealer.set(zmq.IPV6, 1)
        try:
            dealer.connect(endpoint)
        except zmq.ZMQError as error:
            raise InvalidArgument(f"not an endpoint: {endpoint!r} ({error})") from None
        self._count_down()

    def _count_down(self) -> None:
        """Without a connection, and with somewhere else to go, the next endpoint's turn comes."""
        self._rotate_ms = self.now() + ROTATE_MS if len(self._endpoints) > 1 else None

    def _until_rotation(self) -> float:
        return TICK_MS if self._rotate_ms is None else max(self._rotate_ms - self.now(), 0)

    def _rotate(self) -> None:
        """Go on to the next endpoint, with a socket of its own, so that nothing of the old connection is left."""
        if self._connected:
            self._connected = False
            self._session.disconnected(self.now())
        self._session.misdirected = False
        self._shut(0)
        self._position = (self._position + 1) % len(self._endpoints)
        self._open()

    def _events(self) -> list[int]:
        """What happened to the connection since the last look."""
        events: list[int] = []
        self._happened = False
        while _readable(self._monitor):
            # The first two bytes are the event. pyzmq's parser of it would load asyncio, half of our time to import.
            frames = self._monitor.recv_multipart(zmq.DONTWAIT)
            events.append(int.from_bytes(frames[0][:2], sys.byteorder))
        return events

    def _tell(self, event: int) -> None:
        now = self.now()
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
            self._rotate_ms = None
            self._session.connected(now)
        elif self._connected:
            self._connected = False
            self._session.disconnected(now)
            self._count_down()

    def _receive(self, received: list[m.Message]) -> bool:
        """Take messages up to the budget; whether none is left."""
        dealer, session, now = self._socket, self._session, self.now()
        for _ in range(RECEIVE_BUDGET):
            if not _readable(dealer):
                self._armed = True
                return True
            received += session.receive(_frames(dealer), now)
        return False

    def _send(self, now: float) -> bool:
        """Send what the session wants sent; whether all of it left."""
        session = self._session
        while True:
            messages = session.outgoing(now)
            if messages:
                self._armed = False
            for position, frames in enumerate(messages):
                try:
                    if len(frames) == 1:
                        frame = frames[0]
                        self._socket.send(frame, _DONTWAIT, copy=len(frame) < limits.LARGE_BYTES)
                    else:
                        self._socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
                except zmq.Again:
                    session.unsent(len(messages) - position)
                    return False
            if len(messages) < SEND_AT_ONCE:
                return True

    def _shut(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)

    def _close_all(self, linger_ms: int) -> None:
        self._shut(linger_ms)
        self._context.term()
        self._wake_read.close()
        self._wake_write.close()


def _readable(socket: zmq.Socket[bytes], wanted: int = _POLLIN) -> bool:
    """Whether the socket has one of these events now. Looking also arms its descriptor again."""
    events: int = socket.get(_EVENTS)  # type: ignore[assignment]
    return events & wanted != 0


def _frames(socket: zmq.Socket[bytes]) -> list[bytes]:
    """A message that is there. A frame knows whether there is another one; `recv_multipart` looks that up, for more."""
    frame = socket.recv(_DONTWAIT, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(_DONTWAIT, copy=False)
        frames.append(frame.bytes)
    return frames


def check_endpoints(endpoints: str | Sequence[str]) -> tuple[str, ...]:
    """The endpoints as a tuple; `InvalidArgument` for none, or for what is not ``tcp://HOST:PORT`` or ``ipc://PATH``."""
    several = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
    if not several:
        raise InvalidArgument("a client needs an endpoint, such as tcp://127.0.0.1:5555")
    for endpoint in several:
        if not str(endpoint).startswith(("tcp://", "ipc://")):
            raise InvalidArgument(
                f"an endpoint looks like tcp://127.0.0.1:5555 or ipc:///run/zbroker, not {endpoint!r}"
            )
    return several
