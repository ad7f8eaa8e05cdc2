"""A delivered job as a handler or a consumer's loop sees it, and the delivery that it came with.

It owns what a job tells about itself, how its run learns that it should end, and the five ways to settle it by hand. It
never talks to the broker: what is asked of it goes to its owner, the worker or consumer that holds it, which may be on
another thread.
"""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Unpack

from zclient.config import Duration, one_job
from zclient.durations import duration_ms, parse_duration
from zclient.errors import BatchTooLarge, InvalidArgument, LeaseLost, PayloadTooLarge
from zclient.joboptions import CopyOptions, JobOptions
from zclient.jobs import decode_payload, encode_payload, wire_options
from zclient.openbatches import BatchStatus
from zclient.protocol import plans
from zclient.protocol.limits import MAX_BATCH_BYTES, MAX_BATCH_JOBS, MAX_PAYLOAD_BYTES, MAX_PROGRESS_CHARS
from zclient.protocol.messages import Group, Outcome, Publication, Sent
from zclient.protocol.record import header_of, payload_of
from zclient.topics import copy_options, one_publication
from zworker.inputs import Inputs, inputs_of
from zworker.outcomes import Cancelled, cut_text, error_map, wait_ms

if TYPE_CHECKING:
    from zworker.partials import Partials

_ACK = int(Outcome.ACK)
_UNREAD: Any = object()
MAX_EXTENSION_MS = 24 * 3600 * 1000

MAX_RUN = "max_run"
"""Why a lease is lost, in the broker's word: the run took longer than its queue allows, renewed or not."""

_OVER = threading.Event()
"""Stands in a job whose run should end, in place of an event that is still to come."""
_OVER.set()
_ending = threading.Lock()


class Owner(Protocol):
    """What holds jobs. All methods may be called from any thread."""

    def settled(self, entry: "tuple[Job, int, Any]") -> None:
        """Take note of an outcome, to be sent with the next settlements."""

    def extend(self, job: "Job", duration_ms: int, timeout_s: float) -> None:
        """Have the lease extended; returns when the broker did it. Raises `LeaseLost` and `AnswerTimeout`."""

    def ask(self, verb: str, arguments: dict[str, Any], timeout_s: float) -> Any:
        """Ask the broker something. Raises `AnswerTimeout`, and the broker's refusal."""

    def progress(self, job: "Job", fraction: float | None, text: str) -> None:
        """Take note of how far a job is, to be told soon. It never waits."""

    def partials(self, job: "Job") -> "Partials":
        """What a job's run yields for its reader."""

    def nudge(self) -> None:
        """There is something to send."""


