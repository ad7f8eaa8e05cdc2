"""The broker's settings: flag over environment over file over default, and nothing unknown passes."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zbroker.cli.program import program
from zbroker.config import given_config, is_loopback, load_config
from zclient.errors import InvalidArgument


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text('lease = "10s"\nmax_attempts = 7\ngrace = "3s"\n')
    config = load_config({"lease": "20s"}, {"ZBROKER_LEASE": "15s", "ZBROKER_MAX_ATTEMPTS": "9"}, file)
    assert (config["lease"], config.sources["lease"]) == (20_000, "argument")
    assert (config["max_attempts"], config.sources["max_attempts"]) == (9, "ZBROKER_MAX_ATTEMPTS")
    assert (config["grace"], config.sources["grace"]) == (3_000, str(file))
    assert (config["durability"], config.sources["durability"]) == ("fsync", "default")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"durability": "none"}, "durability"),
        ({"lease": "soon"}, "lease"),
        ({"max_attempts": "0"}, "max_attempts"),
        ({"max_payload": "1 potato"}, "max_payload"),
        ({"max_payload": "0"}, "max_payload"),
        ({"max_payload": True}, "max_payload"),
        ({"max_peers": "--5"}, "max_peers"),
        ({"max_peers": "\u00b2"}, "max_peers"),
        ({"max_peers": "9" * 5000}, "max_peers"),
        ({"disk_floor": "9" * 5000}, "disk_floor"),
        ({"disk_floor": "9000000GiB"}, "disk_floor"),
        ({"disk_floor": "-1"}, "disk_floor"),
        ({"lease": "0"}, "lease"),
        ({"heartbeat_interval": "40d"}, "heartbeat_interval"),
        ({"bind": "tcp://127.0.0.1:99999"}, "bind"),
        ({"bind": "nonsense"}, "bind"),
        ({"bind": "udp://127.0.0.1:5555"}, "bind"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(flags: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        load_config(flags, {})


def test_an_unknown_key_in_the_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text("leese = 3\n")
    with pytest.raises(InvalidArgument, match="leese"):
        load_config({}, {}, file)


@pytest.mark.parametrize(
    "content", [b"lease = \xff", b"lease = ", b"max_peers = " + b"9" * 5000], ids=["bytes", "TOML", "9"]
)
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidArgument, match=str(file)):
        load_config({}, {}, file)


def test_a_broker_inside_a_program_asks_no_file_and_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zbroker.toml").write_text('lease = "10s"\ngrace = "3s"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZBROKER_GRACE", "7s")
    config = given_config({"lease": "20s"})
    assert (config["lease"], config["grace"]) == (20_000, 1_000)
    assert (config.sources["lease"], config.sources["grace"]) == ("argument", "default")
    with pytest.raises(InvalidArgument, match="colour"):
        given_config({"colour": "red"})


@pytest.mark.parametrize("text", ["2MiB", " 2 MiB ", "2097152", "2097152B", 2 << 20])
def test_sizes_are_written_with_units(text: Any) -> None:
    assert load_config({"max_payload": text}, {})["max_payload"] == 2 << 20


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://127.0.0.1:5555", True),
        ("tcp://localhost:5555", True),
        ("tcp://[::1]:5555", True),
        ("ipc:///run/zbroker", True),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://*:5555", False),
        ("tcp://10.0.0.7:5555", False),
        ("tcp://broker.example.org:5555", False),
    ],
)
def test_what_other_hosts_can_reach(endpoint: str, expected: bool) -> None:
    assert is_loopback(endpoint) is expected


def test_the_command_shows_values_and_sources() -> None:
    result = CliRunner().invoke(program, ["config", "--lease", "10s", "--json"], env={"ZBROKER_GRACE": "2s"})
    assert result.exit_code == 0
    assert '"lease": {\n    "value": "10s",\n    "source": "argument"' in result.output
    assert '"grace": {\n    "value": "2s",\n    "source": "ZBROKER_GRACE"' in result.output
