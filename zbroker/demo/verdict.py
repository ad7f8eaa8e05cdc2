"""What came of the demo: figures, what was redelivered, and whether all of it is right. It only reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from zbroker.check import check_directory
from zbroker.demo.screen import Screen
from zclient import JobStatus

COUNTS = ("files", "lines", "comments", "functions", "classes", "instructions")
RANKINGS = {"largest": ("largest files", "lines"), "names": ("most used", "times"), "imports": ("imported", "files")}

MOST_ROWS = 8
"""Rows in the table of redelivered jobs."""

EPOCH_BITS = 32
"""A fence is the epoch, which grows with each start of the broker, and below it a number of 32 bits."""


@dataclass
class Story:
    """What happened, as far as the verdict needs it."""

    summary: Mapping[str, Any] = field(default_factory=dict)  # the summary job's result
    jobs: Sequence[JobStatus] = ()  # the indexing jobs, when all was over
    paths: Mapping[str, str] = field(default_factory=dict)  # job id -> the file that it was about
    totals: Mapping[str, int] = field(default_factory=dict)  # the broker's counters
    workers: Mapping[int, str] = field(default_factory=dict)  # process id -> the worker's name in the demo
    victim: str = ""  # the worker that was killed
    broker_killed_at: datetime | None = None
    left_leased: int = 0  # jobs with workers, by what the killed broker left on disk

    @property
    def lost(self) -> list[JobStatus]:
        """The jobs that were lost with a worker, and run again."""
        return [job for job in self.jobs if job.attempts > 1]

    @property
    def kept(self) -> int:
        """Jobs that their workers had when the broker was killed, and settled after it came back."""
        killed_at = self.broker_killed_at
        return sum(
            1
            for job in self.jobs
            if killed_at and job.finished_at and job.finished_at > killed_at and (job.fence or 0) >> EPOCH_BITS == 1
        )

    @property
    def returned(self) -> int:
        """Jobs that were handed over before the broker was killed, and once more after it came back."""
        return self.left_leased - self.kept


def faults(story: Story, direct: Mapping[str, Any], data: Path) -> list[str]:
    """Everything that is not as it has to be, in words; nothing, if all is well. ``data`` is a directory at rest."""
    found = []
    sent = len(story.paths) + 1  # and the summary job
    if len(story.jobs) != len(story.paths) or {job.id for job in story.jobs} != story.paths.keys():
        found.append(f"{len(story.paths)} files were sent, and the broker knows {len(story.jobs)} jobs that are done")
    for name, expected in (("put", sent), ("done", sent), ("died", 0), ("failed", 0)):
        if story.totals.get(name) != expected:
            found.append(f"the broker counts {story.totals.get(name)} jobs as {name}, and it should be {expected}")
    for name in sorted(direct.keys() | story.summary.keys()):
        if story.summary.get(name) != direct.get(name):
            found.append(f"{name}: the jobs found {story.summary.get(name)}, one process finds {direct.get(name)}")
    found += [f"the data directory: {fault}" for fault in check_directory(data).faults]
    return found


def show_found(screen: Screen, summary: Mapping[str, Any]) -> None:
    """The figures, and the rankings side by side."""
    screen.heading("What the jobs found")
    screen.table(COUNTS, [[summary[name] for name in COUNTS]])
    rankings = [summary[name] for name in RANKINGS]
    screen.table(
        [title for titles in RANKINGS.values() for title in titles],
        [[cell for pair in pairs for cell in pair] for pairs in zip(*rankings, strict=False)],
    )


def show_redelivered(screen: Screen, story: Story) -> None:
    """Which jobs were run again and why, and what became of those that ran while the broker was away."""
    rows = [
        (story.paths[job.id], job.attempts, "; ".join(_told(story, attempt) for attempt in job.attempt_log))
        for job in story.lost
    ]
    screen.heading("What was redelivered")
    if rows:
        screen.table(("file", "attempts", "why"), rows[:MOST_ROWS])
        screen.note(f"{len(rows)} jobs were lost with {story.victim}, and run again by another worker.")
    else:
        screen.note(f"The broker was killed before it noticed that {story.victim} was gone.")
    screen.note(
        f"{story.left_leased} jobs were with workers when the broker was killed: {story.kept} were settled there when "
        f"it was back, {story.returned} were delivered again."
    )


def _told(story: Story, attempt: Mapping[str, Any]) -> str:
    """One failed attempt: what it was, and on which worker."""
    pid = str(attempt.get("worker")).rpartition(":")[2]
    worker = story.workers.get(int(pid)) if pid.isdigit() else None
    return f"{attempt.get('kind')} ({worker or attempt.get('worker')})"
