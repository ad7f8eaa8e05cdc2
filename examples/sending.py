"""Four ways to send: one by one, without waiting, many at once, and from many tasks of an event loop.

Start a broker (`zbroker start`) first, then run this file.
"""

import asyncio

from zclient import AsyncClient, Client, DuplicateId

QUEUE = "example-sending"


def readings() -> list[dict[str, int]]:
    return [{"sensor": n % 7, "value": n} for n in range(1000)]


def one_by_one(client: Client) -> None:
    job = client.send(QUEUE, {"sensor": 0, "value": 0}, id="first")
    print("confirmed:", job.id)


def without_waiting(client: Client) -> None:
    sent = [client.send_nowait(QUEUE, reading) for reading in readings()]
    client.flush()
    print("without waiting:", sum(job.done for job in sent), "confirmed at the flush")
    doubtful = client.send_nowait(QUEUE, {"sensor": 0, "value": "another"}, id="first")
    try:
        doubtful.wait()
    except DuplicateId as error:
        print("refused:", error)


def many_at_once(client: Client) -> None:
    jobs = client.send_many(QUEUE, readings())
    print("many at once:", len(jobs), "confirmed")


async def from_many_tasks() -> None:
    async with AsyncClient() as client:
        jobs = await asyncio.gather(*(client.send(QUEUE, reading) for reading in readings()))
        print("from many tasks:", len(jobs), "confirmed")


def main() -> None:
    with Client() as client:
        one_by_one(client)
        without_waiting(client)
        many_at_once(client)
        asyncio.run(from_many_tasks())
        print("waiting in the queue:", client.queue(QUEUE)["ready"])
        client.purge(QUEUE)


if __name__ == "__main__":
    main()
