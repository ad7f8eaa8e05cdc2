"""The broker's settings: flag over environment over file over default, and nothing unknown passes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from zbroker.cli.program import program
from zbroker.config import is_loopback, load_config
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
        ({"lease": "0"}, "lease"),
        ({"heartbeat_interval": "40d"}, "heartbeat_interval"),
        ({"bind": "tcp://127.0.0.1:99999"}, "bind"),
        ({"bind": "nonsense"}, "bind"),
        ({"bind": "udp://127.0.0.1:5555"}, "bind"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(flags: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        load_config(flags, {})


def test_an_unknown_key_in_the_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text("leese = 3\n")
    with pytest.raises(InvalidArgument, match="leese"):
        load_config({}, {}, file)


def test_sizes_are_written_with_units() -> None:
    assert load_config({"max_payload": "2MiB"}, {})["max_payload"] == 2 << 20


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
