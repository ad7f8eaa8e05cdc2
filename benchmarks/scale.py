"""``python -m benchmarks.scale``: what a job costs the broker, and its memory, as keys, queues and workers grow.

The peers are sockets that speak the protocol, all in one process, so that only the broker is measured: its processor
time (user and system) for a job, and its resident memory. Jobs wait first and are then taken, so that every worker
always finds as much as it can hold; messages carry the same number of jobs whatever grows.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable

import zmq

from benchmarks.harness import PAYLOAD
from benchmarks.million import BrokerProcess
from zclient.protocol import codec, limits
from zclient.protocol import messages as m

BATCH = 100
"""Jobs in one PUT."""

CAPACITY = 20
"""Jobs that a worker holds, and acks at once."""

PATIENCE_S = 60.0


class Peer:
    """One socket that speaks the protocol."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, queues: list[str]) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(endpoint)
        self.number = 0
        capacity = CAPACITY if queues else 0
        self.send(m.Hello(limits.PROTOCOL_VERSION, os.urandom(16), "bench", capacity, queues, [], 0, {}))

    def send(self, message: m.Message) -> None:
        self.socket.send_multipart(codec.encode(message))

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def receive(self) -> m.Message:
        if not self.socket.poll(PATIENCE_S * 1000):
            raise TimeoutError("the broker says nothing")
        return codec.decode(self.socket.recv_multipart())


def fill(producer: Peer, jobs: int, groups: Callable[[int], list[m.Group]]) -> None:
    """Put the jobs, a few batches on their way at once; ``groups`` makes the batch that begins at a job's number."""
    unanswered = 0
    for first in range(0, jobs, BATCH):
        number = producer.next_number()
        producer.send(m.Put(number, max(1, number - 500), groups(first)))
        unanswered += 1
        while unanswered > 8:
            unanswered -= _answers(producer)
    while unanswered:
        unanswered -= _answers(producer)


def _answers(producer: Peer) -> int:
    message = producer.receive()
    if isinstance(message, m.Failure):
        raise RuntimeError(f"refused: {message.text}")
    return len(message.numbers) if isinstance(message, m.Ok) else 0


def drain(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, jobs: int, workers: int, queues: list[str]) -> None:
    """Take and ack all of them, every worker as much at once as it holds."""
    peers = [Peer(context, endpoint, queues) for _ in range(workers)]
    poller = zmq.Poller()
    by_socket = {peer.socket: peer for peer in peers}
    for peer in peers:
        poller.register(peer.socket, zmq.POLLIN)
    left = jobs
    try:
        while left:
            ready = poller.poll(PATIENCE_S * 1000)
            if not ready:
                raise TimeoutError(f"{left} jobs never came")
            for socket, _ in ready:
                peer = by_socket[socket]
                message = codec.decode(socket.recv_multipart())
                if isinstance(message, m.Deliver):
                    left -= len(message.ids)
                    settlement = m.Settlement(message.fence, m.Outcome.ACK, message.ids, None)
                    peer.send(m.Settle(peer.next_number(), [settlement]))
    finally:
        for peer in peers:
            peer.socket.close()


def by_key(keys: int) -> Callable[[int], list[m.Group]]:
    """Each job with a key of its own, out of so many."""
    return lambda first: [
        m.Group("bench", {"key": f"tenant-{(first + n) % keys}"}, [b"%032d" % (first + n)], [PAYLOAD])
        for n in range(BATCH)
    ]


def by_queue(queues: int) -> Callable[[int], list[m.Group]]:
    """Each batch for the next queue, out of so many."""
    return lambda first: [
        m.Group(
            f"bench-{first // BATCH % queues}", {}, [b"%032d" % (first + n) for n in range(BATCH)], [PAYLOAD] * BATCH
        )
    ]


def measure(jobs: int, keys: int = 0, queues: int = 1, workers: int = 1) -> tuple[float, float]:
    """Microseconds of the broker's processor time a job, and its largest resident memory in MiB."""
    names = ["bench"] if keys else [f"bench-{n}" for n in range(queues)]
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as directory:
        process = BrokerProcess(directory)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            process.start()
            begun = process.cpu_seconds()
            producer = Peer(context, process.endpoint, [])
            fill(producer, jobs, by_key(keys) if keys else by_queue(queues))
            filled = process.resident()
            drain(context, process.endpoint, jobs, workers, names)
            spent = process.cpu_seconds() - begun
            largest = max(filled, process.resident())
            producer.socket.close()
            return spent / jobs * 1e6, largest
        finally:
            process.kill()
            context.destroy(linger=0)


SERIES: dict[str, tuple[str, list[int]]] = {
    "keys": ("keys", [1, 100, 10_000, 100_000]),
    "queues": ("queues", [1, 10, 100, 1_000]),
    "workers": ("workers", [1, 10, 100, 500]),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--series", choices=SERIES, action="append", help="only these")
    chosen = parser.parse_args()
    print(f"{chosen.jobs} jobs of {len(PAYLOAD)} bytes; the least of {chosen.rounds} rounds, which take turns\n")
    print(f"{'':<18} {'us a job':>10} {'ratio':>8} {'MiB':>8}")
    for name in chosen.series or SERIES:
        argument, sizes = SERIES[name]
        runs: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
        for _ in range(chosen.rounds):
            for size in sizes:
                runs[size].append(measure(chosen.jobs, **{argument: size}))
        base = min(cost for cost, _ in runs[sizes[0]])
        for size in sizes:
            cost, memory = min(cost for cost, _ in runs[size]), max(memory for _, memory in runs[size])
            print(f"{size:>9,} {name:<8} {cost:>10.2f} {cost / base:>8.2f} {memory:>8.0f}", flush=True)
        print(flush=True)


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"{time.monotonic() - begun:.0f} s")
