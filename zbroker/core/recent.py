"""The ends of jobs of which nothing is kept, in memory for a moment.

Who sends a job and then waits for it may ask when it is over already: its end must be told all the same. It writes no
row, and a restart forgets it. It knows no clock: the time is an argument.
"""

from collections import deque
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core.tick import End


class Block(NamedTuple):
    """Jobs that ended together."""

    at: int  # lease clock
    ids: list[bytes]
    state: str
    results: dict[bytes, Any]  # of those that returned something
    cause: dict[str, Any] | None
    octets: int  # of the results


class Recent:
    """Ends of the last moment, bounded in time, jobs and bytes; the oldest go first."""

    __slots__ = ("_block_of", "_blocks", "_jobs", "_octets")

    def __init__(self) -> None:
        self._block_of: dict[bytes, Block] = {}
        self._blocks: deque[Block] = deque()  # oldest first
        self._jobs = 0  # in all blocks: an id that was used again stands in several
        self._octets = 0

    def add(
        self, now: int, ids: list[bytes], state: str, results: list[Any] | None, cause: dict[str, Any] | None
    ) -> None:
        """Jobs that ended together, for one cause."""
        told = (
            {identifier: result for identifier, result in zip(ids, results, strict=True) if result} if results else {}
        )
        octets = sum(map(len, told.values()))
        block = Block(now, ids, state, told, cause, octets)
        self._blocks.append(block)
        self._block_of.update(dict.fromkeys(ids, block))
        self._jobs += len(ids)
        self._octets += octets
        while self._jobs > limits.RECENT_JOBS or self._octets > limits.RECENT_BYTES:
            self._forget_oldest()

    def end_of(self, identifier: bytes) -> End | None:
        """What FINISHED says of a job that ended a moment ago."""
        block = self._block_of.get(identifier)
        if block is None:
            return None
        return (identifier, block.state, block.results.get(identifier), block.cause)

    def trim(self, now: int) -> None:
        """Forget what is older than a moment; a bounded number of jobs at once."""
        least = self._jobs - limits.TURN_DELIVERIES
        while self._blocks and self._blocks[0].at + limits.RECENT_MS <= now and self._jobs > least:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        block = self._blocks.popleft()
        self._jobs -= len(block.ids)
        self._octets -= block.octets
        block_of = self._block_of
        for identifier in block.ids:
            if block_of.get(identifier) is block:
                del block_of[identifier]
