"""What is committed together, and the view through which the core reads.

A `Tick` is a map of rows, where the last write wins, some ranges to clear, and the messages that may leave once it is
on disk. A `View` is the open ticks over the store: the core never reads the store past it.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import Any

from zbroker import limits
from zbroker.storage.interface import KEYSPACES, Range, Rows, Store
from zclient.protocol import limits as wire
from zclient.protocol.messages import Finished, Message, Ok

End = tuple[bytes, str, bytes | None, dict[str, Any] | None]
"""One end of a job in FINISHED: id, state, encoded result, cause."""


class Tick:
    """Rows to change and messages to send. Commit order: puts, deletes, ranges; then, durable, the sends."""

    __slots__ = ("_new", "bytes_out", "ends", "number", "oks", "ranges", "rows", "sends", "timers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.rows: Rows = {space: {} for space in KEYSPACES}
        self.ranges: list[Range] = []
        self.sends: list[tuple[bytes, Message]] = []  # (routing id, message), in order
        self.bytes_out = 0  # payloads and results that the sends carry because peers asked for them
        self.oks: dict[bytes, list[int]] = {}  # plain confirmations, one message a peer
        self.ends: dict[bytes, list[End]] = {}  # ends of jobs that peers watch, likewise
        self.timers = 0  # timers written in it
        self._new: set[bytes] = set()

    @property
    def has_rows(self) -> bool:
        return bool(self.ranges) or any(self.rows.values())

    def put_ready(self, key: bytes, value: bytes) -> None:
        """A ready row whose key is not on disk: taken again in the same tick it never gets there."""
        rows = self.rows["ready"]
        if key not in rows:
            self._new.add(key)
        rows[key] = value

    def take_ready(self, key: bytes) -> None:
        rows = self.rows["ready"]
        if key in self._new:
            self._new.discard(key)
            del rows[key]
        else:
            rows[key] = None

    def send(self, route: bytes | None, message: Message) -> None:
        """Send once committed; to nobody if the peer is not connected."""
        if route is not None:
            self.sends.append((route, message))

    def confirm(self, route: bytes, number: int) -> None:
        self.oks.setdefault(route, []).append(number)

    def end(self, route: bytes | None, end: End) -> None:
        if route is not None:
            self.ends.setdefault(route, []).append(end)

    def messages(self) -> list[tuple[bytes, Message]]:
        """All that leaves: confirmations first, since their senders wait for them."""
        if not self.oks and not self.ends:
            return self.sends
        first: list[tuple[bytes, Message]] = [(route, Ok(numbers)) for route, numbers in self.oks.items()]
        for route, ends in self.ends.items():
            first += [(route, Finished(page)) for page in _pages(ends)]
        return first + self.sends

    def clears(self, space: str, key: bytes) -> bool:
        return any(cleared == space and start <= key < stop for cleared, start, stop in self.ranges)


def _pages(ends: list[End]) -> Iterator[list[End]]:
    """The ends in messages of bounded length and size; the result that crosses the size is the last of its message."""
    page: list[End] = []
    size = 0
    for end in ends:
        page.append(end)
        if end[2] is not None:
            size += len(end[2])
        if len(page) >= limits.BLOCK_JOBS or size >= wire.MESSAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


class View:
    """The open ticks over the store."""

    __slots__ = ("_store", "ticks")

    def __init__(self, store: Store) -> None:
        self._store = store
        self.ticks: list[Tick] = []  # oldest first

    def get(self, space: str, key: bytes) -> bytes | None:
        for tick in reversed(self.ticks):
            if tick.ranges and tick.clears(space, key):
                return None
            rows = tick.rows[space]
            if key in rows:
                return rows[key]
        return self._store.get(space, key)

    def get_many(self, space: str, keys: list[bytes]) -> list[bytes | None]:
        values = self._store.get_many(space, keys)
        for tick in self.ticks:
            rows = tick.rows[space]
            if rows and not rows.keys().isdisjoint(keys):
                for position, key in enumerate(keys):
                    if key in rows:
                        values[position] = rows[key]
            if tick.ranges:
                for position, key in enumerate(keys):
                    if tick.clears(space, key):
                        values[position] = None
        return values

    def scan(self, space: str, start: bytes, stop: bytes, *, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with ``start <= key < stop`` in order. Changes while it runs may be missed: take few, ask again."""
        stored = self._store.scan(space, start, stop, backwards=backwards)
        overlay: dict[bytes, bytes | None] = {}
        cleared: list[Callable[[str, bytes], bool]] = []
        for tick in self.ticks:
            overlay.update((key, value) for key, value in tick.rows[space].items() if start <= key < stop)
            if any(range_space == space for range_space, _, _ in tick.ranges):
                cleared.append(tick.clears)
        if not overlay and not cleared:
            return stored
        return self._merged(space, stored, overlay, cleared, backwards)

    @staticmethod
    def _merged(
        space: str,
        stored: Iterator[tuple[bytes, bytes]],
        overlay: dict[bytes, bytes | None],
        cleared: Sequence[Callable[[str, bytes], bool]],
        backwards: bool,
    ) -> Iterator[tuple[bytes, bytes]]:
        kept = ((key, value) for key, value in stored if key not in overlay)
        written = ((key, value) for key, value in sorted(overlay.items(), reverse=backwards) if value is not None)
        for key, value in merge(kept, written, key=lambda row: row[0], reverse=backwards):
            if not any(clears(space, key) for clears in cleared):
                yield key, value
