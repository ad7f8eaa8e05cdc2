"""The loop: one ROUTER socket, one thread, one commit a turn. A reader learns the whole broker from `Server.serve`.

It owns the socket and reads the clocks. It decides nothing about jobs.
"""

import errno
import os
import socket as sockets
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from zbroker import limits
from zbroker.core.state import Notice
from zbroker.engine import Engine, Outgoing
from zbroker.storage.interface import Store
from zclient.errors import CannotListen
from zclient.protocol import limits as wire

COPY_BELOW_BYTES = wire.LARGE_BYTES
"""Frames smaller than this are copied by libzmq; handing larger ones over costs less than their copy."""

RECEIVE_HIGH_WATER = 100
"""Messages of one peer that wait in libzmq; more stay in its own host, which bounds the memory of a flood."""

QUIET_MS, LAST_READ_MS = 20, 200
"""A closing broker reads and drops until it was quiet for so long; and for so long in all."""

DISK_CHECK_MS = 1000
"""How often free space is looked at."""

LOOKS = 5
"""Messages of a turn before which the loop looks whether there is one: to learn it by an error costs ten such looks."""

# As plain numbers: an operation on pyzmq's own, which are flags of an enum, costs as much as the call that it is for.
_DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_MORE = int(zmq.DONTWAIT | zmq.SNDMORE)


