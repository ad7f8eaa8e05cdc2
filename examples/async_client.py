"""The asyncio client: many sends and waits side by side, and a task that is a coroutine.

    zbroker start                 in one terminal
    python async_client.py        in another one; it brings its own worker

ZBROKER_ENDPOINT names another broker than the one on this machine's port 5555, here as in all examples.
"""

import asyncio

from zclient import AsyncClient, JobFailed
from zworker import Worker

worker = Worker(concurrency=50)


@worker.task("square")
async def square(number: int) -> int:
    """Fifty of these run at once, on the worker's event loop."""
    await asyncio.sleep(0.05)
    return number * number


async def main() -> None:
    async with AsyncClient() as client:
        jobs = await client.send_many("square", [[number] for number in range(100)])
        results = await asyncio.gather(*(job.result(timeout=30) for job in jobs))
        print("sum of squares:", sum(results))

        later = await client.send("square", [12], delay="500ms")
        print("now it is", (await later.status()).state)
        print("and then", await later.result(timeout=30))

        wrong = await client.send("square", {"nummer": 3})  # no such argument, so no try could ever succeed
        try:
            await wrong.result(timeout=30)
        except JobFailed as error:
            print("failed:", error.reason)


if __name__ == "__main__":
    with worker:  # on threads of its own, beside our event loop
        asyncio.run(main())
