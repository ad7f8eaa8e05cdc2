"""The link against a bare ROUTER socket that the test plays itself."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from tests.system.processes import NOWHERE, Reserved
from zclient.errors import BrokerUnreachable, InvalidArgument
from zclient.link import LINGER_MS, Link
from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode
from zclient.session import Session

PATIENCE_MS = 10_000


class Router:
    """A broker as far as the link can see."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*", broker: bytes = b"one") -> None:
        self.context = zmq.Context()
        self.broker = broker
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(endpoint)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)
        self.peer = b""

    def hear(self, timeout_ms: int = PATIENCE_MS) -> m.Message | None:
        """The next message, or None."""
        if not self.socket.poll(timeout_ms):
            return None
        self.peer, *frames = self.socket.recv_multipart()
        return decode(frames)

    def say(self, message: m.Message) -> None:
        self.socket.send_multipart([self.peer, *encode(message)])

    def welcome(self) -> None:
        self.say(m.Welcome(1, self.broker, 1, {}, []))

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def router() -> Iterator[Router]:
    router = Router()
    yield router
    router.close()


def new_session(**given: Any) -> Session:
    return Session(bytes(16), name="test", info={}, **given)


@pytest.fixture
def linked(router: Router) -> Iterator[tuple[Link, Session]]:
    session = new_session()
    link = Link(session, router.endpoint)
    yield link, session
    link.close()


def pump_until(link: Link, reached: Callable[[], object], heard: list[m.Message] | None = None) -> None:
    deadline = link.now() + PATIENCE_MS
    while not reached():
        assert link.now() < deadline
        messages = link.pump(deadline - link.now())
        if heard is not None:
            heard += messages


def pump_and_hear(link: Link, router: Router) -> m.Message:
    """Turn the link until the router hears something."""
    messages: list[m.Message | None] = []

    def hear() -> bool:
        messages[:] = [router.hear(5)]
        return messages[0] is not None

    pump_until(link, hear)
    assert messages[0] is not None
    return messages[0]


def meet(link: Link, router: Router, session: Session) -> None:
    assert isinstance(pump_and_hear(link, router), m.Hello)
    router.welcome()
    pump_until(link, lambda: session.welcomed)


def test_hello_is_said_when_the_connection_is_there(linked: tuple[Link, Session], router: Router) -> None:
    link, session = linked
    put = session.put([m.Group("q", {}, [b"a"], [b"\x01"])], link.now())
    meet(link, router, session)
    heard = pump_and_hear(link, router)
    assert isinstance(heard, m.Put)
    router.say(m.Ok([heard.number]))
    pump_until(link, lambda: put.done)


def test_large_payloads_travel_beside_the_body(linked: tuple[Link, Session], router: Router) -> None:
    link, session = linked
    meet(link, router, session)
    payloads = [b"\x01", b"x" * 100_000, b"y" * 200_000]
    session.put([m.Group("q", {}, [b"a", b"b", b"c"], payloads)], link.now())
    heard = pump_and_hear(link, router)
    assert isinstance(heard, m.Put) and heard.groups[0].payloads == payloads


def test_messages_for_the_owner_come_out_of_pump(linked: tuple[Link, Session], router: Router) -> None:
    link, session = linked
    meet(link, router, session)
    for number in range(3):
        router.say(m.Cancel(number, [b"a"]))
    router.socket.send_multipart([router.peer, b"\x91\x63"])
    router.say(m.Ping())
    heard: list[m.Message] = []
    pump_until(link, lambda: m.Ping() in heard, heard)
    assert heard == [m.Cancel(0, [b"a"]), m.Cancel(1, [b"a"]), m.Cancel(2, [b"a"]), m.Ping()]
    assert session.faults == 1


def test_a_lost_connection_comes_back_with_the_same_numbers(linked: tuple[Link, Session], router: Router) -> None:
    link, session = linked
    meet(link, router, session)
    session.put([m.Group("q", {}, [b"a"], [b"\x01"])], link.now())
    before = pump_and_hear(link, router)
    router.socket.unbind(router.endpoint)
    router.socket.close(0)
    pump_until(link, lambda: not link.connected)
    assert not session.welcomed
    session.watch(b"w")
    router.socket = router.context.socket(zmq.ROUTER)
    router.socket.bind(router.endpoint)
    meet(link, router, session)
    heard = [pump_and_hear(link, router), pump_and_hear(link, router)]
    assert before in heard and m.Watch([b"w"]) in heard


