"""Bytes read as choices, so that a fuzzer that changes bytes changes what happens. Without bytes, the first choice.

It knows nothing of messages; the same bytes always make the same choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

NUMBERS = (0, 1, 2, 3, 255, 1 << 31, (1 << 32) + 1, (1 << 53) - 1, 1 << 53, (1 << 64) - 1, -1, -(1 << 63))
TEXTS = (
    "",
    "q",
    "r",
    "news",
    "a.b",
    "*",
    "#",
    "x" * 300,
    "\0",
    "q\0",
    "ü",
    "id",
    "10/1m",
    "self",
    "text",
    "values",
    "retry_after_ms",
    "reason",
)
BYTES = (b"", b"a", b"b", b"c", b"\0", b"\xff" * 70, b"x" * 70_000, b"0123456789abcdef", b"\xc0")
OTHERS: tuple[Any, ...] = (None, True, False, 0.5, -1.5, float("inf"), float("nan"))


class Choices:
    """What the bytes say, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def below(self, bound: int) -> int:
        """A number from 0 to bound - 1, of one byte; bound is at most 256."""
        if not self.left:
            return 0
        self._at += 1
        return self._data[self._at - 1] % bound

    def one_of(self, things: Sequence[T]) -> T:
        return things[self.below(len(things))]

    def take(self, most: int) -> bytes:
        """Some of the bytes themselves."""
        start, self._at = self._at, min(len(self._data), self._at + self.below(most + 1) + 1)
        return self._data[start + 1 : self._at]

    def value(self, depth: int = 3) -> Any:
        """Whatever msgpack can carry."""
        kind = self.below(7 if depth else 5)
        if kind == 0:
            return self.one_of(NUMBERS)
        if kind == 1:
            return self.one_of(TEXTS)
        if kind == 2:
            return self.one_of(BYTES)
        if kind == 3:
            return self.one_of(OTHERS)
        if kind == 4:
            return self.take(20)
        if kind == 5:
            return [self.value(depth - 1) for _ in range(self.below(4))]
        return {self.key(): self.value(depth - 1) for _ in range(self.below(4))}

    def key(self) -> Any:
        return self.one_of((*TEXTS, *NUMBERS[:4], b"a", None))

    def changed(self, value: Any, chance: int = 12) -> Any:
        """The value, with about one of ``chance`` of its parts being another, missing or twice there."""
        if self.below(chance) == 1:
            return self.value()
        if isinstance(value, list | tuple):
            return self.changed_list(value, chance)
        if isinstance(value, dict):
            changed = {key: self.changed(part, chance) for key, part in value.items()}
            if self.below(4 * chance) == 1:
                changed[self.key()] = self.value()
            return changed
        return value

    def changed_list(self, value: Sequence[Any], chance: int = 12) -> list[Any]:
        """The same of a list that stays one."""
        parts = [self.changed(part, chance) for part in value]
        what = self.below(4 * chance)
        if parts and what == 1:
            del parts[self.below(len(parts))]
        elif parts and what == 2:
            parts.append(self.one_of(parts))
        return parts
