"""Publications come in: each to all queues that are bound to its topic, once, in one commit, or not at all.

A copy is an ordinary job. Its id is made of the publication's and the name of its queue, so the same publication under
the same id is the same jobs, whoever sends it again.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core import kept, rows, tails
from zbroker.core.matching import TooManyMatches
from zbroker.core.put import Plan, judge_options, judge_queue, put_judged, refuse_for_now
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zbroker.core.topics import Kept
from zclient.protocol import limits as wire
from zclient.protocol.messages import Group, Publication, Publish
from zclient.protocol.options import COPY_OPTIONS, job_fault
from zclient.protocol.topics import topic_fault

TOPIC_HEADER = "topic"
"""The header of a copy that tells under which topic it was published."""

Told = dict[str, list[int]]
"""The answer: to how many queues each publication went."""


class Run(NamedTuple):
    """Publications of one topic and options: what they go to is looked up once."""

    queues: dict[str, None]
    keeps: dict[Kept, None]
    shared: dict[str, Any]  # the options of each copy


class Prepared(NamedTuple):
    """Publications that were judged and looked up, and of which nothing is stored yet."""

    publications: list[Publication]
    runs: list[Run]
    known: list[int]  # the offset of each that is kept already
    takers: tails.Takers | None
    groups: list[Group]
    plans: list[Plan]


def publish(state: State, message: Publish) -> Told:
    """Store the copies of all publications in this tick; raises `Refusal` and stores none."""
    refuse_for_now(state)
    prepared = prepare(state, message.publications)
    if prepared.groups:
        put_judged(state, prepared.groups, prepared.plans)
    return {"queues": complete(state, prepared)}


def prepare(state: State, publications: list[Publication]) -> Prepared:
    """Judge publications, and find who takes them; raises `Refusal`."""
    if len({publication.id for publication in publications}) != len(publications):
        raise Refusal("invalid", "the same id stands twice in one batch")
    runs = _runs(state, publications)
    known = [
        kept.known(state, publication, run.keeps) if run.keeps else 0
        for publication, run in zip(publications, runs, strict=True)
    ]
    takers = tails.takers(state, publications) if state.topics.tails.size else None
    groups = copies(publications, runs)
    return Prepared(publications, runs, known, takers, groups, judge_copies(state, groups))


def complete(state: State, prepared: Prepared) -> list[int]:
    """The copies are stored: keep and tell what is to be kept and told; how many queues took each."""
    publications, runs, known, takers, groups, _ = prepared
    offsets = [
        offset or (kept.append(state, publication, run.keeps) if run.keeps else 0)
        for publication, run, offset in zip(publications, runs, known, strict=True)
    ]
    if takers is not None:
        tails.tell(state, publications, offsets, [not offset for offset in known], takers)
    counts = [len(run.queues) for run in runs]
    state.tick.bytes_out += sum(sum(map(len, group.payloads)) for group in groups)
    state.count("published", len(publications))
    unrouted = counts.count(0)
    if unrouted:
        state.count("unrouted", unrouted)
    return counts


def copies_of_all(state: State, several: Iterable[list[Publication]]) -> int:
    """How many copies these would make, all together; those of what cannot be published do not count."""
    number = 0
    for publications in several:
        try:
            number += sum(len(run.queues) for run in _runs(state, publications))
        except Refusal:
            continue  # it is refused by itself, later
    return number


def _runs(state: State, publications: list[Publication]) -> list[Run]:
    """Where each publication goes; neighbours of one topic and options share what was found."""
    runs: list[Run] = []
    last: Publication | None = None
    topics = state.topics
    for publication in publications:
        if last is not None and publication[:2] == last[:2]:
            _judge_one(state, publication)
            runs.append(runs[-1])
            continue
        last = publication
        _judge(state, publication)
        _judge_one(state, publication)
        headers = publication.options.get("headers", {})
        try:
            queues = topics.bindings.find(publication.topic, headers)
            keeps = topics.kept.find(publication.topic, {}) if topics.kept.size else {}
        except TooManyMatches:
            text = f"more patterns belong to the topic {publication.topic} than may be looked at"
            raise Refusal("batch_too_large", text) from None
        runs.append(Run(queues, keeps, options_of_copy(publication)))
    return runs


def _judge(state: State, publication: Publication) -> None:
    """Raises `Refusal` for a topic or options that cannot be, whoever gets copies."""
    topic, options = publication.topic, publication.options
    fault = topic_fault(topic)
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


def _judge_one(state: State, publication: Publication) -> None:
    """The same for what each has of its own."""
    fault = wire.id_fault(publication.id)
    if fault is None and len(publication.id) > wire.MAX_PUBLICATION_ID_BYTES:
        fault = f"the id of a publication has at most {wire.MAX_PUBLICATION_ID_BYTES} bytes"
    if fault:
        raise Refusal("invalid", fault)
    size, most = len(publication.payload), state.settings.max_payload
    if size > most:
        raise Refusal("too_large", f"a payload of {size} bytes; at most {most}", limit=most)


# ---- copies


def options_of_copy(publication: Publication) -> dict[str, Any]:
    """The options of a publication's copies: its own, and the header that tells its topic."""
    headers = {**publication.options.get("headers", {}), TOPIC_HEADER: publication.topic}
    return {**publication.options, "headers": headers}


def copies(publications: list[Publication], runs: list[Run]) -> list[Group]:
    """The jobs that they are in each of their queues, in order; those of one run and queue in one group.

    Raises `Refusal` if they are more, or larger, than one message may make.
    """
    groups: list[Group] = []
    places: dict[str, Group] = {}
    last: Run | None = None
    jobs = size = 0
    for publication, run in zip(publications, runs, strict=True):
        jobs += len(run.queues)
        size += len(run.queues) * len(publication.payload)
        if jobs > wire.MAX_COPIES or size > wire.MAX_COPY_BYTES:
            most = f"at most {wire.MAX_COPIES} copies are made at once, of {wire.MAX_COPY_BYTES >> 20} MiB together"
            raise Refusal("batch_too_large", f"too many queues take what is published: {most}")
        if run is not last:
            last, places = run, {}
        for queue in run.queues:
            group = places.get(queue)
            if group is None:
                group = places[queue] = Group(queue, run.shared, [], [])
                groups.append(group)
            group.ids.append(copy_id(publication.id, queue))
            group.payloads.append(publication.payload)
    return groups


def judge_copies(state: State, groups: list[Group]) -> list[Plan]:
    """The groups, judged; raises `Refusal`. Options that several share are judged once for each policy that says
    something else of them."""
    judged: dict[tuple[int, int], Plan] = {}
    plans: list[Plan] = []
    for group in groups:
        policy = judge_queue(state, group.queue)
        of_these = id(group.options), policy.ttl_ms
        plan = judged.get(of_these)
        if plan is None:
            plan = judged[of_these] = judge_options(state, group.options, policy)
        plans.append(plan)
    return plans


def copy_id(identifier: bytes, queue: str) -> bytes:
    """The id of a publication's copy in a queue."""
    return b"%b.%b" % (identifier, _mark(queue))


@lru_cache(maxsize=limits.MAX_QUEUES)
def _mark(queue: str) -> bytes:
    return hashlib.blake2b(queue.encode(), digest_size=8).hexdigest().encode()
