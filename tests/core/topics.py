"""What the tests of topics share: a broker, publishing to it, and what its queues then hold."""

from __future__ import annotations

from typing import Any

from tests.core.harness import Bench, Peer
from zbroker.core import rows
from zbroker.core.publish import copy_id
from zclient.protocol import messages as m
from zclient.protocol.record import header_of

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 24 * 3_600_000


def publication(topic: str, identifier: str, payload: bytes = b"p", **options: Any) -> m.Publication:
    return m.Publication(topic, options, identifier.encode(), payload)


def publish(peer: Peer, *publications: m.Publication) -> list[int]:
    """Publish in one message; to how many queues each went."""
    number = peer.next_number()
    peer.send(m.Publish(number, number, list(publications)))
    answer = peer.value_of(number)
    return list(answer["queues"])


def refused(peer: Peer, *publications: m.Publication) -> m.Failure:
    number = peer.next_number()
    return peer.refused(m.Publish(number, number, list(publications)))


def order_refused(peer: Peer, verb: str, **arguments: Any) -> m.Failure:
    number = peer.next_number()
    return peer.refused(m.Order(number, number, verb, arguments))


def bind(peer: Peer, pattern: str, queue: str, *filters: list[Any], **arguments: Any) -> dict[str, Any]:
    told: dict[str, Any] = peer.order("bind", pattern=pattern, queue=queue, filters=list(filters), **arguments)
    return told


def keep(peer: Peer, pattern: str, keep_ms: int = DAY, keep_bytes: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = peer.order("keep_topic", pattern=pattern, keep_ms=keep_ms, keep_bytes=keep_bytes)
    return told


def copies_in(bench: Bench, queue: str) -> list[str]:
    """The ids of the publications of which a queue has a copy that is not over, in the order of ids."""
    found = []
    for identifier, record in bench.store.scan("jobs", b"", b"\xff" * 65):
        if header_of(record).queue == queue:
            name = identifier.partition(b".")[0]
            assert identifier == copy_id(name, queue)
            found.append(name.decode())
    return found


def page(peer: Peer, pattern: str = "#", **arguments: Any) -> list[tuple[int, str]]:
    """All that is kept, page by page: offset, id."""
    found: list[tuple[int, str]] = []
    start: int | None = arguments.pop("start", 0)
    while start is not None:
        answer = peer.ask("publications", pattern=pattern, start=start, **arguments)
        found += [(row[0], row[3].decode()) for row in answer["publications"]]
        start = answer["next"]
    return found


def log_of(bench: Bench, pattern: str) -> list[str]:
    """The ids in the log of a kept topic, as they lie on disk."""
    kept = bench.core.state.topics.kept_by_pattern[pattern]
    prefix = rows.log_prefix(kept.row.number)
    return [
        rows.LogRow(*rows.unpack(value)).id.decode()
        for _, value in bench.store.scan("topics", prefix, prefix + b"\xff" * 9)
    ]


def follow(
    peer: Peer, tail: int, pattern: str, *filters: list[Any], position: int = 1000, octets: int = 1 << 20
) -> Any:
    """Begin a tail, or allow it more; the answer."""
    number = peer.next_number()
    peer.send(m.Tail(number, tail, pattern, list(filters), position, octets))
    return peer.value_of(number)


def told(peer: Peer) -> list[tuple[int, int, list[str]]]:
    """What tails were told since the last time: tail, position, ids."""
    return [
        (message.tail, message.position, [one.id.decode() for one in message.publications])
        for message in peer.take(m.Publications)
    ]
