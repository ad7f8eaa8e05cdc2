"""The parts of our style that a machine can see; what a person has to judge is in CONTRIBUTING.md.

Formatting, unused names and the like are ruff's; types are mypy's. Nothing here repeats them.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zclient", "zworker", "zbroker")
PROGRAMS = (*PACKAGES, "tests", "examples", "benchmarks", "tools")

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
# What outgrows the limits for a good reason: `path` or `path::function`, and the reason in a sentence.
LONGER: dict[str, str] = {}

# In two halves, so that this file does not contain the words it looks for.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
SLEEPS = re.compile(r"\btime\.sleep\(|\bfrom time import [^\n]*\bsleep\b")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def where(path: Path, line: int | None = None) -> str:
    name = path.relative_to(ROOT).as_posix()
    return name if line is None else f"{name}:{line}"


def nodes(*folders: str) -> Iterator[tuple[Path, str, ast.AST]]:
    """Every syntax node of the Python files in some folders, with its file and the file's text."""
    for path in sources(*folders):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            yield path, text, node


def matches(pattern: re.Pattern[str], *folders: str) -> list[str]:
    return [
        f"{where(path, number)} {line.strip()}"
        for path in sources(*folders)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def too_long() -> dict[str, int]:
    """The files and functions that are longer than they should be, with their lines."""
    found = {}
    for path, text, node in nodes(*PROGRAMS):
        if isinstance(node, ast.Module):
            if (lines := text.count("\n")) > MAX_FILE_LINES:
                found[where(path)] = lines
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES:
                found[f"{where(path)}::{node.name}"] = lines
    return found


def is_broad(caught: ast.expr | None) -> bool:
    """Whether an except clause, or an argument of ``suppress``, takes everything."""
    if isinstance(caught, ast.Tuple):
        return any(is_broad(item) for item in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


def swallows(node: ast.AST, text: str) -> bool:
    """Whether an error vanishes here: any error at all, or a named one without a comment that says why."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
        return any(is_broad(argument) for argument in node.args)
    if not isinstance(node, ast.ExceptHandler) or not all(isinstance(step, ast.Pass) for step in node.body):
        return False
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    return is_broad(node.type) or not any("#" in line for line in lines)


def test_files_and_functions_hold_one_thing() -> None:
    found = too_long()
    assert {name: lines for name, lines in found.items() if name not in LONGER} == {}
    assert [name for name in LONGER if name not in found] == [], "these exceptions are no longer needed"


def test_every_module_says_what_it_is() -> None:
    # Outside the packages an empty __init__.py is only a mark that a folder holds modules.
    assert [
        where(path)
        for path, text, node in nodes(*PROGRAMS)
        if isinstance(node, ast.Module) and not ast.get_docstring(node)
        if text.strip() or path.relative_to(ROOT).parts[0] in PACKAGES
    ] == []


def test_nothing_is_left_for_later_in_a_comment() -> None:
    assert matches(UNFINISHED, *PROGRAMS) == []


def test_no_error_is_swallowed() -> None:
    assert [
        where(path, getattr(node, "lineno", None)) for path, text, node in nodes(*PACKAGES) if swallows(node, text)
    ] == []


def test_tests_wait_for_events_and_not_for_time() -> None:
    assert matches(SLEEPS, "tests") == []


@pytest.mark.parametrize(
    ("source", "swallowed"),
    [
        ("try: run()\nexcept Exception: pass  # tidy", True),
        ("try: run()\nexcept (KeyError, BaseException):\n    pass", True),
        ("try: run()\nexcept KeyError:\n    pass", True),
        ("with suppress(Exception): run()", True),
        ("try: run()\nexcept KeyError:\n    pass  # It was settled meanwhile.", False),
        ("try: run()\nexcept Exception as error:\n    log(error)", False),
        ("with suppress(ProcessLookupError): run()", False),
    ],
)
def test_the_check_for_swallowed_errors(source: str, swallowed: bool) -> None:
    assert any(swallows(node, source) for node in ast.walk(ast.parse(source))) is swallowed


def pages() -> list[Path]:
    folders = [ROOT / name for name in ("docs", "examples", "deploy", "tests")]
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))])


def links_of(page: Path) -> Iterator[str]:
    """The links of a page to files of the repository, without their anchors."""
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]


def test_links_in_the_pages_lead_somewhere() -> None:
    assert [
        f"{where(page)} -> {target}"
        for page in pages()
        for target in links_of(page)
        if not (page.parent / target).exists()
    ] == []


def test_every_page_is_in_the_reading_order() -> None:
    docs = ROOT / "docs"
    listed = {(docs / target).resolve() for target in links_of(docs / "README.md")}
    assert [where(page) for page in docs.glob("*.md") if page.name != "README.md" and page not in listed] == []


def test_decision_records_are_numbered_once() -> None:
    records = [path.name for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md"]
    assert [name for name in records if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name)] == []
    assert len({name[:4] for name in records}) == len(records)
