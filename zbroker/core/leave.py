"""The ways out of a delivery: done, or back to the queue, or dead, or cancelled; and what each burns.

Every way but done writes the job's change row with the fence that it came out of, so that a delivery row read back
after a restart does not count for it any more.
"""

from collections.abc import Iterator
from heapq import heapify, heappush
from typing import Any

from zbroker import limits
from zbroker.core import history, rows
from zbroker.core.policy import attempts_allowed, retry_delay
from zbroker.core.rows import LOST, Attempt, Change
from zbroker.core.state import Delivery, Peer, Queue, State, Steps
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Outcome
from zclient.protocol.record import Header, header_of, sequence_of


def place_of(header: Header) -> tuple[int, bytes]:
    """The lane that a job's options put it in."""
    options = header.options
    return rows.rank_of(options.get("priority", 0)), options.get("key", "").encode()


def start_lease(state: State, delivery: Delivery) -> None:
    """The lease runs anew from now."""
    delivery.deadline = state.now + delivery.queue.policy.lease_ms
    if len(state.lease_heap) > 2 * len(state.deliveries) + limits.STALE_LEASES:  # most of them were settled in time
        state.lease_heap = [(live.deadline, live.fence) for live in state.deliveries.values()]
        heapify(state.lease_heap)
    heappush(state.lease_heap, (delivery.deadline, delivery.fence))


def close(state: State, delivery: Delivery, jobs: int) -> None:
    """``jobs`` of the delivery are settled: its worker has as much more credit, and an empty delivery is deleted.

    The caller calls `State.credit_changed` when it is through with the peer.
    """
    delivery.open -= jobs
    peer = delivery.peer
    peer.unsettled -= jobs
    if delivery.open == 0:
        del state.deliveries[delivery.fence]
        del peer.deliveries[delivery.fence]
        state.tick.rows["deliveries"][rows.number8(delivery.fence)] = None
        if delivery.alone:
            peer.alone = False


def done(state: State, delivery: Delivery, ids: list[bytes], results: list[Any] | None) -> None:
    """Jobs of one delivery, taken out of `State.leased` already, are done."""
    queue = delivery.queue
    gone = dict.fromkeys(ids)
    state.tick.rows["jobs"].update(gone)
    changes: dict[bytes, bytes] = {}
    if delivery.changes:
        for identifier in ids:
            change = delivery.changes.get(identifier)
            if change is not None:
                state.tick.rows["changes"][identifier] = None
                changes[identifier] = rows.encode_change(change)
    if delivery.external:
        state.tick.rows["payloads"].update(dict.fromkeys(delivery.external.intersection(ids)))
    created = delivery.created_ms
    history.add(
        state,
        queue,
        JobState.DONE,
        ids,
        [created[identifier] for identifier in ids] if isinstance(created, dict) else [created] * len(ids),
        fence=delivery.fence,
        worker=delivery.peer.name,
        results=results,
        changes=changes,
    )
    state.move(queue, JobState.LEASED, Event.ACK, len(ids))
    if state.watchers:
        for position, identifier in enumerate(ids):
            if identifier in state.watchers:
                history.tell(state, identifier, JobState.DONE, results[position] if results else None, None)
    close(state, delivery, len(ids))


def settle_one(state: State, delivery: Delivery, identifier: bytes, outcome: int, value: Any) -> None:
    """One leased job of the delivery, settled in another way than done."""
    error = trimmed(value) if outcome in (Outcome.NACK, Outcome.REJECT) else {}
    if outcome == Outcome.NACK:
        delay = value.get("delay") if value else None
        fail(state, delivery, identifier, "error", error, delay if type(delay) is int and delay >= 0 else None)
    elif outcome == Outcome.REJECT:
        reason = "attempts" if value and value.get("reason") == "attempts" else "rejected"
        fail(state, delivery, identifier, "error" if reason == "attempts" else "rejected", error, None, reason)
    elif outcome == Outcome.RELEASE:
        give_back(state, delivery, identifier, Outcome.RELEASE)
    else:
        snooze(state, delivery, identifier, min(value, wire.MAX_DELAY_MS))


def trimmed(error: dict[str, Any] | None) -> dict[str, Any]:
    """A worker's error map with the entries and lengths that are kept."""
    error = error or {}
    kept = {"type": str(error.get("type", ""))[:200], "text": str(error.get("text", ""))[: wire.MAX_ERROR_CHARS]}
    traceback = error.get("traceback")
    if traceback:
        kept["traceback"] = str(traceback)[-wire.MAX_TRACEBACK_CHARS :]
    return kept


