"""What a broker spends on those who mean no good, at a stated rate, while an honest peer works.

Run as ``python -m tests.fuzz.flood KIND ENDPOINT`` it is the flood: one kind of nuisance from one process, until its
stdin ends. `run` starts a broker, lets an honest peer work with and without a flood in turn, and compares what the
broker spends for each honest job, what it holds, and what it says. It owns the kinds, their rates and the bounds.
"""

from __future__ import annotations

import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import zmq

from tests.fuzz import samples
from tests.fuzz.choices import Choices
from tests.fuzz.targets import changed
from tests.system.peer import Peer
from tests.system.processes import ROOT, BrokerProcess, eventually
from tests.system.proxy import address
from zclient.protocol import codec
from zclient.protocol import messages as m

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"

MOST_SHARE = 0.10
"""How much more an honest job may cost under a flood: a tenth."""

MOST_RSS_BYTES = 64 << 20
"""How much more memory the broker may have after a flood than before it: its memtables and its cache fill meanwhile."""

BATCH_JOBS, ROUNDS = 500, 40
"""Jobs of a round, and rounds between two looks at the broker's CPU."""

SLOW_CONNECTIONS = 200
"""Connections that are held open, half through their greeting, or a byte a second each."""


class Kind(NamedTuple):
    """A flood: what is done so often in a second."""

    per_second: int
    unit: str
    begin: Callable[[str, random.Random], Callable[[], None]]


def connect(endpoint: str) -> socket.socket:
    return socket.create_connection(address(endpoint), timeout=5)


def one_shot(content: Callable[[random.Random], bytes]) -> Callable[[str, random.Random], Callable[[], None]]:
    """Connect, say this, and close."""

    def begin(endpoint: str, chance: random.Random) -> Callable[[], None]:
        def act() -> None:
            with connect(endpoint) as connection:
                try:
                    connection.sendall(content(chance))
                except OSError:
                    return  # the broker has closed it: that is its answer

        return act

    return begin


def held_open(endpoint: str, chance: random.Random) -> Callable[[], None]:
    """Half a greeting, and then nothing: the broker closes them, and there are others."""
    held: list[socket.socket] = []

    def act() -> None:
        connection = connect(endpoint)
        connection.sendall(GREETING[: chance.randint(0, 63)])
        held.append(connection)
        if len(held) > SLOW_CONNECTIONS:
            held.pop(0).close()

    return act


def byte_by_byte(endpoint: str, chance: random.Random) -> Callable[[], None]:
    """Many connections on which a byte comes now and then, of a greeting and of a message that never ends."""
    text = GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 20) + b"x" * 1000
    held = [(connect(endpoint), iter(text)) for _ in range(SLOW_CONNECTIONS)]

    def act() -> None:
        place = chance.randrange(len(held))
        connection, left = held[place]
        try:
            connection.sendall(bytes((next(left),)))
        except (OSError, StopIteration):
            connection.close()
            held[place] = (connect(endpoint), iter(text))

    return act


def malformed(endpoint: str, chance: random.Random) -> Callable[[], None]:
    """Messages of the protocol with parts that are others, from peers that said HELLO and peers that did not."""
    context = zmq.Context()
    peers = [context.socket(zmq.DEALER) for _ in range(10)]
    for peer in peers:
        peer.set(zmq.LINGER, 0)
        peer.connect(endpoint)
    spoken = [message for message in samples.from_peers() if not isinstance(message, m.Order | m.Put | m.Workflow)]

    def act() -> None:
        peer = chance.choice(peers)
        peer.send_multipart(changed(Choices(chance.randbytes(30)), chance.choice(spoken)), zmq.NOBLOCK)
        while peer.poll(0):
            peer.recv_multipart()

    return act


KINDS: dict[str, Kind] = {
    "garbage": Kind(50, "connections", one_shot(lambda chance: chance.randbytes(1000))),
    "garbage behind the handshake": Kind(
        50, "connections", one_shot(lambda chance: GREETING + READY + chance.randbytes(1000))
    ),
    "huge frames": Kind(
        50, "connections", one_shot(lambda _: GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 40) + bytes(65536))
    ),
    "half-open": Kind(100, "connections", held_open),
    "slow": Kind(200, "bytes", byte_by_byte),
    "malformed": Kind(200, "messages", malformed),
}


def flood(kind: Kind, endpoint: str, ends: threading.Event) -> int:
    """Do it at its rate until the end; how often it was done."""
    act = kind.begin(endpoint, random.Random(1))
    began, done = time.monotonic(), 0
    while not ends.wait(max(0.0, began + done / kind.per_second - time.monotonic())):
        act()
        done += 1
    return done


# ---- what it costs


