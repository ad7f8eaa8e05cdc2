"""Publications come in: each to all queues that are bound to its topic, once, in one commit, or not at all.

A copy is an ordinary job. Its id is made of the publication's and the name of its queue, so the same publication under
the same id is the same jobs, whoever sends it again.
"""

import hashlib
from typing import Any

from zbroker.core import kept, rows, tails
from zbroker.core.matching import TooManyMatches
from zbroker.core.put import put, refuse_for_now
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zbroker.core.topics import Kept
from zclient.protocol import limits as wire
from zclient.protocol.messages import Group, Publication, Publish, Put
from zclient.protocol.options import COPY_OPTIONS, job_fault
from zclient.protocol.topics import topic_fault

TOPIC_HEADER = "topic"
"""The header of a copy that tells under which topic it was published."""

Told = dict[str, list[int]]
"""The answer: to how many queues each publication went."""


def publish(state: State, message: Publish) -> Told:
    """Store the copies of all publications in this tick; raises `Refusal` and stores none."""
    publications = message.publications
    refuse_for_now(state)
    if len({publication.id for publication in publications}) != len(publications):
        raise Refusal("invalid", "the same id stands twice in one batch")
    groups: list[Group] = []
    counts: list[int] = []
    keeping: list[tuple[dict[Kept, None], int]] = []  # who keeps each, and the offset that it has already
    for publication in publications:
        _judge(state, publication)
        queues = _queues_of(state, publication)
        groups += copies(publication, queues)
        counts.append(len(queues))
        keeps = state.topics.kept.find(publication.topic, {}) if state.topics.kept.size else {}
        keeping.append((keeps, kept.known(state, publication, keeps) if keeps else 0))
    if len(groups) > wire.MAX_COPIES:
        raise Refusal("batch_too_large", f"{len(groups)} queues take what is published; at most {wire.MAX_COPIES}")
    takers = tails.takers(state, publications) if state.topics.tails.size else None
    if groups:
        put(state, Put(0, 0, groups), wire.MAX_COPY_BYTES)
        state.tick.bytes_out += sum(len(group.payloads[0]) for group in groups)
    offsets = [
        known or (kept.append(state, publication, keeps) if keeps else 0)
        for publication, (keeps, known) in zip(publications, keeping, strict=True)
    ]
    if takers is not None:
        fresh = [not known for _, known in keeping]
        tails.tell(state, publications, offsets, fresh, takers)
    state.count("published", len(publications))
    unrouted = counts.count(0)
    if unrouted:
        state.count("unrouted", unrouted)
    return {"queues": counts}


def _judge(state: State, publication: Publication) -> None:
    """Raises `Refusal` for what nobody could get. The copies are judged once more, each as a job of its queue."""
    topic, options, identifier, payload = publication
    fault = topic_fault(topic) or wire.id_fault(identifier)
    if fault is None and len(identifier) > wire.MAX_PUBLICATION_ID_BYTES:
        fault = f"the id of a publication has at most {wire.MAX_PUBLICATION_ID_BYTES} bytes"
    if fault is None and options:
        fault = next((f"{name} is no option of a publication" for name in options if name not in COPY_OPTIONS), None)
        fault = fault or job_fault(options)
        if fault is None and TOPIC_HEADER in options.get("headers", ()):
            fault = f"headers: {TOPIC_HEADER} is the broker's to set"
    if fault:
        raise Refusal("invalid", fault)
    most = wire.MAX_PUBLICATION_HEADERS_BYTES
    if len(rows.pack(options.get("headers", {}))) > most:
        raise Refusal("too_large", f"headers of a publication take at most {most} bytes, encoded")
    most = state.settings.max_payload
    if len(payload) > most:
        raise Refusal("too_large", f"a payload of {len(payload)} bytes; at most {most}", limit=most)


def _queues_of(state: State, publication: Publication) -> dict[str, None]:
    try:
        return state.topics.bindings.find(publication.topic, publication.options.get("headers", {}))
    except TooManyMatches:
        text = f"more bindings belong to the topic {publication.topic} than may be looked at"
        raise Refusal("batch_too_large", text) from None


def copies(publication: Publication, queues: dict[str, None]) -> list[Group]:
    """What a publication is in each of these queues: a job, as a group of its own."""
    topic, options, identifier, payload = publication
    shared: dict[str, Any] = {**options, "headers": {**options.get("headers", {}), TOPIC_HEADER: topic}}
    return [Group(queue, shared, [copy_id(identifier, queue)], [payload]) for queue in queues]


def copy_id(identifier: bytes, queue: str) -> bytes:
    """The id of a publication's copy in a queue."""
    return b"%b.%b" % (identifier, hashlib.blake2b(queue.encode(), digest_size=8).hexdigest().encode())
