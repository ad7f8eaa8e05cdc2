"""`zclient bench` on a real broker: what it tells, and that it leaves the queue as it found it, whatever ends it."""

import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.cli.conftest import Zclient, told
from tests.system.processes import eventually
from zclient import Client
from zclient.cli import measuring
from zclient.cli.roles import Cast, Part, RoleFailed
from zclient.cli.senders import share

SMALL = ("--jobs", "300", "--batch", "30", "--threads", "2", "--rate", "100", "--for", "200ms", "--calls", "5")
COUNTS = ("ready", "scheduled", "leased", "blocked", "dead", "workers")


def is_untouched(endpoint: str, queue: str, *, keep_done: str = "default") -> bool:
    with Client(endpoint) as client:
        found = client.queue(queue)
        return not any(found[name] for name in COUNTS) and found["policy"]["keep_done"].source == keep_done


def test_all_four_are_measured_and_nothing_stays(call: Zclient, broker: str, queue: str) -> None:
    with Client(broker) as client:
        kept = client.stats()["finished_kept"]
    document = told(call("bench", "--queue", queue, *SMALL, "--producers", "2", "--consumers", "2", "--json"))
    assert (document["durability"], document["store"], document["queue"]) == ("fsync", "rocksdb", queue)
    measured = document["measured"]
    assert {name: figures["jobs"] for name, figures in measured.items()} == {
        "lifecycle": 300,
        "sends": 60,
        "latency": 20,
        "calls": 5,
    }
    assert all(value > 0 for figures in measured.values() for value in figures.values())
    assert measured["lifecycle"]["per_second"] <= measured["lifecycle"]["puts_per_second"]
    assert measured["latency"]["per_second"] < 110
    for name in ("latency", "calls"):
        assert measured[name]["p50_ms"] <= measured[name]["p99_ms"] <= measured[name]["p99_9_ms"]
    assert is_untouched(broker, queue)
    with Client(broker) as client:
        assert client.queue(queue)["totals"]["put"] == 300 + 60 + 20 + 5
        assert client.stats()["finished_kept"] == kept


def test_history_is_kept_on_demand_and_told_as_text(call: Zclient, broker: str, queue: str) -> None:
    ended = call("bench", "lifecycle", "--queue", queue, *SMALL, "--history")
    assert (ended.code, ended.err) == (0, "")
    first, empty, *lines = ended.out.splitlines()
    assert first.endswith("durability fsync: a confirmed job is on disk, synced; finished jobs kept")
    assert [line.split()[0] for line in lines[1:]] == ["put,", "of"]
    assert lines[0].split() == ["per", "s", "p50", "ms", "p99", "ms", "p99.9", "ms"]
    with Client(broker) as client:
        assert sum(job.state == "done" for job in client.jobs(queue, state="done", limit=1000)) == 300


def test_what_was_set_of_the_queue_is_set_again(call: Zclient, broker: str, queue: str) -> None:
    with Client(broker) as client:
        client.set_queue(queue, keep_done="7m")
        told(call("bench", "sends", "--queue", queue, *SMALL, "--json"))
        assert client.queue(queue)["policy"]["keep_done"] == ("7m", "set")
    assert is_untouched(broker, queue, keep_done="set")


def test_a_queue_that_is_in_use_is_refused(call: Zclient, broker: str, queue: str) -> None:
    with Client(broker) as client:
        job = client.send(queue, 1)
        ended = call("bench", "--queue", queue)
        assert ended.code == 4 and f"{queue} has jobs (1 ready)" in ended.err
        assert job.status().state == "ready"
        job.cancel()
        client.pause(queue)
        ended = call("bench", "--queue", queue)
        assert ended.code == 4 and f"zclient queue resume {queue}" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_early_it_tidies_up(
    start_zclient: Callable[..., subprocess.Popen[bytes]], broker: str, queue: str, number: int, code: int
) -> None:
    process = start_zclient("-b", broker, "bench", "lifecycle", "--queue", queue, "--jobs", "2000000")
    with Client(broker) as client:
        eventually(lambda: any(one["queue"] == queue and one["totals"]["done"] for one in client.queues()))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, b"", b"")
    assert is_untouched(broker, queue)


def test_a_role_that_fails_says_why(broker: str, queue: str) -> None:
    given = {"endpoints": [broker], "credentials": None, "queue": queue, "jobs": 5, "credit": 10, "timeout": 0.1}
    with Cast(Part(measuring.TAKERS, "take", given)) as cast, pytest.raises(RoleFailed) as caught:
        cast.run()
    assert str(caught.value) == "0 of 5 jobs came, and then none within 0.1 s"


def test_an_unreachable_broker_keeps_its_exit_code(nobody: str) -> None:
    given = {"endpoints": [nobody], "credentials": None, "queue": "q", "jobs": 1, "threads": 1, "timeout": 0.1}
    given |= {"payload": 1}
    with Cast(Part(measuring.SENDERS, "send", given)) as cast, pytest.raises(RoleFailed) as caught:
        cast.run()
    assert caught.value.exit_code == 3


def test_percentiles_and_shares() -> None:
    milliseconds = [n / 1000 for n in range(1000, 0, -1)]
    assert measuring.percentiles(milliseconds) == {"p50_ms": 501.0, "p99_ms": 991.0, "p99_9_ms": 1000.0}
    assert measuring.percentiles([0.002]) == {"p50_ms": 2.0, "p99_ms": 2.0, "p99_9_ms": 2.0}
    assert share(7, 3) == [3, 2, 2] and share(1, 2) == [1, 0]
