"""How `make test` shares the files of tests among several processes: how many, and which files begin first.

A file runs in one process, from its first test to its last (pytest-xdist, `--dist loadfile`): what its tests share is
made once, and their order is the same every time. It owns no test, and changes nothing where there is one process.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

FOLDER = Path(__file__).parent

LONGEST_FIRST = (
    "soak/test_soak.py",
    "core/test_model_options.py",
    "simulation/test_simulation.py",
    "test_benchmarks.py",
    "system/test_interruptions.py",
    "hosts/test_links.py",
    "core/test_model.py",
    "examples/test_examples.py",
    "system/test_hostile.py",
    "system/test_limits.py",
    "storage/test_model.py",
    "system/test_backlog.py",
    "system/test_liveness.py",
    "chaos/test_chaos.py",
    "kill_loop/test_kill_loop.py",
)
"""The files that take longest are begun first, so that no process is left alone with one at the end."""

MOST = 9
"""So many processes have long files to begin with; more would each import everything for little."""


class Item(Protocol):
    """A test, as pytest has it."""

    path: Path


T = TypeVar("T", bound=Item)


def processes(processors: int) -> int:
    """One more than there are processors: tests wait much of their time."""
    return min(processors + 1, MOST)


def usable_processors() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))


def ordered(items: Iterable[T]) -> list[T]:
    """The long files first; all others, and the tests of each file, as they came."""
    place = {FOLDER / name: number for number, name in enumerate(LONGEST_FIRST)}
    return sorted(items, key=lambda item: place.get(item.path, len(place)))
