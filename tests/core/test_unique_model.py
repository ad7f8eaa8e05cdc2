"""Unique texts against a small model: a dict that says who has each text, whatever jobs, time and crashes do."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.core.harness import Bench
from tests.core.unique_texts import instead, taken
from zclient.protocol import messages as m

TEXTS = st.sampled_from(["x", "y"])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"),
            TEXTS,
            st.sampled_from(["done", "waiting", 3_000]),
            st.sampled_from(["existing", "replace", "debounce"]),
        ),
        st.tuples(st.just("deliver"), st.integers(1, 2)),
        st.tuples(st.sampled_from(["ack", "nack", "reject", "release", "cancel", "replay"]), st.integers(0, 9)),
        st.tuples(st.just("advance"), st.sampled_from([500, 1_000, 3_000])),
        st.tuples(st.sampled_from(["crash", "purge"])),
    ),
    max_size=25,
)


class Model:
    """Who has each text, until when: a dict, and the states of the jobs as the broker tells them."""

    def __init__(self) -> None:
        self.has: dict[str, tuple[str, int]] = {}  # text -> id, until (0: as long as the job goes on or waits)
        self.jobs: dict[str, tuple[str, Any]] = {}  # id -> text, period

    def over(self, identifier: str, *, ran: bool) -> None:
        text, period = self.jobs[identifier]
        if self.has.get(text, ("",))[0] == identifier and not (ran and isinstance(period, int)):
            del self.has[text]

    def holder(self, text: str, wall: int) -> str | None:
        identifier, until = self.has.get(text, ("", 0))
        if until and until <= wall:
            del self.has[text]
            return None
        return identifier or None

    def claim(self, identifier: str, text: str, period: Any, wall: int) -> None:
        self.jobs[identifier] = (text, period)
        self.has[text] = (identifier, wall + period if isinstance(period, int) else 0)


class Run:
    """The broker and the model, step by step."""

    def __init__(self) -> None:
        self.bench = Bench(policy={"backoff": [1_000], "max_attempts": 2, "backoff_jitter": 0.0})
        self.producer, self.worker = self.bench.producer(), self.bench.worker("w", "q", capacity=0)
        self.model = Model()
        self.held: dict[str, int] = {}  # id -> fence
        self.sent = 0

    def step(self, what: str, *arguments: Any) -> None:
        getattr(self, what)(*arguments)
        self.collect()
        self.bench.check()
        wall = self.bench.wall
        expected = {text: identifier for text in "xy" if (identifier := self.model.holder(text, wall))}
        assert {key[2:]: identifier for key, identifier in taken(self.bench).items()} == expected

    def collect(self) -> None:
        for identifier, fence in self.worker.jobs():
            self.held[identifier] = fence
            if self.model.jobs[identifier][1] == "waiting":
                self.model.over(identifier, ran=False)

    def state_of(self, identifier: str) -> str:
        return str(self.producer.ask("show", id=identifier.encode())["state"])

    def put(self, text: str, period: Any, conflict: str) -> None:
        self.sent += 1
        identifier = f"{self.sent:03}"
        other = self.model.holder(text, self.bench.wall)
        answer = self.producer.put("q", identifier, unique=text, unique_for=period, on_conflict=conflict)
        if other is not None and conflict == "existing":
            assert instead(answer) == {identifier: other}
            return
        assert instead(answer) == {}
        self.model.claim(identifier, text, period, self.bench.wall)
        if other is not None:
            assert self.state_of(other) not in ("ready", "scheduled")

    def deliver(self, capacity: int) -> None:
        self.worker.send(m.Capacity(capacity))
        self.worker.send(m.Capacity(0))

    def _settle(self, how: str, n: int) -> None:
        if not self.held:
            return
        identifier = sorted(self.held)[n % len(self.held)]
        options = {"delay": 1_000} if how == "nack" else {}
        assert getattr(self.worker, how)(self.held.pop(identifier), identifier, **options) == []
        state = self.state_of(identifier)
        if state in ("done", "dead"):
            self.model.over(identifier, ran=True)
        elif state == "cancelled":
            self.model.over(identifier, ran=False)

    def ack(self, n: int) -> None:
        self._settle("ack", n)

    def nack(self, n: int) -> None:
        self._settle("nack", n)

    def reject(self, n: int) -> None:
        self._settle("reject", n)

    def release(self, n: int) -> None:
        self._settle("release", n)

    def cancel(self, n: int) -> None:
        waiting = [row["id"].decode() for row in self.producer.ask("list", state="ready")["jobs"]]
        if waiting:
            identifier = waiting[n % len(waiting)]
            assert self.producer.order("cancel", id=identifier.encode()) == {"state": "cancelled"}
            self.model.over(identifier, ran=False)

    def replay(self, n: int) -> None:
        dead = [row["id"].decode() for row in self.producer.ask("dead")["jobs"]]
        if not dead:
            return
        identifier = dead[n % len(dead)]
        text, period = self.model.jobs[identifier]
        if self.model.holder(text, self.bench.wall) not in (None, identifier):
            order = m.Order(self.producer.next_number(), 1, "replay", {"ids": [identifier.encode()]})
            assert self.producer.refused(order).code == "conflict"
            return
        self.producer.order("replay", ids=[identifier.encode()])
        self.model.claim(identifier, text, period, self.bench.wall)

    def advance(self, ms: int) -> None:
        self.bench.advance(ms)

    def purge(self) -> None:
        for row in self.producer.ask("list", state="ready")["jobs"]:
            self.model.over(row["id"].decode(), ran=False)
        if "q" in self.bench.core.state.queues:
            self.producer.order("purge", queue="q")

    def crash(self) -> None:
        self.bench.crash()
        self.producer.connect()
        self.worker.connect([m.Held(fence, [identifier.encode()], []) for identifier, fence in self.held.items()])


@given(STEPS)
def test_against_a_model(steps: list[tuple[Any, ...]]) -> None:
    run = Run()
    for step in steps:
        run.step(*step)
