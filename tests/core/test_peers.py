"""Peers that speak badly, read slowly, or are many: nobody else is disturbed, and memory is bounded."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zbroker.commit import Commit, Durability
from zbroker.core.core import Core
from zbroker.core.state import Settings
from zbroker.engine import Engine
from zbroker.storage.memory import MemoryStore
from zclient.protocol import codec
from zclient.protocol import messages as m


def engine() -> Engine:
    store = MemoryStore()
    made = Engine(Core(store, Settings(), random.Random(0)), Commit(store, Durability.MEMORY, lambda seconds: None))
    made.open(1_700_000_000_000, 1000, b"broker")
    return made


def turn(made: Engine, *messages: tuple[bytes, list[bytes]]) -> list[tuple[bytes, m.Message]]:
    """What leaves after these frames came."""
    made.core.begin(1_700_000_000_000, 1000)
    for route, frames in messages:
        made.receive(route, frames)
    return [(route, codec.decode(frames)) for route, frames, _ in made.finish(drained=True)]


def still_serves(made: Engine) -> None:
    """It comes to rest, and another peer that says HELLO is welcome."""
    while made.core.wanted_in() == 0:
        turn(made)
    answers = turn(made, (b"other", codec.encode(m.Hello(1, b"o" * 16, "o", 0, [], [], 0, {}))))
    assert (b"other", m.Welcome) in [(route, type(message)) for route, message in answers]


HELLO = codec.encode(m.Hello(1, bytes(16), "peer", 5, ["q"], [], 0, {}))
PUT = codec.encode(m.Put(1, 1, [m.Group("q", {}, [b"a"], [b"p"])]))


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\x90"],
        [b"\x91"],
        [b"\x91\xc1"],
        [b"\x93\x03"],
        [b"MDPC01", b"echo"],
        [b"", b"MDPW02", b"\x01", b"echo"],
        [msgpack.packb([99, 1])],
        [msgpack.packb([[], 1])],
        [msgpack.packb([None])],
        [msgpack.packb([3, 5])],
        [msgpack.packb([3, 5, 5, []])],
        [msgpack.packb([3, 5, 5, [["q", {}, [b"a"], [1]]]])],
        [msgpack.packb([3, 5, 5, [["q", {}, [b"a"], [2]]]]), b"blob"],
        [msgpack.packb([3, 5, 5, [["q", {}, [b"a", b"b"], [b"p"]]]])],
        [msgpack.packb([3, 5, 5, [["q", {}, ["a"], [b"p"]]]])],
        [msgpack.packb([3, -5, 5, [["q", {}, [b"a"], [b"p"]]]])],
        [msgpack.packb([3, 1 << 60, 5, [["q", {}, [b"a"], [b"p"]]]])],
        [msgpack.packb([4, 5, [[1, 9, [b"a"], None]]])],
        [msgpack.packb([4, 5, [[1, 5, [b"a"], None]]])],
        [msgpack.packb([1, 1, b"short", "n", 1, [], [], 0, {}])],
        [msgpack.packb([66, [1]])],
        [msgpack.packb([3, 5, 5, [["q", {}, [b"a"], [b"p"]]]])[:-3]],
        [msgpack.packb([71, *([0] * 5000)])[:9]],
        [b"\x9f" * 2000],
        [b"x"] * 5000,
        [b"\x92", *[b"x"] * 5000],
    ],
)
def test_malformed_messages_never_disturb(frames: list[bytes]) -> None:
    made = engine()
    assert turn(made, (b"stranger", frames)) in ([], [(b"stranger", m.Who())])
    turn(made, (b"peer", HELLO))
    answers = turn(made, (b"peer", frames), (b"peer", PUT), (b"stranger", frames))
    assert m.Ok([1]) in [message for route, message in answers if route == b"peer"]
    others = [message for route, message in answers if route == b"peer"]
    for message in others:
        assert isinstance(message, m.Ok | m.Deliver) or (isinstance(message, m.Failure) and message.code == "malformed")
    counters = made.core.state.counters
    assert counters.get("malformed", 0) + counters.get("foreign", 0) + counters.get("refused_malformed", 0) >= 1


def test_random_frames_never_disturb() -> None:
    made = engine()
    turn(made, (b"peer", HELLO))
    source = random.Random(7)
    whole = [HELLO[0], PUT[0], codec.encode(m.Settle(3, [m.Settlement(1, 1, [b"a"], [b"r"])]))[0]]
    for _ in range(3000):
        if source.random() < 0.3:
            body = bytes((0x90 | source.randrange(16),)) + source.randbytes(source.randrange(60))
        else:
            body = bytearray(source.choice(whole))
            for _ in range(source.randrange(1, 4)):
                body[source.randrange(1, len(body))] = source.randrange(256)
        turn(made, (source.choice([b"peer", b"stranger"]), [bytes(body)]))
    still_serves(made)


whole = st.integers(-(1 << 63), (1 << 64) - 1)
odd = st.recursive(
    st.none()
    | st.booleans()
    | whole
    | st.floats()
    | st.sampled_from(["q", "ready", "none", "", b"a", b"", b"\xff", "x" * 200, b"x" * 70]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "queue"]) | whole, inner),
    max_leaves=4,
)
verbs = ["show", "list", "queues", "queue", "dead", "workers", "stats"]
orders = ["cancel", "purge", "pause", "resume", "replay", "drop"]
arguments = st.dictionaries(st.sampled_from(["id", "ids", "queue", "state", "limit", "cursor", "rate"]), odd)
options = st.dictionaries(
    st.sampled_from(["priority", "key", "delay", "at", "max_attempts", "headers", "odd"]) | whole, odd
)
values = st.none() | st.lists(odd, min_size=1, max_size=1)


@given(
    st.lists(
        st.tuples(st.just(10), st.just(7), st.sampled_from(verbs) | odd, arguments)
        | st.tuples(st.just(11), st.just(8), st.just(1), st.sampled_from(orders) | odd, arguments)
        | st.tuples(st.just(3), st.just(9), st.just(1), st.tuples(st.tuples(odd, options, st.just([b"b"]), odd)))
        | st.tuples(st.just(3), st.just(9), st.just(1), st.just([("q", {}, [b"b"], [b""])]))
        | st.tuples(
            st.just(4),
            st.just(6),
            st.tuples(st.tuples(st.integers(1 << 32, (1 << 32) + 3), st.integers(1, 5), st.just([b"a"]), values)),
        )
        | st.tuples(st.integers(1, 12), odd, odd, odd),
        max_size=6,
    )
)
def test_whatever_a_message_holds_it_is_answered_and_nobody_is_disturbed(messages: list[Any]) -> None:
    made = engine()
    turn(made, (b"peer", HELLO), (b"peer", PUT))
    for message in messages:
        turn(made, (b"peer", [msgpack.packb(message)]))
    still_serves(made)


def test_strangers_are_asked_who_they_are_and_what_they_said_is_dropped() -> None:
    bench = Bench()
    stranger = Peer(bench, "stranger", ("q",), 3)
    stranger.route = bench.new_route(stranger)
    stranger.send(
        m.Put(1, 1, [m.Group("q", {}, [b"a"], [b""])]), m.Ask(2, "stats", {}), m.Goodbye(), m.Capacity(5), m.Renew([1])
    )
    assert stranger.inbox == [m.Who()] * 5
    assert not bench.core.state.queues and not bench.core.state.peers


def test_messages_of_a_broker_are_not_for_a_broker() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.send(m.Ok([1]))
    assert producer.one(m.Failure).code == "malformed"


def test_a_peer_that_stops_reading_costs_bounded_memory() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q", capacity=10)
    worker.full = True
    producer.put("q", *(f"{n}" for n in range(500)))
    bench.advance(60_000)
    state = bench.core.state
    assert len(state.lease_heap) < broker_limits.STALE_LEASES + 100
    assert not state.deliveries and not state.works and len(state.tick.sends) == 0
    assert bench.counts("q") == {"ready": 500}
    bench.check()


def test_probes_go_to_workers_each_second_and_to_others_every_five() -> None:
    bench = Bench()
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.inbox.clear()
    worker.inbox.clear()
    bench.advance(20_000)
    assert 18 <= len(worker.take(m.Ping)) <= 20
    assert 3 <= len(producer.take(m.Ping)) <= 5


def test_an_idle_core_rests() -> None:
    bench = Bench()
    bench.worker("w", "q")
    before = bench.turns
    bench.advance(60_000)
    assert bench.turns - before < 150
    assert bench.core.wanted_in() > 0