class Honest(Peer):
    """A producer and worker in one that keeps to the rules."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.hello(["honest"], capacity=BATCH_JOBS)
        self._jobs = 0

    def round(self) -> None:
        """Store a batch, take it, and settle it."""
        names = [b"%d" % number for number in range(self._jobs, self._jobs + BATCH_JOBS)]
        self._jobs += BATCH_JOBS
        number = self.number()
        self.send(m.Put(number, number, [m.Group("honest", {}, names, [b"\xc0"] * BATCH_JOBS)]))
        left = BATCH_JOBS
        settlements = []
        while left:
            told = self._next()
            if isinstance(told, m.Deliver):
                settlements.append(m.Settlement(told.fence, m.Outcome.ACK, told.ids, None))
                left -= len(told.ids)
        self.send(m.Settle(last := self.number(), settlements))
        while not (isinstance(told := self._next(), m.Ok) and last in told.numbers):
            if isinstance(told, m.Answer | m.Failure):
                raise AssertionError(f"an honest peer is refused: {told}")

    def _next(self) -> m.Message:
        if not self._socket.poll(20_000):
            raise AssertionError("an honest peer is not answered")
        return codec.decode(self._socket.recv_multipart())


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have spent so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def connections(pid: int) -> int:
    """Sockets that a process has open; its files come and go with the database's."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def cost_us(broker: BrokerProcess, honest: Honest, rounds: int) -> float:
    """Microseconds of the broker for each honest job."""
    before = cpu_seconds(broker.pid)
    for _ in range(rounds):
        honest.round()
    return (cpu_seconds(broker.pid) - before) / (rounds * BATCH_JOBS) * 1e6


@contextmanager
def flooded(kind: str, endpoint: str) -> Iterator[None]:
    """While the block runs, another process floods the broker."""
    program = [sys.executable, "-m", "tests.fuzz.flood", kind, endpoint]
    with subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            assert process.stdout.readline() == "flooding\n"
            yield
        finally:
            process.stdin.close()
            done = process.stdout.read()
            process.wait(20)
    if process.returncode or int(done) < 1:
        raise AssertionError(f"the flood ended with {process.returncode}: {done}")


class Cost(NamedTuple):
    """What a flood costs: medians, microseconds of the broker for each honest job."""

    quiet_us: float
    flooded_us: float
    rss_bytes: int  # more than before
    connections: int  # more than before

    @property
    def share(self) -> float:
        return self.flooded_us / self.quiet_us - 1


def measure(kind: str, seconds: float, folder: Path, rounds: int = ROUNDS) -> Cost:
    """Let an honest peer work, in turn alone and under this flood, for about so long.

    `AssertionError` for a broker that dies, raises, or refuses honest work.
    """
    broker = BrokerProcess(folder / "data", folder / "broker.log", keep_done_count=1000)
    broker.start()
    honest = Honest(broker.endpoint)
    quiet, under = [], []
    try:
        cost_us(broker, honest, rounds)  # what is made once
        before = connections(broker.pid), broker.rss_bytes()
        until = time.monotonic() + seconds
        while not under or time.monotonic() < until:
            quiet.append(cost_us(broker, honest, rounds))
            with flooded(kind, broker.endpoint):
                under.append(cost_us(broker, honest, rounds))
        eventually(lambda: connections(broker.pid) <= before[0])
        after = connections(broker.pid), broker.rss_bytes()
        if raised := [told for told in broker.told.all if "Traceback" in str(told) or told.get("level") == "error"]:
            raise AssertionError(f"the broker said: {raised}")
        assert broker.stop() == 0
    finally:
        honest.close()
        broker.end()
    return Cost(statistics.median(quiet), statistics.median(under), after[1] - before[1], after[0] - before[0])


def run(seconds: float) -> list[str]:
    """All kinds; the names of those that cost too much, and what each costs."""
    broken = []
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="flood-") as folder:
            cost = measure(name, seconds / len(KINDS), Path(folder))
        what = f"{name}, {kind.per_second} {kind.unit} a second"
        print(
            f"{what}: {cost.flooded_us:.1f} us of the broker for an honest job, {cost.quiet_us:.1f} without it "
            f"({cost.share:+.0%}); {cost.rss_bytes >> 10} KiB and {cost.connections} connections more",
            flush=True,
        )
        if cost.share > MOST_SHARE or cost.rss_bytes > MOST_RSS_BYTES:
            broken.append(f"flood of {name}")
    return broken


def main() -> None:
    ends = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ends.set()), daemon=True).start()
    print("flooding", flush=True)
    print(flood(KINDS[sys.argv[1]], sys.argv[2], ends))


if __name__ == "__main__":
    main()
