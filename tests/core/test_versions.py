"""What `zbroker doctor` asks: versions of peers, jobs that died lately, and when finished ones were delivered."""

from __future__ import annotations

from typing import Any

from tests.core.harness import WALL, Bench
from zbroker.core.queries import _VERSIONS
from zclient.protocol import messages as m
from zclient.protocol.version import VERSION


def test_versions_are_counted_workers_apart() -> None:
    bench = Bench()
    asker = bench.producer()
    for n in range(3):
        bench.producer(f"producer-{n}").hello(info={"version": "1.2"})
    bench.worker("worker", "q").hello(info={"version": "1.2"})
    bench.producer("foreign").hello(info={"version": 7})
    told = {(row["version"], row["serves"]): (row["peers"], row["example"]) for row in asker.ask("versions")}
    assert told == {
        ("", False): (2, "producer"),  # one says nothing, one what is no version
        ("1.2", False): (3, "producer-0"),
        ("1.2", True): (1, "worker"),
    }


def test_a_crowd_of_versions_is_cut_short() -> None:
    bench = Bench()
    asker = bench.producer()
    for n in range(_VERSIONS + 50):
        bench.producer(f"p{n}").hello(info={"version": f"{n:03}" + "x" * 1000})
    told = asker.ask("versions")
    assert len(told) == _VERSIONS + 1
    assert all(len(row["version"]) <= 40 for row in told)


def test_who_asks_and_goes_is_not_waited_for() -> None:
    bench = Bench()
    asker = bench.producer()
    for n in range(500):
        bench.producer(f"p{n}")
    asker.send(m.Ask(asker.next_number(), "versions", {}))
    asker.send(m.Goodbye())
    bench.advance(1000)
    assert bench.core.state.works == type(bench.core.state.works)()


def test_stats_tell_the_version_and_the_clock() -> None:
    stats = Bench().producer().ask("stats")
    assert (stats["version"], stats["told_at"]) == (VERSION, WALL)


def test_jobs_that_died_lately_are_found_without_a_look_at_the_others() -> None:
    """More died before than one turn looks at, and the answer is there in the turn in which it was asked for."""
    bench = Bench(policy={"max_attempts": 1})
    producer = bench.producer()
    worker = bench.worker("worker", "q", capacity=1000)

    def die(*ids: str) -> None:
        producer.put("q", *ids)
        fence = worker.one(m.Deliver).fence
        worker.nack(fence, *ids)

    die(*(f"old-{n}" for n in range(600)))
    bench.advance(60_000)
    since = WALL + 60_000
    die("new-0", "new-1")

    def found(**arguments: Any) -> list[bytes]:
        return [row["id"] for row in producer.ask("list", queue="q", state="dead", since=since, **arguments)["jobs"]]

    bench.turns = 0
    assert found() == [b"new-0", b"new-1"]
    assert bench.turns == 1
    first = producer.ask("list", queue="q", state="dead", since=since, limit=1)
    assert [row["id"] for row in first["jobs"]] == [b"new-0"]
    assert found(cursor=first["cursor"]) == [b"new-1"]


def test_a_done_job_tells_when_it_was_delivered() -> None:
    bench = Bench()
    producer = bench.producer()
    worker = bench.worker("worker", "q")
    producer.put("q", "a")
    identifier, fence = worker.job()
    bench.advance(2_000)
    worker.ack(fence, identifier)
    row = producer.ask("show", id=b"a")
    assert (row["started_at"], row["finished_at"]) == (WALL, WALL + 2_000)
    producer.put("q", "b", delay=1000)
    producer.order("cancel", id=b"b")
    assert producer.ask("show", id=b"b")["started_at"] is None
