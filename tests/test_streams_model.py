"""The whole protocol of streams: reader, broker and worker, each without its I/O, over links that lose and reconnect.

Whatever happens between them, the reader gets what each run yielded, in order, each value once, and no part holds more
than it may. At the end the mishaps stop, and the stream has to come to its end. A seed decides what happens, and how
often: the turns of a search by rules hardly ever met at the end of a run, where most can go wrong.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.core.harness import Bench
from zclient.errors import StreamRestarted
from zclient.jobs import encode_payload
from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode
from zclient.protocol.limits import STREAM_BYTES
from zclient.session import Session
from zclient.streaming import END, Reading
from zclient.verbs import End, Step, advance
from zworker.job import Job
from zworker.partials import Partials
from zworker.session import Entry, WorkerSession

LARGE = 300_000
"""Bytes of a large value: few of them fit between worker and reader."""


class Link:
    """A connection of one session to the broker, as `tests.core.harness.Bench` sees its peers."""

    def __init__(self, world: Streams, session: Session) -> None:
        self.world = world
        self.session = session
        self.inbox: list[m.Message] = []
        self.full = False
        self.route = b""

    def connect(self) -> None:
        self.cut()
        self.route = self.world.bench.new_route(self)  # type: ignore[arg-type]
        self.session.connected(self.world.now)

    def cut(self) -> None:
        """What is on its way is lost; the broker finds out when it next sends something there."""
        if self.world.bench.routes.pop(self.route, None) is not None:
            self.session.disconnected(self.world.now)
        self.inbox.clear()
        self.route = b""

    @property
    def is_up(self) -> bool:
        return self.route in self.world.bench.routes

    def send(self) -> None:
        """All that the session has to say reaches the broker."""
        if self.is_up:
            said = self.session.outgoing(self.world.now)
            self.world.bench.receive(*((self.route, decode(frames)) for frames in said))

    def receive(self, most: int) -> list[m.Message]:
        """The oldest of what the broker sent arrives; what is for the session's owner."""
        came, self.inbox[:most] = self.inbox[:most], []
        return [passed for message in came for passed in self.session.receive(encode(message), self.world.now)]


