"""A bench whose jobs go on as the steps of a test say, beside a model of what becomes of them.

What the graphs of jobs and the workflows share: it delivers, settles, cancels, replays and drops, and tells the model.
What that means for other jobs is for the models to say.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from tests.core.harness import Bench
from zclient.protocol import messages as m

RULES = ["cancel", "run", "wait"]


class Jobs:
    """What a model knows of each job at least: its state, and whom it waits for. One that is delivered is ready."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.rules: dict[str, str] = {}
        self.waits: dict[str, set[str]] = {}

    def end(self, identifier: str, state: str) -> None:
        """It ended so."""
        raise NotImplementedError

    def goes_on(self, identifier: str) -> None:
        """It was dead, and is replayed."""
        self.states[identifier] = "blocked" if self.waits[identifier] else "ready"

    def in_state(self, *states: str) -> list[str]:
        return sorted(identifier for identifier, state in self.states.items() if state in states)


ModelT = TypeVar("ModelT", bound=Jobs)


class Driven(Generic[ModelT]):
    """The broker and the model, step by step. ``more``: how many jobs a delivery may bring; ``dropped``: how the model
    calls a job that was."""

    def __init__(self, model: ModelT, *, more: int, dropped: str) -> None:
        self.bench = Bench(policy={"lease_ms": 10**9, "max_attempts": 1})
        self.producer, self.worker = self.bench.producer(), self.bench.worker("w", "q", capacity=0)
        self.model = model
        self.held: dict[str, int] = {}  # id -> fence
        self.sent = 0
        self._more, self._dropped = more, dropped

    def take(self) -> None:
        """Note what was delivered, which must be ready."""
        for identifier, fence in self.worker.jobs():
            assert self.model.states[identifier] == "ready"
            self.held[identifier] = fence

    def check_waiting(self) -> None:
        """The edges that say that somebody waits are those of the model."""
        waiting = {key for key, value in self.bench.store.scan("edges", b"", b"\xff" * 99) if not value}
        expected = {(parent, child) for child, parents in self.model.waits.items() for parent in parents}
        assert waiting == {f"{parent}\0{child}".encode() for parent, child in expected}

    # ---- steps

    def deliver(self) -> None:
        self.worker.send(m.Capacity(len(self.held) + self._more))
        self.worker.send(m.Capacity(0))

    def ack(self, n: int) -> None:
        self._settle("ack", n, "done")

    def reject(self, n: int) -> None:
        self._settle("reject", n, "dead")

    def _settle(self, how: str, n: int, state: str) -> None:
        if self.held:
            identifier = sorted(self.held)[n % len(self.held)]
            assert getattr(self.worker, how)(self.held.pop(identifier), identifier) == []
            self.model.end(identifier, state)

    def cancel(self, n: int) -> None:
        waiting = [name for name in self.model.in_state("blocked", "ready") if name not in self.held]
        if waiting:
            identifier = waiting[n % len(waiting)]
            assert self.producer.order("cancel", id=identifier.encode()) == {"state": "cancelled"}
            self.model.end(identifier, "cancelled")

    def replay(self, n: int) -> None:
        if dead := self.model.in_state("dead"):
            identifier = dead[n % len(dead)]
            assert self.producer.order("replay", ids=[identifier.encode()]) == {"replayed": 1}
            self.model.goes_on(identifier)

    def drop(self, n: int) -> None:
        if dead := self.model.in_state("dead"):
            identifier = dead[n % len(dead)]
            assert self.producer.order("drop", ids=[identifier.encode()]) == {"dropped": 1}
            self.model.end(identifier, self._dropped)

    def crash(self) -> None:
        self.bench.crash()
        self.producer.connect()
        self.worker.connect([m.Held(fence, [identifier.encode()], []) for identifier, fence in self.held.items()])
        self.worker.take(m.Cancel)

    def step(self, what: str, *arguments: Any) -> None:
        """One step by its name, and that all is well after it."""
        raise NotImplementedError
