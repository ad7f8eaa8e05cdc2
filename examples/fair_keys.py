"""Who is served first: priorities, tenants that share a queue fairly, weights, and jobs that must run in their order.

    zbroker start                       in one terminal
    python fair_keys.py                 in another one; it brings its own worker

A job's `key` says whose it is. Among keys of one priority the broker serves one job of each in turn.
"""

from collections.abc import Callable

from zclient import Client
from zworker import Job, Retry, Worker

worker = Worker(concurrency=1)  # one at a time, so that the order is seen
ran: list[str] = []


@worker.task("reports")
def report(what: str) -> None:
    ran.append(what)


@worker.task("orders")
def order_step(step: str, job: Job) -> None:
    """The payment does not go through at once."""
    if step == "7 paid" and job.attempt == 1:
        ran.append("7 not paid")
        raise Retry(delay="500ms", reason="the bank does not answer")
    ran.append(step)


def run(client: Client, queue: str, send: Callable[[], None]) -> list[str]:
    """What was run, in its order, of what `send` puts into the queue while it is paused."""
    ran.clear()
    client.pause(queue)
    send()
    client.resume(queue)
    client.send(queue, "end", priority=-100).result(timeout=30)  # behind all that wait now
    return ran[:-1]


def main() -> None:
    with Client() as client, worker:

        def tenants() -> None:
            client.send_many("reports", ["large"] * 1000, key="large")
            client.send_many("reports", ["small"] * 2, key="small")
            client.send("reports", "urgent", priority=5)

        client.set_queue("reports", key_weights={})
        print("a large tenant and a small one:", *run(client, "reports", tenants)[:7])

        def plans() -> None:
            client.send_many("reports", ["free"] * 4, key="free")
            client.send_many("reports", ["paying"] * 6, key="paying")

        client.set_queue("reports", key_weights={"paying": 3})
        print("three turns for who pays:", *run(client, "reports", plans))

        def steps() -> None:
            for step in ("made", "paid", "sent"):
                client.send("orders", f"7 {step}", key="order-7")
                client.send("orders", f"8 {step}", key="order-8")

        client.set_queue("orders", key_limit=1)
        client.pause("orders")
        steps()
        last = client.send("orders", "7 closed", key="order-7")
        ran.clear()
        client.resume("orders")
        last.result(timeout=30)
        print("order 7:", *(step[2:] + "," for step in ran if step.startswith("7")))
        print("order 8 did not wait for it:", ran.index("8 sent") < ran.index("7 paid"))


if __name__ == "__main__":
    main()
