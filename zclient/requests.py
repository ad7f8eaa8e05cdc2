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
