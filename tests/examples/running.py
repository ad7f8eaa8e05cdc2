"""How the tests of examples and pages run programs: as a reader would, and with none of a developer's own settings."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE_S = 60

Start = Callable[..., "subprocess.Popen[str]"]

# The programs of the installed project first, as in an activated environment; none of a developer's own settings.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("ZBROKER_")} | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
}


def ready(process: "subprocess.Popen[str]") -> str:
    """Where a program serves, when it says so."""
    assert process.stdout is not None
    word, _, where = process.stdout.readline().strip().partition(" ")
    assert word == "ready"
    return where


def output(*argv: str, cwd: Path, **environment: str) -> list[str]:
    """The lines that a program prints; it must succeed."""
    ended = subprocess.run(
        argv, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def example(name: str, endpoint: str) -> list[str]:
    return output(sys.executable, name, cwd=EXAMPLES, ZBROKER_ENDPOINT=endpoint)
