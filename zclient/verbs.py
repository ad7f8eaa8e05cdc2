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
from zclient.options import known_queue_option, moment_ms, queue_options, written_value
from zclient.protocol import limits
from zclient.protocol.messages import Group
from zclient.protocol.options import QUEUE_OPTIONS
from zclient.requests import ORDER, Request
from zclient.session import Session

MAX_REPLAY_RATE = 1_000_000
"""Jobs a second that a replay may be held to."""

LAST_TRY_MS = 200
"""After a refusal that may pass, the last try comes so long before the time is over: its answer needs some of it."""

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
    value = yield from answered(session, put(verb.name, verb.arguments, now), now + timeout_ms)
    try:
        return verb.decode(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ProtocolFault(f"the answer to {verb.name} cannot be read: {type(error).__name__} {error}") from None


def sending(session: Session, now: float, group: Group, timeout_ms: float) -> Procedure[dict[bytes, bytes]]:
    """Store jobs; what `instead_of` reads from the answer."""
    return instead_of((yield from storing(session, now, lambda now: session.put([group], now), timeout_ms)))


def storing(session: Session, now: float, send: Callable[[float], Request], timeout_ms: float) -> Procedure[Any]:
    """Send what stores something; the answer.

    A refusal that says when to try again is followed as long as the time allows, and raised when it does not.
    """
    until_ms = now + timeout_ms
    while True:
        request = send(now)
        try:
            return (yield from answered(session, request, until_ms))
        except Refused as refusal:
            if refusal.retry_after is None:
                raise
            again_ms = min(request.last_sent_ms + refusal.retry_after * 1000, until_ms - LAST_TRY_MS)
            if again_ms <= request.last_sent_ms:
                raise
            now = yield Wait((), again_ms)
            if now >= until_ms:
                raise


def instead_of(answer: Any) -> dict[bytes, bytes]:
    """From the answer to a PUT: the ids under which nothing was stored, and the jobs that have their unique text."""
    try:
        pairs = [] if answer is None else answer["instead"]
        return {id_bytes(_text(sent)): id_bytes(_text(existing)) for sent, existing in pairs}
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolFault(f"the answer to a PUT cannot be read: {type(error).__name__} {error}") from None


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
    return outcome(identifier, *request.value)


def answered(session: Session, request: Request, until_ms: float) -> Procedure[Any]:
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


def outcome(identifier: bytes, state: str, result: bytes | None, cause: Any) -> Any:
    """What a job returned, or the error that tells how it ended otherwise; from what FINISHED told."""
    name = text_of(identifier)
    cause = cause if isinstance(cause, dict) else {}
    if state == "done":
        return None if result is None else decode_payload(result)
    if state == "cancelled":
        raise _cancelled(name, cause)
    if state != "dead":
        raise ResultExpired(f"the broker knows no job {name}, or keeps its result no longer")
    error = cause.get("error")
    error = error if isinstance(error, dict) else {}
    told = ": ".join(str(error[part]) for part in ("type", "text") if error.get(part))
    reason = str(cause.get("reason") or "")
    text = f"job {name} is dead ({reason or 'no reason given'})" + (f": {told}" if told else "")
    moved_to = cause.get("moved_to") or None
    if moved_to is not None:
        text += f"; it went to the queue {moved_to}"
    raise JobFailed(text, reason=reason, error=error, moved_to=moved_to, id=name, attempts=cause.get("attempts"))


def gave_up(identifier: Any) -> ResultTimeout:
    """What a caller is told whose time is over, and whose job is cancelled for that."""
    return ResultTimeout(f"job {text_of(identifier)} returned nothing in time; it is cancelled", cancelled=True)


def refuse_late(error: JobFailed) -> None:
    """Raises `ResultTimeout` for a job that was to expire with its caller's time, and did so before the caller knew."""
    if error.reason == "expired" and not error.details.get("attempts"):
        text = f"job {error.details.get('id')} was not begun in time, and never will be"
        raise ResultTimeout(text, expired=True) from error


def _cancelled(name: str | None, cause: dict[str, Any]) -> JobCancelled:
    reason, by = str(cause.get("reason") or "cancelled"), text_of(cause.get("by"))
    parent = text_of(cause.get("parent"))
    text = f"job {name} was {reason}" + (f" by {by}" if by else "")
    if parent:
        text = f"job {name} was cancelled, since {parent}, which it waited for, is not done"
    if reason == "unread":
        text = f"job {name} was cancelled, since its reader was gone"
    return JobCancelled(text, reason=reason, by=by, parent=parent, id=name)


# ---- verbs: single jobs


def show(identifier: Any) -> Verb[JobStatus]:
    """One job."""
    return Verb("ask", "show", {"id": id_bytes(identifier)}, JobStatus.from_wire)


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job is in the state that it is in.

    ``reasons`` are maps: a ``code``, a ``text`` for people, and the figures behind it. ``attempts`` tells of its runs
    that did not end well, oldest first. Points in time are Unix milliseconds, under names that end in ``_at``.
    """

    id: str
    queue: str
    state: str
    reasons: list[dict[str, Any]]
    attempts: list[dict[str, Any]]


def why(identifier: Any) -> Verb[Why]:
    """Why a job does not run, or what became of it."""

    def decode(value: Any) -> Why:
        told = _texts(value)
        return Why(told["id"], told["queue"], told["state"], _maps(told["reasons"]), _maps(told["attempts"] or ()))

    return Verb("ask", "why", {"id": id_bytes(identifier)}, decode)


def cancel(identifier: Any) -> Verb[str]:
    """Cancel a job; its state then."""
    return Verb("order", "cancel", {"id": id_bytes(identifier)}, lambda value: str(value["state"]))


# ---- verbs: listings


class Page(NamedTuple, Generic[T]):
    """Rows of a listing, and where the next page begins; None at the end."""

    rows: list[T]
    cursor: Any


PageAfter = Callable[[float, Any], Verb[Page[T]]]
"""Asks for the next page of a listing, if so many rows are still wanted, from that cursor on; None for the first."""


def pages(name: str, chosen: dict[str, Any], rows: str, row: Callable[[Any], T]) -> PageAfter[T]:
    """The pages of a listing, whose answers have their rows under that name. The broker may make one shorter."""

    def decode(value: Any) -> Page[T]:
        return Page([row(told) for told in value[rows]], value["cursor"])

    def page(left: float, cursor: Any) -> Verb[Page[T]]:
        arguments = {**chosen, "limit": int(min(left, limits.MAX_PAGE))}
        return Verb("ask", name, arguments if cursor is None else {**arguments, "cursor": cursor}, decode)

    return page


def job_pages(name: str, chosen: dict[str, Any]) -> PageAfter[JobStatus]:
    """Those of ``list`` or ``dead``."""
    return pages(name, chosen, "jobs", JobStatus.from_wire)


def rows_wanted(limit: int | None) -> float:
    """How many rows a listing is to have in all: ``limit``, checked, or without end for None."""
    return math.inf if limit is None else whole(limit, "limit", 1, 1 << 53)


def selection(queue: str | None, **given: Any) -> dict[str, Any]:
    """What a listing or an order over many jobs is narrowed to, checked; what is None is left out.

    ``since``, ``until`` and ``before`` are points in time as people write them.
    """
    chosen: dict[str, Any] = {} if queue is None else {"queue": queue_name(queue)}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("since", "until", "before"):
            try:
                value = moment_ms(value)
            except InvalidArgument as error:
                raise InvalidArgument(f"{name}: {error}") from None
        elif not isinstance(value, str):
            raise InvalidArgument(f"{name}: a text, not {value!r:.60}")
        chosen[name] = value
    return chosen


def dead_groups(queue: str | None, limit: int | None) -> Verb[list[dict[str, Any]]]:
    """Dead jobs, counted by queue, reason and error."""
    arguments = selection(queue)
    if limit is not None:
        arguments["limit"] = whole(limit, "limit", 1, limits.MAX_PAGE)
    return Verb("ask", "dead_groups", arguments, lambda value: _maps(_texts(value)))


def workers() -> Verb[list[dict[str, Any]]]:
    """The connected workers."""
    return Verb("ask", "workers", {}, lambda value: [{**row, "id": text_of(row["id"])} for row in _maps(value)])


def stats() -> Verb[dict[str, Any]]:
    """The broker's counters."""
    return Verb("ask", "stats", {}, _map)


# ---- verbs: queues


class PolicyValue(NamedTuple):
    """An option of a queue: its value as people write it, and where it comes from.

    ``source`` is ``set`` (at run time), ``config`` (the broker's file, for this queue), or where the broker's own
    setting for all queues came from.
    """

    value: Any
    source: str


Policy = dict[str, PolicyValue]


def _policy(value: Any) -> Policy:
    policy = {}
    for name, (wire, source) in value.items():
        option = QUEUE_OPTIONS.get(name)  # None: a newer broker's
        policy[str(name)] = PolicyValue(wire if option is None else written_value(option, wire), str(source))
    return policy


def queues() -> Verb[list[dict[str, Any]]]:
    """All queues with what is in them."""
    return Verb("ask", "queues", {}, _maps)


def queue(name: str) -> Verb[dict[str, Any]]:
    """One queue with its policy."""
    return Verb(
        "ask", "queue", {"queue": queue_name(name)}, lambda value: {**_map(value), "policy": _policy(value["policy"])}
    )


def set_queue(name: str, options: dict[str, Any]) -> Verb[Policy]:
    """Set options of a queue, as people write them; its policy then."""
    if not options:
        raise InvalidArgument("name at least one option of the queue")
    arguments = {"queue": queue_name(name), "options": queue_options(options)}
    return Verb("order", "set", arguments, lambda value: _policy(value["policy"]))


def unset_queue(name: str, options: Sequence[str]) -> Verb[Policy]:
    """Let options of a queue be decided elsewhere again; its policy then."""
    if not options:
        raise InvalidArgument("name at least one option of the queue")
    arguments = {"queue": queue_name(name), "options": [known_queue_option(option) for option in options]}
    return Verb("order", "unset", arguments, lambda value: _policy(value["policy"]))


def gate(verb: str, name: str) -> Verb[None]:
    """``pause``, ``resume`` or ``drain`` a queue."""
    return Verb("order", verb, {"queue": queue_name(name)}, lambda value: None)


def purge(name: str) -> Verb[int]:
    """Remove a queue's waiting jobs; how many they were."""
    return Verb("order", "purge", {"queue": queue_name(name)}, lambda value: int(value["purged"]))


# ---- verbs: many dead jobs


@dataclass(frozen=True, slots=True)
class Bulk:
    """What an order over many jobs does.

    For named jobs ``count`` is how many it changed. Where the broker goes on with it after the answer (a queue, or a
    rate), ``count`` is how many dead jobs there were, and ``work`` is the number of that work.
    """

    count: int
    work: int | None = None


def bulk(name: str, ids: Any, queue: str | None, rate: int | None, **narrowed: Any) -> list[Verb[Bulk]]:
    """The orders that replay or drop these jobs, or those of a queue: one for each `MAX_ORDER_IDS` ids."""
    if (ids is None) == (queue is None):
        raise InvalidArgument(f"{name} takes ids or a queue")
    past = "replayed" if name == "replay" else "dropped"

    def decode(value: Any) -> Bulk:
        if "work" in value:
            return Bulk(int(value["dead"]), int(value["work"]))
        return Bulk(int(value[past]))

    pace = {} if rate is None else {"rate": whole(rate, "rate", 1, MAX_REPLAY_RATE)}
    chosen = selection(queue, **narrowed)
    if queue is not None:
        return [Verb("order", name, {**chosen, **pace}, decode)]
    if chosen:
        raise InvalidArgument(f"{', '.join(chosen)}: this goes with a queue")
    several: Iterable[Any] = [ids] if isinstance(ids, str) or hasattr(ids, "id") else ids
    encoded = [id_bytes(identifier) for identifier in several]
    most = limits.MAX_ORDER_IDS
    if pace and len(encoded) > most:
        raise InvalidArgument(f"with a rate go at most {most} ids, or a queue")  # each order has a rate of its own
    parts = [encoded[at : at + most] for at in range(0, len(encoded), most)]
    return [Verb("order", name, {"ids": part, **pace}, decode) for part in parts]


def total(done: Iterable[Bulk]) -> Bulk:
    """The sum of several."""
    done = list(done)
    return Bulk(sum(one.count for one in done), next((one.work for one in done if one.work is not None), None))


# ---- reading answers


def _map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not a map")
    return value


def _maps(value: Any) -> list[dict[str, Any]]:
    return [_map(row) for row in value]


def _text(identifier: Any) -> str:
    if not isinstance(identifier, bytes):
        raise TypeError("not an id")
    return identifier.decode()


def _texts(value: Any) -> Any:
    """An answer with the ids in it, wherever they stand, as texts."""
    if isinstance(value, bytes):
        return text_of(value)
    if isinstance(value, dict):
        return {name: _texts(entry) for name, entry in value.items()}
    return [_texts(entry) for entry in value] if isinstance(value, list) else value
