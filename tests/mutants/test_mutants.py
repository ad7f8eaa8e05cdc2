"""The catalogue fits the code, the page tells it, and the runner tells a bug that is caught from one that is not."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.__main__ import chosen
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.trial import ROOT, copy_to, run_tests, try_mutant
from tests.test_docs import table

QUICK = ("lease off by one", "low forgets one number too many")
"""Those that are tried here for real; `make mutants` tries all."""


@cache
def named_in(file: str) -> set[str]:
    """The tests of a file, as their ids name them: functions, and methods behind their class."""
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    methods = [(kind.name, node) for kind in body if isinstance(kind, ast.ClassDef) for node in kind.body]
    return {node.name for node in body if isinstance(node, ast.FunctionDef)} | {
        f"{kind}::{node.name}" for kind, node in methods if isinstance(node, ast.FunctionDef)
    }


@cache
def code_of(file: str) -> str:
    """A module without its comments and its form."""
    return ast.dump(ast.parse((ROOT / file).read_text(encoding="utf-8")))


def quick() -> list[Mutant]:
    return [mutant for mutant in MUTANTS if mutant.name in QUICK]


def test_every_mutant_applies_and_compiles_to_something_else() -> None:
    for mutant in MUTANTS:
        assert ast.dump(ast.parse(mutant.source(ROOT))) != code_of(mutant.file), mutant.name


def test_every_mutant_names_tests_that_are_there() -> None:
    for mutant in MUTANTS:
        assert mutant.caught_by, mutant.name
        for test in mutant.caught_by:
            file, _, name = test.partition("::")
            assert name in named_in(file), f"{mutant.name}: {test}"


def test_names_are_of_one_mutant_each() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert [mutant.name for mutant in chosen("skip the fence, credit")] == ["skip the fence", "credit leak"]
    with pytest.raises(ValueError, match="nobody"):
        chosen("skip the fence, nobody")


def test_the_page_tells_every_mutant_and_what_catches_it() -> None:
    told = ["| " + " | ".join(row) + " |" for row in table("testing.md", "Planted bugs")]
    assert told == [mutant.row for mutant in MUTANTS]


def test_a_text_that_is_gone_or_stands_twice_is_refused() -> None:
    (mutant, _) = quick()
    for text in ("a text that is nowhere", "delivery"):
        with pytest.raises(ValueError, match=f"{mutant.file} has [0-9]+ times, and not 1: '{text}'"):
            mutant._replace(text=text).source(ROOT)


def test_a_bug_is_caught_and_what_changes_nothing_survives(tmp_path: Path) -> None:
    copy = copy_to(tmp_path)
    every = tuple(test for mutant in quick() for test in mutant.caught_by)
    same = Mutant("same", "", "zbroker/core/keys.py", "FORGET_KEYS = 1024", "FORGET_KEYS = 1 << 10", every)
    verdict = try_mutant(copy, same)
    assert (verdict.caught_by, verdict.fault) == ("", ""), verdict.output
    assert str(verdict).startswith("SURVIVED    same: ")
    for mutant in quick():
        sound = (copy / mutant.file).read_text(encoding="utf-8")
        verdict = try_mutant(copy, mutant)
        assert verdict.caught_by in mutant.caught_by, verdict.output
        assert str(verdict).startswith(f"caught      {mutant.name}: by {verdict.caught_by} in ")
        assert (copy / mutant.file).read_text(encoding="utf-8") == sound


def test_tests_that_do_not_run_or_do_not_end_give_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import threading\n\ndef test_it():\n    threading.Event().wait()\n")
    missing = run_tests(tmp_path, "missing", ["test_it.py::test_nothing"])
    assert (missing.caught_by, missing.fault) == ("", "pytest ended with 4")
    endless = run_tests(tmp_path, "endless", ["test_it.py"], within_s=1.0)
    assert (endless.caught_by, endless.fault) == ("", "no end within 1 s")
    assert str(endless).startswith("NO VERDICT  endless: no end")
