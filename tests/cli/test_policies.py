"""The options of jobs and queues on the command line, against a real broker."""

import threading

from tests.cli.conftest import Zclient, told
from zworker import Consumer


def test_a_queue_is_set_shown_and_unset(call: Zclient, queue: str) -> None:
    ended = call("queue", "set", queue, "lease=1m", "rate=10/1m", "max_attempts=2")
    assert [line.split() for line in ended.out.splitlines()[1:]] == [
        ["lease", "1m", "set"],
        ["rate", "10/1m", "set"],
        ["max_attempts", "2", "set"],
    ]
    document = told(call("queue", "show", queue, "--json"))
    assert isinstance(document, dict)
    assert document["policy"]["lease"] == {"value": "1m", "source": "set"}
    assert document["policy"]["keep_done"] == {"value": "1h", "source": "default"}
    lines = [line.split() for line in call("queue", "show", queue).out.splitlines()]
    assert ["ready", "0"] in lines and ["lease", "1m", "set"] in lines
    ended = call("queue", "unset", queue, "lease")
    assert ended.out.splitlines()[1].split() == ["lease", "30s", "default"]
    assert call("queue", "unset", f"{queue}-unknown", "lease").code == 5


def test_a_drained_queue_refuses_until_it_is_resumed(call: Zclient, queue: str) -> None:
    call("send", queue, "1")
    assert told(call("queue", "drain", queue, "--json")) == {"queue": queue, "closed": True}
    assert call("send", queue, "2").code == 4
    call("queue", "resume", queue)
    assert call("send", queue, "2").code == 0


def test_a_full_queue_ends_with_a_refusal(call: Zclient, queue: str) -> None:
    call("queue", "set", queue, "max_jobs=1")
    call("send", queue, "1")
    ended = call("send", queue, "2", "--timeout", "500ms")
    assert (ended.code, ended.out) == (4, "") and "try again in" in ended.err


def test_a_unique_job_is_sent_once_and_shows_its_text(call: Zclient, queue: str) -> None:
    first = call("send", queue, "1", "--unique", "order-17", "--ttl", "1h", "--backoff", "linear").out.strip()
    ended = call("send", queue, "2", "--unique", "order-17")
    assert (ended.code, ended.out) == (0, f"{first}\n") and "already" in ended.err
    third = call("send", queue, "3", "--unique", "order-17", "--on-conflict", "replace").out.strip()
    assert third != first
    ended = call("result", first)
    assert (ended.code, ended.out) == (1, "") and f"job {first} was replaced" in ended.err
    job = told(call("show", third, "--json"))
    assert isinstance(job, dict) and job["unique"] == "order-17" and job["progress"] is None
    assert "unique" in call("show", third).out
    rows = told(call("list", queue, "--since", "10m", "--state", "ready", "--json"))
    assert isinstance(rows, list) and [row["id"] for row in rows] == [third]
    assert told(call("list", queue, "--until", "10m ago", "--json")) == []


def test_why_a_job_waits(call: Zclient, queue: str) -> None:
    identifier = call("send", queue, "1", "--delay", "1h").out.strip()
    assert len(call("why", identifier).out.splitlines()) >= 1
    document = told(call("why", identifier, "--json"))
    assert isinstance(document, dict)
    assert (document["id"], document["queue"], document["state"]) == (identifier, queue, "scheduled")
    assert all(reason["code"] and reason["text"] for reason in document["reasons"])
    assert call("why", "no-such-job").code == 5


def test_a_job_is_watched_and_the_dead_are_chosen(call: Zclient, broker: str, queue: str) -> None:
    identifier = call("send", queue, "1", "--max-attempts", "1").out.strip()

    def serve() -> None:
        with Consumer(broker, queue, credit=1) as consumer:
            job = consumer.get(timeout=20)
            assert job is not None
            job.nack({"type": "OSError", "text": "no route"})

    worker = threading.Thread(target=serve)
    worker.start()
    ended = call("show", identifier, "--watch", "--timeout", "30s")
    worker.join(30)
    last = ended.out.splitlines()[-1]
    assert (ended.code, ended.err) == (1, "") and "dead" in last and last.endswith("attempts  OSError: no route")
    groups = told(call("dead", "list", queue, "--grouped", "--json"))
    assert isinstance(groups, list)
    assert [(group["jobs"], group["reason"], group["example"]) for group in groups] == [(1, "attempts", identifier)]
    assert "OSError: no route" in call("dead", "list", queue, "--grouped").out
    assert told(call("dead", "list", queue, "--reason", "expired", "--json")) == []
    assert call("dead", "replay", queue, "--all", "--error", "ValueError").code == 0
    rows = told(call("dead", "list", queue, "--error", "OSError", "--json"))
    assert isinstance(rows, list) and [row["id"] for row in rows] == [identifier]
    answer = told(call("dead", "replay", identifier, "--rate", "10", "--json"))
    assert isinstance(answer, dict) and answer["replayed"] == 1 and answer["work"] > 0
