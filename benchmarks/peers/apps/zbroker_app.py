"""zbroker."""

from collections.abc import Iterable

from benchmarks.peers.apps import PORT, THREADS, note
from zclient import Client
from zworker import Worker

worker = Worker(f"tcp://127.0.0.1:{PORT}", concurrency=THREADS)
client = Client(f"tcp://127.0.0.1:{PORT}")


@worker.task("bench")
def task(sent: float) -> None:
    note(sent)


def send(sent: float) -> None:
    client.send("bench", sent)


def send_all(values: Iterable[float]) -> None:
    client.send_many("bench", values)
