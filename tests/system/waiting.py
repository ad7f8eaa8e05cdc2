"""For tests of who is there and who is not: a job that waits inside a worker, time that passes, why attempts failed."""

from collections.abc import Sequence

from tests.system.processes import Child, eventually
from zclient import Client, JobHandle


def wait_in(worker: Child, client: Client, n: int = 0) -> JobHandle:
    """A job that runs in this worker, the only one so far, until the test says go or the job is lost."""
    job = client.send("q", {"do": "wait", "n": n})
    worker.expect("run", n=n)
    return job


def let_pass(client: Client, seconds: float) -> None:
    """Return when the broker says that so much time has passed: a job that waits for it is ready."""
    client.send("clock", delay=seconds)
    eventually(lambda: client.queue("clock")["scheduled"] == 0)


def begun(workers: Sequence[Child], runs: int) -> None:
    """Return when these workers together began so many runs; which of them did more is chance."""
    eventually(lambda: sum(len(worker.named("run")) for worker in workers) >= runs)


def causes(job: JobHandle) -> list[str]:
    """Why its attempts so far failed."""
    return [entry["kind"] for entry in job.status().attempt_log]
