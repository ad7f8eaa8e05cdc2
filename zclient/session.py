"""What a peer says and understands, without a socket, a clock or a thread: frames in, frames out.

A `Session` is one incarnation. It outlives connections: when one is gone and another comes, it says HELLO, and after
WELCOME sends again whatever is unanswered, under the same numbers, so that the broker applies each once. Time is an
argument (``now``, monotonic milliseconds); randomness is one too (the incarnation). Whatever the broker sends that
cannot be understood is counted in ``faults`` and dropped: it never raises. Its owner keeps threads apart, and bounds
how much is in flight.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from zclient.errors import (
    BrokerUnreachable,
    OutcomeUnknown,
    ProtocolFault,
    UnsupportedVersion,
    WrongBroker,
    ZError,
    error_from_wire,
)
from zclient.gathering import Gathered
from zclient.numbers import Numbers
from zclient.protocol import limits
from zclient.protocol import messages as m
from zclient.protocol.codec import MalformedMessage, decode, encode
from zclient.readers import READ_AGAIN_MS, Readers
from zclient.requests import ASK, EXTEND, ORDER, PUBLISH, PUT, SETTLE, TAIL, WATCH, WORKFLOW, Request
from zclient.tails import Tails
from zclient.watches import Follower, Watches

SEND_AT_ONCE = 200
"""Messages that are handed out at once."""

TICK_MS = 1000
"""`Session.tick` looks at what is overdue this often; a link waits no longer than this between two passes."""

ASK_AGAIN_MS = 5000
"""A request unanswered for this long on a connection that is otherwise alive is sent again: its answer was dropped."""

WATCH_AGAIN_MS = 30_000
"""A watch is repeated this often, since FINISHED is told once and a full connection may have lost it."""

REFUSED_PAUSE_MS = 1000
"""After a refused HELLO the next one waits this long."""

_SILENT_PROBES = 3
"""A worker that misses so many probes, or a peer whose HELLO is not answered for as long, says HELLO again."""

_HELLO, _CAPACITY = "hello", "capacity"


class Session:
    """One incarnation's side of the conversation; see the module for what it promises.

    ``held`` tells what a worker holds at the moment of a HELLO; ``tasks`` maps a queue to what its task says of its
    jobs, in options of the wire. ``one_broker`` refuses a broker whose id differs from the first one met: a peer with
    several endpoints must.
    """

    def __init__(
        self,
        incarnation: bytes,
        *,
        name: str,
        info: dict[str, Any],
        capacity: int = 0,
        queues: Sequence[str] = (),
        held: Callable[[], list[m.Held]] | None = None,
        tasks: dict[str, dict[str, Any]] | None = None,
        one_broker: bool = False,
    ) -> None:
        self.incarnation = incarnation
        self.name = name
        self.info = info
        self.capacity = capacity
        self.queues = list(queues)
        self.tasks = tasks or {}
        self.one_broker = one_broker
        self.where = "the broker"
        """Where the link looks for the broker, for messages to people."""
        self.broker: bytes | None = None
        self.limits: dict[str, int] = {}
        self.faults = 0
        self.last_fault: ProtocolFault | None = None
        self.refusal: ZError | None = None
        """Why the broker did not welcome this peer at its last HELLO; None once it does."""
        self.misdirected = False
        """Another broker answered than the one this session belongs to: the link should try elsewhere."""
        self._held = held or list
        self._confirmed = False
        self._numbers = Numbers()
        self._waiting: deque[Request] = deque()
        self._watches = Watches()
        self.tails = Tails(lambda body: self._queue(Request(TAIL, body)))
        self.readers = Readers()
        self._control: deque[list[bytes]] = deque()
        self._handed: list[Any] = []
        self._connected = False
        self._welcomed = False
        self._hello_due = False
        self._hellos = 0
        self._silence_ms = _SILENT_PROBES * limits.PROBE_INTERVAL_MS
        self._repeated: set[int] = set()  # numbers that were sent again on this connection
        self._hello_ms = 0.0
        self._hello_not_before_ms = 0.0
        self._capacity_told = -1
        self._heard_ms = 0.0
        self._answered_ms = 0.0
        self._overtaken_ms = 0.0
        self._tick_ms = 0.0
        self._ended = False

    # ---- the connection

    @property
    def welcomed(self) -> bool:
        """Whether the broker knows this incarnation on the connection that is up."""
        return self._welcomed

    @property
    def hello_due(self) -> bool:
        """Whether the next message is a HELLO. The owner must have seen all deliveries received before it leaves."""
        return self._hello_due and self._connected

    @property
    def pending(self) -> bool:
        """Whether `outgoing` has something to send."""
        if self._ended:
            return self._connected and bool(self._control)
        if self._hello_due:
            return self._connected
        if not self._welcomed:
            return False
        followed = self._watches.pending or self.tails.pending or self.readers.pending
        told = self.capacity == self._capacity_told
        waiting = self._waiting or (self._numbers.kept_back and not self._numbers.full)
        return bool(self._control or waiting or followed or not told)

    def connected(self, now: float) -> None:
        """A fresh connection is up. What is left of the one before must have been received first."""
        self._connected = True
        self._welcomed = False
        self._hellos = 0
        self._heard_ms = now
        self._control.clear()
        self._repeated.clear()
        self.misdirected = False
        self._hello_ms = now - self._silence_ms
        self._hello_due = not self._ended and now >= self._hello_not_before_ms

    def disconnected(self, now: float) -> None:
        """The connection is gone. Nothing is lost: what is unanswered waits for the next one."""
        self._connected = self._welcomed = self._hello_due = False
        self._hellos = 0
        self._control.clear()

    def hello(self) -> None:
        """Say HELLO again on this connection, with what is held now; afterwards send again what is unanswered."""
        if self._connected and not self._ended:
            self._hello_due = True
            self._welcomed = False

    def tick(self, now: float) -> None:
        """Do what time calls for: say HELLO to a silent broker, send again what stays unanswered."""
        if now < self._tick_ms or not self._connected or self._ended:
            return
        self._tick_ms = now + TICK_MS
        if not self._welcomed:
            if not self._hello_due and now - self._hello_ms >= self._silence_ms and now >= self._hello_not_before_ms:
                self._hello_due = True
                self._hellos = 0  # a full connection has lost the answer: the next one counts
            return
        if self.queues and now - self._heard_ms >= self._silence_ms and now - self._hello_ms >= self._silence_ms:
            self.hello()
            return
        for request in self._numbers.unanswered.values():
            if (
                not request.queued
                and now - request.last_sent_ms >= ASK_AGAIN_MS
                and self._heard_ms > request.last_sent_ms
                and (request.last_sent_ms < self._overtaken_ms or now - self._answered_ms >= ASK_AGAIN_MS)
            ):
                self._repeated.add(request.number)
                self._queue(request)
        self._watches.say_again(now - WATCH_AGAIN_MS)
        self.readers.say_again(now - READ_AGAIN_MS)

    # ---- what the owner asks for

    def put(self, groups: list[m.Group], now: float) -> Request:
        """Store these jobs, all or none. One number a call: it is the unit of refusal."""
        return self._queue(Request(PUT, (groups,)))

    def workflow(self, body: tuple[Any, ...]) -> Request:
        """Store a part of a workflow: its id, the part, of how many, the plan, groups; as `Workflow` of the wire."""
        return self._queue(Request(WORKFLOW, body))

    def publish(self, publications: list[m.Publication], now: float) -> Request:
        """Publish these, all or none."""
        return self._queue(Request(PUBLISH, (publications,)))

    def order(self, verb: str, arguments: dict[str, Any], now: float) -> Request:
        """Change something, once."""
        return self._queue(Request(ORDER, (verb, arguments)))

    def ask(self, verb: str, arguments: dict[str, Any], now: float) -> Request:
        """Ask something that changes nothing."""
        return self._queue(Request(ASK, (verb, arguments)))

    def settle(self, settlements: list[m.Settlement], now: float, sends: Sequence[m.Sent] = ()) -> Request:
        """End deliveries, with the jobs that their handlers sent. Its value is None, or the map of what was refused:
        ``{"refused": [[fence, id, verdict], ...]}``."""
        return self._queue(Request(SETTLE, (settlements, list(sends))))

    def extend(self, fence: int, identifier: bytes, duration_ms: int, now: float) -> Request:
        """Have the delivery's lease last at least this long from when the broker reads it."""
        return self._queue(Request(EXTEND, (fence, identifier, duration_ms)))

    def watch(self, identifier: bytes) -> Request:
        """Learn how a job ends: ``(state, encoded result or None, cause map or None)``. All its waiters share it."""
        return self._watches.watch(identifier)

    def follow(self, identifier: bytes) -> Follower:
        """Learn of a job's changes as well. Whoever follows it must `Follower.leave` it."""
        return self._watches.follow(identifier)

    def say(self, message: m.Renew | m.Progress | m.Partial) -> None:
        """Say what has no answer. Nothing without a connection: HELLO names what is held."""
        if self._welcomed:
            self._control.append(encode(message))

    def set_capacity(self, capacity: int) -> None:
        """How many jobs this worker takes at once from now on; 0 pauses it."""
        self.capacity = capacity

    def goodbye(self) -> None:
        """End the incarnation: the broker takes back what it holds, and nothing is sent after it."""
        if self._connected and not self._ended:
            self._control.append(encode(m.Goodbye()))
        self._ended = True
        self._hello_due = False

    def give_up(self, request: Request) -> None:
        """The caller's time is over. It ends with the error that says whether the broker may have acted on it.

        A request that never left is withdrawn and never will leave. One that left counts as answered for ``low`` and is
        not sent again. A watch ends when the last of its waiters gives up.
        """
        if request.done:
            return
        if request.kind is WATCH:
            if self._watches.leave(request):
                self._unwatch(request)
            return
        request.finish(None, request.unanswered() if request.sent else self.unreachable())
        for gone in (request, request.carrier):
            if gone is not None and not gone.is_wanted:
                self._numbers.unanswered.pop(gone.number, None)

    def unreachable(self) -> ZError:
        """Why nothing can be sent: the broker's refusal to have this peer, or that it was not reached."""
        return self.refusal or BrokerUnreachable(f"not reached in time, nothing was sent: {self.where}")

    def fail_all(self, error: ZError) -> None:
        """End everything that is open with this error; for an owner that closes."""
        followed = [*self._watches.clear(), *self.tails.clear()]
        open_requests = [*self._numbers.unanswered.values(), *self._numbers.kept_back, *self._waiting, *followed]
        self._numbers.unanswered.clear()
        self._numbers.kept_back.clear()
        self._waiting.clear()
        for request in open_requests:
            request.finish(None, error)

    def _queue(self, request: Request) -> Request:
        if isinstance(self.refusal, UnsupportedVersion):
            request.finish(None, self.refusal)
            return request
        request.queued = True
        self._waiting.append(request)
        return request

    def _unwatch(self, request: Request) -> None:
        if request.sent and self._welcomed:
            self._control.append(encode(m.Unwatch([request.body[0]])))
        request.finish(None, None if request.sent else self.unreachable())

    # ---- out

    def outgoing(self, now: float, most: int = SEND_AT_ONCE) -> list[list[bytes]]:
        """At most ``most`` messages to send now, in order; each is handed out once. See `unsent`."""
        frames: list[list[bytes]] = []
        handed: list[Any] = []
        self._handed = handed
        for left in self._watches.left():
            self._unwatch(left)
        self.tails.say_left()
        for reader in self.readers.left():
            self.give_up(reader.end)
            self.order("cancel", {"id": reader.identifier}, now)
        if self.hello_due:
            handed.append(_HELLO)
            frames.append(encode(self._hello(now)))
        if self._ended:
            return self._hand_control(frames, handed)
        if not self._welcomed:
            return frames
        self._control.extend(map(encode, self.readers.due(now)))
        self._hand_control(frames, handed)
        if self.capacity != self._capacity_told:
            self._capacity_told = self.capacity
            handed.append(_CAPACITY)
            frames.append(encode(m.Capacity(self.capacity)))
        for watch, requests in self._watches.due():
            for watched in requests:
                watched.sending(now)
            handed.append(tuple(watch.ids))
            frames.append(encode(watch))
        numbers, waiting = self._numbers, self._waiting
        while len(frames) < most and (request := numbers.next_of(waiting)) is not None:
            request.sending(now)
            handed.append(request)
            frames.append(encode(request.message(numbers.low(request.number))))
        return frames

    def unsent(self, count: int) -> None:
        """The last ``count`` messages of `outgoing` found no room or no connection, and did not leave."""
        for entry in reversed(self._handed[len(self._handed) - count :]):
            if entry is _HELLO:
                self._hello_due = self._connected
                self._hellos -= 1
            elif entry is _CAPACITY:
                self._capacity_told = -1
            elif isinstance(entry, Request):
                self._unsend(entry)
            elif isinstance(entry, tuple):
                self._watches.unsaid(entry)
            else:
                self._control.appendleft(entry)
        self._handed = []

    def _unsend(self, request: Request) -> None:
        request.unsending()
        if not request.sent:
            # Its number was never seen by anybody: it is free again, so that HELLO's resend_below stays exact.
            self._numbers.take_back(request)
        parts = request.come_apart(alone=False) if isinstance(request, Gathered) and not request.sent else [request]
        line = self._numbers.kept_back if request.is_batch and not request.number else self._waiting
        for part in reversed(parts):
            part.queued = True
            line.appendleft(part)

    def _hand_control(self, frames: list[list[bytes]], handed: list[Any]) -> list[list[bytes]]:
        handed += self._control
        frames += self._control
        self._control.clear()
        return frames

    def _hello(self, now: float) -> m.Hello:
        self._hello_due = False
        self._hellos += 1
        self._hello_ms = now
        self._capacity_told = self.capacity
        me = limits.PROTOCOL_VERSION, self.incarnation, self.name, self.capacity, self.queues
        return m.Hello(*me, self._held(), self._numbers.next if self._confirmed else 0, self.info, self.tasks)

    # ---- in

    def receive(self, frames: Sequence[bytes], now: float) -> list[m.Message]:
        """Take one message from the broker; returns it if it is for the owner.

        That is DELIVER, LOST, CANCEL, FLOW, CLOSING, PING and WELCOME (for its ``lost``). The rest ends requests.
        """
        self._heard_ms = now
        try:
            message = decode(frames)
        except MalformedMessage as fault:
            self._fault(fault.reason)
            return []
        handler = _HANDLERS.get(type(message))
        if handler is None:
            self._fault(f"a broker does not send {type(message).__name__}")
            return []
        return [message] if handler(self, message, now) else []

    def _fault(self, reason: str) -> None:
        self.faults += 1
        self.last_fault = ProtocolFault(reason)

    def _on_welcome(self, welcome: m.Welcome, now: float) -> bool:
        if self.one_broker and self.broker not in (None, welcome.broker):
            self.refusal = WrongBroker()
            self.misdirected = True
            return False
        self.broker = welcome.broker
        self.limits = welcome.limits
        probe_ms = welcome.limits.get("probe_ms", limits.PROBE_INTERVAL_MS)
        self._silence_ms = _SILENT_PROBES * max(int(probe_ms), 1)
        self.refusal = self._watches.refusal = None
        self._hellos = max(self._hellos - 1, 0)
        if self._hellos == 0 and not self._hello_due and not self._welcomed:
            self._welcomed = True
            self._send_again(now)
        return True

    def _send_again(self, now: float) -> None:
        """Queue everything unanswered, oldest first, before what was never sent; and watch again."""
        fresh = [request for request in self._waiting if not request.number]
        self._waiting.clear()
        for request in list(self._numbers.unanswered.values()):
            if request.is_batch and now - request.first_sent_ms > limits.RESEND_LIMIT_MS:
                self.give_up(request)
            else:
                self._queue(request)
        self._waiting.extend(fresh)
        self._watches.say_again()
        self.tails.interrupt()
        self.readers.say_again()

    def _on_who(self, who: m.Who, now: float) -> bool:
        # One WHO comes for every message that was dropped; the HELLO under way answers them all.
        if not self._hellos:
            self.hello()
        return False

    def _on_ok(self, ok: m.Ok, now: float) -> bool:
        for number in ok.numbers:
            self._end(number, None, None, now)
        return False

    def _on_answer(self, answer: m.Answer, now: float) -> bool:
        self._end(answer.number, answer.value, None, now)
        return False

    def _on_failure(self, failure: m.Failure, now: float) -> bool:
        error = error_from_wire(failure.code, failure.text, failure.details)
        if failure.number:
            self._end(failure.number, None, error, now)
        elif self._hellos:
            self._refuse(error, now)
        elif not self.readers.refuse(error):
            self._fault(failure.text or failure.code)
        return False

    def _refuse(self, error: ZError, now: float) -> None:
        """The broker does not have this peer: another version for good, anything else until the next HELLO."""
        self._hellos = 0
        self._welcomed = False
        self._hello_not_before_ms = now + REFUSED_PAUSE_MS
        self._hello_ms = now - self._silence_ms
        self.refusal = error
        if isinstance(error, UnsupportedVersion):
            self._watches.refusal = error
            self.fail_all(error)

    def _end(self, number: int, value: Any, error: ZError | None, now: float) -> None:
        request = self._numbers.unanswered.pop(number, None)
        if request is None:
            return
        self._answered_ms = now
        self._overtaken_ms = max(self._overtaken_ms, request.last_sent_ms)
        if error is None and request.is_batch:
            self._confirmed = True
        elif isinstance(error, OutcomeUnknown) or (request.is_batch and number in self._repeated):
            error = request.unanswered(str(error))  # a refusal of one copy says nothing of the other
        elif error is not None and isinstance(request, Gathered):
            # Nothing of it is stored, for the sake of one of them perhaps: each is judged by itself.
            for member in request.come_apart(alone=True):
                self._queue(member)
            return
        self._repeated.discard(number)
        request.finish(value, error)

    def _on_finished(self, finished: m.Finished, now: float) -> bool:
        self._watches.finished(finished.ends)
        return False

    def _on_changed(self, changed: m.Changed, now: float) -> bool:
        for row in changed.jobs:
            try:
                self._watches.changed(row)
            except (KeyError, TypeError) as error:
                self._fault(f"a change of no job: {type(error).__name__} {error}")
        return False


_HANDLERS: dict[type, Callable[[Any, Any, float], bool]] = {
    m.Welcome: Session._on_welcome,
    m.Who: Session._on_who,
    m.Ok: Session._on_ok,
    m.Answer: Session._on_answer,
    m.Failure: Session._on_failure,
    m.Finished: Session._on_finished,
    m.Changed: Session._on_changed,
    m.Publications: lambda session, message, now: session.tails.heard(message),
    m.Part: lambda session, part, now: session.readers.receive(part),
    **dict.fromkeys((m.Deliver, m.Ping, m.Lost, m.Cancel, m.Flow, m.Closing), lambda session, message, now: True),
}
