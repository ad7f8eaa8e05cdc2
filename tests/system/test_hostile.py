"""Whatever a peer sends, or does not read, it disturbs nobody else: an honest pair works on meanwhile."""

import random
import socket
import struct
from collections.abc import Callable, Iterator

import msgpack
import pytest
import zmq

from tests.system.peer import Peer
from tests.system.processes import BrokerProcess, Child, eventually
from tests.system.proxy import address, reset
from tests.system.system import System
from zclient.protocol import codec, limits
from zclient.protocol import messages as m

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""What a ZMTP 3.0 peer says first."""
READY = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"

PAYLOAD = b"\xc0"


@pytest.fixture
def broker(system: System) -> BrokerProcess:
    return system.broker()


@pytest.fixture
def honest(system: System, broker: BrokerProcess) -> Iterator[Child]:
    """A client that sends jobs and awaits their results for as long as the test lasts. None may fail."""
    worker = system.worker(broker.endpoint, "honest")
    pair = system.run("pingpong", endpoint=broker.endpoint, queue="honest")
    pair.expect("round", n=10)
    yield pair
    seen = len(pair.named("round"))
    pair.reach("round", seen + 10)  # it still works, and so does everybody on its way
    pair.say("go")
    slowest_ms = pair.expect("done")["slowest_ms"]
    assert slowest_ms < 3000, "an honest peer was held up"
    assert worker.process.poll() is None
    assert broker.stop() == 0


def samples() -> list[m.Message]:
    """One of each message that a peer may send."""
    ids = [b"a", b"b"]
    return [
        m.Hello(limits.PROTOCOL_VERSION, b"0123456789abcdef", "name", 3, ["q"], [m.Held(1, ids, [])], 0, {"pid": 1}),
        m.Put(1, 1, [m.Group("q", {"priority": 1, "headers": {"x": 1}}, ids, [PAYLOAD, PAYLOAD])]),
        m.Settle(2, [m.Settlement(1 << 32, m.Outcome.NACK, ids, [{"text": "x"}, {"text": "y"}])]),
        m.Renew([1, 2, 3]),
        m.Capacity(5),
        m.Extend(3, 1 << 32, b"a", 1000),
        m.Watch(ids),
        m.Unwatch(ids),
        m.Ask(4, "list", {"queue": "q", "limit": 10, "cursor": ["ready", b"q", 0]}),
        m.Order(5, 5, "replay", {"ids": ids}),
        m.Goodbye(),
        m.Welcome(1, b"x", 1, {}, []),
        m.Deliver("q", 1, 1, [b"a"], [1], [b"r"], {}),
    ]


def mutated(body: bytes, chance: random.Random) -> bytes:
    """The body with some bytes changed, left out or put in."""
    mutant = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(mutant) + 1)
        what = chance.randrange(4)
        if what == 0:
            mutant[place : place + 1] = bytes((chance.randrange(256),))
        elif what == 1:
            mutant[place:place] = chance.randbytes(chance.randint(1, 8))
        elif what == 2:
            del mutant[place : place + chance.randint(1, 8)]
        else:
            mutant[place : place + 1] = msgpack.packb(chance.choice([None, -1, 2**63, 1.5, "", [], {}, b"", [[]]]))
    return bytes(mutant) or b"\x90"


ODD: list[list[bytes]] = [
    [b""],
    [b"", b""],
    [b"\x90"],
    [b"\x91"],
    [b"\x91\x01"],
    [b"\x9f"],
    [b"\x93\xc1\xc1\xc1"],
    [b"\x91" * 100_000],  # nested beyond what a decoder follows
    [b"\x92\x03\xdd\xff\xff\xff\xff"],  # a list of four billion
    [b"\x92\x03\xdf\xff\xff\xff\xff"],
    [b"\x92\x03\xc6\xff\xff\xff\xff"],
    [msgpack.packb([1, 1, b"short", "n", 0, [], [], 0, {}])],
    [msgpack.packb([1, 99, b"0123456789abcdef", "n", 0, [], [], 0, {}])],
    [msgpack.packb([3, 1, 1, [["q", {}, [b"a"], [1]]]])],  # a frame that is not there
    [msgpack.packb([3, 1, 1, [["q", {}, [b"a"], [0]]]])],
    [msgpack.packb([3, 2**60, 1, [["q", {}, [b"a"], [b""]]]])],
    [msgpack.packb([4, 1, [[1, 9, [b"a"], None]]])],
    [msgpack.packb([200])],
    [b"\x90", *[b"x"] * (limits.MAX_FRAMES + 1)],
    [b"hello"],
    [b"", b"MDPC01", b"echo", b"body"],
    [b"", b"MDPW01", b"\x01", b"echo"],
    [b"MDPC02", b"\x01", b"echo"],
    [bytes(range(256))],
    [b"\xff" * 1_000_000],
]


def strangers_and_guests(system: System, broker: BrokerProcess) -> list[Peer]:
    """A peer that never said HELLO, and one that did."""
    return [system.adopt(Peer(broker.endpoint)), system.peer(broker.endpoint, queues=["q"], capacity=3)]


def test_frames_that_are_no_message(system: System, broker: BrokerProcess, honest: Child) -> None:
    for peer in strangers_and_guests(system, broker):
        for frames in ODD:
            peer.send_frames(*frames)
    guest = system.peer(broker.endpoint)
    # What others sent before may come after what the guest asks.
    eventually(lambda: guest.ask("stats")["counters"].get("malformed", 0) > 10)
    eventually(lambda: guest.ask("stats")["counters"].get("foreign", 0) > 10)


def test_a_malformed_message_of_a_guest_is_answered(broker: BrokerProcess, system: System) -> None:
    guest = system.peer(broker.endpoint)
    for frames in ODD:
        if codec.is_native(frames[0]) and frames[0] != b"\x90":
            guest.send_frames(*frames)
            assert guest.receive(m.Failure).code in ("malformed", "unsupported_version")


def test_messages_with_some_bytes_changed(system: System, broker: BrokerProcess, honest: Child) -> None:
    chance = random.Random(2)
    for peer in strangers_and_guests(system, broker):
        for _ in range(1500):
            body, *blobs = codec.encode(chance.choice(samples()))
            peer.send_frames(mutated(body, chance), *blobs)
    guest = system.peer(broker.endpoint)
    eventually(lambda: guest.ask("stats")["counters"].get("malformed", 0) > 100)


def test_valid_messages_of_a_peer_that_knows_no_manners(system: System, broker: BrokerProcess, honest: Child) -> None:
    chance = random.Random(3)
    values = [None, True, -1, 0, 1 << 40, 1.5, "", "q", "honest\0", b"", b"a", b"\xff", [], [b"a", b"a"], {}, {"x": 1}]
    names = ["id", "ids", "queue", "state", "limit", "cursor", "rate"]
    verbs = [
        "show",
        "list",
        "queues",
        "queue",
        "dead",
        "workers",
        "stats",
        "cancel",
        "replay",
        "drop",
        "purge",
        "resume",
    ]
    peer = system.peer(broker.endpoint, queues=["q"], capacity=1)
    for number in range(1, 1500):
        arguments = {name: chance.choice(values) for name in chance.sample(names, chance.randint(0, 3))}
        verb = chance.choice(verbs)
        is_question = chance.random() < 0.5
        peer.send(m.Ask(number, verb, arguments) if is_question else m.Order(number, number, verb, arguments))
    for fence in (0, 1, (1 << 32) + 1, (1 << 53) - 1):
        peer.send(m.Renew([fence] * 1000))
        peer.send(m.Settle(2000, [m.Settlement(fence, m.Outcome.ACK, [b"x"] * 1000, None)]))
        peer.send(m.Extend(2001, fence, b"x", 1))
        peer.hello(queues=["q"], capacity=1, held=[m.Held(fence, [b"x"] * 100, [b"y"])])
    assert system.peer(broker.endpoint).ask("stats")["jobs"]["dead"] == 0


def garbage(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randint(1, 3000))


RAW: dict[str, Callable[[random.Random], bytes]] = {
    "nothing": lambda chance: b"",
    "garbage": garbage,
    "http": lambda chance: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
    "half a greeting": lambda chance: GREETING[: chance.randint(1, 63)],
    "garbage behind the greeting": lambda chance: GREETING + garbage(chance),
    "garbage behind the handshake": lambda chance: GREETING + READY + garbage(chance),
    "a frame beyond the limit": lambda chance: GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 40),
    "a frame of half the address space": lambda chance: GREETING + READY + b"\x02" + struct.pack(">Q", (1 << 63) - 1),
    "a message that never ends": lambda chance: GREETING + READY + b"\x01\x01x" * 1000,
}


@pytest.mark.parametrize("what", RAW)
def test_bytes_that_are_no_zmtp(broker: BrokerProcess, honest: Child, what: str) -> None:
    chance = random.Random(4)
    connections = []
    for _ in range(40):
        connection = socket.create_connection(address(broker.endpoint), timeout=5)
        connections.append(connection)
        connection.sendall(RAW[what](chance))
    for number, connection in enumerate(connections):
        if number % 2:
            reset(connection)
        else:
            connection.close()


def test_many_connections_that_come_and_go(broker: BrokerProcess, honest: Child) -> None:
    context = zmq.Context()
    for _ in range(300):
        dealer = context.socket(zmq.DEALER)
        dealer.set(zmq.LINGER, 0)
        dealer.connect(broker.endpoint)
        dealer.send(codec.encode(m.Ask(1, "stats", {}))[0])
        dealer.close()
    context.term()
