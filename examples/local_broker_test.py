"""Testing code that uses jobs: `LocalBroker` is the real broker's core, on memory, with a clock that the test moves.

    pytest local_broker_test.py

No process is started, no port is opened, and three days pass in a moment.
"""

from zbroker.testing import LocalBroker
from zclient import Client
from zworker import Job, Retry, Snooze, Worker

# ---- what is tested

worker = Worker()
outbox: list[str] = []
blocked = {"grace@example.org"}


@worker.task("remind")
def remind(address: str, job: Job) -> str:
    """Sends a mail, unless the receiver asked for some days of silence."""
    if address in blocked:
        raise Snooze("7d")
    if address.startswith("slow") and job.attempt == 1:
        raise Retry(delay="1h", reason="the mail server is busy")
    outbox.append(address)
    return f"sent at attempt {job.attempt}"


def sign_up(client: Client, address: str) -> str:
    """Remembers to remind somebody in three days; the id of the job."""
    return client.send("remind", {"address": address}, delay="3d").id


# ---- the tests


def test_a_reminder_comes_after_three_days() -> None:
    outbox.clear()
    with LocalBroker() as broker, broker.running(worker):
        client = broker.client()
        job = sign_up(client, "ada@example.org")
        broker.advance("2d")
        assert outbox == []
        broker.advance("1d")
        assert outbox == ["ada@example.org"]
        assert client.result(job) == "sent at attempt 1"


def test_a_busy_mail_server_is_tried_again_in_an_hour() -> None:
    outbox.clear()
    with LocalBroker() as broker, broker.running(worker):
        client = broker.client()
        job = sign_up(client, "slow@example.org")
        broker.advance("3d")
        assert client.get(job).state == "scheduled"
        broker.advance("1h")
        assert client.result(job) == "sent at attempt 2"


def test_silence_is_kept_and_the_reminder_is_not_lost_with_the_broker() -> None:
    outbox.clear()
    with LocalBroker() as broker, broker.running(worker):
        client = broker.client()
        job = sign_up(client, "grace@example.org")
        broker.advance("4d")
        assert outbox == []
        blocked.clear()
        broker.restart()  # the broker dies and starts again from what it had committed
        broker.advance("6d")
        assert client.result(job) == "sent at attempt 1"  # a snooze burns no attempt
