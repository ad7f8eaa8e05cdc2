"""A broker that cannot start says why in one line, with an exit code of its own, and leaves the data as it is."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.processes import ROOT
from tests.system.system import System


def refused(*options: str) -> tuple[int, str]:
    """Exit code and the one line on stderr of a broker that does not start."""
    command = [sys.executable, "-m", "zbroker", "start", "--bind", "tcp://127.0.0.1:*", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert ended.stdout == ""
    *log, line = ended.stderr.splitlines()
    assert all(" info " in told for told in log), ended.stderr
    return ended.returncode, line


def test_a_directory_that_another_broker_holds(system: System) -> None:
    broker = system.broker()
    job = system.client(broker.endpoint).send("q", 1)
    code, line = refused("--data", str(broker.data))
    assert code == 6
    assert str(broker.data) in line
    assert str(broker.pid) in line
    assert job.status().state == "ready"  # the one that holds it was not disturbed


def test_data_of_a_newer_format(system: System) -> None:
    broker = system.broker()
    broker.stop()
    mark = broker.data / "FORMAT"
    ours = mark.read_text()
    mark.write_text("zbroker format 999\n")
    code, line = refused("--data", str(broker.data))
    assert code == 6
    assert "format 999" in line
    mark.write_text(ours)


def test_a_log_that_is_missing(system: System) -> None:
    broker = system.broker()
    system.client(broker.endpoint).send_many("q", range(100))
    broker.kill()
    logs = list(broker.data.rglob("*.log"))
    kept = {log: log.read_bytes() for log in logs}
    assert kept
    for log in logs:
        log.unlink()
    code, line = refused("--data", str(broker.data))
    assert code == 6
    assert "missing" in line
    for log, content in kept.items():  # put back, the refusal did no harm
        log.write_bytes(content)
    broker.restart()
    assert system.client(broker.endpoint).queue("q")["ready"] == 100


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, line = refused("--data", str(tmp_path / "file" / "data"))
    assert code == 6
    assert "file" in line


def test_a_port_that_is_taken(system: System, tmp_path: Path) -> None:
    broker = system.broker()
    code, line = refused("--data", str(tmp_path / "other"), "--bind", broker.endpoint)
    assert code == 1
    assert broker.endpoint in line


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:*", "tcp://*:*", "tcp://[::]:*"])
def test_beyond_loopback_only_when_told_so(tmp_path: Path, endpoint: str) -> None:
    code, line = refused("--data", str(tmp_path / "data"), "--bind", endpoint)
    assert code == 2
    assert "--insecure" in line
    assert not (tmp_path / "data").exists()


def test_insecure_is_a_word_that_is_meant(system: System) -> None:
    broker = system.broker(bind="tcp://0.0.0.0:*", insecure=True)
    port = broker.endpoint.rpartition(":")[2]
    assert system.client(f"tcp://127.0.0.1:{port}").send("q", 1).status().state == "ready"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--lease", "soon", "lease"), ("--max-payload", "-1", "max_payload"), ("--durability", "hope", "durability")],
)
def test_a_setting_that_cannot_be(tmp_path: Path, option: str, value: str, told: str) -> None:
    code, line = refused("--data", str(tmp_path / "data"), option, value)
    assert code == 2
    assert told in line
