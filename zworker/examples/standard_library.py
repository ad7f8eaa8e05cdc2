"""The work of `zbroker demo`: look into one Python source file, and add up what was found in many.

A worker runs it:          zworker run zworker.examples.standard_library
One process, no broker:    python -m zworker.examples.standard_library ROOT < paths, one a line

Both functions give the same result for the same input and change nothing outside, so a job that runs twice after a
crash does no harm. That is what delivery at least once asks of a task.
"""

import ast
import dis
import io
import json
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import TypedDict

from zworker import Worker

MOST_SHOWN = 5
"""Lines of each ranking in the summary."""

worker = Worker(concurrency=4)


class Found(TypedDict):
    """What is in one source file. All but ``path``, ``imports`` and ``names`` are counts."""

    path: str
    lines: int
    comments: int
    functions: int
    classes: int
    instructions: int
    imports: list[str]  # modules, each once
    names: dict[str, int]  # how often each name is used


class Summary(TypedDict):
    """What is in all files together. The rankings hold pairs of a name and a count, the highest count first."""

    files: int
    lines: int
    comments: int
    functions: int
    classes: int
    instructions: int
    largest: list[list[str | int]]
    imports: list[list[str | int]]
    names: list[list[str | int]]


@worker.task("library.index")
def index_file(root: str, path: str) -> Found:
    """Look into one file. The payload ``{"root": ..., "path": ...}`` arrives as these two arguments."""
    source = Path(root, path).read_bytes()
    tree = ast.parse(source, path)
    nodes = list(ast.walk(tree))
    tokens = tokenize.tokenize(io.BytesIO(source).readline)
    code = compile(tree, path, "exec", dont_inherit=True)
    return {
        "path": path,
        "lines": len(source.splitlines()),
        "comments": sum(token.type == tokenize.COMMENT for token in tokens),
        "functions": sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "instructions": sum(1 for part in code_objects(code) for _ in dis.get_instructions(part)),
        "imports": sorted({module for node in nodes for module in imported(node)}),
        "names": dict(Counter(node.id for node in nodes if isinstance(node, ast.Name))),
    }


@worker.task("library.summary")
def summarise(files: list[Found]) -> Summary:
    """Add up what was found in the files, in whatever order it comes."""
    imports = Counter(module for found in files for module in found["imports"])
    names: Counter[str] = Counter()
    for found in files:
        names.update(found["names"])
    return {
        "files": len(files),
        "lines": sum(found["lines"] for found in files),
        "comments": sum(found["comments"] for found in files),
        "functions": sum(found["functions"] for found in files),
        "classes": sum(found["classes"] for found in files),
        "instructions": sum(found["instructions"] for found in files),
        "largest": ranking((found["path"], found["lines"]) for found in files),
        "imports": ranking(imports.items()),
        "names": ranking(names.items()),
    }


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports, by their top-level names; those of its own package are not counted."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.partition(".")[0]]
    return []


def code_objects(code: CodeType) -> Iterator[CodeType]:
    """A module's code, and that of all functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_objects(constant)


def ranking(counts: Iterable[tuple[str, int]]) -> list[list[str | int]]:
    """The highest counts; equal ones in the order of their names, so that two computations agree."""
    ordered = sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    return [[name, count] for name, count in ordered[:MOST_SHOWN]]


def main() -> None:
    """The same without broker and workers: paths on stdin, the summary as JSON on stdout."""
    root = sys.argv[1]
    json.dump(summarise([index_file(root, line.rstrip("\n")) for line in sys.stdin]), sys.stdout)


if __name__ == "__main__":
    main()
