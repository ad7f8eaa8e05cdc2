"""The kill loop: producers, workers and a broker under load, one after another killed and started again.

It owns whom to kill and when: by a seed, and after so many further effects were seen, never after a time. Each *bout*
of kills ends with a drain to zero, the verdict over its jobs, and a check of the broker's data. What must be true of a
job stands in ``verdict``, what the processes do in ``programs``.
"""

import os
import random
import select
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.kill_loop.ledger import BANK, Ledger, make_notes, read_ledger
from tests.kill_loop.processes import Broker, Place, Program
from tests.kill_loop.verdict import Kill, Verdict, history, judge
from tests.kill_loop.work import QUEUES, amount_of
from tests.system.processes import Missing, eventually
from zbroker.check import check_directory
from zbroker.storage import StoreError
from zclient import Client, ZError

WINDOW = 2000
"""Jobs that producers may be ahead of the effects: enough that there is always work, few enough to drain soon."""

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
"""Jobs whose history a report tells."""

OPTIONS = (
    *("--grace", "200ms", "--return-time", "3s", "--lease", "2s", "--backoff-min", "10ms", "--backoff-max", "100ms"),
    *("--max-attempts", "10000", "--poison-losses", "1000"),  # no job dies of what is done to it here
)

WORKERS = {"threads": "worker_threads", "coroutines": "worker_coroutines", "consumer": "consumer"}
PRODUCERS = {"sender": "producer_threads", "gatherer": "producer_coroutines"}


class Failed(AssertionError):
    """A promise was broken; the text tells how to do it again, and what happened."""


class Bout(NamedTuple):
    """What a bout came to."""

    kills: dict[str, int]  # by name
    stops: int
    verdict: Verdict
    seconds: float


def run_bouts(folder: Path, rounds: int, seed: int, store: str = "rocksdb", kills_each: int = 50) -> Iterator[Bout]:
    """So many kills, in bouts, on one data directory. Raises `Failed`; the folder then has the data and all logs."""
    chance = random.Random(seed)
    kills: list[Kill] = []
    broker = Broker(folder / "broker.log", kills, folder / "data", [*OPTIONS, "--store", store])
    for number, before in enumerate(range(0, rounds, kills_each)):
        place = folder / f"bout-{number:04d}"
        place.mkdir()
        bout = _Bout(place, f"b{number:04d}x", broker, kills, chance, seed)
        try:
            told = bout.run(min(kills_each, rounds - before))
            _check(folder / "data")
        except (Failed, Missing) as failure:
            again = f"make kill-loop ROUNDS={rounds} SEED={seed} STORE={store}"
            raise Failed(f"{again}\nin bout {number}, with everything in {folder}\n{failure}") from None
        finally:
            bout.abandon()
        shutil.rmtree(place)
        kills.clear()
        yield told


def _check(data: Path) -> None:
    try:
        faults = check_directory(data).faults
    except StoreError as error:
        faults = [str(error)]
    if faults:
        raise Failed("\n".join(["zbroker check finds:", *faults]))


