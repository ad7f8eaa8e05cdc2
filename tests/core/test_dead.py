"""Dead jobs: of what, how many are kept and how long, which are replayed or dropped, and how fast."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zbroker.core.states import State
from zclient.protocol import messages as m

HOUR = 3_600_000


def restart(bench: Bench, *peers: Peer) -> None:
    bench.crash()
    for peer in peers:
        peer.connect()


def crash_worker(bench: Bench, worker: Peer) -> None:
    worker.cut()
    bench.core.unreachable(worker.route)
    bench.advance(1_100)


def die(bench: Bench, producer: Peer, *ids: str, queue: str = "q", kind: str = "E", text: str = "no") -> None:
    """These jobs are put and rejected, in this order."""
    producer.put(queue, *ids)
    worker = bench.worker(f"reaper-{bench.turns}", queue, capacity=len(ids))
    for delivery in worker.take(m.Deliver):
        worker.reject(delivery.fence, *(identifier.decode() for identifier in delivery.ids), type=kind, text=text)
    worker.send(m.Goodbye())


def dead_ids(producer: Peer, **selection: Any) -> list[str]:
    return [row["id"].decode() for row in producer.ask("dead", limit=1000, **selection)["jobs"]]


# ---- of what


def of_each_reason() -> tuple[Bench, Peer]:
    """A bench with one dead job of each reason, named by it, in queue q; died a second apart or more."""
    bench = Bench(policy={"poison_losses": 1})
    producer = bench.producer()
    worker = bench.worker("w", "q")
    for reason, end in (
        ("rejected", lambda fence: worker.reject(fence, "rejected", type="E", text="never\nmore")),
        ("attempts", lambda fence: worker.nack(fence, "attempts", type="F", text="no")),
    ):
        producer.put("q", reason, max_attempts=1)
        end(worker.job()[1])
        bench.advance(1_000)
    producer.order("set", queue="q", options={"delivery": "at_most_once"})
    producer.put("q", "lost")
    worker.release(worker.job()[1], "lost")
    producer.order("unset", queue="q", options=["delivery"])
    producer.put("q", "poison")
    crash_worker(bench, worker)
    producer.put("q", "expired", ttl=1_000)
    bench.advance(1_000)
    return bench, producer


@pytest.mark.parametrize("restarted", [False, True])
def test_each_reason_is_told(restarted: bool) -> None:
    bench, producer = of_each_reason()
    if restarted:
        restart(bench, producer)
    rows = {row["id"].decode(): row for row in producer.ask("dead", queue="q")["jobs"]}
    assert list(rows) == ["rejected", "attempts", "lost", "poison", "expired"], "in the order in which they died"
    assert {identifier: row["reason"] for identifier, row in rows.items()} == {name: name for name in rows}
    attempts = {identifier: [attempt["kind"] for attempt in row["attempts"]] for identifier, row in rows.items()}
    assert attempts == {
        "rejected": ["rejected"],
        "attempts": ["error"],
        "lost": ["lost"],
        "poison": ["worker lost"],
        "expired": [],
    }
    told = {facts["job"]: facts["reason"] for facts in bench.told("job dead")}
    assert told == {name: name for name in rows}
    bench.check()


def test_dead_jobs_are_listed_by_reason_and_by_error() -> None:
    bench, producer = of_each_reason()
    die(bench, producer, "r1", queue="r", kind="E")
    assert dead_ids(producer, queue="q", reason="poison") == ["poison"]
    assert dead_ids(producer, error="E") == ["rejected", "r1"]
    assert dead_ids(producer, queue="q", error="E") == ["rejected"]
    assert dead_ids(producer, queue="q", reason="attempts", error="E") == []
    assert dead_ids(producer, reason="nothing") == []
    page = producer.ask("dead", queue="q", limit=2)
    rest = producer.ask("dead", queue="q", limit=10, cursor=page["cursor"])
    assert [row["id"] for row in rest["jobs"]] == [b"lost", b"poison", b"expired"] and rest["cursor"] is None


def test_they_are_counted_by_what_they_died_of() -> None:
    bench = Bench()
    producer = bench.producer()
    began = bench.wall
    die(bench, producer, *(f"a{n}" for n in range(100)), kind="ValueError", text="no\nand more")
    bench.advance(5_000)
    die(bench, producer, *(f"b{n}" for n in range(30)), kind="ValueError", text="no\nand other")
    die(bench, producer, "c", kind="KeyError", text="no")
    die(bench, producer, "d", queue="r", kind="KeyError", text="no")
    producer.put("q", "e", ttl=1)
    bench.advance(1)
    groups = producer.ask("dead_groups", queue="q")
    assert [(group["reason"], group["error"], group["text"], group["jobs"]) for group in groups] == [
        ("rejected", "ValueError", "no", 130),
        ("rejected", "KeyError", "no", 1),
        ("expired", "", "", 1),
    ]
    assert (groups[0]["first_at"], groups[0]["last_at"]) == (began, began + 5_000)
    assert groups[0]["example"] == b"a0" and groups[0]["queue"] == "q"
    assert [group["jobs"] for group in producer.ask("dead_groups")] == [130, 1, 1, 1]
    assert len(producer.ask("dead_groups", limit=2)) == 2
    bench.check()


def test_a_killer_among_a_thousand_jobs_of_one_worker_is_the_only_one_that_dies() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *(f"{n}" for n in range(1000)))
    killer = "613"
    crashes = 0
    worker = bench.worker("w0", "q", capacity=1000)
    for _ in range(3000):
        jobs = worker.jobs()
        if not jobs:
            break
        if killer in (identifier for identifier, _ in jobs):
            crashes += 1
            crash_worker(bench, worker)
            worker = bench.worker(f"w{crashes}", "q", capacity=1000)
            continue
        for identifier, fence in jobs:
            worker.ack(fence, identifier)
    assert bench.counts("q") == {"dead": 1}
    row = producer.ask("show", id=killer.encode())
    assert (row["reason"], row["losses"], crashes) == ("poison", 4, 4)
    totals = bench.core.state.queues["q"].counts.totals
    assert (totals["done"], totals["died"]) == (999, 1)
    bench.check()


# ---- replay and drop of a selection


@pytest.mark.parametrize("verb", ["replay", "drop"])
@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ({}, {"rejected", "attempts", "lost", "poison", "expired"}),
        ({"reason": "expired"}, {"expired"}),
        ({"error": "F"}, {"attempts"}),
        ({"reason": "rejected", "error": "F"}, set()),
        ({"before": 1}, {"rejected"}),
        ({"before": 0}, set()),
    ],
)
def test_a_selection_of_a_queue(verb: str, selection: dict[str, Any], chosen: set[str]) -> None:
    bench, producer = of_each_reason()
    die(bench, producer, "other", queue="r")
    if "before" in selection:
        first = producer.ask("show", id=b"rejected")["finished_at"]
        selection = {"before": first + selection["before"]}
    answer = producer.order(verb, queue="q", **selection)
    assert answer["dead"] == 5 and answer["work"] > 0
    left = {"rejected", "attempts", "lost", "poison", "expired"} - chosen
    assert set(dead_ids(producer, queue="q")) == left
    assert bench.counts("q").get("ready", 0) == (len(chosen) if verb == "replay" else 0)
    assert dead_ids(producer, queue="r") == ["other"]
    bench.check()


@pytest.mark.parametrize("by_ids", [True, False])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_replay_keeps_its_rate_also_over_a_restart(by_ids: bool, restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    ids = [f"{n:03}" for n in range(200)]
    die(bench, producer, *ids)
    if by_ids:
        answer = producer.order("replay", ids=[identifier.encode() for identifier in ids], rate=40)
    else:
        answer = producer.order("replay", queue="q", rate=40)
    assert answer["dead"] == 200 and "work" in answer
    for second in range(1, 5):
        bench.advance(1_000)
        assert abs(bench.count("q", State.READY) - 40 * second) <= 4
        if restarted and second == 2:
            restart(bench, producer)
        bench.check()
    bench.advance(1_500)
    assert bench.counts("q") == {"ready": 200}
    assert not list(bench.store.scan("meta", b"work/", b"work0"))
    assert bench.worker("w", "q", capacity=200).ids() == ids, "in the order in which they died"
    bench.check()


def test_a_replay_at_a_rate_passes_over_what_it_is_not_for() -> None:
    bench = Bench()
    producer = bench.producer()
    for start in range(0, 600, 200):
        die(bench, producer, *(f"{n}" for n in range(start, start + 200)), kind=f"E{start}")
    producer.order("replay", queue="q", error="E400", rate=10)
    for second in range(1, 4):
        bench.advance(1_000)
        assert abs(bench.count("q", State.READY) - 10 * second) <= 1, "those before it cost no time of the rate"
    bench.advance(17_000)
    assert bench.counts("q") == {"dead": 400, "ready": 200}
    bench.check()


def test_what_dies_again_before_the_order_is_through_is_not_replayed_again() -> None:
    bench = Bench()
    producer = bench.producer()
    die(bench, producer, "a")
    producer.order("replay", ids=[b"a"], rate=1)
    worker = bench.worker("w", "q")
    worker.reject(worker.job()[1], "a")
    restart(bench, producer)
    bench.advance(5_000)
    assert bench.counts("q") == {"dead": 1}
    bench.check()


def test_what_was_dropped_meanwhile_is_passed_over() -> None:
    bench = Bench()
    producer = bench.producer()
    die(bench, producer, "a", "b", "c")
    producer.order("replay", ids=[b"a", b"b", b"c"], rate=1)
    producer.order("drop", ids=[b"b"])
    bench.advance(5_000)
    assert bench.counts("q") == {"ready": 2}
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_after_a_clock_was_set_back_an_order_is_for_all_that_are_dead(verb: str, restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    die(bench, producer, "old", "older")
    bench.advance(0, wall_ms=-HOUR)
    die(bench, producer, "new")
    if restarted:
        restart(bench, producer)
    assert producer.order(verb, queue="q")["dead"] == 3
    bench.advance(1_000)
    assert bench.counts("q") == ({"ready": 3} if verb == "replay" else {})
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("back_ms", [0, HOUR // 2, 2 * HOUR])
def test_what_dies_again_is_replayed_once_by_an_order(back_ms: int, restarted: bool) -> None:
    bench = Bench()
    producer = bench.producer()
    die(bench, producer, *(f"{n}" for n in range(10)))
    bench.advance(0, wall_ms=HOUR)
    die(bench, producer, *(f"{n}" for n in range(10, 20)))
    bench.advance(0, wall_ms=-back_ms)
    producer.order("replay", queue="q", rate=20)
    if restarted:
        restart(bench, producer)
    worker = bench.worker("w", "q", capacity=5)
    for _ in range(200):
        for identifier, fence in worker.jobs():
            worker.reject(fence, identifier)
        bench.advance(20)
    assert bench.counts("q") == {"dead": 20}
    assert all(producer.ask("show", id=b"%d" % n)["attempt"] == 1 for n in range(20))
    assert bench.core.state.queues["q"].counts.totals["replayed"] == 20
    producer.order("drop", queue="q")
    bench.advance(100)
    assert bench.counts("q") == {}
    bench.check()


@pytest.mark.parametrize(
    "arguments",
    [{"reason": 1}, {"error": b"x"}, {"before": "now"}, {"before": -1}, {"before": True}, {"reason": "x" * 3000}],
)
@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_selections_that_cannot_be(verb: str, arguments: dict[str, Any]) -> None:
    bench, producer = of_each_reason()
    order = m.Order(producer.next_number(), 1, verb, {"queue": "q", **arguments})
    assert producer.refused(order).code == "invalid"
    assert bench.counts("q") == {"dead": 5}


# ---- how long and how many


@pytest.mark.parametrize("restarted", [False, True])
def test_they_stay_until_somebody_acts_where_nobody_says_how_long(restarted: bool) -> None:
    bench, producer = of_each_reason()
    names = dead_ids(producer)
    bench.advance(0, wall_ms=1_000 * 24 * HOUR)
    if restarted:
        restart(bench, producer)
    bench.advance(24 * HOUR)
    assert dead_ids(producer) == names != []
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
def test_they_are_kept_for_a_time(restarted: bool) -> None:
    bench = Bench(policy={"keep_dead_ms": HOUR})
    producer = bench.producer()
    die(bench, producer, "a", "b")
    bench.advance(HOUR // 2)
    die(bench, producer, "c")
    if restarted:
        restart(bench, producer)
    bench.advance(HOUR // 2 - 1)
    assert bench.counts("q") == {"dead": 3}
    bench.advance(1_001)
    assert dead_ids(producer) == ["c"]
    bench.advance(HOUR // 2)
    assert bench.counts("q") == {} and bench.core.state.queues["q"].counts.totals["dropped"] == 3
    for space in ("jobs", "changes", "dead"):
        assert not list(bench.store.scan(space, b"", b"\xff"))
    bench.check()


def test_what_became_too_old_while_the_broker_was_down_goes_at_once() -> None:
    bench = Bench(policy={"keep_dead_ms": HOUR})
    producer = bench.producer()
    die(bench, producer, *(f"{n}" for n in range(500)))
    bench.wall += HOUR
    restart(bench, producer)
    assert bench.counts("q") == {}
    bench.check()


@pytest.mark.parametrize("restarted", [False, True])
def test_so_many_are_kept_the_youngest(restarted: bool) -> None:
    bench = Bench(policy={"keep_dead_count": 3})
    producer = bench.producer()
    for n in range(8):
        die(bench, producer, f"{n}")
        bench.advance(10)
        if restarted:
            restart(bench, producer)
    assert dead_ids(producer) == ["5", "6", "7"]
    producer.put("q", "large", ttl=1, payload=bytes(70_000))
    bench.advance(1)
    assert dead_ids(producer) == ["6", "7", "large"]
    bench.check()


def test_what_is_kept_may_be_changed_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "STEP_ROWS", 7)
    bench = Bench()
    producer = bench.producer()
    for n in range(10):
        die(bench, producer, *(f"{n}{i:02}" for i in range(50)))
        bench.advance(60_000)
    bench.advance(HOUR)
    assert bench.counts("q") == {"dead": 500}
    producer.order("set", queue="q", options={"keep_dead_count": 400})
    assert bench.counts("q") == {"dead": 400}
    producer.order("set", queue="q", options={"keep_dead": HOUR + 3 * 60_000})
    assert bench.counts("q") == {"dead": 100}
    assert dead_ids(producer, queue="q")[0] == "800"
    producer.order("unset", queue="q", options=["keep_dead"])
    bench.advance(HOUR)
    assert bench.counts("q") == {"dead": 100}
    producer.order("set", queue="q", options={"keep_dead": 1})
    assert bench.counts("q") == {}
    bench.check()


def test_each_queue_keeps_its_own() -> None:
    bench = Bench(policy={"keep_dead_count": 2})
    producer = bench.producer()
    producer.order("set", queue="r", options={"keep_dead_count": 0, "keep_dead": HOUR})
    for queue in ("q", "r"):
        die(bench, producer, *(f"{queue}{n}" for n in range(5)), queue=queue)
    assert (bench.counts("q"), bench.counts("r")) == ({"dead": 2}, {"dead": 5})
    bench.advance(HOUR + 1_000)
    assert (bench.counts("q"), bench.counts("r")) == ({"dead": 2}, {})
    bench.check()


def test_more_queues_than_one_step_looks_at_are_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that has nothing to drop takes its part of a step, too: the others come in the next."""
    monkeypatch.setattr(broker_limits, "STEP_ROWS", 2)
    bench = Bench(policy={"keep_dead_ms": HOUR})
    producer = bench.producer()
    for queue in ("q", "r", "s"):
        die(bench, producer, f"{queue}1", queue=queue)
    bench.advance(HOUR // 2)
    die(bench, producer, "s2", queue="s")
    bench.advance(HOUR // 2 + 1_000)
    assert dead_ids(producer) == ["s2"]
    bench.check()


def test_a_replayed_job_that_dies_again_is_young_again() -> None:
    bench = Bench(policy={"keep_dead_ms": HOUR})
    producer = bench.producer()
    die(bench, producer, "a")
    bench.advance(HOUR - 1_000)
    producer.order("replay", ids=[b"a"])
    bench.advance(HOUR)
    assert bench.counts("q") == {"ready": 1}
    worker = bench.worker("w", "q")
    worker.reject(worker.job()[1], "a")
    worker.send(m.Goodbye())
    bench.advance(HOUR - 1)
    assert bench.counts("q") == {"dead": 1}
    bench.advance(1_001)
    assert bench.counts("q") == {}
    bench.check()


def test_a_clock_that_jumps_back_keeps_them_longer_and_drops_none_twice() -> None:
    bench = Bench(policy={"keep_dead_ms": HOUR})
    producer = bench.producer()
    die(bench, producer, "a")
    bench.advance(0, wall_ms=-HOUR)
    bench.advance(HOUR)
    assert bench.counts("q") == {"dead": 1}
    bench.advance(HOUR + 1_000)
    assert bench.counts("q") == {}
    bench.check()
