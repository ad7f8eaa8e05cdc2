"""Settlements come in: which count, which repeat what was done, which are too late."""

from typing import Any

from zbroker.core import history, leave, rows, unique, waiting
from zbroker.core.entities import Delivery, Peer
from zbroker.core.publish import complete, copies_of_all, prepare
from zbroker.core.put import judge, put, put_judged, refuse_for_now
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Extend, Outcome, Progress, Put, Sent, Settle, Settlement

MAX_EXTENSION_MS = 24 * 3600 * 1000
"""A day: a lease that long is a mistake, since leases are renewed while the worker lives."""


Verdict = tuple[int, bytes, str] | tuple[int, bytes, str, str]
"""Fence, id, "lost" | "unknown" | "too_large"; or "unsent", and why."""


def settle(state: State, message: Settle) -> list[Verdict]:
    """Apply the settlements that count, each with the jobs that its handler sent; the others with a verdict."""
    acks = sum(len(one.ids) for one in message.settlements if one.outcome == Outcome.ACK)
    others = sum(len(one.ids) for one in message.settlements) - acks
    if acks > wire.MAX_BATCH_JOBS or others > wire.MAX_ORDER_IDS:
        most = f"at most {wire.MAX_BATCH_JOBS} and {wire.MAX_ORDER_IDS}"
        raise Refusal("batch_too_large", f"{acks} acks and {others} other settlements in one message; {most}")
    if message.sends:
        _refuse_too_much(state, message)
    refused: list[Verdict] = []
    peers: dict[Peer, None] = {}
    unsent = _send(state, message, refused) if message.sends else ()
    for settlement in message.settlements:
        if unsent:
            settlement = _without(settlement, unsent)
        delivery = state.deliveries.get(settlement.fence)
        if delivery is None:
            for identifier in settlement.ids:
                _judge_stray(state, settlement, identifier, refused)
            continue
        peers[delivery.peer] = None
        if settlement.outcome == Outcome.ACK:
            _ack(state, delivery, settlement, refused)
        else:
            _settle_each(state, delivery, settlement, refused)
    for peer in peers:
        state.credit_changed(peer)
    return refused


def _refuse_too_much(state: State, message: Settle) -> None:
    """What the jobs of one SETTLE send is together no more than what a PUT may carry, nor what they publish more than
    a PUBLISH makes: one that is alone is judged by itself."""
    groups = [group for sent in message.sends for group in sent.groups]
    published = [sent.publications for sent in message.sends if sent.publications]
    if len(published) > 1 and copies_of_all(state, published) > wire.MAX_COPIES:
        text = f"more than {wire.MAX_COPIES} copies would be made with the acks of one message"
        raise Refusal("batch_too_large", text)
    jobs = sum(len(group.ids) for group in groups) + sum(map(len, published))
    size = sum(sum(map(len, group.payloads)) for group in groups)
    size += sum(len(publication.payload) for publications in published for publication in publications)
    if jobs > wire.MAX_BATCH_JOBS or size > wire.MAX_BATCH_BYTES:
        most = f"at most {wire.MAX_BATCH_JOBS} and {wire.MAX_BATCH_BYTES}"
        raise Refusal("batch_too_large", f"{jobs} jobs of {size} bytes are sent with the acks of one message; {most}")


def _send(state: State, message: Settle, refused: list[Verdict]) -> set[tuple[int, bytes]]:
    """Store what the handlers of acked jobs sent, each as a whole; the jobs of which that cannot be, and that are so
    not done: they are still held, and their worker may try again."""
    acked = {
        (one.fence, identifier): value
        for one in message.settlements
        if one.outcome == Outcome.ACK
        for identifier, value in zip(one.ids, one.values or [None] * len(one.ids), strict=True)
    }
    unsent: set[tuple[int, bytes]] = set()
    for sent in message.sends:
        place = (sent.fence, sent.id)
        delivery = state.leased.get(sent.id)
        if place not in acked or place in unsent or delivery is None or delivery.fence != sent.fence:
            continue  # not done, or no longer its own: it sends nothing
        if len(acked[place] or b"") > state.settings.max_payload:
            continue  # refused for that
        header = delivery.special.get(sent.id)
        options = header.options if header is not None else {}
        own_batch = options.get("batch")
        has_text = unique.ends_with(state, delivery.queue.name, sent.id, options)
        if has_text:  # this commit sets it free: what is sent may take it
            unique.release(state, delivery.queue.name, sent.id, options)
        try:
            if sent.publications:
                _publish(state, sent, own_batch)
            else:
                put(state, Put(0, 0, sent.groups), own_batch=own_batch)
        except Refusal as refusal:
            if has_text:
                unique.claim(state, delivery.queue.name, sent.id, options)
            unsent.add(place)
            refused.append((sent.fence, sent.id, "unsent", f"{refusal.code}: {refusal.text}"))
    return unsent


def _publish(state: State, sent: Sent, own_batch: bytes | None) -> None:
    """Store what a handler published, and the jobs that it sent beside; raises `Refusal` and stores none of both."""
    refuse_for_now(state)
    plans = judge(state, sent.groups) if sent.groups else []
    prepared = prepare(state, sent.publications)
    groups = [*sent.groups, *prepared.groups]
    if len({identifier for group in groups for identifier in group.ids}) != sum(len(group.ids) for group in groups):
        raise Refusal("invalid", "a job that is sent has the id of a copy of what is published")
    if groups:
        put_judged(state, groups, [*plans, *prepared.plans], own_batch=own_batch)
    complete(state, prepared)


