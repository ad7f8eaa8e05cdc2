"""`zclient topic`, against a real broker: text, JSON, exit codes, and a tail that is followed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Zclient, told
from zclient import Client


@pytest.fixture
def call(zclient: Zclient, broker: str, monkeypatch: pytest.MonkeyPatch) -> Zclient:
    """Runs `zclient topic` against the real broker."""
    monkeypatch.setenv("ZBROKER_ENDPOINT", broker)
    return lambda *argv: zclient("topic", *argv)


def test_bind_publish_list_and_unbind(call: Zclient, broker: str) -> None:
    assert call("bind", "c1.*.new", "c1-mail", "--filter", "amount>=10", "--filter", "!test").out == (
        "c1-mail is bound to c1.*.new\n"
    )
    ended = call("publish", "c1.a.new", '{"n": 1}', "--header", "amount=12", "--priority", "3", "--id", "c1-id")
    assert (ended.code, ended.out) == (0, "c1-id 1\n")
    assert told(call("publish", "c1.a.new", "--header", "amount=12", "--header", "test=1", "--json"))["queues"] == 0
    with Client(broker) as client:
        (job,) = client.jobs("c1-mail")
        status = client.get(job.id)
    assert (status.payload, status.priority, status.headers) == ({"n": 1}, 3, {"amount": "12", "topic": "c1.a.new"})
    head, *lines = call("list", "c1-mail").out.splitlines()
    assert head.split() == ["pattern", "queue", "filters", "state", "since"]
    assert lines[0].split()[:5] == ["c1.*.new", "c1-mail", "amount>=10;", "!test", "live"]
    (row,) = told(call("list", "c1-mail", "--json"))["bindings"]
    assert row.pop("created_at").endswith("Z")
    expected = {"pattern": "c1.*.new", "queue": "c1-mail", "filters": ["amount>=10", "!test"], "backfilling": False}
    assert row == expected
    assert call("unbind", "c1.*.new", "c1-mail").out == "c1-mail is no longer bound to c1.*.new\n"
    assert call("unbind", "c1.*.new", "c1-mail").code == 5
    assert "no queue is bound" in call("list", "c1-mail").err


def test_payloads_from_files_and_refusals(call: Zclient, broker: str, tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b"\0raw")
    assert call("bind", "c2", "c2-q").code == 0
    assert call("publish", "c2", "--file", str(file)).out.endswith(" 1\n")
    with Client(broker) as client:
        assert client.get(next(client.jobs("c2-q")).id).payload == b"\0raw"
        client.drain("c2-q")
    assert call("publish", "c2", "1").code == 4
    for wrong in (
        ("publish", "c2.*", "1"),
        ("publish", "c2", "1", "--file", str(file)),
        ("publish", "c2", "no json"),
        ("publish", "c2", "--unique", "x"),
        ("publish", "c2", "--delay", "1s", "--at", "2031-01-01"),
        ("bind", "c2..x", "q"),
        ("bind", "c2", "q", "--filter", "x!=1"),
        ("bind", "c2", "q", "--from", "soon"),
        ("keep", "c2"),
        ("keep", "c2", "--bytes", "much"),
        ("keep", "c2", "--for", "0s"),
        ("forget", "c2"),
        ("tail", "c2", "--limit", "0"),
    ):
        ended = call(*wrong)
        assert ended.code == 2, wrong
        assert ended.err.count("\n") == 1, wrong


def test_a_kept_topic_is_read_bound_and_forgotten(call: Zclient) -> None:
    assert call("keep", "c3.#", "--for", "1d", "--bytes", "1MB").out == "c3.# is kept for 1d, up to 1000000 bytes\n"
    for n in range(3):
        assert call("publish", f"c3.{n}", f'{{"n": {n}}}', "--header", f"n={n}").code == 0
    ended = call("tail", "c3.#", "--from", "beginning", "--limit", "2")
    assert (ended.code, ended.err) == (0, "")
    first, second = ended.out.splitlines()
    assert first.split("  ")[1] == "c3.0" and first.endswith('  {"n": 0}  n=0') and second.endswith("n=1")
    ended = call("tail", "c3.#", "--from", "1h ago", "--filter", "n>=1", "--timeout", "10ms", "--json")
    documents = [json.loads(line) for line in ended.out.splitlines()]
    assert [(one["topic"], one["payload"], one["missed"]) for one in documents] == [
        ("c3.1", {"n": 1}, 0),
        ("c3.2", {"n": 2}, 0),
    ]
    assert (
        call("bind", "c3.#", "c3-late", "--from", "beginning").out == "c3-late is bound to c3.# and gets what is kept\n"
    )
    (row,) = [row for row in told(call("list", "--json"))["kept"] if row["pattern"] == "c3.#"]
    assert (row["keep_for"], row["keep_bytes"], row["publications"]) == ("1d", 1_000_000, 3)
    assert "c3.#" in call("list").out.partition("\n\n")[2]
    assert call("forget", "c3.#", "--yes").out == "3 publications are gone\n"
    assert call("forget", "c3.#", "--yes").code == 5


@pytest.mark.parametrize("ends", ["interrupt", "reader"])
def test_a_tail_that_is_followed_ends_cleanly(
    call: Zclient, broker: str, start_zclient: Callable[..., subprocess.Popen[bytes]], ends: str
) -> None:
    topic = f"c4.{ends}"
    with Client(broker) as client:
        client.keep_topic(topic, keep_for="1h")
        client.publish(topic, 0)
        process = start_zclient("topic", "tail", topic, "--from", "beginning", "-b", broker, "--json")
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["payload"] == 0
        client.publish(topic, "\x1b[31mlive")
        assert json.loads(process.stdout.readline())["payload"] == "\x1b[31mlive"
        if ends == "interrupt":
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        else:
            process.stdout.close()
            while process.poll() is None:
                client.publish(topic, 1)
            assert process.returncode == 141
        assert b"Traceback" not in process.stderr.read()
