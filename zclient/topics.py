"""Topics as people see them: what is published, bindings, kept topics; and the questions and orders about them.

It turns what a caller says into what the wire has, and answers back. It sends nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from zclient.config import Duration, Moment
from zclient.durations import duration_ms, format_duration
from zclient.errors import InvalidArgument
from zclient.filters import Filter, wire_filters, written_filter
from zclient.jobs import decode_payload, encode_payload, id_bytes, moment, new_id, queue_name, wire_options
from zclient.options import moment_ms, size
from zclient.protocol import limits
from zclient.protocol.messages import Publication as WirePublication
from zclient.protocol.messages import Told
from zclient.protocol.options import COPY_OPTIONS
from zclient.protocol.topics import pattern_fault, topic_fault
from zclient.verbs import PageAfter, Verb, pages

BEGINNING = "beginning"

Start = Moment | None
"""Where to begin in what is kept: ``"beginning"``, a point in time, or None for now."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: its id, and how many queues took it."""

    id: str
    queues: int


@dataclass(frozen=True, slots=True)
class PublishedMany:
    """What was published in batches: the ids in order, how many copies that made in all, and how many had none."""

    ids: Sequence[str]
    copies: int
    unrouted: int


@dataclass(frozen=True, slots=True)
class Publication:
    """One publication as a tail tells it.

    ``offset`` is its place among what is kept, None where its topic is not. ``missed`` says how many before it did not
    arrive: 0 as a rule, None where some may be missing and nobody knows how many. ``options`` are those of its copies.
    """

    topic: str
    id: str
    at: datetime
    offset: int | None
    headers: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    missed: int | None = 0
    payload_bytes: bytes = field(default=b"", repr=False)

    @property
    def payload(self) -> Any:
        """What was published. ValueError if it is not msgpack."""
        return decode_payload(self.payload_bytes)


