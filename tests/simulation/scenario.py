"""One seed from beginning to end: a world is made, things go wrong, all is healed, and everything must settle.

It owns the processes, what producers do next, and when what is checked. See `docs/testing.md`.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

from tests.core.whole import check_whole
from tests.simulation.beyond import Beyond
from tests.simulation.book import Book
from tests.simulation.broker import BrokerProcess
from tests.simulation.disk import Disk
from tests.simulation.leases import Leases
from tests.simulation.mishaps import Mishaps
from tests.simulation.mix import GRAVEYARD, Mix, draw
from tests.simulation.network import Network, Weather
from tests.simulation.producer import ProducerProcess
from tests.simulation.worker import WorkerProcess
from tests.simulation.world import Process, Violation, World
from zbroker import limits
from zbroker.calendar import Calendar
from zbroker.core.policy import QueuePolicy
from zbroker.core.state import Settings
from zbroker.core.states import State
from zclient import tails, verbs
from zclient.protocol.messages import Group
from zclient.protocol.record import header_of

STEPS = 600
"""Events of a scenario until it is healed."""

CHECK_EVERY = 60
"""Events between two looks at everything."""

HEALED_STEPS = 100_000
"""Events in which everything must settle after that."""

HEALED_MS = 3_600_000.0
"""And the virtual time for it."""

DROPS = 20
"""So often dead jobs are dropped: more than jobs that wait for each other stand in a row."""

RESTART_MS = (1.0, 3_000.0)
"""After so long a process that ended is started again."""


class Scenario:
    """One world and all that runs in it."""

    def __init__(self, seed: int, traced: int = 0) -> None:
        self.seed = seed
        self.world = World(seed, traced)
        self.mix: Mix = draw(Random(seed ^ 0x5EED))
        self.book = Book(self.world)
        self.book.forgets = any("keep_done" in options for options in self.mix.queues.values())
        self.disk = Disk(self.world, self.book.write)
        weather = Weather()
        weather.latency, weather.late, weather.late_ms = self.mix.latency, self.mix.late, self.mix.late_ms
        self.network = Network(self.world, weather)
        self.leases = Leases(self.book.unsent)
        settings = Settings(
            policy=QueuePolicy(backoff_min_ms=100, backoff_max_ms=10_000),
            queues={name: dict(options) for name, options in self.mix.queues.items()},
            calendar=Calendar(),
            window_jobs=self.mix.window_jobs,
        )
        self.broker = BrokerProcess(self.world, self.network, self.disk, settings, self.leases)
        self.book.policy_of = self._policy_of
        self.book.capacity_of = self._capacity_of
        self.book.may_expire = lambda fence: self.leases.may_expire(self.broker.core, fence)
        self.producers = [
            ProducerProcess(self.world, self.network, self.book, f"producer-{n}") for n in range(self.mix.producers)
        ]
        self.workers = [
            WorkerProcess(
                self.world,
                self.network,
                self.book,
                f"worker-{n}",
                told["queues"],
                told["concurrency"],
                yields=told["yields"],
                **told["options"],
            )
            for n, told in enumerate(self.mix.workers)
        ]
        self.beyond = Beyond(self)
        self._restarting: set[str] = set()
        self._lowered = False
        self._healed = False
        self._turns = 0
        self.broker.start()
        for process in (*self.producers, *self.workers):
            process.start()
        for producer in self.producers:
            self._act_later(producer)
        self.mishaps = Mishaps(self)

    # ---- what the book asks

    def _policy_of(self, queue: str) -> QueuePolicy | None:
        found = self.broker.core.state.queues.get(queue)
        return found.policy if found is not None else None

    def _capacity_of(self, incarnation: bytes) -> int | None:
        peer = self.broker.core.state.peers.get(incarnation)
        return peer.capacity if peer is not None else None

    # ---- from beginning to end

    def run(self, steps: int = STEPS) -> None:
        """Raises `Violation`, or whatever the product raised, with the world as it is then."""
        before = {name: getattr(limits, name) for name in self.mix.limits}
        window = tails.WINDOW
        try:
            vars(limits).update(self.mix.limits)
            tails.WINDOW = self.mix.tail_window
            self._run(steps)
        finally:
            vars(limits).update(before)
            tails.WINDOW = window

    def _run(self, steps: int) -> None:
        self._run_until(steps)
        self._run_for(self.mishaps.last())
        self._heal()
        self._settle("what was asked", self._is_answered)
        self.beyond.end()
        for queue in self.mix.queues:
            self.insist(verbs.gate("resume", queue))
        self._settle("all that was sent", self._is_drained)
        self._settle("that tails tell", self.beyond.topics.has_told_all)
        self.beyond.topics.end()
        self._settle("what was told last", self._is_drained)
        self._settle("that logs are trimmed", self.beyond.topics.logs.are_trimmed)
        self._replay_dead()
        self._settle("what was replayed", self._is_drained)
        for _ in range(DROPS):
            if self.book.records:  # what waited for dead ones may go on, and die
                self._drop_dead()
                self._settle("what was dropped", self._is_drained)
        self._settle("that streams end", self.beyond.streams.are_over)
        self._settle("that every worker gets jobs", lambda: all(map(self._has_credit, self.workers)))
        self._check_ends()

    def _run_until(self, steps: int) -> None:
        world = self.world
        while world.steps < steps:
            self._step()

    def _run_for(self, ms: float) -> None:
        until_ms = self.world.now + ms
        while self.world.now < until_ms:
            self._step()

    def _step(self) -> None:
        self.world.step()
        self._restart_dead()
        broker = self.broker
        if broker.turns != self._turns:
            self._turns = broker.turns
            if broker.alive:
                self.leases.check(broker.core)
                if self.mix.small_turns and not self._healed:
                    broker.most_messages = self.world.random.choice((1, 2, 400))
        if self.world.steps % CHECK_EVERY == 0:
            self.check()

    def _restart_dead(self) -> None:
        for process in (self.broker, *self.workers, *self.producers):
            if not process.alive and process.name not in self._restarting:
                self._restarting.add(process.name)
                self.world.after(self.world.between(*RESTART_MS), self._restart, process)

    def _restart(self, process: Process) -> None:
        self._restarting.discard(process.name)
        process.start()  # type: ignore[attr-defined]
        if process is self.broker and process.alive:
            self.check()

    # ---- what producers do

    def _act_later(self, producer: ProducerProcess) -> None:
        wait_ms = -self.mix.between_sends * math.log(1.0 - self.world.random.random())
        self.world.after(wait_ms, self._act, producer)

    def _act(self, producer: ProducerProcess) -> Any:
        if self._healed:
            return False
        self._act_later(producer)
        if not producer.alive or producer.stopped or len(producer.calls) > 20:
            return False
        chance = self.mix.random.random()
        if chance < self.beyond.share and self.beyond.act(producer):
            return True
        if chance < 0.7:
            self._send(producer)
        elif chance < 0.82:
            self._await(producer)
        elif self.mix.orders:
            self._order(producer)
        return True

    def _send(self, producer: ProducerProcess) -> None:
        random = self.mix.random
        queue = random.choice(list(self.mix.queues))
        known = list(self.book.asked)[-20:]
        batch = self.beyond.batch()
        options = self.mix.job_options(queue, [*known, *list(self.book.batches)[-6:]] if batch is None else known)
        if batch is not None:
            options["batch"] = batch
        ids = self.mix.next_ids(random.choice((1, 1, 1, 2, 5)))
        payloads = [self.mix.encoded_payload() for _ in ids]
        timeout_ms = random.choice((50.0, 1_000.0, 10_000.0))
        producer.send(Group(queue, options, ids, payloads), timeout_ms, again=random.choice((0, 1, 3)))

    def _await(self, producer: ProducerProcess) -> None:
        known = list(self.book.asked)
        if known:
            producer.await_end(self.mix.random.choice(known), self.mix.random.choice((100.0, 5_000.0, 30_000.0)))

    def _order(self, producer: ProducerProcess) -> None:
        random = self.mix.random
        queue = random.choice(list(self.mix.queues))
        known = list(self.book.asked)
        what = random.choice(
            ("cancel", "cancel", "pause", "resume", "purge", "drain", "replay", "drop", "set", "show", "why", "queue")
        )
        if what in ("cancel", "show", "why"):
            if known:
                identifier = random.choice(known).decode()
                if what == "cancel":
                    self.book.cancelling.add(identifier.encode())
                producer.verb(getattr(verbs, what)(identifier), 5_000.0)
        elif what in ("pause", "resume", "drain"):
            producer.verb(verbs.gate(what, queue), 5_000.0)
        elif what == "purge":
            if random.random() < 0.2:
                self.book.purged.add(queue)
                producer.verb(verbs.purge(queue), 5_000.0)
        elif what in ("replay", "drop"):
            if what == "drop":
                self.book.dropped.add(queue)
            producer.verb(verbs.bulk(what, None, queue, random.choice((None, 2)) if what == "replay" else None)[0], 5e3)
        elif what == "set":
            self._lowered = True
            name, value = random.choice((("key_limit", 1), ("in_flight_limit", 2), ("rate", "20/1s"), ("lease", "2s")))
            producer.verb(verbs.set_queue(queue, {name: value}), 5_000.0)
        else:
            producer.verb(verbs.queue(queue), 5_000.0)

    # ---- checks

    def check(self) -> None:
        """Everything: the rows, what the core has in memory, and the book."""
        if not self.broker.alive or self.disk.unsynced or self.broker.core.state.tick.has_rows:
            return
        mishap, self.disk.mishap = self.disk.mishap, ""  # not for us
        self.book.compare(dict(self.disk.rows.scan("jobs", b"", b"\xff" * 70)))
        check_whole(self.broker.core, self.disk.rows, lowered=self._lowered, is_excused=self._is_excused)
        self.disk.mishap = mishap

    def _is_excused(self, fault: str) -> bool:
        """The timer of a job that runs is gone when its time came. If the clock is then set back, and the job given
        back, it waits without one, and expires when it is met."""
        return self.world.was_set_back and "that wait expire" in fault

    # ---- the end

    def _heal(self) -> None:
        self._healed = True
        self.world.note("world", "is healed")
        self.beyond.topics.is_healed = self.beyond.streams.is_healed = True
        self.mishaps.end()
        self.network.weather.latency = (0.1, 1.0)
        for worker in self.workers:
            worker.is_quick = True
        self.janitor = ProducerProcess(self.world, self.network, self.book, "janitor")
        self.janitor.start()

    def insist(self, verb: verbs.Verb[Any]) -> None:
        """Have an order carried out; again if its answer does not come in time."""

        def told(value: Any, error: Any) -> None:
            if error is not None and error.code != "not_found":
                self.insist(verb)

        self.janitor.verb(verb, 10_000.0, told)

    def _settle(self, what: str, is_settled: Any) -> None:
        """Let the world run until it is settled."""
        until_steps, until_ms = self.world.steps + HEALED_STEPS, self.world.now + HEALED_MS
        while not is_settled():
            if self.world.steps > until_steps or self.world.now > until_ms:
                raise Violation(f"{what} does not settle: {self._left()}")
            self._step()
        self.check()

    def _is_answered(self) -> bool:
        """Nobody waits for an answer."""
        return not any(not call.lasts for producer in (*self.producers, self.janitor) for call in producer.calls)

    def _is_drained(self) -> bool:
        """No job is left but dead ones, nobody waits, and the broker has nothing to do."""
        if not self._is_answered() or not self.broker.alive or any(not worker.alive for worker in self.workers):
            return False
        moving = (State.READY, State.SCHEDULED, State.LEASED)
        queues = self.broker.core.state.queues.values()
        paused = [queue.name for queue in queues if queue.paused]
        for name in paused:  # by one who waited no longer for the answer: on its way it was behind the janitor
            self.insist(verbs.gate("resume", name))
        if paused or self._works or any(queue.counts.jobs[state] for queue in queues for state in moving):
            return False
        return all(map(self._waits_for_dead, self.book.live()))

    def _has_credit(self, worker: WorkerProcess) -> bool:
        peer = self.broker.core.state.peers.get(worker.station.session.session.incarnation)
        return peer is not None and peer.credit > 0

    def _waits_for_dead(self, identifier: bytes) -> bool:
        """Whether a blocked job waits for one that is dead, or for one that does: a replay sets it free."""
        book = self.book
        if book.state_of(identifier) is not State.BLOCKED:
            return False
        parents = [
            job
            for parent in header_of(book.records[identifier]).options["after"]
            for job in (parent, *book.batches.get(parent, ()))
        ]
        return any(
            book.state_of(parent) is State.DEAD or (parent in book.records and self._waits_for_dead(parent))
            for parent in parents
        )

    @property
    def _works(self) -> bool:
        state = self.broker.core.state
        return bool(state.works or state.resting or state.over)

    def _replay_dead(self) -> None:
        for queue in self.mix.queues:
            self.insist(verbs.bulk("replay", None, queue, None)[0])

    def _drop_dead(self) -> None:
        for queue in self.mix.queues:
            self.book.dropped.add(queue)
            self.insist(verbs.bulk("drop", None, queue, None)[0])

    def _check_ends(self) -> None:
        """Nothing of any job is left, and each that was confirmed had its end."""
        for space in ("jobs", "payloads", "changes", "deliveries", "edges", "heads", "dead"):
            left = list(self.disk.rows.scan(space, b"", b"\xff" * 200))
            if left:
                raise Violation(f"{len(left)} rows are left in {space}: {left[:3]}")
        lost = [one for one in self.book.confirmed if one not in self.book.ended and one not in self.book.instead]
        if lost:
            raise Violation(f"confirmed, and never heard of again: {lost}")
        self.beyond.flows.check_ends()
        state = self.broker.core.state
        for peer in state.peers.values():
            if peer.unsettled or peer.deliveries:
                raise Violation(f"{peer.name} holds {peer.unsettled} jobs, and there are none")

    def _left(self) -> str:
        """What is in the way of the end, for people."""
        state = self.broker.core.state
        jobs = [
            f"{one.decode()} {self.book.state_of(one)} {self.book.changes.get(one)}" for one in self.book.live()[:5]
        ]
        calls = [call.what for producer in (*self.producers, self.janitor) for call in producer.calls]
        works = (len(state.works), len(state.resting), len(state.over))
        peers = [(peer.name, peer.capacity, peer.unsettled, peer.reserved) for peer in state.peers.values()]
        return f"jobs {jobs}; calls {calls[:5]}; works {works}; peers {peers}"


__all__ = ["GRAVEYARD", "STEPS", "Scenario"]