def _without(settlement: Settlement, unsent: set[tuple[int, bytes]]) -> Settlement:
    """The settlement but for jobs that could not send what they wanted to."""
    kept = [n for n, identifier in enumerate(settlement.ids) if (settlement.fence, identifier) not in unsent]
    values = settlement.values
    return settlement._replace(ids=[settlement.ids[n] for n in kept], values=values and [values[n] for n in kept])


def _ack(state: State, delivery: Delivery, settlement: Settlement, refused: list[Verdict]) -> None:
    ids, results = settlement.ids, settlement.values
    if results is not None:
        largest = max((len(result) for result in results if result is not None), default=0)
        if largest > state.settings.max_payload:
            ids, results = _without_large(state, settlement, refused)
    leased = state.leased
    found = [leased.pop(identifier, None) for identifier in ids]
    if found.count(delivery) != len(ids):  # not all of them are this delivery's, or one stands twice
        mine = {identifier for identifier, holder in zip(ids, found, strict=True) if holder is delivery}
        others = zip(ids, found, strict=True)
        leased.update((one, holder) for one, holder in others if holder is not None and holder is not delivery)
        ids, results = _only_mine(state, settlement, mine, ids, results, refused)
    if ids:
        leave.done(state, delivery, ids, results)


def _only_mine(
    state: State,
    settlement: Settlement,
    mine: set[bytes],
    ids: list[bytes],
    results: list[Any] | None,
    refused: list[Verdict],
) -> tuple[list[bytes], list[Any] | None]:
    """The jobs that count, each once, with their results in step."""
    kept: list[int] = []
    for position, identifier in enumerate(ids):
        if identifier in mine:
            mine.discard(identifier)
            kept.append(position)
        else:
            _judge_stray(state, settlement, identifier, refused)
    return [ids[n] for n in kept], [results[n] for n in kept] if results is not None else None


def _without_large(state: State, settlement: Settlement, refused: list[Verdict]) -> tuple[list[bytes], list[Any]]:
    kept: list[tuple[bytes, Any]] = []
    for identifier, result in zip(settlement.ids, settlement.values or (), strict=True):
        if result is not None and len(result) > state.settings.max_payload:
            refused.append((settlement.fence, identifier, "too_large"))
        else:
            kept.append((identifier, result))
    return [identifier for identifier, _ in kept], [result for _, result in kept]


def _settle_each(state: State, delivery: Delivery, settlement: Settlement, refused: list[Verdict]) -> None:
    for position, identifier in enumerate(settlement.ids):
        if state.leased.get(identifier) is delivery:
            value = settlement.values[position] if settlement.values is not None else None
            leave.settle_one(state, delivery, identifier, settlement.outcome, value)
        else:
            _judge_stray(state, settlement, identifier, refused)


def _judge_stray(state: State, settlement: Settlement, identifier: bytes, refused: list[Verdict]) -> None:
    """A settlement of a job that this delivery does not hold: a repetition, too late, or of a job long gone."""
    ended = history.find(state, identifier)
    if ended is not None:
        repeats = ended.row.fence == settlement.fence and (
            settlement.outcome == Outcome.ACK
            if ended.row.state == JobState.DONE
            else ended.change is not None and ended.change.outcome == settlement.outcome
        )
        if not repeats:
            refused.append((settlement.fence, identifier, "lost"))
        return
    encoded = state.view.get("changes", identifier)
    change = rows.decode_change(encoded) if encoded is not None else None
    if change is not None and change.fence == settlement.fence and change.outcome == settlement.outcome:
        return
    alive = change is not None or state.view.get("jobs", identifier) is not None
    refused.append((settlement.fence, identifier, "lost" if alive else "unknown"))


def renew(state: State, peer: Peer, fences: list[int]) -> list[tuple[int, list[bytes]]]:
    """Leases run anew; returns those that the peer no longer has."""
    lost: list[tuple[int, list[bytes]]] = []
    for fence in fences:
        delivery = peer.deliveries.get(fence)
        if delivery is None:
            lost.append((fence, []))
        else:
            leave.renew(state, delivery, delivery.queue.policy.lease_ms)
            waiting.tell_wished(state, delivery)
    return lost


def extend(state: State, peer: Peer, message: Extend) -> None:
    """The lease lasts at least that long from now; `Refusal` if it is not the peer's, or the duration cannot be."""
    if not 0 < message.duration_ms <= MAX_EXTENSION_MS:
        raise Refusal("invalid", f"a lease is extended by 1 ms to 24 h, not {message.duration_ms} ms")
    delivery = state.leased.get(message.id)
    if delivery is None or delivery.fence != message.fence or delivery.peer is not peer:
        raise Refusal("lease_lost", "the lease of this job is no longer this worker's")
    leave.renew(state, delivery, message.duration_ms)


def progress(state: State, peer: Peer, message: Progress) -> None:
    """Keep what the worker tells of its running jobs. What comes for a lease that it no longer has says nothing."""
    for fence, identifier, fraction, text in message.entries:
        delivery = state.leased.get(identifier)
        if delivery is None or delivery.fence != fence or delivery.peer is not peer:
            continue
        found = state.find(identifier)
        if found is not None:
            change = found.changed()
            if fraction is None and not text and change.progress is not None:
                fraction, text, _ = change.progress  # it only says that it goes on
            change = change._replace(progress=(fraction, text, state.wall))
            delivery.changes[identifier] = change
            state.write_change(identifier, change)
