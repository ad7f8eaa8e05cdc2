"""What must be true of every job whatever was done to whom, and the story of a job of which it is not.

It is given all records of one job and the `World`; it reads no file. The rules stand in `faults_of`, one after the
other. The names follow Jepsen's total-queue checker (Kingsbury: https://github.com/jepsen-io/jepsen, `checker.clj`):
what was confirmed and is not there is lost, what is there and was never sent is invented, what ran more than once is
duplicated, and what was left unknown and is there is recovered.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from tests.history import records as r
from tests.history.records import Record
from tests.history.world import AFTER_US, BROKER, DELIVERED_US, World
from zclient.protocol.messages import Outcome

EPOCH_BITS = 32
"""The upper part of a fence is the epoch: how often the broker was started."""

GIVEN_BACK = (Outcome.RELEASE, Outcome.SNOOZE)
ENDS = (Outcome.ACK, Outcome.REJECT)


class Fault(NamedTuple):
    """A promise that was broken. ``name`` is one of `NAMES`; ``what`` is for people."""

    name: str
    job: str
    what: str


NAMES = (
    *("lost", "invented", "unfinished", "refused and stored"),
    *("effect lost", "effect doubled", "effect changed", "effect of nobody"),
    *("fence twice", "late start", "repeated", "taken", "run after its end", "overlap", "more than once"),
    *("attempts", "dead early", "dead late", "end of nobody", "cancelled"),
    *("order", "together"),
)


class Run:
    """One run of a job: what its worker noted of it. Times are monotonic microseconds; None: it did not happen."""

    __slots__ = ("accepted", "at", "attempt", "fence", "lost_at", "outcome", "settled_at", "starts", "valid_at", "who")

    def __init__(self, fence: int) -> None:
        self.fence = fence
        self.starts = 0
        self.at = 0
        self.attempt = 0
        self.who = -1
        self.settled_at: int | None = None
        self.outcome = 0
        self.accepted: bool | None = None
        self.valid_at: int | None = None
        self.lost_at: int | None = None

    @property
    def valid_until(self) -> int | None:
        """Until when its lease was valid for certain, from its beginning on: a settlement that counted proves it, and
        so does a question that was answered. None: nothing is proved, not even at its beginning."""
        until = self.valid_at
        if self.accepted and self.settled_at is not None:
            until = max(until or 0, self.settled_at)
        return until

    @property
    def is_done(self) -> bool:
        return bool(self.accepted) and self.outcome == Outcome.ACK

    @property
    def is_over(self) -> bool:
        """Whether the job was over with it."""
        return bool(self.accepted) and self.outcome in ENDS


class Effect(NamedTuple):
    """One entry in the handler's own database."""

    fence: int
    value: object


class Final(NamedTuple):
    """What the broker says of a job at the end."""

    state: str
    fence: int
    attempts: int
    reason: str | None


class Told:
    """All that was noted of one job, sorted out. ``runs`` are in the order of their fences."""

    __slots__ = (
        *("answered", "cancel_answered_at", "cancel_at", "confirmed_at", "effects", "failed", "final", "job", "key"),
        *("options", "priority", "queue", "returned", "runs", "sends", "sent_at", "unknown"),
    )

    def __init__(self, job: str, records: list[Record]) -> None:
        """``records`` are in the order of time, each with the number of its process at its end."""
        self.job = job
        self.sends = self.failed = self.unknown = 0
        self.sent_at = 0
        self.queue, self.key, self.priority, self.options = "", None, 0, {}
        self.confirmed_at: int | None = None
        self.cancel_at: int | None = None
        self.cancel_answered_at: int | None = None
        self.effects: list[Effect] = []
        self.final: Final | None = None
        self.returned = 0  # deliveries that were settled and never ran
        runs: dict[int, Run] = {}
        for record in records:
            kind = record[0]
            if kind == r.SEND:
                if not self.sends:
                    self.sent_at = record[1]
                    self.queue, self.key, self.priority, options = record[3:7]
                    self.options = options or {}
                self.sends += 1
            elif kind == r.CONFIRMED:
                if self.confirmed_at is None:
                    self.confirmed_at = record[1]
            elif kind == r.UNKNOWN:
                self.unknown += 1
            elif kind == r.FAILED:
                self.failed += 1
            elif kind == r.EFFECT:
                self.effects.append(Effect(record[3], record[4]))
            elif kind == r.ORDER:
                self._order(record)
            elif kind == r.FINAL:
                self.final = Final(*record[3:7])
            else:
                fence = record[3]
                run = runs.get(fence)
                if run is None:
                    run = runs[fence] = Run(fence)
                _note(run, kind, record)
        self.returned = sum(not run.starts for run in runs.values())
        self.runs = sorted((run for run in runs.values() if run.starts), key=lambda run: run.fence)

    def _order(self, record: Record) -> None:
        if record[3] == "cancel":
            if record[4] is None:
                if self.cancel_at is None:
                    self.cancel_at = record[1]
            elif record[4] and self.cancel_answered_at is None:
                self.cancel_answered_at = record[1]

    @property
    def exists(self) -> bool:
        """Whether anything is known to have come of it."""
        return bool(self.runs or self.effects or self.final)