class _Bout:
    """One bout: its processes, its kills, and how many effects were seen."""

    def __init__(
        self, folder: Path, prefix: str, broker: Broker, kills: list[Kill], chance: random.Random, seed: int
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._broker = broker
        self._kills = kills
        self._chance = chance
        self._seed = seed
        self._seen = 0  # bytes in the pipe: effects, and those that a repeated run found to be there
        self._granted = 0
        self._counted = 0
        self._pipe, self._write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        self._workers = [self._worker(name, program) for name, program in WORKERS.items()]
        self._producers = [self._producer(name, program) for name, program in PRODUCERS.items()]
        self._places: list[Place] = [broker, *self._workers, *self._producers]
        self._until: dict[Place, float] = {}  # the stopped: until this monotonic time
        make_notes(folder)

    def _worker(self, name: str, program: str) -> Program:
        def facts(who: str) -> dict[str, Any]:
            return self._facts(who=who, pipe=self._write_end)

        log, environment = self._folder / f"{name}.log", {"BANK": str(self._folder / BANK)}
        return Program(name, program, log, self._kills, facts, environment=environment, pass_fds=(self._write_end,))

    def _producer(self, name: str, program: str) -> Program:
        def facts(who: str) -> dict[str, Any]:
            return self._facts(who=who, name=name, prefix=self._prefix, seed=self._seed)

        return Program(name, program, self._folder / f"{name}.log", self._kills, facts)

    def _facts(self, **facts: Any) -> dict[str, Any]:
        return {"endpoint": self._broker.endpoint, "folder": str(self._folder), **facts}

    # ---- a bout

    def run(self, kills: int) -> Bout:
        """All of it; the broker is killed at its end."""
        began = time.monotonic()
        for place in self._places:
            place.start()
        with Client(self._broker.endpoint, timeout=60) as client:
            before = _done(client)
            self._grant(always=True)
            self._await_effects(20)
            while sum(kill.what == "killed" for kill in self._kills) < kills:
                self._harm()
                self._await_effects(self._chance.choice(FURTHER))
            self._drain(client)
            ledger = read_ledger(self._folder, client, QUEUES, self._prefix)
            done = _done(client) - before
        self._broker.abandon()
        verdict = judge(ledger, self._kills, {job: amount_of(job) for job in ledger.sent})
        self._raise_faults(ledger, verdict, done)
        killed = [kill.who.partition("/")[0] for kill in self._kills if kill.what == "killed"]
        stops = sum(kill.what == "stopped" for kill in self._kills)
        counts = {place.name: killed.count(place.name) for place in self._places}
        return Bout(counts, stops, verdict, time.monotonic() - began)

    def abandon(self) -> None:
        """Nothing of it outlives this."""
        for place in self._places:
            place.abandon()
        os.close(self._pipe)
        os.close(self._write_end)

    # ---- harm

    def _harm(self) -> None:
        """Kill one, or several at once, and start them again; or stop a worker for a while."""
        # A broker that starts gives everybody a new lease: while a lease is to run out, it is spared.
        places = [place for place in self._places if not (self._until and place is self._broker)]
        chance = self._chance.random()
        if chance < 0.15:
            self._stop(self._chance.choice(self._workers), self._chance.choice(STOPPED_S))
        elif chance < 0.3:
            self._kill(self._chance.sample(places, self._chance.randint(2, len(places))))
        else:
            running = [place for place in places if place not in self._until]
            weights = [4 if place is self._broker else 2 for place in running]
            self._kill(self._chance.choices(running, weights))

    def _stop(self, place: Place, seconds: float) -> None:
        """Have it stand still so long, where it holds no lock that all the others wait for."""
        for _ in range(STOPS if place not in self._until else 0):
            place.stop()
            seen, until = self._seen, time.monotonic() + MOVING_S
            while self._seen == seen and time.monotonic() < until:
                self._look(until)
            if self._seen > seen:
                self._until[place] = time.monotonic() + seconds
                return
            place.go_on()

    def _kill(self, places: list[Place]) -> None:
        self._look_for_ends()
        for place in places:
            place.kill()
        for place in places:
            place.reap()
            self._until.pop(place, None)
        for place in places:
            place.start()
        self._grant(always=True)

    def _look_for_ends(self) -> None:
        for place in self._places:
            if place.has_ended():
                raise Failed(f"{place.who} ended by itself, with {place.process.returncode}:\n{place.last_words()}")

    def _go_on(self, *, all_of_them: bool = False) -> None:
        """Let those go on whose time has come."""
        now = time.monotonic()
        for place, until in list(self._until.items()):
            if all_of_them or now >= until:
                del self._until[place]
                place.go_on()

    # ---- effects

    def _await_effects(self, further: int) -> None:
        """Return when so many more were seen."""
        wanted = self._seen + further
        still_until = time.monotonic() + STILL_S
        while self._seen < wanted:
            self._go_on()
            now = time.monotonic()
            if now >= still_until:
                raise Failed(f"nothing is done any more\n{self._what_is_left()}")
            if self._look(min([now + LOOK_S, *self._until.values()])):
                still_until = time.monotonic() + STILL_S
                self._grant()
            elif time.monotonic() - now >= LOOK_S:
                self._look_for_ends()

    def _look(self, until: float) -> bool:
        """Count the effects of now, or the first that come until this monotonic time; whether there were any."""
        came = select.select([self._pipe], [], [], max(until - time.monotonic(), 0))[0]
        if came:
            self._seen += len(os.read(self._pipe, 65536))
        return bool(came)

    def _grant(self, *, always: bool = False) -> None:
        """Tell the producers how many jobs they may have confirmed by now."""
        if self._seen and (always or self._seen - self._counted >= 50):
            self._counted = self._seen
            with closing(sqlite3.connect(self._folder / BANK, timeout=60)) as bank:
                (effects,) = bank.execute("SELECT count(*) FROM entries").fetchone()
            self._granted = effects
        elif not always:
            return
        for producer in self._producers:
            producer.say(str((self._granted + WINDOW) // len(self._producers)))

    # ---- the end

    def _drain(self, client: Client) -> None:
        """No more jobs, no more harm: everything that was stored is done, and everybody ends in peace."""
        self._go_on(all_of_them=True)
        for place in self._producers:
            self._end(place)
        try:
            eventually(lambda: not any(_waiting(client).values()), within=DRAIN_S)
        except Missing:
            raise Failed(f"after {DRAIN_S} s without harm not all is done\n{self._what_is_left()}") from None
        for place in self._workers:
            self._end(place)
        if any(_waiting(client).values()):
            raise Failed(f"the workers gave something back at their end: {_waiting(client)}")

    def _what_is_left(self) -> str:
        """What the broker still has, the histories of jobs that should be done, and the ends of all logs."""
        try:
            told = self._left()
        except ZError as error:
            told = [f"the broker does not answer: {error!r}"]
        return "\n".join([*told, *(f"{place.who}:\n{place.last_words()}" for place in self._places)])

    def _left(self) -> list[str]:
        with Client(self._broker.endpoint) as client:
            ledger = read_ledger(self._folder, client, QUEUES, self._prefix)
            left = [status for queue in QUEUES for status in client.jobs(queue) if not status.is_over]
            told = [f"the broker has {_waiting(client)}"]
        for status in left[:TOLD_JOBS]:
            told += [history(status.id, ledger, self._kills), f"  {status}"]
        listed = {status.id for status in left}
        missing = [job for job in ledger.sent if job not in ledger.ends and job not in listed]
        return told + [history(job, ledger, self._kills) for job in missing[:TOLD_JOBS]]

    def _end(self, place: Program) -> None:
        code = place.end()
        if code:
            raise Failed(f"{place.who} ended with {code}:\n{place.last_words()}")

    def _raise_faults(self, ledger: Ledger, verdict: Verdict, done: int) -> None:
        told = []
        if done != len(ledger.effects):
            told.append(f"the broker counts {done} jobs done, and {len(ledger.effects)} have an effect")
        told += [f"job {fault.job}: {fault.what}" for fault in verdict.faults[: 4 * TOLD_JOBS]]
        if len(verdict.faults) > 4 * TOLD_JOBS:
            told.append(f"... and {len(verdict.faults) - 4 * TOLD_JOBS} more")
        jobs = dict.fromkeys(fault.job for fault in verdict.faults)
        told += [history(job, ledger, self._kills) for job in list(jobs)[:TOLD_JOBS]]
        if told:
            raise Failed("\n".join(told))


def _done(client: Client) -> int:
    """Jobs that were done since the queues were made, as the broker counts them."""
    return sum(queue["totals"]["done"] for queue in client.queues())


def _waiting(client: Client) -> dict[str, int]:
    """Jobs that are not done, by state."""
    states = ("scheduled", "blocked", "ready", "leased", "dead")
    return {state: sum(queue[state] for queue in client.queues()) for state in states}
