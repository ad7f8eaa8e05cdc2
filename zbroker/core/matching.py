"""Which patterns take a topic, and which filters take headers. Pure: it knows no broker and no row.

The patterns are a tree of words. A walk keeps a place in the tree and a place in the topic, and never takes the same
pair twice, so the worst patterns cost what there are of both, not what there are of ways through them. Where many
filters of one pattern ask what a header equals, they are found by its value, not tried one after the other.

Values compare as people write them. A test with a number takes a number of the same value, whole or not, and a text
that is one (`10`, `"10.0"`); with a boolean likewise `true` and `"true"`; with a text, that text only. A boolean is no
number.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from zbroker import limits

K = TypeVar("K", bound=Hashable)
Headers = Mapping[str, Any]
Test = Callable[[Headers], bool]

_NUMBER = re.compile(r"[+-]?(\d{1,40}|\d+\.\d+|\d+(\.\d+)?[eE][+-]?\d{1,3})", re.ASCII)


class TooManyMatches(Exception):
    """More of the tree belongs to a topic than may be looked at for one publication."""


# ---- filters


def number_of(value: Any) -> int | float | None:
    """The number that a header is, or is the text of; None if it is none."""
    kind = type(value)
    if kind is int or kind is float:
        return None if value != value else value
    if kind is str and len(value) <= limits.NUMBER_CHARS and (match := _NUMBER.fullmatch(value)):
        number = int(value) if match[1].isdigit() else float(value)
        return number if math.isfinite(number) else None
    return None


def faces(value: Any) -> list[Hashable]:
    """All that a header equals, in one form each: a text its text, a number its value, a boolean apart from both."""
    if type(value) is bool:
        return [(value,)]
    found: list[Hashable] = [value] if type(value) is str else []
    number = number_of(value)
    if number is not None:
        found.append(number)
    elif value == "true" or value == "false":
        found.append((value == "true",))
    return found


def _face(value: Any) -> Hashable:
    """What a test asks a header to equal, in the same form."""
    return (value,) if type(value) is bool else value


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda number, bound: number < bound,
    "<=": lambda number, bound: number <= bound,
    ">": lambda number, bound: number > bound,
    ">=": lambda number, bound: number >= bound,
}


def compiled_test(name: str, test: str, value: Any) -> Test:
    """One test of a filter as a function of headers."""
    if test == "exists":
        return lambda headers: name in headers
    if test == "absent":
        return lambda headers: name not in headers
    if test == "^=":
        return lambda headers: type(headers.get(name)) is str and headers[name].startswith(value)
    if test in _COMPARE:
        compare = _COMPARE[test]

        def compares(headers: Headers) -> bool:
            number = number_of(headers.get(name))
            return number is not None and compare(number, value)

        return compares
    wanted = frozenset(map(_face, value if test == "in" else [value]))
    return lambda headers: name in headers and not wanted.isdisjoint(faces(headers[name]))


def compiled(filters: Iterable[Sequence[Any]]) -> tuple[Test, ...]:
    """The tests of a filter."""
    return tuple(compiled_test(*one) for one in filters)


def passes(tests: Iterable[Test], headers: Headers) -> bool:
    """Whether all of them hold."""
    return all(test(headers) for test in tests)


# ---- patterns


class _Entries(Generic[K]):
    """What ends at one node: those whose filter asks for a header's value by that value, the others in a row."""

    __slots__ = ("by_value", "others", "places")

    def __init__(self) -> None:
        self.others: dict[K, tuple[Test, ...]] = {}
        self.by_value: dict[str, dict[Hashable, dict[K, tuple[Test, ...]]]] = {}
        self.places: dict[K, tuple[str, list[Hashable]] | None] = {}

    def add(self, key: K, filters: Sequence[Sequence[Any]]) -> None:
        self.remove(key)
        for n, (name, test, value) in enumerate(filters):
            if test in ("=", "in"):
                rest = compiled([*filters[:n], *filters[n + 1 :]])
                wanted = list(map(_face, value if test == "in" else [value]))
                self.places[key] = name, wanted
                values = self.by_value.setdefault(name, {})
                for face in wanted:
                    values.setdefault(face, {})[key] = rest
                return
        self.places[key] = None
        self.others[key] = compiled(filters)

    def remove(self, key: K) -> None:
        if key not in self.places:
            return
        place = self.places.pop(key)
        if place is None:
            del self.others[key]
            return
        name, wanted = place
        values = self.by_value[name]
        for face in wanted:
            if face in values:  # the same value may be named twice
                values[face].pop(key, None)
                if not values[face]:
                    del values[face]
        if not values:
            del self.by_value[name]

    def find(self, headers: Headers, found: dict[K, None]) -> int:
        """Add the keys whose filter takes the headers; how many were looked at."""
        looked = len(self.others) + len(self.by_value)
        for key, tests in self.others.items():
            if not tests or passes(tests, headers):
                found[key] = None
        for name, values in self.by_value.items():
            if name in headers:
                for face in faces(headers[name]):
                    chosen = values.get(face)
                    if chosen:
                        looked += len(chosen)
                        for key, tests in chosen.items():
                            if not tests or passes(tests, headers):
                                found[key] = None
        return looked


