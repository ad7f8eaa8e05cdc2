"""What must be true of every job whatever was killed, and the history of a job of which it is not.

It reads a `Ledger` and the list of kills; it asks nobody. The rules stand in `_faults_of`, one after the other.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from tests.kill_loop.ledger import End, Ledger, Run

EPOCH_BITS = 32
"""The upper part of a fence is the epoch: how often the broker was started."""

DELIVERED_S = 5
"""A job may be with its worker for so long before its run begins."""


class Kill(NamedTuple):
    """A process that was killed, or stopped for a while. ``who`` is one process: the next one has another number."""

    at: float  # monotonic seconds
    who: str
    what: str  # "killed", "stopped", "continued"


class Fault(NamedTuple):
    """A promise that was broken, and the job it was broken to."""

    job: str
    what: str


class Verdict(NamedTuple):
    """The faults, and what else there is to know of a bout."""

    faults: list[Fault]
    jobs: int  # with an effect
    confirmed: int
    unknown: int  # never confirmed
    absent: int  # of these, never stored
    repeats: int  # runs beyond the first of each job, but for those after a nack
    overtaken: int  # of these, those of a run whose process lived: it was stopped, and lost its lease
    late_effects: int  # jobs whose effect is of an earlier run than the one that the broker counts


def judge(ledger: Ledger, kills: list[Kill], amounts: dict[str, int]) -> Verdict:
    """Judge a bout that was drained. ``amounts`` is what each intended job was to book."""
    jobs = sorted({*ledger.sent, *ledger.runs, *ledger.effects, *ledger.ends})
    faults = [Fault(job, what) for job in jobs for what in _faults_of(job, ledger, kills, amounts)]
    confirmed = {job for job, lines in ledger.sent.items() if any(line.what == "confirmed" for line in lines)}
    unknown = ledger.sent.keys() - confirmed
    repeated = [
        (before, after)
        for job, runs in ledger.runs.items()
        for before, after in pairwise(_by_fence(runs))
        if "nacked" not in ledger.told.get((job, before.fence), ())
    ]
    return Verdict(
        faults,
        jobs=len(ledger.effects),
        confirmed=len(confirmed),
        unknown=len(unknown),
        absent=len(unknown - ledger.effects.keys()),
        repeats=len(repeated),
        overtaken=sum(not _was_killed(before, after, kills) for before, after in repeated),
        late_effects=sum(
            job in ledger.ends and effects[0].fence != ledger.ends[job].fence for job, effects in ledger.effects.items()
        ),
    )


def _by_fence(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.fence)


def _faults_of(job: str, ledger: Ledger, kills: list[Kill], amounts: dict[str, int]) -> Iterator[str]:
    """What is wrong with one job."""
    sent, runs, effects = ledger.sent.get(job, []), ledger.runs.get(job, []), ledger.effects.get(job, [])
    end = ledger.ends.get(job)
    if not sent:
        yield "nobody sent it, and it ran, or had an effect"
    if any(line.what == "confirmed" for line in sent) and not effects:
        yield "it was confirmed, and its effect is not there"
    if (runs or effects or end) and not (runs and effects and end):
        yield "it is neither done nor absent"
    if len(effects) > 1:
        yield f"its effect is there {len(effects)} times"
    if any(effect.amount != amounts.get(job) for effect in effects):
        yield "its effect is another one than was sent"
    yield from _faults_of_runs(job, ledger, kills)
    if end is not None:
        yield from _faults_of_end(runs, [effect.fence for effect in effects], end)


def _faults_of_runs(job: str, ledger: Ledger, kills: list[Kill]) -> Iterator[str]:
    """Fences grow, and no run followed another one without a reason."""
    noted = ledger.runs.get(job, [])
    runs = _by_fence(noted)
    if len({run.fence for run in runs}) != len(runs):
        yield "it ran twice under one fence"
    if any(before.attempt > after.attempt for before, after in pairwise(runs)):
        yield "its attempts went down"
    for before, after in pairwise(runs):
        fault = _fault_of_repeat(before, after, ledger.told.get((job, before.fence), {}), kills)
        if fault:
            yield f"it ran again, and the run under fence {before.fence} {fault}"
        # Who fails together with the broker is not known to have failed by itself: that is another epoch.
        if before.attempt >= after.attempt and before.fence >> EPOCH_BITS == after.fence >> EPOCH_BITS:
            yield f"the run under fence {before.fence} burnt no attempt"
    for before, after in pairwise(noted):
        # A process that stood still may begin late what it got early.
        if after.fence < before.fence and not any(kill.who == after.who for kill in kills):
            yield f"a run under fence {after.fence} began after one under fence {before.fence}"


def _fault_of_repeat(before: Run, after: Run, told: dict[str, float], kills: list[Kill]) -> str:
    """What is wrong if the one run followed the other; nothing if that failed, or was lost for a reason."""
    if "nacked" in told or _was_killed(before, after, kills):
        return ""
    if not told and not any(kill.who == before.who and kill.what == "killed" for kill in kills):
        return "was neither lost nor failed"
    # One that stood still may have lost its lease; the others come back even to a broker that was killed.
    return "" if _stood_still(before, after, kills) else "was taken from a worker that lived"


def _was_killed(before: Run, after: Run, kills: list[Kill]) -> bool:
    """Whether the process of the one run was killed before the other began."""
    return any(kill.who == before.who and kill.what == "killed" and kill.at <= after.at for kill in kills)


def _stood_still(before: Run, after: Run, kills: list[Kill]) -> bool:
    """Whether the process of the one run was stopped while it had the job, and before the other run began."""
    mine = [kill for kill in kills if kill.who == before.who]
    return any(
        stop.what == "stopped" and stop.at <= after.at and end.at >= before.at - DELIVERED_S
        for stop, end in pairwise([*mine, Kill(float("inf"), before.who, "continued")])
    )


def _faults_of_end(runs: list[Run], effects: list[int], end: End) -> Iterator[str]:
    """The run that the broker counts is the last one, and its effect was there by then."""
    fences = {run.fence for run in runs}
    if end.fence not in fences:
        yield f"it is done under fence {end.fence}, under which it never ran"
    if fences and max(fences) > end.fence:
        yield f"it was done under fence {end.fence}, and ran again"
    if not set(effects) <= fences or any(fence > end.fence for fence in effects):
        yield "its effect is of a run that was not delivered"


def history(job: str, ledger: Ledger, kills: list[Kill]) -> str:
    """All that happened to a job, line by line in the order of time, with the kills of those who had to do with it."""
    lines = [(line.at, f"{line.who} notes {line.what}") for line in ledger.sent.get(job, [])]
    for run in ledger.runs.get(job, []):
        lines.append((run.at, f"{run.who} runs it: fence {run.fence}, attempt {run.attempt}"))
    for (name, fence), told in ledger.told.items():
        if name == job:
            lines += [(at, f"fence {fence} is {what}") for what, at in told.items()]
    if lines:
        first, last = min(lines)[0], max(lines)[0]
        involved = {line.who for line in ledger.sent.get(job, [])} | {run.who for run in ledger.runs.get(job, [])}
        for kill in kills:
            if kill.who in involved or (kill.who.startswith("broker") and first - 1 <= kill.at <= last + 1):
                lines.append((kill.at, f"{kill.who} is {kill.what}"))
    told = [f"  {at:12.4f}  {what}" for at, what in sorted(lines)]
    told += [f"  effect of {effect.amount} under fence {effect.fence}" for effect in ledger.effects.get(job, [])]
    end = ledger.ends.get(job)
    told.append(f"  the broker: {end.state} under fence {end.fence}" if end else "  the broker does not know it")
    return "\n".join([f"job {job}", *told])