# ---- the single ways


def fail(
    state: State,
    delivery: Delivery,
    identifier: bytes,
    kind: str,
    error: dict[str, Any],
    delay: int | None,
    reason: str = "",
) -> None:
    """A run failed: it burns an attempt. The job is retried after its backoff, or dead: for ``reason``, if given."""
    header, change = _out(state, delivery, identifier)
    outcome = Outcome.REJECT if reason else Outcome.NACK
    change = _with_attempt(state, delivery, change, kind, error)._replace(outcome=outcome)
    if change.cancel:
        cancelled(state, delivery, identifier, header, change)
    elif reason or change.runs >= attempts_allowed(delivery.queue.policy, header.options):
        bury(state, delivery, identifier, change, reason or "attempts")
    else:
        wait = retry_delay(delivery.queue.policy, change.runs, state.random) if delay is None else delay
        _schedule(state, delivery, identifier, header, change, min(wait, wire.MAX_DELAY_MS), Event.RETRY)


def lose(state: State, delivery: Delivery, identifier: bytes, kind: str, *, alone: bool) -> None:
    """The worker, or its lease, is gone: that burns an attempt, and counts as a loss.

    ``alone``: the worker held nothing else, so that nothing but this job can have brought it down.
    """
    header, change = _out(state, delivery, identifier)
    change = _with_attempt(state, delivery, change, kind, {"type": "", "text": kind})
    change = change._replace(outcome=LOST, losses=change.losses + 1, losses_alone=change.losses_alone + alone)
    policy = delivery.queue.policy
    if change.cancel:
        cancelled(state, delivery, identifier, header, change)
    elif change.losses_alone >= policy.poison_losses:
        bury(state, delivery, identifier, change, "poison")
    elif change.runs >= attempts_allowed(policy, header.options):
        bury(state, delivery, identifier, change, "attempts")
    else:
        state.move(delivery.queue, JobState.LEASED, Event.LOSE)
        ready(state, delivery.queue, identifier, header, change)


def give_back(state: State, delivery: Delivery, identifier: bytes, outcome: int) -> None:
    """Back to its place, no attempt burnt."""
    header, change = _out(state, delivery, identifier)
    change = change._replace(outcome=outcome)
    if change.cancel:
        cancelled(state, delivery, identifier, header, change)
    else:
        state.move(delivery.queue, JobState.LEASED, Event.RETURN)
        ready(state, delivery.queue, identifier, header, change)


def snooze(state: State, delivery: Delivery, identifier: bytes, wait_ms: int) -> None:
    """Back to its place at a later time, no attempt burnt."""
    header, change = _out(state, delivery, identifier)
    change = change._replace(outcome=Outcome.SNOOZE)
    if change.cancel:
        cancelled(state, delivery, identifier, header, change)
    else:
        _schedule(state, delivery, identifier, header, change, wait_ms, Event.SNOOZE)


# ---- where they end


def ready(state: State, queue: Queue, identifier: bytes, header: Header, change: Change) -> None:
    """Write a job as ready in its own place; the caller has counted the transition."""
    if change.sequence < queue.floor or not change.sequence:
        change = change._replace(sequence=queue.sequences(1))  # its old place was purged while it was away
    change = change._replace(state=JobState.READY, due_ms=0)
    state.write_change(identifier, change)
    state.put_back(queue, place_of(header), identifier, change)
    state.hot[queue] = None


def bury(state: State, delivery: Delivery, identifier: bytes, change: Change, reason: str) -> None:
    """Dead: it stays, with the reason, until it is replayed or dropped."""
    queue = delivery.queue
    change = change._replace(state=JobState.DEAD, reason=reason, ended_ms=state.wall)
    state.write_change(identifier, change)
    state.tick.rows["dead"][rows.dead_key(queue.name, state.wall, identifier)] = reason.encode()
    state.move(queue, JobState.LEASED, Event.BURY)
    history.tell(state, identifier, JobState.DEAD, None, cause_of(change))
    state.notice("warning", "job dead", job=identifier.decode(), queue=queue.name, reason=reason, attempts=change.runs)


def cause_of(change: Change) -> dict[str, Any]:
    """What FINISHED says of a dead job."""
    error = change.attempts[-1].error if change.attempts else {}
    return {"reason": change.reason, "error": error, "attempts": change.runs}


