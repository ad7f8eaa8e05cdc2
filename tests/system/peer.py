"""A peer that a test moves message by message, for what no well-behaved client or worker does."""

import itertools
import os
import time
from typing import Any, TypeVar

import zmq

from zclient.protocol import codec, limits
from zclient.protocol import messages as m

M = TypeVar("M")

PATIENCE_S = 10.0


class Peer:
    """A DEALER and one incarnation. It answers nothing by itself and sends nothing that the test did not ask for."""

    def __init__(self, endpoint: str, incarnation: bytes | None = None) -> None:
        self.incarnation = incarnation or os.urandom(limits.INCARNATION_BYTES)
        self._endpoint = endpoint
        self._numbers = itertools.count(1)
        self._context = zmq.Context()
        self._unread: list[m.Message] = []
        self._open()

    def _open(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.connect(self._endpoint)

    def reconnect(self) -> None:
        """Close the connection and open another; HELLO is the test's."""
        self._socket.close()
        self._unread.clear()
        self._open()

    def close(self) -> None:
        if not self._context.closed:
            self._socket.close()
            self._context.term()

    # ---- messages

    def send(self, message: m.Message) -> None:
        self._socket.send_multipart(codec.encode(message))

    def send_frames(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def receive(self, kind: type[M], within: float = PATIENCE_S) -> M:
        """The next message of this kind; others wait for their turn."""
        deadline = time.monotonic() + within
        while True:
            for message in self._unread:
                if isinstance(message, kind):
                    self._unread.remove(message)
                    return message
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0 or not self._socket.poll(left_ms):
                raise AssertionError(f"no {kind.__name__} within {within:g} s; unread: {self._unread}")
            self._unread.append(codec.decode(self._socket.recv_multipart()))

    def hello(
        self, queues: list[str] | None = None, capacity: int = 0, held: list[m.Held] | None = None, name: str = "peer"
    ) -> m.Welcome:
        self.send(m.Hello(limits.PROTOCOL_VERSION, self.incarnation, name, capacity, queues or [], held or [], 0, {}))
        return self.receive(m.Welcome)

    def number(self) -> int:
        """The next number of a request."""
        return next(self._numbers)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """The answer to a question."""
        self.send(m.Ask(number := self.number(), verb, arguments))
        return self._answer(number)

    def put(self, queue: str, *ids: str, payload: bytes = b"\xc0") -> None:
        """Jobs, confirmed."""
        number = self.number()
        group = m.Group(queue, {}, [identifier.encode() for identifier in ids], [payload] * len(ids))
        self.send(m.Put(number, number, [group]))
        assert number in self.receive(m.Ok).numbers

    def settle(self, fence: int, outcome: m.Outcome, *ids: bytes, value: Any = None) -> list[list[Any]]:
        """What the broker refused of a settlement: ``[fence, id, verdict]``; nothing if it counts."""
        number = self.number()
        values = None if value is None else [value] * len(ids)
        self.send(m.Settle(number, [m.Settlement(fence, outcome, list(ids), values)]))
        answer = self._answer(number)
        return [] if answer is None else list(answer["refused"])

    def _answer(self, number: int) -> Any:
        while True:
            message = self.receive(m.Ok | m.Answer | m.Failure)  # type: ignore[arg-type]
            if isinstance(message, m.Ok) and number in message.numbers:
                return None
            if isinstance(message, m.Answer) and message.number == number:
                return message.value
            if isinstance(message, m.Failure) and message.number in (0, number):
                raise AssertionError(f"refused: {message}")
