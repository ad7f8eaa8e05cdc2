"""Jobs and time: kept back, put off, too late, and running too long.

zbroker start                       in one terminal
python expiry.py                    in another one; it brings its own worker
"""

import asyncio
import time

from zclient import Client, JobFailed, JobHandle
from zworker import Job, Snooze, Worker

worker = Worker()
opens_at = time.monotonic() + 1


@worker.task("quote")
def quote(symbol: str) -> str:
    return f"{symbol} at 17"


@worker.task("trade")
def trade(symbol: str, job: Job) -> str:
    """Not before the exchange opens. A snooze burns no attempt."""
    if time.monotonic() < opens_at:
        raise Snooze("300ms")
    return f"{symbol} traded at attempt {job.attempt}"


@worker.task("report", timeout="200ms", max_attempts=1)
async def report() -> None:
    """A run that takes longer than the task's own timeout has failed."""
    await asyncio.sleep(60)


@worker.task("import")
async def slow_import(job: Job) -> str:
    """A run that takes longer than its queue's `max_run` has failed, whatever its worker thinks of it."""
    await asyncio.sleep(60 if job.attempt == 1 else 0)
    return f"imported at attempt {job.attempt}"


def outcome(job: JobHandle) -> str:
    try:
        return str(job.result(timeout=30))
    except JobFailed as error:
        return f"dead: {error.reason}, {error.error.get('type') or 'never begun'}"


def main() -> None:
    with Client() as client:
        # What nobody began in its time is dead. The job has the last word: 0 is no limit.
        client.set_queue("quote", ttl="200ms")
        late, patient = client.send("quote", "TEA"), client.send("quote", "COFFEE", ttl=0)
        delayed = client.send("quote", "COCOA", delay="2s", ttl="1m")  # the minute begins when it may first run
        print("no worker yet, quote is", outcome(late))
        print("kept back, quote is", delayed.status().state)

        client.set_queue("import", max_run="300ms", backoff=["100ms"])
        with worker:
            print(outcome(patient))
            print(outcome(client.send("trade", "TEA")))
            print(outcome(delayed))
            print("report is", outcome(client.send("report")))
            print(outcome(client.send("import")))

            client.replay(late)  # somebody wants it nevertheless: a replayed job expires no more
            print(outcome(late))


if __name__ == "__main__":
    main()
