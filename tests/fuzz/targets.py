"""What is fuzzed: functions of some bytes that raise if what they try breaks a promise.

Bytes are messages of a peer, or choices of what a peer says (`choices.py`). Whatever they are, a decoder answers with a
value or its own error, and a session goes on. `broker.py` has the sessions of a broker.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgpack

from tests.fuzz import samples
from tests.fuzz.broker import broker_session
from tests.fuzz.choices import Choices
from zbroker.core import rows
from zbroker.storage import StoreError
from zbroker.storage.directory import store_of
from zbroker.storage.repair import bytes_beyond
from zbroker.storage.watermark import _slot, read_watermark
from zclient.durations import parse_duration
from zclient.errors import ZError
from zclient.filters import parse_filter
from zclient.options import queue_options
from zclient.protocol import codec, options, plans, record, topics
from zclient.session import Session
from zworker.session import WorkerSession

FRAMES = 3
"""Frames behind the body, at most."""


def frames_of(data: bytes) -> list[bytes]:
    """A body and frames: their number, then the body with a zero byte between them."""
    if not data:
        return [b""]
    body, *blobs = data[1:].split(b"\0frame\0")
    return [body, *blobs[: data[0] % (FRAMES + 1)]]


def decoder(data: bytes) -> None:
    """Bytes as they are: a message that comes back the same, or `MalformedMessage`."""
    with contextlib.suppress(codec.MalformedMessage):
        again(codec.decode(frames_of(data)))


def messages(data: bytes) -> None:
    """Messages of which some parts are others: the same."""
    choices = Choices(data)
    every = (*samples.from_peers(), *samples.from_brokers())
    while choices.left:
        with contextlib.suppress(codec.MalformedMessage):
            again(codec.decode(changed(choices, choices.one_of(every))))


def changed(choices: Choices, message: Any) -> list[bytes]:
    """The frames of a message of which some parts are others."""
    body, *blobs = codec.encode(message)
    command, *fields = msgpack.unpackb(body, strict_map_key=False)
    return [msgpack.packb([command, *choices.changed_list(fields, choices.one_of((12, 4, 24)))]), *blobs]


def again(message: Any) -> None:
    """What was decoded is encoded, and decoded to the same; values that equal nothing, such as NaN, aside."""
    frames = codec.encode(message)
    if codec.encode(codec.decode(frames)) != frames:
        raise AssertionError(f"{message!r} is another one after encoding")


def faults(data: bytes) -> None:
    """What is said of options, plans, topics and filters: a text or None, whatever they are."""
    choices = Choices(data)
    while choices.left:
        value = choices.value(4)
        plan = choices.changed(samples.PLAN)
        told = [topics.topic_fault(value), topics.pattern_fault(value), topics.filters_fault(value)]
        told += [topics.filters_fault(choices.changed([["x", "=", 1], ["y", "in", [1, 2]]]))]
        told += [plans.plan_fault(one) for one in (value, plan) if isinstance(one, dict)]
        given = choices.changed(samples.OPTIONS)
        for asked in (value, given):
            if isinstance(asked, dict):
                told += [options.options_fault(table, asked) for table in samples.tables()]
                told.append(options.job_fault(asked))
        if not {type(one) for one in told} <= {str, type(None)}:
            raise AssertionError(f"a fault that is no text: {told}")


def texts(data: bytes) -> None:
    """What people write: understood, or refused with an error of ours or `ValueError`."""
    text = data.decode(errors="replace")
    for parse in (parse_duration, parse_filter):
        with contextlib.suppress(ZError, ValueError):
            parse(text)
    name, _, rest = text.partition("=")
    with contextlib.suppress(ZError, ValueError):
        queue_options({name: rest})


STORED = (LookupError, ValueError, TypeError, AttributeError, msgpack.exceptions.UnpackException)
"""What a row that is none may raise: the broker stops then, since the store has vouched for its bytes."""


def stored(data: bytes) -> None:
    """Rows and records from bytes: a value or an ordinary error, and never a hang or a heap."""
    for decode in (rows.decode_change, rows.unpack, record.header_of, record.sequence_of, record.payload_of):
        with contextlib.suppress(*STORED):
            decode(data)
    for split in (rows.split_head_key, rows.split_dead_key, rows.split_binding_key):
        with contextlib.suppress(*STORED):
            split(data)


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def files(data: bytes) -> None:
    """WATERMARK, FORMAT and the log that a repair measures: a value, or a `StoreError`."""
    folder = _folder()
    for name, read in (
        ("WATERMARK", lambda: read_watermark(folder / "WATERMARK")),
        ("FORMAT", lambda: store_of(folder)),
    ):
        (folder / name).write_bytes(data)
        with contextlib.suppress(StoreError):
            read()
    beyond = bytes_beyond(data, int.from_bytes(data[:2], "big"))
    if not 0 <= beyond <= len(data):
        raise AssertionError(f"{beyond} of {len(data)} bytes lie beyond")


def client_session(data: bytes) -> None:
    """What a broker may say to a client that has asked for everything: it never raises, and goes on."""
    choices = Choices(data)
    session = Session(samples.INCARNATION, name="fuzz", info={}, queues=["q"], capacity=3)
    _talk(choices, session, lambda heard, now: None)


def worker_session(data: bytes) -> None:
    """The same of a worker, which holds what is delivered."""
    choices = Choices(data)
    worker = WorkerSession(samples.INCARNATION, owner=_Owner(), name="fuzz", info={}, capacity=3, queues=["q"])

    def takes(heard: list[Any], now: float) -> None:
        for job in worker.receive(heard, now):
            worker.start(job, now)
        worker.interrupted()
        worker.tick(now)
        if choices.below(4) == 1:
            worker.release(worker.jobs)

    _talk(choices, worker.session, takes)


class _Owner:
    """Whoever holds jobs, and does nothing with them."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def _talk(choices: Choices, session: Session, heard: Callable[[list[Any], float], None]) -> None:
    now = 0.0
    spoken = samples.from_brokers()
    session.connected(now)
    _ask_everything(session, now)
    session.receive(codec.encode(spoken[0]), now)
    for _ in _asked(session, now):
        pass
    while choices.left:
        now += choices.below(200) * 50
        what = choices.below(16)
        if what == 0:
            session.disconnected(now)
            session.connected(now)
        elif what == 1:
            _ask_everything(session, now)
        frames = changed(choices, choices.one_of(spoken)) if what else frames_of(choices.take(60))
        heard(session.receive(frames, now), now)
        session.tick(now)
        for _ in _asked(session, now):
            pass


