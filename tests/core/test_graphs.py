"""Random graphs of jobs with random ends against a small model, and in the end no row of an edge is left."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.families import edges, group, send, state_of, unfinished
from tests.core.harness import Bench
from zclient.protocol import messages as m

RULES = ["cancel", "run", "wait"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 6), st.integers(0, 1 << 30)),
        st.tuples(st.just("deliver")),
        st.tuples(st.sampled_from(["ack", "reject"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["cancel", "replay", "drop"]), st.integers(0, 9)),
        st.tuples(st.just("advance"), st.sampled_from([1_000, 3_000])),
        st.tuples(st.just("crash")),
    ),
    max_size=25,
)
LIVE = ("blocked", "ready", "dead")


class Model:
    """Jobs, whom they wait for, and what the end of one means for the others. A job that is delivered is ready."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.rules: dict[str, str] = {}
        self.waits: dict[str, set[str]] = {}
        self.missed: dict[str, set[str]] = {}  # parents that died, and were not done since, while the child was dead
        self.expires: dict[str, int] = {}

    def put(self, identifier: str, parents: list[str], rule: str) -> None:
        ends = {parent: self.states[parent] for parent in parents}
        self.rules[identifier] = rule
        waiting = {one for one, end in ends.items() if end in LIVE and (end != "dead" or rule == "wait")}
        is_lost = any(end == "cancelled" or (end == "dead" and rule == "cancel") for end in ends.values())
        is_lost = is_lost and rule != "run"
        self.waits[identifier] = set() if is_lost else waiting
        self.missed[identifier] = set()
        self.states[identifier] = "cancelled" if is_lost else "blocked" if waiting else "ready"

    def end(self, identifier: str, state: str) -> None:
        self.states[identifier] = state
        self.over(identifier)

    def over(self, parent: str) -> None:
        how = self.states[parent]
        for missed in self.missed.values() if how != "dead" else ():
            missed.discard(parent)
        for child in [child for child, waits in self.waits.items() if parent in waits]:
            rule, is_blocked = self.rules[child], self.states[child] == "blocked"
            if how == "dead" and rule == "wait":
                continue
            self.waits[child].discard(parent)
            if how == "dead" and rule == "cancel" and not is_blocked:
                self.missed[child].add(parent)
            if is_blocked and how != "done" and rule != "run":
                self.end(child, "cancelled")
            elif is_blocked and not self.waits[child]:
                self.states[child] = "ready"
        if how in ("done", "cancelled", "gone"):
            self.waits[parent] = set()

    def in_state(self, *states: str) -> list[str]:
        return sorted(identifier for identifier, state in self.states.items() if state in states)


class Run:
    """The broker and the model, step by step."""

    def __init__(self) -> None:
        self.bench = Bench(policy={"lease_ms": 10**9, "max_attempts": 1})
        self.producer, self.worker = self.bench.producer(), self.bench.worker("w", "q", capacity=0)
        self.model = Model()
        self.held: dict[str, int] = {}  # id -> fence
        self.sent = 0

    def step(self, what: str, *arguments: Any) -> None:
        getattr(self, what)(*arguments)
        for identifier, fence in self.worker.jobs():
            assert self.model.states[identifier] == "ready"
            self.held[identifier] = fence
        self.bench.check()
        assert unfinished(self.bench) == []
        told = {identifier: state_of(self.producer, identifier) for identifier in self.model.states}
        assert {name: state.replace("leased", "ready") for name, state in told.items()} == self.model.states
        waiting = {key for key, value in self.bench.store.scan("edges", b"", b"\xff" * 99) if not value}
        expected = {(parent, child) for child, parents in self.model.waits.items() for parent in parents}
        assert waiting == {b"%b\0%b" % (parent.encode(), child.encode()) for parent, child in expected}

    def put(self, jobs: int, seed: int) -> None:
        """A batch of jobs, each after some that are known or stand before it, in any order."""
        chance = Random(seed)
        known = self.model.in_state("blocked", "ready", "dead", "done", "cancelled")
        groups: list[m.Group] = []
        for _ in range(jobs):
            self.sent += 1
            identifier = f"{self.sent:03}"
            chosen = chance.sample(known[-8:], min(len(known[-8:]), chance.choice([0, 1, 1, 2, 3])))
            rule, ttl = chance.choice(RULES), chance.choice([0, 0, 2_000])
            told: dict[str, Any] = {"on_parent_death": rule} if chosen else {}
            groups.append(group("q", identifier, after=" ".join(chosen), ttl=ttl, **told))
            self.model.put(identifier, chosen, rule)
            if ttl:
                self.model.expires[identifier] = self.bench.wall + ttl
            known.append(identifier)
        chance.shuffle(groups)
        assert isinstance(send(self.producer, *groups), m.Ok)

    def deliver(self) -> None:
        self.worker.send(m.Capacity(len(self.held) + 1))
        self.worker.send(m.Capacity(0))

    def _settle(self, how: str, n: int, state: str) -> None:
        if self.held:
            identifier = sorted(self.held)[n % len(self.held)]
            assert getattr(self.worker, how)(self.held.pop(identifier), identifier) == []
            self.model.end(identifier, state)

    def ack(self, n: int) -> None:
        self._settle("ack", n, "done")

    def reject(self, n: int) -> None:
        self._settle("reject", n, "dead")

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
            self.model.waits[identifier] |= self.model.missed[identifier]
            self.model.states[identifier] = "blocked" if self.model.waits[identifier] else "ready"
            self.model.expires.pop(identifier, None)

    def drop(self, n: int) -> None:
        if dead := self.model.in_state("dead"):
            identifier = dead[n % len(dead)]
            assert self.producer.order("drop", ids=[identifier.encode()]) == {"dropped": 1}
            self.model.end(identifier, "gone")

    def advance(self, ms: int) -> None:
        self.bench.advance(ms)
        expires = self.model.expires
        for at in sorted({at for at in expires.values() if at <= self.bench.wall}):
            late = [name for name in sorted(expires) if expires[name] == at and name not in self.held]
            late = [name for name in late if self.model.states[name] in ("blocked", "ready")]
            self.model.states.update(dict.fromkeys(late, "dead"))
            for identifier in late:
                self.model.over(identifier)

    def crash(self) -> None:
        self.bench.crash()
        self.producer.connect()
        self.worker.connect([m.Held(fence, [identifier.encode()], []) for identifier, fence in self.held.items()])


@settings(max_examples=200)
@given(STEPS)
def test_against_a_model(steps: list[tuple[Any, ...]]) -> None:
    run = Run()
    for step in [("put", 3, 7), *steps]:
        run.step(*step)
    while run.model.in_state(*LIVE):
        run.step("drop", 0)
        run.step("deliver")
        run.step("ack", 0)
    assert edges(run.bench) == []
