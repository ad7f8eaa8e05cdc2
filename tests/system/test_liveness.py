"""The three clocks: is the process there, is it working, and who says so. With short settings, but for one test."""

from tests.system.processes import Child
from tests.system.system import System
from zclient import Client, JobHandle

QUICK = {"grace": "300ms", "heartbeat_interval": "200ms", "heartbeat_timeout": "900ms"}


def start_waiting(client: Client, worker: Child, n: int = 0) -> JobHandle:
    """A job that runs in this worker until it is told to go on, or loses the job."""
    job = client.send("q", {"do": "wait", "n": n})
    worker.expect("run", n=n)
    return job


def causes(job: JobHandle) -> list[str]:
    """Why its attempts failed."""
    return [entry["kind"] for entry in job.status().attempt_log]


def pass_time(client: Client, ms: int) -> None:
    """Return when the broker says that so many ms have passed: a job that waits for them is due."""
    client.send("clock", delay=ms / 1000)
    worker = client.queue("clock")
    assert worker["scheduled"] == 1


def test_a_killed_worker_has_its_jobs_with_another_within_five_seconds(system: System) -> None:
    broker = system.broker()  # as it is delivered: no short settings here
    client = system.client(broker.endpoint)
    victim = system.worker(broker.endpoint, concurrency=2)
    jobs = [start_waiting(client, victim, n) for n in range(2)]
    other = system.worker(broker.endpoint, concurrency=2)
    victim.kill()
    assert {other.expect("run", within=5, attempt=2)["n"]}  == {0}
    other.say("go")
    assert other.expect("run", within=5, attempt=2)["n"] == 1
    assert [job.result(timeout=10) for job in jobs] == [0, 1]
    assert [causes(job) for job in jobs] == [["worker lost"]] * 2