def publication_of(told: Told, missed: int | None) -> Publication:
    """From what the broker tells."""
    at = moment(told.at_ms)
    assert at is not None
    options = {name: value for name, value in told.options.items() if name != "headers"}
    headers = told.options.get("headers") or {}
    name = told.id.decode(errors="replace")
    return Publication(told.topic, name, at, told.offset or None, headers, options, missed, told.payload)


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding as the broker told it. ``backfilling``: copies of what was kept before it are still being made."""

    pattern: str
    queue: str
    filters: list[str]
    created_at: datetime | None
    backfilling: bool

    @classmethod
    def from_wire(cls, row: dict[str, Any]) -> "Binding":
        """From a row of ``bindings``."""
        filters = [written_filter(test) for test in row["filters"]]
        return cls(row["pattern"], row["queue"], filters, moment(row["created_at"]), row["backfilling"])


@dataclass(frozen=True, slots=True)
class KeptTopic:
    """A kept topic as the broker told it. ``keep_for`` is a duration and ``keep_bytes`` a number; None: no bound."""

    pattern: str
    keep_for: str | None
    keep_bytes: int | None
    created_at: datetime | None
    publications: int
    bytes: int

    @classmethod
    def from_wire(cls, row: dict[str, Any]) -> "KeptTopic":
        """From a row of ``kept_topics``."""
        keep_for = format_duration(row["keep_ms"] / 1000) if row["keep_ms"] else None
        return cls(
            row["pattern"],
            keep_for,
            row["keep_bytes"] or None,
            moment(row["created_at"]),
            row["publications"],
            row["bytes"],
        )


# ---- what callers say


def topic_name(topic: Any) -> str:
    """A topic, checked."""
    if fault := topic_fault(topic):
        raise InvalidArgument(fault)
    return str(topic)


def topic_pattern(pattern: Any) -> str:
    """A pattern of topics, checked."""
    if fault := pattern_fault(pattern):
        raise InvalidArgument(fault)
    return str(pattern)


def copy_options(**options: Any) -> dict[str, Any]:
    """The options of what is published, as the wire has them."""
    for name, value in options.items():
        if name not in COPY_OPTIONS and value is not None:
            raise InvalidArgument(f"{name} is no option of what is published; there are {', '.join(COPY_OPTIONS)}")
    wire = wire_options(**options)
    if "topic" in wire.get("headers", ()):
        raise InvalidArgument("headers: the broker sets topic")
    return wire


def one_publication(topic: Any, payload: Any, identifier: str | None, options: dict[str, Any]) -> WirePublication:
    """A single publication, checked and encoded; the options as the wire has them."""
    name = new_id() if identifier is None else id_bytes(identifier)
    if len(name) > limits.MAX_PUBLICATION_ID_BYTES:
        raise InvalidArgument(f"the id of a publication has at most {limits.MAX_PUBLICATION_ID_BYTES} bytes")
    return WirePublication(topic_name(topic), options, name, encode_payload(payload))


def start_ms(start: Start) -> int | None:
    """Where to begin, as the wire has it: 0 is the beginning."""
    if start is None or start == BEGINNING:
        return None if start is None else 0
    try:
        return max(1, moment_ms(start))
    except InvalidArgument as error:
        raise InvalidArgument(f"start: {BEGINNING}, or a time: {error}") from None


# ---- verbs


def bind(pattern: str, queue: str, filters: Iterable[Filter], start: Start) -> Verb[Binding]:
    """Bind a queue, or give its binding other filters."""
    arguments: dict[str, Any] = {"pattern": topic_pattern(pattern), "queue": queue_name(queue)}
    arguments["filters"] = wire_filters(filters)
    since = start_ms(start)
    if since is not None:
        arguments["start"] = since
    return Verb("order", "bind", arguments, Binding.from_wire)


def unbind(pattern: str, queue: str) -> Verb[Binding]:
    """Take a binding away; how it was."""
    arguments = {"pattern": topic_pattern(pattern), "queue": queue_name(queue)}
    return Verb("order", "unbind", arguments, Binding.from_wire)


def bindings(queue: str | None) -> PageAfter[Binding]:
    """The pages of all bindings, or those of a queue."""
    return pages("bindings", {} if queue is None else {"queue": queue_name(queue)}, "bindings", Binding.from_wire)


def keep(pattern: str, keep_for: Duration | None, keep_bytes: int | str | None) -> Verb[KeptTopic]:
    """Keep a topic, or change for how long."""
    if keep_for is None and keep_bytes is None:
        raise InvalidArgument("say for how long (keep_for), how many bytes (keep_bytes), or both")
    kept_ms = 0 if keep_for is None else duration_ms(keep_for)
    kept_bytes = 0 if keep_bytes is None else size(keep_bytes)
    if (keep_for is not None and not 0 < kept_ms <= limits.MAX_DELAY_MS) or (keep_bytes is not None and kept_bytes < 1):
        raise InvalidArgument("a topic is kept for a time of up to ten years, and for one byte at least")
    arguments = {"pattern": topic_pattern(pattern), "keep_ms": kept_ms, "keep_bytes": kept_bytes}
    return Verb("order", "keep_topic", arguments, KeptTopic.from_wire)


def forget(pattern: str) -> Verb[KeptTopic]:
    """Keep a topic no longer; how it was."""
    return Verb("order", "forget_topic", {"pattern": topic_pattern(pattern)}, KeptTopic.from_wire)


def kept_topics() -> Verb[list[KeptTopic]]:
    """All kept topics, by pattern."""
    return Verb("ask", "kept_topics", {}, lambda value: [KeptTopic.from_wire(row) for row in value])


class LogPage(NamedTuple):
    """Kept publications, where the next page begins (None at the end), whether some before were forgotten, and the
    offset that the last `forget` took (0: there was none): what it removed lay before it."""

    publications: list[Told]
    next: int | None
    forgotten: bool
    removed: int


def log_page(pattern: str, filters: list[Any], start: int, since_ms: int, until: int) -> Verb[LogPage]:
    """The next page of what is kept, by offsets."""
    arguments = {"pattern": pattern, "filters": filters, "start": start, "since": since_ms, "until": until}

    def decode(value: Any) -> LogPage:
        told = [Told(*row) for row in value["publications"]]
        return LogPage(told, value["next"], bool(value["forgotten"]), int(value["removed"]))

    return Verb("ask", "publications", arguments, decode)
