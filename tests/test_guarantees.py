"""Holds docs/guarantees.md to the tests: every line names some, and whatever it names is there.

Whether a test says what its line says no machine can check: who writes a line reads its tests.
"""

import ast
import re
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")

LIMITS = "What is not promised"
"""The section in which a line may be without a test."""

TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
AROUND = re.compile(r"\[[^]]+\]\([^)]+\)|\*\*[^*]+\*\*")
"""What a paragraph that is no line begins with: the pages that tell more, or a heading."""


def sections(page: str) -> dict[str, list[str]]:
    """The blocks under each heading, with its title: paragraphs, and the lines of lists, each as one text."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return {
        title: [" ".join(block.split()) for block in re.split(r"\n\n|\n(?=- )", text.strip())]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@cache
def known_of(path: str) -> frozenset[str]:
    """What pytest can be asked for in a file, as it stands behind the `::`; nothing if there is no such file."""
    if not (ROOT / path).is_file():
        return frozenset()
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and name.id.startswith("Test")}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith(("test_", "Test")))


def faults(page: str) -> list[str]:
    """What is wrong with such a page."""
    told = [f"there is no {path}::{name}" for path, name in TEST.findall(page) if name not in known_of(path)]
    left = TEST.sub("", re.sub(r'ARGS="[^"]*"', "", page))
    told += [f"no test, but a file: {mention}" for mention in re.findall(r"tests/\S+", left)]
    for title, blocks in sections(page).items():
        lines = [block for block in blocks if block.startswith("- ")]
        told += [f"{title}: {line}" for line in lines if title != LIMITS and not TEST.search(line)]
        told += [f"{title}: it has no line"] if not lines else []
        if title != LIMITS:
            told += [f"{title}: no line: {block}" for block in blocks if block not in lines and not AROUND.match(block)]
    return told


def test_every_line_names_tests_that_are_there() -> None:
    assert faults(PAGE) == []
    assert len(TEST.findall(PAGE)) > 200
    assert list(sections(PAGE))[-1] == LIMITS


def test_what_the_example_runs_is_there() -> None:
    (example,) = re.findall(r'make test ARGS="(\S+)::(\w+)"', PAGE)
    assert example[1] in known_of(example[0])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("- It holds.", "A: - It holds."),
        ("- It holds. `tests/test_guarantees.py::test_gone`", "there is no tests/test_guarantees.py::test_gone"),
        ("- It holds. `tests/gone.py::test_it`", "there is no tests/gone.py::test_it"),
        ("- It holds. `tests/test_style.py`", "no test, but a file: tests/test_style.py`"),
        ("It holds.", "A: no line: It holds."),
    ],
)
def test_the_check_itself(line: str, fault: str) -> None:
    page = """\
        # Title

        ## A

        [Page](page.md).

        - One that
          holds. `tests/test_guarantees.py::test_the_check_itself`
        {}

        ## What is not promised

        - That it always holds.
        """
    assert faults(dedent(page).replace("{}\n", "")) == []
    assert fault in faults(dedent(page).replace("{}", f"\n{line}"))


def test_tests_are_found_in_each_of_their_forms() -> None:
    assert "test_it_stops_and_starts_again_with_its_jobs" in known_of("tests/test_broker.py")
    assert "TestBroker" in known_of("tests/core/test_model.py")
    assert {"TestRocks", "TestSqlite"} <= known_of("tests/storage/test_model.py")
    assert "TestDurable::test_rows_outlive_the_store" in known_of("tests/storage/test_conformance.py")
    assert "signals" not in known_of("tests/test_broker.py")
