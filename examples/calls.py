"""Request and reply, and jobs that are sent with the ack of the job that made them.

zbroker start                       in one terminal
python calls.py                     in another one; it brings its own worker
"""

from zclient import Client, JobFailed, ResultTimeout
from zworker import Job, Reject, Worker

worker = Worker(concurrency=4)


@worker.task("convert")
def convert(celsius: float) -> float:
    if celsius < -273.15:
        raise Reject("colder than possible")
    return celsius * 9 / 5 + 32


@worker.task("order", max_attempts=2, backoff="constant", backoff_min="100ms")
def order(number: int, job: Job) -> str:
    """Three jobs follow from an order. They are stored in the commit of its ack: all of them, once, or none."""
    job.send("mail", f"order {number} came in")
    job.send("pack", number, priority=5)
    if job.attempt == 1:
        raise RuntimeError("the database is away")  # nothing was sent: the next run does all of it again
    job.send("mail", f"order {number} is packed", delay="2d")
    return f"order {number} at attempt {job.attempt}"


@worker.task("mail")
@worker.task("pack")
def follow(what: str | int) -> None:
    pass


def call(client: Client) -> None:
    """A job whose caller waits. Nobody begins it once the caller has given up."""
    print("20 degrees are", client.call("convert", {"celsius": 20}, timeout=10))
    try:
        client.call("convert", {"celsius": -300}, timeout=10)
    except JobFailed as error:
        print("failed:", error.reason)
    try:
        client.call("nobody-serves-this", timeout="300ms")
    except ResultTimeout:
        print("gave up; will anybody begin it?", client.queue("nobody-serves-this")["ready"] > 0)


def put(client: Client) -> int:
    """How many jobs the two queues were ever given."""
    return sum(queue["totals"]["put"] for queue in client.queues() if queue["queue"] in ("mail", "pack"))


def main() -> None:
    with Client() as client, worker:
        call(client)
        before = put(client)
        print(client.call("order", {"number": 17}, timeout=30))
        print("sent with the ack:", put(client) - before)


if __name__ == "__main__":
    main()
