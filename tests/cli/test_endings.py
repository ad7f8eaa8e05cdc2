"""How `zclient` ends: each exit code of docs/commands.md, one line on stderr with what to do, and never a traceback."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tests.cli.conftest import Zclient
from tests.cli.scripted import ScriptedBroker
from tests.system.processes import ROOT
from zbroker.storage import StoreError
from zclient import errors
from zclient.cli import common
from zclient.protocol import messages as m
from zclient.verbs import refuse_late


def refusal(code: str, text: str, **details: object) -> m.Failure:
    """A FAILURE for whatever number it will answer."""
    return m.Failure(0, code, text, details)


def watched(state: str, result: bytes | None, cause: dict[str, Any] | None) -> Callable[[m.Message], list[m.Message]]:
    """Confirms each PUT, and tells this end of each job that is watched."""

    def script(message: m.Message) -> list[m.Message]:
        match message:
            case m.Put():
                return [m.Ok([message.number])]
            case m.Watch():
                return [m.Finished([(identifier, state, result, cause) for identifier in message.ids])]
        return []

    return script


# ---- the exit codes


def test_0_done(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = watched("done", b"\x2a", None)
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--wait")
    assert (ended.code, ended.out, ended.err) == (0, "42\n", "")


def test_1_the_job_is_dead(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = watched(
        "dead", None, {"reason": "attempts", "error": {"type": "ValueError", "text": "two\nlines"}, "attempts": 5}
    )
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--wait", "--id", "j1")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "zclient: job j1 is dead (attempts): ValueError: two lines\n"


def test_1_the_job_was_cancelled(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = watched("cancelled", None, None)
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--wait", "--id", "j1")
    assert (ended.code, ended.err) == (1, "zclient: job j1 was cancelled\n")


def test_1_the_job_takes_longer_than_we_wait(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = lambda message: [m.Ok([message.number])] if isinstance(message, m.Put) else []
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--wait", "--timeout", "300ms", "--id", "j1")
    assert ended.code == 1
    assert ended.err == "zclient: job j1 did not end in time; it goes on (`zclient result ID --wait` waits again)\n"


def test_what_never_will_begin_is_not_to_be_waited_for() -> None:
    dead = errors.JobFailed("job j1 is dead (expired)", reason="expired", error={}, id="j1", attempts=0)
    with pytest.raises(errors.ResultTimeout) as caught:
        refuse_late(dead)
    assert common.advice(caught.value, common.Settings()) == "job j1 was not begun in time, and never will be"


def test_2_the_broker_says_that_it_cannot_be(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(queue=refusal("invalid", "no such thing as that"))
    ended = zclient("-b", scripted.endpoint, "queue", "show", "q")
    assert (ended.code, ended.err) == (2, "zclient: no such thing as that\n")


def test_3_nobody_is_there(zclient: Zclient, nobody: str) -> None:
    ended = zclient("-b", nobody, "--timeout", "200ms", "stats")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err == (
        f"zclient: no broker at {nobody} within 0.2s; is `zbroker start` running there? (-b names another)\n"
    )


def test_3_nobody_confirms(zclient: Zclient, scripted: ScriptedBroker) -> None:
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--timeout", "300ms", "--id", "j1")
    assert (ended.code, ended.out) == (3, "")
    assert "not confirmed in time" in ended.err and "--id j1 is safe" in ended.err


def test_3_nobody_answers(zclient: Zclient, scripted: ScriptedBroker) -> None:
    ended = zclient("-b", scripted.endpoint, "stats", "--timeout", "300ms")
    assert (ended.code, ended.err) == (
        3,
        f"zclient: the broker at {scripted.endpoint} did not answer within 0.3s; --timeout waits longer\n",
    )


def test_4_refused(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = lambda message: (
        [m.Failure(message.number, "too_large", "9 bytes are too many.", {})] if isinstance(message, m.Put) else []
    )
    ended = zclient("-b", scripted.endpoint, "send", "q", "1")
    assert (ended.code, ended.err) == (4, "zclient: 9 bytes are too many\n")


def test_4_refused_for_now(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(replay=refusal("queue_full", "the queue is full", retry_after_ms=90_000))
    ended = zclient("-b", scripted.endpoint, "dead", "replay", "j1")
    assert (ended.code, ended.err) == (4, "zclient: the queue is full; try again in 1m 30s\n")


def test_5_not_found(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.answer_asks(show=refusal("not_found", "no job j1"))
    refuses, knows_no_end = scripted.script, watched("unknown", None, None)
    scripted.script = lambda message: [*refuses(message), *knows_no_end(message)]
    for verb in (["show"], ["result"], ["result", "--wait"], ["dead", "show"]):
        ended = zclient("-b", scripted.endpoint, *verb, "j1")
        assert (ended.code, ended.err) == (5, "zclient: no job j1\n")


def test_5_the_result_is_not_kept(zclient: Zclient, scripted: ScriptedBroker) -> None:
    scripted.script = watched("unknown", None, None)
    ended = zclient("-b", scripted.endpoint, "send", "q", "1", "--wait")
    assert ended.code == 5


@pytest.mark.parametrize("argv", [("stats",), ("result", "j1", "--wait")])
def test_130_ctrl_c(
    scripted: ScriptedBroker, start_zclient: Callable[..., subprocess.Popen[bytes]], argv: tuple[str, ...]
) -> None:
    process = start_zclient("-b", scripted.endpoint, "--timeout", "1m", *argv)
    scripted.wait_for(m.Ask)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_130_ctrl_c_loses_no_job_that_was_sent(
    scripted: ScriptedBroker, start_zclient: Callable[..., subprocess.Popen[bytes]]
) -> None:
    scripted.script = lambda message: [m.Ok([message.number])] if isinstance(message, m.Put) else []
    process = start_zclient("-b", scripted.endpoint, "send", "q", "1", "--wait", "--id", "j1")
    scripted.wait_for(m.Watch)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    assert err == b"job j1 goes on; `zclient result j1 --wait` waits for it\n"


def test_130_ctrl_c_in_a_batch_tells_how_far_it_came(
    scripted: ScriptedBroker, start_zclient: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text("1\n2\n")
    process = start_zclient("-b", scripted.endpoint, "send", "q", "--batch", str(file))
    scripted.wait_for(m.Put)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    assert err == b"interrupted after 0 confirmed jobs; a few more may be stored\n"


def test_141_the_reader_went_away(
    scripted: ScriptedBroker, start_zclient: Callable[..., subprocess.Popen[bytes]]
) -> None:
    gone = threading.Event()

    def script(message: m.Message) -> list[m.Message]:
        return [m.Answer(message.number, {"jobs": 1})] if isinstance(message, m.Ask) and gone.wait(20) else []

    scripted.script = script
    process = start_zclient("-b", scripted.endpoint, "stats")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    gone.set()
    assert process.stderr.read() == b""
    assert process.wait(timeout=20) == 141


# ---- the frame around every verb


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ZError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_ends_with_its_own_code(kind: type[errors.ZError], capsys: pytest.CaptureFixture[str]) -> None:
    @click.command("tool")
    def tool() -> None:
        raise kind("what happened")

    assert common.run(tool, []) == kind.exit_code
    assert capsys.readouterr().err.startswith("tool: ")


def test_a_file_that_cannot_be_read_is_a_failure_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command("tool")
    def tool() -> None:
        Path("/no/such/file").read_bytes()

    assert common.run(tool, []) == 1
    assert capsys.readouterr().err == "tool: /no/such/file: No such file or directory\n"


def test_a_bug_of_ours_is_not_hidden() -> None:
    @click.command("tool")
    def tool() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        common.run(tool, [])


def test_the_page_lists_the_exit_codes_of_the_code() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    ours = {value for name, value in vars(common).items() if name.startswith("EXIT_")}
    assert listed == ours | {StoreError.exit_code}


def run_shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, timeout=30, check=False, cwd=ROOT, env={**os.environ, **environment}
    )


def test_a_closed_stdout_leaves_no_traceback(scripted: ScriptedBroker) -> None:
    scripted.script = lambda message: [m.Answer(message.number, {"jobs": {}})] if isinstance(message, m.Ask) else []
    ended = run_shell(f"{sys.executable} -m zclient -b {scripted.endpoint} stats >&-")
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_141_also_with_an_unbuffered_stdout(scripted: ScriptedBroker) -> None:
    rows = [{"id": b"%032d" % n, "queue": "q", "state": "ready"} for n in range(1000)]
    page = {"jobs": rows, "cursor": [b"more"]}
    scripted.script = lambda message: [m.Answer(message.number, page)] if isinstance(message, m.Ask) else []
    verb = f"{sys.executable} -m zclient -b {scripted.endpoint} list q --limit 20000 --json"
    ended = run_shell(f"{verb} | head -1; echo ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED="1")
    assert ended.stdout.splitlines()[-1] == b"141"
    assert ended.stderr == b""
