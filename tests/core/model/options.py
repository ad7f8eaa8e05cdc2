"""The model of a broker with every option of a job and a queue, set and unset while it runs.

Where several ends of a job are right, it asks that there is a reason for the one that came. A machine is a subclass
that says which options are declared from the start and which may change.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.core.harness import Bench, Peer
from tests.core.model import holds
from tests.core.model.broker import CRASHES, QUEUES
from tests.core.model.coming import RETRIES, Coming, mixes
from tests.core.model.logged import LoggedBench, Meter, longest_wait, meter
from tests.core.model.worker import Worker
from zbroker.core.rows import head_key
from zbroker.core.shown import live
from zbroker.core.state import Found
from zbroker.core.states import State
from zclient.protocol import messages as m
from zclient.protocol.options import QUEUE_OPTIONS

TOLD = ("state", "attempt", "progress", "cancel_requested", "losses", "due_at", "worker", "fence")
"""What a peer that follows a job must know of it; what is left of a lease is not told by itself."""


class Options(Coming):
    """One broker, the queues q and r, and d for dead jobs."""

    serves = ("q", "r", "d")

    def make_bench(self, **settings: Any) -> Bench:
        self.begin()
        self.replayed: dict[str, int] = {}  # queue -> wall clock of the last replay of its dead jobs
        self.purged: set[str] = set()
        self.began: set[bytes] = set()  # jobs that came to a worker, and may have been started
        self.meters: dict[tuple[str, str | None], Meter | None] = {}  # (queue, key; None: all) -> what went
        self.told: dict[bytes, dict[str, Any]] = {}  # what CHANGED last said
        self.before: dict[bytes, Found] = {}  # the live jobs after the last step
        self.expected_waits: dict[bytes, tuple[int, int, bool]] = {}  # least, most, and whether it was the last run
        bench = LoggedBench(queues=self.declared, **settings)
        bench.on_deliver = self.delivered
        bench.lowered = True  # `delivered` knows when a limit may be passed: never by a delivery
        self.eyes = Peer(bench, "eyes", (), 0)
        return bench

    def fixed(self, queue: str, option: str) -> Any:
        """The value of an option that the machine never changes; None if it does."""
        return None if option in self.settable else self.policy(queue).value(option)

    def begin_with(self, data: Any) -> None:
        super().begin_with(data)
        self.first_task = {queue: data.draw(mixes(RETRIES, 3)) for queue in QUEUES}
        for queue in QUEUES:
            self.set_some(queue, data, "")

    def crashed(self) -> None:
        self.told.clear()
        self.meters.clear()
        super().crashed()

    # ---- jobs go out

    def delivered(self, message: m.Deliver) -> None:
        """A delivery leaves the broker; its tick is on disk."""
        state = self.bench.core.state
        policy = self.policy(message.queue)
        leased = Counter(d.queue.name for d in state.leased.values())
        if policy.in_flight_limit:
            assert leased[message.queue] <= policy.in_flight_limit
        found = [state.find(identifier) for identifier in message.ids]
        keys: Counter[bytes] = Counter()
        for job in found:
            assert job is not None and job.state is State.LEASED
            keys[job.place[1]] += 1
            self.may_go(job, message.queue)
        for key, jobs in keys.items():
            if policy.key_limit:
                running = sum(self.key_of(identifier) == (message.queue, key) for identifier in state.leased)
                assert running <= policy.key_limit, "no more of a key than it may have"
            self.measure(message.queue, key.decode(), policy.key_rate, jobs)
        self.measure(message.queue, None, policy.rate, len(found))

    def key_of(self, identifier: bytes) -> tuple[str, bytes]:
        found = self.bench.core.state.find(identifier)
        assert found is not None
        return found.queue.name, found.place[1]

    def measure(self, queue: str, key: str | None, rate: Any, jobs: int) -> None:
        name = queue, key
        if name not in self.meters:
            self.meters[name] = meter(rate)
        counted = self.meters[name]
        if counted is not None:
            counted.passed(self.bench.core.state.now, jobs)

    def may_go(self, job: Found, queue: str) -> None:
        """What must be so of a job that is delivered."""
        sent = self.sent_jobs[job.id]
        if 0 < sent.expires_ms <= self.bench.wall:
            assert job.changed().unexpiring, "an expired job is not delivered"
            assert queue != sent.queue or queue in self.replayed
        own = sent.options.get("max_attempts")
        if own is not None and queue == sent.queue:
            assert job.changed().runs < own
        if self.fixed(queue, "delivery") == "at_most_once":
            assert job.id not in self.began, "what may have been started is not started again"
        if self.fixed(queue, "key_limit") == 1:
            self.is_first(job)

    def is_first(self, job: Found) -> None:
        """Where jobs of a key run one after the other, none is passed by a later one of its lane."""
        if job.queue.name in self.purged and job.changed().fence:
            return  # a purge took its place while it was away: it has a new one, and still goes first
        for identifier in self.alive - {job.id}:
            other = self.bench.core.state.find(identifier)
            if other is None or other.state is State.DEAD or other.queue is not job.queue or other.place != job.place:
                continue
            assert other.sequence > job.sequence or not other.sequence, f"{job.id!r} passed {identifier!r}"

    def collect(self) -> None:
        for worker in self.workers:
            for message in worker.inbox:
                if isinstance(message, m.Deliver):
                    self.began.update(message.ids)
        super().collect()
        self.watch_what_comes()

    def says_it_never_came(self, worker: Worker, held: list[m.Held]) -> None:
        named = {identifier for one in held for identifier in (*one.started, *one.waiting)}
        self.began -= {identifier for ids in worker.held.values() for identifier in ids} - named

    # ---- workers and their settlements

    @precondition(lambda self: len(self.workers) < 5)
    @rule(
        queues=st.sampled_from([("q",), ("r", "d"), ("q", "r"), ("q", "r", "d")]),
        capacity=st.integers(1, 5),
        task=mixes(RETRIES, 3),
    )
    def join_with_tasks(self, queues: tuple[str, ...], capacity: int, task: dict[str, Any]) -> None:
        self.connect_worker(queues, capacity, {"q": task} if task else {})

    @precondition(lambda self: len(self.workers) < 5)
    @rule(ms=st.sampled_from([400, 3_000]), queue=st.sampled_from(QUEUES))
    def join_late(self, ms: int, queue: str) -> None:
        """A worker comes in the first turn after a while: more falls due in it than one turn does."""
        self.bench.now += ms
        self.bench.wall += ms
        self.connect_worker((queue,), 3, {})

    @precondition(lambda self: any(worker.connected and worker.held for worker in self.workers))
    @rule(data=st.data())
    def a_worker_is_lost(self, data: Any) -> None:
        """What it held is lost; an empty worker takes its place."""
        lost = data.draw(st.sampled_from([worker for worker in self.workers if worker.connected and worker.held]))
        lost.cut()
        self.bench.core.unreachable(lost.route)
        self.workers.remove(lost)
        self.advance(1_100)
        self.connect_worker(tuple(lost.queues), lost.capacity, lost.tasks)

    def values(self, data: Any, outcome: m.Outcome, ids: list[bytes]) -> list[Any] | None:
        if outcome is m.Outcome.RELEASE:
            return [data.draw(st.sampled_from([None, True])) for _ in ids]
        if outcome is m.Outcome.NACK:
            return [data.draw(st.sampled_from([None, {"type": "Oops"}, {"delay": 300}])) for _ in ids]
        return super().values(data, outcome, ids)

    def about_to_settle(
        self, outcome: m.Outcome, mine: list[bytes], ids: list[bytes], values: list[Any] | None
    ) -> None:
        told = dict(zip(ids, values or [None] * len(ids), strict=True))
        self.began -= {identifier for identifier in mine if outcome is m.Outcome.RELEASE and told[identifier] is True}
        self.expected_waits.clear()
        if outcome is m.Outcome.NACK:
            for identifier in mine:
                self.expect_wait(identifier, (told[identifier] or {}).get("delay"))

    def expect_wait(self, identifier: bytes, delay: int | None) -> None:
        """Remember between what the wait of a job that now fails must lie, if it is tried again."""
        found = self.bench.core.state.find(identifier)
        assert found is not None and found.delivery is not None
        policy = self.policy(found.queue.name)
        names = {name: policy.value(name) for name in RETRIES}
        said = {**names, **found.delivery.peer.tasks.get(found.queue.name, {}), **found.header.options}
        runs = found.changed().runs + 1
        is_last = policy.once or runs >= said["max_attempts"]
        longest = longest_wait(said["backoff"], said["backoff_min"], said["backoff_max"], runs)
        least = int(longest * (1 - said["backoff_jitter"]))
        self.expected_waits[identifier] = (delay or least, delay or longest, is_last)

    @precondition(lambda self: any(worker.connected and worker.held for worker in self.workers))
    @rule(data=st.data())
    def fail_one(self, data: Any) -> None:
        """A nack, and the wait that follows it."""
        self.settle(data, m.Outcome.NACK, late=False, crash="")
        for identifier, (least, most, is_last) in self.expected_waits.items():
            found = self.bench.core.state.find(identifier)
            if found is not None and found.state is State.DEAD and found.changed().reason == "attempts":
                assert is_last
            if found is not None and found.state is State.SCHEDULED and found.changed().outcome == m.Outcome.NACK:
                assert not is_last
                assert least <= found.changed().due_ms - self.bench.wall <= most
                if self.policy(found.queue.name).key_limit == 1:
                    key = head_key(found.queue.name, found.place[1], identifier)
                    assert self.bench.store.get("heads", key) is not None

    @precondition(lambda self: any(worker.connected and worker.held for worker in self.workers))
    @rule(data=st.data(), fraction=st.sampled_from([None, 0.25, 1.0]), crash=CRASHES)
    def progress(self, data: Any, fraction: float | None, crash: str) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.connected and worker.held]))
        fence = data.draw(st.sampled_from(sorted(worker.held)))
        identifier = data.draw(st.sampled_from(sorted(worker.held[fence])))
        delivery = self.bench.core.state.leased.get(identifier)
        self.do(worker, m.Progress([(fence, identifier, fraction, "so far")]), crash)
        if delivery is not None and delivery.fence == fence and delivery.peer.name == worker.name:
            found = self.bench.core.state.find(identifier)
            if crash != "before commit" and found is not None and found.state is State.LEASED:
                assert list(found.changed().progress or ()) == [fraction, "so far", self.bench.wall]

    # ---- people

    @rule(queue=st.sampled_from(QUEUES), data=st.data(), crash=CRASHES)
    def set_options(self, queue: str, data: Any, crash: str) -> None:
        self.set_some(queue, data, crash)

    def set_some(self, queue: str, data: Any, crash: str) -> None:
        options = data.draw(mixes(self.settable, 5))
        if options:
            self.change_policy("set", queue, options, crash)

    @precondition(lambda self: any(self.set.values()))
    @rule(data=st.data(), crash=CRASHES)
    def unset_options(self, data: Any, crash: str) -> None:
        queue = data.draw(st.sampled_from(sorted(name for name, options in self.set.items() if options)))
        names = st.lists(st.sampled_from(sorted(self.set[queue])), min_size=1, unique=True)
        self.change_policy("unset", queue, data.draw(names), crash)

    def change_policy(self, verb: str, queue: str, options: Any, crash: str) -> None:
        before = self.policy(queue)
        if crash != "before commit":
            own = self.set.get(queue, {})
            after = {**own, **options} if verb == "set" else {n: v for n, v in own.items() if n not in options}
            self.set[queue] = after
            policy = self.policy(queue)
            if policy.rate != before.rate:
                self.meters.pop((queue, None), None)
            if policy.key_rate != before.key_rate:
                self.meters = {name: one for name, one in self.meters.items() if name[0] != queue or name[1] is None}
        answer = self.order(verb, crash, queue=queue, options=options)
        if answer is not None:
            self.is_told(queue, answer["policy"])

    def is_told(self, queue: str, told: dict[str, Any]) -> None:
        """The policy that the broker tells is the one that was set."""
        policy, own, declared = self.policy(queue), self.set.get(queue, {}), self.declared.get(queue, {})
        for name in QUEUE_OPTIONS:
            source = "set" if name in own else "config" if name in declared else "default"
            assert tuple(told[name]) == (policy.value(name), source), name

    @rule(queue=st.sampled_from(QUEUES), drains=st.booleans())
    def ask_or_drain(self, queue: str, drains: bool) -> None:
        if queue in self.bench.core.state.queues:
            self.is_told(queue, self.producer(1).ask("queue", queue=queue)["policy"])
            if drains:
                assert self.order("drain", "", queue=queue)["closed"]

    @rule(
        queue=st.sampled_from((*QUEUES, "d")),
        verb=st.sampled_from(["replay", "replay", "drop"]),
        reason=st.sampled_from(["", "attempts", "expired"]),
        rate=st.sampled_from([0, 2, 100]),
    )
    def order_of_some(self, queue: str, verb: str, reason: str, rate: int) -> None:
        if queue in self.bench.core.state.queues:
            arguments: dict[str, Any] = {"reason": reason} if reason else {}
            if verb == "replay" and rate:
                arguments["rate"] = rate
            self.order_queue(queue, verb, **arguments)

    def order_queue(self, queue: str, verb: str, **arguments: Any) -> None:
        if verb == "replay":
            self.replay_begins(queue)
        super().order_queue(queue, verb, **arguments)

    def purge_begins(self, queue: str) -> None:
        self.purged.add(queue)

    def replay_begins(self, queue: str) -> None:
        """Its dead jobs come back, now or by and by, and may take their texts again."""
        self.replayed[queue] = self.bench.wall
        for identifier in self.in_state(queue, State.DEAD):
            self.began.discard(identifier)
            sent = self.sent_jobs[identifier]
            if "unique" in sent.options and sent.queue == queue:
                self.unsure.add((queue, sent.options["unique"]))
                self.sharing.add(identifier)

    # ---- watching

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def watch(self, data: Any) -> None:
        if self.eyes.route not in self.bench.routes:
            self.told.clear()
            self.eyes.connect()
        ids = data.draw(st.lists(st.sampled_from(sorted(self.alive)), min_size=1, max_size=4, unique=True))
        self.do(self.eyes, m.Watch(ids, True), "")
        rest = [i for i in ids if i in self.alive and self.state_of(i) is not State.DEAD]
        assert set(rest) <= self.told.keys(), "how it is, is told at once"

    def watch_what_comes(self) -> None:
        for message in self.eyes.inbox:
            if isinstance(message, m.Changed):
                self.told.update((row["id"], row) for row in message.jobs)
            elif isinstance(message, m.Finished):
                for identifier, _, _, _ in message.ends:
                    self.told.pop(identifier, None)
        self.eyes.inbox.clear()

    # ---- what holds after every step

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "bench"):
            return
        super().all_is_well()
        state = self.bench.core.state
        holds.wakes_for_rates(state, self.bench.core.wanted_in(), self.alive)
        holds.keeps_few_dead(self.bench, self.alive)
        self.texts_are_unique()
        self.before = {}
        for identifier in self.alive:
            found = state.find(identifier)
            assert found is not None
            self.before[identifier] = found
            holds.is_in_its_place(found, self.sent_jobs[identifier].queue)
            name = found.queue.name
            if found.state is State.DEAD and found.changed().ended_ms <= self.replayed.get(name, 0):
                self.began.discard(identifier)  # a replay that goes on may reach it
        self.followers_know()

    def followers_know(self) -> None:
        """Who follows a job knows how it is."""
        for identifier, row in self.told.items():
            found = self.before.get(identifier)
            assert found is not None and found.state is not State.DEAD, "the end of a job is told"
            now = live(self.bench.core.state, found)
            assert [row.get(name) for name in TOLD] == [now.get(name) for name in TOLD]

    def explain(self, identifier: bytes) -> str:
        if identifier in self.cancel_wished:
            return "cancelled"
        before = self.before[identifier]
        policy = self.policy(before.queue.name)
        expires_ms = self.sent_jobs[identifier].expires_ms
        if before.state is not State.DEAD and 0 < expires_ms <= self.bench.wall and policy.on_expiry == "drop":
            assert not before.changed().unexpiring
            return "expired"
        assert policy.keep_dead_ms or policy.keep_dead_count, "no job is lost"
        dead = self.bench.count(before.queue.name, State.DEAD)
        assert policy.keep_dead_ms or dead == policy.keep_dead_count, "no more dead jobs go than must"
        return "dropped"

    def lift_limits(self) -> None:
        for queue, options in sorted(self.set.items()):
            if options:
                self.change_policy("unset", queue, sorted(options), "")
                self.all_is_well()
        for queue in self.bench.core.state.queues:
            self.order("resume", "", queue=queue)
            self.all_is_well()
