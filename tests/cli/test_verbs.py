"""Every verb against a real broker, with a consumer in this process where a job has to be run."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Zclient, told
from zclient import Client
from zworker import Consumer, Job


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Sets what stands on stdin."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def serve(broker: str, queue: str, settle: Callable[[Job], None], jobs: int = 1) -> None:
    """Settle so many jobs of a queue."""
    with Consumer(broker, queue, credit=1) as consumer:
        for _ in range(jobs):
            job = consumer.get(timeout=20)
            assert job is not None
            settle(job)


def kill(call: Zclient, broker: str, queue: str, jobs: int = 1) -> list[str]:
    """The ids of so many jobs that died."""
    ids = [call("send", queue, "{}", "--max-attempts", "1").out.strip() for _ in range(jobs)]
    serve(
        broker, queue, lambda job: job.nack({"type": "OSError", "text": "no \x1b[31mroute", "traceback": "a\nb"}), jobs
    )
    return ids


# ---- send, show, result


def test_send_prints_the_id_and_show_tells_all_of_it(call: Zclient, queue: str) -> None:
    identifier = call(
        *("send", queue, '{"to": "ada"}', "--priority", "-7", "--key", "k", "--max-attempts", "3"),
        *("--header", "a=b=c", "--header", "empty=", "--at", "2031-05-04T12:30Z"),
    ).out.strip()
    job = told(call("show", identifier, "--json"))
    assert isinstance(job, dict)
    assert {name: job[name] for name in ("queue", "state", "priority", "key", "payload", "headers", "due_at")} == {
        "queue": queue,
        "state": "scheduled",
        "priority": -7,
        "key": "k",
        "payload": {"to": "ada"},
        "headers": {"a": "b=c", "empty": ""},
        "due_at": "2031-05-04T12:30:00.000Z",
    }
    text = call("show", identifier).out
    assert f"id            {identifier}\n" in text
    assert "2031-05-04T07:30:00-05:00 (in " in text
    assert '"to": "ada"' in text


def test_an_id_of_ones_own_is_the_same_job_once(call: Zclient, queue: str) -> None:
    mine = f"{queue}-1"[:64]
    assert told(call("--json", "send", queue, "1", "--id", mine)) == {"id": mine}
    assert call("send", queue, "1", "--id", mine).out == f"{mine}\n"
    ended = call("send", queue, "2", "--id", mine)
    assert ended.code == 4 and mine in ended.err
    counts = told(call("queue", "show", queue, "--json"))
    assert isinstance(counts, dict) and counts["ready"] == 1


def test_without_a_payload_it_is_null(call: Zclient, queue: str) -> None:
    identifier = call("send", queue).out.strip()
    job = told(call("show", identifier, "--json"))
    assert isinstance(job, dict) and job["payload"] is None


def test_bytes_from_a_file_or_stdin_travel_as_they_are(
    call: Zclient, broker: str, queue: str, tmp_path: Path, stdin: Callable[[bytes], None]
) -> None:
    raw = bytes(range(256)) * 400
    file = tmp_path / "payload"
    file.write_bytes(raw)
    first = call("send", queue, "--file", str(file)).out.strip()
    stdin(raw)
    second = call("send", queue, "--stdin").out.strip()
    serve(broker, queue, lambda job: job.ack(job.payload), jobs=2)
    for identifier in (first, second):
        assert call("result", identifier).raw == raw
    assert "102400 bytes: b'\\x00" in call("show", first).out
    document = told(call("result", first, "--json"))
    assert isinstance(document, dict) and list(document) == ["base64"]


@pytest.mark.parametrize(
    ("value", "printed"),
    [("plain text", "plain text\n"), ({"a": [1]}, '{\n  "a": [\n    1\n  ]\n}\n'), (None, "null\n"), (1.5, "1.5\n")],
    ids=["str", "map", "none", "float"],
)
def test_a_result_is_text_or_json(call: Zclient, broker: str, queue: str, value: object, printed: str) -> None:
    identifier = call("send", queue, "1").out.strip()
    ended = call("result", identifier)
    assert (ended.code, ended.out) == (1, "")
    assert "is ready; --wait waits" in ended.err
    serve(broker, queue, lambda job: job.ack(value))
    for argv in (
        ("result", identifier),
        ("result", identifier, "--wait"),
        ("result", identifier, "--wait", "--timeout", "9s"),
    ):
        assert call(*argv).out == printed
    assert told(call("result", identifier, "--json")) == value


def test_a_result_of_which_nothing_is_kept_is_told_for_a_moment(call: Zclient, broker: str, queue: str) -> None:
    call("queue", "set", queue, "keep_done=0")
    identifier = call("send", queue, "1").out.strip()
    serve(broker, queue, lambda job: job.ack("done"))
    assert call("result", identifier).out == call("result", identifier, "--wait").out == "done\n"
    assert call("show", identifier).code == 5


# ---- send --batch


def test_a_batch_prints_its_ids_in_order(call: Zclient, broker: str, queue: str, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text("".join(f'{{"n": {n}}}\n' for n in range(1200)) + "\n")
    ids = call("send", queue, "--batch", str(file)).out.split()
    assert len(set(ids)) == 1200
    with Client(broker) as client:
        assert [client.get(ids[n]).payload for n in (0, 1, 1199)] == [{"n": 0}, {"n": 1}, {"n": 1199}]
    assert call("send", queue, "--batch", str(file), "--quiet").out == "1200\n"
    assert told(call("send", queue, "--batch", str(file), "--quiet", "--json")) == {"sent": 1200}


def test_a_bad_line_is_named_and_what_came_before_it_is_stored(
    call: Zclient, queue: str, stdin: Callable[[bytes], None]
) -> None:
    stdin(b'1\n\n2\n{"a":\n4\n')
    ended = call("send", queue, "--batch", "-", "--json")
    assert ended.code == 2
    assert "line 4 is no payload: " in ended.err and "(jobs stored before it: 2; after it: none)" in ended.err
    assert len(json.loads(ended.out)["ids"]) == 2
    counts = told(call("queue", "show", queue, "--json"))
    assert isinstance(counts, dict) and counts["ready"] == 2


def test_a_refused_batch_tells_what_is_stored(
    call: Zclient, queue: str, tmp_path: Path, stdin: Callable[[bytes], None]
) -> None:
    stdin(b"1\n" * 500 + json.dumps("x" * 1_100_000).encode() + b"\n")
    ended = call("send", queue, "--batch", "-", "--quiet")
    assert (ended.code, ended.out) == (4, "500\n")
    assert "(jobs stored: 500, perhaps stored: 0)" in ended.err and ended.err.count("\n") == 1


def test_a_batch_that_reaches_nobody_stores_nothing(
    zclient: Zclient, nobody: str, stdin: Callable[[bytes], None]
) -> None:
    stdin(b"1\n2\n")
    ended = zclient("send", "q", "--batch", "-", "-q", "-b", nobody, "--timeout", "200ms")
    assert (ended.code, ended.out) == (3, "0\n")
    assert "no broker at" in ended.err


# ---- the other verbs


def test_cancel(call: Zclient, queue: str) -> None:
    identifier = call("send", queue, "1").out.strip()
    assert told(call("cancel", identifier, "--json")) == {"id": identifier, "state": "cancelled"}
    ended = call("result", identifier)
    assert (ended.code, ended.err) == (1, f"zclient: job {identifier} was cancelled\n")
    assert call("cancel", "no-such-job").code == 5


def test_list_says_when_there_are_more(call: Zclient, queue: str) -> None:
    ids = [call("send", queue, str(n)).out.strip() for n in range(3)]
    rows = told(call("list", queue, "--json"))
    assert isinstance(rows, list) and sorted(row["id"] for row in rows) == sorted(ids)
    assert told(call("list", queue, "--state", "dead", "--json")) == []
    ended = call("list", queue, "--limit", "2", "--state", "ready")
    assert len(ended.out.splitlines()) == 3 and ended.out.startswith("id ")
    assert ended.err == "there are more than these 2; --limit shows more\n"
    assert call("list", queue, "--state", "done").err == "there are none\n"
    assert call("list", f"{queue}-unknown").code == 5


def test_pause_purge_and_resume(call: Zclient, queue: str) -> None:
    for n in range(3):
        call("send", queue, str(n))
    assert told(call("queue", "pause", queue, "--json")) == {"queue": queue, "paused": True}
    assert f"{queue} " in call("queue", "list").out
    listed = told(call("queue", "list", "--json"))
    assert isinstance(listed, list)
    assert [(row["ready"], row["paused"]) for row in listed if row["queue"] == queue] == [(3, True)]
    assert call("queue", "purge", queue, "--yes").out == f"3 jobs removed from {queue}\n"
    assert told(call("queue", "resume", queue, "--json")) == {"queue": queue, "paused": False, "closed": False}
    text = call("queue", "show", queue).out
    assert "ready" in text and "max_attempts" in text and "no\n" in text
    assert call("queue", "show", f"{queue}-unknown").code == 5


def test_dead_jobs_are_listed_shown_replayed_and_dropped(call: Zclient, broker: str, queue: str) -> None:
    first, second, third = kill(call, broker, queue, jobs=3)
    rows = told(call("dead", "list", queue, "--json"))
    assert isinstance(rows, list) and {row["id"] for row in rows} == {first, second, third}
    listing = call("dead", "list", queue).out
    assert "OSError: no \\x1b[31mroute" in listing and first in listing

    document = told(call("dead", "show", first, "--json"))
    assert isinstance(document, dict) and document["state"] == "dead"
    assert document["attempt_log"][0]["error"]["type"] == "OSError"
    text = call("dead", "show", first).out
    assert "attempt 1" in text and "    a\n    b\n" in text and "\x1b" not in text
    ended = call("result", first)
    assert ended.code == 1 and "OSError" in ended.err

    assert told(call("dead", "replay", first, "--json")) == {"replayed": 1}
    ended = call("dead", "show", first)
    assert ended.code == 5 and "is not dead but ready" in ended.err
    assert call("dead", "drop", second).out == "1 jobs dropped\n"
    assert call("show", second).code == 5
    assert call("dead", "replay", "no-such-job").code == 5


def test_whole_queues_of_dead_jobs(call: Zclient, broker: str, queue: str) -> None:
    kill(call, broker, queue, jobs=2)
    ended = call("dead", "replay", queue, "--all", "--rate", "1000")
    assert ended.code == 0 and ended.err == ""
    with Client(broker) as client:
        serve(broker, queue, lambda job: job.nack("again"), jobs=2)
        assert len(list(client.dead(queue))) == 2
    assert call("dead", "drop", queue, "--all", "--yes").code == 0


def test_workers_are_listed_with_what_they_serve(call: Zclient, broker: str, queue: str) -> None:
    with Client(broker) as client, Consumer(broker, queue, credit=3, name=f"me-{queue}") as consumer:
        job = client.send(queue, 1)
        held = consumer.get(timeout=20)
        assert held is not None
        held.progress(0.5, "half")
        assert next(status for status in client.watch(job.id) if status.progress).progress.text == "half"
        rows = told(call("worker", "list", "--json"))
        assert isinstance(rows, list)
        assert [(row["capacity"], row["leased"]) for row in rows if row["name"] == f"me-{queue}"] == [(3, 1)]
        line = next(line for line in call("worker", "list").out.splitlines() if f"me-{queue}" in line)
        assert line.split()[-1] == queue and line.split()[-2] == "ago"
        assert told(call("show", job.id, "--json"))["state"] == "leased"  # type: ignore[index]


def test_stats_are_fields_or_one_document(call: Zclient) -> None:
    counters = told(call("stats", "--json"))
    assert isinstance(counters, dict) and "workers" in counters
    assert "workers" in call("stats").out
