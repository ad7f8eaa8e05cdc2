"""Random graphs of jobs with random ends against a small model, and in the end no row of an edge is left."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.driven import RULES, Driven, Jobs
from tests.core.families import edges, group, send, state_of, unfinished
from zclient.protocol import messages as m

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


class Model(Jobs):
    """Jobs, whom they wait for, and what the end of one means for the others."""

    def __init__(self) -> None:
        super().__init__()
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

    def goes_on(self, identifier: str) -> None:
        self.waits[identifier] |= self.missed[identifier]
        self.expires.pop(identifier, None)
        super().goes_on(identifier)


class Run(Driven[Model]):
    """The broker and the model, step by step."""

    def __init__(self) -> None:
        super().__init__(Model(), more=1, dropped="gone")

    def step(self, what: str, *arguments: Any) -> None:
        getattr(self, what)(*arguments)
        self.take()
        self.bench.check()
        assert unfinished(self.bench) == []
        told = {identifier: state_of(self.producer, identifier) for identifier in self.model.states}
        assert {name: state.replace("leased", "ready") for name, state in told.items()} == self.model.states
        self.check_waiting()

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

    def advance(self, ms: int) -> None:
        self.bench.advance(ms)
        expires = self.model.expires
        for at in sorted({at for at in expires.values() if at <= self.bench.wall}):
            late = [name for name in sorted(expires) if expires[name] == at and name not in self.held]
            late = [name for name in late if self.model.states[name] in ("blocked", "ready")]
            self.model.states.update(dict.fromkeys(late, "dead"))
            for identifier in late:
                self.model.over(identifier)


DIED_ONE_AFTER_THE_OTHER: list[tuple[Any, ...]] = [
    ("put", 2, 9),
    ("deliver",),
    ("advance", 3_000),
    ("reject", 0),
    ("replay", 0),
    ("replay", 0),
    ("replay", 0),
]
"""A child expires while it is blocked, its parent dies, and both are replayed."""


@settings(max_examples=200)
@example(DIED_ONE_AFTER_THE_OTHER)
@given(STEPS)
def test_against_a_model(steps: list[tuple[Any, ...]]) -> None:
    run = Run()
    for step in steps if steps is DIED_ONE_AFTER_THE_OTHER else [("put", 3, 7), *steps]:
        run.step(*step)
    while run.model.in_state(*LIVE):
        run.step("drop", 0)
        run.step("deliver")
        run.step("ack", 0)
    assert edges(run.bench) == []
