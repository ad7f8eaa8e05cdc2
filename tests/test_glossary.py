"""Holds the code to docs/glossary.md: the words are defined there, and no name is made of other ones.

The lists are read from the page itself, so that the page is the one place to change.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zclient", "zworker", "zbroker")

CONCEPTS = re.findall(
    r"\w+",
    """job queue lane key sequence delivery lease fence settle dead incarnation
    capacity credit turn tick occurrence credentials""",
)
STATES = ["scheduled", "blocked", "ready", "leased", "done", "dead", "cancelled"]

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the glossary, without its head."""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def unwanted() -> list[str]:
    """The names of the table of words that we do not use."""
    return [name for row in rows("Words we do not use") for name in re.findall(r"`(\w+)`", row[0])]


def words(identifier: str) -> str:
    """An identifier as its words between underscores: ``lastMsgID`` is ``_last_msg_id_``."""
    return "_" + "_".join(word.lower() for word in WORD.findall(identifier)) + "_"


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that a module makes, with their lines; names that it only uses are somebody else's."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno


def test_every_concept_and_state_is_defined_once() -> None:
    defined = [row[0] for row in rows("The words")]
    assert [word for word in CONCEPTS if word not in defined] == []
    assert len(set(defined)) == len(defined)
    assert [row[0] for row in rows("The states of a job")] == STATES
    assert all(row[1] for row in rows("The words") + rows("The states of a job"))


def test_no_word_is_both_ours_and_unwanted() -> None:
    ours = {row[0] for row in rows("The words") + rows("Words with one narrow use")}
    assert len(unwanted()) > len(rows("Words we do not use")) > 0
    assert ours & set(unwanted()) == set()


def test_the_code_uses_the_words_of_the_glossary() -> None:
    names = unwanted()
    assert [
        f"{path.relative_to(ROOT)}:{line} {identifier} (the glossary has another word for {name})"
        for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
        for identifier, line in identifiers(ast.parse(path.read_text(encoding="utf-8")))
        for name in names
        if f"_{name}_" in words(identifier)
    ] == []


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("last_msg_id", "_last_msg_id_"),
        ("lastMsgID", "_last_msg_id_"),
        ("DLQReader", "_dlq_reader_"),
        ("__receipt", "_receipt_"),
        ("sha256", "_sha_256_"),
    ],
)
def test_identifiers_fall_into_words(identifier: str, expected: str) -> None:
    assert words(identifier) == expected
