"""What makes jobs besides those who send them: topics, schedules, batches with their callbacks, workflows, streams.

It owns which of these a world has and what people do with them, and tells the book what may come of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation.flows import Flows
from tests.simulation.streams import Streams
from tests.simulation.topics import Topics
from zclient import openbatches, schedules
from zclient.jobs import encode_payload

if TYPE_CHECKING:
    from tests.simulation.producer import ProducerProcess
    from tests.simulation.scenario import Scenario

SCHEDULES = ("tick", "tock")
CALLBACKS = ("on_done", "on_settled", "on_death")
MOST_BATCHES = 4


class Beyond:
    """Publishing, scheduling and counting in one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        random = scenario.mix.random
        self._scenario = scenario
        self._book = scenario.book
        self._random = random
        self._kinds = [
            kind for kind in ("topics", "schedules", "batches", "flows", "streams") if random.random() < 0.35
        ]
        self._opened: dict[bytes, Any] = {}  # batches
        self.share = random.choice((0.2, 0.4, 0.8)) if self._kinds else 0.0
        self.topics = Topics(scenario)
        self.flows = Flows(scenario.mix, scenario.book)
        self.streams = Streams(scenario.mix, scenario.book)

    def act(self, producer: ProducerProcess) -> bool:
        """Something with one of them, if there is any; whether there is."""
        if self._kinds:
            getattr(self, f"_{self._random.choice(self._kinds)}")(producer)
        return bool(self._kinds)

    def batch(self) -> bytes | None:
        """An open batch to send jobs in, or None."""
        open_ones = [batch for batch in self._opened if batch not in self._book.closed]
        return self._random.choice(open_ones) if open_ones and self._random.random() < 0.4 else None

    def end(self) -> None:
        """Nothing comes by itself any more, and batches take no more jobs."""
        for name in self._book.schedules:
            self._scenario.insist(schedules.change("remove", name))
        for batch in self._opened:
            self._book.closed.add(batch)
            self._scenario.insist(openbatches.closing(batch))

    # ---- what people do

    def _queue(self) -> str:
        return self._random.choice(list(self._scenario.mix.queues))

    def _topics(self, producer: ProducerProcess) -> None:
        self.topics.act(producer)

    def _schedules(self, producer: ProducerProcess) -> None:
        random = self._random
        name = random.choice(SCHEDULES)
        chance = random.random()
        if chance < 0.5 or not self._book.schedules:
            self._book.schedules[name] = None
            arguments = schedules.schedule_arguments(
                name,
                queue=self._queue(),
                payload=self._scenario.mix.payload(1),
                every=random.choice((1, 3)),
                overlap=random.choice(("allow", "skip")),
                catch_up=random.choice(("none", "one", "all")),
                catch_up_limit=2,
            )
            producer.verb(schedules.put(arguments), 5_000.0)
        elif chance < 0.8:
            self._book.runs[name] += 1
            producer.verb(schedules.run_now(name), 5_000.0)
        else:
            producer.verb(schedules.change(random.choice(("pause", "resume", "remove")), name), 5_000.0)

    def _flows(self, producer: ProducerProcess) -> None:
        self.flows.act(producer)

    def _streams(self, producer: ProducerProcess) -> None:
        for _ in range(self._random.choice((1, 2, 3))):
            self.streams.act(producer)

    def _batches(self, producer: ProducerProcess) -> None:
        book, random = self._book, self._random
        open_ones = [batch for batch in self._opened if batch not in book.closed]
        if open_ones and (len(self._opened) >= MOST_BATCHES or random.random() < 0.5):
            batch = random.choice(open_ones)
            if random.random() < 0.5:
                book.closed.add(batch)
                producer.verb(openbatches.closing(batch), 5_000.0)
            else:
                producer.verb(openbatches.shown(batch), 5_000.0)
        elif len(self._opened) < MOST_BATCHES:
            self._open(producer)

    def _open(self, producer: ProducerProcess) -> None:
        batch = b"%032x" % (0x0191 << 112 | 0x7 << 76 | 0x8 << 60 | len(self._opened))
        arguments: dict[str, Any] = {"id": batch, "name": "", "keep_results": self._random.random() < 0.3}
        for kind in CALLBACKS:
            if self._random.random() < 0.5:
                payload = encode_payload(self._scenario.mix.payload(1))
                arguments[kind] = {"queue": self._queue(), "options": {}, "payload": payload}
                self._book.callbacks.add(b"%b.%b" % (batch, kind.removeprefix("on_").encode()))
        self._book.batches[batch] = self._opened[batch] = {}
        producer.verb(openbatches.opening(arguments), 5_000.0)
