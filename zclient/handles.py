"""What callers hold of jobs: handles, sequences of handles made on demand, and what the broker tells about a job.

A handle is an id and a client; it keeps nothing of the job, so every question is asked afresh.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from zclient.jobs import IdRuns, decode_payload, moment
from zclient.options import written_options
from zclient.protocol import plans

if TYPE_CHECKING:
    from zclient.aio import AsyncClient
    from zclient.blocking import Client

H = TypeVar("H")
H_co = TypeVar("H_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job is, as its worker told last: a fraction from 0 to 1 or None, a text, and when."""

    fraction: float | None = None
    text: str = ""
    at: datetime | None = None

    @classmethod
    def from_wire(cls, told: dict[str, Any]) -> "Progress":
        """From the map in a job's row."""
        return cls(told.get("fraction"), told.get("text") or "", moment(told.get("at")))

    def __str__(self) -> str:
        percent = None if self.fraction is None else f"{self.fraction:.0%}"
        return " ".join(part for part in (percent, self.text) if part)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as the broker told it. Points in time are datetimes in UTC; what does not apply is None.

    ``attempts`` counts its runs, ``attempt_log`` tells of those that failed, oldest first, each a map with the error,
    worker and time. ``reason`` and ``error`` say why it is dead, or why it last failed. It does not begin after
    ``expires_at``. ``started_at`` is when it was delivered to the worker that has it, or with which it was done.
    ``options`` are the other options that it was sent with, as people write them. ``batch`` is the
    batch that it belongs to, told until it is finished; in a workflow that is its step. ``after`` are the ids of the
    jobs and batches that it is after, told of a job that is asked for by itself.
    """

    id: str
    queue: str
    state: str
    attempts: int = 0
    priority: int = 0
    key: str | None = None
    unique: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker: str | None = None
    fence: int | None = None
    reason: str | None = None
    error: dict[str, Any] | None = None
    attempt_log: list[dict[str, Any]] = field(default_factory=list)
    cancel_requested: bool = False
    progress: Progress | None = None
    batch: str | None = None
    after: list[str] = field(default_factory=list)
    payload_bytes: bytes | None = field(default=None, repr=False)
    result_bytes: bytes | None = field(default=None, repr=False)

    @property
    def payload(self) -> Any:
        """The payload; None in a listing, which does not carry it. ValueError if it is not msgpack."""
        return None if self.payload_bytes is None else decode_payload(self.payload_bytes)

    @property
    def result(self) -> Any:
        """What the job returned, if it is done and the broker still keeps it; else None."""
        return None if self.result_bytes is None else decode_payload(self.result_bytes)

    @property
    def workflow(self) -> str | None:
        """The id of the workflow that it belongs to, told until it is finished."""
        batch = (self.batch or "").encode()
        return plans.workflow_of(batch).decode() if plans.is_step_id(batch) else None

    @property
    def is_over(self) -> bool:
        """Whether it is done, dead or cancelled."""
        return self.state in ("done", "dead", "cancelled")

    @classmethod
    def from_wire(cls, row: dict[str, Any]) -> "JobStatus":
        """From a row of ``show`` or ``list``; TypeError, KeyError or AttributeError if it is none."""
        return cls(
            id=text_of(row["id"]) or "",
            queue=row["queue"],
            state=row["state"],
            attempts=row.get("attempt") or 0,
            priority=row.get("priority") or 0,
            key=row.get("key"),
            unique=row.get("unique") or None,
            headers=row.get("headers") or {},
            options=written_options(row.get("options") or {}),
            created_at=moment(row.get("created_at")),
            due_at=moment(row.get("due_at")),
            expires_at=moment(row.get("expires_at")),
            started_at=moment(row.get("started_at")),
            finished_at=moment(row.get("finished_at")),
            worker=text_of(row.get("worker")),
            fence=row.get("fence"),
            reason=row.get("reason") or None,
            error=row.get("error"),
            attempt_log=list(row.get("attempts") or ()),
            cancel_requested=bool(row.get("cancel_requested")),
            progress=Progress.from_wire(row["progress"]) if row.get("progress") else None,
            batch=text_of(row.get("batch")),
            after=[text_of(parent) or "" for parent in row.get("after") or ()],
            payload_bytes=row.get("payload"),
            result_bytes=row.get("result"),
        )


def text_of(identifier: Any) -> str | None:
    """An id of the wire for people: UTF-8 where it is, else (an incarnation) hexadecimal digits."""
    if not isinstance(identifier, bytes):
        return None if identifier is None else str(identifier)
    try:
        text = identifier.decode()
    except UnicodeDecodeError:
        return identifier.hex()
    return text if text.isprintable() else identifier.hex()


class JobHandle:
    """A job that was sent through a `Client`, or is known by its id. It may be used in any thread.

    ``existing`` tells that sending it stored nothing: a job with its unique text was there already, and this is that
    one.
    """

    __slots__ = ("_client", "existing", "id")

    def __init__(self, client: "Client", identifier: str, existing: bool = False) -> None:
        self._client = client
        self.id = identifier
        self.existing = existing

    def result(self, timeout: Any = None) -> Any:
        """Wait for the job's end and return what it returned; see `Client.result`."""
        return self._client.result(self.id, timeout=timeout)

    def watch(self, timeout: Any = None) -> Iterator[JobStatus]:
        """What the broker knows of it, now and after each change, until it is over; see `Client.watch`."""
        return self._client.watch(self.id, timeout=timeout)

    def status(self, *, timeout: Any = None) -> JobStatus:
        """What the broker knows of it now; `NotFound` once that is nothing."""
        return self._client.get(self.id, timeout=timeout)

    def cancel(self, *, timeout: Any = None) -> str:
        """Cancel it; see `Client.cancel`."""
        return self._client.cancel(self.id, timeout=timeout)

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class AsyncJobHandle:
    """The same for an `AsyncClient`: its methods are coroutines."""

    __slots__ = ("_client", "existing", "id")

    def __init__(self, client: "AsyncClient", identifier: str, existing: bool = False) -> None:
        self._client = client
        self.id = identifier
        self.existing = existing

    async def result(self, timeout: Any = None) -> Any:
        """Wait for the job's end and return what it returned; see `Client.result`."""
        return await self._client.result(self.id, timeout=timeout)

    def watch(self, timeout: Any = None) -> AsyncIterator[JobStatus]:
        """What the broker knows of it, now and after each change, until it is over; see `Client.watch`."""
        return self._client.watch(self.id, timeout=timeout)

    async def status(self, *, timeout: Any = None) -> JobStatus:
        """What the broker knows of it now; `NotFound` once that is nothing."""
        return await self._client.get(self.id, timeout=timeout)

    async def cancel(self, *, timeout: Any = None) -> str:
        """Cancel it; see `Client.cancel`."""
        return await self._client.cancel(self.id, timeout=timeout)

    def __repr__(self) -> str:
        return f"<AsyncJobHandle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncJobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class Make(Protocol[H_co]):
    """Makes what stands for a job out of its id."""

    def __call__(self, identifier: str, existing: bool = False, /) -> H_co: ...


def as_text(identifier: str, existing: bool = False, /) -> str:
    """A `Make` of the ids alone."""
    return identifier


class Jobs(Sequence[H], Generic[H]):
    """Handles of many jobs, in the order they were sent. It keeps ranges of ids, and makes handles when asked.

    Where a job's unique text was taken, the job that has it stands in its place.
    """

    __slots__ = ("_ids", "_make", "_range")

    def __init__(self, ids: IdRuns, make: Make[H], chosen: range | None = None) -> None:
        self._ids = ids
        self._make = make
        self._range = range(len(ids)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, position: int) -> H: ...

    @overload
    def __getitem__(self, position: slice) -> "Jobs[H]": ...

    def __getitem__(self, position: int | slice) -> "H | Jobs[H]":
        if isinstance(position, slice):
            return Jobs(self._ids, self._make, self._range[position])
        sent = self._ids.id(self._range[position])
        existing = self._ids.instead.get(sent)
        return self._make((existing or sent).decode(), existing is not None)

    @property
    def ids(self) -> "Jobs[str]":
        """The ids alone, as a sequence of the same kind."""
        return Jobs(self._ids, as_text, self._range)

    def __repr__(self) -> str:
        return f"<{len(self)} jobs>"
