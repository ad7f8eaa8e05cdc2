"""A history of any size as a sound run would write it, with kills, retries, deaths and lost answers in it.

It is made without any broker, to try the checker on: ten million operations take a minute. An operation is what one
process asks of the broker and is answered: a send, or a run with its settlement. All of it follows from the seed.
"""

import random
from pathlib import Path
from typing import Any

from tests.history import records as r
from tests.history.records import Recorder
from zclient.protocol.messages import Outcome

EVERY_US = 100
"""A job is sent so often."""

RUN_US = 400
"""How long a run takes, and how long it takes until it begins."""

KEYS = 64
"""So many keys: a job of a key is over before the next one is sent."""

PRODUCERS, WORKERS = 4, 4
MAX_ATTEMPTS = 3
LATER_US = 50_000
"""When a job is tried again that failed, or lost its worker."""

KILL_EVERY = 20_000
"""Jobs between two kills of a worker."""

BUFFER_BYTES = 1 << 20

FACTS: dict[str, Any] = {
    "max_attempts": MAX_ATTEMPTS,
    "in_order": ["strict"],
    "effects": ["once"],
    "workers": WORKERS,
}


class _Generator:
    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self.operations = 0
        self._fence = 1 << 32
        self._starts = [1] * WORKERS
        self._producers = [self._recorder(f"producer{n}/1") for n in range(PRODUCERS)]
        self._workers = [self._recorder(f"worker{n}/1") for n in range(WORKERS)]
        self._driver = self._recorder("driver/1", **FACTS)

    def _recorder(self, who: str, **facts: Any) -> Recorder:
        return Recorder(self._folder, who, buffer_bytes=BUFFER_BYTES, **facts)

    def job(self, number: int) -> None:
        """All that happens to one job."""
        chance = self._chance.random()
        at = number * EVERY_US
        job = f"g{number:x}"
        queue = ("strict", "once", "plain")[number % 3]
        producer = self._producers[number % PRODUCERS]
        options: dict[str, Any] | None = {"effect": number % 1000} if queue == "once" else None
        self.operations += 1
        producer.note(r.SEND, job, queue, f"key {number // 3 % KEYS}", 0, options, at=at)
        if chance < 0.001:
            producer.note(r.FAILED, job, "queue_full", at=at + 100)
            return
        if chance < 0.003:
            producer.note(r.UNKNOWN, job, at=at + 100)
            if chance < 0.002:
                return
        else:
            producer.note(r.CONFIRMED, job, at=at + 100)
        self._runs(number, job, queue, at + RUN_US)

    def _runs(self, number: int, job: str, queue: str, at: int) -> None:
        fails = 0
        if queue != "strict" and self._chance.random() < 0.02:
            fails = self._chance.choice((1, 1, 1, MAX_ATTEMPTS))
        dies = queue != "strict" and number % KILL_EVERY < 3
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self._fence += 1
            self.operations += 1
            place = number % WORKERS
            worker = self._workers[place]
            worker.note(r.START, job, self._fence, attempt, at=at)
            if dies and attempt == 1:
                self._driver.note(r.HARM, "", f"worker{place}/{self._starts[place]}", "killed", at=at + 50)
                worker.close()
                self._starts[place] += 1
                self._workers[place] = self._recorder(f"worker{place}/{self._starts[place]}")
            else:
                failed = attempt <= fails
                outcome = Outcome.NACK if failed else Outcome.ACK
                worker.note(r.SETTLE, job, self._fence, int(outcome), at=at + RUN_US)
                worker.note(r.ANSWER, job, self._fence, True, at=at + RUN_US + 100)
                if not failed:
                    if queue == "once":
                        self._driver.note(r.EFFECT, job, self._fence, number % 1000, at=at + RUN_US)
                    self._driver.note(r.FINAL, job, "done", self._fence, attempt, None)
                    return
            at += LATER_US
        self._driver.note(r.FINAL, job, "dead", self._fence, MAX_ATTEMPTS, "attempts")

    def close(self) -> None:
        for recorder in (*self._producers, *self._workers, self._driver):
            recorder.close()


def generate(folder: Path, operations: int, seed: int = 1) -> int:
    """Write a history of at least so many operations into an empty folder; returns how many jobs it tells of."""
    generator = _Generator(folder, seed)
    number = 0
    while generator.operations < operations:
        number += 1
        generator.job(number)
    generator.close()
    return number
