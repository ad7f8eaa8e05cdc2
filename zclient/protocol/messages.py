"""The messages of the native protocol, version 1, as plain data; ``docs/protocol.md`` is their specification.

Each class is one command; its number stands in ``codec.py`` and is never reused. Ids, payloads and results are bytes
here: neither the session nor the broker opens a payload.
"""

from enum import IntEnum
from typing import Any, NamedTuple


class Outcome(IntEnum):
    """How a worker settles a delivered job."""

    ACK = 1  # done; value: the encoded result, or None
    NACK = 2  # failed, retry; value: an error map, which may carry "delay" in ms
    REJECT = 3  # failed, don't retry; value: an error map
    RELEASE = 4  # given back, no attempt burnt; value: None, or True if the job was never started
    SNOOZE = 5  # given back until a time, no attempt burnt; value: ms from now


class Group(NamedTuple):
    """Jobs of one PUT that share queue and options: the unit that costs the broker one header."""

    queue: str
    options: dict[str, Any]
    ids: list[bytes]
    payloads: list[bytes]


class Held(NamedTuple):
    """What a worker still holds of one delivery when it says HELLO."""

    fence: int
    started: list[bytes]
    waiting: list[bytes]


class Settlement(NamedTuple):
    """Jobs of one delivery that end the same way. ``values`` is None, or one value a job as `Outcome` says."""

    fence: int
    outcome: int
    ids: list[bytes]
    values: list[Any] | None


class Publication(NamedTuple):
    """What is published under a topic: each bound queue that takes it gets a copy, a job with these options."""

    topic: str
    options: dict[str, Any]
    id: bytes
    payload: bytes


class Told(NamedTuple):
    """A publication as it is told to those who follow its topic. ``offset`` is its place among all that are kept; 0 if
    it is not. ``at_ms``: when it was published, Unix milliseconds, by the broker's clock."""

    offset: int
    topic: str
    options: dict[str, Any]
    id: bytes
    at_ms: int
    payload: bytes


class Sent(NamedTuple):
    """What a handler sent and published: stored in the commit of its own job's ack, or not at all."""

    fence: int
    id: bytes
    groups: list[Group]
    publications: list[Publication] = []  # noqa: RUF012 (nobody changes it)


# ---- from a peer to the broker


class Hello(NamedTuple):
    version: int
    incarnation: bytes
    name: str
    capacity: int  # 0 for a peer that only produces
    queues: list[str]
    held: list[Held]
    resend_below: int  # batch numbers below this were sent before to a broker that confirmed some; else 0
    info: dict[str, Any]  # host, pid, versions: shown to people, never decided on
    tasks: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (nobody changes it): queue -> options of the worker's task


class Goodbye(NamedTuple):
    pass


class Put(NamedTuple):
    number: int
    low: int  # the oldest number its sender has no answer to
    groups: list[Group]


class Publish(NamedTuple):
    """Copies of all of them to all queues that take them, in one commit or not at all. Numbered like PUT."""

    number: int
    low: int
    publications: list[Publication]


class Tail(NamedTuple):
    """Follow what is published under a pattern from now on, or allow more of it. ``tail`` is the peer's name for it."""

    number: int
    tail: int
    pattern: str | None  # None: no longer
    filters: list[Any]
    position: int  # publications may come up to this one, counted from 0 since the tail began
    octets: int  # and until their payloads are so many bytes in all


class Settle(NamedTuple):
    number: int
    settlements: list[Settlement]
    sends: list[Sent] = []  # noqa: RUF012 (nobody changes it)


class Renew(NamedTuple):
    fences: list[int]


class Capacity(NamedTuple):
    capacity: int


class Extend(NamedTuple):
    number: int
    fence: int
    id: bytes
    duration_ms: int


class Watch(NamedTuple):
    ids: list[bytes]
    changes: bool = False  # told of each change on the way as well, not of the end alone


class Unwatch(NamedTuple):
    ids: list[bytes]


class Progress(NamedTuple):
    """How far running jobs are: fence, id, fraction from 0 to 1 or None, a text. The latest one counts."""

    entries: list[tuple[int, bytes, float | None, str]]