def _note(run: Run, kind: int, record: Record) -> None:
    at = record[1]
    if kind == r.START:
        run.starts += 1
        if run.starts == 1:
            run.at, run.attempt, run.who = at, record[4], record[-1]
    elif kind == r.SETTLE:
        if run.settled_at is None:
            run.settled_at, run.outcome = at, record[4]
    elif kind == r.ANSWER:
        # Settled again, it may be refused for what was counted the first time; counted once, it is counted.
        run.accepted = bool(run.accepted) or record[4]
    elif kind == r.VALID:
        run.valid_at = at
    elif run.lost_at is None:
        run.lost_at = at


def faults_of(told: Told, world: World) -> Iterator[Fault]:
    """What is wrong with one job."""
    for name, what in (*_of_existence(told, world), *_of_effects(told, world), *_of_runs(told, world)):
        yield Fault(name, told.job, what)
    if told.final is not None:
        for name, what in _of_end(told, told.final, world):
            yield Fault(name, told.job, what)


Found = Iterator[tuple[str, str]]


def _of_existence(told: Told, world: World) -> Found:
    """Lost, invented, or neither over nor absent."""
    exists = told.exists
    if not told.sends:
        if exists:
            yield "invented", "nobody sent it, and it ran, or had an effect, or the broker has it"
        return
    if world.policy.drained and told.confirmed_at is not None and told.final is None:
        yield "lost", "it was confirmed, and the broker does not know it at the end"
    elif world.policy.drained and told.final is None and (told.runs or told.effects):
        yield "unfinished", "it ran, or had an effect, and the broker does not know it at the end"
    if told.final is not None and told.final.state not in ("done", "dead", "cancelled"):
        yield "unfinished", f"all is over, and it is {told.final.state}"
    if exists and told.failed == told.sends:
        yield "refused and stored", "it was refused each time, and it is there"


def _of_effects(told: Told, world: World) -> Found:
    """Exactly one effect of what is done, by a run that was delivered."""
    effects = told.effects
    if not effects and told.queue not in world.policy.effects:
        return
    done = told.final is not None and told.final.state == "done"
    if done and not effects and told.queue in world.policy.effects:
        yield "effect lost", "it is done, and its effect is not there"
    if len(effects) > 1:
        yield "effect doubled", f"its effect is there {len(effects)} times"
    if told.sends and any(effect.value != told.options.get("effect") for effect in effects):
        yield "effect changed", "its effect is another one than was sent"
    fences = {run.fence for run in told.runs}
    if not {effect.fence for effect in effects} <= fences:
        yield "effect of nobody", "its effect is of a run that was not delivered"


def _of_runs(told: Told, world: World) -> Found:
    """Fences grow, no run followed another one without a reason, and no two had a valid lease at once."""
    runs = told.runs
    if any(run.starts > 1 for run in runs):
        yield "fence twice", "it ran twice under one fence"
    if not runs:
        return
    most = told.options.get("max_attempts", world.policy.max_attempts)
    if runs[-1].attempt > most:
        yield "dead late", f"it ran for the {runs[-1].attempt}th time, and may {most} times"
    if len(runs) == 1:
        return
    if told.queue in world.policy.at_most_once:
        yield "more than once", f"it ran {len(runs)} times, and may once"
    for before, after in pairwise(runs):
        yield from _of_repeat(before, after, world)
    yield from _of_leases(runs)
    for early, late in pairwise(sorted(runs, key=lambda run: run.at)):
        # A process that stood still may begin late what it got early.
        if late.fence < early.fence and not world.is_harmed(world.whos[late.who]):
            yield "late start", f"a run under fence {late.fence} began after one under fence {early.fence}"


