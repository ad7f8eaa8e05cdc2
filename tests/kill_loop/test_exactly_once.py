"""The pattern of docs/exactly-once.md: the page shows the example's code, and the code keeps what the page says."""

import itertools
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "exactly_once"
PAGE = (ROOT / "docs" / "exactly-once.md").read_text(encoding="utf-8")

OPENERS = 8


@pytest.fixture(scope="module")
def once() -> Iterator[Any]:
    """The example's module. It is a program of its own, so its folder is where it finds its parts."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        import once

        yield once
    finally:
        sys.path.remove(str(EXAMPLE))
        sys.modules.pop("once", None)


class Runs:
    """Runs of one job, each with a fence; every effect that happened."""

    def __init__(self, once: Any, database: sqlite3.Connection) -> None:
        self._once = once
        self._database = database
        database.execute("CREATE TABLE entries (fence INTEGER)")

    def begin(self, fence: int) -> str:
        return self._told(lambda: self._once.begin(self._database, SimpleNamespace(id="job", fence=fence)))

    def end(self, fence: int, *, fails: bool = False) -> str:
        def effect() -> int:
            self._database.execute("INSERT INTO entries VALUES (?)", (fence,))
            if fails:
                raise RuntimeError("in the middle of it")
            return fence

        return self._told(lambda: self._once.once(self._database, SimpleNamespace(id="job", fence=fence), effect))

    def _told(self, step: Any) -> str:
        try:
            return str(step())
        except self._once.Superseded:
            return "superseded"
        except RuntimeError:
            return "failed"

    @property
    def effects(self) -> list[int]:
        return [fence for (fence,) in self._database.execute("SELECT fence FROM entries")]


@pytest.fixture
def runs(once: Any, tmp_path: Path) -> Iterator[Runs]:
    with closing(once.connect(str(tmp_path / "bank.sqlite"))) as database:
        yield Runs(once, database)


def test_a_repeated_run_gets_the_first_result(runs: Runs) -> None:
    assert [runs.end(1), runs.end(2), runs.begin(3), runs.end(3)] == ["1", "1", "False", "1"]
    assert runs.effects == [1]


def test_an_older_run_writes_nothing_once_a_newer_one_began(runs: Runs) -> None:
    assert [runs.begin(1), runs.begin(2)] == ["True", "True"]
    assert runs.end(1) == "superseded"
    assert runs.effects == []
    assert runs.end(2) == "2"
    assert runs.end(1) == "2"  # late, and harmless: it learns what was done
    assert runs.effects == [2]


def test_half_an_effect_is_none(runs: Runs) -> None:
    assert runs.end(1, fails=True) == "failed"
    assert runs.effects == []
    assert [runs.end(1), runs.effects] == ["1", [1]]  # the same delivery may try again


def test_a_commit_that_fails_leaves_no_transaction_open(once: Any, tmp_path: Path) -> None:
    with closing(once.connect(str(tmp_path / "bank.sqlite"))) as database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY)")
        late = "REFERENCES accounts DEFERRABLE INITIALLY DEFERRED"  # is looked at by COMMIT
        database.execute(f"CREATE TABLE entries (account TEXT {late})")
        with pytest.raises(sqlite3.IntegrityError), once.transaction(database):
            database.execute("INSERT INTO entries VALUES ('nobody')")
        with once.transaction(database):
            database.execute("INSERT INTO accounts VALUES ('ada')")


def test_an_error_that_rolled_back_is_the_one_that_is_raised(once: Any, tmp_path: Path) -> None:
    with closing(once.connect(str(tmp_path / "bank.sqlite"))) as database:
        database.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY)")
        database.execute("INSERT INTO accounts VALUES ('ada')")
        with pytest.raises(sqlite3.IntegrityError, match=r"accounts\.name"), once.transaction(database):
            database.execute("INSERT OR ROLLBACK INTO accounts VALUES ('ada')")


def test_many_may_open_a_new_database_at_once(once: Any, tmp_path: Path) -> None:
    """The switch to a write-ahead log fails at once where another one is at it: SQLite's timeout is not for it."""

    def open_it(path: str) -> str:
        together.wait()
        with closing(once.connect(path)) as database:
            return str(database.execute("PRAGMA journal_mode").fetchone()[0])

    together = threading.Barrier(OPENERS)
    with ThreadPoolExecutor(OPENERS) as threads:
        for number in range(50):
            assert set(threads.map(open_it, [str(tmp_path / f"{number}.sqlite")] * OPENERS)) == {"wal"}


@pytest.mark.parametrize("order", sorted(set(itertools.permutations((1, 1, 2, 2, 3, 3)))), ids=str)
def test_three_runs_in_any_order(runs: Runs, order: tuple[int, ...]) -> None:
    """Each run begins, and ends later, whatever the others did meanwhile."""
    begun: set[int] = set()
    for fence in order:
        if fence not in begun:
            begun.add(fence)
            runs.begin(fence)
        else:
            before, newest = runs.effects, max(begun)
            told = runs.end(fence)
            if before:
                assert told == str(before[0])
            else:
                assert told == ("superseded" if newest > fence else str(fence))
    assert runs.effects in ([1], [2], [3])


# ---- the page


def test_the_page_shows_the_code_that_runs() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in EXAMPLE.glob("*.py"))
    blocks = re.findall(r"^```(?:python|sql)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    assert [block for block in blocks if block not in code] == []
