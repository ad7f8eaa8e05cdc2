"""What a client can do, without saying how it waits: procedures that both `Client` and `AsyncClient` run.

A *procedure* is a generator over a `Session`. It yields a `Step` whenever something has to happen outside of it, and
its runner answers with the time (monotonic ms). Closed before its end (the caller was interrupted or cancelled), it
gives up what it asked for. Nothing here waits, sends or locks.
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from zclient.errors import (
    BrokerUnreachable,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    ProtocolFault,
    Refused,
    ResultExpired,
    ResultTimeout,
    ZError,
)
from zclient.handles import JobStatus, text_of
from zclient.jobs import decode_payload, id_bytes, queue_name, whole
from zclient.protocol import limits
from zclient.protocol.messages import Group
from zclient.requests import ORDER, Request
from zclient.session import Session

MAX_REPLAY_RATE = 1_000_000
"""Jobs a second that a replay may be held to."""

T = TypeVar("T")


class Wait(NamedTuple):
    """Go on when one of these requests is done, or at this time. The answer is the time."""

    requests: Sequence[Request]
    until_ms: float


class Feed(NamedTuple):
    """Bring the next encoded payloads, within these bounds; none at the end. The answer is the time and they."""

    jobs: int
    octets: int


class Report(NamedTuple):
    """Tell the caller how many jobs are confirmed by now. The answer is the time."""

    confirmed: int


class End(NamedTuple, Generic[T]):
    """The procedure is over, with this value."""

    value: T


Step = Wait | Feed | Report
Procedure = Generator[Step, Any, T]


def advance(procedure: Procedure[T], answer: Any = None, failure: Exception | None = None) -> Step | End[T]:
    """Begin a procedure, or give it the answer to its last step, or the error that the step ran into."""
    try:
        return procedure.send(answer) if failure is None else procedure.throw(failure)
    except StopIteration as end:
        return End(end.value)


class Verb(NamedTuple, Generic[T]):
    """A question or an order, and how its answer is read."""

    kind: str
    name: str
    arguments: dict[str, Any]
    decode: Callable[[Any], T]


# ---- procedures


def asking(session: Session, now: float, verb: Verb[T], timeout_ms: float) -> Procedure[T]:
    """Ask or order, and read the answer."""
    put = session.order if verb.kind is ORDER else session.ask
    value = yield from _answered(session, put(verb.name, verb.arguments, now), now + timeout_ms)
    try:
        return verb.decode(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ProtocolFault(f"the answer to {verb.name} cannot be read: {type(error).__name__} {error}") from None


def sending(session: Session, now: float, group: Group, timeout_ms: float) -> Procedure[None]:
    """Store jobs. A refusal that says when to try again is followed, as long as the time allows."""
    until_ms = now + timeout_ms
    while True:
        request = session.put([group], now)
        try:
            yield from _answered(session, request, until_ms)
            return
        except Refused as refusal:
            if refusal.retry_after is None:
                raise
            pause_ms = refusal.retry_after * 1000
            now = yield Wait((), min(request.last_sent_ms + pause_ms, until_ms))
            if now >= until_ms:
                raise


def ending(session: Session, now: float, identifier: bytes, timeout_ms: float) -> Procedure[Any]:
    """Wait for a job's end, and return its result or raise what became of it."""
    request = session.watch(identifier)
    until_ms = now + timeout_ms
    try:
        while not request.done:
            now = yield Wait((request,), until_ms)  # at least one look, also where there is no time
            if now >= until_ms:
                break
    finally:
        if not request.done:
            session.give_up(request)
    if request.value is None:
        if isinstance(request.error, ZError) and not isinstance(request.error, BrokerUnreachable):
            raise request.error.with_traceback(None)
        if not request.sent:
            raise session.unreachable()
        raise ResultTimeout(f"job {text_of(identifier)} did not end in time; it goes on")
    return _outcome(identifier, *request.value)


def _answered(session: Session, request: Request, until_ms: float) -> Generator[Step, Any, Any]:
    """The value of a request, or its error raised; given up at ``until_ms``."""
    try:
        while not request.done:
            now = yield Wait((request,), until_ms)
            if now >= until_ms:
                session.give_up(request)
    finally:
        session.give_up(request)
    if request.error is not None:
        raise request.error.with_traceback(None)
    return request.value


