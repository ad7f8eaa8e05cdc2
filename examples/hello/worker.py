"""A worker with two tasks, one a plain function and one a coroutine.

    zbroker start                 in one terminal
    zworker run worker            in another one, in this folder
    python send.py                in a third

Stop it with Ctrl-C: what it runs may end, and nothing new begins.
"""

import asyncio

from zworker import Job, Worker

worker = Worker(concurrency=4)


@worker.task("greet")
def greet(name: str, greeting: str = "Hello") -> str:
    """Plain functions run on threads. The payload's entries are the arguments."""
    return f"{greeting}, {name}!"


@worker.task("count")
async def count(words: list[str], job: Job) -> dict[str, object]:
    """Coroutines run on one event loop. A parameter annotated `Job` gets the job itself."""
    await asyncio.sleep(0)
    return {"words": len(words), "attempt": job.attempt, "from": job.headers.get("from")}


if __name__ == "__main__":
    worker.run()  # the same as `zworker run worker`
