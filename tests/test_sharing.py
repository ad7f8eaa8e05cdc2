"""Which files begin first, and how many processes share them."""

from pathlib import Path
from typing import NamedTuple

from tests.sharing import FOLDER, LONGEST_FIRST, MOST, ordered, processes, usable_processors


class Item(NamedTuple):
    path: Path
    name: str


def test_every_file_that_is_named_is_there() -> None:
    assert [name for name in LONGEST_FIRST if not (FOLDER / name).is_file()] == []
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)


def test_long_files_first_and_nothing_else_moves() -> None:
    first, second = (FOLDER / name for name in LONGEST_FIRST[:2])
    other, last = FOLDER / "cli" / "test_verbs.py", FOLDER / "worker" / "test_streams.py"
    items = [Item(path, name) for path in (other, second, last, first) for name in ("b", "a")]
    assert ordered(items) == [Item(path, name) for path in (first, second, other, last) for name in ("b", "a")]


def test_more_processes_than_processors_and_not_too_many() -> None:
    assert [processes(number) for number in (1, 2, 64)] == [2, 3, MOST]
    assert usable_processors() >= 1
    assert len(LONGEST_FIRST) >= MOST
