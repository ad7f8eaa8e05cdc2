"""Dramatiq, over Redis or RabbitMQ, as BENCH_BROKER says."""

import os
from collections.abc import Iterable
from typing import Any

import dramatiq

from benchmarks.peers.apps import PORT, note


def broker() -> Any:
    if os.environ.get("BENCH_BROKER", "redis") == "rabbitmq":
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker(url=f"amqp://guest:guest@127.0.0.1:{PORT}", confirm_delivery=True)
    from dramatiq.brokers.redis import RedisBroker

    return RedisBroker(host="127.0.0.1", port=PORT)


dramatiq.set_broker(broker())


@dramatiq.actor(actor_name="bench", queue_name="bench")
def task(sent: float) -> None:
    note(sent)


def send(sent: float) -> None:
    task.send(sent)


def send_all(values: Iterable[float]) -> None:
    for value in values:
        task.send(value)
