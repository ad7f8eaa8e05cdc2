"""Tries what is shipped as a user gets it: the wheel in dist/, the image's build, compose's file by its schema.

`make build` runs it, and `make test` does not: it installs from the package index, in environments that it throws away.
Nothing of the checkout is imported by what it starts, which runs outside of it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.test_deploy import DEPLOY, ROOT, stages

pytestmark = pytest.mark.timeout(600)  # A package index may be slow.

TASKS = """
from zworker import Worker

worker = Worker()

@worker.task("greet")
def greet(name: str) -> str:
    return f"Hello, {name}!"
"""

IMPORTED = """
import pathlib, sys, zbroker, zclient, zworker, zbroker.testing
for package in zbroker, zclient, zworker:
    home = pathlib.Path(package.__file__).parent
    assert home.is_relative_to(sys.prefix) and (home / "py.typed").is_file(), home
print("imported")
"""


class Installed:
    """An environment that zbroker was installed into, and a folder to run it in."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self._bin = environment / "bin"
        self.folder = folder
        self._variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("ZBROKER_", "PYTHON"))
        }

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [str(self._bin / words[0]), *words[1:]]

    def run(self, *words: str) -> str:
        """What one of its programs prints; the test fails if the program does."""
        done = subprocess.run(
            self._command(words), cwd=self.folder, env=self._variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    @contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """One of its programs, told to stop at the end: it has to end well."""
        with subprocess.Popen(
            self._command(words), cwd=self.folder, env=self._variables, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0
            finally:
                process.kill()

    def works(self) -> None:
        """Import it, start a broker and a worker, send a job, read its result, and stop them."""
        assert self.run("python", "-c", IMPORTED) == "imported"
        (self.folder / "tasks.py").write_text(TASKS)
        with self.running("zbroker", "start", "--data", "jobs", "--bind", "tcp://127.0.0.1:*") as broker:
            assert broker.stdout is not None
            endpoint = broker.stdout.readline().split()[-1]
            with self.running("zworker", "run", "tasks", "--broker", endpoint):
                job = self.run("zclient", "send", "greet", '{"name": "Ada"}', "--broker", endpoint)
                waited = self.run("zclient", "result", job, "--wait", "--timeout", "30s", "--broker", endpoint)
                assert waited == "Hello, Ada!"
            stats = json.loads(self.run("zclient", "stats", "--json", "--broker", endpoint))
            assert stats["totals"]["done"] == 1
        assert "faults: none" in self.run("zbroker", "check", "jobs")


def make(*words: str, within: Path) -> None:
    """Run a step of an installation; what it said is shown if it fails."""
    done = subprocess.run(words, cwd=within, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"


def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    (wheel,) = (ROOT / "dist").glob("*.whl")
    make(sys.executable, "-m", "venv", "clean", within=tmp_path)
    make("clean/bin/python", "-m", "pip", "install", "--no-cache-dir", str(wheel), within=tmp_path)
    installed = Installed(tmp_path / "clean", tmp_path)
    assert wheel.name.startswith(f"{installed.run('zbroker', '--version').replace(' ', '-')}-")
    installed.works()


def test_the_image_s_first_stage_makes_what_the_second_one_runs(tmp_path: Path) -> None:
    source, app = tmp_path / "source", tmp_path / "app"
    source.mkdir()
    for step in stages()[0]:
        if step.name == "COPY":
            *names, target = step.words()
            for name in names:
                here, there = ROOT / name, source / target / (name if target.endswith("/") else "")
                shutil.copytree(here, there) if here.is_dir() else shutil.copy(here, there)
        elif step.name == "RUN":
            # The same step, in this folder in place of the image's root, with this Python in place of its own.
            line = re.sub(r"(^| )/app", rf"\1{app}", step.rest)
            make("sh", "-ec", re.sub(r"^python ", f"{sys.executable} ", line), within=source)
    Installed(app, tmp_path).works()


def test_compose_takes_its_file(tmp_path: Path) -> None:
    compose = str(DEPLOY / "compose.yaml")
    asked = ["docker", "compose", "version"]
    if shutil.which("docker") and subprocess.run(asked, capture_output=True, check=False).returncode == 0:
        make("docker", "compose", "--file", compose, "config", "--quiet", within=tmp_path)
        return
    # Compose itself is not here; its schema is in this package.
    make(sys.executable, "-m", "venv", "tools", within=tmp_path)
    make("tools/bin/python", "-m", "pip", "install", "check-jsonschema>=0.33", within=tmp_path)
    make("tools/bin/check-jsonschema", "--builtin-schema", "vendor.compose-spec", compose, within=tmp_path)
