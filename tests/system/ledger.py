"""What happened to each job, from the events of workers and producers, and what of it is allowed.

At least once, and no more often than the faults explain.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from tests.system.processes import Child
from zclient import Client


class Run(NamedTuple):
    """One run of a job, as its worker told it. The fence grows with every delivery."""

    fence: int
    attempt: int
    pid: int
    ended: bool  # the handler returned


class Ledger:
    """The runs of each job, in the order of their deliveries."""

    def __init__(self, workers: Iterable[Child]) -> None:
        self.runs: dict[str, list[Run]] = defaultdict(list)
        for worker in workers:
            ended = {(event["job"], event["fence"]) for event in worker.named("end")}
            for event in worker.named("run"):
                run = Run(event["fence"], event["attempt"], worker.pid, (event["job"], event["fence"]) in ended)
                self.runs[event["job"]].append(run)
        for runs in self.runs.values():
            runs.sort()

    def burnt(self) -> list[str]:
        """The jobs of which an attempt was burnt; each ran again, or was on its way to a worker that died."""
        return [job for job, runs in self.runs.items() if runs[-1].attempt > 1]

    def check(self, confirmed: Iterable[str], client: Client, killed: Collection[int] = ()) -> None:
        """Every confirmed job ran to its end, and before that only in workers that were killed."""
        assert [job for job in confirmed if job not in self.runs] == []
        for job, runs in self.runs.items():
            assert len({run.fence for run in runs}) == len(runs), f"job {job} ran twice under one fence: {runs}"
            assert all(run.pid in killed for run in runs[:-1]), f"job {job} ran again without a reason: {runs}"
            assert runs[-1].ended, f"the last run of job {job} did not end: {runs}"
        for job in self.burnt():
            log = client.get(job).attempt_log
            assert [entry["number"] for entry in log] == list(range(1, self.runs[job][-1].attempt)), log
            lost_by = {int(entry["worker"].rpartition(":")[2]) for entry in log if entry["kind"] == "worker lost"}
            assert len(log) == sum(entry["kind"] == "worker lost" for entry in log), log
            assert lost_by <= set(killed), log


def confirmed_of(producers: Iterable[Child]) -> dict[str, Any]:
    """The confirmed jobs of producers, and their payloads."""
    return {event["job"]: event["n"] for producer in producers for event in producer.named("confirmed")}
