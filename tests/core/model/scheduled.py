"""The model of schedules: which occurrences get a job, told by counting seconds.

It knows of each schedule when it fires, by a rule that is looked at second by second, and what became of the jobs
that it made. In every turn that the broker takes, the jobs that come are compared with those that should.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core.harness import Bench, Peer
from zbroker import limits
from zbroker.calendar import Calendar
from zbroker.core import rows
from zbroker.core.core import Core
from zbroker.core.schedules import Schedule
from zbroker.core.states import State
from zclient.protocol import messages as m

SECOND = 1000
ON_TIME = 60 * SECOND
DAY = 24 * 3600 * SECOND
NAMES = ("a", "b", "c")
QUEUES = ("q", "r")
CRONS = {"*/10 * * * * *": 10, "* * * * *": 60, "*/7 * * * *": 0}
"""Expression -> every how many seconds of the day, or 0 where it is by minutes of the hour."""
INTERVALS = (SECOND, 7 * SECOND, 45 * SECOND, 300 * SECOND)
CRASHES = st.sampled_from([""] * 6 + ["before commit", "before send"])
PAUSES = st.sampled_from([1, 700, 1000, 3000, 10_000, 61_000])
ABSENCES = st.sampled_from([0, 999, 30_000, 60_000, 60_001, 150_000, 3_600_000])
OVERLAPS = st.sampled_from(["allow", "skip", "queue_one"])


@dataclass(frozen=True)
class Rule:
    """A schedule as the model has it. Times are Unix ms."""

    cron: str
    every: int
    queue: str
    overlap: str
    catch_up: str
    most: int
    begun: int
    looked: int  # occurrences up to this time are over
    paused: bool = False
    last: bytes = b""  # the job of the last occurrence that got one
    run: bytes = b""  # of the last run that somebody asked for
    jobs: int = 0
    skipped: int = 0

    def fires(self, at: int) -> bool:
        if self.every:
            return (at - self.begun) % self.every == 0
        if at % SECOND:
            return False
        if CRONS[self.cron]:
            return at // SECOND % CRONS[self.cron] == 0
        return at // SECOND % 60 == 0 and at // (60 * SECOND) % 60 % 7 == 0

    def occurrences(self, until: int) -> list[int]:
        """Those that are not over, up to a time, oldest first."""
        first = self.begun if self.every else self.looked // SECOND * SECOND
        return [at for at in range(first, until + 1, SECOND) if at > max(self.looked, self.begun) and self.fires(at)]

    def wanted(self, until: int) -> list[int]:
        """Those of them that are to get a job: all on time, and of the missed ones as the schedule says."""
        due = self.occurrences(until)
        on_time = [at for at in due if at >= until - ON_TIME]
        missed = [at for at in due if at < until - ON_TIME]
        if self.catch_up == "none":
            return on_time
        if self.catch_up == "one":
            return on_time or missed[-1:]
        return missed[-self.most :] + on_time


class WatchedBench(Bench):
    """Calls ``committed`` when a turn's rows are written, those of a start too."""

    machine: Scheduled | None = None

    def turn(self, messages: Iterable[tuple[bytes, m.Message]] = (), **how: Any) -> None:
        super().turn(messages, **how)
        if self.machine is not None and how.get("ends") != "before commit":
            self.machine.committed(self.core)

    def _open(self) -> Core:
        core = super()._open()
        if self.machine is not None:
            self.machine.committed(core)
        return core


