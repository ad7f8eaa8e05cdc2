"""Runs every example, and the commands of the front page, as a reader would: as programs, with a real broker.

What stands in the pages is run as it stands, but for the port, since another broker may be at the default one.
"""

import csv
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.processes import eventually
from zclient import Client

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PATIENCE_S = 60

Start = Callable[..., "subprocess.Popen[str]"]

# The programs of the installed project first, as in an activated environment; none of a developer's own settings.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("ZBROKER_")} | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
}


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a program with its stdout in a pipe; what still runs at the end is stopped by SIGTERM."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            argv, cwd=cwd, env=ENVIRONMENT | environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        started.append(process)
        return process

    yield start
    try:
        for process in reversed(started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE_S)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ready(process: "subprocess.Popen[str]") -> str:
    """Where a program serves, when it says so."""
    assert process.stdout is not None
    word, _, where = process.stdout.readline().strip().partition(" ")
    assert word == "ready"
    return where


def output(*argv: str, cwd: Path, **environment: str) -> list[str]:
    """The lines that a program prints; it must succeed."""
    ended = subprocess.run(
        argv, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture(scope="module")
def endpoint(start: Start, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A broker for all examples; each uses queues of its own."""
    folder = tmp_path_factory.mktemp("broker")
    return ready(start("zbroker", "start", "--data", "jobs", "--bind", "tcp://127.0.0.1:*", cwd=folder))


def example(name: str, endpoint: str) -> list[str]:
    return output(sys.executable, name, cwd=EXAMPLES, ZBROKER_ENDPOINT=endpoint)


# ---- the examples


def test_hello(start: Start, endpoint: str) -> None:
    start("zworker", "run", "worker", cwd=EXAMPLES / "hello", ZBROKER_ENDPOINT=endpoint)
    sent, *told = example("hello/send.py", endpoint)
    assert re.fullmatch(r"sent \w+", sent)
    assert told == ["Hello, Ada!", "{'words': 3, 'attempt': 1, 'from': 'send.py'}", "1000 greetings"]


def test_retries_and_dead(endpoint: str) -> None:
    assert example("retries_and_dead.py", endpoint) == [
        "https://example.org answered at attempt 3",
        "ada in sync at attempt 3",
        "sync unknown: rejected",
        "sync grace: attempts",
        "order: 6",
        "order failed: nobody orders 0 of a thing",
        "order failed: no price for coffee",
        "dead after attempt 1: rejected",
        "dead after attempt 2: attempts",
        "replayed: 4",
        "dead now: 0",
    ]


def test_topics(endpoint: str) -> None:
    assert example("topics.py", endpoint) == [
        "orders.eu.created: 3 queues took it",
        "orders.us.created: 1 queue took it",
        "orders.eu.cancelled: 2 queues took it",
        "users.created: 0 queues took it",
        "mail: order 1, order 2",
        "big: order 1, order 3",
        "all that is kept: order 1, order 2, order 3",
        "archive got 3 copies of what was published before it was bound",
        "told: order 3, order 4",
    ]


def test_consumer_loop(endpoint: str) -> None:
    assert example("consumer_loop.py", endpoint) == [
        "done after attempt 1: 20.5",
        "done after attempt 1: 41.5",
        "dead after attempt 1: not a number",
        "done after attempt 1: 60.5",
        "dead after attempt 2: still colder than possible",
    ]


def test_async_client(endpoint: str) -> None:
    assert example("async_client.py", endpoint) == [
        f"sum of squares: {sum(number * number for number in range(100))}",
        "now it is scheduled",
        "and then 144",
        "failed: rejected",
    ]


def test_embedded_in_a_service(start: Start, tmp_path: Path) -> None:
    service = start(sys.executable, str(EXAMPLES / "embedded_in_a_service.py"), "0", cwd=tmp_path)
    address = ready(service)

    def ask(path: str, data: bytes | None = None) -> str:
        with urllib.request.urlopen(address + path, data, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    identifier = ask("/", b"three small words").split('"')[3]
    while '"done"' not in (answer := ask(f"/{identifier}")):
        assert '"ready"' in answer or '"leased"' in answer
    assert answer == '{"state": "done", "words": 3}\n'
    for unknown in ("/nothing", "/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(unknown)
    service.send_signal(signal.SIGINT)
    assert service.communicate(timeout=PATIENCE_S)[0] == "stopped\n"
    assert service.returncode == 0
    assert "faults: none" in output("zbroker", "check", "orders", cwd=tmp_path)


def test_local_broker_test() -> None:
    told = output(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "local_broker_test.py", cwd=EXAMPLES)
    assert told[0].startswith("... ")


def test_expiry(endpoint: str) -> None:
    assert example("expiry.py", endpoint) == [
        "no worker yet, quote is dead: expired, never begun",
        "kept back, quote is scheduled",
        "COFFEE at 17",
        "TEA traded at attempt 1",
        "COCOA at 17",
        "report is dead: attempts, timeout",
        "imported at attempt 2",
        "TEA at 17",
    ]


def test_dependencies(endpoint: str) -> None:
    assert example("dependencies.py", endpoint) == [
        "before: blocked - it waits for 3 of 3 jobs",
        "words: 4, 2, 2",
        "the note: words: 4, 2, 2",
        "again: 4",
        "cancelled, because of its parent: True",
        "some: 4, 2, 2, ?",
        "it waits: blocked",
        "and was given up with its parent: parent",
    ]


def test_workflow(endpoint: str) -> None:
    assert example("workflow.py", endpoint) == [
        "the site: 3 pages, 12 words, 'queue' most often",
        "  fetch: done, 3 of 3, after []",
        "  words: done, 1 of 1, after ['fetch']",
        "  report: done, 1 of 1, after ['fetch', 'words']",
        "a chain: {'download': 1, 'echo': 2, 'echo-2': 1}",
        "and cancelled as a whole: cancelled",
        "the whole is dead and the callback blocked",
        "step download: there is no /jobs",
        "after a retry: {'welcome': 1, 'to': 1, 'the': 1, 'queue': 1, 'three': 1, 'open': 1, 'jobs': 1, "
        "'nothing': 1, 'new': 1}",
    ]


def test_batches(endpoint: str) -> None:
    assert example("batches.py", endpoint) == [
        "while it is open: 3 jobs, open",
        "at its end: 8 jobs, dead",
        "on_settled: pictures has 7 done, 1 dead of 8",
        "callbacks: on_death on_settled",
        "on_done: pictures has 8 done, 0 dead of 8",
        "A.JPG B.JPG C.JPG D.PNG X.JPG Y.JPG",
        "on_done: nothing has 0 done, 0 dead of 0",
    ]


def test_unique(endpoint: str) -> None:
    assert example("unique.py", endpoint) == [
        "the same job: True True",
        "edit 1 was replaced",
        "order 17 is done",
        "edit 3 is done",
        "order 17, again is done",
        "mail to ada is done",
        "the second mail is the first: True",
        "another job under that id is refused",
    ]


def test_dead_letters(endpoint: str) -> None:
    assert example("dead_letters.py", endpoint) == [
        "20 dead: attempts, ConnectionError, the mail server is down",
        "1 dead: rejected, ValueError, no address: nobody",
        "twenty at forty a second take nearly half a second: True",
        "mail to reader19@example.org",
        "still dead: ['rejected']",
        "moved to payment-by-hand",
        "order 17 by hand, since payment said: RuntimeError: order 17: card refused",
    ]


def test_etl(start: Start, endpoint: str, tmp_path: Path) -> None:
    """One of the two workers is killed in the middle: the report is whole, and as another look at the files has it."""
    settings = {"ZBROKER_ENDPOINT": endpoint, "AUDIT": str(tmp_path / "audit.sqlite")}
    site = sysconfig.get_path("purelib")
    workers = [start("zworker", "run", "worker", cwd=EXAMPLES / "etl", **settings) for _ in range(2)]
    with Client(endpoint) as client:
        while len(list(client.workers())) < 2:
            assert all(worker.poll() is None for worker in workers)
        sender = start(sys.executable, "etl/send.py", site, cwd=EXAMPLES, **settings)
        assert sender.stdout is not None
        sent = re.fullmatch(r"sent: (\w+), (\d+) packages\n", sender.stdout.readline())
        assert sent is not None
        run = client.workflow(sent[1])
        while not run.status().done:
            assert sender.poll() is None
        workers[0].kill()
    *_, told, page = sender.communicate(timeout=2 * PATIENCE_S)[0].splitlines()
    assert sender.returncode == 0

    records = list(Path(site).glob("*.dist-info/RECORD"))
    files = sum((record.parent.parent / row[0]).is_file() for record in records for row in rows_of(record))
    counted = re.fullmatch(r"(\d+) packages, (\d+) files, \d+ not as installed", told)
    assert counted is not None
    assert [int(number) for number in counted.groups()] == [len(records), files]
    assert int(sent[2]) == len(records)
    report = Path(page.removeprefix("the report: ")).read_text(encoding="utf-8")
    assert report.startswith(f"# {len(records)} packages, {files} files, ")


def test_etl_of_other_folders(start: Start, endpoint: str, tmp_path: Path) -> None:
    """A folder that is named from where the sender stands, and one without packages: the report says what is there."""
    settings = {"ZBROKER_ENDPOINT": endpoint, "AUDIT": str(tmp_path / "audit.sqlite")}
    start("zworker", "run", "worker", cwd=EXAMPLES / "etl", **settings)
    package = tmp_path / "site" / "small-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "RECORD").write_text("small.py,,\ngone.py,,\n", encoding="utf-8")
    (tmp_path / "site" / "small.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    send = str(EXAMPLES / "etl" / "send.py")
    *_, told, page = output(sys.executable, send, "site", cwd=tmp_path, **settings)
    assert told == "1 packages, 1 files, 1 not as installed"
    report = Path(page.removeprefix("the report: ")).read_text(encoding="utf-8")
    assert "- small: gone.py is missing" in report
    *_, told, page = output(sys.executable, send, "empty", cwd=tmp_path, **settings)
    assert told == "0 packages, 0 files, 0 not as installed"


def rows_of(record: Path) -> list[list[str]]:
    with record.open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))


def test_fan_out(start: Start, endpoint: str, tmp_path: Path) -> None:
    """Each file once in each group that wants it, although workers share them and are killed in the middle."""
    tree = tmp_path / "tree"
    shutil.copytree(Path(sysconfig.get_path("stdlib"), "email"), tree, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "large.bin").write_bytes(b"x" * 200_000)
    (tree / "large.py").write_text("def f(): pass\n" * 20_000, encoding="utf-8")
    held = tree / "held.py"  # whoever reads it waits for somebody who writes
    os.mkfifo(held)
    files = [path for path in tree.rglob("*") if not path.is_dir()]
    wanted = [(path.suffix == ".py") + (path.stat().st_size >= 100_000) for path in files]
    large = sum(path.stat().st_size >= 100_000 for path in files)
    settings = {"ZBROKER_ENDPOINT": endpoint, "FAN_OUT": str(tmp_path)}

    def worker(group: str) -> "subprocess.Popen[str]":
        return start("zworker", "run", f"worker:{group}", cwd=EXAMPLES / "fan_out", **settings)

    killed = [worker(group) for group in ("index", "index", "watch")]
    sender = start(sys.executable, "fan_out/publish.py", str(tree), cwd=EXAMPLES, **settings)
    writing = eventually(lambda: once_read(held))
    for process in killed:
        process.kill()
        process.wait()
    os.close(writing)
    held.unlink()
    held.write_text("class C: pass\n", encoding="utf-8")
    for group in ("index", "watch"):
        worker(group)
    told = sender.communicate(timeout=2 * PATIENCE_S)[0].splitlines()
    assert sender.returncode == 0
    assert [line for line in told if "groups" in line] == [
        f"{wanted.count(groups)} events for {groups} of the groups" for groups in sorted(set(wanted))
    ]
    index, watch = told[-2:]
    python = sum(path.suffix == ".py" for path in files)
    assert re.fullmatch(rf"index: {python} files with 2\d{{4}} functions and \d+ classes", index)
    assert watch == f"watch: {large} large files, the largest of 0.3 MB"


def once_read(pipe: Path) -> int:
    """The pipe, open to write, if somebody reads it by now; else 0."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        assert error.errno == errno.ENXIO, error
        return 0


RUN_ELSEWHERE = {"exactly_once": "tests/kill_loop", "own_store": "tests/storage/test_own_store.py"}
"""Examples with tests of their own."""


def test_every_example_is_listed_and_run() -> None:
    listed = set(re.findall(r"\]\(([\w/]+\.py)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    run = Path(__file__).read_text(encoding="utf-8")
    listed -= {name for name in listed if Path(name).parts[0] in RUN_ELSEWHERE}
    assert [name for name in listed if f"def test_{Path(name).parts[0].removesuffix('.py')}(" not in run] == []


# ---- the front page


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of one language below a heading of the front page."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def one_line(block: str) -> list[str]:
    """The words of a block that is one command."""
    (line,) = block.splitlines()
    return shlex.split(line)


def test_the_quickstart_works_as_it_stands(start: Start, tmp_path: Path) -> None:
    install, start_broker, run_worker, send, look, say = blocks("Quickstart", "sh")
    tasks, program = blocks("Quickstart", "python")
    assert one_line(install) == ["pip", "install", "."]  # tried by `make build`

    (tmp_path / "tasks.py").write_text(tasks, encoding="utf-8")
    endpoint = ready(start(*one_line(start_broker), cwd=tmp_path, ZBROKER_BIND="tcp://127.0.0.1:*"))
    start(*one_line(run_worker), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint)
    assert output(*one_line(send), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint) == ["Hello, Ada!"]

    program = program.replace("tcp://127.0.0.1:5555", endpoint)
    assert output(sys.executable, "-c", program, cwd=tmp_path) == [
        "Hello, Grace!",
        "scheduled",
        "1000 sent, the last one says: Hello, number 999!",
    ]

    shown = [output(*one_line(line), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint) for line in look.splitlines()]
    queues, workers, scheduled, stats = shown
    assert queues[1].startswith("greet ")
    assert len(workers) == len(scheduled) == 2  # a head, and one line each
    assert '"done": 1002,' in "\n".join(stats)
    _, policy = [output(*one_line(line), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint) for line in say.splitlines()]
    assert [line.split() for line in policy if line.startswith(("rate", "key_limit"))] == [
        ["key_limit", "1", "set"],
        ["rate", "100", "set"],
    ]


def test_two_hosts_work_as_they_stand(start: Start, tmp_path: Path) -> None:
    start_broker, elsewhere = blocks("Two hosts", "sh")
    run_worker, send = elsewhere.splitlines()
    (tmp_path / "tasks.py").write_text(blocks("Quickstart", "python")[0], encoding="utf-8")
    endpoint = ready(start(*one_line(start_broker.replace(":5555", ":*")), cwd=tmp_path))
    here = endpoint.replace("0.0.0.0", "127.0.0.1")
    start(*one_line(run_worker.replace("tcp://queue-host:5555", here)), cwd=tmp_path)
    assert output(*one_line(send.replace("tcp://queue-host:5555", here)), cwd=tmp_path) == ["Hello, Ada!"]


def test_following(endpoint: str) -> None:
    assert example("following.py", endpoint) == [
        "ended as done and told of pages on the way: True",
        "result: 3 pages",
        "kept with the job: 100% page 3 of 3",
        "waiting job: cancelled",
        "running job: leased",
        "and then: cancelled with the wish kept: True",
        "listed: ['cancelled', 'cancelled']",
        "ended as done",
        "its result is not kept",
    ]


def test_policies(endpoint: str) -> None:
    assert example("policies.py", endpoint) == [
        "lease = 1m (set)",
        "rate = 10/1m (set)",
        "max_attempts = 5 (default)",
        "full: 3 jobs wait in queue print, and 1 more would be above max_jobs 3",
        "1: no worker serves queue print, and none ever did",
        "2: queue print is paused",
        "done: page 1",
        "3: rate limit of queue print",
        "done: page 2 and page 3",
        "closed: queue print takes no new jobs: it is being drained",
        "purged: 1",
    ]


def test_fair_keys(endpoint: str) -> None:
    assert example("fair_keys.py", endpoint) == [
        "a large tenant and a small one: urgent large small large small large large",
        "three turns for who pays: free paying paying paying free paying paying paying free free",
        "order 7: made, not paid, paid, sent, closed,",
        "order 8 did not wait for it: True",
    ]


def test_delivery() -> None:
    assert output(sys.executable, "delivery.py", cwd=EXAMPLES) == [
        "at least once: a letter after 2 attempts",
        "at most once: dead after 1 attempt",
    ]


def test_limits() -> None:
    assert output(sys.executable, "limits.py", cwd=EXAMPLES) == [
        "0s later: 1 calls are done",
        "6s later: 2 calls are done",
        "54s later: 11 calls are done",
        "rate limit of queue calls",
        "builds that run: 4",
        "in-flight limit 4/4 of queue builds is reached",
        "without that limit: 6",
        "key limit 2/2 of key 'ada'",
        "refused whole: 2 jobs wait in queue mails, and 2 more would be above max_jobs 3",
        "waiting: 3",
        "builds done: 9",
    ]


def test_schedules() -> None:
    assert output(sys.executable, "schedules.py", cwd=EXAMPLES) == [
        "At 03:30 every day UTC",
        "in three days: ['daily for nightly', 'daily for nightly', 'daily for nightly']",
        "jobs made: 4",
        "poll-allow: 6 jobs, 0 occurrences without one",
        "poll-skip: 1 jobs, 5 occurrences without one",
        "after a rest of an hour: 6 jobs; what passed meanwhile is over",
        "Every 1m from now on: 16 jobs wait",
        "left: ['nightly', 'poll-skip']",
    ]


def test_streams(endpoint: str) -> None:
    told = example("streams.py", endpoint)
    left = [line for line in told if line.startswith("nobody")]
    assert left == ["nobody reads any more: it came to fewer than 200: True"]
    assert [line for line in told if line not in left] == [
        "squares: [0, 1, 4, 9, 16, 25]",
        "words: ['one', 'after', 'the', 'other']",
        "begins again, after 2 rows",
        "report: ['row 1 of run 2', 'row 2 of run 2', 'row 3 of run 2']",
        "failed: PayloadMismatch",
        "endless: [1, 2, 3]",
        "its job was cancelled",
    ]


def test_calls(endpoint: str) -> None:
    assert example("calls.py", endpoint) == [
        "20 degrees are 68.0",
        "failed: rejected",
        "gave up; will anybody begin it? False",
        "order 17 at attempt 2",
        "sent with the ack: 3",
    ]
