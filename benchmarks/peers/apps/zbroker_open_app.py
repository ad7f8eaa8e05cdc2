"""zbroker, with a sender that keeps to its rate whatever the answers do: asyncio, a task for each job."""

import asyncio
import time

from benchmarks.peers.apps import PORT
from benchmarks.peers.apps.zbroker_app import send_all, worker
from zclient import AsyncClient

__all__ = ["send_all", "send_at_rate", "worker"]


def send_at_rate(tasks: int, rate: float) -> list[float]:
    """Send so many, each at its moment; returns by how many seconds each was begun too late."""
    return asyncio.run(_send_at_rate(tasks, rate))


async def _send_at_rate(tasks: int, rate: float) -> list[float]:
    late: list[float] = []
    async with AsyncClient(f"tcp://127.0.0.1:{PORT}") as client, asyncio.TaskGroup() as sends:
        begun = time.monotonic()
        while len(late) < tasks:
            due = begun + len(late) / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            now = time.monotonic()
            while len(late) < tasks and (due := begun + len(late) / rate) <= now:
                late.append(time.monotonic() - due)
                sends.create_task(_send(client))
            await asyncio.sleep(0)  # the sends have their turn, also when the next one is due already
    return late


async def _send(client: AsyncClient) -> None:
    await client.send("bench", time.monotonic())
