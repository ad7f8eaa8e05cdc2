"""How these tests run `zclient`: in this process where that is enough, as a real one where signals and pipes count."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cli.scripted import ScriptedBroker
from tests.system.processes import ROOT, BrokerProcess
from zclient.cli.common import run
from zclient.cli.program import program


@dataclass(frozen=True)
class Ended:
    """What a program left behind."""

    code: int
    out: str
    err: str
    raw: bytes  # stdout as bytes


Zclient = Callable[..., Ended]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and one time zone, which is not UTC."""
    for name in ("ZBROKER_ENDPOINT", "ZBROKER_CREDENTIALS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def zclient(capsysbinary: pytest.CaptureFixture[bytes]) -> Zclient:
    """Runs `zclient` with these arguments in this process."""

    def call(*argv: str) -> Ended:
        capsysbinary.readouterr()
        code = run(program, argv)
        out, err = capsysbinary.readouterr()
        return Ended(code, out.decode(errors="replace"), err.decode(), out)

    return call


@pytest.fixture
def scripted() -> Iterator[ScriptedBroker]:
    """A broker whose answers the test writes."""
    with ScriptedBroker() as broker:
        yield broker


@pytest.fixture
def nobody() -> str:
    """An endpoint where nobody listens: port 1 is reserved, and refuses at once."""
    return "tcp://127.0.0.1:1"


@pytest.fixture
def start_zclient() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `zclient` as a process of its own, with pipes; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "zclient", *argv],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real broker that all tests share; each uses queues of its own."""
    folder = tmp_path_factory.mktemp("broker")
    process = BrokerProcess(folder / "data", folder / "broker.log")
    process.start()
    yield process.endpoint
    process.end()


@pytest.fixture
def call(zclient: Zclient, broker: str, monkeypatch: pytest.MonkeyPatch) -> Zclient:
    """Runs `zclient` against the real broker."""
    monkeypatch.setenv("ZBROKER_ENDPOINT", broker)
    return zclient


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue of this test's own."""
    return str(request.node.name).translate(str.maketrans("[]", "::"))


def told(ended: Ended) -> Any:
    """The one JSON document on stdout of a run that went well."""
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)
