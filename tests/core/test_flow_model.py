"""Random workflows and batches with random ends against a small model, over crashes, replays, cancels and retries.

The model knows jobs, the steps and batches that they belong to, and what each waits for. It is written from the pages,
and shares nothing with the broker but the ids.
"""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.counted import BATCH, A, callback, rows_of
from tests.core.driven import RULES, Driven, Jobs
from tests.core.families import state_of
from tests.core.flows import Step, W, job, messages_of, send
from zclient.protocol import messages as m
from zclient.protocol.plans import job_ids, step_id

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("flow"), st.integers(0, 1 << 30), st.sampled_from([1, 1000])),
        st.tuples(st.just("put"), st.integers(1, 3)),
        st.tuples(st.just("child"), st.sampled_from(RULES)),
        st.tuples(st.sampled_from(["close", "deliver", "deliver", "crash", "stop", "retry"])),
        st.tuples(st.sampled_from(["ack", "ack", "ack", "reject"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["cancel", "replay", "drop"]), st.integers(0, 9)),
    ),
    max_size=30,
)
OVER = ("done", "dead", "cancelled")


class Model(Jobs):
    """Jobs by id, each in a group or in none: a group is a step, or the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.group_of: dict[str, str] = {}
        self.groups: dict[str, list[str]] = {}  # in the order of the plan
        self.after: dict[str, list[str]] = {}  # of steps
        self.rule_of: dict[str, str] = {}
        self.ends: dict[str, str] = {}
        self.is_open: dict[str, bool] = {}
        self.died: set[str] = set()
        self.fired: set[str] = set()
        self.stopped = False
        self.wished: set[str] = set()

    def make(self, group: str, jobs: list[str], after: list[str], rule: str, *, is_open: bool = False) -> None:
        self.groups[group], self.after[group], self.rule_of[group] = [], after, rule
        self.ends[group], self.is_open[group] = "", is_open
        for identifier in jobs:
            self.add(identifier, group, after, rule)

    def add(self, identifier: str, group: str, after: list[str], rule: str) -> None:
        ends = [self.ends[one] for one in after]
        lost = rule != "run" and ("cancelled" in ends or (rule == "cancel" and "dead" in ends))
        waits = {one for one in after if self.ends[one] == "" or (self.ends[one] == "dead" and rule == "wait")}
        self.states[identifier] = "cancelled" if lost else "blocked" if waits else "ready"
        self.waits[identifier], self.rules[identifier] = set() if lost else waits, rule
        if group:
            self.groups[group].append(identifier)
            self.group_of[identifier] = group

    def counted(self, group: str) -> tuple[int, int, int, int]:
        states = [self.states[one] for one in self.groups[group]]
        return len(states), *(states.count(end) for end in OVER)  # type: ignore[return-value]

    def settle(self) -> None:
        """What follows from how the jobs are now, until nothing does."""
        changed = True
        while changed:
            changed = False
            for group in self.groups:
                end = self._end_of(group)
                if end != self.ends[group]:
                    self.ends[group], changed = end, True
                    if end:
                        self._tell(group, end)
        total, done, dead, cancelled = self.counted(A) if A in self.groups else (1, 0, 0, 0)
        if A in self.groups and not self.is_open[A]:
            self.fired |= {"done"} if done == total else set()
            self.fired |= {"settled"} if done + dead + cancelled == total else set()
        self.fired |= {"death"} if A in self.died else set()

    def _end_of(self, group: str) -> str:
        total, done, dead, cancelled = self.counted(group)
        if self.is_open[group] or done + dead + cancelled < total:
            return ""
        return "cancelled" if cancelled else "dead" if dead else "done"

    def _tell(self, group: str, end: str) -> None:
        for child, waits in self.waits.items():
            if group not in waits or (end == "dead" and self.rules[child] == "wait"):
                continue
            waits.discard(group)
            if self.states[child] == "blocked" and end != "done" and self.rules[child] != "run":
                self.states[child] = "cancelled"
                waits.clear()
            elif self.states[child] == "blocked" and not waits:
                self.states[child] = "ready"

    def end(self, identifier: str, state: str) -> None:
        if state == "dead" and identifier in self.wished:
            state = "cancelled"
        self.states[identifier] = state
        if state == "dead":
            self.died.add(self.group_of.get(identifier, ""))
        else:
            self.waits[identifier] = set()

    def whole(self) -> str:
        """The state of the workflow."""
        ends = {group: self.ends[group] for group in self.groups if group != A}
        held: dict[str, bool] = {}
        for group, end in ends.items():  # parents stand before their children
            held[group] = not end and any(
                held[one] or (ends[one] == "dead" and self.rule_of[group] == "wait") for one in self.after[group]
            )
        if any(not ends[group] and (self.stopped or not held[group]) for group in ends):
            return "running"
        if "dead" in ends.values() and not self.stopped:
            return "dead"
        return "cancelled" if {"dead", "cancelled"} & set(ends.values()) else "done"


class Run(Driven[Model]):
    """The broker and the model, step by step."""

    def __init__(self) -> None:
        super().__init__(Model(), more=2, dropped="cancelled")
        words = {"on_done": callback("x"), "on_settled": callback("x"), "on_death": callback("x")}
        self.producer.order("open_batch", id=A.encode(), keep_results=True, **words)
        self.model.make(A, [], [], "cancel", is_open=True)

    def step(self, what: str, *arguments: Any) -> None:
        getattr(self, what)(*arguments)
        self.model.settle()
        self.take()
        self.bench.check()
        self.compare()

    def compare(self) -> None:
        model, producer = self.model, self.producer
        told = {one: state_of(producer, one).replace("leased", "ready") for one in model.states}
        assert {one: state.replace("gone", "cancelled") for one, state in told.items()} == model.states
        batch = producer.ask("batch", id=A.encode())
        assert tuple(batch[name] for name in ("total", *OVER)) == model.counted(A)
        assert batch["state"] == ("open" if model.is_open[A] else model.ends[A] or "running")
        assert {name.removeprefix("on_") for name in batch["fired"]} == model.fired
        assert {
            one for one in ("done", "settled", "death") if state_of(producer, f"{A}.{one}") == "ready"
        } == model.fired
        for group, jobs in model.groups.items():
            kept = [(one.encode(), model.states[one], None) for one in sorted(jobs) if model.states[one] in OVER]
            assert producer.ask("results", id=group.encode()) == kept
        if len(model.groups) > 1:
            flow = producer.ask("workflow", id=W.encode())
            assert flow["state"] == model.whole()
            steps = {step["name"]: tuple(step[name] for name in ("total", *OVER)) for step in flow["steps"]}
            assert steps == {group: model.counted(group) for group in model.groups if group != A}
            assert all(step["state"] == (model.ends[step["name"]] or step["state"]) for step in flow["steps"])
        self.check_waiting()

    def flow(self, seed: int, most: int) -> None:
        """A workflow of a few steps, each after some before it."""
        if len(self.model.groups) > 1:
            return
        chance, made = Random(seed), []
        for place in range(chance.randint(1, 5)):
            names = [step.name for step in made]
            after = sorted(chance.sample(names, min(len(names), chance.choice([0, 1, 1, 2]))))
            name = step_id(W.encode(), place).decode()
            made.append(Step(name, chance.choice([0, 1, 1, 2, 3]), " ".join(after), chance.choice(RULES)))
        for answer in send(self.producer, *messages_of(made, most=most)):
            assert isinstance(answer, m.Ok)
        for place, step in enumerate(made):
            ids = [one.decode() for one in job_ids(W.encode(), place, 0, step.jobs)]
            self.model.make(step.name, ids, step.after.split(), step.rule)
            self.model.settle()

    def put(self, jobs: int) -> None:
        """Jobs of the batch, from outside while it is open, and with an ack afterwards."""
        self.sent += 1
        ids = [f"{self.sent:03}-{n}" for n in range(jobs)]
        if self.model.is_open[A]:
            self.producer.put("q", *ids, **BATCH)
        else:
            mine = sorted(one for one in self.held if self.model.group_of.get(one) == A)
            if not mine:
                return
            fence, sender = self.held.pop(mine[0]), mine[0]
            group = m.Group("q", dict(BATCH), [one.encode() for one in ids], [b"p"] * jobs)
            settlement = m.Settlement(fence, m.Outcome.ACK, [sender.encode()], None)
            self.worker.send(
                m.Settle(self.worker.next_number(), [settlement], [m.Sent(fence, sender.encode(), [group])])
            )
            self.model.end(sender, "done")
        for identifier in ids:
            self.model.add(identifier, A, [], "cancel")

    def child(self, rule: str) -> None:
        """A job after the batch, and after the last step."""
        self.sent += 1
        after = [A, *list(self.model.groups)[-1:]] if self.sent % 2 else [A]
        after = list(dict.fromkeys(after))
        identifier = f"child-{self.sent}"
        self.producer.put("q", identifier, after=[one.encode() for one in after], on_parent_death=rule)
        self.model.add(identifier, "", after, rule)

    def close(self) -> None:
        self.producer.order("close_batch", id=A.encode())
        self.model.is_open[A] = False

    def _of_flow(self) -> list[str]:
        return [one for group, jobs in self.model.groups.items() if group != A for one in jobs]

    def stop(self) -> None:
        """Cancel the workflow."""
        if len(self.model.groups) == 1 or self.model.whole() in ("done", "cancelled") or self.model.stopped:
            return
        self.producer.order("cancel_workflow", id=W.encode())
        self.model.stopped = True
        for identifier in self._of_flow():
            if identifier in self.held:
                self.model.wished.add(identifier)
            elif self.model.states[identifier] in ("blocked", "ready"):
                self.model.end(identifier, "cancelled")

    def retry(self) -> None:
        dead = [one for one in self._of_flow() if self.model.states[one] == "dead"]
        if dead and not self.model.stopped:
            assert self.producer.order("retry_workflow", id=W.encode())["dead"] == len(dead)
            for identifier in dead:
                self.model.goes_on(identifier)


@settings(max_examples=200)
@given(STEPS)
def test_against_a_model(steps: list[tuple[Any, ...]]) -> None:
    run = Run()
    for step in [("put", 2), *steps]:
        run.step(*step)
    run.step("close")
    while run.model.in_state("blocked", "ready", "dead"):
        run.step("drop", 0)
        run.step("deliver")
        run.step("ack", 0)
    assert rows_of(run.bench, "edges") == []
    assert job(0) not in run.held
