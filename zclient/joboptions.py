"""What a caller may say of a job, and what each option means: the one place that tells.

Ranges and defaults are in `zclient.protocol.options`; `zclient.jobs.wire_options` reads what is given here.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

from zclient.config import Duration, Headers, Moment


class CopyOptions(TypedDict, total=False):
    """The options of `publish`, for each copy. What is left out is decided by the task, the queue, the broker."""

    priority: int | None
    """-100 to 100: of the jobs of a queue that are ready, those of a higher number are served first. 0 if not said."""

    key: str | None
    """Jobs with one key share a lane: they are served in their order, and keys of one priority take turns."""

    delay: Duration | None
    """Keep the job back for so long. Not together with ``at``."""

    at: Moment | None
    """Keep it back until then; the past means now. Not together with ``delay``."""

    ttl: Duration | None
    """How long it may wait to begin, counted from when it may first run. Later it is dead (``expired``), or dropped
    where its queue says so. 0: without end."""

    max_attempts: int | None
    """Runs before it is dead; the first counts."""

    backoff: str | Sequence[Duration] | None
    """How the wait before a retry grows: ``exponential``, ``linear``, ``constant``, or the waits themselves, of which
    the last goes on."""

    backoff_min: Duration | None
    """The wait before the first retry."""

    backoff_max: Duration | None
    """The longest wait before a retry."""

    backoff_jitter: float | None
    """The share of each wait, 0 to 1, that chance may take off, so that jobs that failed together do not return so."""

    headers: Headers | None
    """Context beside the payload: texts, numbers and booleans under names, 8 KiB in all."""


class StepOptions(CopyOptions, total=False):
    """The options of a step of a workflow: those above, and this one."""

    on_parent_death: str | None
    """When one that it is after is dead or cancelled: ``cancel`` this job too, if not said; ``run`` it all the same; or
    ``wait`` until it is replayed and done. A step of a workflow waits if not said."""


class JobOptions(StepOptions, total=False):
    """The options of `send` and `send_many`: those above, and these."""

    after: "str | Sequence[Any] | None"
    """Ids or handles of jobs or batches: it waits until they are done, at most 1,000 of them. They may be finished
    already, or be sent in the same call. One that nobody knows is refused (`UnknownParent`), and so is a circle."""

    unique: str | None
    """At most one job of the queue has this text at a time. What becomes of a second one says ``on_conflict``."""

    unique_for: str | Duration | None
    """How long the text stays taken: until the job is over (``done``, if not said), until it is delivered
    (``waiting``), or for a time from now."""

    on_conflict: str | None
    """``existing``, if not said: the second job is not stored, and the caller gets the handle of the first.
    ``replace``: the second takes the place of the first, which is cancelled; if it runs, its worker is told to end it.
    ``debounce``: likewise, but one that runs goes on."""
