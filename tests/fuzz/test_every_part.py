"""Each part of each message with each odd value in its place, one at a time: nobody who hears it raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from tests.fuzz import choices, samples
from tests.fuzz.broker import NUMBERED, WALL, Bench
from zbroker.check import check_store
from zclient.protocol import codec
from zclient.protocol import messages as m
from zclient.session import Session
from zworker.session import WorkerSession

ODD: tuple[Any, ...] = (
    *choices.NUMBERS,
    *choices.TEXTS,
    *(value for value in choices.BYTES if len(value) < 100),
    *choices.OTHERS,
    [],
    [[]],
    [None],
    ["a", "a"],
    [b"a", b"a"],
    {},
    {None: None},
    {"x": []},
)
PEER = b"\0peer"


def every_change(value: Any) -> Iterator[Any]:
    """The value with one of its parts, or itself, being an odd value."""
    yield from ODD
    if isinstance(value, list):
        for place, part in enumerate(value):
            for changed in every_change(part):
                yield [*value[:place], changed, *value[place + 1 :]]
    elif isinstance(value, dict):
        for key, part in value.items():
            for changed in every_change(part):
                yield {**value, key: changed}


def changes(message: m.Message) -> Iterator[tuple[int, list[Any], list[bytes]]]:
    """Command, fields and frames of the message, with one part changed."""
    body, *blobs = codec.encode(message)
    command, *fields = msgpack.unpackb(body, strict_map_key=False)
    for place, field in enumerate(fields):
        for changed in every_change(field):
            yield command, [*fields[:place], changed, *fields[place + 1 :]], blobs


def named(message: Any) -> str:
    return f"{type(message).__name__}-{getattr(message, 'verb', '')}"


@pytest.mark.parametrize("kind", list(dict.fromkeys(map(named, samples.from_peers()))))
def test_a_broker_takes_any_value_anywhere(kind: str) -> None:
    """It has met all the others before, so that there is something to act on."""
    bench = Bench()
    hello = codec.encode(samples.from_peers()[0]._replace(held=[]))  # type: ignore[call-arg]
    for message in samples.from_peers()[:-1]:
        bench.say(PEER, codec.encode(message))
    for message in samples.from_peers():
        if named(message) != kind:
            continue
        for command, fields, blobs in changes(message):
            if command in NUMBERED and type(fields[0]) is int and fields[0] < 100:
                fields[0] = bench.next_number()
            if PEER not in bench.engine.core.state.routes:
                bench.say(PEER, hello)
            bench.say(PEER, [msgpack.packb([command, *fields]), *blobs])
    bench.pass_time(60_000)
    bench.work_honestly()
    bench.engine.core.begin(WALL + bench.now, bench.now)
    assert check_store(bench.store).faults == []


@pytest.mark.parametrize("message", samples.from_brokers(), ids=named)
def test_a_worker_and_its_client_take_any_value_anywhere(message: m.Message) -> None:
    worker = WorkerSession(samples.INCARNATION, owner=None, name="w", info={}, capacity=3, queues=["q"])  # type: ignore[arg-type]
    session: Session = worker.session
    session.connected(0)
    for frames in map(codec.encode, samples.from_brokers()[:-1]):
        worker.receive(session.receive(frames, 0), 0)
    for now, (command, fields, blobs) in enumerate(changes(message)):
        session.watch(b"a")
        session.follow(b"b").leave()
        session.ask("stats", {}, now)
        session.outgoing(now)
        worker.receive(session.receive([msgpack.packb([command, *fields]), *blobs], now), now)
        worker.tick(now)
