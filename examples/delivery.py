"""At least once and at most once, with a clock that the program moves.

    python delivery.py                  it brings its own broker, in memory

The broker is `LocalBroker`, the real one without sockets and disk.
"""

from collections import Counter

from zbroker.testing import LocalBroker
from zworker import Worker

worker = Worker()
calls: Counter[str] = Counter()


@worker.task("letters")
@worker.task("sms")
def deliver(text: str) -> str:
    """Fails the first time."""
    calls[text] += 1
    if calls[text] == 1:
        raise ConnectionError("the line is dead")
    return f"{text} after {calls[text]} attempts"


def how_often(broker: LocalBroker) -> None:
    client = broker.client()
    client.set_queue("sms", delivery="at_most_once")
    letter, sms = client.send("letters", "a letter"), client.send("sms", "an sms")
    with broker.running(worker):
        broker.wait_idle()
        broker.advance("1m")  # longer than the first backoff
        broker.wait_idle()
    print("at least once:", letter.result(timeout=10))
    print("at most once:", sms.status().state, "after", calls["an sms"], "attempt")


def main() -> None:
    with LocalBroker() as broker:
        how_often(broker)


if __name__ == "__main__":
    main()
