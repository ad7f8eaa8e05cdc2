"""Decisions as pure functions: when a failed job runs again, and whether it does. Callers act on the answer.

It owns what a queue's policy is, and which of job, task and queue has the last word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zclient.protocol.options import QUEUE_OPTIONS

if TYPE_CHECKING:
    from random import Random

Options = Mapping[str, Any]
"""Options by their names of the wire: a job's, a task's, a queue's own."""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How a queue treats its jobs. Durations in milliseconds; a rate is (jobs, milliseconds), or 0 for none."""

    lease_ms: int = 30_000
    max_attempts: int = 5
    backoff: str | list[int] = "exponential"  # a name, or the waits themselves in ms
    backoff_min_ms: int = 1_000
    backoff_max_ms: int = 600_000
    backoff_jitter: float = 1.0
    max_run_ms: int = 0
    ttl_ms: int = 0
    on_expiry: str = "dead"
    delivery: str = "at_least_once"
    strategy: str = "round_robin"
    key_limit: int = 0
    key_weights: Mapping[str, int] = field(default_factory=dict)
    in_flight_limit: int = 0
    rate: Any = 0
    key_rate: Any = 0
    max_jobs: int = 0
    max_bytes: int = 0
    keep_done_ms: int = 3_600_000
    keep_dead_ms: int = 0
    keep_dead_count: int = 0
    dead_to: str = ""
    poison_losses: int = 3

    @property
    def once(self) -> bool:
        """Whether a job that was started never starts again."""
        return self.delivery == "at_most_once"

    def value(self, name: str) -> Any:
        """The value of an option, by its name of the wire."""
        return getattr(self, FIELDS[name])

    def with_options(self, options: Options) -> "QueuePolicy":
        """The same, but for these options."""
        return replace(self, **{FIELDS[name]: value for name, value in options.items()}) if options else self


FIELDS = {name: f"{name}_ms" if option.kind == "duration" else name for name, option in QUEUE_OPTIONS.items()}
"""The field of `QueuePolicy` for each option of a queue."""


def attempts_allowed(policy: QueuePolicy, task: Options, options: Options) -> int:
    """Runs that a job may have. ``task`` and ``options`` are what its worker's task and the job itself say."""
    if policy.once:
        return 1
    return int(_last_word("max_attempts", policy.max_attempts, task, options))


def retry_delay(policy: QueuePolicy, task: Options, options: Options, runs: int, random: "Random") -> int:
    """Milliseconds until a job that failed for the ``runs``-th time runs again.

    ``exponential`` doubles the wait with each run, ``linear`` adds the first one, ``constant`` keeps it, and none goes
    beyond ``backoff_max``. A list gives the waits one by one, as they stand, and its last for all that follow. Chance
    then takes off up to the share ``backoff_jitter``; 1 is full jitter, as in Brooker, "Exponential Backoff and Jitter"
    (AWS Architecture Blog, 2015), which spreads retries best.
    """
    backoff = _last_word("backoff", policy.backoff, task, options)
    least = _last_word("backoff_min", policy.backoff_min_ms, task, options)
    jitter = _last_word("backoff_jitter", policy.backoff_jitter, task, options)
    if isinstance(backoff, list):
        delay = backoff[min(runs, len(backoff)) - 1]
    else:
        grown = {"exponential": least << min(runs - 1, 40), "linear": least * runs, "constant": least}[backoff]
        delay = min(grown, _last_word("backoff_max", policy.backoff_max_ms, task, options))
    return int(delay * (1 - jitter * random.random()))


def _last_word(name: str, queue: Any, task: Options, options: Options) -> Any:
    """The job's value, else the task's, else the queue's."""
    return options[name] if name in options else task.get(name, queue)