class Scheduled(RuleBasedStateMachine):
    """One broker with a calendar, three names for schedules, one worker that works when it likes."""

    @initialize(seed=st.integers(0, 3), slow=st.booleans())
    def start(self, seed: int, slow: bool) -> None:
        self.patch = pytest.MonkeyPatch()
        if slow:
            self.patch.setattr(limits, "TURN_TIMERS", 1)
        self.bench = WatchedBench(calendar=Calendar(), policy={"lease_ms": DAY, "max_attempts": 2}, seed=seed)
        self.rules: dict[str, Rule] = {}
        self.closed: set[str] = set()
        self.made: set[bytes] = set()  # ids of all jobs that ever came
        self.states: dict[bytes, State] = {}  # of the jobs that were there after the last turn
        self.asked: bytes = b""  # the job of a run that somebody asked for in this turn
        self.person = Peer(self.bench, "person", (), 0)
        self.worker = Peer(self.bench, "worker", QUEUES, 2)
        self.bench.machine = self
        self.meet()

    def meet(self) -> None:
        """They connect, and the worker knows nothing of what it was sent before."""
        self.held: list[tuple[bytes, int]] = []
        self.worker.inbox.clear()
        self.person.connect()
        self.worker.connect()

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    # ---- every turn

    def jobs(self) -> set[bytes]:
        return {key for key, _ in self.bench.store.scan("jobs", b"", b"\xff" * 70)}

    def committed(self, core: Core) -> None:
        """The jobs that came are those that should have, of the schedules that were looked at."""
        expected = {self.asked} if self.asked else set()
        self.asked = b""
        for name, value in self.bench.store.scan("schedules", b"", b"\xff"):
            row = Schedule(*rows.unpack(value))
            before = self.rules.get(name.decode())
            if before is None or before.paused or not before.occurrences(self.bench.wall):
                continue
            if row.next_ms <= self.bench.wall:
                continue  # not yet: a turn does not do more than so much
            after = self.fired(name.decode(), before, expected)
            self.rules[name.decode()] = after
        there = self.jobs()
        came = there - self.states.keys()
        assert came == expected
        assert not came & self.made, "an occurrence has one job"
        self.made |= came
        self.states = {identifier: found.state for identifier in there if (found := core.state.find(identifier))}

    def fired(self, name: str, one: Rule, expected: set[bytes]) -> Rule:
        """The schedule after its occurrences up to now; their jobs are put into ``expected``."""
        states = dict(self.states)
        for at in one.wanted(self.bench.wall):
            identifier = f"{name}@{at}".encode()
            before = {states.get(job) for job in (one.last, one.run) if job} - {None, State.DEAD}
            hinders = before if one.overlap == "skip" else before - {State.LEASED}
            if one.queue in self.closed or (one.overlap != "allow" and hinders):
                one = replace(one, skipped=one.skipped + 1)
                continue
            expected.add(identifier)
            states[identifier] = State.READY
            one = replace(one, last=identifier, jobs=one.jobs + 1)
        return replace(one, looked=self.bench.wall)

    # ---- people

    def order(self, verb: str, crash: str, **arguments: Any) -> bool:
        """Whether it is applied."""
        number = self.person.next_number()
        message = m.Order(number, number, verb, arguments)
        if crash:
            self.bench.turn([(self.person.route, message)], ends=crash)
            self.crash()
            return crash == "before send"
        self.person.send(message)
        self.person.value_of(number)
        return True

    @rule(
        name=st.sampled_from(NAMES),
        queue=st.sampled_from(QUEUES),
        when=st.one_of(st.sampled_from(sorted(CRONS)), st.sampled_from(INTERVALS)),
        overlap=OVERLAPS,
        catch_up=st.sampled_from(["none", "one", "all"]),
        most=st.sampled_from([1, 3, 100]),
        crash=CRASHES,
    )
    def put(self, name: str, queue: str, when: str | int, overlap: str, catch_up: str, most: int, crash: str) -> None:
        told: dict[str, Any] = {"name": name, "queue": queue, "payload": b"p", "overlap": overlap}
        told |= {"catch_up": catch_up, "catch_up_limit": most}
        told |= {"cron": when} if isinstance(when, str) else {"every": when}
        at, before = self.bench.wall, self.rules.get(name)
        if not self.order("set_schedule", crash, **told):
            return
        cron, every = (when, 0) if isinstance(when, str) else ("", when)
        begun, looked = at, at
        if before is not None and (before.cron, before.every) == (cron, every):
            begun = before.begun
            looked = at if before.paused else before.looked
        past = replace(before, paused=False) if before is not None else Rule("", 0, "", "", "", 0, 0, 0)
        self.rules[name] = replace(
            past,
            cron=cron,
            every=every,
            queue=queue,
            overlap=overlap,
            catch_up=catch_up,
            most=most,
            begun=begun,
            looked=looked,
        )

    @precondition(lambda self: self.rules)
    @rule(data=st.data(), verb=st.sampled_from(["pause", "resume", "remove", "run", "run"]), crash=CRASHES)
    def change(self, data: Any, verb: str, crash: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.rules)))
        one, at = self.rules[name], self.bench.wall
        if verb == "run":
            self.run(name, crash)
        elif not self.order(f"{verb}_schedule", crash, name=name):
            return
        elif verb == "remove":
            del self.rules[name]
        elif one.paused != (verb == "pause"):
            self.rules[name] = replace(one, paused=verb == "pause", looked=at)

    def run(self, name: str, crash: str) -> None:
        one, at = self.rules[name], self.bench.wall
        while f"{name}@{at}.run".encode() in self.made:
            at += 1
        identifier = f"{name}@{at}.run".encode()
        if one.queue in self.closed:
            number = self.person.next_number()
            failure = self.person.refused(m.Order(number, number, "run_schedule", {"name": name}))
            assert failure.code == "closed"
            return
        self.asked = identifier if crash != "before commit" else b""
        if self.order("run_schedule", crash, name=name):
            self.rules[name] = replace(self.rules[name], run=identifier, jobs=one.jobs + 1)

    @rule(queue=st.sampled_from(QUEUES), verb=st.sampled_from(["drain", "resume", "resume"]), crash=CRASHES)
    def open_or_close(self, queue: str, verb: str, crash: str) -> None:
        if queue not in self.bench.core.state.queues:
            return
        if self.order(verb, crash, queue=queue):
            (self.closed.add if verb == "drain" else self.closed.discard)(queue)

    # ---- work

    @precondition(lambda self: self.held)
    @rule(data=st.data(), outcome=st.sampled_from([m.Outcome.ACK, m.Outcome.ACK, m.Outcome.NACK, m.Outcome.REJECT]))
    def settle(self, data: Any, outcome: m.Outcome) -> None:
        place = data.draw(st.integers(0, len(self.held) - 1))
        identifier, fence = self.held.pop(place)
        assert self.worker.settle(outcome, fence, identifier.decode()) == []

    # ---- time

    @rule(ms=PAUSES)
    def wait(self, ms: int) -> None:
        self.bench.advance(ms)

    @rule(ms=ABSENCES, crash=CRASHES)
    def be_away(self, ms: int, crash: str) -> None:
        """The broker is down for a while, or its turn comes that late, and then it may die in it."""
        self.bench.wall += ms
        if crash:
            self.bench.turn(ends=crash)
        self.crash()

    def crash(self) -> None:
        self.bench.crash()
        self.meet()

    # ---- what holds

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.held += [(identifier.encode(), fence) for identifier, fence in self.worker.jobs()]
        told = {row["name"]: row for row in self.person.ask("schedules")}
        assert told.keys() == self.rules.keys()
        for name, one in self.rules.items():
            row = told[name]
            assert (row["jobs"], row["skipped"]) == (one.jobs, one.skipped), name
            assert one.paused or not one.occurrences(self.bench.wall), "what is due was looked at"
            assert (row["next_at"] is None) == one.paused
            if not one.paused:
                assert one.occurrences(row["next_at"]) == [row["next_at"]], name
        self.bench.check()
