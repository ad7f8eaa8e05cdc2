"""What the core knows of topics between two messages: bindings, kept topics, tails, each by their patterns.

Memory holds no publication. The functions that change it stand in `bindings`, `publish`, `kept` and `tails`.
"""

from typing import TYPE_CHECKING

from zbroker.core import rows
from zbroker.core.matching import Patterns

if TYPE_CHECKING:
    from zbroker.core.entities import Peer
    from zbroker.core.state import State


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


def load_binding(state: "State", pattern: str, queue: str) -> rows.BindingRow | None:
    """The binding of a queue to a pattern, if there is one."""
    value = state.view.get("topics", rows.binding_key(pattern, queue))
    return rows.BindingRow(*rows.unpack(value)) if value is not None else None


def save_binding(state: "State", pattern: str, queue: str, row: rows.BindingRow | None) -> None:
    """Write it, or None to take it away."""
    state.tick.rows["topics"][rows.binding_key(pattern, queue)] = rows.pack(row) if row is not None else None
