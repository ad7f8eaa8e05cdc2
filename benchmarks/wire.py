"""Sockets that speak the protocol: many peers in one process, and a broker filled quickly with jobs of any options.

They keep no promise that a client keeps: nothing is sent again, and nobody reconnects. What is measured through them is
the broker alone.
"""

import os
from collections.abc import Callable

import zmq

from benchmarks.harness import PAYLOAD
from zclient.jobs import IdRun, encode_payload, new_prefix
from zclient.protocol import codec, limits
from zclient.protocol import messages as m

BATCH = 100
"""Jobs in one PUT of `fill`."""

Groups = Callable[[int, list[bytes]], list[m.Group]]
"""The groups of a batch, from the number of its first job and the ids of all of them."""

ENCODED = encode_payload(PAYLOAD)

Context = zmq.Context[zmq.Socket[bytes]]

PATIENCE_S = 60.0

UNANSWERED = 8
"""PUTs that `fill` has on their way at once."""


class Peer:
    """One socket that speaks the protocol. It serves ``queues``, and holds so many jobs at once."""

    def __init__(self, context: Context, endpoint: str, queues: list[str], capacity: int = 0) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(endpoint)
        self._number = 0
        self.send(m.Hello(limits.PROTOCOL_VERSION, os.urandom(16), "bench", capacity, queues, [], 0, {}))

    def send(self, message: m.Message) -> None:
        self.socket.send_multipart(codec.encode(message))

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def receive(self) -> m.Message:
        if not self.socket.poll(PATIENCE_S * 1000):
            raise TimeoutError("the broker says nothing")
        return codec.decode(self.socket.recv_multipart())


def fill(endpoint: str, jobs: int, groups: Groups) -> None:
    """Put so many jobs, in batches that ``groups`` makes."""
    context: Context = zmq.Context()
    try:
        producer = Peer(context, endpoint, [])
        run = IdRun(new_prefix(), 0, jobs)
        unanswered = 0
        for first in range(0, jobs, BATCH):
            ids = [run.id(n) for n in range(first, min(first + BATCH, jobs))]
            number = producer.next_number()
            producer.send(m.Put(number, max(1, number - UNANSWERED), groups(first, ids)))
            unanswered += 1
            while unanswered > UNANSWERED:
                unanswered -= _answers(producer)
        while unanswered:
            unanswered -= _answers(producer)
    finally:
        context.destroy(linger=0)


def _answers(producer: Peer) -> int:
    message = producer.receive()
    if isinstance(message, m.Failure):
        raise RuntimeError(f"refused: {message.text}")
    return len(message.numbers) if isinstance(message, m.Ok) else 0


def by_queue(queues: int, name: str = "bench") -> Groups:
    """Each batch for the next queue, out of so many: ``NAME-0``, ``NAME-1``, and so on."""
    return lambda first, ids: [m.Group(f"{name}-{first // BATCH % queues}", {}, ids, [ENCODED] * len(ids))]


def by_key(keys: int, queue: str = "bench") -> Groups:
    """Each job with the next key, out of so many, and so in a group of its own."""
    return lambda first, ids: [
        m.Group(queue, {"key": f"tenant-{number % keys}"}, [identifier], [ENCODED])
        for number, identifier in enumerate(ids, first)
    ]
