"""Where the shared options may stand, which of two wins, and what else the command line refuses before it connects."""

import pathlib

import click
import pytest

from tests.cli.conftest import Zclient
from zclient.cli.common import Settings, VerbGroup, client_options, run, settings


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
        (("send", "q", "--priority", "101"), "-100<=x<=100"),
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
        (("dead", "replay", "id", "--rate", "3"), "--rate goes with --all"),
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
    assert listed[:9] == ["send", "show", "result", "cancel", "list", "queue", "dead", "worker", "stats"]
