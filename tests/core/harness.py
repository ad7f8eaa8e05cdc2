"""A core on the memory store, with a clock the test moves and peers that are lists of messages.

Owns one broker's store, clocks and turns, and the peers' mailboxes. No socket, no thread, no sleep: a turn is a call,
and `Bench.advance` runs the turns that the core asks for. A turn commits, then sends, as the server does; `crash`
drops everything in memory. What the messages mean is for the tests to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

from tests.core.whole import check_whole
from zbroker.core.core import Core
from zbroker.core.policy import QueuePolicy
from zbroker.core.state import Notice, Settings
from zbroker.core.states import State
from zbroker.storage.memory import MemoryStore
from zclient.protocol import messages as m
from zclient.protocol.limits import MAX_ORDER_IDS, PROTOCOL_VERSION
from zclient.protocol.record import payload_of

WALL = 1_700_000_000_000
"""The wall clock when a bench is made: Unix ms."""

MOST_TURNS = 20_000
"""Turns in a row that a core may ask for at once; more is a loop that never rests."""

Kind = TypeVar("Kind", bound=m.Message)


class Peer:
    """One incarnation of a producer or worker. It remembers what it was sent, and numbers what it sends."""

    def __init__(self, bench: Bench, name: str, queues: tuple[str, ...], capacity: int) -> None:
        self.bench = bench
        self.name = name
        self.incarnation = name.encode().ljust(16, b".")
        self.queues = list(queues)
        self.capacity = capacity
        self.route = b""
        self.inbox: list[m.Message] = []
        self.number = 0
        self.resend_below = 0
        self.full = False  # its connection takes nothing more

    # ---- connections

    def hello(self, held: Iterable[m.Held] = (), **changes: Any) -> m.Welcome:
        """Say HELLO on the connection there is; the WELCOME."""
        hello = m.Hello(
            PROTOCOL_VERSION,
            self.incarnation,
            self.name,
            self.capacity,
            self.queues,
            list(held),
            self.resend_below,
            {},
        )
        self.send(hello._replace(**changes))
        return self.one(m.Welcome)

    def connect(self, held: Iterable[m.Held] = ()) -> m.Welcome:
        """A new connection, and HELLO on it."""
        self.cut()
        self.route = self.bench.new_route(self)
        return self.hello(held)

    def cut(self) -> None:
        """The connection is gone; the broker finds out when it next sends something there."""
        self.bench.routes.pop(self.route, None)

    # ---- sending

    def send(self, *messages: m.Message) -> None:
        self.bench.receive(*((self.route, message) for message in messages))

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def put(
        self, queue: str, *ids: str, payload: bytes = b"p", number: int = 0, low: int = 0, **options: Any
    ) -> m.Message:
        """Send one group; the answer. With a number of its own it is sent under that one."""
        group = m.Group(queue, options, [identifier.encode() for identifier in ids], [payload] * len(ids))
        number = number or self.next_number()
        self.send(m.Put(number, low or number, [group]))
        return self.answer(number)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """The value of the answer; fails on a refusal."""
        number = self.next_number()
        self.send(m.Ask(number, verb, arguments))
        return self.value_of(number)

    def order(self, verb: str, *, number: int = 0, **arguments: Any) -> Any:
        """The value of the answer; fails on a refusal."""
        number = number or self.next_number()
        self.send(m.Order(number, number, verb, arguments))
        return self.value_of(number)

    def refused(self, message: m.Put | m.Settle | m.Extend | m.Ask | m.Order | m.Publish | m.Tail) -> m.Failure:
        """Send a message that must be refused; the refusal."""
        self.send(message)
        failure = self.answer(message.number)
        assert isinstance(failure, m.Failure), failure
        return failure

    def settle(
        self, outcome: m.Outcome, fence: int, *ids: str, values: list[Any] | None = None
    ) -> list[tuple[int, bytes, str]]:
        """Settle jobs of one delivery; those that were refused, with the verdicts."""
        if len(ids) > MAX_ORDER_IDS and outcome != m.Outcome.ACK:
            first, rest = slice(MAX_ORDER_IDS), slice(MAX_ORDER_IDS, None)
            refused = self.settle(outcome, fence, *ids[first], values=values and values[first])
            return refused + self.settle(outcome, fence, *ids[rest], values=values and values[rest])
        number = self.next_number()
        settlement = m.Settlement(fence, outcome, [identifier.encode() for identifier in ids], values)
        self.send(m.Settle(number, [settlement]))
        answer = self.answer(number)
        if isinstance(answer, m.Ok):
            return []
        assert isinstance(answer, m.Answer), answer
        return [tuple(refused) for refused in answer.value["refused"]]

    def ack(self, fence: int, *ids: str, results: list[Any] | None = None) -> list[tuple[int, bytes, str]]:
        return self.settle(m.Outcome.ACK, fence, *ids, values=results)

    def nack(self, fence: int, *ids: str, **error: Any) -> list[tuple[int, bytes, str]]:
        return self.settle(m.Outcome.NACK, fence, *ids, values=[error] * len(ids))

    def reject(self, fence: int, *ids: str, **error: Any) -> list[tuple[int, bytes, str]]:
        return self.settle(m.Outcome.REJECT, fence, *ids, values=[error] * len(ids))

    def release(self, fence: int, *ids: str) -> list[tuple[int, bytes, str]]:
        return self.settle(m.Outcome.RELEASE, fence, *ids)

    def snooze(self, fence: int, *ids: str, delay: int) -> list[tuple[int, bytes, str]]:
        return self.settle(m.Outcome.SNOOZE, fence, *ids, values=[delay] * len(ids))

    # ---- what came

    def take(self, kind: type[Kind]) -> list[Kind]:
        """All messages of one kind that came since the last time, oldest first."""
        found = [message for message in self.inbox if isinstance(message, kind)]
        self.inbox = [message for message in self.inbox if not isinstance(message, kind)]
        return found

    def one(self, kind: type[Kind]) -> Kind:
        (message,) = self.take(kind)
        return message

    def answer(self, number: int) -> m.Message:
        """What answers the message of this number; fails if nothing does, or more than one."""
        found = [
            message
            for message in self.inbox
            if (isinstance(message, m.Ok) and number in message.numbers)
            or (isinstance(message, m.Answer | m.Failure) and message.number == number)
        ]
        assert len(found) == 1, f"{len(found)} answers to number {number}; came: {self.inbox}"
        self.inbox.remove(found[0])
        return found[0]

    def value_of(self, number: int) -> Any:
        answer = self.answer(number)
        assert isinstance(answer, m.Answer), answer
        return answer.value

    def jobs(self) -> list[tuple[str, int]]:
        """Id and fence of every job delivered since the last time, in order."""
        return [
            (identifier.decode(), delivery.fence) for delivery in self.take(m.Deliver) for identifier in delivery.ids
        ]

    def ids(self) -> list[str]:
        """The ids of every job delivered since the last time, in order."""
        return [identifier for identifier, _ in self.jobs()]

    def job(self) -> tuple[str, int]:
        """The one job delivered since the last time: id, fence."""
        (job,) = self.jobs()
        return job

    def ends(self) -> dict[str, tuple[str, bytes | None, dict[str, Any] | None]]:
        """What FINISHED told since the last time, by id; fails if one end was told twice."""
        told = [end for message in self.take(m.Finished) for end in message.ends]
        ends = {end[0].decode(): end[1:] for end in told}
        assert len(ends) == len(told), told
        return ends


class Bench:
    """A broker without its shell."""

    def __init__(self, *, seed: int = 0, policy: dict[str, Any] | None = None, **settings: Any) -> None:
        self.store = MemoryStore()
        self.settings = Settings(policy=QueuePolicy(**(policy or {})), **settings)
        self.random = Random(seed)
        self.wall = WALL
        self.now = 1_000_000
        self.routes: dict[bytes, Peer] = {}
        self.notices: list[Notice] = []
        self.turns = 0
        self._routes_given = 0
        self.lowered = False  # a test lowered a limit below what was in flight
        self._gathered: list[tuple[bytes, m.Message]] | None = None
        self.core = self._open()

    def _open(self) -> Core:
        core = Core(self.store, self.settings, self.random)
        tick = core.open(self.wall, self.now, b"broker")
        self.store.write(tick.rows, tick.ranges)
        core.committed(tick)
        self.notices += core.notices()
        return core

    # ---- peers

    def new_route(self, peer: Peer) -> bytes:
        self._routes_given += 1
        route = b"route-%d" % self._routes_given
        self.routes[route] = peer
        return route

    def producer(self, name: str = "producer") -> Peer:
        """A peer that takes no jobs, connected."""
        return self.worker(name, capacity=0)

    def worker(self, name: str, *queues: str, capacity: int = 1) -> Peer:
        """A peer that serves queues, connected."""
        peer = Peer(self, name, queues, capacity)
        peer.connect()
        return peer

    # ---- turns

    def receive(self, *messages: tuple[bytes, m.Message]) -> None:
        """Messages in one turn, and the turns that the core wants at once after it."""
        if self._gathered is not None:
            self._gathered += messages
            return
        self.turn(messages)
        self.settle_down()

    @contextmanager
    def one_turn(self) -> Iterator[None]:
        """What is sent inside is received in one turn, at the end of the block."""
        self._gathered = []
        try:
            yield
        finally:
            gathered, self._gathered = self._gathered, None
        self.receive(*gathered)

    def turn(
        self,
        messages: Iterable[tuple[bytes, m.Message]] = (),
        *,
        drained: bool = True,
        stalled_ms: int = 0,
        ends: str = "",
    ) -> None:
        """One turn. ``ends``: the broker dies "before commit" or "before send"; `crash` starts it again."""
        core = self.core
        core.begin(self.wall, self.now)
        if stalled_ms:
            core.stalled(stalled_ms)
        for route, message in messages:
            core.receive(route, message)
        tick = core.finish(drained=drained)
        self.turns += 1
        if ends == "before commit":
            return
        if tick.has_rows:
            self.store.write(tick.rows, tick.ranges)
        if ends == "before send":
            return
        core.committed(tick)
        for route, message in tick.messages():
            self._deliver(route, message)
        self.notices += core.notices()

    def _deliver(self, route: bytes, message: m.Message) -> None:
        peer = self.routes.get(route)
        if peer is not None and not peer.full:
            peer.inbox.append(message)
            return
        if peer is None:
            self.core.unreachable(route)
        else:
            self.core.congested(route)
        if isinstance(message, m.Deliver):
            self.core.undelivered(message.fence)

    def settle_down(self) -> None:
        """Run turns until the core waits for something."""
        for _ in range(MOST_TURNS):
            if self.core.wanted_in() > 0:
                return
            self.turn()
        state = self.core.state
        wants = [queue.name for queue in state.hot], len(state.works), self.core.wanted_in()
        raise AssertionError(f"the core still wants turns after {MOST_TURNS} of them: {wants}")

    def advance(self, ms: int, *, wall_ms: int | None = None) -> None:
        """Let time pass, with the turns that the core asks for. ``wall_ms``: first the wall clock jumps by as much."""
        if wall_ms is not None:
            self.wall += wall_ms
            self.turn()
            self.settle_down()
        end = self.now + ms
        for _ in range(MOST_TURNS):
            step = min(max(self.core.wanted_in(), 0), end - self.now)
            self.now += step
            self.wall += step
            self.turn()
            self.settle_down()
            if self.now >= end:
                return
        raise AssertionError(f"the core never rests: {end - self.now} ms are left")

    def crash(self) -> None:
        """The process dies and starts again on the same rows; all connections are gone."""
        self.reopen()
        self.settle_down()

    def reopen(self) -> None:
        """The same, but for the turns that the new core wants at once."""
        self.routes.clear()
        self.core = self._open()

    # ---- looking inside

    def count(self, queue: str, state: State) -> int:
        return self.core.state.queues[queue].counts.jobs[state]

    def counts(self, queue: str) -> dict[str, int]:
        """The jobs of a queue by state, those that are not zero."""
        return {state.value: jobs for state, jobs in self.core.state.queues[queue].counts.jobs.items() if jobs}

    def told(self, event: str) -> list[dict[str, Any]]:
        """The facts of the notices of one event."""
        return [notice.facts for notice in self.notices if notice.event == event]

    def check(self) -> None:
        """The rows are whole, and what the core has in memory agrees with them and with itself."""
        check_whole(self.core, self.store, lowered=self.lowered)


def payloads(delivery: m.Deliver) -> list[bytes]:
    """The payloads of a delivery, wherever they travelled."""
    return [delivery.large.get(position, payload_of(record)) for position, record in enumerate(delivery.records)]
