"""Decisions as pure functions: when a failed job runs again, and whether it does. Callers act on the answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How a queue treats its jobs; a job's own options win over it. Durations in milliseconds."""

    lease_ms: int = 30_000
    max_attempts: int = 5
    backoff_min_ms: int = 1_000
    backoff_max_ms: int = 600_000
    backoff_jitter: float = 1.0
    poison_losses: int = 3


def retry_delay(policy: QueuePolicy, runs: int, random: "Random") -> int:
    """Milliseconds until a job that failed for the ``runs``-th time runs again.

    Exponential with jitter over the given share of the delay; 1 is full jitter, as in Brooker, "Exponential Backoff
    and Jitter" (AWS Architecture Blog, 2015), which spreads retries best.
    """
    delay = min(policy.backoff_max_ms, policy.backoff_min_ms << min(runs - 1, 40))
    return int(delay * (1 - policy.backoff_jitter * random.random()))


def attempts_allowed(policy: QueuePolicy, options: dict[str, Any]) -> int:
    return int(options.get("max_attempts", policy.max_attempts))