class Server:
    """A broker on its sockets. `serve` runs until `stop` was called and the drain is over."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        heartbeat_interval_ms: int = 2_000,
        heartbeat_timeout_ms: int = 8_000,
        disk_floor: int = 0,
        drain_ms: int = 5_000,
        on_notice: Callable[[Notice], None] = lambda notice: None,
    ) -> None:
        self._engine = engine
        self._core = engine.core
        self._store = store
        self._disk_floor = disk_floor
        self._drain_ms = drain_ms
        self._on_notice = on_notice
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.HEARTBEAT_IVL, heartbeat_interval_ms)
        self._socket.set(zmq.HEARTBEAT_TIMEOUT, heartbeat_timeout_ms)
        self._socket.set(zmq.HEARTBEAT_TTL, heartbeat_timeout_ms)
        self._socket.set(zmq.HANDSHAKE_IVL, 5_000)
        self._socket.set(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
        self._socket.set(zmq.RCVHWM, RECEIVE_HIGH_WATER)
        self._socket.set(zmq.LINGER, 500)
        self._socket.set(zmq.BACKLOG, 1024)
        self._wake_out, self._wake_in = sockets.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_out.fileno(), zmq.POLLIN)
        self._look = [(self._socket, int(zmq.POLLIN))]
        self._stop_at: int | None = None  # monotonic ms: when a drain ends
        self._stopping = False
        self._next_disk_check = 0
        self._in_flight = InFlight()

    def bind(self, endpoint: str) -> str:
        """Listen there; returns the endpoint with its port, where a wildcard was given. Raises `CannotListen`."""
        self._socket.set(zmq.IPV6, "[" in endpoint)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            reason = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                reason = "another program listens there, perhaps another broker: stop it, or --bind another port"
            raise CannotListen(f"{endpoint}: {reason}") from error
        return self._socket.get_string(zmq.LAST_ENDPOINT)

    @property
    def wake_fd(self) -> int:
        """A file descriptor that ends the wait when a byte is written to it: for `signal.set_wakeup_fd`."""
        return self._wake_in.fileno()

    def stop(self) -> None:
        """Drain and end; from any thread or signal handler, and after the end as well."""
        self._stopping = True
        try:
            self._wake_in.send(b"s")
        except OSError:
            return  # enough bytes wait there already, and the loop will look; or it ended, and all is closed

    # ---- the loop

    def serve(self) -> None:
        """Receive, decide, commit, send; until stopped. Raises what the store raises: then the process must end."""
        engine, core = self._engine, self._core
        now = _monotonic_ms()
        core.serving(now)
        sync_ms = 0.0
        worked = 0  # how long the last turn took: a stalled disk shows there, a stopped process in either
        while not self._is_over(now):
            timeout = self._wait_ms(now)
            self._poller.poll(timeout)
            woken = _monotonic_ms()
            began, worked_s = time.perf_counter(), time.thread_time()
            committed, synced = engine.commit_ms, engine.synced_ms
            stalled = _stall_ms(worked, woken - now, timeout)
            core.begin(_wall_ms(), woken)
            if stalled:
                core.stalled(stalled)
            drained = self._receive(began + max(limits.TURN_RECEIVE_MS, sync_ms) / 1000)
            self._look_around(woken)
            self._send(engine.finish(drained=drained))
            for notice in core.notices():
                self._on_notice(notice)
            now = _monotonic_ms()
            worked = now - woken
            commit_ms, sync_ms = engine.commit_ms - committed, engine.synced_ms - synced
            took_ms = (time.perf_counter() - began) * 1000 - commit_ms
            core.turn_took(took_ms, min(took_ms, (time.thread_time() - worked_s) * 1000))
        core.say_closing("the broker stops")
        core.begin(_wall_ms(), now)
        self._send(engine.finish(drained=True))

    def close(self) -> None:
        """Close the sockets; what was sent has half a second to leave.

        What still arrives is read and dropped first: nothing of it was answered, so its sender repeats it to the next
        broker. Closed at once, one stop in twelve on a loaded machine lost what was sent last, LINGER or not.
        """
        self._drop_unread()
        self._socket.close()
        self._context.term()
        self._wake_in.close()
        self._wake_out.close()

    # ---- its parts

    def _drop_unread(self) -> None:
        until = _monotonic_ms() + LAST_READ_MS
        while (left := until - _monotonic_ms()) > 0 and self._socket.poll(min(left, QUIET_MS)):
            self._socket.recv_multipart(zmq.NOBLOCK)

    def _wait_ms(self, now: int) -> int:
        wait = min(self._core.wanted_in(), max(0, self._next_disk_check - now))
        if self._stop_at is not None:
            wait = min(wait, max(0, self._stop_at - now))
        return wait

    def _is_over(self, now: int) -> bool:
        if not self._stopping:
            return False
        if self._stop_at is None:
            self._stop_at = now + self._drain_ms
            self._core.drain()
        return self._core.leased == 0 or now >= self._stop_at

    def _receive(self, until: float) -> bool:
        """Take what has arrived, up to the turn's budget and time (`time.perf_counter`); whether that was all."""
        receive, handle = self._socket.recv, self._engine.receive
        budget = limits.TURN_BYTES
        try:
            for taken in range(limits.TURN_MESSAGES):
                if taken < LOOKS and not zmq.zmq_poll(self._look, 0):
                    return True
                route, frame = receive(_DONTWAIT), receive(_DONTWAIT, copy=False)
                frames = [frame.bytes]
                while frame.more:
                    frame = receive(_DONTWAIT, copy=False)
                    frames.append(frame.bytes)
                handle(route, frames)
                budget -= sum(map(len, frames))
                if budget <= self._core.bytes_out or time.perf_counter() > until:
                    return False
        except zmq.Again:
            return True
        return False

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send without ever waiting for a peer. A delivery that cannot leave is taken back in the next tick."""
        send, core, in_flight = self._socket.send, self._core, self._in_flight
        for route, frames, fence in outgoing:
            try:
                if len(frames) == 1 and len(frames[0]) < COPY_BELOW_BYTES:
                    send(route, _DONTWAIT_MORE)
                    send(frames[0], _DONTWAIT)
                    continue
                if not in_flight.is_full(route):
                    send(route, _DONTWAIT_MORE)
                    for frame in frames[:-1]:
                        send(frame, _DONTWAIT_MORE, copy=False)
                    sent = send(frames[-1], _DONTWAIT, copy=False, track=True)
                    in_flight.add(route, sent, sum(map(len, frames)))
                    continue
                core.congested(route)
            except zmq.ZMQError as error:
                if error.errno == zmq.EAGAIN:
                    core.congested(route)
                elif error.errno == errno.EHOSTUNREACH:
                    core.unreachable(route)
                else:
                    raise
            core.state.count("unsent")
            if fence:
                core.undelivered(fence)

    def _look_around(self, now: int) -> None:
        """What is no message: wake-ups, and how much room the disk has."""
        try:
            while self._wake_out.recv(4096):
                continue
        except BlockingIOError:
            pass  # all read: that is how a non-blocking socket says so
        if now >= self._next_disk_check:
            self._next_disk_check = now + DISK_CHECK_MS
            self._in_flight.sweep()
            free = self._store.free_bytes()
            self._core.set_disk_low(free is not None and free < self._disk_floor)


class InFlight:
    """The large messages that libzmq holds for each peer. Its own limit counts messages, whatever their size."""

    def __init__(self) -> None:
        self._sent: dict[bytes, deque[tuple[zmq.MessageTracker, int]]] = {}

    def add(self, route: bytes, sent: zmq.MessageTracker | None, size: int) -> None:
        if sent is not None:
            self._sent.setdefault(route, deque()).append((sent, size))

    def is_full(self, route: bytes) -> bool:
        """Whether the peer has so many bytes to read that it gets no more large messages for now."""
        waiting = self._sent.get(route)
        if not waiting:
            return False
        while waiting and waiting[0][0].done:
            waiting.popleft()
        return sum(size for _, size in waiting) >= limits.PEER_BYTES

    def sweep(self) -> None:
        """Forget what has left."""
        for route in list(self._sent):
            self.is_full(route)
            if not self._sent[route]:
                del self._sent[route]


def _stall_ms(worked: int, waited: int, timeout: int) -> int:
    """How long the broker itself stood still: its last turn if that was late, and all of a wait that was.

    All of it, since a stopped process may have stopped at its beginning, and its receiving thread stood still as well:
    what others sent in time has yet to reach us.
    """
    late = limits.LATE_TURN_MS
    return (worked if worked > late else 0) + (waited if waited - timeout > late else 0)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def new_broker_id() -> bytes:
    """A name for a new data directory."""
    return os.urandom(16)
