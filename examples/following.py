"""Following jobs: progress as it is told, a wish to end a job that runs, results, and what is kept of them.

zbroker start                       in one terminal
python following.py                 in another one; it brings its own worker
"""

from zclient import Client, JobCancelled, NotFound
from zworker import Job, Worker

worker = Worker(concurrency=2)


@worker.task("scan")
def scan(pages: int, job: Job) -> str:
    """Tells how far it is. `Job.wait` returns early when the run should end; `Job.check` then raises."""
    for page in range(1, pages + 1):
        job.progress(page / pages, f"page {page} of {pages}")
        job.wait("200ms")
        job.check()
    return f"{pages} pages"


def follow(client: Client) -> None:
    """The job's state at once, then each change, then its end. Several changes at once come as one."""
    job = client.send("scan", {"pages": 3})
    told = []
    for status in job.watch(timeout=30):
        told.append(str(status.progress) if status.progress and status.state == "leased" else status.state)
    print("ended as", told[-1], "and told of pages on the way:", any("page" in text for text in told))
    print("result:", job.result(timeout=30))
    print("kept with the job:", job.status().progress)


def cancel(client: Client) -> None:
    """What waits is cancelled at once; what runs is told, and ends as soon as its handler looks."""
    waits = client.send("scan", {"pages": 1}, delay="1h")
    print("waiting job:", waits.cancel())
    runs = client.send("scan", {"pages": 10_000})
    for status in runs.watch(timeout=30):
        if status.progress:
            break
    print("running job:", runs.cancel())
    try:
        runs.result(timeout=30)
    except JobCancelled:
        print("and then:", runs.status().state, "with the wish kept:", runs.status().cancel_requested)


def forget(client: Client) -> None:
    """A queue may keep nothing: whoever waits, or asks a moment later, has the result all the same, and no more."""
    client.set_queue("scan", keep_done=0)
    job = client.send("scan", {"pages": 1})
    for status in job.watch(timeout=30):
        state = status.state
    print("ended as", state)
    print("result, for a moment:", job.result(timeout=30))
    try:
        job.status()
    except NotFound:
        print("nothing else is kept")
    client.unset_queue("scan", "keep_done")


def main() -> None:
    with Client() as client, worker:
        follow(client)
        cancel(client)
        print("listed:", [job.state for job in client.jobs("scan", state="cancelled")])
        forget(client)


if __name__ == "__main__":
    main()
