"""How far running jobs are, as their handlers report it: the latest of each job, gathered and told together.

It owns what was reported and not told yet, and when something may be told again. Handlers report from any thread and
never wait; the session takes, from one thread at a time. It sends nothing.
"""

from zworker.job import Job

INTERVAL_MS = 100
"""Progress is told this often at most, for all jobs together: people read it, and each costs the broker a row."""

_FOREVER = float("inf")

Report = tuple[int, bytes, float | None, str]
"""Fence, id, fraction from 0 to 1 or None, text: an entry of PROGRESS."""


class Reports:
    """What was reported and not told yet. ``latest`` maps each such job to its fraction and text."""

    def __init__(self) -> None:
        self.latest: dict[Job, tuple[float | None, str]] = {}
        self._announced = False
        self._not_before_ms = 0.0

    @property
    def due_ms(self) -> float:
        """When there is something to tell; monotonic ms."""
        return self._not_before_ms if self.latest else _FOREVER

    def add(self, job: Job, fraction: float | None, text: str) -> bool:
        """Keep a report in place of the job's last one; from any thread. Whether the session should be woken for it."""
        # First the report, then the look: whoever takes does it the other way round, so that none is overlooked.
        self.latest[job] = (fraction, text)
        if self._announced:
            return False
        self._announced = True
        return True

    def take(self, now: float) -> list[Report]:
        """Everything that is to be told now; what jobs reported that are settled or lost meanwhile is dropped."""
        self._announced = False
        reports = [report for _ in range(len(self.latest)) if (report := self._report(*self.latest.popitem()))]
        if reports:
            self._not_before_ms = now + INTERVAL_MS
        return reports

    def take_last(self, job: Job) -> list[Report]:
        """What a job that is being settled reported last, so that it is told before; empty if that was told."""
        self._announced = False
        last = self.latest.pop(job, None)
        return [] if last is None else [(job.fence, job.identifier, *last)]

    def _report(self, job: Job, last: tuple[float | None, str]) -> Report | None:
        return (job.fence, job.identifier, *last) if job.unsettled else None
