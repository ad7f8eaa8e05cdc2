"""A producer and worker in one incarnation that says one thing after the other, and knows when the broker dies.

What it said last and got no answer to it says again to the next broker, under the same number. It owns the conversation
and its ledger; who kills the broker, and when, is not its concern.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import zmq

from tests.crashpoints import ledger as states
from tests.crashpoints.ledger import Ledger, States
from tests.system.peer import Peer
from tests.system.processes import BrokerProcess
from zclient.protocol import codec, limits
from zclient.protocol import messages as m

ANSWER_S = 20.0
LAST_WORDS_MS = 100
"""After its death what the broker sent is still on its way to be read for so long."""

TRASH_JOBS = 150
"""Jobs that a purge takes: a sweep of several slices."""

SHOWS = 50
"""Questions that are asked at once."""

HOUR_MS = 3_600_000


class Died(Exception):
    """The broker is dead."""


class Wrong(AssertionError):
    """A promise was broken."""


class Operation(NamedTuple):
    """Something said to the broker, and what becomes of which jobs by it."""

    message: Any
    changes: dict[bytes, States]
    slow: bool = False
    copies: int = 0


def payload_of(identifier: bytes) -> bytes:
    """What the job carries: each its own, some of them large."""
    size = limits.LARGE_BYTES + 1 if identifier.endswith(b"77") else 200
    return (identifier + b" ") * (size // (len(identifier) + 1) + 1)


class Actor(Peer):
    """One incarnation over all lives of the broker."""

    def __init__(self, seed: int) -> None:
        super().__init__("tcp://127.0.0.1:1")
        self.ledger = Ledger()
        self.chance = random.Random(seed)
        self.held: dict[bytes, int] = {}  # job -> fence
        self.copies: set[bytes] = set()  # jobs among them that are copies of publications
        self.waiting: Operation | None = None
        self.story: list[str] = []
        self._jobs = 0
        self._trashed: list[bytes] = []
        self._dead_fd: int | None = None
        self._poller = zmq.Poller()
        self._acts: list[tuple[Callable[[], Operation | None], int]] = [
            (self._put, 6),
            (self._put_delayed, 1),
            (self._put_blocked, 1),
            (self._settle, 8),
            (self._cancel, 1),
            (self._replay, 1),
            (self._drop, 1),
            (self._publish, 2),
            (self._trash, 1),
            (self._purge, 1),
        ]

    def close(self) -> None:
        self._leave()
        super().close()

    def _leave(self) -> None:
        if self._dead_fd is not None:
            os.close(self._dead_fd)
            self._dead_fd = None

    # ---- one life of the broker

    def meet(self, broker: BrokerProcess) -> None:
        """Come back to it, name what is held, say again what was not answered, and look at every job."""
        self._leave()
        self._endpoint = broker.endpoint
        self._dead_fd = os.pidfd_open(broker.pid)
        self.reconnect()
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._dead_fd, zmq.POLLIN)
        held: dict[int, list[bytes]] = {}
        for identifier, fence in self.held.items():
            held.setdefault(fence, []).append(identifier)
        told = [m.Held(fence, ids, []) for fence, ids in held.items()]
        self.send(m.Hello(limits.PROTOCOL_VERSION, self.incarnation, "actor", 30, ["work", "copies"], told, 0, {}))
        self.story.append(f"comes back with {told!r:.300}")
        welcome = self._await(lambda message: isinstance(message, m.Welcome))
        unsettled = {name for name, fence in self.held.items() if not self._is_settling(fence, name)}
        if lost := [name for _, ids in welcome.lost for name in ids if name in unsettled]:
            raise Wrong(f"leases that nobody settled are lost: {lost}")
        if self.waiting is not None:
            self._say(self.waiting, again=True)
        self.look()

    def _is_settling(self, fence: int, identifier: bytes) -> bool:
        message = self.waiting.message if self.waiting is not None else None
        return isinstance(message, m.Settle) and any(
            fence == one.fence and identifier in one.ids for one in message.settlements
        )

    def set_up(self) -> None:
        """Make the topic's binding, and hold the queue of what is never to run."""
        self._ask_to("bind", pattern="news", queue="copies")
        for queue in ("later", "trash"):
            self._ask_to("set", queue=queue, options={"max_attempts": 3})

    def act(self) -> None:
        """Say one more thing, and take its answer."""
        acts, weights = zip(*self._acts, strict=True)
        operation = self.chance.choices(acts, weights)[0]()
        if operation is not None:
            self.ledger.attempt(operation.changes)
            self._say(operation)

    def look(self) -> None:
        """Ask for every job. Raises `Wrong` for one that is where it cannot be, or carries what nobody sent."""
        found: dict[bytes, str] = {}
        names = list(self.ledger.may)
        for start in range(0, len(names), SHOWS):
            asked = {self.number(): name for name in names[start : start + SHOWS]}
            for number, name in asked.items():
                self.send(m.Ask(number, "show", {"id": name}))
            while asked:
                answer = self._await(partial(self._is_one_of, asked))
                name = asked.pop(answer.number)
                row = answer.value if isinstance(answer, m.Answer) else {"state": "absent"}
                found[name] = row["state"]
                if row.get("payload") not in (None, payload_of(name)):
                    raise Wrong(f"job {name!r} has a payload of another: {row['payload'][:40]!r}")
                if row["state"] == "done" and row["result"] != b"r" + name:
                    raise Wrong(f"job {name!r} has a result of another: {row['result']!r}")
        if faults := self.ledger.faults(found):
            raise Wrong("\n".join(faults))

    def finish(self) -> None:
        """Settle all there is, until no job is left to run; then look, and count."""
        self._say(self._purge())
        while self._left():
            if operation := self._settle(m.Outcome.ACK):
                self.ledger.attempt(operation.changes)
                self._say(operation)
        self._end_slow_work()
        self.look()
        copies = self._value(self._ask("queue", queue="copies"))["totals"]["done"]
        if copies != self.ledger.copies:
            raise Wrong(f"{self.ledger.copies} copies were published, and {copies} were done")

    def _left(self) -> bool:
        """Whether there is still something to do, for the broker or for us."""
        queues = self._value(self._ask("queues"))
        return self._slow_work() or any(queue["ready"] or queue["leased"] or queue["blocked"] for queue in queues)

    def _slow_work(self) -> bool:
        return bool(self._value(self._ask("stats"))["slow_work"])

    def _end_slow_work(self) -> None:
        if self.ledger.slow and not self._slow_work():
            self.ledger.settle()

    # ---- conversation

    def _ask_to(self, verb: str, **arguments: Any) -> None:
        number = self.number()
        self._say(Operation(m.Order(number, number, verb, arguments), {}))

    def _ask(self, verb: str, **arguments: Any) -> Any:
        number = self.number()
        self.send(m.Ask(number, verb, arguments))
        return self._await(lambda message: getattr(message, "number", 0) == number)

    def _value(self, answer: Any) -> Any:
        if not isinstance(answer, m.Answer):
            raise Wrong(f"refused: {answer}")
        return answer.value

    def _say(self, operation: Operation, *, again: bool = False) -> None:
        self.waiting = operation
        message = operation.message
        self.story.append(f"says {message!r:.600}")
        self.send(message)
        answer = self._await(lambda came: self._is_answer(came, message.number))
        if isinstance(answer, m.Failure):
            raise Wrong(f"{message!r:.300} is refused: {answer}")
        if isinstance(message, m.Settle):
            # A job that was given back may have gone to us and come back since then: its release is of long ago.
            overtaken = again and message.settlements[0].outcome == m.Outcome.RELEASE
            if not isinstance(answer, m.Ok) and not overtaken:
                raise Wrong(f"a settlement of what is held does not count: {answer}")
            for settlement in message.settlements:
                for identifier in settlement.ids:
                    if self.held.get(identifier) == settlement.fence:  # not delivered anew meanwhile
                        del self.held[identifier]
        self.story.append(f"is told {answer!r:.300}")
        self.ledger.confirm(operation.changes, slow=operation.slow)
        self.ledger.copies += operation.copies
        self.waiting = None

    @staticmethod
    def _is_one_of(asked: dict[int, bytes], came: Any) -> bool:
        return getattr(came, "number", 0) in asked

    @staticmethod
    def _is_answer(came: Any, number: int) -> bool:
        if isinstance(came, m.Ok):
            return number in came.numbers
        return isinstance(came, m.Answer | m.Failure) and came.number == number

    def _await(self, wanted: Callable[[Any], bool]) -> Any:
        """The first message that is wanted; deliveries on the way are taken. Raises `Died`."""
        while True:
            message = self._next()
            if isinstance(message, m.Deliver):
                self._take(message)
            if wanted(message):
                return message

    def _next(self) -> m.Message:
        until = time.monotonic() + ANSWER_S
        while not self._socket.poll(0):
            ready = dict(self._poller.poll(max(0, until - time.monotonic()) * 1000))
            if self._socket in ready:
                break
            if not ready:
                raise Wrong(f"no answer within {ANSWER_S:g} s")
            if not self._socket.poll(LAST_WORDS_MS):
                raise Died
        return codec.decode(self._socket.recv_multipart())

    def _take(self, message: m.Deliver) -> None:
        ours = [name for name in message.ids if message.queue == "work"]
        if invented := self.ledger.invented(ours):
            raise Wrong("\n".join(invented))
        if twice := [
            name for name in message.ids if name in self.held and not self._is_settling(self.held[name], name)
        ]:
            raise Wrong(f"delivered although they are held: {twice}")
        self.story.append(f"takes {message.fence} of {message.queue}: {message.ids}")
        for name in message.ids:
            self.held[name] = message.fence
        if message.queue == "copies":
            self.copies.update(message.ids)

    # ---- what it may say

    def _names(self, count: int) -> list[bytes]:
        self._jobs += count
        return [b"job-%06d" % number for number in range(self._jobs - count, self._jobs)]

    def _jobs_of(self, queue: str, names: list[bytes], **options: Any) -> m.Put:
        number = self.number()
        return m.Put(number, number, [m.Group(queue, options, names, [payload_of(name) for name in names])])

    def _put(self) -> Operation:
        names = self._names(self.chance.randint(1, 12))
        return Operation(self._jobs_of("work", names), dict.fromkeys(names, states.LIVE))

    def _put_delayed(self) -> Operation:
        names = self._names(self.chance.randint(1, 4))
        return Operation(self._jobs_of("later", names, delay=HOUR_MS), dict.fromkeys(names, states.DELAYED))

    def _put_blocked(self) -> Operation | None:
        parents = self.ledger.among(states.LIVE)
        if not parents:
            return None
        names = self._names(2)
        message = self._jobs_of("work", names, after=[self.chance.choice(parents)])
        return Operation(message, dict.fromkeys(names, states.BLOCKED | states.LIVE | states.CANCELLED))

    def _trash(self) -> Operation:
        names = self._names(TRASH_JOBS)
        self._trashed += names
        return Operation(self._jobs_of("trash", names), dict.fromkeys(names, states.LIVE))

    def _purge(self) -> Operation:
        """All that is ready there is void at once; the sweep behind it takes several slices."""
        number = self.number()
        return Operation(
            m.Order(number, number, "purge", {"queue": "trash"}), dict.fromkeys(self._trashed, states.ABSENT)
        )

    def _settle(self, outcome: m.Outcome | None = None) -> Operation | None:
        """A settlement of some jobs of one delivery."""
        if not self.held:
            return None
        fence = self.chance.choice(list(self.held.values()))
        ids = [name for name, of in self.held.items() if of == fence][: self.chance.randint(1, 9)]
        if outcome is None:
            # What dies while a replay goes on may be among what it takes, in the same millisecond.
            bad = [] if self.ledger.slow else [m.Outcome.REJECT] * 3
            outcome = self.chance.choice([m.Outcome.ACK] * 5 + [m.Outcome.RELEASE] + bad)
        if ids[0] in self.copies:
            outcome = m.Outcome.ACK
        after = {m.Outcome.ACK: states.DONE, m.Outcome.REJECT: states.DEAD, m.Outcome.RELEASE: states.LIVE}[outcome]
        values = {
            m.Outcome.ACK: [b"r" + name for name in ids],
            m.Outcome.REJECT: [{"text": "no"} for _ in ids],
            m.Outcome.RELEASE: [None for _ in ids],
        }[outcome]
        known = {name: after for name in ids if name in self.ledger.may}
        return Operation(m.Settle(self.number(), [m.Settlement(fence, outcome, ids, values)]), known)

    def _cancel(self) -> Operation | None:
        waiting = self.ledger.among(states.DELAYED)
        if not waiting:
            return None
        name, number = self.chance.choice(waiting), self.number()
        return Operation(m.Order(number, number, "cancel", {"id": name}), {name: states.CANCELLED})

    def _of_dead(self, verb: str, after: States) -> Operation | None:
        self._end_slow_work()
        dead = self.ledger.among(states.DEAD)
        if not dead or self.ledger.slow:
            return None
        number = self.number()
        message = m.Order(number, number, verb, {"queue": "work"})
        return Operation(message, dict.fromkeys(dead, after), slow=True)

    def _replay(self) -> Operation | None:
        return self._of_dead("replay", states.LIVE)

    def _drop(self) -> Operation | None:
        return self._of_dead("drop", states.ABSENT)

    def _publish(self) -> Operation:
        number = self.number()
        publication = m.Publication("news", {}, b"news-%d" % number, b"told")
        return Operation(m.Publish(number, number, [publication]), {}, copies=1)
