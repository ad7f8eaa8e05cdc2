"""What `zclient bench` measures, and the queue that it does it in, which is left as it was found.

Each measurement starts processes that use the public API, as any program does (`senders`, and `zworker.cli.takers`). It
prints nothing.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from zclient import Client
from zclient.cli.roles import Cast, Part, RoleFailed
from zclient.cli.senders import share
from zclient.errors import NotFound, QueueClosed, Refused

SENDERS = "zclient.cli.senders"
TAKERS = "zworker.cli.takers"

LOOK_S = 0.1
"""Between two looks at whether the queue is empty: the broker tells nobody when it is."""

_COUNTS = ("ready", "scheduled", "leased", "blocked", "dead")

Figures = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What is to be done. Times in seconds, the payload in bytes."""

    endpoints: tuple[str, ...]
    credentials: str | None
    queue: str
    timeout: float
    jobs: int
    batch: int
    payload: int
    producers: int
    consumers: int
    credit: int
    threads: int
    rate: float
    duration: float
    calls: int

    def part(self, module: str, role: str, **changed: Any) -> Part:
        """A role with all that is said here, but for what is changed."""
        return Part(module, role, asdict(self) | changed)


# ---- the queue


@contextmanager
def prepared(client: Client, plan: Plan, *, history: bool) -> Iterator[Callable[[str], Figures]]:
    """A queue for measurements, and what takes one by its name. The queue must be empty and nobody's, and is empty
    again after each.

    Without ``history`` finished jobs are not kept, so that they push no others out of history; but for those of calls,
    whose results are asked for. Raises `Refused` if the queue has jobs or workers, or `QueueClosed` if it is paused or
    drained.
    """
    queue, patience = plan.queue, plan.timeout
    kept = _check(client, queue)

    def measure(name: str) -> Figures:
        if not history:
            client.set_queue(queue, keep_done=plan.timeout if name == "calls" else 0)
        figures = MEASUREMENTS[name](plan)
        _empty(client, queue, patience)
        return figures

    try:
        yield measure
    finally:
        _empty(client, queue, patience)
        if not history:
            client.set_queue(queue, keep_done=0)  # what calls left goes at once
            if kept is None:
                client.unset_queue(queue, "keep_done")
            else:
                client.set_queue(queue, keep_done=kept)


def _check(client: Client, queue: str) -> Any:
    """Refuse a queue that is in use; what is set of its ``keep_done``, or None."""
    try:
        found = client.queue(queue)
    except NotFound:
        return None
    jobs = {name: found[name] for name in _COUNTS if found.get(name)}
    if jobs:
        told = ", ".join(f"{number} {name}" for name, number in jobs.items())
        raise Refused(
            f"{queue} has jobs ({told}): name another with --queue. If an earlier run was killed and left them, "
            f"`zclient queue purge {queue} --yes` removes them"
        )
    if found.get("workers"):
        raise Refused(f"{queue} has workers: name another with --queue")
    if found.get("paused") or found.get("closed"):
        raise QueueClosed(f"{queue} is paused or drained: `zclient queue resume {queue}`")
    option = found["policy"]["keep_done"]
    return option.value if option.source == "set" else None


def _empty(client: Client, queue: str, patience: float) -> None:
    """Remove what is left in the queue. What processes of ours still had comes back first."""
    until = time.monotonic() + patience
    while True:
        try:
            found = client.queue(queue)
        except NotFound:
            return  # nothing was ever sent
        if not any(found.get(name) for name in _COUNTS):
            return
        if found.get("ready"):
            client.purge(queue)
        if found.get("dead"):
            client.drop(queue=queue)
        if time.monotonic() > until:
            raise RoleFailed(f"{queue} is not empty after {patience:g} s: `zclient queue show {queue}`")
        time.sleep(LOOK_S)


# ---- what is measured


def lifecycle(plan: Plan) -> Figures:
    """Jobs put, taken and acked a second, by producers and consumers at once; and put alone, in the same run."""
    puts = [plan.part(SENDERS, "put", jobs=jobs) for jobs in share(plan.jobs, plan.producers)]
    takes = [plan.part(TAKERS, "take", jobs=jobs) for jobs in share(plan.jobs, plan.consumers) if jobs]
    with Cast(*puts, *takes) as cast:
        told = cast.run()
    sent, taken = told[: len(puts)], told[len(puts) :]
    began = min(one["began"] for one in sent)
    put = max(one["ended"] for one in sent) - began
    return {"jobs": plan.jobs, "per_second": plan.jobs / (max(taken) - began), "puts_per_second": plan.jobs / put}


def sends(plan: Plan) -> Figures:
    """Jobs sent one by one a second, from the threads of one client; nobody takes them."""
    jobs = max(plan.threads, plan.jobs // 5)
    with Cast(plan.part(SENDERS, "send", jobs=jobs)) as cast:
        (told,) = cast.run()
    return {"jobs": jobs, "per_second": jobs / (told["ended"] - told["began"])}


def latency(plan: Plan) -> Figures:
    """Milliseconds from the send to the start of the task, at a rate; ``per_second`` is the rate that was reached."""
    jobs = max(2, round(plan.rate * plan.duration))
    with Cast(plan.part(SENDERS, "pace", jobs=jobs), plan.part(TAKERS, "run", jobs=jobs)) as cast:
        told, waits = cast.run()
    return {"jobs": jobs, "per_second": (jobs - 1) / (told["ended"] - told["began"]), **percentiles(waits)}


def calls(plan: Plan) -> Figures:
    """Milliseconds that a call takes, one after the other: sent, stored, run, acked, answered."""
    with Cast(plan.part(SENDERS, "call", jobs=plan.calls), plan.part(TAKERS, "run", jobs=plan.calls)) as cast:
        took, _ = cast.run()
    return {"jobs": plan.calls, "per_second": plan.calls / sum(took), **percentiles(took)}


MEASUREMENTS: Mapping[str, Callable[[Plan], Figures]] = {
    "lifecycle": lifecycle,
    "sends": sends,
    "latency": latency,
    "calls": calls,
}
"""By the name that the command line has for them, in order."""


def percentiles(seconds: list[float]) -> Figures:
    """Of times: the least that so many of a hundred, or of a thousand, do not exceed; in milliseconds."""
    ordered = sorted(seconds)
    return {
        f"p{name}_ms": 1000 * ordered[min(len(ordered) - 1, len(ordered) * share // 1000)]
        for name, share in (("50", 500), ("99", 990), ("99_9", 999))
    }
