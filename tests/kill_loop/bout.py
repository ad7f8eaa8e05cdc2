"""One bout: producers, workers and a broker under load, harmed one after another, then drained to zero and judged.

It owns whom to kill and when: by chance, and after so many further effects were seen, never after a time. What must be
true of a job stands in ``tests.history.rules``, what the processes do in ``programs``. Other kinds of harm are added by
who inherits from it.
"""

import math
import os
import random
import select
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tests.history import records as r
from tests.history.checker import Report, check, stories_of
from tests.history.records import Recorder
from tests.kill_loop.processes import Broker, Harms, Place, Program
from tests.kill_loop.work import FACTS, MAX_ATTEMPTS, POLICIES, QUEUES
from tests.system.processes import Missing, eventually
from zclient import Client, ZError

BANK = "bank.sqlite"

WINDOW = 800
"""Jobs that producers may be ahead of the effects: enough that there is always work, few enough to drain soon."""

CALM = 20
"""Effects before the first harm."""

FURTHER = (0, 1, 5, 20, 50, 100, 200, 400)
"""Effects to be seen between two kills; 0 kills somebody who has just begun to start."""

STILL_S = 20
"""So long without any effect, and the loop gives up: somebody waits for what does not come."""

LOOK_S = 1.0
"""How often it looks, while nothing happens, whether somebody ended by itself."""

STOPPED_S = (0.3, 3.0)
"""How long a worker stands still: a moment, or until its leases are over."""

MOVING_S = 0.2
"""If nothing is done for so long after it was stopped, it is taken to hold the lock of a database."""

STOPS = 10
"""How often it is stopped until it holds none."""

DRAIN_S = 60
"""How long it may take until all is done that was stored, when nothing is harmed any more."""

TOLD_JOBS = 5
"""Jobs whose story a report tells."""

OPTIONS = (
    *("--grace", "200ms", "--return-time", "3s", "--lease", "2s", "--backoff-min", "10ms", "--backoff-max", "100ms"),
    *("--max-attempts", str(MAX_ATTEMPTS), "--poison-losses", "1000", "--keep-done-count", "1000000"),
)

WORKERS = {"threads": "worker_threads", "coroutines": "worker_coroutines", "consumer": "consumer"}
PRODUCERS = {"sender": "producer_threads", "gatherer": "producer_coroutines"}

OVER = {"done": "done", "dead": "died", "cancelled": "cancelled"}
"""The states in which a job is over, and the totals of its queue that count it."""

EARLIER = timedelta(seconds=5)


class Failed(AssertionError):
    """A promise was broken; the text tells how to do it again, and what happened."""


class Came(NamedTuple):
    """What a bout came to."""

    harms: Counter[tuple[str, str]]
    report: Report
    seconds: float

    def total(self, what: str) -> int:
        return sum(count for (_, kind), count in self.harms.items() if kind == what)


