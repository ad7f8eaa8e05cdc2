"""``python -m benchmarks.matching``: what it costs to find who takes a publication, among many bindings, or bad ones.

It measures the tree of patterns alone (`zbroker.core.matching`), without a broker: microseconds for one publication,
the first time that its topic comes and once its place is known, and what the naive way costs, a regular expression for
each binding. Medians of several rounds.
"""

import argparse
import re
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

from zbroker.core.matching import Patterns
from zclient.protocol.limits import MAX_OPEN_WORDS, MAX_TOPIC_WORDS

Bound = tuple[str, list[list[Any]]]
"""A pattern and its filters."""


def plain(number: int) -> Iterable[Bound]:
    """Topics as they are: a place in a hierarchy, one word left open."""
    return ((f"shop{n % 100}.orders.{n // 100}.*", []) for n in range(number))


def open_ended(number: int) -> Iterable[Bound]:
    """`#` in front and behind: each word of the topic has to be looked for."""
    return ((f"#.orders.{n}.#", []) for n in range(number))


def filtered(number: int) -> Iterable[Bound]:
    """One pattern for all, told apart by a header."""
    return (("shop7.#", [["tenant", "=", n], ["amount", ">", 5]]) for n in range(number))


def malicious(number: int) -> Iterable[Bound]:
    """As many ways through the topic as there may be, and none to the end."""
    return ((".".join([*["#", "a"] * MAX_OPEN_WORDS, f"b{n}"]), []) for n in range(number))


CASES: dict[str, tuple[Callable[[int], Iterable[Bound]], str, dict[str, Any]]] = {
    "plain": (plain, "shop7.orders.42.created", {}),
    "open ended": (open_ended, "eu.orders.42.created", {}),
    "filtered": (filtered, "shop7.orders.42.created", {"tenant": 42, "amount": 6}),
    "malicious": (malicious, ".".join(["a"] * MAX_TOPIC_WORDS), {}),
}


def median_us(rounds: int, run: Callable[[], Any]) -> float:
    """The median of what a run takes, in microseconds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        run()
        taken.append((time.perf_counter_ns() - began) / 1000)
    return statistics.median(taken)


def expression(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression over a topic with a dot behind each word."""
    words = {"*": r"[^.]+\.", "#": r"(?:[^.]+\.)*"}
    return re.compile("".join(words.get(word, re.escape(word) + r"\.") for word in pattern.split(".")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matching", description=__doc__)
    parser.add_argument("--bindings", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=200)
    chosen = parser.parse_args()
    print(f"{chosen.bindings:,} bindings, medians of {chosen.rounds} rounds\n")
    print(f"{'bindings':<12} {'found':>6} {'first, us':>10} {'known, us':>10} {'naive, us':>12} {'bytes each':>11}")
    for name, (bind, topic, headers) in CASES.items():
        tracemalloc.start()
        patterns: Patterns[int] = Patterns()
        for n, (pattern, filters) in enumerate(bind(chosen.bindings)):
            patterns.add(pattern, n, filters)
        size = tracemalloc.get_traced_memory()[0] / chosen.bindings
        tracemalloc.stop()

        def first(patterns: Patterns[int] = patterns, topic: str = topic, headers: dict[str, Any] = headers) -> None:
            patterns._forget_known()
            patterns.find(topic, headers)

        def known(patterns: Patterns[int] = patterns, topic: str = topic, headers: dict[str, Any] = headers) -> None:
            patterns.find(topic, headers)

        cells = [median_us(chosen.rounds, first), median_us(chosen.rounds, known)]
        naive = "-"  # the expressions of the malicious ones would take years
        if name != "malicious":
            several = [expression(pattern) for pattern, _ in bind(chosen.bindings)]
            dotted = topic + "."
            naive = f"{median_us(3, lambda e=several, d=dotted: [one.fullmatch(d) for one in e]):,.0f}"
        found = len(patterns.find(topic, headers))
        print(f"{name:<12} {found:>6} {cells[0]:>10.1f} {cells[1]:>10.1f} {naive:>12} {size:>11,.0f}")


if __name__ == "__main__":
    main()
