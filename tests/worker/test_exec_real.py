"""The program `zworker`, as users run it."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.processes import eventually
from tests.worker.brokers import FAST, WAIT_S, BrokerProcess, Program
from zclient import Client, JobCancelled, JobFailed


def executing(broker: str, queue: str, *command: str, options: tuple[str, ...] = ()) -> Program:
    program = Program("zworker", "exec", queue, "--broker", broker, *options, "--", *command)
    program.line_with("ready")
    return program


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


@pytest.mark.parametrize(
    ("payload", "result"),
    [
        (b"\xff\x00raw", b"\xff\x00raw"),
        (b"text", "text"),
        ({"to": "ada", "n": [1, None]}, '{"to": "ada", "n": [1, null]}'),
        ("grüße", '"grüße"'),
        (b"", None),
    ],
)
def test_the_payload_is_on_stdin_and_stdout_is_the_result(
    broker: str, client: Client, queue: str, payload: Any, result: Any
) -> None:
    with executing(broker, queue, "cat"):
        assert client.send(queue, payload).result(timeout=WAIT_S) == result


def test_large_payloads_and_results_do_not_block(broker: str, client: Client, queue: str) -> None:
    payload = os.urandom(900_000)
    with executing(broker, queue, "cat"):
        assert client.send(queue, payload).result(timeout=WAIT_S) == payload


def test_the_environment_tells_the_job(broker: str, client: Client, queue: str) -> None:
    code = "import os; print(*(os.environ['ZBROKER_' + n] for n in ('JOB_ID', 'QUEUE', 'ATTEMPT', 'FENCE')), end='')"
    with executing(broker, queue, *python(code)):
        job = client.send(queue)
        told = job.result(timeout=WAIT_S).split()
        assert told[:3] == [job.id, queue, "1"]
        assert int(told[3]) > 0


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("import sys; sys.exit('the reason')", "exit code 1", "the reason"),
        ("import sys; sys.exit(3)", "exit code 3", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL", "ended with SIGKILL"),
    ],
)
def test_another_end_than_exit_code_0_is_a_failure(
    broker: str, client: Client, queue: str, code: str, kind: str, words: str
) -> None:
    options = ("--max-attempts", "1")
    with executing(broker, queue, *python(code), options=options), pytest.raises(JobFailed) as caught:
        client.send(queue).result(timeout=WAIT_S)
    assert (caught.value.reason, caught.value.error["type"]) == ("attempts", kind)
    assert words in caught.value.error["text"]


def sleeper(folder: Path) -> tuple[str, ...]:
    """A program with a child; both would last for ever. It writes their pids to a file."""
    started = folder / "pids"
    code = f"sleep 1000 & echo $$ $! > {started}.new; mv {started}.new {started}; wait"
    return "sh", "-c", code


def pids(folder: Path) -> list[int]:
    started = folder / "pids"
    eventually(started.exists)
    return [int(pid) for pid in started.read_text().split()]


def is_gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_cancelled_program_ends_with_its_children(broker: str, client: Client, queue: str, tmp_path: Path) -> None:
    with executing(broker, queue, *sleeper(tmp_path)):
        job = client.send(queue)
        running = pids(tmp_path)
        client.cancel(job)
        with pytest.raises(JobCancelled):
            job.result(timeout=WAIT_S)
        eventually(lambda: all(map(is_gone, running)))


def test_a_program_that_outlives_its_timeout_is_killed(broker: str, client: Client, queue: str, tmp_path: Path) -> None:
    with executing(broker, queue, *sleeper(tmp_path), options=("--timeout", "100ms", "--max-attempts", "1")):
        with pytest.raises(JobFailed) as caught:
            client.send(queue).result(timeout=WAIT_S)
        assert caught.value.error["type"] == "timeout"
        eventually(lambda: all(map(is_gone, pids(tmp_path))))


def test_a_program_is_killed_when_its_lease_is_lost(queue: str, tmp_path: Path) -> None:
    with (
        BrokerProcess(*FAST, "--lease", "300ms", "--poison-losses", "1") as broker,
        Client(broker.endpoint) as client,
        executing(broker.endpoint, queue, *sleeper(tmp_path)) as program,
    ):
        job = client.send(queue)
        running = pids(tmp_path)
        program.signal(signal.SIGSTOP)
        with pytest.raises(JobFailed) as caught:
            job.result(timeout=WAIT_S)
        assert caught.value.reason == "poison"
        program.signal(signal.SIGCONT)
        eventually(lambda: all(map(is_gone, running)))
        assert "lease lost" in program.line_with("lease lost")


def test_sigterm_drains_and_a_second_one_ends_the_program_at_once(
    broker: str, client: Client, queue: str, tmp_path: Path
) -> None:
    with executing(broker, queue, *sleeper(tmp_path), options=("--log-format", "json")) as program:
        job = client.send(queue)
        running = pids(tmp_path)
        program.signal(signal.SIGTERM)
        assert json.loads(program.line_with("draining"))["running"] == 1
        program.signal(signal.SIGTERM)
        code, stdout, stderr = program.end()
        assert (code, stdout) == (0, "")
        assert "Traceback" not in stderr
        eventually(lambda: all(map(is_gone, running)))
        assert (job.status().state, job.status().attempts) == ("ready", 0)


MODULE = """
import os
from zworker import Job, Worker
worker = Worker("tcp://127.0.0.1:1", concurrency=2)
@worker.task("{queue}")
def pid(job: Job):
    if job.payload == "die":
        os._exit(5)
    return [os.getpid(), {version}]
