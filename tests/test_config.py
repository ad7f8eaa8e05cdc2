"""The broker's settings: flag over environment over file over default, and nothing unknown passes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zbroker.cli.program import program
from zbroker.config import given_config, is_loopback, load_config
from zclient.errors import InvalidArgument
from zclient.jobs import encode_payload
from zclient.protocol.options import QUEUE_OPTIONS


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


# ---- options of queues

WRITTEN: dict[str, tuple[str, Any]] = {
    "lease": ("45s", 45_000),
    "max_attempts": ("9", 9),
    "backoff": ("1s,10s,2m", [1000, 10_000, 120_000]),
    "backoff_min": ("300ms", 300),
    "backoff_max": ("1h", 3_600_000),
    "backoff_jitter": ("0.25", 0.25),
    "max_run": ("2h", 7_200_000),
    "ttl": ("1d", 86_400_000),
    "on_expiry": ("drop", "drop"),
    "delivery": ("at_most_once", "at_most_once"),
    "strategy": ("least_busy", "least_busy"),
    "key_limit": ("1", 1),
    "key_weights": ("gold=5,silver=2", {"gold": 5, "silver": 2}),
    "in_flight_limit": ("100", 100),
    "rate": ("10/1m", [10, 60_000]),
    "key_rate": ("5", [5, 1000]),
    "max_jobs": ("1000", 1000),
    "max_bytes": ("64MiB", 64 << 20),
    "keep_done": ("10m", 600_000),
    "keep_dead": ("30d", 30 * 86_400_000),
    "keep_dead_count": ("50", 50),
    "dead_to": ("graveyard", "graveyard"),
    "poison_losses": ("2", 2),
}
"""Each option of queues as people write it, and its value on the wire."""


def toml(value: str) -> str:
    return f'"{value}"'


def test_every_option_of_queues_is_written_here() -> None:
    assert WRITTEN.keys() == QUEUE_OPTIONS.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_each_is_a_setting_by_flag_environment_and_file(name: str, tmp_path: Path) -> None:
    text, value = WRITTEN[name]
    file = tmp_path / "zbroker.toml"
    file.write_text(f"{name} = {toml(text)}\n")
    variable = f"ZBROKER_{name.upper()}"
    for config, source in (
        (load_config({name: text}, {}), "argument"),
        (load_config({}, {variable: text}), variable),
        (load_config({}, {}, file), str(file)),
    ):
        assert (config[name], config.sources[name]) == (value, source)
        core = config.core()
        assert core.policy.value(name) == value and core.sources[name] == source
    assert load_config({}, {})[name] == QUEUE_OPTIONS[name].default, "and without any it is the option's own default"


@pytest.mark.parametrize("name", WRITTEN)
def test_each_is_an_option_of_a_single_queue_in_the_file(name: str, tmp_path: Path) -> None:
    text, value = WRITTEN[name]
    file = tmp_path / "zbroker.toml"
    file.write_text(f'[queues.email]\n{name} = {toml(text)}\n[queues."reports:daily"]\n')
    config = load_config({}, {}, file)
    assert config["queues"] == {"email": {name: value}, "reports:daily": {}}
    assert config.core().queues == config["queues"] and config.core().policy.value(name) == QUEUE_OPTIONS[name].default


def test_a_file_may_use_numbers_lists_and_tables(tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text(
        "max_attempts = 9\nlease = 45\nbackoff_jitter = 0.5\n"
        '[queues.q]\nbackoff = ["1s", 10]\nrate = 100\nmax_bytes = 1024\nkey_weights = {gold = 5}\nttl = 0\n'
    )
    config = load_config({}, {}, file)
    assert (config["max_attempts"], config["lease"], config["backoff_jitter"]) == (9, 45_000, 0.5)
    assert config["queues"]["q"] == {
        "backoff": [1000, 10_000],
        "rate": [100, 1000],
        "max_bytes": 1024,
        "key_weights": {"gold": 5},
        "ttl": 0,
    }


def test_single_queues_in_the_environment_are_json() -> None:
    config = load_config({}, {"ZBROKER_QUEUES": '{"email": {"lease": "10s"}}'})
    assert config["queues"] == {"email": {"lease": 10_000}} and config.sources["queues"] == "ZBROKER_QUEUES"
    given = given_config({"queues": {"email": {"lease": "10s", "max_attempts": 2}}})
    assert given["queues"] == {"email": {"lease": 10_000, "max_attempts": 2}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[queues.email]\ncolour = 1\n", "email: no such option of a queue: colour"),
        ("[queues.email]\nlease = 0\n", "email: lease"),
        ("[queues.email]\nkeep_done_count = 5\n", "keep_done_count"),
        ('[queues."no way"]\nlease = 5\n', "no way"),
        ('[queues."mmi.x"]\n', "mmi"),
        ("queues = 5\n", "map"),
        ("[queues]\nemail = 5\n", "map"),
        ('[queues.a]\ndead_to = "a"\n', "a: dead_to: its dead jobs would come back to a"),
        ('[queues.a]\ndead_to = "b"\n[queues.b]\ndead_to = "c"\n[queues.c]\ndead_to = "a"\n', "come back"),
        ('dead_to = "all"\n[queues.all]\ndead_to = "b"\n', "all: dead_to: its dead jobs would come back to all"),
        ('[queues.a]\ndead_to = "no way"\n', "a: dead_to"),
    ],
)
def test_what_cannot_be_said_of_a_queue(content: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text(content)
    with pytest.raises(InvalidArgument, match=text):
        load_config({}, {}, file)


@pytest.mark.parametrize(
    "content",
    [
        'dead_to = "all"\n',
        'dead_to = "all"\n[queues.all]\nlease = "5s"\n[queues.a]\n',
        'dead_to = "all"\n[queues.all]\ndead_to = "none"\n',
        '[queues.a]\ndead_to = "b"\n[queues.b]\ndead_to = "c"\n[queues.c]\n',
    ],
)
def test_where_dead_jobs_may_go(content: str, tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text(content)
    load_config({}, {}, file)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"backoff": "sometimes"}, "backoff"),
        ({"backoff": "1s,never"}, "backoff"),
        ({"rate": "fast"}, "rate"),
        ({"rate": "5/0s"}, "rate"),
        ({"key_weights": "gold"}, "key_weights"),
        ({"backoff_jitter": "2"}, "backoff_jitter"),
        ({"delivery": "exactly_once"}, "delivery"),
        ({"dead_to": "no way"}, "dead_to"),
        ({"keep_done": "-1s"}, "keep_done"),
        ({"queues": "[]"}, "queues"),
        ({"queues": "{"}, "queues"),
    ],
)
def test_options_that_cannot_be_are_errors_that_name_them(flags: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        load_config(flags, {})


def test_the_command_prints_options_of_queues_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    lines = "".join(f"{name} = {toml(text)}\n" for name, (text, _) in WRITTEN.items())
    file.write_text(f"{lines}[queues.email]\n{lines.replace('graveyard', 'other')}")
    run = CliRunner()
    result = run.invoke(program, ["config", "--config", str(file), "--json"], env={})
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    for name, (text, _) in WRITTEN.items():
        shown = told[name]["value"]
        assert load_config({name: shown}, {})[name] == load_config({name: text}, {})[name]
        assert told[name]["source"] == str(file)
    again = {"queues": json.dumps(told["queues"]["value"])}
    assert load_config(again, {})["queues"] == load_config({}, {}, file)["queues"]
    text = run.invoke(program, ["config", "--config", str(file)], env={}).output
    for words in (r"rate +10/1m ", r"backoff +1s,10s,2m ", r"key_weights +gold=5,silver=2 ", r"dead_to +graveyard "):
        assert re.search(words, text), text


# ---- schedules


def test_schedules_are_read_as_an_order_has_them(tmp_path: Path) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text(
        '[schedules.nightly]\ncron = "30 3 * * mon-fri"\ntz = "Europe/Berlin"\nqueue = "report"\n'
        'payload = {kind = "x"}\noverlap = "skip"\ncatch_up = "all"\ncatch_up_limit = 5\n'
        'paused = true\nttl = "1h"\npriority = 3\n'
        '[schedules."often:1"]\nevery = "90s"\nqueue = "q"\n'
    )
    config = load_config({}, {}, file)
    assert config["schedules"] == {
        "nightly": {
            "name": "nightly",
            "cron": "30 3 * * mon-fri",
            "zone": "Europe/Berlin",
            "queue": "report",
            "payload": encode_payload({"kind": "x"}),
            "options": {"ttl": 3_600_000, "priority": 3},
            "overlap": "skip",
            "catch_up": "all",
            "catch_up_limit": 5,
            "paused": True,
        },
        "often:1": {
            "name": "often:1",
            "every": 90_000,
            "zone": "UTC",
            "queue": "q",
            "payload": encode_payload(None),
            "options": {},
            "overlap": "allow",
            "catch_up": "one",
            "catch_up_limit": 100,
            "paused": False,
        },
    }
    assert config.core().schedules == config["schedules"]
    written = '{"often": {"every": 90, "queue": "q"}}'
    assert load_config({}, {"ZBROKER_SCHEDULES": written})["schedules"]["often"]["every"] == 90_000
    shown = CliRunner().invoke(program, ["config", "--config", str(file)]).output
    for setting, value in (("nightly.when", "30 3 * * mon-fri"), ("often:1.when", "every 90s"), ("often:1.queue", "q")):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"schedules.{setting} ")]
        assert value in line


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("schedules = 5\n", "map"),
        ("[schedules]\ns = 5\n", "map"),
        ('[schedules.s]\nqueue = "q"\n', "s: a schedule has either"),
        ('[schedules.s]\ncron = "* * * * *"\nevery = 5\nqueue = "q"\n', "either"),
        ('[schedules.s]\ncron = "61 * * * *"\nqueue = "q"\n', "no cron expression"),
        ('[schedules.s]\ncron = 5\nqueue = "q"\n', "texts"),
        ('[schedules.s]\ncron = "* * * * *"\n', "s: a schedule has a queue"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\ntz = "Mars/Base"\n', "no time zone"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\ntz = 5\n', "texts"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\npaused = 1\n', "paused"),
        ('[schedules.s]\nevery = "soon"\nqueue = "q"\n', "duration"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\nname = "t"\n', "name"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\ncolour = 1\n', "colour"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\nunique = "u"\n', "unique"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\nafter = ["j"]\n', "not after"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\noverlap = "maybe"\n', "overlap"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\ncatch_up = "some"\n', "catch_up"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\ncatch_up_limit = 101\n', "catch_up_limit"),
        ('[schedules."no way"]\nevery = 5\nqueue = "q"\n', "name of a schedule"),
        ('[schedules.s]\nevery = 5\nqueue = "q"\npayload = 1979-05-27\n', "s: "),
        ('[schedules.s]\nevery = 0.5\nqueue = "q"\n', "interval"),
    ],
)
def test_what_no_schedule_can_be_is_an_error(tmp_path: Path, written: str, says: str) -> None:
    file = tmp_path / "zbroker.toml"
    file.write_text(written)
    with pytest.raises(InvalidArgument, match=re.escape(says)) as caught:
        load_config({}, {}, file)
    assert "schedules" in str(caught.value)