class Delivery:
    """One hand-over of jobs. ``jobs`` are those whose settlement is not answered; times are monotonic ms.

    ``unsettled`` counts the jobs that are still to be settled; only then its lease is worth renewing.
    """

    __slots__ = (
        "fence",
        "jobs",
        "lease_ms",
        "max_payload_bytes",
        "owner",
        "queue",
        "renew_at_ms",
        "unsettled",
        "until_ms",
    )

    def __init__(
        self,
        queue: str,
        fence: int,
        lease_ms: int,
        owner: Owner,
        now: float,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self.queue = queue
        self.max_payload_bytes = max_payload_bytes  # what the broker takes of those that its jobs send
        self.fence = fence
        self.lease_ms = lease_ms
        self.owner = owner
        self.jobs: dict[bytes, Job] = {}
        self.unsettled = 0
        self.until_ms = now + lease_ms
        self.renew_at_ms = now + lease_ms / 6


class Parent(NamedTuple):
    """A job or batch that another waited for: how it ended (``done``, ``dead``, ``cancelled``), and its result.

    Of a batch ``batch`` tells the counters, and there is no result.
    """

    state: str
    result_bytes: bytes | None
    batch: BatchStatus | None = None

    @property
    def result(self) -> Any:
        """What it returned; None if that was nothing, or if it is not done."""
        return None if self.result_bytes is None else decode_payload(self.result_bytes)


class Job:
    """One job in the hands of this worker.

    ``attempt`` counts its runs, this one included. ``lease_lost`` turns true when the broker gave the job to somebody
    else, or will: this run's outcome no longer counts; ``lost_reason`` is the broker's word for why. ``cancelled``
    turns true when somebody wishes it to end. A handler that runs long looks at both now and then: `check` does.
    """

    __slots__ = (
        "_delivery",
        "_end",
        "_large",
        "_on_interrupt",
        "_payload",
        "_record",
        "attempt",
        "cancelled",
        "identifier",
        "is_settled",
        "is_started",
        "lease_lost",
        "lost_reason",
        "sends",
        "sent_bytes",
        "unsettled",
    )

    def __init__(self, delivery: Delivery, identifier: bytes, attempt: int, record: bytes, large: bytes | None) -> None:
        self._delivery = delivery
        self._record = record
        self._large = large
        self._payload = _UNREAD
        self._on_interrupt: Callable[[], None] | None = None
        self._end: threading.Event | None = None  # made by `wait`; `_OVER` once the run should end
        self.identifier = identifier
        self.attempt = attempt
        self.lease_lost = False
        self.lost_reason = ""
        self.cancelled = False
        self.is_started = False
        self.is_settled = False  # said by whoever runs it
        self.unsettled = True  # as the session sees it: neither sent as settled, nor lost
        self.sends: list[Group | Publication] = []  # what the handler sent and published: it leaves with the ack
        self.sent_bytes = 0  # of its payloads

    def __repr__(self) -> str:
        return f"<job {self.id} of queue {self.queue}, attempt {self.attempt}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.identifier.decode()

    @property
    def queue(self) -> str:
        """The queue that it came from."""
        return self._delivery.queue

    @property
    def fence(self) -> int:
        """The number of this delivery. It grows with each one: hand it to a store that refuses older numbers."""
        return self._delivery.fence

    @property
    def delivery(self) -> Delivery:
        """The delivery that it came with."""
        return self._delivery

    @property
    def payload(self) -> Any:
        """What the producer sent, decoded when it is first asked for. Raises `ValueError` if it is not msgpack."""
        if self._payload is _UNREAD:
            self._payload = decode_payload(payload_of(self._record) if self._large is None else self._large)
        return self._payload

    @property
    def headers(self) -> Mapping[str, Any]:
        """The producer's headers."""
        return dict(self._options.get("headers", ()))

    @property
    def key(self) -> str | None:
        """The job's key, if it has one."""
        return self._options.get("key")

    @property
    def priority(self) -> int:
        """-100 to 100; higher is served first."""
        return int(self._options.get("priority", 0))

    @property
    def created_at(self) -> datetime:
        """When the broker stored it, by the broker's clock, in UTC."""
        return datetime.fromtimestamp(header_of(self._record).created_ms / 1000, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When it would have been too late to begin it, by the broker's clock, in UTC; None if it has no expiry."""
        expires_ms = header_of(self._record).expires_ms
        return datetime.fromtimestamp(expires_ms / 1000, UTC) if expires_ms else None

    @property
    def unique(self) -> str | None:
        """The text that only one job of its queue has, if the producer gave it one."""
        return self._options.get("unique")

    @property
    def batch(self) -> str | None:
        """The id of the batch that it belongs to, if there is one; in a workflow that is its step."""
        batch = self._options.get("batch")
        return None if batch is None else str(batch.decode())

    @property
    def workflow(self) -> str | None:
        """The id of the workflow that it belongs to, if there is one."""
        batch = self._options.get("batch", b"")
        return plans.workflow_of(batch).decode() if plans.is_step_id(batch) else None

    @property
    def has_reader(self) -> bool:
        """Whether it was sent by `zclient.Client.stream`: somebody reads what its handler yields."""
        return self._options.get("stream") is True

    @property
    def _options(self) -> dict[str, Any]:
        return header_of(self._record).options

    def extend(self, duration: Duration, timeout: float = 10.0) -> None:
        """Have the lease last at least ``duration`` from now, before doing what would keep the worker from renewing it.

        Leases are renewed on their own while the worker runs, so this is for code that holds the whole process. It
        waits for the broker, at most ``timeout`` seconds; in a coroutine use `asyncio.to_thread`. Raises `LeaseLost`,
        `AnswerTimeout`, and `InvalidArgument` for a duration that is not between 1 ms and a day.
        """
        extension_ms = duration_ms(duration)
        if not 1 <= extension_ms <= MAX_EXTENSION_MS:
            raise InvalidArgument(f"a lease is extended by 1 ms to 24 h, not {duration!r}")
        if self.lease_lost:
            raise LeaseLost(f"job {self.id} is no longer this worker's")
        self._delivery.owner.extend(self, extension_ms, timeout)

    def progress(self, fraction: float | None = None, text: str = "") -> None:
        """Say how far the run is: a fraction from 0 to 1, a text, or both; with neither, that it goes on.

        From any thread or coroutine, as often as it likes: it never waits, and only the latest report is told, every
        100 ms at most. One that stands when the job is settled is told before; for a job that is settled or lost it
        does nothing. Texts are cut after 500 characters. Raises `InvalidArgument` for anything else.
        """
        told = (_fraction(fraction), _progress_text(text))
        if not self.is_settled and not self.lease_lost:
            self._delivery.owner.progress(self, *told)

    def send(
        self,
        queue: str,
        payload: Any = None,
        *,
        id: str | None = None,
        batch: Any = None,
        **options: Unpack[JobOptions],
    ) -> str:
        """Send a job in the commit of this one's ack: both are on disk then, or neither. Returns its id.

        A run that fails, or whose lease is lost, sends nothing. If the broker refuses what was sent (a full queue,
        say), this job is not done either: it is tried again, with that error. ``options`` are those of
        `zclient.Client.send`; ``batch=job.batch`` adds it to this job's own batch, which may be closed for others.
        Raises `InvalidArgument` for what cannot be sent, for more than 1,000 jobs, or once this job is settled;
        `PayloadTooLarge` for a payload above the broker's `max_payload`; `BatchTooLarge` for more than 16 MiB in all.
        """
        group = one_job(queue, payload, id, wire_options(batch=batch, **options))
        self._add(group, len(group.payloads[0]))
        return group.ids[0].decode()

    def publish(self, topic: str, payload: Any = None, *, id: str | None = None, **options: Unpack[CopyOptions]) -> str:
        """Publish under a topic in the commit of this job's ack, likewise; returns the publication's id.

        ``options`` are those of `zclient.Client.publish`. One queue that refuses its copy refuses all that this job
        sends and publishes.
        """
        publication = one_publication(topic, payload, id, copy_options(**options))
        self._add(publication, len(publication.payload))
        return publication.id.decode()

    def _add(self, sent: Group | Publication, size: int) -> None:
        if self.is_settled:
            raise self._settled_twice()
        if len(self.sends) >= MAX_BATCH_JOBS:
            raise InvalidArgument(f"a job sends at most {MAX_BATCH_JOBS} jobs with its ack")
        most = self._delivery.max_payload_bytes
        if size > most:
            raise PayloadTooLarge(f"a payload of {size} bytes; the broker takes at most {most}", limit=most)
        if self.sent_bytes + size > MAX_BATCH_BYTES:
            raise BatchTooLarge(f"a job sends at most {MAX_BATCH_BYTES >> 20} MiB with its ack, all payloads together")
        self.sends.append(sent)
        self.sent_bytes += size

    def sent(self) -> Sent:
        """What leaves with its ack; for its session."""
        groups = [one for one in self.sends if isinstance(one, Group)]
        publications = [one for one in self.sends if isinstance(one, Publication)]
        return Sent(self.fence, self.identifier, groups, publications)

    def parents(self, timeout: float = 10.0) -> "dict[str, Parent]":
        """The jobs that this one waited for (`after`), by id, with what they returned, in the order it named them.

        It asks the broker, and waits at most ``timeout`` seconds; in a coroutine use `asyncio.to_thread`. Raises
        `AnswerTimeout`.
        """
        found: dict[str, Parent] = {}
        start: int | None = 0
        while start is not None:
            answer = self._delivery.owner.ask("parents", {"id": self.identifier, "start": start}, timeout)
            for row in answer["parents"]:
                counted = row.get("batch")
                batch = BatchStatus.from_wire(counted) if counted is not None else None
                found[row["id"].decode()] = Parent(row["state"], row["result"], batch)
            start = answer["next"]
        return found

    def inputs(self, timeout: float = 10.0) -> Inputs:
        """What the steps that its own step is after returned, by their names: see `Inputs`. None outside a workflow.

        It asks the broker, now and when the results are looked at; each answer takes at most ``timeout`` seconds. In a
        coroutine use `asyncio.to_thread` for both. Raises `AnswerTimeout`.
        """
        ask = self._delivery.owner.ask
        return inputs_of(
            self._options.get("batch", b""), lambda verb: verb.decode(ask(verb.name, verb.arguments, timeout))
        )

    # ---- seeing that the run should end: for a plain function, or a consumer's loop

    def check(self) -> None:
        """Raise if this run should end: call it now and then in a loop that takes long.

        Raises `LeaseLost` if the job is no longer this run's: its lease is lost, or it was settled for it, since its
        time ran out or the worker ends. Else `Cancelled` if somebody wishes the job to end; a handler that lets that
        through settles the job as cancelled.
        """
        if self.lease_lost:
            raise LeaseLost(f"job {self.id} is no longer this worker's")
        if self.cancelled:
            raise Cancelled
        if self._end is _OVER:
            raise LeaseLost(f"job {self.id} is no longer this run's: its time is over")

    def wait(self, duration: Duration) -> bool:
        """Wait so long, or until the run should end; whether it should: `check` tells why.

        ``while not job.wait("5s"): ...`` does something every five seconds. It blocks its thread: a coroutine, which is
        cancelled by itself, uses `asyncio.sleep`. Raises `InvalidArgument` for what is no duration.
        """
        seconds = min(parse_duration(duration), threading.TIMEOUT_MAX)
        with _ending:
            if self._end is None:
                self._end = threading.Event()
            end = self._end
        # The session notes these two a moment before the run is told.
        return self.lease_lost or self.cancelled or end.wait(seconds)

    # ---- settling by hand: in a consumer's loop, or for one job of a batch

    def ack(self, result: Any = None) -> None:
        """It is done. `InvalidArgument` if it is settled already, or if msgpack cannot carry the result."""
        value = None if result is None else encode_payload(result)
        if self.is_settled:
            raise self._settled_twice()
        self.is_settled = True
        self._delivery.owner.settled((self, _ACK, value))

    def nack(self, reason: "str | BaseException | Mapping[str, Any]" = "", *, delay: Duration | None = None) -> None:
        """It failed: try again, after ``delay`` or the queue's backoff. ``reason``: a text, an error, or its map."""
        told = error_map(reason)
        if delay is not None:
            told["delay"] = wait_ms(delay)
        self._settle(Outcome.NACK, told)

    def reject(self, reason: "str | BaseException | Mapping[str, Any]" = "") -> None:
        """It failed, and another try would too."""
        self._settle(Outcome.REJECT, error_map(reason))

    def release(self) -> None:
        """Give it back; somebody else may have it now, and no attempt is burnt."""
        self._settle(Outcome.RELEASE, None)

    def snooze(self, duration: Duration) -> None:
        """Give it back until ``duration`` is over; no attempt is burnt."""
        self._settle(Outcome.SNOOZE, wait_ms(duration))

    def _settle(self, outcome: Outcome, value: Any) -> None:
        if self.is_settled:
            raise self._settled_twice()
        self.is_settled = True
        self._delivery.owner.settled((self, int(outcome), value))

    def _settled_twice(self) -> InvalidArgument:
        return InvalidArgument(f"job {self.id} is settled already")

    # ---- for the owner

    @property
    def is_interrupted(self) -> bool:
        """Whether the run should end; `check` tells why."""
        return self.lease_lost or self.cancelled or self._end is _OVER

    def on_interrupt(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called, from another thread, when the run should end: lost, cancelled, or given back."""
        self._on_interrupt = callback
        if self.is_interrupted or not self.unsettled:
            callback()

    def interrupt(self) -> None:
        """Tell the run that it should end: who waits, who looks, and who asked to be told."""
        with _ending:
            end, self._end = self._end, _OVER
        if end is not None:
            end.set()
        if self._on_interrupt is not None:
            self._on_interrupt()


def _fraction(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidArgument(f"a fraction is a number from 0 to 1, or None, not {value!r:.60}")
    return float(value)


def _progress_text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"progress is told in a fraction and a text, not {value!r:.60}")
    return cut_text(value, MAX_PROGRESS_CHARS)
