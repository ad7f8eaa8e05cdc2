"""A broker, but for its socket, and peers of it that say whatever the bytes choose; and an honest pair beside them.

It raises if the broker does, if an honest job is not done, or if the rows that are left have a fault.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import msgpack

from tests.fuzz import samples
from tests.fuzz.choices import Choices
from zbroker.calendar import Calendar
from zbroker.check import check_store
from zbroker.commit import Commit, Durability
from zbroker.core.core import Core
from zbroker.core.state import Settings
from zbroker.engine import Engine
from zbroker.storage.memory import MemoryStore
from zclient.protocol import codec, limits
from zclient.protocol import messages as m

WALL = 1_700_000_000_000
ROUTES = (b"\0one", b"\0two", b"\0three")
HONEST = b"\0honest"
STEPS_MS = (0, 1, 50, 1_000, 6_000, 40_000, 3_600_000, 90_000_000)
NUMBERED = codec._NUMBERED
MOST_TURNS = 2_000
"""Turns in a row that a core may ask for at once; more is a loop that never rests."""


class Bench:
    """An engine with its clocks; what it sends to the honest peer is kept."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 0
        self.inbox: deque[m.Message] = deque()
        self.engine = self._open()
        self._number = 100  # beyond those of the samples

    def _open(self) -> Engine:
        settings = Settings(calendar=Calendar(), keep_done_count=50, max_peers=6)
        core = Core(self.store, settings, random.Random(1))
        engine = Engine(core, Commit(self.store, Durability.MEMORY, lambda seconds: None))
        engine.open(WALL + self.now, self.now, b"broker")
        return engine

    def next_number(self) -> int:
        """Of a request: one that was used is answered as before, and does nothing."""
        self._number += 1
        return self._number

    def number(self, command: int, fields: list[Any]) -> None:
        """Give a request a number of its own."""
        if command in NUMBERED:
            fields[0] = self.next_number()

    def hello(self, route: bytes) -> None:
        """Another incarnation is there from now on; the one before may have said that it needs no answers any more."""
        incarnation = (route + b"%d" % self.next_number()).ljust(16, b".")
        self.say(route, codec.encode(samples.from_peers()[0]._replace(incarnation=incarnation, held=[])))

    def restart(self) -> None:
        self.engine = self._open()

    def say(self, route: bytes, frames: list[bytes]) -> None:
        self.engine.core.begin(WALL + self.now, self.now)
        self.engine.receive(route, frames)
        self.turns()

    def turns(self) -> None:
        """Turns until the core has nothing to do at once."""
        core = self.engine.core
        for _ in range(MOST_TURNS):
            core.begin(WALL + self.now, self.now)
            for route, frames, _ in self.engine.finish(drained=True):
                message = codec.decode(frames)  # whatever it says must be a message
                if route == HONEST:
                    self.inbox.append(message)
            core.notices()
            if core.wanted_in() > 0:
                return
        raise AssertionError("it never rests")

    def pass_time(self, ms: int) -> None:
        """Let time pass, as the core asks for it, at most a hundred times."""
        until = self.now + ms
        for _ in range(100):
            self.now = min(until, self.now + max(1, self.engine.core.wanted_in()))
            self.turns()
            if self.now == until:
                return
        self.now = until
        self.turns()

    def work_honestly(self) -> None:
        """A job of somebody who keeps to the rules is stored, delivered and done."""
        number = self.next_number()
        name = b"honest-%d" % number
        hello = m.Hello(limits.PROTOCOL_VERSION, b"h" * 16, "honest", 1, ["honest"], [], 0, {})
        self.inbox.clear()
        self.say(HONEST, codec.encode(hello))
        group = m.Group("honest", {}, [name], [b"\xc0"])
        self.say(HONEST, codec.encode(m.Put(number, number, [group])))
        deliver = next((told for told in self.inbox if isinstance(told, m.Deliver)), None)
        if deliver is None or deliver.ids != [name]:
            raise AssertionError(f"an honest job is not delivered: {list(self.inbox)}")
        self.inbox.clear()
        settlement = m.Settlement(deliver.fence, m.Outcome.ACK, [name], None)
        self.say(HONEST, codec.encode(m.Settle(self.next_number(), [settlement])))
        if not any(isinstance(told, m.Ok) for told in self.inbox):
            raise AssertionError(f"an honest ack does not count: {list(self.inbox)}")
        self.say(HONEST, codec.encode(m.Goodbye()))


def broker_session(data: bytes) -> None:
    """Several peers that say what the bytes choose, with time, restarts and reconnects between."""
    choices = Choices(data)
    bench = Bench()
    spoken = samples.from_peers()
    said = 0
    while choices.left and said < 200:
        said += 1
        what = choices.below(24)
        if what == 1:
            bench.pass_time(choices.one_of(STEPS_MS))
        elif what == 2:
            bench.restart()
        elif what == 3:
            bench.say(choices.one_of(ROUTES), [choices.take(40), *([choices.take(9)] * choices.below(3))])
        elif what == 4:
            bench.engine.core.unreachable(choices.one_of(ROUTES))
            bench.turns()
        else:
            route = choices.one_of(ROUTES)
            is_known = route in bench.engine.core.state.routes
            if choices.below(16) == 1 if is_known else choices.below(8) != 1:
                bench.hello(route)
            bench.say(route, frames(choices, choices.one_of(spoken), bench))
    bench.pass_time(60_000)
    bench.work_honestly()
    bench.engine.core.begin(WALL + bench.now, bench.now)
    if faults := check_store(bench.store).faults:
        raise AssertionError("\n".join(faults))


def frames(choices: Choices, message: m.Message, bench: Bench) -> list[bytes]:
    """The message with parts that are others; its fences may be those that the broker gave."""
    body, *blobs = codec.encode(message)
    command, *fields = msgpack.unpackb(body, strict_map_key=False)
    leased = sorted({delivery.fence for delivery in bench.engine.core.state.leased.values()})
    if leased and choices.below(2):
        fields = with_fence(fields, choices.one_of(leased[:8]))
    if choices.below(8) != 1:
        bench.number(command, fields)
    if choices.below(2):
        fields = choices.changed_list(fields, choices.one_of((12, 4, 24)))
    packed: bytes = msgpack.packb([command, *fields])
    return [packed, *blobs]


def with_fence(value: Any, fence: int) -> Any:
    """The same with this fence in the place of the one of the samples."""
    if value == samples.FENCE:
        return fence
    return [with_fence(part, fence) for part in value] if isinstance(value, list) else value
