"""The part of `zbroker check` that is about topics: bindings, and kept topics with their logs. It changes no row."""

from collections.abc import Iterator, Mapping
from typing import Any

from zbroker.core import rows
from zbroker.core.matching import overlap
from zbroker.storage import Store
from zclient.protocol.topics import filters_fault, pattern_fault


def topic_faults(store: Store, queues: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the rows of topics, in words. ``queues`` are those that exist."""
    yield from _bindings(store, queues)
    kept = dict(_kept(store))
    yield from _logs(store, kept)
    yield from _indexes(store, kept)


def _bindings(store: Store, queues: Mapping[str, Any]) -> Iterator[str]:
    works = [rows.unpack(value) for _, value in store.scan("meta", rows.META_WORK, rows.beyond(rows.META_WORK))]
    backfills = {(work[5], work[1], work[3]) for work in works if work[0] == "backfill"}
    for key, value in store.scan("topics", rows.TOPICS_BINDING, rows.beyond(rows.TOPICS_BINDING)):
        pattern, queue = rows.split_binding_key(key)
        row = rows.BindingRow(*rows.unpack(value))
        if pattern_fault(pattern) or filters_fault(row.filters):
            yield f"the binding of queue {queue} to {pattern!r} takes nothing that can be published"
        if queue not in queues:
            yield f"{pattern} is bound to queue {queue}, which does not exist"
        if row.backfill and (pattern, queue, row.backfill) not in backfills:
            yield f"queue {queue} waits for a backfill of {pattern}, and none goes on"


def _kept(store: Store) -> Iterator[tuple[int, tuple[str, rows.KeptRow]]]:
    for key, value in store.scan("topics", rows.TOPICS_KEPT, rows.beyond(rows.TOPICS_KEPT)):
        row = rows.KeptRow(*rows.unpack(value))
        yield row.number, (key[len(rows.TOPICS_KEPT) :].decode(), row)


def _logs(store: Store, kept: Mapping[int, tuple[str, rows.KeptRow]]) -> Iterator[str]:
    """Each log holds what its row says, nothing else, and is looked at when its oldest may be too old."""
    following = int.from_bytes(store.get("topics", rows.TOPICS_OFFSET) or b"\1", "big")
    if int.from_bytes(store.get("topics", rows.TOPICS_REMOVED) or b"", "big") >= following:
        yield "the last topic that was forgotten took an offset that is still to come"
    publications = dict.fromkeys(kept, 0)
    sizes = dict.fromkeys(kept, 0)
    for key, value in store.scan("topics", rows.TOPICS_LOG, rows.beyond(rows.TOPICS_LOG)):
        number, offset = int.from_bytes(key[1:9], "big"), rows.offset_of(key)
        if number not in kept:
            yield f"publication {offset} is in a log that no kept topic has"
            continue
        pattern, row = kept[number]
        publication = rows.LogRow(*rows.unpack(value))
        publications[number] += 1
        sizes[number] += len(value)
        if not row.first <= offset < following:
            yield f"publication {offset} of {pattern} lies outside of its log"
        if not overlap(pattern, publication.topic):
            yield f"publication {offset} of {pattern} is of the topic {publication.topic}"
        if store.get("topics", rows.index_prefix(number) + publication.id) != rows.number8(offset):
            yield f"publication {offset} of {pattern} is not found by its id"
    for number, (pattern, row) in kept.items():
        if (publications[number], sizes[number]) != (row.publications, row.size):
            told = f"{publications[number]} publications of {sizes[number]} bytes"
            yield f"{pattern}: {told} are kept, and its counters say {row.publications} and {row.size}"
        timer = rows.timers_prefix(row.look_ms, rows.TIMER_TOPIC) + rows.number8(number)
        needs_look = row.keep_ms > 0 and row.publications > 0
        if (needs_look and not row.look_ms) or (row.look_ms and store.get("timers", timer) is None):
            yield f"no timer looks at what is kept of {pattern}"


def _indexes(store: Store, kept: Mapping[int, tuple[str, rows.KeptRow]]) -> Iterator[str]:
    for key, value in store.scan("topics", rows.TOPICS_INDEX, rows.beyond(rows.TOPICS_INDEX)):
        number, offset = int.from_bytes(key[1:9], "big"), int.from_bytes(value, "big")
        if number not in kept or store.get("topics", rows.log_key(number, offset)) is None:
            yield f"the id {key[9:].decode(errors='backslashreplace')} is of no kept publication"
