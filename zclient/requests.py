"""One thing asked of the broker and what became of it. It holds no socket and no clock, and it sends nothing itself."""

from collections import deque
from collections.abc import Callable
from typing import Any

from zclient.errors import AnswerTimeout, OutcomeUnknown, ZError
from zclient.protocol import limits
from zclient.protocol import messages as m

PUT, SETTLE, EXTEND, ASK, ORDER = "put", "settle", "extend", "ask", "order"
WORKFLOW = "workflow"
PUBLISH, TAIL = "publish", "tail"
WATCH, CHANGE = "watch", "change"


class Request:
    """What a caller waits for: made by a `Session`, ended once, with a value or an error.

    ``number`` is 0 until the message is first handed to the link; a `WATCH` and a `CHANGE` never have one. ``sent``
    tells whether the message ever left this process: it decides between "not reached" and "outcome unknown".
    """

    __slots__ = (
        "_callbacks",
        "body",
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
        self._callbacks: list[Callable[[Request], None]] = []

    @property
    def sent(self) -> bool:
        """Whether the message was ever given to a connection; the broker may have acted on it."""
        return self.sends > 0

    @property
    def is_batch(self) -> bool:
        """Whether its number is one that the broker remembers: it then holds ``low`` down until it is answered."""
        return self.kind in (PUT, ORDER, WORKFLOW, PUBLISH)

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


class Numbers:
    """The numbers of one incarnation: 1, 2, 3, ... in the order in which requests are first handed to the link."""

    def __init__(self) -> None:
        self.next = 1
        self.unanswered: dict[int, Request] = {}
        """Requests that have a number and no answer, oldest first."""
        self.kept_back: deque[Request] = deque()
        """Batches without a number, since the broker would not remember one more. All that waits is younger."""
        self._oldest = 1

    def next_of(self, waiting: deque[Request]) -> Request | None:
        """The next one to be sent, with its number: of those kept back, then of ``waiting``; None if none may be."""
        kept_back = self.kept_back
        while True:
            if kept_back and not self.full:
                request = kept_back.popleft()
            elif waiting:
                request = waiting.popleft()
            else:
                return None
            if request.done:
                continue
            if not request.number:
                if self.full and request.is_batch:
                    kept_back.append(request)
                    continue
                self.give(request)
            request.queued = False
            return request

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

    @property
    def full(self) -> bool:
        """Whether one more batch would be more than the broker remembers."""
        most = limits.MAX_OPEN_BATCHES
        return self.next - self._oldest >= most and self.next - self.low(self.next) >= most

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
