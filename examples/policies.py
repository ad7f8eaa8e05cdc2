"""What a queue says of its jobs, set while it is in use; pausing, draining, purging; and why a job does not run.

zbroker start                       in one terminal
python policies.py                  in another one; it brings its own worker
"""

from zclient import Client, QueueClosed, QueueFull
from zworker import Worker

worker = Worker()


@worker.task("print")
def print_page(page: int) -> str:
    return f"page {page}"


def why(client: Client, job_id: str) -> str:
    """The broker's first reason: what has to change first."""
    return str(client.why(job_id).reasons[0]["text"])


def main() -> None:
    with Client() as client:
        policy = client.set_queue("print", lease="1m", rate="10/1m", max_jobs=3)
        for option in ("lease", "rate", "max_attempts"):
            print(f"{option} = {policy[option].value} ({policy[option].source})")

        jobs = [client.send("print", page) for page in (1, 2, 3)]
        try:
            client.send("print", 4, timeout="300ms")
        except QueueFull as error:
            print("full:", error)
        print("1:", why(client, jobs[0].id))

        client.pause("print")
        print("2:", why(client, jobs[0].id))
        client.resume("print")

        with worker:
            print("done:", jobs[0].result(timeout=30))
            print("3:", why(client, jobs[1].id).partition(":")[0])
            client.unset_queue("print", "rate")  # holds at once: the others need not wait for the next six seconds
            print("done:", jobs[1].result(timeout=30), "and", jobs[2].result(timeout=30))

        client.drain("print")
        try:
            client.send("print", 5)
        except QueueClosed as error:
            print("closed:", error)
        client.resume("print")

        client.send("print", 6)
        print("purged:", client.purge("print"))
        client.unset_queue("print", "lease", "max_jobs")


if __name__ == "__main__":
    main()
