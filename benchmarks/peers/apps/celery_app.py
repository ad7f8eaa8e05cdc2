"""Celery, over Redis or RabbitMQ, as BENCH_BROKER says."""

import os
from collections.abc import Iterable

from celery import Celery

from benchmarks.peers.apps import PORT, note

URLS = {"redis": f"redis://127.0.0.1:{PORT}/0", "rabbitmq": f"amqp://guest:guest@127.0.0.1:{PORT}//"}
app = Celery("bench", broker=URLS[os.environ.get("BENCH_BROKER", "redis")])
app.conf.update(task_acks_late=True, task_ignore_result=True)


@app.task(name="bench")
def task(sent: float) -> None:
    note(sent)


def send(sent: float) -> None:
    task.delay(sent)


def send_all(values: Iterable[float]) -> None:
    for value in values:
        task.delay(value)