def _outcome(identifier: bytes, state: str, result: bytes | None, cause: Any) -> Any:
    name = text_of(identifier)
    cause = cause if isinstance(cause, dict) else {}
    if state == "done":
        return None if result is None else decode_payload(result)
    if state == "cancelled":
        raise JobCancelled(f"job {name} was cancelled")
    if state != "dead":
        raise ResultExpired(f"the broker knows no job {name}, or keeps its result no longer")
    error = cause.get("error")
    error = error if isinstance(error, dict) else {}
    told = ": ".join(str(error[part]) for part in ("type", "text") if error.get(part))
    reason = str(cause.get("reason") or "")
    text = f"job {name} is dead ({reason or 'no reason given'})" + (f": {told}" if told else "")
    raise JobFailed(text, reason=reason, error=error, id=name, attempts=cause.get("attempts"))


# ---- verbs


def show(identifier: Any) -> Verb[JobStatus]:
    """One job."""
    return Verb("ask", "show", {"id": id_bytes(identifier)}, JobStatus.from_wire)


class Page(NamedTuple):
    """Rows of a listing, and where the next page begins; None at the end."""

    jobs: list[JobStatus]
    cursor: Any


def _page(value: Any) -> Page:
    return Page([JobStatus.from_wire(row) for row in value["jobs"]], value["cursor"])


def page(name: str, queue: str | None, state: str | None, left: float, cursor: Any) -> Verb[Page]:
    """The next page of ``list`` or ``dead``, if so many rows are still wanted. The broker may make it shorter."""
    limit = int(min(left, limits.MAX_PAGE))
    arguments = {"queue": queue and queue_name(queue), "state": state, "limit": limit, "cursor": cursor}
    return Verb("ask", name, {key: value for key, value in arguments.items() if value is not None}, _page)


def rows_wanted(limit: int | None) -> float:
    """How many rows a listing is to have in all: ``limit``, checked, or without end for None."""
    return math.inf if limit is None else whole(limit, "limit", 1, 1 << 53)


def queues() -> Verb[list[dict[str, Any]]]:
    """All queues with what is in them."""
    return Verb("ask", "queues", {}, _maps)


def queue(name: str) -> Verb[dict[str, Any]]:
    """One queue with its policy."""
    return Verb("ask", "queue", {"queue": queue_name(name)}, _map)


def workers() -> Verb[list[dict[str, Any]]]:
    """The connected workers."""
    return Verb("ask", "workers", {}, lambda value: [{**row, "id": text_of(row["id"])} for row in _maps(value)])


def stats() -> Verb[dict[str, Any]]:
    """The broker's counters."""
    return Verb("ask", "stats", {}, _map)


def cancel(identifier: Any) -> Verb[str]:
    """Cancel a job; its state then."""
    return Verb("order", "cancel", {"id": id_bytes(identifier)}, lambda value: str(value["state"]))


def purge(name: str) -> Verb[int]:
    """Remove a queue's waiting jobs; how many they were."""
    return Verb("order", "purge", {"queue": queue_name(name)}, lambda value: int(value["purged"]))


def pause(name: str, *, paused: bool) -> Verb[None]:
    """Stop or resume deliveries from a queue."""
    return Verb("order", "pause" if paused else "resume", {"queue": queue_name(name)}, lambda value: None)


@dataclass(frozen=True, slots=True)
class Bulk:
    """What an order over many jobs does.

    For named jobs ``count`` is how many it changed. For a queue it is how many dead jobs there were, and ``work`` is
    the number of the work that goes on in the broker.
    """

    count: int
    work: int | None = None


def bulk(name: str, ids: Any, queue: str | None, rate: int | None) -> list[Verb[Bulk]]:
    """The orders that replay or drop these jobs, or a queue's dead ones: one for each `MAX_ORDER_IDS` ids."""
    if (ids is None) == (queue is None):
        raise InvalidArgument(f"{name} takes ids or a queue")
    past = "replayed" if name == "replay" else "dropped"

    def decode(value: Any) -> Bulk:
        if queue is None:
            return Bulk(int(value[past]))
        return Bulk(int(value["dead"]), int(value["work"]))

    if queue is not None:
        arguments: dict[str, Any] = {"queue": queue_name(queue)}
        if rate is not None:
            arguments["rate"] = whole(rate, "rate", 1, MAX_REPLAY_RATE)
        return [Verb("order", name, arguments, decode)]
    if rate is not None:
        raise InvalidArgument("rate goes with a queue")
    several: Iterable[Any] = [ids] if isinstance(ids, str) or hasattr(ids, "id") else ids
    encoded = [id_bytes(identifier) for identifier in several]
    most = limits.MAX_ORDER_IDS
    return [Verb("order", name, {"ids": encoded[at : at + most]}, decode) for at in range(0, len(encoded), most)]


def total(done: Iterable[Bulk]) -> Bulk:
    """The sum of several."""
    done = list(done)
    return Bulk(sum(one.count for one in done), next((one.work for one in done if one.work is not None), None))


def _map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not a map")
    return value


def _maps(value: Any) -> list[dict[str, Any]]:
    return [_map(row) for row in value]
