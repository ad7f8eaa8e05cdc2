"""Taskiq, over Redis Streams, which it acks."""

import asyncio
from collections.abc import Iterable

from taskiq_redis import RedisStreamBroker

from benchmarks.peers.apps import PORT, note

broker = RedisStreamBroker(f"redis://127.0.0.1:{PORT}")
loop = asyncio.new_event_loop()
_begun = False


@broker.task(task_name="bench")
async def task(sent: float) -> None:
    note(sent)


async def _send(values: Iterable[float]) -> None:
    global _begun  # noqa: PLW0603 (as the loop, one for the process)
    if not _begun:
        await broker.startup()
        _begun = True
    for value in values:
        await task.kiq(value)


def send(sent: float) -> None:
    loop.run_until_complete(_send([sent]))


def send_all(values: Iterable[float]) -> None:
    loop.run_until_complete(_send(values))