class Bout:
    """Its processes, what is done to them, and how many effects were seen."""

    window = WINDOW
    further = FURTHER
    pause_s = math.inf
    """The longest that two harms are apart, in seconds."""
    still_s = STILL_S
    quiet_s = 0.0
    """So long the broker has nothing to do before the workers end: what is still on its way on a link arrives."""

    def __init__(
        self, folder: Path, prefix: str, broker: Broker, harms: Harms, chance: random.Random, seed: int
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.harms = harms
        self.chance = chance
        self._prefix = prefix
        self._seed = seed
        self._seen = 0  # bytes in the pipe: effects, and those that a repeated run found to be there
        self._granted = 0
        self._moved_at = math.inf  # when an effect was last seen
        self._harmed_at = math.inf  # since when there is harm
        self._busy_at = math.inf  # when the broker last had anything to do
        self._pipe, self._write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        self._recorder = Recorder(folder, "driver/1", **FACTS, workers=len(WORKERS))
        harms.begin(self._recorder)
        self.workers = [self._worker(name, program) for name, program in WORKERS.items()]
        self.producers = [self._producer(name, program) for name, program in PRODUCERS.items()]
        self.places: list[Place] = [broker, *self.workers, *self.producers]
        self.lasting: dict[Any, tuple[float, Callable[[], None]]] = {}
        """What lasts: until which monotonic time, and how it is undone. Of a stopped process the key is its place."""

    def _worker(self, name: str, program: str) -> Program:
        def facts(who: str) -> dict[str, Any]:
            return self._facts(name, who=who, pipe=self._write_end)

        log, environment = self.folder / f"{name}.log", {"BANK": str(self.folder / BANK)}
        return Program(
            name,
            program,
            log,
            self.harms,
            facts,
            enter=self.enter(name),
            environment=environment,
            pass_fds=(self._write_end,),
        )

    def _producer(self, name: str, program: str) -> Program:
        def facts(who: str) -> dict[str, Any]:
            facts = self._facts(name, who=who, name=name, prefix=self._prefix, seed=self._seed)
            return facts | self.facts_of_producers()

        return Program(name, program, self.folder / f"{name}.log", self.harms, facts, enter=self.enter(name))

    def _facts(self, place: str, **facts: Any) -> dict[str, Any]:
        return {"endpoint": self.endpoint_of(place), "folder": str(self.folder), **facts}

    def endpoint_of(self, name: str) -> str:
        """Where the process at this place finds the broker."""
        return self.broker.endpoint

    def enter(self, name: str) -> list[str]:
        """What stands before the command of the process at this place."""
        return []

    def facts_of_producers(self) -> dict[str, Any]:
        """Further arguments of producers."""
        return {}

    # ---- a bout

    def run(self, is_over: Callable[[], bool]) -> Came:
        """Harm until it is over, then drain and judge; the broker is killed at the end."""
        began, began_at = time.monotonic(), datetime.now(UTC)
        for place in self.places:
            place.start()
        self._moved_at = time.monotonic()
        with Client(self.broker.control, timeout=60) as client:
            eventually(lambda: self.look_for_ends() or self._answers(client), within=DRAIN_S)
            for queue, policy in POLICIES.items():
                client.set_queue(queue, **policy)
            before = _totals(client)
            self._grant(always=True)
            self.await_effects(CALM, math.inf)
            self._harmed_at = time.monotonic()
            while not is_over():
                self.harm()
                self.await_effects(self.chance.choice(self.further), self.pause_s)
            self._drain(client)
            self._note_ends(client, began_at - EARLIER)
            counts = _totals(client) - before
            self._drop_dead(client)
        harms = self.harms.counts.copy()
        self.broker.abandon()
        self._recorder.close()
        report = self.judge()
        told = [] if report.is_clean else report.lines()
        for state in OVER:
            if counts[state] != report.counts[state]:
                told.append(f"the broker counts {counts[state]} {state}, and tells of {report.counts[state]}")
        if told:
            raise Failed("\n".join(told))
        return Came(harms, report, time.monotonic() - began)

    def judge(self) -> Report:
        """What came of it, from the histories of all."""
        return check(self.folder)

    @property
    def harmed_s(self) -> float:
        """For how long harm has been done."""
        return time.monotonic() - self._harmed_at

    def abandon(self) -> None:
        """Nothing of it outlives this."""
        for place in self.places:
            place.abandon()
        os.close(self._pipe)
        os.close(self._write_end)

    # ---- harm

    def harm(self) -> None:
        """Kill one, or several at once, and start them again; or stop a worker for a while."""
        places = [place for place in self.places if place is not self.broker or self.may_kill_broker()]
        chance = self.chance.random()
        if chance < 0.15:
            self.stop(self.chance.choice(self.workers), self.chance.choice(STOPPED_S))
        elif chance < 0.3:
            self.kill(self.chance.sample(places, self.chance.randint(2, len(places))))
        else:
            running = [place for place in places if place not in self.lasting]
            weights = [4 if place is self.broker else 2 for place in running]
            self.kill(self.chance.choices(running, weights))

    def may_kill_broker(self) -> bool:
        """One that starts gives everybody a new lease: while a lease is to run out, it is spared."""
        return not self.lasting

    def stop(self, place: Place, seconds: float) -> None:
        """Have it stand still so long, where it holds no lock that all the others wait for."""
        for _ in range(STOPS if place not in self.lasting else 0):
            place.stop()
            seen, until = self._seen, time.monotonic() + MOVING_S
            while self._seen == seen and time.monotonic() < until:
                self._look(until)
            if self._seen > seen or place is self.broker:
                self.lasting[place] = (time.monotonic() + seconds, place.go_on)
                return
            place.go_on()

    def kill(self, places: list[Place]) -> None:
        """kill -9, all at once, and start them again."""
        self.look_for_ends()
        for place in places:
            place.kill()
        for place in places:
            place.reap()
            self.lasting.pop(place, None)
        for place in places:
            place.start()
        self._grant(always=True)

    def end_broker(self) -> None:
        """It ends in peace, unless it is told so before it has begun to listen to that."""
        self.look_for_ends()
        code = self.broker.end()
        if code not in (0, -signal.SIGTERM):
            raise Failed(f"{self.broker.who} ended with {code}:\n{self.broker.last_words()}")

    def undo(self, *, all_of_it: bool = False) -> None:
        """Undo what has lasted long enough."""
        now = time.monotonic()
        for key, (until, step) in list(self.lasting.items()):
            if all_of_it or now >= until:
                del self.lasting[key]
                step()

    def revive(self) -> None:
        """Start again who may have ended by itself: nobody, here."""

    def look_for_ends(self) -> None:
        """Raises `Failed` if somebody ended by itself."""
        self.revive()
        for place in self.places:
            if place.has_ended():
                raise Failed(f"{place.who} ended by itself, with {place.process.returncode}:\n{place.last_words()}")

    # ---- effects

    def await_effects(self, further: int, within_s: float) -> None:
        """Return when so many more were seen, or after so many seconds."""
        wanted = self._seen + further
        end = time.monotonic() + within_s
        while self._seen < wanted:
            self.undo()
            now = time.monotonic()
            if now >= end:
                return
            if now >= self._moved_at + self.still_s:
                raise Failed(f"nothing is done any more\n{self._what_is_left()}")
            if self._look(min([now + LOOK_S, end, *(until for until, _ in self.lasting.values())])):
                self._grant()
            elif time.monotonic() - now >= LOOK_S:
                self.look_for_ends()

    def _look(self, until: float) -> bool:
        """Count the effects of now, or the first that come until this monotonic time; whether there were any."""
        came = select.select([self._pipe], [], [], max(until - time.monotonic(), 0))[0]
        if came:
            self._seen += len(os.read(self._pipe, 65536))
            self._moved_at = time.monotonic()
        return bool(came)

    def _grant(self, *, always: bool = False) -> None:
        """Tell the producers how many jobs they may have confirmed by now."""
        if always or self._seen - self._granted >= 50:
            self._granted = self._seen
            for producer in self.producers:
                producer.say(str((self._granted + self.window) // len(self.producers)))

    # ---- the end

    def _drain(self, client: Client) -> None:
        """No more jobs, no more harm: everything that was stored is over, and everybody ends in peace."""
        self.undo(all_of_it=True)
        try:
            eventually(lambda: self._answers(client), within=DRAIN_S)
        except Missing:
            raise Failed(f"the broker does not answer\n{self.broker.last_words()}") from None
        for place in self.producers:
            self._end(place)
        self._busy_at = time.monotonic()
        try:
            eventually(lambda: self._is_quiet(client), within=DRAIN_S)
        except Missing:
            raise Failed(f"after {DRAIN_S} s without harm not all is done\n{self._what_is_left()}") from None
        for place in self.workers:
            self._end(place)
        if any(_waiting(client).values()):
            raise Failed(f"the workers gave something back at their end: {_waiting(client)}")

    def _answers(self, client: Client) -> bool:
        self.revive()
        try:
            client.stats(timeout=1)
        except ZError:
            return False
        return True

    def _is_quiet(self, client: Client) -> bool:
        if any(_waiting(client).values()):
            self._busy_at = time.monotonic()
            return False
        return time.monotonic() >= self._busy_at + self.quiet_s

    def _note_ends(self, client: Client, since: datetime) -> None:
        """What the broker says of all jobs of this bout, and what is in the handler's database."""
        note = self._recorder.note
        for queue in QUEUES:
            for state in OVER:
                for status in client.jobs(queue, state=state, since=since, limit=None, timeout=60):
                    if status.id.startswith(self._prefix):
                        note(r.FINAL, status.id, status.state, status.fence or 0, status.attempts, status.reason)
        with closing(sqlite3.connect(self.folder / BANK)) as bank:
            for job, amount, fence in bank.execute("SELECT job, amount, fence FROM entries"):
                note(r.EFFECT, job, fence, amount)

    def _drop_dead(self, client: Client) -> None:
        """Nothing is left in the broker but history: exactly zero."""
        for queue in QUEUES:
            client.drop(queue=queue)
        try:
            eventually(lambda: not any(queue["dead"] for queue in client.queues()))
        except Missing:
            raise Failed("the dead were dropped, and are there") from None

    def _what_is_left(self) -> str:
        """What the broker still has, the stories of jobs that should be over, and the ends of all logs."""
        try:
            told = self._left()
        except ZError as error:
            told = [f"the broker does not answer: {error!r}"]
        return "\n".join([*told, *(f"{place.who}:\n{place.last_words()}" for place in self.places)])

    def _left(self) -> list[str]:
        with Client(self.broker.control) as client:
            left = [status for queue in QUEUES for status in client.jobs(queue) if not status.is_over]
            told = [f"the broker has {_waiting(client)}"]
        told += [str(status) for status in left[:TOLD_JOBS]]
        return told + stories_of(self.folder, {status.id for status in left[:TOLD_JOBS]})

    def _end(self, place: Program) -> None:
        code = place.end()
        if code:
            raise Failed(f"{place.who} ended with {code}:\n{place.last_words()}")


def _totals(client: Client) -> Counter[str]:
    """Jobs that were over since the queues were made, by their end, as the broker counts them."""
    queues = client.queues()
    return Counter({state: sum(queue["totals"][total] for queue in queues) for state, total in OVER.items()})


def _waiting(client: Client) -> dict[str, int]:
    """Jobs that are not over, by state."""
    states = ("scheduled", "blocked", "ready", "leased")
    return {state: sum(queue[state] for queue in client.queues()) for state in states}
