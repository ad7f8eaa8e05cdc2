"""A handler that yields, and who reads it as it comes.

zbroker start                       in one terminal
python streams.py                   in another one; it brings its own worker
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

from zclient import AsyncClient, Client, JobCancelled, JobFailed, StreamRestarted
from zworker import Job, Worker

worker = Worker(concurrency=4)


@worker.task("squares")
def squares(numbers: int) -> Iterator[int]:
    for number in range(numbers):
        yield number * number


@worker.task("words")
async def words(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield word
        await asyncio.sleep(0.01)


@worker.task("report", max_attempts=2, backoff="constant", backoff_min="100ms")
def report(job: Job) -> Iterator[str]:
    """Its first run breaks off after two rows, and another one yields all of them again."""
    yield f"row 1 of run {job.attempt}"
    yield f"row 2 of run {job.attempt}"
    if job.attempt == 1:
        raise RuntimeError("the database is away")
    yield f"row 3 of run {job.attempt}"


@worker.task("endless")
def endless() -> Iterator[int]:
    number = 0
    try:
        while True:
            number += 1
            yield number
    finally:
        print("nobody reads any more: it came to fewer than 200:", number < 200, flush=True)


def read_report(client: Client) -> list[str]:
    rows: list[str] = []
    stream = client.stream("report", timeout=10)
    while True:
        try:
            for row in stream:
                rows.append(row)
            return rows
        except StreamRestarted as restarted:
            print("begins again, after", restarted.values, "rows")
            rows.clear()


async def read_words() -> None:
    async with AsyncClient() as client:
        print("words:", [word async for word in client.stream("words", "one after the other", timeout=10)])


def main() -> None:
    with Client() as client, worker:
        print("squares:", list(client.stream("squares", 6)))
        asyncio.run(read_words())
        print("report:", read_report(client))
        try:
            list(client.stream("squares", {"unknown": 1}))
        except JobFailed as error:
            print("failed:", error.error["type"])
        with client.stream("endless") as stream:
            print("endless:", [next(stream) for _ in range(3)])  # the end of the block cancels it
        try:
            stream.job.result(timeout=10)
        except JobCancelled as error:
            print("its job was", error.reason)


if __name__ == "__main__":
    main()
