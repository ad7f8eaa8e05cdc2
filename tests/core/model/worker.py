"""A worker as the model sees it: what it was sent and has not settled."""

from __future__ import annotations

from typing import Any

from tests.core.harness import Bench, Peer
from zclient.protocol import messages as m


class Worker(Peer):
    """A worker that remembers what it holds and what it has settled."""

    def __init__(self, bench: Bench, name: str, queues: tuple[str, ...], capacity: int) -> None:
        super().__init__(bench, name, queues, capacity)
        self.held: dict[int, set[bytes]] = {}
        self.seen: dict[int, set[bytes]] = {}  # all that ever came, for late settlements
        self.tasks: dict[str, dict[str, Any]] = {}

    @property
    def connected(self) -> bool:
        return self.route in self.bench.routes

    def hello(self, held: Any = (), **changes: Any) -> m.Welcome:
        return super().hello(held, tasks=self.tasks, **changes)

    def forget(self, fence: int, ids: list[bytes]) -> None:
        self.held[fence] = self.held.get(fence, set()).difference(ids)
        if not self.held[fence]:
            del self.held[fence]