"""


@pytest.fixture
def module(tmp_path: Path, queue: str) -> Path:
    path = tmp_path / "tasks_of_a_test.py"
    path.write_text(MODULE.format(queue=queue, version=1))
    return path


@pytest.mark.parametrize("target", ["tasks_of_a_test", "tasks_of_a_test:worker"])
def test_run_finds_the_worker_of_a_module(broker: str, client: Client, queue: str, module: Path, target: str) -> None:
    environment = {"ZBROKER_ENDPOINT": broker}
    with Program("zworker", "run", target, folder=module.parent, environment=environment) as program:
        assert f"queues={queue} capacity=2" in program.line_with("ready")
        assert client.send(queue).result(timeout=WAIT_S) == [program.process.pid, 1]
        program.signal(signal.SIGTERM)
        assert program.end()[0] == 0


def test_processes_are_started_again_and_drain_together(broker: str, client: Client, queue: str, module: Path) -> None:
    with Program(
        "zworker", "run", "tasks_of_a_test", "-b", broker, "--processes", "2", folder=module.parent
    ) as program:
        program.line_with("ready")
        program.line_with("ready")
        pid, _ = client.send(queue).result(timeout=WAIT_S)
        assert pid != program.process.pid
        with pytest.raises(JobFailed):
            client.send(queue, "die", max_attempts=1).result(timeout=WAIT_S)
        assert "code=5" in program.line_with("worker process ended")
        program.line_with("ready")
        eventually(lambda: sum(queue in worker["queues"] for worker in client.workers()) == 2)
        program.signal(signal.SIGTERM)
        assert program.end()[0] == 0
    assert not any(queue in worker["queues"] for worker in client.workers())


def test_children_end_with_a_supervisor_that_is_killed(broker: str, client: Client, queue: str, module: Path) -> None:
    with Program(
        "zworker", "run", "tasks_of_a_test", "-b", broker, "--processes", "1", folder=module.parent
    ) as program:
        pid, _ = client.send(queue).result(timeout=WAIT_S)
        program.signal(signal.SIGKILL)
        eventually(lambda: is_gone(pid))


def test_reload_starts_again_when_a_file_changes(broker: str, client: Client, queue: str, module: Path) -> None:
    with Program("zworker", "run", "tasks_of_a_test", "-b", broker, "--reload", folder=module.parent) as program:
        program.line_with("ready")
        assert client.send(queue).result(timeout=WAIT_S)[1] == 1
        module.write_text(MODULE.format(queue=queue, version=2))
        program.line_with("files changed")
        program.line_with("ready")
        assert client.send(queue).result(timeout=WAIT_S)[1] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "no_such_module"), "there is no module no_such_module"),
        (("run", "tasks_of_a_test:other"), "has no Worker called other"),
        (("run", "tasks_of_a_test.py"), "named as in an import: tasks_of_a_test"),
        (("run", "json"), "json has no Worker"),
        (("run", "tasks_of_a_test", "--concurrency", "0"), "concurrency"),
        (("exec", "q", "--", "no-such-program"), "there is no program 'no-such-program'"),
        (("exec", "mmi.q", "--", "cat"), "belong to the broker"),
        (("exec", "q", "-b", "nonsense", "--", "cat"), "nonsense"),
        (("exec", "q", "--backoff", "slowly", "--", "cat"), "not 'slowly'"),
        (("exec", "q", "--backoff-jitter", "2", "--", "cat"), "backoff_jitter"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(module: Path, arguments: tuple[str, ...], words: str) -> None:
    with Program("zworker", *arguments, folder=module.parent) as program:
        code, stdout, stderr = program.end()
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert len(stderr.splitlines()) == 1


def test_a_broker_that_is_not_there_is_told_in_one_line_if_a_time_is_given(module: Path) -> None:
    nowhere = f"ipc://{module.parent}/nobody"
    with Program(
        "zworker", "run", "tasks_of_a_test", "-b", nowhere, "--connect-timeout", "50ms", folder=module.parent
    ) as program:
        code, _, stderr = program.end()
    assert code == 3
    assert f"no broker at {nowhere} within 50ms" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
