"""What queues say of their jobs: each option by name, where a value comes from, what wins, and from when it holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.harness import WALL, Bench, Peer
from zbroker import limits
from zbroker.core.policy import FIELDS
from zclient.protocol import messages as m
from zclient.protocol.options import DAY_MS, MAX_WEIGHTS, QUEUE_OPTIONS, YEAR_MS, Option

TOO_LONG = "x" * 129


def values_of(option: Option) -> tuple[list[Any], list[Any]]:
    """Some values that an option can have, and some that it cannot."""
    odd = [None, b"bytes", -1, 1.5, True, "odd", [], {"a": "b"}]
    match option.kind:
        case "count" | "duration" | "size":
            return [option.low, option.high], [*odd, option.low - 1, option.high + 1, "5"]
        case "share":
            return [0, 0.5, 1, 1.0], [None, -0.1, 1.1, True, "0.5", float("nan")]
        case "choice":
            return list(option.choices), [*odd, "", [option.choices[0]]]
        case "backoff":
            good = ["exponential", "linear", "constant", [1], [0, 1, YEAR_MS], [5] * 100]
            return good, [*odd, [5] * 101, [-1], ["1"], [True], [YEAR_MS + 1], 5]
        case "rate":
            good = [0, [1, 1], [1_000_000, 1], [10, DAY_MS]]
            return good, [*odd, 5, [0, 1], [1, 0], [1, 1, 1], [1.0, 1], [1_000_001, 1], [1, DAY_MS + 1], [True, 1]]
        case "weights":
            many = {f"{n}": 1 for n in range(MAX_WEIGHTS + 1)}
            good = [{}, {"a": 1, "b": 1000, "": 2}]
            return good, [None, [], "a=1", {"a": 0}, {"a": 1001}, {"a": True}, {"x" * 257: 1}, {"a\0": 1}, {1: 1}, many]
        case "queue":
            return ["", "other", "_.a/b:c@d-e"], [*odd[:5], [], "no way", "mmi.x", TOO_LONG]
    raise AssertionError(f"no values for {option.kind}")


def policy(peer: Peer, queue: str = "q") -> dict[str, tuple[Any, str]]:
    """Each option of a queue with its value and its source."""
    told: dict[str, tuple[Any, str]] = peer.ask("queue", queue=queue)["policy"]
    return told


def source(peer: Peer, name: str, queue: str = "q") -> tuple[Any, str]:
    return policy(peer, queue)[name]


# ---- each option


@pytest.mark.parametrize("name", QUEUE_OPTIONS)
def test_each_option_takes_its_values_and_no_others_and_keeps_them(name: str) -> None:
    good, bad = values_of(QUEUE_OPTIONS[name])
    bench = Bench()
    producer = bench.producer()
    for value in good:
        answer = producer.order("set", queue="q", options={name: value})
        assert answer["policy"][name] == (value, "set") == source(producer, name)
        bench.crash()
        producer.connect()
        assert source(producer, name) == (value, "set")
        producer.put("q", f"{good.index(value)}")
        bench.check()
    for value in bad:
        refused = producer.refused(m.Order(producer.next_number(), 1, "set", {"queue": "q", "options": {name: value}}))
        assert refused.code == "invalid" and name in refused.text, value
        assert source(producer, name) == (good[-1], "set"), "a refused order changes nothing"
    assert producer.order("unset", queue="q", options=[name])["policy"][name] == (
        QUEUE_OPTIONS[name].default,
        "default",
    )
    bench.crash()
    producer.connect()
    assert source(producer, name) == (QUEUE_OPTIONS[name].default, "default")


def test_the_answers_list_every_option_with_its_default() -> None:
    producer = Bench().producer()
    producer.put("q", "a")
    assert policy(producer) == {name: (option.default, "default") for name, option in QUEUE_OPTIONS.items()}


@pytest.mark.parametrize(
    ("verb", "arguments", "code"),
    [
        ("set", {"queue": "q"}, "invalid"),
        ("set", {"queue": "q", "options": {}}, "invalid"),
        ("set", {"queue": "q", "options": ["lease"]}, "invalid"),
        ("set", {"queue": "q", "options": {"colour": 1}}, "invalid"),
        ("set", {"queue": "q", "options": {5: 1}}, "invalid"),
        ("set", {"queue": "q", "options": {"lease": 1000, "max_attempts": 0}}, "invalid"),
        ("set", {"queue": "no way", "options": {"lease": 1000}}, "invalid"),
        ("set", {"queue": 5, "options": {"lease": 1000}}, "invalid"),
        ("set", {"options": {"lease": 1000}}, "invalid"),
        ("unset", {"queue": "q"}, "not_found"),
        ("unset", {"queue": "there"}, "invalid"),
        ("unset", {"queue": "there", "options": []}, "invalid"),
        ("unset", {"queue": "there", "options": {"lease": 1}}, "invalid"),
        ("unset", {"queue": "there", "options": ["colour"]}, "invalid"),
        ("unset", {"queue": "there", "options": [["lease"]]}, "invalid"),
    ],
)
def test_orders_that_cannot_be(verb: str, arguments: dict[str, Any], code: str) -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("there", "a")
    assert producer.refused(m.Order(50, 1, verb, arguments)).code == code
    assert list(bench.core.state.queues) == ["there"] and policy(producer, "there")["lease"] == (30_000, "default")


def test_the_broker_has_only_so_many_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_QUEUES", 1)
    producer = Bench().producer()
    producer.order("set", queue="q", options={"lease": 1000})
    refused = producer.refused(m.Order(50, 1, "set", {"queue": "r", "options": {"lease": 1000}}))
    assert refused.code == "too_many_queues"
    refused = producer.refused(m.Order(51, 1, "set", {"queue": "q", "options": {"dead_to": "r"}}))
    assert refused.code == "too_many_queues", "nor one for dead jobs"


# ---- what wins


def test_what_was_set_wins_over_the_file_the_file_over_the_broker_the_broker_over_the_default() -> None:
    bench = Bench(
        policy={"lease_ms": 10_000, "max_attempts": 6, "keep_dead_count": 6},
        sources={"lease": "ZBROKER_LEASE", "max_attempts": "argument", "keep_dead_count": "zbroker.toml"},
        queues={"q": {"lease": 20_000, "max_attempts": 7}},
    )
    producer = bench.producer()
    producer.order("set", queue="q", options={"lease": 40_000})
    expected = {
        "lease": (40_000, "set"),
        "max_attempts": (7, "config"),
        "keep_dead_count": (6, "zbroker.toml"),
        "ttl": (0, "default"),
    }
    for _ in range(2):
        assert {name: source(producer, name) for name in expected} == expected
        bench.crash()
        producer.connect()
    producer.order("unset", queue="q", options=["lease", "ttl"])  # the second was not set, which is no error
    assert source(producer, "lease") == (20_000, "config")
    producer.put("r", "a")
    assert source(producer, "lease", "r") == (10_000, "ZBROKER_LEASE")


def test_the_queues_of_the_file_are_there_at_the_start() -> None:
    bench = Bench(queues={"declared": {"key_limit": 1}, "bare": {}})
    producer = bench.producer()
    assert [row["queue"] for row in producer.ask("queues")] == ["bare", "declared"]
    assert producer.ask("queue", queue="declared")["created_at"] == WALL
    bench.advance(1000)
    bench.crash()
    producer.connect()
    assert producer.ask("queue", queue="declared")["created_at"] == WALL, "made once"


def test_a_file_that_says_something_else_after_a_restart_is_believed() -> None:
    bench = Bench(queues={"q": {"max_attempts": 7, "lease": 1000}})
    producer = bench.producer()
    producer.order("set", queue="q", options={"lease": 2000})
    bench.settings = Bench(queues={"q": {"lease": 3000}}).settings
    bench.crash()
    producer.connect()
    assert (source(producer, "max_attempts"), source(producer, "lease")) == ((5, "default"), (2000, "set"))


def test_options_are_set_one_by_one_or_together_and_the_last_value_counts() -> None:
    producer = Bench().producer()
    producer.order("set", queue="q", options={"lease": 1000, "ttl": 5})
    producer.order("set", queue="q", options={"lease": 2000, "max_jobs": 9})
    told = policy(producer)
    assert (told["lease"], told["ttl"], told["max_jobs"]) == ((2000, "set"), (5, "set"), (9, "set"))
    assert {told[name][1] for name in FIELDS if name not in ("lease", "ttl", "max_jobs")} == {"default"}


def test_a_value_that_is_set_is_set_though_it_is_the_default() -> None:
    bench = Bench(queues={"q": {"lease": 1000}})
    producer = bench.producer()
    assert producer.order("set", queue="q", options={"lease": 30_000})["policy"]["lease"] == (30_000, "set")


@pytest.mark.parametrize("ends", ["before commit", "before send"])
def test_an_order_counts_from_its_commit_on_and_is_applied_once(ends: str) -> None:
    bench = Bench()
    producer = bench.producer()
    order = m.Order(5, 5, "set", {"queue": "q", "options": {"lease": 1000}})
    bench.turn([(producer.route, order)], ends=ends)
    bench.crash()
    producer.connect()
    assert ("q" in bench.core.state.queues) == (ends == "before send")
    producer.send(m.Order(6, 5, "set", {"queue": "q", "options": {"lease": 2000}}))
    producer.send(order)
    assert producer.value_of(5)["policy"]["lease"][0] == 1000
    assert source(producer, "lease") == ((1000 if ends == "before commit" else 2000), "set")


# ---- from when it holds


def test_it_holds_at_once_for_what_waits() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=10)
    producer.order("set", queue="q", options={"in_flight_limit": 1})
    producer.put("q", *"abcdef")
    assert worker.ids() == ["a"]
    producer.order("set", queue="q", options={"in_flight_limit": 3})
    assert worker.ids() == ["b", "c"]
    producer.order("set", queue="q", options={"in_flight_limit": 2})
    bench.lowered = True
    fences = {identifier.decode(): fence for fence, d in bench.core.state.deliveries.items() for identifier in d.ids}
    worker.ack(fences["a"], "a")
    assert worker.ids() == [], "two are still in flight"
    producer.order("unset", queue="q", options=["in_flight_limit"])
    assert worker.ids() == ["d", "e", "f"]
    bench.check()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"rate": [1, 60_000]}, {"rate": 0}),
        ({"key_rate": [1, 60_000]}, {"key_rate": 0}),
        ({"key_limit": 1}, {"key_limit": 0}),
        ({"key_limit": 1}, {"key_limit": 3}),
    ],
)
def test_a_limit_that_is_lifted_lets_go_what_it_held(before: dict[str, Any], after: dict[str, Any]) -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=3)
    producer.order("set", queue="q", options=before)
    producer.put("q", "a", "b", "c", key="k")
    assert worker.ids() == ["a"]
    producer.order("set", queue="q", options=after)
    assert worker.ids() == ["b", "c"]
    bench.check()


def test_a_key_limit_of_one_that_is_lifted_frees_the_keys_of_jobs_that_wait_for_a_time() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.order("set", queue="q", options={"key_limit": 1})
    producer.put("q", "a", "b", key="k")
    worker.snooze(worker.job()[1], "a", delay=10_000)
    assert worker.ids() == []
    producer.order("set", queue="q", options={"key_limit": 2})
    assert worker.ids() == ["b"] and not list(bench.store.scan("heads", b"", b"\xff"))
    bench.check()


def test_it_holds_for_what_runs_as_soon_as_it_is_asked() -> None:
    bench = Bench(policy={"backoff": "constant", "backoff_jitter": 0})
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a")
    fence = worker.job()[1]
    producer.order("set", queue="q", options={"lease": 5000, "max_attempts": 2, "backoff_min": 7000})
    assert producer.ask("show", id=b"a")["lease_ms"] == 30_000, "the lease that it has stays"
    bench.advance(29_000)
    worker.send(m.Renew([fence]))
    assert producer.ask("show", id=b"a")["lease_ms"] == 5000, "and is renewed for as long as the queue says now"
    worker.nack(fence, "a")
    assert producer.ask("show", id=b"a")["due_at"] == bench.wall + 7000
    bench.advance(7000)
    worker.nack(worker.job()[1], "a")
    assert bench.counts("q") == {"dead": 1}


def test_time_to_begin_is_counted_from_the_put_and_what_is_there_keeps_its_own() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", "before")
    producer.order("set", queue="q", options={"ttl": 1000})
    producer.put("q", "after")
    assert producer.ask("show", id=b"before")["expires_at"] is None
    assert producer.ask("show", id=b"after")["expires_at"] == bench.wall + 1000
    bench.advance(1000)
    assert bench.counts("q") == {"ready": 1, "dead": 1}


def test_a_length_that_is_lowered_drops_nothing_and_refuses_what_comes() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.put("q", *"abc")
    producer.order("set", queue="q", options={"max_jobs": 2})
    assert bench.counts("q") == {"ready": 3}
    failure = producer.put("q", "d")
    assert isinstance(failure, m.Failure) and failure.code == "queue_full"
    producer.order("unset", queue="q", options=["max_jobs"])
    assert producer.put("q", "d") == m.Ok([producer.number])


def test_what_is_kept_of_the_dead_is_trimmed_at_once() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=5)
    producer.put("q", *"abcde")
    worker.reject(worker.one(m.Deliver).fence, *"abcde")
    producer.order("set", queue="q", options={"keep_dead_count": 2})
    assert bench.counts("q") == {"dead": 2}
    bench.advance(10_000)
    producer.order("set", queue="q", options={"keep_dead": 10_001})
    assert bench.counts("q") == {"dead": 2}
    bench.advance(1000)
    assert bench.counts("q") == {}
    bench.check()


# ---- where the dead go


def test_dead_jobs_never_come_back_to_where_they_were() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.order("set", queue="a", options={"dead_to": "b"})
    producer.order("set", queue="b", options={"dead_to": "c"})
    for queue, target in (("a", "a"), ("b", "a"), ("c", "a"), ("c", "b"), ("c", "c")):
        refused = producer.refused(
            m.Order(producer.next_number(), 1, "set", {"queue": queue, "options": {"dead_to": target}})
        )
        assert refused.code == "invalid" and "would come back" in refused.text
    assert source(producer, "dead_to", "b") == ("c", "set")
    producer.order("set", queue="b", options={"dead_to": ""})
    producer.order("set", queue="c", options={"dead_to": "a"})


def test_a_refused_order_makes_no_queue() -> None:
    bench = Bench()
    producer = bench.producer()
    assert producer.refused(m.Order(50, 1, "set", {"queue": "new", "options": {"dead_to": "new"}})).code == "invalid"
    assert not bench.core.state.queues


def test_what_would_hold_again_is_judged_by_unset_too() -> None:
    bench = Bench(queues={"a": {"dead_to": "b"}})
    producer = bench.producer()
    producer.order("set", queue="a", options={"dead_to": ""})
    producer.order("set", queue="b", options={"dead_to": "a"})
    assert producer.refused(m.Order(50, 1, "unset", {"queue": "a", "options": ["dead_to"]})).code == "invalid"
    producer.order("unset", queue="b", options=["dead_to"])
    assert producer.order("unset", queue="a", options=["dead_to"])["policy"]["dead_to"] == ("b", "config")


def test_one_queue_for_the_dead_of_all_is_no_circle() -> None:
    bench = Bench(policy={"dead_to": "dead-jobs", "max_attempts": 1})
    producer, worker = bench.producer(), bench.worker("w", "q", "r", "dead-jobs")
    producer.order("set", queue="q", options={"lease": 60_000})
    producer.order("unset", queue="q", options=["lease"])
    producer.order("set", queue="r", options={"dead_to": "dead-jobs"})
    producer.order("unset", queue="r", options=["dead_to"])
    producer.order("set", queue="dead-jobs", options={"lease": 60_000})
    producer.order("unset", queue="dead-jobs", options=["lease"])
    producer.put("q", "a")
    worker.nack(worker.job()[1], "a")
    worker.nack(worker.job()[1], "a")
    assert bench.counts("dead-jobs") == {"dead": 1} and bench.counts("q") == {}, "its own dead stay there"
    refused = producer.refused(m.Order(50, 1, "set", {"queue": "dead-jobs", "options": {"dead_to": "q"}}))
    assert refused.code == "invalid"
    bench.check()


def test_a_circle_that_the_file_closed_meanwhile_is_broken_at_the_start() -> None:
    bench = Bench(policy={"max_attempts": 1})
    producer = bench.producer()
    producer.order("set", queue="a", options={"dead_to": "b"})
    bench.settings = replace(bench.settings, queues={"b": {"dead_to": "a"}})
    bench.crash()
    (told,) = bench.told("dead_to ignored")
    assert told["queue"] == "a" and "come back" in told["reason"]
    producer.connect()
    worker = bench.worker("w", "a", "b")
    producer.put("b", "x")
    worker.nack(worker.job()[1], "x")
    worker.nack(worker.job()[1], "x")
    assert worker.jobs() == [] and bench.counts("a") == {"dead": 1}
    bench.check()


def test_very_many_keys_that_wait_are_set_free_in_slices() -> None:
    bench = Bench(policy={"key_limit": 1})
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=1000)
    jobs = 10 * limits.STEP_ROWS
    for n in range(jobs):
        producer.put("q", f"{n}/a", f"{n}/b", key=str(n))
    for identifier, fence in worker.jobs():
        worker.snooze(fence, identifier, delay=3_600_000)
    assert worker.jobs() == []
    before = bench.turns
    producer.order("set", queue="q", options={"key_limit": 2})
    assert len(worker.ids()) == jobs and bench.turns - before >= jobs // limits.STEP_ROWS // limits.TURN_STEPS
    assert not list(bench.store.scan("heads", b"", b"\xff"))
    bench.check()