class Read(NamedTuple):
    """The reader of a stream: which partials of the run ``fence`` it has, and up to which it may be sent."""

    id: bytes
    fence: int  # 0: none was heard of
    have: int  # the partials of that run that it has: 0 to have - 1
    upto: int  # it may be sent those below
    again: bool  # what it does not have may be lost on the way: send it again


class Partial(NamedTuple):
    """What a handler yielded, for the reader of its job."""

    fence: int
    id: bytes
    first: int  # the number of the first; the first of a run is 0
    values: list[bytes]
    last: bool  # the run yields no more


class Ask(NamedTuple):
    """A question: changes nothing, may be asked again at will."""

    number: int
    verb: str
    arguments: dict[str, Any]


class Order(NamedTuple):
    """A change: numbered like PUT, applied once."""

    number: int
    low: int
    verb: str
    arguments: dict[str, Any]


class Workflow(NamedTuple):
    """A workflow, or a part of a large one: numbered like PUT, applied once. ``plan`` stands in the first part."""

    number: int
    low: int
    id: bytes
    part: int  # 0, 1, ... parts - 1, in this order
    parts: int
    plan: dict[str, Any] | None  # name, steps; see plans.py
    groups: list[Group]


# ---- from the broker to a peer


class Welcome(NamedTuple):
    version: int
    broker: bytes  # the broker's id: it names a data directory, and outlives restarts
    epoch: int
    limits: dict[str, int]
    lost: list[tuple[int, list[bytes]]]  # (fence, ids) that HELLO named and that the peer holds no longer


class Who(NamedTuple):
    pass


class Ok(NamedTuple):
    numbers: list[int]


class Answer(NamedTuple):
    number: int
    value: Any


class Failure(NamedTuple):
    number: int
    code: str
    text: str
    details: dict[str, Any]


class Deliver(NamedTuple):
    queue: str
    fence: int
    lease_ms: int
    ids: list[bytes]
    attempts: list[int]
    records: list[bytes]  # see record.py
    large: dict[int, bytes]  # position -> payload, for the records that do not carry theirs


class Finished(NamedTuple):
    """Ends of jobs that the peer watches: id, state, encoded result or None, cause map or None."""

    ends: list[tuple[bytes, str, bytes | None, dict[str, Any] | None]]


class Changed(NamedTuple):
    """Jobs whose changes the peer watches, as they are now: maps as `show` tells them, without payload and result."""

    jobs: list[dict[str, Any]]


class Publications(NamedTuple):
    """What was published and a tail takes, in order; the first of them is its ``position``-th, counted from 0."""

    tail: int
    position: int
    publications: list[Told]


class Ping(NamedTuple):
    pass


class Lost(NamedTuple):
    """Leases that the worker no longer has, and why."""

    leases: list[tuple[int, list[bytes]]]
    reason: str


class Cancel(NamedTuple):
    """Somebody wishes these running jobs to end."""

    fence: int
    ids: list[bytes]


class Part(NamedTuple):
    """What a running job yielded, to its reader. Without values: this run goes on now."""

    id: bytes
    fence: int
    first: int
    values: list[bytes]
    last: bool


class Flow(NamedTuple):
    """What the reader of a stream has and may be sent, to the worker that runs the job; see `Read`."""

    fence: int
    id: bytes
    have: int
    upto: int
    again: bool


class Closing(NamedTuple):
    """The broker stops, or has no place for the peer; ``reason`` is for people."""

    reason: str


Message = (
    Hello
    | Goodbye
    | Put
    | Settle
    | Renew
    | Capacity
    | Extend
    | Watch
    | Unwatch
    | Progress
    | Read
    | Partial
    | Ask
    | Order
    | Workflow
    | Publish
    | Tail
    | Welcome
    | Who
    | Ok
    | Answer
    | Failure
    | Deliver
    | Finished
    | Changed
    | Publications
    | Ping
    | Lost
    | Cancel
    | Part
    | Flow
    | Closing
)