class _Node(Generic[K]):
    """A word in the tree; ``is_open`` if it is ``#``, ``is_shared`` if several ways through a topic may lead there."""

    __slots__ = ("entries", "following", "is_open", "is_shared")

    def __init__(self, *, is_open: bool = False, is_shared: bool = False) -> None:
        self.following: dict[str, _Node[K]] = {}  # by word; `*` and `#` are no words of a topic
        self.entries: _Entries[K] | None = None
        self.is_open = is_open
        self.is_shared = is_shared


class Patterns(Generic[K]):
    """Patterns with filters, each under a key of its owner's; one key once a pattern."""

    def __init__(self) -> None:
        self._root: _Node[K] = _Node()
        self._known: dict[str, list[_Entries[K]]] = {}  # topic -> what ends where it does
        self._known_entries = 0
        self.size = 0
        self.looked = 0
        """Filters that all `find` looked at so far."""

    def add(self, pattern: str, key: K, filters: Sequence[Sequence[Any]] = ()) -> None:
        """Add a pattern, or give it another filter."""
        node = self._root
        for word in pattern.split("."):
            following = node.following.get(word)
            if following is None:
                is_open = word == "#"
                following = node.following[word] = _Node(is_open=is_open, is_shared=is_open or node.is_shared)
                self._forget_known()
            node = following
        if node.entries is None:
            node.entries = _Entries()
            self._forget_known()
        self.size += key not in node.entries.places
        node.entries.add(key, filters)

    def remove(self, pattern: str, key: K) -> None:
        """Take a pattern out again; nothing if it is not there."""
        path = [self._root]
        words = pattern.split(".")
        for word in words:
            following = path[-1].following.get(word)
            if following is None:
                return
            path.append(following)
        node = path[-1]
        if node.entries is None or key not in node.entries.places:
            return
        node.entries.remove(key)
        self.size -= 1
        if not node.entries.places:
            node.entries = None
            self._forget_known()
        for before, word in zip(reversed(path[:-1]), reversed(words), strict=True):
            left = before.following[word]
            if left.following or left.entries is not None:
                break
            del before.following[word]

    def find(self, topic: str, headers: Headers) -> dict[K, None]:
        """The keys whose pattern takes the topic, and whose filter the headers, each once.

        Raises `TooManyMatches` if more of them end there than may be looked at.
        """
        known = self._known.get(topic)
        if known is None:
            known = self._walk(topic)
            if len(self._known) >= limits.KNOWN_TOPICS or self._known_entries > limits.MATCH_STEPS:
                self._forget_known()
            self._known[topic] = known
            self._known_entries += len(known)
        found: dict[K, None] = {}
        looked = 0
        for entries in known:
            looked += entries.find(headers, found)
            if looked > limits.MATCH_STEPS:
                raise TooManyMatches
        self.looked += looked
        return found

    def _forget_known(self) -> None:
        self._known.clear()
        self._known_entries = 0

    def _walk(self, topic: str) -> list[_Entries[K]]:
        words = topic.split(".")
        end = len(words)
        found: list[_Entries[K]] = []
        taken: set[tuple[int, int]] = set()
        left = [(self._root, 0)]
        steps = 0
        while left:
            node, at = left.pop()
            if node.is_shared:
                pair = id(node), at
                if pair in taken:
                    continue
                taken.add(pair)
            steps += 1
            if steps > limits.MATCH_STEPS:
                raise TooManyMatches
            following = node.following
            if "#" in following:
                left.append((following["#"], at))
            if at == end:
                if node.entries is not None:
                    found.append(node.entries)
                continue
            if node.is_open:
                left.append((node, at + 1))
            if words[at] in following:
                left.append((following[words[at]], at + 1))
            if "*" in following:
                left.append((following["*"], at + 1))
        return found


def overlap(one: str, other: str) -> bool:
    """Whether some topic is taken by both patterns."""
    first, second = one.split("."), other.split(".")
    taken: set[tuple[int, int]] = set()
    left = [(0, 0)]
    while left:
        pair = left.pop()
        if pair in taken:
            continue
        taken.add(pair)
        n, k = pair
        if n == len(first) and k == len(second):
            return True
        a = first[n] if n < len(first) else None
        b = second[k] if k < len(second) else None
        if a == "#":
            left.append((n + 1, k))
            if b is not None:
                left.append((n, k + 1))
        if b == "#":
            left.append((n, k + 1))
            if a is not None:
                left.append((n + 1, k))
        if a is not None and b is not None and (a == b or "*" in (a, b)) and "#" not in (a, b):
            left.append((n + 1, k + 1))
    return False
