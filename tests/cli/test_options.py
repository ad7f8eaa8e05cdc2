"""Where the shared options may stand, which of two wins, and what else the command line refuses before it connects."""

import pathlib

import click
import pytest

from tests.cli.conftest import Zclient
from zclient.cli.arguments import moment_or_age
from zclient.cli.common import Settings, VerbGroup, client_options, run, settings
from zclient.protocol.options import JOB_OPTIONS


def read(*argv: str) -> Settings:
    """The shared options as a verb two levels deep sees them."""
    seen: list[Settings] = []

    @click.group("tool", cls=VerbGroup)
    @client_options
    def tool() -> None:
        """The program."""

    @tool.group("part", cls=VerbGroup)
    @client_options
    def part() -> None:
        """The group."""

    @part.command("verb")
    @client_options
    def verb() -> None:
        """The verb."""
        seen.append(settings())

    assert run(tool, argv) == 0
    return seen[0]


def test_without_options_it_is_the_broker_on_this_machine() -> None:
    given = read("part", "verb")
    assert (given.endpoints, given.broker, given.patience) == ((), ("tcp://127.0.0.1:5555",), 10)
    assert given.json is False


@pytest.mark.parametrize(
    "argv",
    [
        ("--broker", "tcp://a:1", "--json", "--timeout", "5m", "part", "verb"),
        ("-b", "tcp://a:1", "part", "--json", "verb", "--timeout", "300"),
        ("part", "-btcp://a:1", "verb", "--json", "--timeout=300s"),
        ("part", "verb", "--json", "--timeout", "300000ms", "-b", "tcp://a:1"),
    ],
)
def test_they_may_stand_before_or_behind_the_verb(argv: tuple[str, ...]) -> None:
    given = read(*argv)
    assert (given.endpoints, given.json, given.timeout) == (("tcp://a:1",), True, 300)


def test_several_addresses_of_one_broker() -> None:
    assert read("part", "verb", "-b", "tcp://a:1", "-b", "tcp://b:1").broker == ("tcp://a:1", "tcp://b:1")


def test_behind_the_verb_wins_over_before_it() -> None:
    assert read("-b", "tcp://a:1", "part", "verb", "-b", "tcp://b:1").broker == ("tcp://b:1",)


def test_the_environment_names_brokers_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZBROKER_ENDPOINT", "tcp://e:1 tcp://f:1")
    assert read("part", "verb").broker == ("tcp://e:1", "tcp://f:1")
    assert read("-b", "tcp://a:1", "part", "verb").broker == ("tcp://a:1",)
    assert read("part", "verb", "-b", "tcp://a:1").broker == ("tcp://a:1",)