def cancelled(state: State, delivery: Delivery, identifier: bytes, header: Header, change: Change) -> None:
    """A wish to cancel met the end of a run that was not its completion."""
    state.erase(identifier, changed=True, external=header.external)
    state.move(delivery.queue, JobState.LEASED, Event.CANCEL)
    history.add(
        state,
        delivery.queue,
        JobState.CANCELLED,
        [identifier],
        [header.created_ms],
        fence=delivery.fence,
        worker=delivery.peer.name,
        changes={identifier: rows.encode_change(change)},
        reason="cancelled",
    )
    history.tell(state, identifier, JobState.CANCELLED, None, {"reason": "cancelled"})


# ---- shared by the ways


def _out(state: State, delivery: Delivery, identifier: bytes) -> tuple[Header, Change]:
    """Take the job out of the delivery; its header, and its change row with the delivery's fence."""
    del state.leased[identifier]
    close(state, delivery, 1)
    record = state.view.get("jobs", identifier)
    if record is None:
        raise AssertionError(f"the leased job {identifier!r} has no record")
    change = delivery.changes.pop(identifier, None) or Change(JobState.READY, sequence_of(record))
    return header_of(record), change._replace(fence=delivery.fence)


def _with_attempt(state: State, delivery: Delivery, change: Change, kind: str, error: dict[str, Any]) -> Change:
    attempt = Attempt(change.runs + 1, delivery.started_ms, state.wall, delivery.peer.name, kind, error)
    return change.with_attempt(attempt, limits.MAX_ATTEMPT_LOG)


def _schedule(
    state: State, delivery: Delivery, identifier: bytes, header: Header, change: Change, wait_ms: int, event: Event
) -> None:
    queue = delivery.queue
    change = change._replace(state=JobState.SCHEDULED, due_ms=state.wall + wait_ms)
    state.write_change(identifier, change)
    state.add_timer(change.due_ms, rows.TimerRow(queue.name, *place_of(header), change.sequence, [identifier]))
    state.move(queue, JobState.LEASED, event)


# ---- many at once


def held(state: State, delivery: Delivery) -> list[bytes]:
    """The jobs of a delivery that are not settled."""
    leased = state.leased
    return [identifier for identifier in delivery.ids if leased.get(identifier) is delivery]


def lose_all(state: State, peer: Peer, deliveries: list[Delivery], kind: str) -> Steps:
    """Slow work: what the peer held in these deliveries is lost, unless it comes back meanwhile and names it."""
    alone = peer.unsettled == 1
    jobs = peer.unsettled
    for delivery, identifier in _in_steps(state, deliveries):
        if identifier is None:
            yield None
        elif peer.route is not None:
            return
        elif state.leased.get(identifier) is delivery:
            lose(state, delivery, identifier, kind, alone=alone or delivery.alone)
    state.notice("warning", kind, worker=peer.name, jobs=jobs)
    state.credit_changed(peer)


def expire(state: State, delivery: Delivery, ids: list[bytes]) -> Steps:
    """Slow work: the many jobs of a delivery whose lease ran out."""
    for position, identifier in enumerate(ids, 1):
        if state.leased.get(identifier) is delivery:
            lose(state, delivery, identifier, "lease expired", alone=delivery.alone)
        if position % limits.STEP_ROWS == 0:
            yield None
    state.credit_changed(delivery.peer)


def give_back_all(state: State, peer: Peer, deliveries: list[Delivery], kept: set[bytes] | None) -> Steps:
    """Slow work: what the peer was sent in these deliveries returns, but for the jobs ``kept``.

    Without ``kept`` the peer is gone; if it comes back meanwhile, its HELLO says what it keeps of the rest.
    """
    for delivery, identifier in _in_steps(state, deliveries):
        if identifier is None:
            yield None
        elif kept is None and peer.route is not None:
            return
        elif identifier not in (kept or ()) and state.leased.get(identifier) is delivery:
            give_back(state, delivery, identifier, Outcome.RELEASE)
    state.credit_changed(peer)


def _in_steps(state: State, deliveries: list[Delivery]) -> Iterator[tuple[Delivery, bytes | None]]:
    """The unsettled jobs of the deliveries, with a None wherever a step ends."""
    for delivery in deliveries:
        for position, identifier in enumerate(held(state, delivery), 1):
            yield delivery, identifier
            if position % limits.STEP_ROWS == 0:
                yield delivery, None
        yield delivery, None
