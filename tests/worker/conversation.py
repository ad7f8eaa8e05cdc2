"""The broker's side of a worker session, spoken by hand: no socket, no broker, a clock that is a number."""

from typing import Any

from zclient.jobs import encode_payload
from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode
from zclient.protocol.record import Header, encode_header
from zworker.job import Job
from zworker.partials import Partials
from zworker.session import Entry, WorkerSession

LEASE_MS = 30_000


class Conversation:
    """A worker session in the middle of a conversation; ``now`` is its clock, in ms."""

    def __init__(self, capacity: int = 10, tasks: Any = None) -> None:
        self.now = 1000.0
        self.woken = 0
        self.worker = WorkerSession(
            b"i" * 16, owner=self, name="tests", info={}, capacity=capacity, queues=["q"], tasks=tasks
        )

    # The owner of jobs.

    def settled(self, entry: Entry) -> None:
        self.worker.settled.append(entry)

    def extend(self, job: Job, duration_ms: int, timeout_s: float) -> None:
        self.worker.extend(job, duration_ms, self.now)

    def progress(self, job: Job, fraction: float | None, text: str) -> None:
        self.woken += self.worker.report(job, fraction, text)

    def partials(self, job: Job) -> Partials:
        return self.worker.partials(job)

    def nudge(self) -> None:
        self.woken += 1

    # What the broker does.

    def connect(self, lost: Any = ()) -> m.Hello:
        """Make the connection and welcome the worker; returns its HELLO."""
        session = self.worker.session
        session.connected(self.now)
        hello = self.sent()[0]
        assert isinstance(hello, m.Hello)
        self.say(m.Welcome(1, b"broker", 1, {"result_bytes": 1000, "probe_ms": 1000}, list(lost)))
        return hello

    def say(self, *messages: m.Message) -> list[Job]:
        """Send messages to the worker; returns the jobs it takes as new."""
        told = [passed for message in messages for passed in self.worker.session.receive(encode(message), self.now)]
        return self.worker.receive(told, self.now)

    def deliver(self, fence: int, *ids: str, payload: Any = None, options: Any = None, attempt: int = 1) -> list[Job]:
        return self.say(delivery(fence, *ids, payload=payload, options=options, attempt=attempt))

    def sent(self) -> list[m.Message]:
        """What the worker sends now."""
        self.worker.tick(self.now)
        self.worker.flush(self.now)
        return [decode(frames) for frames in self.worker.session.outgoing(self.now)]

    def settlements(self) -> list[list[m.Settlement]]:
        """The settlements of each SETTLE that leaves now."""
        return [message.settlements for message in self.sent() if isinstance(message, m.Settle)]

    def progress_told(self) -> list[list[Any]]:
        """The entries of each PROGRESS that leaves now."""
        return [message.entries for message in self.sent() if isinstance(message, m.Progress)]


def delivery(
    fence: int, *ids: str, payload: Any = None, options: Any = None, attempt: int = 1, expires_ms: int = 0
) -> m.Deliver:
    """A delivery of these jobs from queue ``q``."""
    head = encode_header(Header("q", 1_700_000_000_000, options or {}, False, expires_ms))
    record = head + (7).to_bytes(8, "big") + encode_payload(payload)
    names = [identifier.encode() for identifier in ids]
    return m.Deliver("q", fence, LEASE_MS, names, [attempt] * len(ids), [record] * len(ids), {})
