"""What brings the payloads of many jobs to the asyncio client: from an iterable of either kind, a chunk at a time."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any

from zclient import verbs
from zclient.batches import Chunks
from zclient.jobs import encode_payload


def feeder(payloads: Iterable[Any] | AsyncIterable[Any]) -> Callable[[verbs.Feed], Awaitable[list[bytes]]]:
    """What brings the next encoded payloads of either kind of iterable."""
    if isinstance(payloads, AsyncIterable):
        iterator = aiter(payloads)

        async def gather(feed: verbs.Feed) -> list[bytes]:
            chunk: list[bytes] = []
            size = 0
            while len(chunk) < feed.jobs and size < feed.octets:
                try:
                    encoded = encode_payload(await anext(iterator))
                except StopAsyncIteration:
                    break
                chunk.append(encoded)
                size += len(encoded)
            return chunk

        return gather
    chunks = Chunks(payloads)

    async def cut(feed: verbs.Feed) -> list[bytes]:
        # A long iterable lets the loop's other tasks run between its batches.
        await asyncio.sleep(0)
        return chunks.next(feed)

    return cut
