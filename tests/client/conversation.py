"""A client's session spoken with by hand: no socket, no broker, a clock that is a number."""

from typing import Any

from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode
from zclient.requests import Request
from zclient.session import Session

INCARNATION = bytes(range(16))
BROKER = b"broker-one-16byt"


class Peer:
    """A session with a clock, fed and read as messages."""

    def __init__(self, **given: Any) -> None:
        self.now = 1000.0
        self.session = Session(INCARNATION, name="test", info={}, **given)

    def connect(self) -> list[m.Message]:
        """A connection comes up and is welcomed; what the session says behind its HELLO."""
        self.session.connected(self.now)
        said = self.said()
        assert [type(message) for message in said] == [m.Hello]
        self.hear(m.Welcome(1, BROKER, 7, {}, []))
        return self.said()

    def lose(self) -> None:
        self.session.disconnected(self.now)

    def said(self) -> list[m.Message]:
        return [decode(frames) for frames in self.session.outgoing(self.now)]

    def hear(self, message: m.Message) -> list[m.Message]:
        return self.session.receive(encode(message), self.now)

    def put(self, name: str, queue: str = "q", *, alone: bool = True, **options: Any) -> Request:
        """A PUT of one job. ``alone``: it is not gathered with others that wait."""
        request = self.session.put([m.Group(queue, options, [name.encode()], [b"\x01"])], self.now)
        request.alone = alone
        return request

    def order(self) -> Request:
        return self.session.order("pause", {"queue": "q"}, self.now)


def numbers(messages: list[m.Message]) -> list[tuple[int, int]]:
    """(number, low) of the PUTs and ORDERs among them."""
    return [(message.number, message.low) for message in messages if isinstance(message, m.Put | m.Order)]
