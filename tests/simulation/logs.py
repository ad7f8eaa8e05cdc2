"""Kept topics as the rows have them: what lies in each log, what may go from it, and what backfills owe their queues.

It reads every write that is there for good, and keeps its own idea of each log. It shares nothing with the core but the
shapes of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tests.simulation.book import Book
from tests.simulation.world import Violation
from zbroker.core import rows
from zbroker.core.rows import BindingRow, KeptRow, LogRow
from zbroker.storage.interface import Range, Rows

LATE_MS = 3_000
"""What is too old or too much is gone so soon, where nothing goes wrong."""


class Entry(NamedTuple):
    """A publication in a log."""

    row: LogRow
    size: int


def takes(pattern: str, filters: Sequence[Sequence[Any]], topic: str, headers: dict[str, Any]) -> bool:
    """Whether a binding or a tail takes a publication. Of filters it knows that a header equals."""
    assert all(test == "=" for _, test, _ in filters)
    return _matches(pattern.split("."), topic.split(".")) and all(
        headers.get(header) == value for header, _, value in filters
    )


def _matches(pattern: list[str], topic: list[str]) -> bool:
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(_matches(pattern[1:], topic[skipped:]) for skipped in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and _matches(pattern[1:], topic[1:])


class Logs:
    """All kept topics of one world."""

    def __init__(self, book: Book) -> None:
        self.kept: dict[str, KeptRow] = {}  # by pattern
        self.ever: dict[int, LogRow] = {}  # all that was kept, by offset
        self.left_ms: dict[int, float] = {}  # when a publication lay in no log any more
        self.gone: set[int] = set()  # offsets of what came and went in one write
        self.forgetting: set[str] = set()  # patterns that somebody wants forgotten
        self._book = book
        self._entries: dict[int, dict[int, Entry]] = {}  # by number of the log, offset
        self._kept_ids: dict[int, set[bytes]] = {}  # publications that were in a log once
        self._unseen: Counter[int] = Counter()  # rows that came and went in one write
        self._bindings: dict[tuple[str, str], BindingRow] = {}
        self._owed: dict[tuple[str, str], dict[bytes, LogRow]] = {}  # what a backfill that goes on is to copy
        book.judges.append(self.write)

    # ---- what others ask

    def keeping(self, topic: str) -> dict[int, int]:
        """The logs that take a topic now, each with how much came and went in it unseen."""
        return {
            row.number: self._unseen[row.number] for pattern, row in self.kept.items() if takes(pattern, [], topic, {})
        }

    def promise(self, publication: bytes, keeping: dict[int, int]) -> None:
        """A producer is told that it is published; these logs took its topic when it was sent."""
        for row in self.kept.values():
            number = row.number
            if keeping.get(number) == self._unseen[number] and publication not in self._kept_ids[number]:
                raise Violation(f"{publication!r} is published, and is not kept in the log {number}")

    def present(self) -> dict[int, LogRow]:
        """What is kept now, by offset."""
        return {offset: entry.row for log in self._entries.values() for offset, entry in log.items()}

    def has_kept(self, publication: bytes) -> bool:
        return any(publication in ids for ids in self._kept_ids.values())

    def are_trimmed(self) -> bool:
        """Whether nothing is kept that is too old or too much."""
        wall = self._book.world.wall
        for row in self.kept.values():
            log = self._entries[row.number].values()
            too_old = row.keep_ms and any(entry.row.at_ms < wall - row.keep_ms - LATE_MS for entry in log)
            if too_old or (row.keep_bytes and sum(entry.size for entry in log) > row.keep_bytes):
                return False
        return True

    # ---- a write

    def write(self, written: Rows, ranges: Sequence[Range]) -> None:
        """A write is there for good; the book has looked at it."""
        changes = written["topics"]
        rules = dict(self.kept)
        for key, value in changes.items():
            if key.startswith(rows.TOPICS_KEPT):
                self._rule(key.removeprefix(rows.TOPICS_KEPT).decode(), value)
        logged = sorted((key for key in changes if key.startswith(rows.TOPICS_LOG)), key=rows.offset_of)
        before = max(self.ever, default=0)
        for key in logged:
            value = changes[key]
            if value is not None:
                self._append(int.from_bytes(key[1:9], "big"), rows.offset_of(key), value, before)
        trimmed = [(int.from_bytes(key[1:9], "big"), rows.offset_of(key)) for key in logged if changes[key] is None]
        passing = [(number, offset) for number, offset in trimmed if offset not in self._entries.get(number, {})]
        self._unseen.update(number for number, _ in passing)
        self.gone.update(offset for _, offset in passing)
        for number, offset in trimmed:
            self._trim(number, offset, rules, {number for number, _ in passing})
        for pattern, row in rules.items():
            if pattern not in self.kept or self.kept[pattern].number != row.number:
                self.left_ms.update(dict.fromkeys(self._entries.pop(row.number), self._book.world.now))
        for pattern, row in self.kept.items():
            log = self._entries[row.number]
            if (row.publications, row.size) != (len(log), sum(entry.size for entry in log.values())):
                raise Violation(f"{pattern} is said to have {row.publications} publications, and has {len(log)}")
        for key, value in changes.items():
            if key.startswith(rows.TOPICS_BINDING):
                self._bound(rows.split_binding_key(key), value)

    def _rule(self, pattern: str, value: bytes | None) -> None:
        if value is None:
            if pattern not in self.forgetting:
                raise Violation(f"{pattern} is kept no longer, and nobody said so")
            self.kept.pop(pattern, None)
            return
        row = KeptRow(*rows.unpack(value))
        self.kept[pattern] = row
        self._entries.setdefault(row.number, {})
        self._kept_ids.setdefault(row.number, set())

    def _append(self, number: int, offset: int, value: bytes, before: int) -> None:
        """One is kept; in the writes before this one the last had that offset."""
        row = LogRow(*rows.unpack(value))
        if number not in self._entries:
            self.gone.add(offset)  # it is forgotten in this very write
            return
        log, ids = self._entries[number], self._kept_ids[number]
        if offset <= before:
            raise Violation(f"the offset {offset} follows {before}")
        if self.ever.setdefault(offset, row) != row:
            raise Violation(f"the offset {offset} is of two publications")
        if any(entry.row.id == row.id for entry in log.values()):
            raise Violation(f"{row.id!r} is kept twice in the log {number}")
        if row.id not in self._book.publications or self._book.publications[row.id]:
            raise Violation(f"{row.id!r} is kept, and must not be: {self._book.publications.get(row.id)}")
        log[offset] = Entry(row, len(value))
        ids.add(row.id)

    def _trim(self, number: int, offset: int, rules: dict[str, KeptRow], unseen: set[int]) -> None:
        """One is forgotten: the oldest of its log, too old or too much by the rule before this write or after it. Of
        the logs ``unseen`` others came and went in the same write."""
        log = self._entries.get(number)
        if log is None or offset not in log:
            return
        if offset != min(log):
            raise Violation(f"{offset} is forgotten in the log {number}, and {min(log)} is older")
        size = sum(entry.size for entry in log.values())
        at_ms = log.pop(offset).row.at_ms
        self.left_ms[offset] = self._book.world.now
        if number in unseen:
            return  # those that came and went in this write were too much, and nobody knows how much they were
        latest_ms = self._book.world.wall - self._book.world.jumped + self._book.world.furthest
        for rule in (*rules.values(), *self.kept.values()):
            is_old = rule.keep_ms and at_ms <= latest_ms - rule.keep_ms
            if rule.number == number and (is_old or (rule.keep_bytes and size > rule.keep_bytes)):
                return
        raise Violation(f"{offset} is forgotten in the log {number} before its time")

    # ---- bindings

    def _bound(self, binding: tuple[str, str], value: bytes | None) -> None:
        """A binding comes, begins a backfill, ends it, or goes."""
        if value is None:
            self._bindings.pop(binding, None)
            self._owed.pop(binding, None)
            return
        row, before = BindingRow(*rows.unpack(value)), self._bindings.get(binding)
        self._bindings[binding] = row
        if before is not None and before.created_ms != row.created_ms:
            self._owed.pop(binding, None)  # it was taken away and made again in one commit
        if row.backfill and (before is None or before.backfill != row.backfill):
            self._owed[binding] = {
                kept.id: kept
                for offset, kept in self.present().items()
                if offset < row.backfill and kept.at_ms >= row.since_ms and self._takes(binding, row, kept)
            }
        elif binding in self._owed:
            owed = self._owed[binding]
            self._owed[binding] = {name: kept for name, kept in owed.items() if self._takes(binding, row, kept)}
            if not row.backfill:
                self._check_backfill(binding, self._owed.pop(binding))

    @staticmethod
    def _takes(binding: tuple[str, str], row: BindingRow, kept: LogRow) -> bool:
        return takes(binding[0], row.filters, kept.topic, kept.options.get("headers", {}))

    def _check_backfill(self, binding: tuple[str, str], owed: dict[bytes, LogRow]) -> None:
        """It is through: the queue got each that is still kept."""
        book, queue = self._book, binding[1]
        present = {row.id for row in self.present().values()}
        missing = [name for name in owed if name in present and (name, queue) not in book.copied]
        if missing and queue not in book.purged:
            raise Violation(f"the backfill of {binding} is over, and {queue} never got {missing}")

    def backfills(self) -> Iterator[str]:
        """Queues for which one goes on."""
        return (queue for _, queue in self._owed)


__all__ = ["Logs", "takes"]
