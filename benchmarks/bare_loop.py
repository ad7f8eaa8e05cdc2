"""A bare loop to compare with: ROUTER, msgpack batches, one RocksDB write and fsync a turn, and no feature at all.

No leases, no retries, no order, no checks: what the libraries alone cost. It is no broker; it shows how far one is from
the floor.
"""

import os
import tempfile
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import msgpack
import zmq
from rocksdict import Options, Rdict, WriteBatch

from benchmarks.harness import PAYLOAD, started, together

BATCH = 100
WINDOW = 8


def serve(jobs: int, port: int, pipe: Connection) -> None:
    """Take batches, keep them, hand them to the consumer, delete what it acks; until all are acked."""
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as directory:
        store = Rdict(directory, Options(raw_mode=True))
        router = zmq.Context().socket(zmq.ROUTER)
        router.bind(f"tcp://127.0.0.1:{port}")
        started(pipe)
        acked = 0
        consumer = b""
        while acked < jobs:
            router.poll()
            batch = WriteBatch(raw_mode=True)
            sends: list[list[bytes]] = []
            try:
                for _ in range(400):
                    route, body = router.recv_multipart(zmq.DONTWAIT)
                    kind, ids, payloads = msgpack.unpackb(body)
                    if kind == "put":
                        for identifier, payload in zip(ids, payloads, strict=True):
                            batch.put(identifier, payload)
                        sends += [[route, b"ok"], [consumer, body]]
                    elif kind == "ack":
                        for identifier in ids:
                            batch.delete(identifier)
                        acked += len(ids)
                        sends.append([route, b"ok"])
                    else:
                        consumer = route
                        sends.append([route, b"ok"])
            except zmq.Again:
                pass  # all received: that is how a non-blocking socket says so
            if len(batch):
                store.write(batch)
                store.flush_wal(True)
            for frames in sends:
                router.send_multipart(frames)
        pipe.send(None)
        router.close()
        store.close()


def produce(jobs: int, port: int, pipe: Connection) -> None:
    """Put batches with a window of them unanswered."""
    dealer = _dealer(port)
    started(pipe)
    begun = time.monotonic()
    unanswered = 0
    for start in range(0, jobs, BATCH):
        ids = [b"%032x" % n for n in range(start, start + BATCH)]
        dealer.send(msgpack.packb(("put", ids, [PAYLOAD] * BATCH)))
        unanswered += 1
        while unanswered >= WINDOW:
            dealer.recv()
            unanswered -= 1
    while unanswered:
        dealer.recv()
        unanswered -= 1
    pipe.send(begun)


def consume(jobs: int, port: int, pipe: Connection) -> None:
    """Ack what comes."""
    dealer = _dealer(port)
    dealer.send(msgpack.packb(("here", [], [])))
    taken = 0
    acks = 0
    ready = False
    while taken < jobs or acks:
        body = dealer.recv()
        if body == b"ok":
            if not ready:
                ready = True
                started(pipe)
            else:
                acks -= 1
            continue
        _, ids, payloads = msgpack.unpackb(body)
        taken += len(payloads)
        acks += 1
        dealer.send(msgpack.packb(("ack", ids, [])))
    pipe.send(time.monotonic())


def _dealer(port: int) -> Any:
    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    return dealer


def lifecycle(jobs: int) -> dict[str, float]:
    """The same lifecycle as `workloads.lifecycle`, through the bare loop."""
    port = 20_000 + os.getpid() % 20_000
    # The loop must run before the consumer can be ready: it starts by itself.
    _, begun, ended = together(
        partial(_serve_at_once, jobs, port), partial(produce, jobs, port), partial(consume, jobs, port)
    )
    return {"lifecycles/s": jobs / (ended - begun)}


def _serve_at_once(jobs: int, port: int, pipe: Connection) -> None:
    pipe.send(None)
    serve(jobs, port, _Started(pipe))  # type: ignore[arg-type]


class _Started:
    """A pipe on which being ready was said already; the start is awaited with the result."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._said = False

    def send(self, value: Any) -> None:
        if self._said:
            self._pipe.recv()
            self._pipe.send(value)
        self._said = True

    def recv(self) -> None:
        return None
