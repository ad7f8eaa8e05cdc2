"""The load: what each job is, as its id says, so that it can be sent again and judged from the id alone."""

import random
from typing import Any, NamedTuple

QUEUES = ("left", "right")
ACCOUNTS = 20
KEYS = 8


class Work(NamedTuple):
    """One job to send: where, what, and how."""

    queue: str
    payload: dict[str, Any]
    options: dict[str, Any]


def work_of(job: str) -> Work:
    """The same for the same id, in every process."""
    chance = random.Random(job)
    payload = {
        "account": f"account {chance.randrange(ACCOUNTS)}",
        "amount": chance.randint(1, 1000),
        # How long its work takes: mostly no time at all, sometimes long enough that somebody is killed meanwhile.
        "ms": chance.choice((0, 0, 0, 0, 1, 2, 5, 20, 50)),
        "begins": chance.random() < 0.3,  # it says that it begins before it works
        "fails": chance.random() < 0.1,  # its first attempt does
    }
    options: dict[str, Any] = {}
    if chance.random() < 0.3:
        options["key"] = f"key {chance.randrange(KEYS)}"
    if chance.random() < 0.2:
        options["priority"] = chance.choice((-1, 1))
    if chance.random() < 0.1:
        options["delay"] = chance.choice((0.01, 0.05, 0.3))
    return Work(chance.choice(QUEUES), payload, options)


def amount_of(job: str) -> int:
    return int(work_of(job).payload["amount"])
