"""Topics against a naive model: bindings, publications, refusals, kept topics, backfills, crashes in the middle."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.harness import Bench
from tests.core.test_matching import holds, takes
from tests.core.topics import SECOND, copies_in, log_of, page, publication
from zclient.protocol import messages as m

TOPICS = ["a", "a.b", "a.b", "b.a"]
PATTERNS = ["#", "#", "a.#", "*.b", "b.*"]
QUEUES = ["q0", "q1"]
FILTERS: list[list[Any]] = [[], [], [["n", ">=", 5]], [["n", "=", 3]], [["n", "absent", None]], [["n", "in", [1, 8]]]]
WEIGHTS = {"publish": 8, "again": 2, "bind": 4, "backfill": 4, "keep": 4, "limit": 2, "work": 3, "crash": 2}
KINDS = [kind for kind, weight in WEIGHTS.items() for _ in range(weight)] + ["unbind", "forget"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 1 << 30)), min_size=20, max_size=50)


class Model:
    """What is bound, kept, and in the queues; a publication is (topic, n or None)."""

    def __init__(self) -> None:
        self.publications: dict[str, tuple[str, int | None]] = {}
        self.bindings: dict[tuple[str, str], list[Any]] = {}
        self.kept: dict[str, list[str]] = {}
        self.waiting: dict[str, set[str]] = {queue: set() for queue in QUEUES}
        self.done: dict[str, set[str]] = {queue: set() for queue in QUEUES}
        self.limits = dict.fromkeys(QUEUES, 0)
        self.backfills: dict[tuple[str, str], list[str]] = {}

    def takes(self, pattern: str, filters: list[Any], identifier: str) -> bool:
        topic, n = self.publications[identifier]
        headers = {} if n is None else {"n": n}
        return takes(pattern.split("."), topic.split(".")) and all(holds(*one, headers) for one in filters)

    def queues_of(self, identifier: str) -> set[str]:
        return {
            queue for (pattern, queue), filters in self.bindings.items() if self.takes(pattern, filters, identifier)
        }

    def has(self, queue: str, identifier: str) -> bool:
        return identifier in self.waiting[queue] or identifier in self.done[queue]

    def refuses(self, identifiers: list[str]) -> bool:
        coming = Counter(queue for one in identifiers for queue in self.queues_of(one) if not self.has(queue, one))
        return any(
            self.limits[queue] and len(self.waiting[queue]) + jobs > self.limits[queue]
            for queue, jobs in coming.items()
        )

    def publish(self, identifiers: list[str]) -> list[int]:
        for one in identifiers:
            for queue in self.queues_of(one):
                if not self.has(queue, one):
                    self.waiting[queue].add(one)
            if not any(one in log for log in self.kept.values()):
                for pattern, log in self.kept.items():
                    if takes(pattern.split("."), self.publications[one][0].split(".")):
                        log.append(one)
        return [len(self.queues_of(one)) for one in identifiers]


class Run:
    """The broker and the model, step by step. Backfills are let through before the next step, where they can be."""

    def __init__(self) -> None:
        self.bench = Bench(policy={"lease_ms": 10**9})
        self.model = Model()
        self.producer = self.bench.producer()
        self.workers = {queue: self.bench.worker(f"w-{queue}", queue, capacity=0) for queue in QUEUES}
        self.sent = 0

    def step(self, what: str, seed: int) -> None:
        getattr(self, what)(Random(seed))
        self.backfilled()
        for queue in QUEUES:
            assert set(copies_in(self.bench, queue)) == self.model.waiting[queue]
        for pattern, log in self.model.kept.items():
            assert log_of(self.bench, pattern) == log
        kept = [identifier for _, identifier in page(self.producer)]
        assert len(kept) == len(set(kept))
        assert set(kept) == {one for log in self.model.kept.values() for one in log}
        told = self.producer.ask("bindings")["bindings"]
        assert {(row["pattern"], row["queue"]): row["filters"] for row in told} == self.model.bindings
        assert {(row["pattern"], row["queue"]) for row in told if row["backfilling"]} == self.model.backfills.keys()
        self.bench.check()

    def backfilled(self) -> None:
        """What backfills have added by now: as much as fits, each in its order; which of two is first is chance."""
        self.bench.advance(2 * SECOND)
        for (pattern, queue), left in list(self.model.backfills.items()):
            filters = self.model.bindings[pattern, queue]
            there = set(copies_in(self.bench, queue))
            while left:
                one = left[0]
                is_kept = any(one in log for log in self.model.kept.values())
                if is_kept and self.model.takes(pattern, filters, one) and not self.model.has(queue, one):
                    if one not in there:  # it is not there yet
                        limit = self.model.limits[queue]
                        assert limit and len(there) >= limit, "it waits for nothing else"
                        break
                    self.model.waiting[queue].add(one)
                left.pop(0)
            if not left:
                del self.model.backfills[pattern, queue]

    # ---- steps

    def _wire(self, identifier: str) -> m.Publication:
        topic, n = self.model.publications[identifier]
        return publication(topic, identifier, **({} if n is None else {"headers": {"n": n}}))

    def _publish(self, identifiers: list[str]) -> None:
        number = self.producer.next_number()
        self.producer.send(m.Publish(number, number, [self._wire(one) for one in identifiers]))
        answer = self.producer.answer(number)
        if self.model.refuses(identifiers):
            assert isinstance(answer, m.Failure) and answer.code == "queue_full"
        else:
            assert isinstance(answer, m.Answer)
            assert answer.value == {"queues": self.model.publish(identifiers)}

    def publish(self, chance: Random) -> None:
        identifiers = []
        for _ in range(chance.randint(1, 4)):
            self.sent += 1
            identifiers.append(f"{self.sent:03}")
            self.model.publications[identifiers[-1]] = chance.choice(TOPICS), chance.choice([None, 1, 3, 5, 8])
        self._publish(identifiers)

    def again(self, chance: Random) -> None:
        if self.model.publications:
            known = sorted(self.model.publications)
            self._publish(chance.sample(known, min(2, len(known))))

    def bind(self, chance: Random) -> None:
        pattern, queue, filters = chance.choice(PATTERNS), chance.choice(QUEUES), chance.choice(FILTERS)
        self.producer.order("bind", pattern=pattern, queue=queue, filters=filters)
        self.model.bindings[pattern, queue] = filters

    def backfill(self, chance: Random) -> None:
        pattern, queue, filters = chance.choice(PATTERNS), chance.choice(QUEUES), chance.choice(FILTERS)
        self.model.bindings[pattern, queue] = filters
        self.model.backfills[pattern, queue] = [identifier for _, identifier in page(self.producer)]
        self.producer.order("bind", pattern=pattern, queue=queue, filters=filters, start=0)

    def unbind(self, chance: Random) -> None:
        if self.model.bindings:
            pattern, queue = chance.choice(sorted(self.model.bindings))
            self.producer.order("unbind", pattern=pattern, queue=queue)
            del self.model.bindings[pattern, queue]
            self.model.backfills.pop((pattern, queue), None)

    def keep(self, chance: Random) -> None:
        pattern = chance.choice(PATTERNS)
        self.producer.order("keep_topic", pattern=pattern, keep_ms=10**9, keep_bytes=0)
        self.model.kept.setdefault(pattern, [])

    def forget(self, chance: Random) -> None:
        if self.model.kept:
            pattern = chance.choice(sorted(self.model.kept))
            self.producer.order("forget_topic", pattern=pattern)
            del self.model.kept[pattern]

    def limit(self, chance: Random) -> None:
        queue, most = chance.choice(QUEUES), chance.choice([0, 3, 6, 10])
        self.producer.order("set", queue=queue, options={"max_jobs": most})
        self.model.limits[queue] = most

    def work(self, chance: Random) -> None:
        queue = chance.choice(QUEUES)
        worker = self.workers[queue]
        worker.send(m.Capacity(chance.randint(1, 8)))
        worker.send(m.Capacity(0))
        for identifier, fence in worker.jobs():
            name = identifier.partition(".")[0]
            assert worker.ack(fence, identifier) == []
            self.model.waiting[queue].discard(name)
            self.model.done[queue].add(name)

    def crash(self, chance: Random) -> None:
        """The broker dies while a publication is on its way; its sender sends it again."""
        self.sent += 1
        identifier = f"{self.sent:03}"
        self.model.publications[identifier] = "a.b", 5
        number = self.producer.next_number()
        message = m.Publish(number, number, [self._wire(identifier)])
        self.bench.turn([(self.producer.route, message)], ends=chance.choice(["", "before commit", "before send"]))
        self.bench.crash()
        for peer in (self.producer, *self.workers.values()):
            peer.inbox.clear()
            peer.connect()
        self.producer.send(message)
        answer = self.producer.answer(number)
        if self.model.refuses([identifier]):
            assert isinstance(answer, m.Failure)
        else:
            assert isinstance(answer, m.Answer) and answer.value == {"queues": self.model.publish([identifier])}


@settings(deadline=None)
@given(STEPS)
def test_topics_do_what_the_naive_model_does(steps: list[tuple[str, int]]) -> None:
    run = Run()
    for step in steps:
        run.step(*step)
