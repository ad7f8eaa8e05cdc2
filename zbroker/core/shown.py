"""A job as people see it: the maps that `show`, listings and CHANGED tell."""

from typing import Any

from zbroker.core import history
from zbroker.core.entities import NEVER, NOTHING, Found
from zbroker.core.policy import Options, attempts_allowed
from zbroker.core.rows import Change
from zbroker.core.state import State
from zbroker.core.states import State as JobState

Row = dict[str, Any]

_SAID = (
    "ttl",
    "max_attempts",
    "backoff",
    "backoff_min",
    "backoff_max",
    "backoff_jitter",
    "unique_for",
    "on_conflict",
    "on_parent_death",
    "stream",
)
"""Options as the producer gave them; what the others came to stands under names of its own."""


def live(state: State, found: Found) -> Row:
    """A live job as people see it."""
    options = found.header.options
    change = found.change or Change(found.state, 0)
    delivery = found.delivery
    row = {
        "id": found.id,
        "queue": found.queue.name,
        "state": found.state,
        "priority": options.get("priority", 0),
        "key": options.get("key"),
        "headers": options.get("headers", {}),
        "unique": options.get("unique"),
        "expires_at": found.expires_ms or None,
        "max_attempts": attempts_allowed(found.queue.policy, _task(found), options),
        "options": {name: value for name, value in options.items() if name in _SAID},
        "created_at": found.header.created_ms,
        "sequence": found.sequence,
        "cancel_requested": change.cancel,
        **_past(change),
    }
    if "batch" in options:
        row["batch"] = options["batch"]
    if delivery is not None:
        row["attempt"] = change.runs + 1
        row["worker"] = delivery.peer.name
        row["fence"] = delivery.fence
        row["started_at"] = delivery.started_ms
        row["lease_ms"] = max(0, delivery.deadline - state.now) if delivery.deadline < NEVER else 0
    if found.state is JobState.SCHEDULED:
        row["due_at"] = change.due_ms
    if found.state is JobState.DEAD:
        row["reason"] = change.reason
        row["finished_at"] = change.ended_ms
    return row


def _task(found: Found) -> Options:
    """What the task that has the job says of it; while none has it, the task of a worker that could."""
    if found.delivery is not None:
        return found.delivery.task
    worker = next(iter(found.queue.workers), None)
    return worker.tasks.get(found.queue.name, NOTHING) if worker is not None else NOTHING


def finished(ended: history.Ended) -> Row:
    """A finished job as people see it."""
    row = ended.row
    change = ended.change or Change(JobState.DONE, 0)
    told = {"parent": change.reason.encode()} if row.reason == "parent" else {}
    return {
        **told,
        "id": ended.id,
        "queue": row.queue,
        "state": row.state,
        "created_at": ended.created_ms,
        "started_at": row.started_ms or None,
        "finished_at": row.ended_ms,
        "worker": row.worker,
        "fence": row.fence,
        "reason": row.reason,
        "cancel_requested": change.cancel,
        **_past(change),
        "attempt": change.runs + (1 if row.state == JobState.DONE else 0),
    }


def _past(change: Change) -> Row:
    attempts = [attempt._asdict() for attempt in change.attempts]
    return {
        "attempt": change.runs,
        "attempts": attempts,
        "losses": change.losses,
        "error": attempts[-1]["error"] if attempts else None,
        "progress": dict(zip(("fraction", "text", "at"), change.progress, strict=True)) if change.progress else None,
    }
