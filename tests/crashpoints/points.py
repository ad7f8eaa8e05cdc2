"""One life of a broker after the other on one data directory, each ended at another point; the verdict after each.

It owns the order of a life: start, come back, act until it dies, check what it left. What must be true stands in
`ledger.py`, how a broker dies in `steps.py`.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.crashpoints import steps
from tests.crashpoints.actor import Actor, Died, Wrong
from tests.system.processes import BrokerProcess
from zbroker.check import check_directory
from zbroker.storage import StoreError

FIRST_ACTS = 40
"""What is said to the first broker, which is killed by no step."""

MOST_ACTS = 400
"""What is said at most until a step is reached."""

TOLD = 30
"""Lines of its story that a failure tells, of the jobs that it is about."""

OPTIONS = {"return_time": "2s", "grace": "2s", "drain_timeout": "100ms", "lease": "1h"}


class Failed(AssertionError):
    """A promise was broken; the text tells at which point, and what."""


def all_points(store: str) -> list[str]:
    """Every step of a store, those of the loop at several times and with a disk that loses what was not synced."""
    loop = [*steps.LOOP, *steps.SLICES]
    points = [f"{step}/{nth}/all" for nth in (1, 2, 3, 7) for step in loop]
    points += [f"{step}/30/all" for step in steps.LOOP]
    points += [f"{step}/{nth}/all" for nth in (1, 2) for step in steps.READING]
    points += [f"{step}/1/all" for step in (*steps.OPENING, *steps.STOPPING)]
    if store == "rocksdb":
        points += [f"{step}/{nth}/{keep}" for keep in ("none", "half") for nth in (1, 2, 5) for step in loop]
        # These come from another thread than the loop's, which may confirm something while that one loses it.
        points += [f"{step}/{nth}/all" for nth in (1, 2, 3) for step in steps.BACKGROUND]
        points += [f"{step}/1/none" for step in steps.OPENING]
    else:
        points += [f"{step}/{nth}/all" for nth in (1, 2, 3, 7, 30) for step in steps.CHECKPOINT]
    return points


def sample(store: str) -> list[str]:
    """What the default suite runs of it: one of each kind."""
    if store == "sqlite":
        return ["between write and sync/3/all", "a checkpoint writes to the database/3/all"]
    return [
        "between write and sync/5/half",
        "within the watermark/3/all",
        "between two sends/1/all",
        "between write and sync of a slice/2/none",
        "a table file is whole/1/all",
    ]


def run_points(folder: Path, points: list[str], seed: int, store: str) -> Iterator[str]:
    """A life for each point, and a last one in which all that is left is done. Raises `Failed`."""
    data = folder / "data"
    broker = BrokerProcess(data, folder / "broker.log", store=store, **OPTIONS)
    actor = Actor(seed)
    at = "first life"
    try:
        broker.start()
        actor.meet(broker)
        actor.set_up()
        for _ in range(FIRST_ACTS):
            actor.act()
        broker.kill()
        for at in points:
            live(broker, actor, at)
            check(data, folder / "copy")
            yield at
        at = "last life"
        broker.restart(program=("zbroker",))
        actor.meet(broker)
        actor.finish()
        if broker.stop() != 0:
            raise Wrong("the last broker did not end in peace")
        check(data, folder / "copy")
    except AssertionError as failure:
        told = [line for line in actor.story if any(name in line for name in re.findall(r"job-\d+", str(failure)))]
        again = f"store {store}, seed {seed}, {at}, with everything in {folder}"
        raise Failed("\n".join([again, str(failure), broker.story(), *told[-TOLD:]])) from failure
    finally:
        actor.close()
        broker.end()


def live(broker: BrokerProcess, actor: Actor, point: str) -> None:
    """A broker that dies at the point, while it is talked to."""
    step = point.split("/", maxsplit=1)[0]
    try:
        broker.restart(program=("tests.crashpoints.steps", point))
        actor.meet(broker)
        if step in steps.STOPPING:
            broker.signal(signal.SIGTERM)
        for _ in range(MOST_ACTS):
            actor.act()
        raise Wrong(f"{MOST_ACTS} things were said, and the step was not reached")
    except Died:
        pass  # as it was meant; with which code is looked at below
    except AssertionError:
        if broker.process.poll() != -signal.SIGKILL:  # not even ready
            raise
    if broker.wait() != -signal.SIGKILL:
        raise Wrong(f"it ended with {broker.process.returncode}: {broker.told.all[-3:]}")


def check(data: Path, copy: Path) -> None:
    """`zbroker check` of a copy: the next broker is to find the directory as the dead one left it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data, copy)
    try:
        faults = check_directory(copy).faults
    except StoreError as error:
        faults = [str(error)]
    if faults:
        raise Wrong("\n".join(faults))
