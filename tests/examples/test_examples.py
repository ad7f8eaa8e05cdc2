"""Runs every example as a reader would: as programs, with a real broker."""

import re
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.examples.running import EXAMPLES, PATIENCE_S, Start, example, output, ready


def test_hello(start: Start, endpoint: str) -> None:
    start("zworker", "run", "worker", cwd=EXAMPLES / "hello", ZBROKER_ENDPOINT=endpoint)
    sent, *told = example("hello/send.py", endpoint)
    assert re.fullmatch(r"sent \w+", sent)
    assert told == ["Hello, Ada!", "{'words': 3, 'attempt': 1, 'from': 'send.py'}", "1000 greetings"]


def test_sending(endpoint: str) -> None:
    assert example("sending.py", endpoint) == [
        "confirmed: first",
        "without waiting: 1000 confirmed at the flush",
        "refused: another job has the id 'first'",
        "many at once: 1000 confirmed",
        "from many tasks: 1000 confirmed",
        "waiting in the queue: 3001",
    ]


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
        "order 17 by hand, since payment said: RuntimeError: order 17: card refused",
        "moved to payment-by-hand",
    ]


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
        "result, for a moment: 1 pages",
        "nothing else is kept",
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


RUN_ELSEWHERE = {"exactly_once": "tests/kill_loop", "own_store": "tests/storage/test_own_store.py"}
"""Examples with tests of their own."""


def test_every_example_is_listed_and_run() -> None:
    listed = set(re.findall(r"\]\(([\w/]+\.py)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    run = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    listed -= {name for name in listed if Path(name).parts[0] in RUN_ELSEWHERE}
    assert [name for name in listed if f"def test_{Path(name).parts[0].removesuffix('.py')}(" not in run] == []
