"""A producer's process: the production session and the procedures of `zclient.verbs`, run as an engine runs them.

It owns what it waits for, and tells the book what it was promised. It decides nothing about what to send.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.book import UNKEPT
from tests.simulation.network import Network, Transport
from tests.simulation.world import Process, Violation, World
from zclient.errors import (
    BrokerUnreachable,
    JobCancelled,
    JobFailed,
    OutcomeUnknown,
    Refused,
    ResultExpired,
    ResultTimeout,
    ZError,
)
from zclient.jobs import encode_payload
from zclient.protocol.limits import INCARNATION_BYTES
from zclient.protocol.messages import Group, Publication
from zclient.publishing import publishing
from zclient.session import TICK_MS, Session
from zclient.verbs import End, Procedure, Verb, Wait, advance, asking, ending, sending

if TYPE_CHECKING:
    from tests.simulation.book import Book

Told = Callable[[Any, ZError | None], None]


class Call:
    """A procedure under way, as a caller of a client would wait for it."""

    __slots__ = ("lasts", "procedure", "told", "wait", "what")

    def __init__(self, what: str, procedure: Procedure[Any], told: Told, *, lasts: bool) -> None:
        self.lasts = lasts  # it waits for what may never come
        self.what = what
        self.procedure = procedure
        self.told = told
        self.wait: Wait | None = None

    @property
    def until_ms(self) -> float:
        return self.wait.until_ms if self.wait is not None else 0.0

    def is_due(self, now: float) -> bool:
        wait = self.wait
        return wait is None or now >= wait.until_ms or any(request.done for request in wait.requests)


class ProducerProcess(Process):
    """A process with one client. ``start`` begins a new incarnation."""

    def __init__(self, world: World, network: Network, book: Book, name: str) -> None:
        super().__init__(world, name)
        self.session: Session
        self.transport: Transport
        self.calls: list[Call] = []
        self._network = network
        self._book = book

    def start(self) -> None:
        self.begin()
        self.calls = []
        self.session = Session(self.world.random.randbytes(INCARNATION_BYTES), name=self.name, info={})
        self.transport = Transport(self._network, self, self.session)
        self.world.note(self.name, "started", self.session.incarnation[:4].hex())
        self.wake()

    def kill(self) -> None:
        self.world.note(self.name, "killed")
        self.end()
        self.transport.abandon()
        for call in self.calls:  # nobody waits for them any more
            call.procedure.close()
        self.calls = []

    # ---- calls

    def call(self, what: str, procedure: Procedure[Any], told: Told, *, lasts: bool = False) -> None:
        """Run a procedure to its end, and tell what it returned or raised. ``lasts``: nobody counts on its end."""
        self.world.note(self.name, "calls", what)
        self.calls.append(Call(what, procedure, told, lasts=lasts))
        self.wake()

    def run(self) -> Any:
        """A pass: what waiting callers do in turn, one after the other."""
        self.transport.turn()
        now = self.transport.now()
        for call in list(self.calls):
            if call.is_due(now):
                self._go_on(call, now)
        self.transport.turn()
        if self.transport.ready:
            self.wake(0.05)
        due_ms = min((call.until_ms for call in self.calls), default=math.inf)
        self.wake(min(max(due_ms - now, 0.05), TICK_MS))
        return True

    def _go_on(self, call: Call, now: float) -> None:
        try:
            step = advance(call.procedure) if call.wait is None else advance(call.procedure, now)
        except ZError as error:
            self._over(call, None, error)
            return
        if isinstance(step, End):
            self._over(call, step.value, None)
            return
        assert isinstance(step, Wait), step
        call.wait = step
        for request in step.requests:
            request.on_done(lambda _: self.wake())

    def _over(self, call: Call, value: Any, error: ZError | None) -> None:
        self.calls.remove(call)
        self.world.note(self.name, "hears", call.what, "ok" if error is None else f"{type(error).__name__}: {error}")
        call.told(value, error)

    # ---- what it calls

    def send(self, group: Group, timeout_ms: float, *, again: int = 0) -> None:
        """Store jobs. ``again``: so often, where the outcome is unknown, which is safe under the same ids."""
        book = self._book

        def told(instead: dict[bytes, bytes] | None, error: ZError | None) -> None:
            if error is None:
                book.promise(group.ids, instead or ())
            elif isinstance(error, OutcomeUnknown):
                if again:
                    self.send(group, timeout_ms, again=again - 1)
            elif isinstance(error, Refused | BrokerUnreachable) and first:
                book.refuse(group.ids, f"{type(error).__name__}: {error}")

        first = group.ids[0] not in book.asked
        for identifier in group.ids:
            book.asked[identifier] = self.name
            book.asked_in[identifier] = group.queue
        if not first:
            book.asked_again.update(group.ids)
        text = f"send {group.queue} {[identifier.decode() for identifier in group.ids]} {group.options}"
        now = self.transport.now()
        self.call(text, sending(self.session, now, group, timeout_ms), told)

    def publish(
        self,
        publication: Publication,
        timeout_ms: float,
        over: Callable[[int | None], None],
        refused: Callable[[str], None] | None,
    ) -> None:
        """Publish; as many copies as it is told of are on disk then. ``over`` is called with how many queues took it,
        None if nobody knows; ``refused``, if this is its first sending, with why it is not published."""
        book = self._book
        purges = book.purges

        def told(queues: int | None, error: ZError | None) -> None:
            if error is None:
                book.promise_copies(publication.id, queues or 0, purges)
                over(queues or 0)
            elif isinstance(error, OutcomeUnknown):
                over(None)
            elif isinstance(error, Refused | BrokerUnreachable) and refused is not None:
                why = f"{type(error).__name__}: {error}"
                book.refuse_copies(publication.id, why)
                refused(why)

        book.publications.setdefault(publication.id, "")
        procedure = publishing(self.session, self.transport.now(), publication, timeout_ms)
        self.call(f"publish {publication.topic} {publication.id.decode()}", procedure, told)

    def verb(self, verb: Verb[Any], timeout_ms: float, told: Told = lambda value, error: None) -> None:
        """Ask or order something."""
        procedure = asking(self.session, self.transport.now(), verb, timeout_ms)
        self.call(f"{verb.kind} {verb.name} {verb.arguments}", procedure, told)

    def await_end(self, identifier: bytes, timeout_ms: float) -> None:
        """Wait for a job's end, and compare what is told with what the rows say."""
        procedure = ending(self.session, self.transport.now(), identifier, timeout_ms)
        was_confirmed = identifier in self._book.confirmed

        def told(result: Any, error: ZError | None) -> None:
            if error is None:
                self._told_done(identifier, result)
            elif isinstance(error, JobFailed | JobCancelled | ResultExpired):
                self._told_end(identifier, error, was_confirmed)
            elif not isinstance(error, ResultTimeout | BrokerUnreachable):
                raise Violation(f"waiting for {identifier!r} ended with {type(error).__name__}: {error}")

        self.call(f"await {identifier.decode()}", procedure, told)

    def _told_done(self, identifier: bytes, result: Any) -> None:
        book = self._book
        ended = book.ended.get(identifier) or book.before.get(identifier)  # what was told may be of its last life
        if ended is None or ended.how != "done":
            raise Violation(f"{identifier!r} is told to be done, and is {ended and ended.how}")
        if ended.result is not None and encode_payload(result) != ended.result:
            raise Violation(f"{identifier!r} is told to have returned {result!r}, and the rows say {ended.result!r}")

    def _told_end(self, identifier: bytes, error: ZError, was_confirmed: bool) -> None:
        book = self._book
        ended = book.ended.get(identifier)
        if isinstance(error, JobFailed):
            if identifier not in book.was_dead and (ended is None or ended.how not in UNKEPT):
                raise Violation(f"{identifier!r} is told to be dead, and never was")
        elif isinstance(error, JobCancelled):
            gone = (
                (*UNKEPT, "cancelled") if identifier in book.counted else ("cancelled", "purged")
            )  # batches keep that
            before = book.before.get(identifier)
            # One that was purged is there until it is swept; came it again in one commit, it leaves no trace of that.
            again = identifier in book.asked_again and book.asked_in.get(identifier) in book.purged
            is_void = again or book.is_void(identifier)
            if not is_void and not any(life is not None and life.how in gone for life in (ended, before)):
                raise Violation(f"{identifier!r} is told to be cancelled, and is {ended and ended.how}")
        elif was_confirmed and identifier not in book.instead:
            if ended is None or (ended.how not in UNKEPT and not book.forgets):
                raise Violation(f"{identifier!r} is told to be unknown, and was confirmed")