def test_a_delivery_that_came_is_handed_out_before_hello_is_said(router: Router) -> None:
    held: list[m.Held] = []
    session = new_session(capacity=2, queues=["q"], held=lambda: list(held))
    link = Link(session, router.endpoint)
    meet(link, router, session)
    router.say(m.Deliver("q", 5, 1000, [b"a"], [1], [b"\0\0"], {}))
    router.say(m.Who())
    heard: list[m.Message] = []
    pump_until(link, lambda: heard, heard)
    held.append(m.Held(5, [], [b"a"]))
    hello = pump_and_hear(link, router)
    assert isinstance(hello, m.Hello) and hello.held == held
    link.close()


def test_what_does_not_leave_is_known_not_to_have_left(linked: tuple[Link, Session], router: Router) -> None:
    """A peer that stops reading fills the pipe; what is left in the session then never counts as sent."""
    link, session = linked
    meet(link, router, session)
    requests = [session.put([m.Group("q", {}, [b"a"], [bytes(60_000)])], link.now()) for _ in range(5000)]
    for request in requests:
        request.alone = True
    sent = -1
    while sent != (sent := sum(request.sent for request in requests)):
        link.pump(100)
    assert 0 < sent < 5000
    assert not link.ready, "a full pipe must not keep the loop busy"
    session.give_up(requests[-1])
    assert isinstance(requests[-1].error, BrokerUnreachable)
    numbers = []
    while len(numbers) < 4999:
        heard = pump_and_hear(link, router)
        assert isinstance(heard, m.Put)
        numbers.append(heard.number)
        router.say(m.Ok([heard.number]))
    assert numbers == list(range(1, 5000))
    pump_until(link, lambda: all(request.done for request in requests))


def test_another_thread_can_end_a_wait(linked: tuple[Link, Session]) -> None:
    link, _ = linked
    woken = threading.Event()

    def wake() -> None:
        woken.set()
        link.wake()

    threading.Timer(0.05, wake).start()
    before = link.now()
    while not woken.is_set():
        link.pump(900)
    assert link.now() - before < 800


def test_with_several_endpoints_one_that_is_dead_makes_way(router: Router) -> None:
    session = new_session()
    link = Link(session, [NOWHERE, router.endpoint])
    meet(link, router, session)
    link.close()


def test_wake_ups_before_a_wait_end_it_once(router: Router) -> None:
    """Many are one system call; the next one, after the wait, ends the next wait."""
    link = Link(new_session(), [router.endpoint])
    try:
        sent: list[bytes] = []
        write = link._wake_write
        link._wake_write = type("Counted", (), {"send": lambda self, data: sent.append(data) or write.send(data)})()
        for round_ in range(1, 4):
            for _ in range(100):
                link.wake()
            link.wait(PATIENCE_MS)
            assert len(sent) == round_
        link._wake_write = write
    finally:
        link.close()


def test_endpoints_of_different_brokers_are_refused() -> None:
    port = Reserved()
    first, second = Router(port.endpoint, broker=b"one"), Router(broker=b"two")
    session = new_session()
    link = Link(session, [first.endpoint, second.endpoint])
    meet(link, first, session)
    put = session.put([m.Group("q", {}, [b"a"], [b"\x01"])], link.now())
    first.close()
    hello = pump_and_hear(link, second)
    assert isinstance(hello, m.Hello)
    second.welcome()
    pump_until(link, lambda: session.refusal is not None)
    assert not session.welcomed and not put.sent
    # The right one comes back, and gets what is open.
    first = Router(port.endpoint, broker=b"one")

    def met() -> bool:
        if not session.welcomed:
            for router in (first, second):
                if isinstance(router.hear(5), m.Hello):
                    router.welcome()
        return session.welcomed

    pump_until(link, met)
    assert isinstance(pump_and_hear(link, first), m.Put)
    for router in (first, second):
        router.close()
    link.close()
    port.close()


def test_closing_says_goodbye_and_does_not_hang(router: Router) -> None:
    session = new_session()
    link = Link(session, router.endpoint)
    meet(link, router, session)
    session.goodbye()
    link.close()
    link.close()
    assert router.hear() == m.Goodbye()
    alone = Link(new_session(), NOWHERE)
    before = alone.now()
    alone.close()
    assert alone.now() - before < LINGER_MS


@pytest.mark.parametrize(
    "endpoint", ["", [], "127.0.0.1:5555", "http://x", "tcp://", "tcp://*:5555x", ["tcp://a:1", 7]]
)
def test_what_is_no_endpoint(endpoint: Any) -> None:
    with pytest.raises(InvalidArgument):
        Link(new_session(), endpoint)


def test_credentials_are_of_a_later_version(router: Router) -> None:
    with pytest.raises(InvalidArgument, match="later version"):
        Link(new_session(), router.endpoint, credentials=object())
