"""The model of a broker without options: peers, time and crashes, and which jobs must be alive because of them.

It owns the rules every machine shares. What options add stands in ``options.py``; what must hold of a broker at any
time, whatever was sent, in ``holds.py``.

A crash comes in one of two ways: the tick is lost whole, or it is on disk and none of its messages left.
"""

from __future__ import annotations

import sys
from itertools import count
from typing import Any

import msgpack
import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core.harness import Bench, Peer
from tests.core.model import holds
from tests.core.model.worker import Worker
from zbroker import limits
from zbroker.core.states import State
from zclient.protocol import messages as m

QUEUES = ("q", "r")
CRASHES = st.sampled_from([""] * 10 + ["before commit", "before send"])
TIMES = st.sampled_from([1, 50, 200, 1_000, 1_100, 5_100, 10_000, 40_000])
PRIORITIES = st.sampled_from([0, 0, 0, 5])
KEYS = st.sampled_from(["", "", "a", "b"])
DELAYS = st.sampled_from([0, 0, 0, 500, 3_000])
END = b"\xff" * 70

POLICY: dict[str, Any] = {"lease_ms": 10_000, "max_attempts": 3, "poison_losses": 2, "backoff_max_ms": 5_000}


class Broker(RuleBasedStateMachine):
    """One broker, two queues, producers and workers that come and go."""

    serves = QUEUES
    """The queues of a worker that serves all."""

    @initialize(
        window=st.sampled_from([1, 3, 100]),
        jobs=st.sampled_from([2, 10, 1000]),
        lanes=st.sampled_from([0, 2, 100]),
        fresh=st.sampled_from([0, 40, 10_000]),
        keep=st.sampled_from([0, 3, 1000]),
        seed=st.integers(0, 3),
    )
    def start(self, window: int, jobs: int, lanes: int, fresh: int, keep: int, seed: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(limits, "BLOCK_JOBS", 3)
        self.patch.setattr(limits, "STEP_ROWS", 2)
        self.patch.setattr(limits, "TURN_TIMERS", 4)
        self.patch.setattr(limits, "TURN_DELIVERIES", 6)
        self.bench = self.make_bench(
            seed=seed,
            policy=POLICY,
            window_jobs=window,
            resident_jobs=jobs,
            resident_lanes=lanes,
            fresh_bytes=fresh,
            keep_done_count=keep,
        )
        self.producers = [Peer(self.bench, f"p{n}", (), 0) for n in range(2)]
        for producer in self.producers:
            producer.connect()
        self.workers: list[Worker] = []
        self.names = count(1)
        self.ids = count(1)
        self.puts: list[tuple[Peer, m.Put]] = []  # all that were ever sent
        self.committed: dict[int, Any] = {}  # positions in it -> the answer, None if it is plain
        self.confirmed: set[Peer] = set()  # who ever had an answer
        self.cancel_wished: set[bytes] = set()
        self.fences_of_this_turn: set[int] = set()
        self.alive: set[bytes] = set()
        self.ended: dict[bytes, str] = {}
        self.settled: dict[tuple[int, bytes], int] = {}  # accepted: (fence, id) -> outcome
        self.highest_fence = 0
        for queues in (("q",), ("q", "r")):
            self.join(queues, 3)
            self.put_new(0, queues[-1], 6, {}, "")

    def make_bench(self, **settings: Any) -> Bench:
        return Bench(**settings)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            if sys.exc_info()[0] is None:  # else the failure of a step is the one to tell
                self.work_off()
            self.patch.undo()

    # ---- how things are sent

    def do(self, peer: Peer, message: m.Message, crash: str) -> None:
        """Send it. A crash cuts every connection."""
        if not crash:
            peer.send(message)
        else:
            self.bench.turn([(peer.route, message)], ends=crash)
            self.crashed()
        self.collect()

    def crashed(self) -> None:
        self.bench.crash()

    def collect(self) -> None:
        """What came to the workers."""
        for worker in self.workers:
            delivered = False
            for message in worker.inbox:
                if isinstance(message, m.Deliver):
                    delivered = True
                    assert message.fence > self.highest_fence or message.fence in self.fences_of_this_turn
                    self.fences_of_this_turn.add(message.fence)
                    assert not self.ended.keys() & set(message.ids), "what has ended is not delivered"
                    worker.held[message.fence] = set(message.ids)
                    worker.seen[message.fence] = set(message.ids)
                elif isinstance(message, m.Lost):
                    for fence, ids in message.leases:
                        worker.forget(fence, ids or list(worker.held.get(fence, ())))
            worker.inbox = [message for message in worker.inbox if not isinstance(message, m.Deliver | m.Lost | m.Ping)]
            assert not delivered or sum(map(len, worker.held.values())) <= worker.capacity
        self.highest_fence = max(self.fences_of_this_turn, default=self.highest_fence)
        self.fences_of_this_turn.clear()

    def producer(self, index: int) -> Peer:
        producer = self.producers[index]
        if producer.route not in self.bench.routes:
            producer.resend_below = producer.number + 1 if producer in self.confirmed else 0
            producer.connect()
        return producer

    def state_of(self, identifier: bytes) -> State | None:
        found = self.bench.core.state.find(identifier)
        return found.state if found else None

    def end(self, identifier: bytes, how: str) -> None:
        assert identifier not in self.ended
        self.alive.discard(identifier)
        self.ended[identifier] = how

    # ---- producers

    @rule(
        index=st.integers(0, 1),
        queue=st.sampled_from(QUEUES),
        jobs=st.integers(1, 7),
        priority=PRIORITIES,
        key=KEYS,
        delay=DELAYS,
        crash=CRASHES,
    )
    def put(self, index: int, queue: str, jobs: int, priority: int, key: str, delay: int, crash: str) -> None:
        options: dict[str, Any] = {"priority": priority} if priority else {}
        options |= {"key": key} if key else {}
        options |= {"delay": delay} if delay else {}
        self.put_new(index, queue, jobs, options, crash)

    def put_new(
        self, index: int, queue: str, jobs: int, options: dict[str, Any], crash: str, payload: bytes = b"p"
    ) -> None:
        producer = self.producer(index)
        ids = [b"%d" % next(self.ids) for _ in range(jobs)]
        message = m.Put(producer.next_number(), 1, [m.Group(queue, options, ids, [payload] * jobs)])
        self.puts.append((producer, message))
        self.send_put(len(self.puts) - 1, crash)

    @precondition(lambda self: self.puts)
    @rule(data=st.data(), crash=CRASHES)
    def resend(self, data: Any, crash: str) -> None:
        self.send_put(data.draw(st.integers(0, len(self.puts) - 1)), crash)

    def send_put(self, position: int, crash: str) -> None:
        producer, message = self.puts[position]
        self.producer(self.producers.index(producer))
        is_new = position not in self.committed
        before = self.before_put(message) if is_new else None
        self.do(producer, message, crash)
        answer = None if crash else producer.answer(message.number)
        kept = self.kept_answers(producer)
        assert is_new or message.number in kept, "what was applied once stays applied"
        assert crash != "before commit" or not is_new or message.number not in kept
        if message.number in kept and is_new:
            self.committed[position] = kept[message.number]
            self.stored(message, kept[message.number], before)
        if not crash and message.number not in kept:
            assert isinstance(answer, m.Failure)
            self.refused(message, answer, before)
        elif not crash:
            self.confirmed.add(producer)
            if self.committed[position] is None:
                assert answer == m.Ok([message.number])
            else:
                assert isinstance(answer, m.Answer)
                assert msgpack.packb(answer.value) == msgpack.packb(self.committed[position])

    def kept_answers(self, producer: Peer) -> dict[int, Any]:
        """The numbers of its batches that were applied, as the row says, with the answers that are not plain."""
        value = self.bench.store.get("producers", producer.incarnation)
        if value is None:
            return {}
        _, _, applied, answers = msgpack.unpackb(value, strict_map_key=False)
        return {number: answers.get(number) for number in applied}

    def before_put(self, message: m.Put) -> Any:
        """What must be known of the broker before the PUT to judge what it does with it."""
        return None

    def stored(self, message: m.Put, answer: Any, before: Any) -> None:
        """The PUT was committed for the first time."""
        assert answer is None
        self.alive.update(message.groups[0].ids)

    def refused(self, message: m.Put, failure: m.Failure, before: Any) -> None:
        raise AssertionError(f"without options no PUT is refused: {failure}")

    # ---- workers

    @precondition(lambda self: len(self.workers) < 5)
    @rule(queues=st.sampled_from([("q",), ("r",), ("q", "r")]), capacity=st.integers(1, 5))
    def join(self, queues: tuple[str, ...], capacity: int) -> None:
        self.connect_worker(queues, capacity, {})

    def connect_worker(self, queues: tuple[str, ...], capacity: int, tasks: dict[str, dict[str, Any]]) -> None:
        worker = Worker(self.bench, f"w{next(self.names)}", queues, capacity)
        worker.tasks = tasks
        self.workers.append(worker)
        worker.connect()
        self.collect()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), how=st.sampled_from(["cut", "noticed", "goodbye", "killed"]))
    def leave(self, data: Any, how: str) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        if how == "goodbye" and worker.connected:
            self.do(worker, m.Goodbye(), "")
        route = worker.route
        worker.cut()
        if how == "noticed":
            self.bench.core.unreachable(route)
            self.bench.turn()
            self.bench.settle_down()
        if how in ("goodbye", "killed"):
            self.workers.remove(worker)
        self.collect()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), fresh=st.booleans())
    def reconnect(self, data: Any, fresh: bool) -> None:
        """Say HELLO, on a new connection or again on the same, naming what it holds, or some of it."""
        worker = data.draw(st.sampled_from(self.workers))
        held = []
        for fence, ids in worker.held.items():
            named = [identifier for identifier in sorted(ids) if not fresh or data.draw(st.integers(0, 4))]
            held.append(m.Held(fence, named[:1], named[1:]))
        if fresh or not worker.connected:
            self.says_it_never_came(worker, held)
            welcome = worker.connect(held)
            worker.held = {named.fence: {*named.started, *named.waiting} for named in held}
        else:
            welcome = worker.hello(held)
        for fence, ids in welcome.lost:
            worker.forget(fence, ids)
        worker.held = {fence: ids for fence, ids in worker.held.items() if ids}
        self.collect()
        leased = {identifier for delivery in self.bench.core.state.deliveries.values() for identifier in delivery.ids}
        assert all(ids <= leased for ids in worker.held.values())

    def says_it_never_came(self, worker: Worker, held: list[m.Held]) -> None:
        """The worker is about to name what it holds; what it leaves out never arrived."""

    @precondition(lambda self: any(worker.connected for worker in self.workers))
    @rule(data=st.data(), capacity=st.integers(0, 6))
    def change_capacity(self, data: Any, capacity: int) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.connected]))
        worker.capacity = capacity
        self.do(worker, m.Capacity(capacity), "")

    @precondition(lambda self: any(worker.connected and worker.held for worker in self.workers))
    @rule(data=st.data(), outcome=st.sampled_from(m.Outcome))
    def settle_some(self, data: Any, outcome: m.Outcome) -> None:
        self.settle(data, outcome, late=False, crash="")

    @precondition(lambda self: any(worker.connected and worker.seen for worker in self.workers))
    @rule(data=st.data(), outcome=st.sampled_from(m.Outcome), late=st.booleans(), crash=CRASHES)
    def settle_or_repeat(self, data: Any, outcome: m.Outcome, late: bool, crash: str) -> None:
        self.settle(data, outcome, late=late, crash=crash)

    def settle(self, data: Any, outcome: m.Outcome, *, late: bool, crash: str) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.connected and worker.seen]))
        source = worker.seen if late or not worker.held else worker.held
        fence = data.draw(st.sampled_from(sorted(source)))
        ids = data.draw(st.lists(st.sampled_from(sorted(source[fence])), min_size=1, unique=True))
        leased = self.bench.core.state.leased
        mine = [identifier for identifier in ids if identifier in leased and leased[identifier].fence == fence]
        wishes = {identifier for identifier in mine if self.wished_away(identifier)}
        values = self.values(data, outcome, ids)
        number = worker.next_number()
        message = m.Settle(number, [m.Settlement(fence, outcome, ids, values)])
        note(f"{worker.name} settles {fence} {ids} as {outcome.name}; its own are {mine}")
        if crash != "before commit":
            for identifier in mine:
                if outcome is m.Outcome.ACK:
                    self.end(identifier, "done")
                elif identifier in wishes:
                    self.end(identifier, "cancelled")
            self.settled.update({(fence, identifier): outcome for identifier in mine})
            self.about_to_settle(outcome, mine, ids, values)
            worker.forget(fence, ids)
        self.do(worker, message, crash)
        if not crash:
            answer = worker.answer(number)
            refused = set() if isinstance(answer, m.Ok) else {entry[1] for entry in answer.value["refused"]}
            assert not refused & set(mine), "a settlement of its own lease counts"
            for identifier in set(ids) - set(mine) - refused:
                # A release of what was given back already says nothing new. All others must repeat what was done.
                known = self.settled.get((fence, identifier), m.Outcome.RELEASE)
                assert known == outcome, "only a repetition is answered like the first time"

    def values(self, data: Any, outcome: m.Outcome, ids: list[bytes]) -> list[Any] | None:
        return [data.draw(st.sampled_from([0, 700])) for _ in ids] if outcome is m.Outcome.SNOOZE else None

    def about_to_settle(
        self, outcome: m.Outcome, mine: list[bytes], ids: list[bytes], values: list[Any] | None
    ) -> None:
        """A settlement that will be committed is about to be sent."""

    def wished_away(self, identifier: bytes) -> bool:
        found = self.bench.core.state.find(identifier)
        return found is not None and found.change is not None and found.change.cancel

    @precondition(lambda self: any(worker.connected for worker in self.workers))
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.connected]))
        self.do(worker, m.Renew(sorted(worker.held)), "")

    # ---- people

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), crash=CRASHES)
    def cancel(self, data: Any, crash: str) -> None:
        identifier = data.draw(st.sampled_from(sorted(self.alive)))
        before = self.state_of(identifier)
        if crash != "before commit" and before in (State.READY, State.SCHEDULED):
            self.end(identifier, "cancelled")
        self.order("cancel", crash, id=identifier)

    @rule(queue=st.sampled_from(QUEUES), crash=CRASHES)
    def purge(self, queue: str, crash: str) -> None:
        if queue in self.bench.core.state.queues:
            self.purge_begins(queue)
            if crash != "before commit":
                for identifier in self.in_state(queue, State.READY):
                    self.end(identifier, "purged")
            self.order("purge", crash, queue=queue)

    def purge_begins(self, queue: str) -> None:
        """A purge is about to be ordered."""

    @rule(queue=st.sampled_from(QUEUES), verb=st.sampled_from(["pause", "resume", "resume", "replay", "drop"]))
    def order_of_a_queue(self, queue: str, verb: str) -> None:
        if queue in self.bench.core.state.queues:
            self.order_queue(queue, verb)

    def order_queue(self, queue: str, verb: str, **arguments: Any) -> None:
        dead = self.in_state(queue, State.DEAD)
        self.order(verb, "", queue=queue, **arguments)
        if verb == "drop":
            rows = self.rows()
            for identifier in set(dead) - rows:
                self.end(identifier, "dropped")
            assert arguments or all(self.state_of(identifier) is not State.DEAD for identifier in dead)

    def in_state(self, queue: str, state: State) -> list[bytes]:
        """The live jobs of a queue in a state."""
        found = [self.bench.core.state.find(identifier) for identifier in sorted(self.alive)]
        return [job.id for job in found if job is not None and job.state is state and job.queue.name == queue]

    def order(self, verb: str, crash: str, **arguments: Any) -> Any:
        """The answer, or None where a crash swallowed it."""
        producer = self.producer(0)
        number = producer.next_number()
        self.do(producer, m.Order(number, 1, verb, arguments), crash)
        if crash:
            return None
        self.confirmed.add(producer)
        return producer.value_of(number)

    # ---- time

    @rule(ms=TIMES)
    def advance(self, ms: int) -> None:
        wishes = {identifier for identifier in self.alive if self.wished_away(identifier)}
        self.bench.advance(ms)
        for identifier in wishes:
            if self.state_of(identifier) is None:
                self.end(identifier, "cancelled")
        self.collect()

    @rule(ms=st.sampled_from([600, 20_000]), drained=st.booleans())
    def stall(self, ms: int, drained: bool) -> None:
        self.bench.now += ms
        self.bench.wall += ms
        self.bench.turn(stalled_ms=ms, drained=drained)
        self.bench.settle_down()
        self.collect()

    @rule(really=st.integers(0, 3))
    def crash(self, really: int) -> None:
        if not really:
            self.crashed()
            self.collect()

    # ---- what holds after every step

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "bench"):
            return
        gone = {identifier for identifier in self.alive - self.rows() if identifier not in self.ended}
        note(f"gone without the model's knowing: {sorted(gone)}")
        for identifier in sorted(gone):
            self.end(identifier, self.explain(identifier))
        assert self.rows() == self.alive
        self.bench.check()
        self.cancel_wished = {identifier for identifier in self.alive if self.wished_away(identifier)}
        state = self.bench.core.state
        for queue in state.queues.values():
            holds.counters_agree(queue)
        holds.nobody_waits_in_vain(state, self.alive)
        holds.wakes_in_time(self.bench)

    def explain(self, identifier: bytes) -> str:
        """How a job ended that is gone: a wish to cancel is fulfilled when the run ends, also by a loss that the model
        does not see."""
        assert identifier in self.cancel_wished, "no job is lost"
        return "cancelled"

    def rows(self) -> set[bytes]:
        return {key for key, _ in self.bench.store.scan("jobs", b"", END)}

    def lift_limits(self) -> None:
        """Undo what may hold jobs back."""

    def work_off(self) -> None:
        """Confirm everything, cancel nothing more, and let one good worker do it all."""
        for worker in self.workers:
            worker.cut()
        self.lift_limits()
        for position in range(len(self.puts)):
            self.send_put(position, "")
            self.all_is_well()
        for queue in self.bench.core.state.queues:
            self.order("resume", "", queue=queue)
            self.order_queue(queue, "replay")
        self.advance(40_000)
        self.all_is_well()
        self.workers = []
        self.connect_worker(self.serves, 50, {})
        (worker,) = self.workers
        for _ in range(1_000):
            if not self.rows():
                break
            for fence, ids in list(worker.held.items()):
                for identifier in sorted(ids):
                    self.end(identifier, "done")
                worker.forget(fence, sorted(ids))
                assert worker.ack(fence, *(identifier.decode() for identifier in sorted(ids))) == []
                self.collect()
            for queue in self.bench.core.state.queues:
                self.order_queue(queue, "replay")
            self.bench.advance(200)
            self.collect()
            self.all_is_well()
        assert not self.alive
        assert self.ended.keys() == self.sent(), self.ended.keys() ^ self.sent()

    def sent(self) -> set[bytes]:
        """The jobs that a PUT stored; in the end all PUTs are confirmed."""
        assert self.committed.keys() == set(range(len(self.puts)))
        return {identifier for _, message in self.puts for identifier in message.groups[0].ids}
