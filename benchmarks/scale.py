"""What a job costs the broker, and its memory, as workers, queues and keys grow.

The peers are sockets that speak the protocol, all in one process, so that only the broker is measured: its processor
time (user and system) for a job that is put, delivered and acked. Jobs wait first and are then taken. One thing grows
at a time: as many jobs are in flight whatever grows, shared by the workers there are, and each ack names as many.
"""

from typing import NamedTuple

import zmq

from benchmarks.harness import BrokerProcess, running_broker
from benchmarks.wire import PATIENCE_S, Context, Peer, by_key, by_queue, fill
from zclient.protocol import codec
from zclient.protocol import messages as m

IN_FLIGHT = 10_000
"""Jobs that all workers hold together."""

ACKED = 20
"""Jobs in one SETTLE: what each of 500 workers holds."""


class Size(NamedTuple):
    """How much there is of what may grow."""

    workers: int = 10
    queues: int = 1
    keys: int = 0
    in_flight: int = IN_FLIGHT


def measure(jobs: int, size: Size) -> dict[str, float]:
    """Microseconds of the broker's processor time a job, and its largest memory in MiB."""
    names = ["bench"] if size.keys else [f"bench-{n}" for n in range(size.queues)]
    with running_broker() as process:
        begun = process.cpu_seconds()
        fill(process.endpoint, jobs, by_key(size.keys) if size.keys else by_queue(size.queues))
        drain(process, jobs, size, names)
        spent = process.cpu_seconds() - begun
        return {"us a job": spent / jobs * 1e6, "memory MiB": process.largest()}


def drain(process: BrokerProcess, jobs: int, size: Size, queues: list[str]) -> None:
    """Take and ack all of them; every worker holds its share of what is in flight."""
    context: Context = zmq.Context()
    try:
        peers = [Peer(context, process.endpoint, queues, size.in_flight // size.workers) for _ in range(size.workers)]
        poller = zmq.Poller()
        by_socket = {peer.socket: peer for peer in peers}
        for peer in peers:
            poller.register(peer.socket, zmq.POLLIN)
        left = jobs
        while left:
            ready = poller.poll(PATIENCE_S * 1000)
            if not ready:
                raise TimeoutError(f"{left} jobs never came")
            for socket, _ in ready:
                peer = by_socket[socket]
                message = codec.decode(socket.recv_multipart())
                if isinstance(message, m.Deliver):
                    left -= len(message.ids)
                    ack(peer, message)
    finally:
        context.destroy(linger=0)


def ack(peer: Peer, delivery: m.Deliver) -> None:
    for first in range(0, len(delivery.ids), ACKED):
        ids = delivery.ids[first : first + ACKED]
        peer.send(m.Settle(peer.next_number(), [m.Settlement(delivery.fence, m.Outcome.ACK, ids, None)]))
