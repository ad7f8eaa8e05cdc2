"""Core, dialect and commit as one piece, without a socket or a clock: frames in, frames out.

The server runs it over ZeroMQ, `zbroker.testing.LocalBroker` by plain calls, a simulator over an invented network.
"""

from collections.abc import Sequence
from typing import NamedTuple

from zbroker.commit import Commit
from zbroker.core.core import Core
from zbroker.dialects import native
from zclient.protocol.messages import Deliver


class Outgoing(NamedTuple):
    """One message to send. ``fence`` is that of the delivery it carries, 0 for anything else."""

    route: bytes
    frames: list[bytes]
    fence: int


class Engine:
    """One broker but for its shell."""

    def __init__(self, core: Core, commit: Commit) -> None:
        self.core = core
        self._commit = commit

    @property
    def commit_ms(self) -> float:
        """What all commits took so far."""
        return self._commit.took_ms

    @property
    def synced_ms(self) -> float:
        """What the syncs of these took."""
        return self._commit.synced_ms

    def open(self, wall: int, now: int, broker: bytes) -> None:
        """Read what was in flight, and commit the new epoch. Nothing may be received before."""
        self._commit.submit(self.core.open(wall, now, broker))
        for tick in self._commit.completed():
            self.core.committed(tick)

    def receive(self, route: bytes, frames: Sequence[bytes]) -> None:
        """What came from a connection, routing id left off. Whatever it is, nobody else is disturbed."""
        if frames and native.speaks(frames[0]):
            native.receive(self.core, route, frames)
        else:
            self.core.state.count("foreign")

    def finish(self, *, drained: bool) -> list[Outgoing]:
        """End the turn: what fell due, one commit, and only then what may leave."""
        self._commit.submit(self.core.finish(drained=drained))
        outgoing: list[Outgoing] = []
        for tick in self._commit.completed():
            self.core.committed(tick)
            for route, message in tick.messages():
                fence = message.fence if type(message) is Deliver else 0
                outgoing.append(Outgoing(route, native.encode(message), fence))
        return outgoing
