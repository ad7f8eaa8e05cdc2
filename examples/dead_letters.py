"""Dead jobs as a queue of their own, counted by what they died of, replayed in part and at a rate.

zbroker start                       in one terminal
python dead_letters.py              in another one; it brings its own worker
"""

import threading
import time

from zclient import Client, JobFailed
from zworker import Job, Worker

worker = Worker()
mail_server_is_up = threading.Event()


@worker.task("mail", backoff=["10ms"], max_attempts=2, reject_on=ValueError)
def mail(address: str) -> str:
    """A server that is down may be up next time; an address that is none stays so."""
    if "@" not in address:
        raise ValueError(f"no address: {address}")
    if not mail_server_is_up.is_set():
        raise ConnectionError("the mail server is down")
    return f"mail to {address}"


@worker.task("payment", max_attempts=1)
def payment(order: int) -> None:
    raise RuntimeError(f"order {order}: card refused")


@worker.task("payment-by-hand")
def by_hand(order: int, job: Job) -> str:
    """Gets the dead jobs of `payment`. Their headers say where they come from and why."""
    return f"order {order} by hand, since {job.headers['dead_queue']} said: {job.headers['dead_error']}"


def main() -> None:
    with Client() as client, worker:
        addresses = [f"reader{n}@example.org" for n in range(20)]
        jobs = client.send_many("mail", [*addresses, "nobody"])
        for job in jobs:
            try:
                job.result(timeout=30)
            except JobFailed:
                pass  # looked at below, all together

        for group in client.dead_groups("mail"):
            print(f"{group['jobs']} dead: {group['reason']}, {group['error']}, {group['text']}")

        # The fault is repaired: those that died of it run again, not all at once. The others stay.
        mail_server_is_up.set()
        began = time.monotonic()
        client.replay(queue="mail", error="ConnectionError", rate=40)
        while client.queue("mail")["dead"] > 1:  # the broker goes on with it by itself, also over a restart
            time.sleep(0.05)
        print("twenty at forty a second take nearly half a second:", time.monotonic() - began > 0.3)
        print(jobs[19].result(timeout=30))
        print("still dead:", [dead.reason for dead in client.dead("mail")])
        client.drop(queue="mail", reason="rejected")

        # A queue may give its dead jobs to another one, where a worker or a person takes them up.
        client.set_queue("payment", dead_to="payment-by-hand")
        job = client.send("payment", 17)
        try:
            print(job.result(timeout=30))
        except JobFailed:  # who waits while it dies is told so, with `moved_to`; waiting again is for its end there
            print(job.result(timeout=30))
        print("moved to", job.status().queue)


if __name__ == "__main__":
    main()
