"""What a seed came to; of one that failed what happened last, so that a person can read it, and how to run it again.

It turns frames into messages only here: a run that passes pays for none of that.
"""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

from tests.simulation.scenario import STEPS, Scenario
from tests.simulation.world import START_MS, World
from zclient.protocol.codec import MalformedMessage, decode

SHOWN = 80
"""Events before a failure that a report shows."""

FACT_CHARS = 400
"""A longer fact is cut."""


class Outcome(NamedTuple):
    """One seed: its steps, and the report if it failed."""

    seed: int
    steps: int
    report: str


def run_seed(seed: int, steps: int = STEPS, shown: int = SHOWN) -> Outcome:
    """Run a seed; whatever goes wrong is in the report, with so many of the last events."""
    scenario: Scenario | None = None
    try:
        scenario = Scenario(seed, shown)
        scenario.run(steps)
    except Exception as error:
        return Outcome(seed, scenario.world.steps if scenario else 0, _report(seed, steps, scenario, error))
    return Outcome(seed, scenario.world.steps, "")


def _report(seed: int, steps: int, scenario: Scenario | None, error: Exception) -> str:
    lines = [f"seed {seed} failed" + (f" at step {scenario.world.steps}" if scenario else "")]
    if scenario is not None:
        mix = scenario.mix
        lines.append(f"queues: {mix.queues}")
        lines.append(f"workers: {mix.workers}")
        lines.append(f"mishaps: { {name: ms for name, ms in vars(mix.faults).items() if ms} }")
        lines += trace(scenario.world)
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    lines += [f"  at {frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames]
    lines.append(f"{type(error).__name__}: {error}")
    again = f"make simulate SEED={seed}" + (f" STEPS={steps}" if steps != STEPS else "")
    lines.append(f"again: {again}")
    return "\n".join(lines)


def trace(world: World) -> list[str]:
    """The last events, oldest first."""
    return [
        f"{step:6} {now - START_MS:11.2f} {who:12} {what} {' '.join(map(_fact, facts))}"
        for step, now, who, what, facts in world.trace
    ]


def _fact(fact: Any) -> str:
    if isinstance(fact, list) and fact and isinstance(fact[0], bytes):
        try:
            fact = decode(fact)
        except MalformedMessage as fault:
            fact = f"malformed: {fault.reason}"
    text = str(fact)
    return text if len(text) <= FACT_CHARS else text[:FACT_CHARS] + " ..."
