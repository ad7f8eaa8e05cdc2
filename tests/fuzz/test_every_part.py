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
    {"self": 1, "text": 2, "ids": 3},
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


BEFORE = ("bind", "keep_topic", "open_batch", "set_schedule")
"""Orders that make what other messages are about."""


def say(bench: Bench, message: m.Message) -> None:
    """Say it as it is, but for its number."""
    body, *blobs = codec.encode(message)
    command, *fields = msgpack.unpackb(body, strict_map_key=False)
    bench.number(command, fields)
    bench.say(PEER, [msgpack.packb([command, *fields]), *blobs])


def met() -> Bench:
    """A broker to which all was said that leaves something to act on."""
    bench = Bench()
    for message in samples.from_peers()[:-1]:
        if not isinstance(message, m.Order) or message.verb in BEFORE:
            say(bench, message)
    return bench


@pytest.mark.parametrize("kind", list(dict.fromkeys(map(named, samples.from_peers()))))
def test_a_broker_takes_any_value_anywhere(kind: str) -> None:
    bench = met()
    for message in samples.from_peers():
        if named(message) != kind:
            continue
        for command, fields, blobs in changes(message):
            if command in NUMBERED and type(fields[0]) is int and fields[0] < 100:
                bench.number(command, fields)
            if isinstance(message, m.Workflow) and fields[2] == samples.WORKFLOW:
                fields[2] = b"%022x" % bench.next_number()  # one that is there is not judged again
            if PEER not in bench.engine.core.state.routes:
                bench.hello(PEER)
            bench.say(PEER, [msgpack.packb([command, *fields]), *blobs])
            if command in NUMBERED and type(fields[1]) is int:  # perhaps it wants no more answers to what follows
                bench.hello(PEER)
    bench.pass_time(60_000)
    bench.work_honestly()
    bench.engine.core.begin(WALL + bench.now, bench.now)
    assert check_store(bench.store).faults == []


def working() -> WorkerSession:
    """A worker that its broker has welcomed."""
    worker = WorkerSession(samples.INCARNATION, owner=None, name="w", info={}, capacity=3, queues=["q"])  # type: ignore[arg-type]
    worker.session.connected(0)
    hear(worker, codec.encode(samples.from_brokers()[0]), 0)
    return worker


def hear(worker: WorkerSession, frames: list[bytes], now: int) -> None:
    worker.receive(worker.session.receive(frames, now), now)


@pytest.mark.parametrize("message", samples.from_brokers(), ids=named)
def test_a_worker_and_its_client_take_any_value_anywhere(message: m.Message) -> None:
    worker = working()
    for frames in map(codec.encode, samples.from_brokers()[:-1]):
        hear(worker, frames, 0)
    session = worker.session
    for now, (command, fields, blobs) in enumerate(changes(message)):
        session.watch(b"a")
        session.follow(b"b").leave()
        session.ask("stats", {}, now)
        session.outgoing(now)
        hear(worker, [msgpack.packb([command, *fields]), *blobs], now)
        worker.tick(now)


def test_a_worker_takes_whatever_is_said_of_a_job_that_is_none() -> None:
    """What is delivered may be no job: that shows when somebody asks for it."""
    (deliver,) = [message for message in samples.from_brokers() if isinstance(message, m.Deliver)]
    spoken = {type(message): message for message in samples.from_brokers()}
    said = [spoken[kind] for kind in (m.Flow, m.Cancel, m.Lost)]
    for command, fields, blobs in changes(deliver):
        worker = working()
        hear(worker, [msgpack.packb([command, *fields]), *blobs], 1)
        for job in worker.jobs:
            worker.start(job, 1)
        for message in said:
            hear(worker, codec.encode(message), 2)
        worker.tick(3)
        worker.release(worker.jobs)
