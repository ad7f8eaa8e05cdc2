"""What the core knows of topics between two messages: bindings, kept topics, tails, each by their patterns.

Memory holds no publication. The functions that change it stand in `bindings`, `publish`, `kept` and `tails`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zbroker.core import rows
from zbroker.core.matching import Patterns
from zbroker.core.refusal import Refusal
from zclient.protocol import limits as wire
from zclient.protocol.topics import filters_fault, pattern_fault

if TYPE_CHECKING:
    from zbroker.core.entities import Peer
    from zbroker.core.state import State


def pattern_of(arguments: Mapping[str, Any]) -> str:
    """The pattern among arguments; `Refusal` if it cannot be one."""
    pattern = arguments.get("pattern")
    fault = pattern_fault(pattern)
    if fault:
        raise Refusal("invalid", fault)
    return str(pattern)


def filters_of(filters: Any) -> list[list[Any]]:
    """The filters, if they can be; `Refusal` otherwise."""
    fault = filters_fault(filters)
    if fault:
        raise Refusal("invalid", fault)
    if len(rows.pack(filters)) > wire.MAX_HEADERS_BYTES:
        raise Refusal("too_large", f"filters take at most {wire.MAX_HEADERS_BYTES} bytes, encoded")
    return list(filters)


class Kept:
    """A kept topic, with its row as it is written at the end of the tick."""

    __slots__ = ("pattern", "row")

    def __init__(self, pattern: str, row: rows.KeptRow) -> None:
        self.pattern = pattern
        self.row = row


class Tail:
    """One who follows a pattern, on one connection."""

    __slots__ = ("allowed_octets", "number", "octets", "pattern", "peer", "position", "until")

    def __init__(self, peer: "Peer", number: int, pattern: str) -> None:
        self.peer = peer
        self.number = number  # the peer's name for it
        self.pattern = pattern
        self.position = 0  # publications that it took so far, told or not
        self.octets = 0  # of those that were told
        self.until = 0  # they are told up to this position
        self.allowed_octets = 0  # and until they were so many octets


class Topics:
    """All of it."""

    def __init__(self) -> None:
        self.bindings: Patterns[str] = Patterns()  # the keys are the names of queues
        self.kept: Patterns[Kept] = Patterns()
        self.kept_by_pattern: dict[str, Kept] = {}
        self.kept_by_number: dict[int, Kept] = {}
        self.touched: dict[Kept, None] = {}  # whose rows this tick must write
        self.tails: Patterns[Tail] = Patterns()
        self.next_offset = 1  # of the next publication that is kept
        self.removed = 0  # the offset that the last `forget_topic` took; 0: there was none


def load_binding(state: "State", pattern: str, queue: str) -> rows.BindingRow | None:
    """The binding of a queue to a pattern, if there is one."""
    value = state.view.get("topics", rows.binding_key(pattern, queue))
    return rows.BindingRow(*rows.unpack(value)) if value is not None else None


def save_binding(state: "State", pattern: str, queue: str, row: rows.BindingRow | None) -> None:
    """Write it, or None to take it away."""
    state.tick.rows["topics"][rows.binding_key(pattern, queue)] = rows.pack(row) if row is not None else None
