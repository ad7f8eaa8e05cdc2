"""One thing asked of the broker and what became of it. It holds no socket and no clock, and it sends nothing itself."""

from collections.abc import Callable
from typing import Any

from zclient.errors import AnswerTimeout, OutcomeUnknown, ZError
from zclient.protocol import messages as m

PUT, SETTLE, EXTEND, ASK, ORDER = "put", "settle", "extend", "ask", "order"
WORKFLOW = "workflow"
PUBLISH, TAIL = "publish", "tail"
WATCH, CHANGE = "watch", "change"


class Request:
    """What a caller waits for: made by a `Session`, ended once, with a value or an error.

    ``number`` is 0 until the message is first handed to the link; a `WATCH` and a `CHANGE` never have one. ``sent``
    tells whether the message ever left this process: it decides between "not reached" and "outcome unknown". A small
    PUT may travel in a ``carrier`` with others (see `zclient.gathering`), unless it is to be ``alone``.
    """

    __slots__ = (
        "_callbacks",
        "alone",
        "body",
        "carrier",
        "done",
        "error",
        "first_sent_ms",
        "kind",
        "last_sent_ms",
        "number",
        "queued",
        "sends",
        "value",
        "waiters",
    )

    def __init__(self, kind: str, body: tuple[Any, ...]) -> None:
        self.kind = kind
        self.body = body
        self.number = 0
        self.done = False
        self.value: Any = None
        self.error: ZError | None = None
        self.sends = 0
        self.first_sent_ms = 0.0
        self.last_sent_ms = 0.0
        self.queued = False
        self.waiters = 1
        self.alone = False
        self.carrier: Request | None = None
        self._callbacks: list[Callable[[Request], None]] = []

    @property
    def sent(self) -> bool:
        """Whether the message was ever given to a connection; the broker may have acted on it."""
        return self.sends > 0

    @property
    def is_batch(self) -> bool:
        """Whether its number is one that the broker remembers: it then holds ``low`` down until it is answered."""
        return self.kind in (PUT, ORDER, WORKFLOW, PUBLISH)

    def sending(self, now: float) -> None:
        """Its message is handed to the link."""
        if not self.sends:
            self.first_sent_ms = now
        self.sends += 1
        self.last_sent_ms = now

    def unsending(self) -> None:
        """The link did not take it."""
        self.sends -= 1

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for its end."""
        return not self.done

    def on_done(self, callback: Callable[["Request"], None]) -> None:
        """Have ``callback`` called with this request when it ends; at once if it has. It must not raise or block."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def forget(self, callback: Callable[["Request"], None]) -> None:
        """Undo `on_done`; harmless if the callback is not there."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def finish(self, value: Any, error: ZError | None = None) -> None:
        """End it. Only the session calls this; a second end is ignored."""
        if self.done:
            return
        self.done = True
        self.value = value
        self.error = error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def unanswered(self, text: str = "") -> ZError:
        """The error of one that left, and of which nobody knows what became: it names what may be stored."""
        if self.kind is PUT:
            ids = [identifier for group in self.body[0] for identifier in group.ids]
        elif self.kind is WORKFLOW:
            ids = [self.body[0]]
        elif self.kind is PUBLISH:
            ids = [publication.id for publication in self.body[0]]
        else:
            return AnswerTimeout(text)
        return OutcomeUnknown(text, ids=tuple(identifier.decode(errors="replace") for identifier in ids))

    def message(self, low: int) -> m.Message:
        """The message that says it, with ``low`` as it is now. Not for a WATCH, which travels with others."""
        kind = self.kind
        if kind is PUT:
            return m.Put(self.number, low, *self.body)
        if kind is WORKFLOW:
            return m.Workflow(self.number, low, *self.body)
        if kind is SETTLE:
            return m.Settle(self.number, *self.body)
        if kind is ORDER:
            return m.Order(self.number, low, *self.body)
        if kind is ASK:
            return m.Ask(self.number, *self.body)
        if kind is PUBLISH:
            return m.Publish(self.number, low, *self.body)
        if kind is TAIL:
            return m.Tail(self.number, *self.body)
        return m.Extend(self.number, *self.body)


WINDOW = 64
"""Requests on their way at once. What comes meanwhile waits, and small PUTs then leave together; a broker remembers the
numbers of a thousand."""


class Numbers:
    """The numbers of one incarnation: 1, 2, 3, ... in the order in which requests are first handed to the link."""

    def __init__(self) -> None:
        self.next = 1
        self.unanswered: dict[int, Request] = {}
        """Requests that have a number and no answer, oldest first."""
        self._oldest = 1

    @property
    def is_full(self) -> bool:
        """Whether what was never sent has to wait for answers to what was."""
        return len(self.unanswered) >= WINDOW

    def give(self, request: Request) -> None:
        """Number a request that is about to be sent for the first time."""
        request.number = self.next
        self.next += 1
        self.unanswered[request.number] = request

    def take_back(self, request: Request) -> None:
        """Free the number of a request that never left. Called for the newest first, so that no gap is left."""
        if request.number == self.next - 1:
            del self.unanswered[request.number]
            self.next = request.number
            self._oldest = min(self._oldest, request.number)
            request.number = 0

    def low(self, number: int) -> int:
        """The oldest number of an unanswered batch, or ``number``. Each number is stepped over once."""
        low = self._oldest
        unanswered = self.unanswered
        while low < number:
            request = unanswered.get(low)
            if request is not None and request.is_batch:
                break
            low += 1
        self._oldest = low
        return low