def test_credentials_come_as_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "me"
    file.touch()
    assert read("part", "verb", "--credentials", str(file)).credentials == file
    monkeypatch.setenv("ZBROKER_CREDENTIALS", str(file))
    assert read("part", "verb").credentials == file


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("nonsense",), "zclient: No such command 'nonsense'"),
        (("send",), "zclient send: Missing argument 'QUEUE'"),
        (("send", "q", "1", "--bogus"), "--bogus"),
        (("send", "q", "{"), "PAYLOAD is no JSON that a job can carry"),
        (("send", "q", "hello"), "a text needs its quotes"),
        (("send", "q", "NaN"), "NaN is no number in JSON"),
        (("send", "q", str(1 << 64)), "int (64 bits)"),
        (("send", "q", "[" * 100_000), "nested too deeply"),
        (("send", "q", "1", "--stdin"), "one of PAYLOAD, --file, --stdin and --batch"),
        (("send", "q", "--file", "/no/such/file"), "does not exist"),
        (("send", "q", "--delay", "soon"), "a duration is written like 5s"),
        (("send", "q", "--at", "noon"), "'noon' is no time"),
        (("send", "q", "--delay", "1s", "--at", "0"), "give --delay or --at, not both"),
        (("send", "q", "--priority", "101"), "an integer from -100 to 100, not 101"),
        (("send", "q", "--ttl", "-1s"), "--ttl"),
        (("send", "q", "--delay", "11000d"), "from 0s to 3660d, not '11000d'"),
        (("send", "q", "--backoff", "quadratic"), "exponential, linear, constant"),
        (("send", "q", "--backoff-jitter", "2"), "a number from 0 to 1"),
        (("send", "q", "--unique-for", "10m"), "go with --unique"),
        (("send", "q", "--unique", "u", "--on-conflict", "fight"), "one of existing, replace, debounce"),
        (("send", "q", "--batch", "-", "--unique", "u"), "--unique goes with one job"),
        (("send", "q", "--max-attempts", "0"), "--max-attempts"),
        (("send", "q", "--header", "novalue"), "write KEY=VALUE"),
        (("send", "q", "--quiet"), "--quiet goes with --batch"),
        (("send", "q", "--batch", "-", "--wait"), "not with --batch"),
        (("send", "q", "--batch", "-", "--id", "x"), "not with --batch"),
        (("send", "two words", "1"), "a queue name consists of"),
        (("send", "q", "1", "--id", "x" * 65), "a job id has 1 to 64 bytes"),
        (("show", "x" * 65), "a job id has 1 to 64 bytes"),
        (("list", "--state", "gone"), "--state"),
        (("list", "--limit", "0"), "--limit"),
        (("queue", "purge", "q"), "--yes confirms it"),
        (("dead", "drop", "q", "--all"), "--yes confirms it"),
        (("dead", "drop", "p", "q", "--all", "--yes"), "--all takes one QUEUE"),
        (("dead", "replay"), "Missing argument"),
        (("dead", "replay", "id", "--reason", "expired"), "--reason, --error and --before go with --all"),
        (("dead", "drop", "q", "--all", "--before", "soon"), "'soon' is no time"),
        (("dead", "list", "--grouped", "--error", "OSError"), "--grouped shows all"),
        (("list", "--since", "1x"), "'1x' is no time"),
        (("queue", "set", "q"), "Missing argument"),
        (("queue", "set", "q", "lease"), "'lease' is no OPTION=VALUE"),
        (("queue", "set", "q", "lease=1m", "lease=2m"), "lease is given twice"),
        (("queue", "set", "q", "leese=1m"), "no such option of a queue: leese; there are lease, max_attempts,"),
        (("queue", "set", "q", "lease=1ms"), "lease: from 100ms to 1d, not '1ms'"),
        (("queue", "unset", "q", "leese"), "no such option of a queue: leese"),
        (("-b", "nowhere", "stats"), "an endpoint looks like"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(zclient: Zclient, argv: tuple[str, ...], says: str) -> None:
    ended = zclient(*argv)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.startswith("zclient") and ended.err.count("\n") == 1


def test_a_program_without_its_verb_shows_its_help(zclient: Zclient) -> None:
    for argv in ((), ("queue",)):
        ended = zclient(*argv)
        assert (ended.code, ended.out) == (2, "")
        assert "Commands:" in ended.err


def test_help_and_version_are_data(zclient: Zclient) -> None:
    assert zclient("--version").out.startswith("zclient ")
    ended = zclient("-h")
    assert ended.code == 0
    listed = [line.split()[0] for line in ended.out.partition("Commands:\n")[2].splitlines() if line.startswith("  ")]
    verbs = ["send", "show", "why", "result", "cancel", "list", "queue", "dead", "schedule", "workflow", "batch"]
    verbs += ["topic", "worker", "stats", "bench"]
    assert listed[: len(verbs)] == verbs


def test_every_option_of_a_job_is_one_of_send(zclient: Zclient) -> None:
    told = zclient("send", "--help").out
    for name in JOB_OPTIONS:
        assert f" --{name.removesuffix('s') if name == 'headers' else name.replace('_', '-')} " in told
    assert "exponential|linear|constant|WAIT,..." in told


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1893456000", 1893456000),
        ("2030-01-01T00:00Z", 1893456000),
        ("2029-12-31T19:00", 1893456000),
        ("10m", 1893455400),
        ("1.5h ago", 1893450600),
        ("2 d ago", 1893283200),
    ],
)
def test_a_time_is_a_date_a_number_or_so_long_ago(
    monkeypatch: pytest.MonkeyPatch, written: str, seconds: float
) -> None:
    monkeypatch.setattr("time.time", lambda: 1893456000.0)
    assert moment_or_age(written) == seconds