def _asked(session: Session, now: float) -> Iterator[list[bytes]]:
    yield from session.outgoing(now)


def _ask_everything(session: Session, now: float) -> None:
    spoken = samples.from_peers()
    session.put([spoken[1].groups[0]], now)  # type: ignore[union-attr]
    session.ask("stats", {}, now)
    session.order("pause", {"queue": "q"}, now)
    session.watch(b"a")
    session.follow(b"b")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder,
    "messages": messages,
    "faults": faults,
    "texts": texts,
    "stored": stored,
    "files": files,
    "client": client_session,
    "worker": worker_session,
    "broker": broker_session,
}


def seeds(name: str) -> list[bytes]:
    """Inputs to begin with, where the bytes are no choices."""
    if name == "decoder":
        spoken = [codec.encode(message) for message in (*samples.from_peers(), *samples.from_brokers())]
        return [bytes((len(told) - 1,)) + b"\0frame\0".join(told) for told in spoken]
    if name == "stored":
        change = rows.Change(rows.State.SCHEDULED, 1, samples.FENCE)
        return [samples.RECORD, rows.encode_change(change), rows.dead_key("q", 1, b"a"), rows.head_key("q", b"k", b"a")]
    if name == "files":
        return [b"zbroker format 1\nstore rocksdb\n", _slot(7) + bytes(4096) + _slot(8)]
    return [b"1h", b"2.5s", b"x>=3", b"x in a,b", b"rate=10/1m"] if name == "texts" else []
