"""A TCP proxy that stands between a peer and the broker: it cuts connections, goes dark, delays, and comes back.

It runs on a thread and moves bytes; it knows nothing of what they mean.
"""

import selectors
import socket as sockets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

CHUNK_BYTES = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST, as the kernel does for a process that was killed."""


class Proxy:
    """``endpoint`` leads to the broker. Dark, it takes no byte and gives none, and no connection learns of that."""

    def __init__(self, target: str) -> None:
        self._target = address(target)
        self._listener = sockets.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = sockets.socketpair()
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._pairs: dict[sockets.socket, sockets.socket] = {}
        self._todo: list[tuple[Callable[[], None], threading.Event]] = []
        self._dark = False
        self._delay_s = 0.0
        self._late: deque[tuple[float, sockets.socket, bytes]] = deque()
        self._forsaken: list[sockets.socket] = []
        self._closed = False
        self._watch(self._listener)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # ---- from the test

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        self._do(self._reset_all)

    def go_dark(self) -> None:
        """The link carries nothing any more, in neither direction."""
        self._do(self._darken)

    def come_back(self) -> None:
        """It carries again; what was sent meanwhile arrives."""
        self._do(self._lighten)

    def half_close(self, *, broker_side: bool) -> None:
        """Reset one end of every connection; the other end stays open, hears nothing, and learns nothing."""
        self._do(lambda: self._forsake(broker_side))

    def mend(self) -> None:
        """Reset what `half_close` left."""
        self._do(self._let_go)

    def delay(self, seconds: float) -> None:
        """Whatever is sent arrives so much later, in order; 0: at once again."""
        self._do(lambda: setattr(self, "_delay_s", seconds))

    @property
    def connections(self) -> int:
        return len(self._pairs) // 2

    def close(self) -> None:
        if not self._closed:
            self._do(self._shut)
            self._thread.join()

    def _do(self, step: Callable[[], None]) -> None:
        done = threading.Event()
        self._todo.append((step, done))
        self._wake_in.send(b"w")
        done.wait()

    # ---- the thread

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(self._until_late()):
                if key.fileobj is self._wake_out:
                    self._wake_out.recv(4096)
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._pairs:
                    self._move(key.fileobj)
            self._send_late()
            while self._todo:
                step, done = self._todo.pop(0)
                step()
                done.set()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = sockets.create_connection(self._target)
        except OSError:
            reset(near)
            return
        self._pairs |= {near: far, far: near}
        for end in (near, far):
            end.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            self._watch(end)

    def _move(self, source: sockets.socket) -> None:
        target = self._pairs[source]
        try:
            data = source.recv(CHUNK_BYTES)
            if data:
                if self._delay_s or self._late:
                    self._late.append((time.monotonic() + self._delay_s, target, data))
                else:
                    target.sendall(data)
                return
        except OSError:
            data = b""
        self._drop(source, target)

    def _until_late(self) -> float | None:
        """Seconds until something that was delayed has to go; None: there is nothing, or the link is dark."""
        return max(self._late[0][0] - time.monotonic(), 0) if self._late and not self._dark else None

    def _send_late(self) -> None:
        while self._until_late() == 0:
            _, target, data = self._late.popleft()
            if target not in self._pairs:
                continue  # The connection is gone, and with it what was on its way.
            try:
                target.sendall(data)
            except OSError:
                self._drop(target, self._pairs[target])

    def _forsake(self, broker_side: bool) -> None:
        for near, far in [(near, far) for near, far in self._pairs.items() if self._is_near(near)]:
            gone, stays = (far, near) if broker_side else (near, far)
            for end in (gone, stays):
                del self._pairs[end]
                if not self._dark:
                    self._selector.unregister(end)
            reset(gone)
            self._forsaken.append(stays)

    def _is_near(self, end: sockets.socket) -> bool:
        return bool(end.getsockname() == self._listener.getsockname())

    def _let_go(self) -> None:
        for end in self._forsaken:
            reset(end)
        self._forsaken.clear()

    def _drop(self, *ends: sockets.socket) -> None:
        for end in ends:
            self._pairs.pop(end, None)
            if not self._dark:
                self._selector.unregister(end)
            reset(end)

    def _reset_all(self) -> None:
        self._drop(*list(self._pairs))

    def _watch(self, socket: sockets.socket) -> None:
        self._selector.register(socket, selectors.EVENT_READ)

    def _darken(self) -> None:
        self._dark = True
        for socket in (self._listener, *self._pairs):
            self._selector.unregister(socket)

    def _lighten(self) -> None:
        self._dark = False
        for socket in (self._listener, *self._pairs):
            self._watch(socket)

    def _shut(self) -> None:
        self._closed = True
        self._reset_all()
        self._let_go()
        self._listener.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()


def reset(socket: sockets.socket) -> None:
    socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, RESET)
    socket.close()


def address(endpoint: str) -> tuple[str, int]:
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    return host, int(port)
