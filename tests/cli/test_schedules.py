"""`zclient schedule`, against a real broker: text, JSON and exit codes."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Zclient, told
from zclient import Client


def listed(call: Zclient, name: str) -> Any:
    """What `list` says of one schedule."""
    (found,) = [one for one in told(call("schedule", "list", "--json")) if one["name"] == name]
    return found


def test_a_schedule_is_added_listed_and_removed(call: Zclient) -> None:
    ended = call(
        "schedule", "add", "report", "30 3 * * mon-fri", "reports", '{"kind": "daily"}', "--tz", "Europe/Berlin"
    )
    assert ended.code == 0
    assert ended.out.startswith("report: At 03:30 on Monday through Friday (Europe/Berlin); next at 20")
    head, *lines = call("schedule", "list").out.splitlines()
    assert head.split() == ["name", "queue", "next", "last", "jobs", "when", "zone"]
    (line,) = [line for line in lines if line.startswith("report ")]
    assert line.split()[:2] == ["report", "reports"] and "At 03:30 on Monday through Friday" in line
    document = listed(call, "report")
    assert document.pop("next_at").endswith("Z")
    assert document == {
        "name": "report",
        "queue": "reports",
        "cron": "30 3 * * mon-fri",
        "every": None,
        "tz": "Europe/Berlin",
        "words": "At 03:30 on Monday through Friday",
        "last_at": None,
        "last_id": None,
        "paused": False,
        "declared": False,
        "overlap": "allow",
        "catch_up": "one",
        "catch_up_limit": 100,
        "jobs": 0,
        "skipped": 0,
    }
    assert call("schedule", "remove", "report").out == "report is removed\n"
    assert call("schedule", "remove", "report").code == 5
    assert "report" not in [one["name"] for one in told(call("schedule", "list", "--json"))]


def test_intervals_options_and_json(call: Zclient, broker: str) -> None:
    options = ["--overlap", "skip", "--catch-up", "all", "--catch-up-limit", "7", "--priority", "5", "--header", "a=b"]
    made = told(call("schedule", "add", "often", "every 90s", "often-q", "[1]", *options, "--ttl", "1m", "--json"))
    assert (made["every"], made["cron"], made["words"]) == ("90s", None, "Every 90s")
    assert (made["overlap"], made["catch_up"], made["catch_up_limit"]) == ("skip", "all", 7)
    identifier = told(call("schedule", "run", "often", "--json"))["id"]
    with Client(broker) as client:
        status = client.get(identifier)
    assert (status.queue, status.payload, status.priority) == ("often-q", [1], 5)
    assert (status.headers["a"], status.headers["schedule"]) == ("b", "often")
    assert call("schedule", "run", "often").out.startswith("often@")
    assert listed(call, "often")["jobs"] == 2
    assert "Every 2m" in call("schedule", "add", "often", "@every 2m", "often-q").out
    assert listed(call, "often")["jobs"] == 2


def test_pause_and_resume(call: Zclient) -> None:
    ended = call("schedule", "add", "rests", "0 0 1 1 *", "q", "--paused")
    assert ended.out == "rests: At 00:00 on January 1 (UTC); paused\n"
    assert listed(call, "rests")["next_at"] is None
    assert call("schedule", "resume", "rests").out.startswith("rests: next at ")
    assert listed(call, "rests")["next_at"].endswith("-01-01T00:00:00.000Z")
    assert call("schedule", "pause", "rests").out == "rests is paused; `zclient schedule resume rests` goes on\n"
    assert told(call("schedule", "pause", "rests", "--json")) == {"name": "rests", "paused": True}
    assert [
        line for line in call("schedule", "list").out.splitlines() if line.startswith("rests ") and "paused" in line
    ]
    assert told(call("schedule", "remove", "rests", "--json")) == {"name": "rests", "removed": True}


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("add", "bad", "61 * * * *", "q"), 2, "no cron expression"),
        (("add", "bad", "* * * * *", "q", "--tz", "Mars/Base"), 2, "its name is like Europe/Berlin, or UTC\n"),
        (("add", "bad", "every 5 parsecs", "q"), 2, "duration"),
        (("add", "bad", "every 10ms", "q"), 2, "interval"),
        (("add", "bad name", "* * * * *", "q"), 2, "name of a schedule"),
        (("add", "bad", "* * * * *", "no queue"), 2, "queue name"),
        (("add", "bad", "* * * * *", "q", "not json"), 2, "JSON"),
        (("add", "bad", "* * * * *", "q", "--unique", "u"), 2, "--unique"),
        (("add", "bad", "* * * * *", "q", "--at", "2030-01-01"), 2, "--at"),
        (("add", "bad", "* * * * *", "q", "--after", "j"), 2, "--after"),
        (("add", "bad", "* * * * *", "q", "--overlap", "maybe"), 2, "maybe"),
        (("add", "bad", "* * * * *", "q", "--catch-up-limit", "0"), 2, "0"),
        (("add", "bad", "* * * * *"), 2, "QUEUE"),
        (("run", "nobody"), 5, "nobody"),
        (("pause", "nobody"), 5, "nobody"),
        (("resume", "nobody"), 5, "nobody"),
        (("remove", "nobody"), 5, "nobody"),
    ],
)
def test_what_cannot_be_ends_with_its_code(call: Zclient, argv: tuple[str, ...], code: int, says: str) -> None:
    ended = call("schedule", *argv)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err and "Traceback" not in ended.err
    assert "bad" not in [one["name"] for one in told(call("schedule", "list", "--json"))]


def test_the_help_offers_only_what_a_schedule_takes(zclient: Zclient) -> None:
    told = zclient("schedule", "add", "--help").out
    assert "--priority" in told and "--ttl" in told
    for option in ("--at ", "--unique", "--after", "--on-parent-death", "--on-conflict"):
        assert option not in told


def test_without_a_broker(zclient: Zclient, nobody: str) -> None:
    assert zclient("schedule", "list", "-b", nobody, "--timeout", "200ms").code == 3


def test_without_schedules_it_says_so(zclient: Zclient, broker: str) -> None:
    with Client(broker) as client:
        for one in client.schedules():
            client.remove_schedule(one.name)
    ended = zclient("schedule", "list", "-b", broker)
    assert (ended.code, ended.out) == (0, "") and "zclient schedule add" in ended.err
    assert json.loads(zclient("schedule", "list", "-b", broker, "--json").out) == []
