"""A loop of one's own over the jobs of a queue, instead of functions that are called: settle each job by hand.

    zbroker start                  in one terminal
    python consumer_loop.py        in another one

Leases are renewed while the loop works. Leaving the block gives back what is not settled.
"""

from zclient import Client
from zworker import Consumer


def main() -> None:
    with Client() as client:
        jobs = client.send_many("measurements", [20.5, 21.0, "a cat", 19.0, -400.0])
        total = 0.0

        # Up to ten jobs are here at once; `idle` ends the loop when nothing has come for so long.
        with Consumer(None, "measurements", credit=10, idle="1s") as consumer:
            for job in consumer:
                if not isinstance(job.payload, float):
                    job.reject("not a number")  # no other try can help: the job is dead
                elif job.payload < -273.15 and job.attempt == 1:
                    job.nack("colder than possible", delay="100ms")  # once more, in a while
                elif job.payload < -273.15:
                    job.reject("still colder than possible")
                else:
                    total += job.payload
                    job.ack(round(total, 1))  # the result, for whoever asks

        for sent in jobs:
            status = sent.status()
            told = status.result if status.state == "done" else (status.error or {}).get("text")
            print(f"{status.state} after attempt {status.attempts}: {told}")


if __name__ == "__main__":
    main()
