"""`zclient send --stream`, against a real broker and a worker of this process: lines, remarks and exit codes."""

import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.cli.conftest import Zclient
from tests.system.processes import eventually
from zclient import Client
from zworker import Job, Worker

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module", autouse=True)
def worker(broker: str) -> Iterator[None]:
    worker = Worker(broker)

    @worker.task("s-count")
    def count(n: int) -> Iterator[object]:
        for number in range(n):
            yield {"n": number, "text": "é", "raw": b"r"}

    @worker.task("s-again")
    def again(job: Job) -> Iterator[str]:
        yield "one"
        if job.attempt == 1:
            raise ValueError("no")

    @worker.task("s-plain")
    def plain() -> str:
        return "result"

    with worker:
        worker.wait_ready()
        yield


def test_a_value_is_a_line_of_json(call: Zclient) -> None:
    ended = call("send", "s-count", "2", "--stream", "--id", "s-1", "--priority", "3")
    lines = [f'{{"n": {n}, "text": "é", "raw": {{"base64": "cg=="}}}}' for n in range(2)]
    assert (ended.code, ended.out.splitlines(), ended.err) == (0, lines, "")
    shown = call("show", "s-1", "--json").out
    assert '"state": "done"' in shown


def test_a_restart_is_a_remark(call: Zclient) -> None:
    ended = call("send", "s-again", "--stream", "--backoff-min", "1ms")
    assert (ended.code, ended.out) == (0, '"one"\n"one"\n')
    assert "runs again: the 1 value that came of it will come again" in ended.err


def test_the_end_that_is_none_is_exit_code_1(call: Zclient) -> None:
    ended = call("send", "s-again", "--stream", "--max-attempts", "1", "--timeout", "10s")
    assert (ended.code, ended.out) == (1, '"one"\n')
    assert "is dead (attempts): ValueError: no" in ended.err
    ended = call("send", "s-nobody", "--stream", "--timeout", "50ms", "--ttl", "1h")
    assert ended.code == 1 and ended.err.endswith("gave no value in time; it is cancelled\n")
    ended = call("send", "s-nobody", "--stream", "--timeout", "10s", "--ttl", "50ms")
    assert ended.code == 1 and ended.err.endswith("is dead (expired)\n")


def test_a_handler_that_does_not_yield_prints_nothing(call: Zclient) -> None:
    assert call("send", "s-plain", "--stream").out == ""


@pytest.mark.parametrize("other", [("--wait",), ("--unique", "u"), ("--batch", "-")])
def test_what_does_not_go_with_it(call: Zclient, other: tuple[str, ...]) -> None:
    ended = call("send", "s-count", "--stream", *other)
    assert ended.code == 2 and "--stream goes with one job" in ended.err


@pytest.mark.parametrize("how", ["ctrl-c", "broken pipe"])
def test_ended_early_it_cancels_the_job(start_zclient: Start, broker: str, how: str) -> None:
    name = "s-" + how.replace(" ", "-")
    process = start_zclient("-b", broker, "send", "s-count", "10000000", "--stream", "--id", name)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b'{"n": 0')
    if how == "ctrl-c":
        process.send_signal(signal.SIGINT)
        code = 130
    else:
        process.stdout.close()
        process.stdout = None
        code = 141
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (code, b"")
    with Client(broker) as client:
        assert eventually(lambda: client.get(name).state == "cancelled")