class Worker:
    """One incarnation of a worker that runs the stream, and what its handler yields."""

    def __init__(self, world: Streams, number: int) -> None:
        self.session = WorkerSession(b"worker%10d" % number, owner=self, name="w", info={}, capacity=1, queues=["q"])
        self.world = world
        self.link = Link(world, self.session.session)
        self.job: Job | None = None
        self.yields = 0

    # The owner of jobs.

    def settled(self, entry: Entry) -> None:
        self.session.settled.append(entry)

    def extend(self, job: Job, duration_ms: int, timeout_s: float) -> None:
        raise NotImplementedError

    def ask(self, verb: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        raise NotImplementedError

    def progress(self, job: Job, fraction: float | None, text: str) -> None:
        raise NotImplementedError

    def partials(self, job: Job) -> Partials:
        return self.session.partials(job)

    def nudge(self) -> None:
        """A test takes its turns when it likes."""

    # What it does.

    def send(self) -> None:
        self.session.tick(self.world.now)
        self.session.flush(self.world.now)
        self.link.send()

    def receive(self, most: int) -> None:
        for job in self.session.receive(self.link.receive(most), self.world.now):
            assert self.session.start(job, self.world.now)
            self.job, self.yields = job, 0
        for job in self.session.interrupted():
            if job is self.job:
                self._ends(m.Outcome.REJECT)

    @property
    def runs(self) -> bool:
        return self.job is not None

    def step(self) -> None:
        """The handler goes on by one value, if it may; at its end the job is done if the reader has all."""
        assert self.job is not None
        partials = self.session.partials(self.job)
        if self.yields < self.world.values:
            is_large = self.yields % self.world.large_every == 0
            value = encode_payload([self.job.fence, self.yields, bytes(LARGE if is_large else 0)])
            self.yields += partials.offer(value)
        elif partials.end():
            self._ends(m.Outcome.ACK)
        kept = partials._kept
        assert len(kept) <= 2 * self.world.window
        assert partials._size == sum(map(len, kept)) <= max(STREAM_BYTES, max(map(len, kept), default=0))

    def fail(self) -> None:
        self._ends(m.Outcome.NACK)

    def _ends(self, outcome: m.Outcome) -> None:
        job, self.job = self.job, None
        if job is not None and job.unsettled:
            job.is_settled = True
            values = {m.Outcome.ACK: encode_payload("result"), m.Outcome.NACK: {"text": "no", "delay": 0}}
            self.settled((job, int(outcome), values.get(outcome, {})))


class Streams:
    """One stream, its reader, a broker that may be killed, and workers that may be killed."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.bench = Bench(policy={"max_attempts": 10_000, "poison_losses": 10_000}, reader_ms=1_000_000)
        self.values = random.choice((0, 1, 2, 5, 30))
        self.window = random.choice((1, 2, 4, 20))
        self.large_every = random.choice((1, 3, 1000))
        self.made = 0
        self.reading = Reading("q", None, "a", timeout=None, on_restart="raise", window=self.window, options={"ttl": 0})
        self.client = Link(self, Session(b"reader".ljust(16, b"."), name="reader", info={}))
        self.worker = self._new_worker()
        self.got: list[tuple[int, int]] = []
        self.over = ""
        self._begin()

    @property
    def now(self) -> float:
        return float(self.bench.now)

    def _new_worker(self) -> Worker:
        self.made += 1
        worker = Worker(self, self.made)
        worker.link.connect()
        return worker

    def _begin(self) -> None:
        self.client.connect()
        procedure = self.reading.begin(self.client.session, self.now, 10_000)
        step: Step | End[None] = advance(procedure)
        while not isinstance(step, End):
            self.client.send()
            self.client.receive(99)
            step = advance(procedure, self.now)

    def run(self) -> None:
        """Some hundred steps, in an order and with mishaps as the seed has it; then all the way to the end."""
        random = self.random
        steps = [self.reader_hears, self.client.send, self.reader_takes, self.worker_hears, self.handler_goes_on]
        steps += [self.worker_speaks] * random.choice((1, 3))  # one that speaks rarely says much at once
        mishaps = [self.drop_one, self.cut_reader, self.cut_worker, self.fail, self.kill_worker, self.kill_broker]
        chosen = random.sample(mishaps, random.randint(1, 3))
        often = random.choice((0.01, 0.05, 0.2))
        for _ in range(300):
            if self.over:
                break
            random.choice(chosen if random.random() < often else steps)()
            if random.random() < 0.1:
                self.time_passes(random.choice((1, 100, 1500)))
        self.finish()

    def reader_hears(self) -> None:
        self.client.receive(self.random.randint(1, 3))
        reader = self.reading._reader
        assert reader is not None
        assert sum(isinstance(item, bytes) for item in reader._items) <= 2 * self.window
        assert reader._size <= 2 * STREAM_BYTES + LARGE

    def reader_takes(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            if self.over or not self._take():
                break

    def worker_speaks(self) -> None:
        self.worker.send()

    def worker_hears(self) -> None:
        self.worker.receive(self.random.randint(1, 3))

    def handler_goes_on(self) -> None:
        for _ in range(self.random.randint(1, 6)):
            if self.worker.job is not None:
                self.worker.step()

    def time_passes(self, ms: int) -> None:
        self.bench.advance(ms)
        for link in (self.client, self.worker.link):
            link.session.tick(self.now)

    def _take(self) -> bool:
        """Take the next value, if there is one."""
        procedure = self.reading.next(self.client.session, self.now)
        try:
            step = advance(procedure)
        except StreamRestarted as restarted:
            assert restarted.values == len(self.got) > 0
            self.got.clear()
            return True
        finally:
            procedure.close()
        if not isinstance(step, End):
            return False
        if step.value is END:
            self.over = "done"
            return False
        fence, number, _ = step.value
        assert number == len(self.got), "in order, each once"
        assert all(fence == before for before, _ in self.got), "of one run"
        self.got.append((fence, number))
        return True

    # ---- mishaps

    def drop_one(self) -> None:
        """One of the messages that the broker may drop finds no room."""
        link = self.random.choice((self.client, self.worker.link))
        places = [place for place, message in enumerate(link.inbox) if isinstance(message, m.Part | m.Flow)]
        if places:
            del link.inbox[self.random.choice(places)]

    def cut_reader(self) -> None:
        self.client.connect()

    def cut_worker(self) -> None:
        self.worker.link.connect()

    def fail(self) -> None:
        self.worker.fail()

    def kill_worker(self) -> None:
        self.worker.link.cut()
        self.worker = self._new_worker()

    def kill_broker(self) -> None:
        links = (self.client, self.worker.link)
        for link in links:
            link.cut()
        self.bench.crash()
        for link in links:
            link.connect()

    # ---- the end

    def finish(self) -> None:
        """No mishap any more: the stream comes to its end, and the last run gave all its values."""
        began = self.now
        while not self.over:
            assert self.now - began < 120_000, "it hangs"
            self.time_passes(100)
            self.worker_speaks()
            self.worker_hears()
            self.handler_goes_on()
            self.reader_hears()
            self.reader_takes()
            self.client.send()
        assert [number for _, number in self.got] == list(range(self.values))
        assert self.reading.result == "result"
        assert not self.bench.core.state.streams
        self.bench.check()


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_the_reader_gets_what_was_yielded(first: int) -> None:
    for seed in range(first, first + 50):
        Streams(seed).run()
