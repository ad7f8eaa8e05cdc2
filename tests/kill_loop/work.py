"""The load: what each job is, as its id says, so that it can be sent again and judged from the id alone."""

import random
from typing import Any, NamedTuple

BOOKING = ("left", "right")
"""Their jobs book an amount in the handler's own database, each exactly once."""

STRICT = "strict"
"""One job of each key at a time, in order."""

FRAIL = "frail"
"""Its jobs fail, some until they are dead; some are cancelled."""

ONCE = "once"
"""Delivered at most once."""

QUEUES = (*BOOKING, STRICT, FRAIL, ONCE)
WEIGHTS = (3, 3, 2, 2, 2)

POLICIES: dict[str, dict[str, Any]] = {STRICT: {"key_limit": 1}, ONCE: {"delivery": "at_most_once"}}

MAX_ATTEMPTS = 10_000
"""Of the broker: no job dies of what is done to it here, but those that say less."""

FACTS: dict[str, Any] = {
    "max_attempts": MAX_ATTEMPTS,
    "in_order": [STRICT],
    "at_most_once": [ONCE],
    "effects": list(BOOKING),
}
"""What the history says of the queues."""

FRAIL_ATTEMPTS = 3
ACCOUNTS = 20
KEYS = 8


class Work(NamedTuple):
    """One job to send: where, what, and how. ``effect`` is the amount that it is to book, if any."""

    queue: str
    payload: dict[str, Any]
    options: dict[str, Any]
    effect: int | None
    is_cancelled: bool  # by its producer, as soon as it is confirmed


def work_of(job: str) -> Work:
    """The same for the same id, in every process."""
    chance = random.Random(job)
    (queue,) = chance.choices(QUEUES, WEIGHTS)
    payload = {
        "account": f"account {chance.randrange(ACCOUNTS)}",
        "amount": chance.randint(1, 1000),
        # How long its work takes: mostly no time at all, sometimes long enough that somebody is killed meanwhile.
        "ms": 500 if chance.random() < 0.02 else chance.choice((0, 0, 0, 0, 1, 2, 5, 20, 50)),
        "begins": chance.random() < 0.3,  # it says that it begins before it works
        "asks": chance.random() < 0.1,  # it asks for a longer lease
        "snoozes": chance.random() < 0.05,  # its first attempt gives it back, now and then more than once
        "fails": int(chance.random() < 0.1),  # so many of its first attempts do
    }
    options: dict[str, Any] = {}
    if chance.random() < 0.3 or queue == STRICT:
        options["key"] = f"key {chance.randrange(KEYS)}"
    if chance.random() < 0.2 and queue != STRICT:
        options["priority"] = chance.choice((-1, 1))
    if chance.random() < 0.1:
        options["delay"] = chance.choice((0.01, 0.05, 0.3))
    if queue == ONCE:
        payload["ms"] = chance.choice((0, 0, 50, 300))  # what is lost has mostly begun
        payload["snoozes"] = payload["snoozes"] and chance.random() < 0.2  # which is its end
    if queue == FRAIL:
        payload["fails"] = chance.choice((0, 0, 1, 2, FRAIL_ATTEMPTS, FRAIL_ATTEMPTS))
        options["max_attempts"] = FRAIL_ATTEMPTS
    return Work(
        queue,
        payload,
        options,
        payload["amount"] if queue in BOOKING else None,
        queue == FRAIL and chance.random() < 0.2,
    )


def told_of(work: Work) -> dict[str, Any]:
    """What the history says of a job that is sent."""
    told = {name: work.options[name] for name in ("delay", "max_attempts") if name in work.options}
    return told if work.effect is None else {**told, "effect": work.effect}
