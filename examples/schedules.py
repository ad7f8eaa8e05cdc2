"""Jobs that come by themselves: cron expressions, intervals, overlap, pausing, and one run by hand.

    python schedules.py                 it brings its own broker, in memory

The broker is `LocalBroker`, the real one without sockets and disk, so that days pass in a moment.
"""

from zbroker.testing import LocalBroker
from zclient import Client
from zworker import Job, Worker

worker = Worker()
reports: list[str] = []


@worker.task("report")
def report(kind: str, job: Job) -> None:
    # Every job of a schedule says in its headers which one made it, and for when (Unix ms).
    reports.append(f"{kind} for {job.headers['schedule']}")


def nightly(broker: LocalBroker, client: Client) -> None:
    """A cron expression. In a real one, say the zone: tz="Europe/Berlin"; this one is in UTC."""
    schedule = client.schedule("nightly", "report", {"kind": "daily"}, cron="30 3 * * *", max_attempts=3)
    print(schedule.words, schedule.tz)
    with broker.running(worker):
        broker.advance("3d")
        print("in three days:", reports)
        job = client.run_schedule("nightly")  # one more now, whatever the time
        job.result(timeout=30)
    (schedule,) = client.schedules()
    print("jobs made:", schedule.jobs)


def overlapping(broker: LocalBroker, client: Client) -> None:
    """Nobody works on these: what should come while the job before still waits?"""
    for overlap in ("allow", "skip"):
        client.schedule(f"poll-{overlap}", f"poll-{overlap}", every="10m", overlap=overlap)
    broker.advance("1h")
    for schedule in client.schedules():
        if schedule.name.startswith("poll"):
            print(f"{schedule.name}: {schedule.jobs} jobs, {schedule.skipped} occurrences without one")


def changing(broker: LocalBroker, client: Client) -> None:
    """A schedule is changed by setting it again: what it says of its past stays."""
    client.pause_schedule("poll-allow")
    broker.advance("1h")
    resumed = client.resume_schedule("poll-allow")
    print("after a rest of an hour:", resumed.jobs, "jobs; what passed meanwhile is over")
    changed = client.schedule("poll-allow", "poll-allow", every="1m")
    broker.advance("10m")
    print(changed.words, "from now on:", client.queue("poll-allow")["ready"], "jobs wait")
    client.remove_schedule("poll-allow")
    print("left:", [schedule.name for schedule in client.schedules()])


def main() -> None:
    with LocalBroker() as broker:
        client = broker.client()
        nightly(broker, client)
        overlapping(broker, client)
        changing(broker, client)


if __name__ == "__main__":
    main()
