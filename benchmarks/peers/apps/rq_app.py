"""RQ, over Redis."""

from collections.abc import Iterable

from redis import Redis
from rq import Queue

from benchmarks.peers.apps import PORT, note

queue = Queue("bench", connection=Redis(port=PORT))


def send(sent: float) -> None:
    queue.enqueue(note, sent, result_ttl=0)


def send_all(values: Iterable[float]) -> None:
    queue.enqueue_many([Queue.prepare_data(note, (value,), result_ttl=0) for value in values])
