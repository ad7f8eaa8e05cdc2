"""What verbs ask of a broker, and how they print its answers: against a broker whose answers the test writes."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import Zclient
from tests.cli.scripted import ScriptedBroker
from zclient.protocol import messages as m
from zclient.protocol.options import QUEUE_OPTIONS

POLICY = {
    "lease": [60_000, "set"],
    "rate": [[10, 60_000], "config"],
    "backoff": [[1000, 10_000], "default"],
    "dead_to": ["", "default"],
}


def arguments(scripted: ScriptedBroker, verb: str) -> dict[str, Any]:
    """What came with the next question or order of this verb."""
    while True:
        message = scripted.seen.get(timeout=10)
        if isinstance(message, m.Ask | m.Order) and message.verb == verb:
            return message.arguments


def options(scripted: ScriptedBroker) -> dict[str, Any]:
    """The options of the next job that came."""
    put = scripted.wait_for(m.Put)
    assert isinstance(put, m.Put)
    return put.groups[0].options


def answers_puts(answer: Callable[[m.Put], m.Message]) -> Callable[[m.Message], list[m.Message]]:
    return lambda message: [answer(message)] if isinstance(message, m.Put) else []


# ---- send


def test_send_says_every_option_in_the_units_of_the_wire(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = answers_puts(lambda put: m.Ok([put.number]))
    ended = zclient(
        *("-b", scripted.endpoint, "send", "q", "1", "--id", "j1", "--priority", "-7", "--key", "k", "--ttl", "1h"),
        *("--max-attempts", "3", "--backoff", "1s,10s,1m", "--backoff-min", "300ms", "--backoff-max", "1d"),
        *("--backoff-jitter", "0.5", "--unique", "order-17", "--unique-for", "10m", "--on-conflict", "debounce"),
        *("--header", "a=b", "--at", "1893456000", "--after", "p1", "--after", "p2", "--on-parent-death", "wait"),
    )
    assert (ended.code, ended.out, ended.err) == (0, "j1\n", "")
    assert options(scripted) == {
        "priority": -7,
        "key": "k",
        "ttl": 3_600_000,
        "max_attempts": 3,
        "backoff": [1000, 10_000, 60_000],
        "backoff_min": 300,
        "backoff_max": 86_400_000,
        "backoff_jitter": 0.5,
        "unique": "order-17",
        "unique_for": 600_000,
        "on_conflict": "debounce",
        "headers": {"a": "b"},
        "at": 1893456000_000,
        "after": [b"p1", b"p2"],
        "on_parent_death": "wait",
    }


def test_a_job_that_was_there_already_is_the_one_that_is_told(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = answers_puts(lambda put: m.Answer(put.number, {"instead": [[put.groups[0].ids[0], b"first"]]}))
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--unique", "u")
    assert (ended.code, ended.out) == (0, "first\n")
    assert ended.err == "job first has this unique text already; no other was stored\n"
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--unique", "u", "--json")
    assert json.loads(ended.out) == {"id": "first", "existing": True}


def test_a_full_queue_is_a_refusal_also_when_the_time_is_over(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = answers_puts(
        lambda put: m.Failure(put.number, "queue_full", "q is full", {"retry_after_ms": 50_000})
    )
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--timeout", "400ms")
    assert (ended.code, ended.out, ended.err) == (4, "", "zclient: q is full; try again in 50s\n")
    scripted.script = answers_puts(lambda put: m.Failure(put.number, "closed", "q is being drained", {}))
    assert zclient("-b", scripted.endpoint, "send", "q", "1").code == 4


# ---- queues


def test_a_policy_is_shown_as_people_write_it(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(queue={"queue": "q", "ready": 3, "policy": POLICY})
    lines = zclient("-b", scripted.endpoint, "queue", "show", "q").out.splitlines()
    assert [line.split() for line in lines] == [
        ["queue", "q"],
        ["ready", "3"],
        [],
        ["option", "value", "from"],
        ["lease", "1m", "set"],
        ["rate", "10/1m", "config"],
        ["backoff", "1s,10s", "default"],
        ["dead_to", "none", "default"],
    ]
    document = json.loads(zclient("-b", scripted.endpoint, "queue", "show", "q", "--json").out)
    assert document["policy"]["rate"] == {"value": "10/1m", "source": "config"}


def test_queue_set_and_unset_tell_what_it_came_to(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(set={"policy": POLICY}, unset={"policy": POLICY})
    ended = zclient("-b", scripted.endpoint, "queue", "set", "q", "lease=1m", "rate=10/1m", "key-limit=3")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split() for line in ended.out.splitlines()[1:]] == [
        ["lease", "1m", "set"],
        ["rate", "10/1m", "config"],
    ]
    told = {"lease": 60_000, "rate": [10, 60_000], "key_limit": 3}
    assert arguments(scripted, "set") == {"queue": "q", "options": told}
    ended = zclient("-b", scripted.endpoint, "queue", "unset", "q", "dead-to", "--json")
    assert json.loads(ended.out)["policy"]["dead_to"] == {"value": "none", "source": "default"}
    assert arguments(scripted, "unset") == {"queue": "q", "options": ["dead_to"]}


def test_what_a_queue_shows_can_be_set_again(zclient: Zclient, scripted: ScriptedBroker) -> None:
    policy = {name: [option.default, "default"] for name, option in QUEUE_OPTIONS.items()}
    scripted.answer_asks(queue={"queue": "q", "policy": policy}, set={"policy": policy})
    shown = json.loads(zclient("-b", scripted.endpoint, "queue", "show", "q", "--json").out)["policy"]
    ended = zclient("-b", scripted.endpoint, "queue", "set", "q", *(f"{n}={o['value']}" for n, o in shown.items()))
    assert (ended.code, ended.err) == (0, "")
    assert arguments(scripted, "set")["options"] == {name: option.default for name, option in QUEUE_OPTIONS.items()}


def test_queue_drain(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(drain={"paused": False, "closed": True})
    ended = zclient("-b", scripted.endpoint, "queue", "drain", "q")
    assert ended.out == "q takes no new jobs; `zclient queue resume q` opens it\n"


# ---- why, show


def test_why_says_each_reason_and_the_attempts(zclient: Zclient, scripted: ScriptedBroker) -> None:
    attempt = {"number": 1, "started_ms": 0, "ended_ms": 1000, "worker": "w1", "kind": "error"}
    scripted.answer_asks(
        why={
            "id": b"j1",
            "queue": "q",
            "state": "scheduled",
            "reasons": [
                {"code": "backoff", "text": "attempt 1 of 5 failed", "due_at": 1893456000_000},
                {"code": "held", "text": "and \x1b[31mheld", "held_by": [b"j2"]},
            ],
            "attempts": [{**attempt, "error": {"type": "OSError", "text": "no route"}}],
        }
    )
    ended = zclient("-b", scripted.endpoint, "why", "j1")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[:3] == ["attempt 1 of 5 failed", "and \\x1b[31mheld", ""]
    assert lines[3].startswith("attempt 1, error, 1969-12-31T19:00:01-05:00 (") and lines[3].endswith("), on w1")
    assert lines[4] == "    OSError: no route"
    document = json.loads(zclient("-b", scripted.endpoint, "why", "j1", "--json").out)
    assert document["id"] == "j1" and document["reasons"][1]["held_by"] == ["j2"]
    assert document["reasons"][0]["due_at"] == "2030-01-01T00:00:00.000Z"
    assert document["attempts"][0]["ended_at"] == "1970-01-01T00:00:01.000Z"
    scripted.answer_asks(why=m.Failure(0, "not_found", "no job j1", {}))
    assert zclient("-b", scripted.endpoint, "why", "j1").code == 5


def test_show_tells_progress_expiry_and_unique_text(zclient: Zclient, scripted: ScriptedBroker) -> None:
    progress = {"fraction": 0.4, "text": "page 2", "at": 1893456000_000}
    row = {"id": b"j1", "queue": "q", "state": "leased", "progress": progress}
    scripted.answer_asks(show={**row, "expires_at": 1893456000_000, "unique": "order-17"})
    lines = [line.split(maxsplit=1) for line in zclient("-b", scripted.endpoint, "show", "j1").out.splitlines()]
    fields = {line[0]: line[1] for line in lines if len(line) == 2}
    assert fields["progress"].startswith("40% page 2, 2029-12-31T19:00:00-05:00 (")
    assert fields["expires"].startswith("2029-12-31T19:00:00-05:00 (") and fields["unique"] == "order-17"
    document = json.loads(zclient("-b", scripted.endpoint, "show", "j1", "--json").out)
    assert document["progress"] == {"fraction": 0.4, "text": "page 2", "at": "2030-01-01T00:00:00.000Z"}
    assert (document["expires_at"], document["unique"]) == ("2030-01-01T00:00:00.000Z", "order-17")


def test_show_tells_what_a_job_is_after(zclient: Zclient, scripted: ScriptedBroker) -> None:
    row = {"id": b"j1", "queue": "q", "state": "blocked", "options": {"on_parent_death": "run"}}
    scripted.answer_asks(show={**row, "after": [b"p%d" % n for n in range(1200)]})
    lines = zclient("-b", scripted.endpoint, "show", "j1").out.splitlines()
    told = [" ".join(line.split()) for line in lines]
    assert "after p0, p1, p2, p3, p4 and 1,195 more" in told
    assert "on_parent_death run" in told
    document = json.loads(zclient("-b", scripted.endpoint, "show", "j1", "--json").out)
    assert document["after"] == [f"p{n}" for n in range(1200)]


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("dead", 1), ("cancelled", 1)])
def test_show_watch_prints_a_line_a_change_until_the_end(
    zclient: Zclient, scripted: ScriptedBroker, state: str, code: int
) -> None:
    row = {"id": b"j1", "queue": "q", "attempt": 1}
    running = {**row, "state": "leased", "progress": {"fraction": 0.5, "text": "half", "at": 0}}

    def script(message: m.Message) -> list[m.Message]:
        match message:
            case m.Watch(ids=[b"j1"], changes=True):
                ended = m.Changed([{**row, "state": state, "reason": None if state == "done" else "why"}])
                return [m.Changed([running]), ended, m.Finished([(b"j1", state, None, None)])]
            case m.Ask(verb="show"):
                return [m.Answer(message.number, {**row, "state": "ready"})]
        return []

    scripted.script = script
    ended = zclient("-b", scripted.endpoint, "show", "j1", "--watch")
    assert ended.code == code and ended.err == ""
    last = ended.out.splitlines()[-1].split("  ")
    assert last[1:] == ([state, "attempt 1"] if state == "done" else [state, "attempt 1", "why"])
    ended = zclient("-b", scripted.endpoint, "show", "j1", "--watch", "--json")
    assert [json.loads(line)["state"] for line in ended.out.splitlines()][-1] == state


def test_show_watch_of_a_job_that_takes_its_time(zclient: Zclient, scripted: ScriptedBroker) -> None:
    row = {"id": b"j1", "queue": "q", "state": "ready"}
    scripted.script = lambda message: (
        [m.Answer(message.number, row)]
        if isinstance(message, m.Ask)
        else [m.Changed([row])]
        if isinstance(message, m.Watch)
        else []
    )
    ended = zclient("-b", scripted.endpoint, "show", "j1", "--watch", "--timeout", "300ms")
    assert ended.code == 1 and ended.out.count("ready") == 1 and "did not end in time" in ended.err


# ---- listings and dead jobs


def test_a_listing_is_bounded_in_time(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(list={"jobs": [], "cursor": None})
    verb = ("-b", scripted.endpoint, "list", "q", "--since", "2030-01-01T00:00Z", "--until", "1893456001")
    assert zclient(*verb).code == 0
    asked = arguments(scripted, "list")
    assert (asked["since"], asked["until"], asked["limit"]) == (1893456000_000, 1893456001_000, 101)


def test_dead_jobs_are_chosen_by_reason_error_and_time(zclient: Zclient, scripted: ScriptedBroker) -> None:
    work = {"work": 7, "dead": 3}
    scripted.answer_asks(dead={"jobs": [], "cursor": None}, replay=work, drop=work)
    chosen = ("--reason", "attempts", "--error", "OSError")
    assert zclient("-b", scripted.endpoint, "dead", "list", "q", *chosen).code == 0
    told = {"queue": "q", "reason": "attempts", "error": "OSError"}
    assert arguments(scripted, "dead") == {**told, "limit": 101}
    ended = zclient(
        *("-b", scripted.endpoint, "dead", "replay", "q", "--all", *chosen),
        *("--before", "1893456000", "--rate", "10", "--json"),
    )
    assert json.loads(ended.out) == {"replayed": 3, "work": 7}
    assert arguments(scripted, "replay") == {**told, "before": 1893456000_000, "rate": 10}
    ended = zclient("-b", scripted.endpoint, "dead", "drop", "q", "--all", *chosen, "--yes")
    assert ended.out == "q's dead jobs are being dropped; `zclient queue show q` shows how many are left\n"
    assert arguments(scripted, "drop") == told
    ended = zclient("-b", scripted.endpoint, "dead", "replay", "j1", "j2", "--rate", "1")
    assert ended.out == "3 jobs are being replayed; `zclient queue list` shows how many are left\n"
    assert arguments(scripted, "replay") == {"ids": [b"j1", b"j2"], "rate": 1}


def test_a_dead_job_whose_unique_text_is_taken_is_not_replayed(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(replay=m.Failure(0, "conflict", "job j2 has its unique text", {"id": b"j2"}))
    ended = zclient("-b", scripted.endpoint, "dead", "replay", "j1")
    assert (ended.code, ended.err) == (4, "zclient: job j2 has its unique text\n")


def test_dead_jobs_are_counted_in_groups(zclient: Zclient, scripted: ScriptedBroker) -> None:
    group = {"queue": "q", "reason": "attempts", "error": "OSError", "text": "no route", "jobs": 12}
    scripted.answer_asks(dead_groups=[{**group, "first_at": 0, "last_at": 1893456000_000, "example": b"j1"}])
    ended = zclient("-b", scripted.endpoint, "dead", "list", "--grouped", "--limit", "5")
    heading, line = ended.out.splitlines()
    assert heading.split() == ["jobs", "queue", "reason", "error", "last", "example"]
    assert line.startswith("  12  q      attempts  OSError: no route  2029-12-31T19:00:00-05:00 (")
    assert line.endswith("  j1")
    assert arguments(scripted, "dead_groups") == {"limit": 5}
    document = json.loads(zclient("-b", scripted.endpoint, "dead", "list", "q", "--grouped", "--json").out)
    assert (document[0]["example"], document[0]["last_at"]) == ("j1", "2030-01-01T00:00:00.000Z")
    assert arguments(scripted, "dead_groups") == {"queue": "q", "limit": 100}
