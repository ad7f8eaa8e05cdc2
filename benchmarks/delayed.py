"""Jobs that fall due over a minute, spread evenly: how late each is taken, and what that costs the broker.

They are stored first, each with its moment, which its payload carries as well. A consumer takes and acks them as they
fall due, and compares the moment with the clock of the same host when it has the job in hand.
"""

import time
from functools import partial
from itertools import groupby
from multiprocessing.connection import Connection

from benchmarks.harness import PAYLOAD, running_broker, started, together
from benchmarks.wire import Groups, fill
from benchmarks.workloads import percentiles
from zclient.jobs import encode_payload
from zclient.protocol import messages as m
from zworker import Consumer

QUEUE = "delayed"
CREDIT = 1000

EACH_S = 1_000_000 / 60
"""How many fall due in a second, where that is not said: a million in a minute."""

STORED_EACH_S = 40_000
"""How many are stored in a second at the least; the first falls due when all should be stored."""

LEAD_S = 2.0
"""Between that moment and the first."""


def measure(jobs: int, spread_s: float) -> dict[str, float]:
    """Milliseconds from the moment to the hand of the consumer; how many were acked in a second, from the first moment
    to the last ack; the broker's processor time as a share of that time, and its memory in MiB. Raises `Missing`."""
    with running_broker() as process:
        first_ms = round(1000 * (time.time() + LEAD_S + jobs / STORED_EACH_S))
        fill(process.endpoint, jobs, spread(first_ms, jobs, 1000 * spread_s))
        filled = process.resident()
        if time.time() * 1000 > first_ms:
            raise RuntimeError("the first jobs fell due before all were stored: this machine is too slow for so many")
        begun = process.cpu_seconds()
        ((lateness, ended),) = together(partial(consume, process.endpoint, jobs))
        lasted = ended - first_ms / 1000
        return {
            **percentiles(lateness),
            "largest ms": 1000 * max(lateness),
            "jobs/s": jobs / lasted,
            "broker's CPU share": (process.cpu_seconds() - begun) / lasted,
            "memory when filled MiB": filled,
            "largest memory MiB": process.largest(),
        }


def spread(first_ms: int, jobs: int, over_ms: float) -> Groups:
    """Each job with the moment that it is due; those of the same millisecond share a group."""

    def groups(first: int, ids: list[bytes]) -> list[m.Group]:
        due = [first_ms + int(n * over_ms / jobs) for n in range(first, first + len(ids))]
        made = []
        for moment, same in groupby(range(len(ids)), due.__getitem__):
            numbers = list(same)
            payload = encode_payload([moment, PAYLOAD])
            made.append(m.Group(QUEUE, {"at": moment}, ids[numbers[0] : numbers[-1] + 1], [payload] * len(numbers)))
        return made

    return groups


def consume(endpoint: str, jobs: int, pipe: Connection) -> None:
    """Take and ack all; sends how late each came, in seconds, and when the last ack was answered (wall clock)."""
    lateness = []
    with Consumer(endpoint, QUEUE, credit=CREDIT) as consumer:
        started(pipe)
        for taken, job in enumerate(consumer, 1):
            lateness.append(time.time() - job.payload[0] / 1000)
            job.ack()
            if taken == jobs:
                break
    pipe.send((lateness, time.time()))
