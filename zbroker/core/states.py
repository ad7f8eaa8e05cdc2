"""The states of a job and every transition between them: one table, and whatever it does not list is an error.

Each transition goes through `Counts.move`, which looks it up here and keeps the queue's counters, so that the counters
and the table cannot disagree. The diagram in ``docs/job-states.md`` is generated from this file.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a job stands. The last three are ends; `DEAD` alone can be left again, by replay."""

    SCHEDULED = "scheduled"  # waits for a time: delay, snooze or backoff
    BLOCKED = "blocked"  # waits for other jobs
    READY = "ready"
    LEASED = "leased"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What moves a job; the comment says who does it."""

    PUT = "put"  # a producer
    PUT_LATER = "put with a delay"  # a producer
    PUT_BLOCKED = "put after others"  # a producer
    UNBLOCK = "parents over"  # the broker: the last job that it waited for is over
    UNBLOCK_LATER = "parents over before its time"  # likewise, and it has a delay
    DUE = "due"  # the clock
    DELIVER = "deliver"  # the broker, to a worker with credit
    ACK = "ack"  # the worker
    RETRY = "nack"  # the worker: failed, attempts left
    RETURN = "return"  # release, goodbye, a delivery that never arrived, a broker restart: no attempt burnt
    LOSE = "lose"  # worker lost or lease expired, attempts left
    SNOOZE = "snooze"  # the worker
    BURY = "bury"  # rejected, or no attempts left, or poison, or expired after a run, or lost with its only run
    EXPIRE = "expire"  # the clock: its time to begin is over
    DISCARD = "discard"  # the clock likewise, in a queue that drops what expired
    MOVE = "move"  # dead, in a queue whose dead jobs go to another one; there it is put anew
    CANCEL = "cancel"  # somebody
    PURGE = "purge"  # somebody
    REPLAY = "replay"  # somebody
    REPLAY_BLOCKED = "replay before its parents"  # somebody
    DROP = "drop"  # somebody, or retention


GONE = None
"""A job that is no more: nothing of it is kept."""

TRANSITIONS: dict[tuple[State | None, Event], State | None] = {
    (GONE, Event.PUT): State.READY,
    (GONE, Event.PUT_LATER): State.SCHEDULED,
    (GONE, Event.PUT_BLOCKED): State.BLOCKED,
    (State.BLOCKED, Event.UNBLOCK): State.READY,
    (State.BLOCKED, Event.UNBLOCK_LATER): State.SCHEDULED,
    (State.BLOCKED, Event.CANCEL): State.CANCELLED,
    (State.BLOCKED, Event.EXPIRE): State.DEAD,
    (State.BLOCKED, Event.DISCARD): GONE,
    (State.BLOCKED, Event.MOVE): GONE,
    (State.SCHEDULED, Event.DUE): State.READY,
    (State.SCHEDULED, Event.CANCEL): State.CANCELLED,
    (State.SCHEDULED, Event.EXPIRE): State.DEAD,
    (State.SCHEDULED, Event.DISCARD): GONE,
    (State.SCHEDULED, Event.MOVE): GONE,
    (State.READY, Event.DELIVER): State.LEASED,
    (State.READY, Event.CANCEL): State.CANCELLED,
    (State.READY, Event.PURGE): GONE,
    (State.READY, Event.EXPIRE): State.DEAD,
    (State.READY, Event.DISCARD): GONE,
    (State.READY, Event.MOVE): GONE,
    (State.LEASED, Event.ACK): State.DONE,
    (State.LEASED, Event.RETRY): State.SCHEDULED,
    (State.LEASED, Event.RETURN): State.READY,
    (State.LEASED, Event.LOSE): State.READY,
    (State.LEASED, Event.SNOOZE): State.SCHEDULED,
    (State.LEASED, Event.BURY): State.DEAD,
    (State.LEASED, Event.MOVE): GONE,
    (State.LEASED, Event.DISCARD): GONE,
    (State.LEASED, Event.CANCEL): State.CANCELLED,
    (State.DEAD, Event.REPLAY): State.READY,
    (State.DEAD, Event.REPLAY_BLOCKED): State.BLOCKED,
    (State.DEAD, Event.DROP): GONE,
    (State.DONE, Event.DROP): GONE,
    (State.CANCELLED, Event.DROP): GONE,
}

COUNTED = (State.SCHEDULED, State.BLOCKED, State.READY, State.LEASED, State.DEAD)
"""The states that a queue counts the jobs of, in the order of its row."""

WAITING = (State.SCHEDULED, State.BLOCKED, State.READY)
"""The states that a queue counts the bytes of the jobs of, in the order of its row."""

TOTALS = ("put", "done", "failed", "died", "cancelled", "purged", "lost", "replayed", "dropped", "moved")
"""What a queue has seen since it was made, in the order of its row."""

_TOTAL_OF: dict[Event, str] = {
    Event.PUT: "put",
    Event.PUT_LATER: "put",
    Event.PUT_BLOCKED: "put",
    Event.ACK: "done",
    Event.RETRY: "failed",
    Event.LOSE: "lost",
    Event.BURY: "died",
    Event.EXPIRE: "died",
    Event.DISCARD: "dropped",
    Event.MOVE: "moved",
    Event.CANCEL: "cancelled",
    Event.PURGE: "purged",
    Event.REPLAY: "replayed",
    Event.REPLAY_BLOCKED: "replayed",
    Event.DROP: "dropped",
}


class IllegalTransition(Exception):
    """Our bug, never a peer's: the broker stops and starts again from disk."""


class Counts:
    """How many jobs of one queue are in which state, the bytes of those that wait, and how many went through which
    event."""

    __slots__ = ("jobs", "sizes", "totals")

    def __init__(self) -> None:
        self.jobs: dict[State, int] = dict.fromkeys(COUNTED, 0)
        self.sizes: dict[State, int] = dict.fromkeys(WAITING, 0)
        self.totals: dict[str, int] = dict.fromkeys(TOTALS, 0)

    @property
    def waiting_jobs(self) -> int:
        """Jobs that wait, for whatever."""
        return self.jobs[State.READY] + self.jobs[State.SCHEDULED] + self.jobs[State.BLOCKED]

    @property
    def waiting_bytes(self) -> int:
        """What they take on disk."""
        return sum(self.sizes.values())

    def move(self, before: State | None, event: Event, jobs: int, size: int) -> None:
        """Count ``jobs`` of ``size`` bytes in all that ``event`` takes out of the state ``before``."""
        try:
            after = TRANSITIONS[before, event]
        except KeyError:
            raise IllegalTransition(f"{event} of a job that is {before or 'gone'}") from None
        counts = self.jobs
        if before in counts:
            counts[before] -= jobs
            if counts[before] < 0:
                raise IllegalTransition(f"{event}: fewer than none would be {before}")
        if after in counts:
            counts[after] += jobs
        sizes = self.sizes
        if before in sizes:
            sizes[before] -= size
            if sizes[before] < 0:
                raise IllegalTransition(f"{event}: fewer than no bytes would be {before}")
        if after in sizes:
            sizes[after] += size
        total = _TOTAL_OF.get(event)
        if total is not None:
            self.totals[total] += jobs
