"""Everything that holds a queue back: in flight, rates, keys, length; with a clock that the program moves.

    python limits.py                    it brings its own broker, in memory

The broker is `LocalBroker`, the real one without sockets and disk, so that a minute passes in a moment.
"""

import threading

from zbroker.testing import LocalBroker
from zclient import Client, QueueFull
from zworker import Worker

worker = Worker(concurrency=100)
doors: dict[str, threading.Event] = {}
running: list[str] = []


@worker.task("calls")
def call(number: int) -> int:
    return number


@worker.task("builds")
def build(name: str) -> None:
    """Goes on until somebody opens its door."""
    running.append(name)
    doors.setdefault(name, threading.Event()).wait(30)
    running.remove(name)


def leased(client: Client, queue: str) -> int:
    return int(client.queue(queue)["leased"])


def why(client: Client, job_id: str) -> str:
    """The first of the reasons why a job does not run: what has to change first."""
    return str(client.why(job_id).reasons[0]["text"])


def rates(broker: LocalBroker, client: Client) -> None:
    client.set_queue("calls", rate="10/1m")
    jobs = client.send_many("calls", range(30))
    for after in ("0s", "6s", "54s"):
        broker.advance(after)
        broker.wait_idle()
        print(f"{after} later:", client.queue("calls")["totals"]["done"], "calls are done")
    print(why(client, jobs[29].id).partition(":")[0])
    client.unset_queue("calls", "rate")


def in_flight(client: Client) -> None:
    """At most four builds at once, and of one customer at most two."""
    client.set_queue("builds", in_flight_limit=4, key_limit=2)
    ids = [client.send("builds", f"{who}{n}", key=who).id for who in ("ada", "grace", "mary") for n in range(3)]
    print("builds that run:", leased(client, "builds"))
    print(why(client, ids[2]))
    client.set_queue("builds", in_flight_limit=0)
    print("without that limit:", leased(client, "builds"))
    print(why(client, ids[2]).partition(",")[0])


def length(client: Client) -> None:
    client.set_queue("mails", max_jobs=3, max_bytes=10_000)
    client.send_many("mails", ["one", "two"])
    try:
        client.send_many("mails", ["three", "four"], timeout="300ms")
    except QueueFull as error:
        print("refused whole:", error)
    client.send("mails", "three")
    print("waiting:", client.queue("mails")["ready"])


def main() -> None:
    with LocalBroker(lease="1h") as broker:
        client = broker.client()
        with broker.running(worker):
            rates(broker, client)
            in_flight(client)
            length(client)
            for name in ("ada", "grace", "mary"):
                for n in range(3):
                    doors.setdefault(f"{name}{n}", threading.Event()).set()
            broker.wait_idle()
        print("builds done:", client.queue("builds")["totals"]["done"])


if __name__ == "__main__":
    main()
