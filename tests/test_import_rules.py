"""Who may import whom: the layers of docs/architecture.md, as a table that the code is held to.

Two ways of looking. The source is parsed, so that imports inside functions and for typing count like any
other; and a fresh interpreter imports what users import, to see what comes along with it.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zclient", "zworker", "zbroker")

# What the core must not touch, by the reason. A generator of random numbers is handed in.
CLOCKS = ("time", "datetime", "zoneinfo", "sched")
CHANCE = ("random", "uuid", "secrets")
OUTSIDE = (
    "os",
    "io",
    "pathlib",
    "tempfile",
    "shutil",
    "glob",
    "sqlite3",
    "socket",
    "select",
    "selectors",
    "ssl",
)
CONCURRENCY = ("threading", "asyncio", "concurrent", "multiprocessing", "subprocess", "signal", "queue")
HIDDEN = ("logging", "warnings", "importlib", "ctypes")


@dataclass(frozen=True)
class Rule:
    """What the modules below ``layer`` may import; for each module, the rule with the longest layer holds."""

    layer: str
    ours: tuple[str, ...]  # modules of the three packages, each with everything below it
    others: tuple[str, ...]  # third-party packages; what is named nowhere may not be imported
    never: tuple[str, ...] = ()  # forbidden although `ours` or the standard library would allow it
    typing_only: tuple[str, ...] = ()  # names of forbidden modules that are allowed under TYPE_CHECKING


RULES = (
    Rule("zclient.protocol", ours=("zclient.protocol",), others=("msgpack",)),
    Rule("zclient", ours=("zclient",), others=("zmq", "msgpack")),
    Rule("zclient.cli", ours=("zclient",), others=("zmq", "click", "rich")),
    Rule("zworker", ours=("zworker", "zclient"), others=("zmq", "msgpack")),
    Rule("zworker.cli", ours=("zworker", "zclient"), others=("zmq", "click", "rich")),
    Rule(
        "zbroker.core",
        ours=("zbroker.core", "zbroker.limits", "zbroker.storage.interface", "zclient.protocol"),
        others=("msgpack", "sortedcontainers"),
        never=CLOCKS + CHANCE + OUTSIDE + CONCURRENCY + HIDDEN,
        typing_only=("random.Random",),
    ),
    Rule(
        "zbroker.storage",
        ours=("zbroker", "zclient.errors"),
        others=("rocksdict", "msgpack", "sortedcontainers"),
        never=("zbroker.core", "zbroker.dialects", "zbroker.gateway", "zbroker.cli"),
    ),
    Rule("zbroker", ours=("zbroker", "zclient"), others=("zmq", "msgpack", "cronsim")),
    Rule("zbroker.cli", ours=("zbroker", "zclient"), others=("zmq", "click", "rich")),
    Rule("zbroker.demo", ours=("zbroker", "zclient"), others=("click", "rich")),
)

# What a fresh interpreter must not have loaded after importing the module on the left.
LOADS_NOT = {
    "zclient": ("rocksdict", "sortedcontainers", "zbroker", "zworker", "click", "rich"),
    "zworker": ("rocksdict", "sortedcontainers", "zbroker", "click", "rich"),
    "zclient.cli": ("rocksdict", "zbroker", "zworker", "rich"),
    "zworker.cli": ("rocksdict", "zbroker", "rich"),
    "zbroker.cli": ("zworker", "rich"),
}


@dataclass(frozen=True)
class Import:
    """One imported module or name, dotted and absolute, with the line it stands on."""

    name: str
    line: int
    for_typing: bool = False


def is_below(name: str, layer: str) -> bool:
    """Whether a dotted name is the layer itself or something in it."""
    return name == layer or name.startswith(layer + ".")


def module_name(path: Path) -> str:
    """The dotted name of a source file of ours."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Every import in a source text, wherever it stands. Relative ones start from ``package``."""
    tree = ast.parse(source)
    typing_nodes = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, id(node) in typing_nodes)


def allows(rule: Rule, found: Import) -> bool:
    """The decision for one import: forbidden names first, then ours, the standard library, and the others."""
    if found.for_typing and found.name in rule.typing_only:
        return True
    if any(is_below(found.name, layer) for layer in rule.never):
        return False
    top = found.name.partition(".")[0]
    if top in PACKAGES:
        return any(is_below(found.name, layer) for layer in rule.ours)
    return top in sys.stdlib_module_names or top in rule.others


def rule_of(module: str) -> Rule:
    return max((rule for rule in RULES if is_below(module, rule.layer)), key=lambda rule: len(rule.layer))


def modules_under(rule: Rule) -> list[tuple[str, Path]]:
    """The modules that this rule, and no narrower one, speaks about."""
    files = sorted((ROOT / rule.layer.partition(".")[0]).rglob("*.py"))
    return [(name, path) for path in files if rule_of(name := module_name(path)) == rule]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.layer)
def test_a_layer_imports_only_what_it_may(rule: Rule) -> None:
    offences = []
    for module, path in modules_under(rule):
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for found in imports_of(path.read_text(encoding="utf-8"), package):
            if not allows(rule, found):
                offences.append(f"{path.relative_to(ROOT)}:{found.line} imports {found.name}")
    assert offences == []


@pytest.mark.parametrize("module", LOADS_NOT)
def test_an_import_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) & set(LOADS_NOT[module]) == set()


def test_the_core_reaches_the_world_through_no_builtin() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{node.lineno} calls {node.func.id}"
        for path in sorted((ROOT / "zbroker" / "core").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("open", "print", "input", "exec", "eval", "__import__")
    ]
    assert offences == []


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("from zbroker.core import jobs", True),
        ("from . import jobs", True),
        ("from ..storage.interface import Store", True),
        ("from .. import limits", True),
        ("from zclient import protocol", True),
        ("import heapq", True),
        ("if TYPE_CHECKING:\n    from random import Random", True),
        ("from random import Random", False),
        ("if TYPE_CHECKING:\n    from random import randrange", False),
        ("import os.path", False),
        ("def late():\n    import time", False),
        ("from ..storage import rocks", False),
        ("from ..storage.interfaces import Store", False),
        ("from .. import server", False),
        ("import zclient", False),
        ("import zworker.session", False),
        ("import zmq", False),
        ("import requests", False),
    ],
)
def test_the_check_itself_on_a_module_of_the_core(source: str, allowed: bool) -> None:
    rule = rule_of("zbroker.core.lanes")
    assert all(allows(rule, found) for found in imports_of(source, "zbroker.core")) is allowed
