"""Huey, over Redis."""

from collections.abc import Iterable

from huey import RedisHuey

from benchmarks.peers.apps import PORT, note

huey = RedisHuey("bench", port=PORT, results=False)


@huey.task()
def task(sent: float) -> None:
    note(sent)


def send(sent: float) -> None:
    task(sent)


def send_all(values: Iterable[float]) -> None:
    for value in values:
        task(value)
