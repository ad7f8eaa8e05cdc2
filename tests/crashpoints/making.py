"""A broker that dies while it makes its data directory: the next one makes it whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from tests.crashpoints.actor import Actor, Wrong
from tests.crashpoints.points import OPTIONS, check
from tests.crashpoints.steps import MAKING, OPENING
from tests.system.processes import BrokerProcess

FIRST = (
    *MAKING,
    "opening, before the watermark",
    "opening, before the watermark is synced",
    "opening, before the epoch",
)
"""Steps of the first start of all; the others of opening are the same on a directory that is there."""


def points(folder: Path, store: str, steps: tuple[str, ...] = FIRST) -> Iterator[str]:
    """A new directory for each step. Raises `AssertionError`."""
    assert {*FIRST} <= {*MAKING, *OPENING}
    for number, step in enumerate(steps):
        data = folder / f"made-{number}"
        broker = BrokerProcess(data, folder / f"made-{number}.log", store=store, **OPTIONS)
        actor = Actor(number)
        try:
            die(broker, step)
            broker.restart(program=("zbroker",))
            actor.meet(broker)
            actor.set_up()
            for _ in range(5):
                actor.act()
            actor.finish()
            broker.stop()
            check(data, folder / "copy")
        finally:
            actor.close()
            broker.end()
        yield step


def die(broker: BrokerProcess, step: str) -> None:
    try:
        broker.restart(program=("tests.crashpoints.steps", f"{step}/1/all"))
    except AssertionError:
        if broker.process.poll() != -signal.SIGKILL:
            raise
    else:
        raise Wrong(f"it served, and should have died at: {step}")
