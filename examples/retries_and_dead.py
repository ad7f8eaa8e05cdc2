"""What becomes of jobs that fail: tried again, given up, looked at, and replayed once the fault is repaired.

    zbroker start                       in one terminal
    python retries_and_dead.py          in another one; it brings its own worker

How often and when a job is tried again is the queue's policy; a task may say more about it, a job has the last word.
"""

from zclient import Client, JobFailed
from zworker import Job, Reject, Retry, Worker

worker = Worker()
prices = {"tea": 3}


@worker.task("fetch")
def fetch(url: str, job: Job) -> str:
    """Fails twice. `Retry` says when to try again; any other exception would leave that to the queue's backoff."""
    if job.attempt < 3:
        raise Retry(delay="200ms", reason=f"{url} does not answer")
    return f"{url} answered at attempt {job.attempt}"


@worker.task("order", max_attempts=2)
def order(item: str, count: int) -> int:
    """Some orders can never work, and `Reject` says so: no further try. A missing price may be added one day."""
    if count < 1:
        raise Reject(f"nobody orders {count} of a thing")
    try:
        return prices[item] * count
    except KeyError:
        raise Retry(delay="200ms", reason=f"no price for {item}") from None


@worker.task("sync", backoff=["50ms", "100ms", "1h"], backoff_jitter=0, max_attempts=4, retry_on=OSError)
def sync(account: str, job: Job) -> str:
    """Tried again when the other side does not answer, and after no other error."""
    if account == "unknown":
        raise LookupError(account)
    if job.attempt < 3:
        raise ConnectionError(account)
    return f"{account} in sync at attempt {job.attempt}"


def main() -> None:
    with Client() as client, worker:
        print(client.send("fetch", {"url": "https://example.org"}).result(timeout=30))

        print(client.send("sync", "ada").result(timeout=30))
        for account, attempts in (("unknown", None), ("grace", 1)):  # the second says itself that once is enough
            try:
                client.send("sync", account, max_attempts=attempts).result(timeout=30)
            except JobFailed as error:
                print(f"sync {account}: {error.reason}")

        jobs = client.send_many("order", [["tea", 2], ["tea", 0], ["coffee", 1]])
        for job in jobs:
            try:
                print("order:", job.result(timeout=30))
            except JobFailed as error:
                print("order failed:", error.error["text"])

        # Dead jobs stay, with every attempt's error, worker and time, until they are replayed or dropped.
        for dead in client.dead("order"):
            print(f"dead after attempt {dead.attempts}: {dead.reason}")

        prices["coffee"] = 4
        client.replay(jobs[2])
        print("replayed:", jobs[2].result(timeout=30))
        client.drop(jobs[1])
        print("dead now:", len(list(client.dead("order"))))


if __name__ == "__main__":
    main()
