"""``python -m tests.mutants``: plant each bug of the catalogue, and see that the suite catches it, and by which test.

First the same tests run without a bug: what fails then would catch nothing. Exit code 1 if a mutant survives, 2 if one
has no verdict.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.trial import Verdict, copy_to, run_tests, try_mutant

T = TypeVar("T")


def chosen(names: str) -> list[Mutant]:
    """The mutants whose names have one of these texts in them, which commas separate; all without a text. ValueError
    for a text that none has."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [text for text in wanted if not any(text in mutant.name for mutant in MUTANTS)]
    if unknown:
        raise ValueError(f"no mutant is called {', '.join(unknown)}; --list names them")
    return [mutant for mutant in MUTANTS if not wanted or any(text in mutant.name for text in wanted)]


def in_copies(copies: Sequence[Path], work: Sequence[T], act: Callable[[Path, T], Verdict]) -> list[Verdict]:
    """Act on each piece of work in a copy that is free, as many at once as there are copies."""
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(piece: T) -> Verdict:
        copy = free.get()
        try:
            return act(copy, piece)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, work))


def tell(verdict: Verdict) -> Verdict:
    print(verdict, flush=True)
    if verdict.fault:
        print(verdict.output, flush=True)
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Planted bugs, and what catches them.")
    parser.add_argument("--names", default="", help="texts of names, separated by commas (all)")
    parser.add_argument("--at-once", type=int, default=min(2, os.cpu_count() or 1), help="trials at once")
    parser.add_argument("--list", action="store_true", help="print them as docs/testing.md has them, and end")
    arguments = parser.parse_args()
    try:
        mutants = chosen(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for mutant in mutants:
            print(mutant.row)
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zbroker-mutants-") as folder:
        copies = [copy_to(Path(folder, str(n))) for n in range(max(1, arguments.at_once))]
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.caught_by))
        parts = [part for n in range(len(copies)) if (part := tests[n :: len(copies)])]
        sound = in_copies(copies, parts, lambda copy, part: run_tests(copy, "no mutant", part, 1800.0))
        for verdict in sound:
            if verdict.caught_by or verdict.fault:
                print(f"without a mutant the tests do not pass:\n{verdict.output}")
                return 2
        print(f"without a mutant {len(tests)} tests pass, in {time.monotonic() - started:.0f} s", flush=True)
        verdicts = in_copies(copies, mutants, lambda copy, mutant: tell(try_mutant(copy, mutant)))
    survived = [verdict.name for verdict in verdicts if not verdict.caught_by and not verdict.fault]
    undecided = [verdict.name for verdict in verdicts if verdict.fault]
    print(
        f"{len(verdicts) - len(survived) - len(undecided)} of {len(verdicts)} mutants are caught, "
        f"in {time.monotonic() - started:.0f} s"
    )
    for told, names in (("survived", survived), ("no verdict", undecided)):
        if names:
            print(f"{told}: {', '.join(names)}")
    return 2 if undecided else 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
