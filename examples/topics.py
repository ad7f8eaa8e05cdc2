"""Topics: every bound queue gets a copy, filters choose, a kept topic is read again, a tail follows it live.

zbroker start                       in one terminal
python topics.py                    in another
"""

from zclient import Client
from zworker import Job, Worker

worker = Worker()
seen: dict[str, list[str]] = {"mail": [], "big": []}


@worker.task("topics-mail")
def mail(order: int, job: Job) -> None:
    # A copy is an ordinary job; its headers tell under which topic it was published.
    assert job.headers["topic"].endswith(".created")
    seen["mail"].append(f"order {order}")


@worker.task("topics-big")
def big(order: int) -> None:
    seen["big"].append(f"order {order}")


def publish(client: Client, topic: str, order: int, amount: int) -> None:
    headers = {"amount": amount, "region": topic.split(".")[1]}
    published = client.publish(topic, {"order": order}, headers=headers)
    queues = "1 queue" if published.queues == 1 else f"{published.queues} queues"
    print(f"{topic}: {queues} took it")


def main() -> None:
    with Client() as client:
        # Who wants what: one word, any number of words, and headers.
        client.bind("orders.*.created", "topics-mail")
        client.bind("orders.#", "topics-big", filters=["amount>=100"])
        client.bind("#", "topics-europe", filters=["region in eu,uk"])
        client.keep_topic("orders.#", keep_for="1d", keep_bytes="10MB")

        publish(client, "orders.eu.created", 1, 120)
        publish(client, "orders.us.created", 2, 5)
        publish(client, "orders.eu.cancelled", 3, 200)
        publish(client, "users.created", 0, 7)  # no queue wants it, and that is no error

        copies = [*client.jobs("topics-mail", state="ready"), *client.jobs("topics-big", state="ready")]
        with worker:  # each queue has its own copies, and its own pace
            for copy in copies:
                client.result(copy.id)
        for queue, orders in seen.items():
            print(f"{queue}:", ", ".join(orders))

        # What is kept can be read again, and a new binding may begin there.
        kept = list(client.tail("orders.#", start="beginning", timeout=0))
        print("all that is kept:", ", ".join(f"order {one.payload['order']}" for one in kept))
        client.bind("orders.#", "topics-archive", start=kept[0].at)
        while any(binding.backfilling for binding in client.bindings("topics-archive")):
            continue
        print(f"archive got {client.queue('topics-archive')['ready']} copies of what was published before it was bound")

        # A tail: what is kept from there on, and then what comes.
        tail = client.tail("orders.eu.*", start=kept[2].at)
        told = [next(tail).payload["order"]]
        client.publish("orders.eu.created", {"order": 4})
        told.append(next(tail).payload["order"])
        tail.close()
        print("told:", ", ".join(f"order {order}" for order in told))
        client.forget_topic("orders.#")


if __name__ == "__main__":
    main()