def _of_repeat(before: Run, after: Run, world: World) -> Found:
    if before.is_over:
        yield "run after its end", f"it was over under fence {before.fence}, and ran again under fence {after.fence}"
    reason = reason_of_repeat(before, after, world)
    if not reason:
        lost = before.lost_at is not None or before.accepted is False
        fault = "was taken from a worker that lived" if lost else "was neither lost nor failed"
        yield "taken" if lost else "repeated", f"it ran again, and the run under fence {before.fence} {fault}"
    if before.attempt > after.attempt:
        yield "attempts", "its attempts went down"
    elif before.attempt == after.attempt and not (before.outcome in GIVEN_BACK and before.settled_at is not None):
        # Who fails together with the broker is not known to have failed by itself: that is another epoch.
        if before.fence >> EPOCH_BITS == after.fence >> EPOCH_BITS:
            yield "attempts", f"the run under fence {before.fence} burnt no attempt"


def _of_leases(runs: list[Run]) -> Found:
    """No lease is valid any more when a run under a newer fence begins."""
    valid_until, fence = 0, 0
    for run in runs:
        if valid_until > run.at:
            yield "overlap", f"its lease under fence {fence} was valid when it began under fence {run.fence}"
        if run.valid_until is not None and run.valid_until > valid_until:
            valid_until, fence = run.valid_until, run.fence


def reason_of_repeat(before: Run, after: Run, world: World) -> str:
    """Why the one run may have followed the other: what became of the first, in a word. Empty: for no reason."""
    if before.settled_at is not None and before.outcome != Outcome.ACK and before.settled_at <= after.at:
        return "given back" if before.outcome in GIVEN_BACK else "failed"
    who = world.whos[before.who]
    if world.was_killed(who, after.at):
        return "killed"
    return world.harm(who, before.at - DELIVERED_US, after.at)


def _of_end(told: Told, final: Final, world: World) -> Found:
    """The broker counts the last run; what is dead used up its attempts, what is cancelled was cancelled."""
    runs = told.runs
    last = runs[-1] if runs else None
    if final.state == "done":
        if all(run.fence != final.fence for run in runs):
            yield "end of nobody", f"it is done under fence {final.fence}, under which it never ran"
        if last is not None and last.fence > final.fence:
            yield "run after its end", f"it was done under fence {final.fence}, and ran again under {last.fence}"
        if any(effect.fence > final.fence for effect in told.effects):
            yield "effect of nobody", "its effect is of a run after its end"
    elif any(run.is_done for run in runs):
        yield "end of nobody", f"it was done, and the broker says that it is {final.state}"
    if final.state == "dead":
        yield from _of_death(told, final, world)
    if final.state == "cancelled" and told.cancel_at is None:
        yield "cancelled", "nobody cancelled it"
    if told.cancel_answered_at is not None and final.state == "cancelled":
        if any(run.at > told.cancel_answered_at and not world.is_harmed(world.whos[run.who]) for run in runs):
            yield "cancelled", "it was cancelled, and began after that"


def _of_death(told: Told, final: Final, world: World) -> Found:
    most = told.options.get("max_attempts", world.policy.max_attempts)
    once = told.queue in world.policy.at_most_once
    if final.reason == "attempts" and once:
        if all(run.outcome != Outcome.NACK for run in told.runs):
            yield "dead early", "dead as failed, and no run of it failed"
    elif final.reason == "attempts":
        if final.attempts != most:
            yield "dead early" if final.attempts < most else "dead late", f"dead after {final.attempts} of {most} runs"
        begin = told.sent_at - AFTER_US
        burnt = sum(run.outcome == Outcome.NACK for run in told.runs)
        if burnt < most and told.runs and world.is_calm(begin, max(run.at for run in told.runs) + AFTER_US):
            yield "dead early", f"dead, and {burnt} of {most} runs failed"
    elif final.reason == "rejected" and all(run.outcome != Outcome.REJECT for run in told.runs):
        yield "dead early", "dead as rejected, and nobody rejected it"
    elif final.reason == "lost" and not once:
        yield "dead early", "dead as lost, in a queue that delivers at least once"


def story(told: Told, records: list[Record], world: World) -> str:
    """All that happened to a job, line by line in the order of time, with the harm to those who had to do with it."""
    names = {world.whos[record[-1]] for record in records}
    names |= {name.partition("/")[0] for name in names}
    lines = []
    for record in records:
        rest = " ".join(str(value) for value in record[3:-1])
        lines.append((record[1], f"{world.whos[record[-1]]} notes {r.NAMES[record[0]]} {rest}".rstrip()))
    times = [record[1] for record in records if record[0] != r.FINAL] or [0]
    lines += world.told_of(names - {BROKER}, min(times) - 5 * AFTER_US, max(times) + AFTER_US)
    return "\n".join([f"job {told.job}", *(f"  {at / 1e6:14.6f}  {what}" for at, what in sorted(lines))])
