"""The ways out of a delivery: done, or back to the queue, or dead, or cancelled; and what each burns.

Every way but done writes the job's change row with the fence that it came out of, so that a delivery row read back
after a restart does not count for it any more.
"""

from collections.abc import Iterator
from heapq import heapify, heappush
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core import dead, edges, history, rows, unique
from zbroker.core.entities import NEVER, Delivery, Peer, Queue, expiry_of, place_of
from zbroker.core.policy import attempts_allowed, retry_delay
from zbroker.core.rows import LOST, Attempt, Change
from zbroker.core.state import State, Steps
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Outcome
from zclient.protocol.record import header_of, sequence_of, stored_bytes


class Leaving(NamedTuple):
    """A job that is out of its delivery, and not yet anywhere else."""

    delivery: Delivery
    id: bytes
    record: bytes
    change: Change


def start_lease(state: State, delivery: Delivery) -> None:
    """The lease runs anew from now; no run outlasts the queue's `max_run`, counted from the delivery."""
    policy = delivery.queue.policy
    if policy.max_run_ms:
        delivery.limit = state.now + max(0, delivery.started_ms + policy.max_run_ms - state.wall)
    delivery.deadline = min(state.now + policy.lease_ms, delivery.limit)
    if len(state.lease_heap) > 2 * len(state.deliveries) + limits.STALE_LEASES:  # most of them were settled in time
        state.lease_heap = [(live.deadline, live.fence) for live in state.deliveries.values()]
        heapify(state.lease_heap)
    heappush(state.lease_heap, (delivery.deadline, delivery.fence))


def renew(state: State, delivery: Delivery, duration_ms: int) -> None:
    """The lease lasts at least so long from now, if its runs may. The heap is corrected when the old deadline comes
    up, unless that comes too late: the time to return after a start goes beyond what the runs may take."""
    before = delivery.deadline
    delivery.deadline = min(max(before, state.now + duration_ms), delivery.limit)
    if delivery.deadline < before < NEVER:
        heappush(state.lease_heap, (delivery.deadline, delivery.fence))


def close(state: State, delivery: Delivery, jobs: int) -> None:
    """``jobs`` of the delivery are settled: its worker has as much more credit, and an empty delivery is deleted.

    The caller calls `State.credit_changed` when it is through with the peer.
    """
    delivery.open -= jobs
    peer = delivery.peer
    peer.unsettled -= jobs
    if delivery.queue.policy.in_flight_limit:
        state.hot[delivery.queue] = None
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
        for position, identifier in enumerate(ids):
            change = delivery.changes.get(identifier)
            if change is not None:
                state.tick.rows["changes"][identifier] = None
                changes[identifier] = rows.encode_change(change)
                if change.is_parent:
                    result = results[position] if results else None
                    edges.over(state, identifier, {}, change, edges.DONE, result)
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
        digests={identifier: told for identifier in ids if (told := delivery.digests.get(identifier)) is not None}
        if delivery.digests
        else None,
        started_ms=delivery.started_ms,
    )
    state.move(queue, JobState.LEASED, Event.ACK, len(ids))
    if state.watchers:
        for position, identifier in enumerate(ids):
            if identifier in state.watchers:
                history.tell(state, identifier, JobState.DONE, results[position] if results else None, None)
    plain = len(ids) - _free_special(state, delivery, ids, results) if delivery.special else len(ids)
    if plain:
        state.give(queue, b"", plain)
    close(state, delivery, len(ids))


def _free_special(state: State, delivery: Delivery, ids: list[bytes], results: list[Any] | None) -> int:
    """Set free what the done jobs that are special held, and tell batches; how many of them have a key."""
    keyed = 0
    for position, identifier in enumerate(ids):
        header = delivery.special.pop(identifier, None)
        if header is None:
            continue
        unique.release(state, delivery.queue.name, identifier, header.options, ran=True)
        edges.over(state, identifier, header.options, None, edges.DONE, results[position] if results else None)
        if state.streams:
            state.end_stream(identifier)
        key = place_of(header)[1]
        if key:
            keyed += 1
            state.give(delivery.queue, key, 1)
    return keyed


def settle_one(state: State, delivery: Delivery, identifier: bytes, outcome: int, value: Any) -> None:
    """One leased job of the delivery, settled in another way than done."""
    error = trimmed(value) if outcome in (Outcome.NACK, Outcome.REJECT) else {}
    if outcome == Outcome.NACK:
        delay = value.get("delay") if value else None
        fail(state, delivery, identifier, "error", error, delay if type(delay) is int and delay >= 0 else None)
    elif outcome == Outcome.REJECT:
        fail(state, delivery, identifier, "rejected", error, None, "rejected")
    elif outcome == Outcome.RELEASE:
        give_back(state, delivery, identifier, started=value is not True)
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
    """The run failed: that burns an attempt. With a ``reason`` there is no other try; ``delay`` (ms) is the worker's
    wish."""
    leaving = _out(state, delivery, identifier)
    change = _with_attempt(state, leaving, kind, error)
    outcome = LOST if kind == "max_run" else Outcome.REJECT if reason else Outcome.NACK
    change = change._replace(outcome=outcome)
    policy, options = delivery.queue.policy, header_of(leaving.record).options
    if change.cancel:
        _cancelled(state, leaving, change)
    elif reason or change.runs >= attempts_allowed(policy, delivery.task, options):
        _bury(state, leaving, change, reason or "attempts")
    else:
        wait = delay if delay is not None else retry_delay(policy, delivery.task, options, change.runs, state.random)
        _schedule(state, leaving, change, min(wait, wire.MAX_DELAY_MS), Event.RETRY)


def lose(state: State, delivery: Delivery, identifier: bytes, kind: str, *, alone: bool) -> None:
    """The worker, or its lease, is gone: that burns an attempt, and counts as a loss.

    ``alone``: the worker held nothing else, so that nothing but this job can have brought it down.
    """
    leaving = _out(state, delivery, identifier)
    change = _with_attempt(state, leaving, kind, {"type": "", "text": kind})
    change = change._replace(outcome=LOST, losses=change.losses + 1, losses_alone=change.losses_alone + alone)
    policy = delivery.queue.policy
    if change.cancel:
        _cancelled(state, leaving, change)
    elif policy.once:
        _bury(state, leaving, change, "lost")
    elif change.losses_alone >= policy.poison_losses:
        _bury(state, leaving, change, "poison")
    elif change.runs >= attempts_allowed(policy, delivery.task, header_of(leaving.record).options):
        _bury(state, leaving, change, "attempts")
    else:
        _return(state, leaving, change, Event.LOSE)


def give_back(state: State, delivery: Delivery, identifier: bytes, *, started: bool) -> None:
    """Back to its place, no attempt burnt. ``started``: it may have been begun, so that a queue that delivers at most
    once cannot have it back."""
    leaving = _out(state, delivery, identifier)
    change = leaving.change._replace(outcome=Outcome.RELEASE)
    if change.cancel:
        _cancelled(state, leaving, change)
    elif started and delivery.queue.policy.once:
        _lost_once(state, leaving, change, "given back after it was begun, or never heard of again")
    else:
        _return(state, leaving, change, Event.RETURN)


def snooze(state: State, delivery: Delivery, identifier: bytes, wait_ms: int) -> None:
    """Back to its place at a later time, no attempt burnt."""
    leaving = _out(state, delivery, identifier)
    change = leaving.change._replace(outcome=Outcome.SNOOZE)
    if change.cancel:
        _cancelled(state, leaving, change)
    elif delivery.queue.policy.once:
        _lost_once(state, leaving, change, "put off by its handler after it was begun")
    else:
        _schedule(state, leaving, change, wait_ms, Event.SNOOZE)


def _lost_once(state: State, leaving: Leaving, change: Change, text: str) -> None:
    """A queue that delivers at most once does not have it back: dead, with this run in its log."""
    logged = _with_attempt(state, leaving._replace(change=change), "lost", {"type": "", "text": text})
    _bury(state, leaving, logged, "lost")


# ---- where they end


def _return(state: State, leaving: Leaving, change: Change, event: Event) -> None:
    """Ready again, in its own place; dead if its time to begin is over meanwhile.

    A suspect keeps the turn of its key where jobs of a key run in order.
    """
    queue, identifier = leaving.delivery.queue, leaving.id
    if _expired(state, leaving, change):
        return
    if change.sequence < queue.floor or not change.sequence:
        change = change._replace(sequence=queue.sequences(1))  # its old place was purged while it was away
    change = change._replace(state=JobState.READY, due_ms=0)
    state.write_change(identifier, change)
    state.move(queue, JobState.LEASED, event, 1, stored_bytes(leaving.record))
    place = place_of(header_of(leaving.record))
    if change.losses and queue.policy.key_limit == 1:
        _keep(state, queue, place[1], identifier)
    else:
        state.give(queue, place[1], 1)
    state.put_back(queue, place, identifier, change)
    state.hot[queue] = None


def _schedule(state: State, leaving: Leaving, change: Change, wait_ms: int, event: Event) -> None:
    """Ready later, in its own place. Where jobs of a key run in order, the others wait for it."""
    queue, identifier = leaving.delivery.queue, leaving.id
    if _expired(state, leaving, change):
        return
    change = change._replace(state=JobState.SCHEDULED, due_ms=state.wall + wait_ms)
    state.write_change(identifier, change)
    rank, key = place_of(header_of(leaving.record))
    state.add_timer(change.due_ms, rows.TimerRow(queue.name, rank, key, change.sequence, [identifier]))
    state.move(queue, JobState.LEASED, event, 1, stored_bytes(leaving.record))
    if queue.policy.key_limit == 1:
        _keep(state, queue, key, identifier)
    else:
        state.give(queue, key, 1)


def _keep(state: State, queue: Queue, key: bytes, identifier: bytes) -> None:
    """The key waits for this job while it waits, also after a restart."""
    queue.ring.keep(identifier, key)
    state.tick.rows["heads"][rows.head_key(queue.name, key, identifier)] = b""


def _expired(state: State, leaving: Leaving, change: Change) -> bool:
    """Whether it is too late for another try; the job is then dead, or gone where the queue drops what expired."""
    header = header_of(leaving.record)
    expires_ms = expiry_of(header, change)
    queue = leaving.delivery.queue
    if not expires_ms or expires_ms > state.wall:
        if expires_ms and leaving.id in leaving.delivery.outlived:  # the clock was set back since its timer fired
            timer = rows.TimerRow(queue.name, *place_of(header), 0, [leaving.id])
            state.add_timer(expires_ms, timer, rows.TIMER_EXPIRY)
        return False
    if queue.policy.on_expiry == "dead":
        _bury(state, leaving, change, "expired")
        return True
    _free(state, leaving)
    state.erase(leaving.id, changed=True, external=header.external)
    state.move(queue, JobState.LEASED, Event.DISCARD)
    history.tell_dropped(state, leaving.id)
    return True


def _bury(state: State, leaving: Leaving, change: Change, reason: str) -> None:
    queue = leaving.delivery.queue
    state.give(queue, place_of(header_of(leaving.record))[1], 1)
    way = (JobState.LEASED, Event.BURY, 0)
    dead.bury(state, queue, leaving.id, leaving.record, change, reason, way)


def _cancelled(state: State, leaving: Leaving, change: Change) -> None:
    """A wish to cancel met the end of a run that was not its completion."""
    delivery, identifier, header = leaving.delivery, leaving.id, header_of(leaving.record)
    _free(state, leaving)
    digests = {identifier: state.digest_of(identifier, leaving.record)} if rows.is_chosen(identifier) else None
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
        reason=change.reason or "cancelled",
        digests=digests,
    )
    history.tell(state, identifier, JobState.CANCELLED, None, {"reason": change.reason or "cancelled"})


# ---- shared by the ways


def _out(state: State, delivery: Delivery, identifier: bytes) -> Leaving:
    """Take the job out of the delivery; with its change row, which has the delivery's fence."""
    del state.leased[identifier]
    close(state, delivery, 1)
    record = state.view.get("jobs", identifier)
    if record is None:
        raise AssertionError(f"the leased job {identifier!r} has no record")
    delivery.special.pop(identifier, None)
    change = delivery.changes.pop(identifier, None) or Change(JobState.READY, sequence_of(record))
    return Leaving(delivery, identifier, record, change._replace(fence=delivery.fence))


def _free(state: State, leaving: Leaving) -> None:
    """Nothing waits for the job any more: neither its key nor its unique text."""
    queue, header = leaving.delivery.queue, header_of(leaving.record)
    state.give(queue, place_of(header)[1], 1)
    unique.release(state, queue.name, leaving.id, header.options)
    edges.over(state, leaving.id, header.options, leaving.change, edges.GONE)


def _with_attempt(state: State, leaving: Leaving, kind: str, error: dict[str, Any]) -> Change:
    change, delivery = leaving.change, leaving.delivery
    attempt = Attempt(change.runs + 1, delivery.started_ms, state.wall, delivery.peer.name, kind, error)
    return change.with_attempt(attempt, limits.MAX_ATTEMPT_LOG)


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
            state.credit_changed(peer)
            yield None
        elif peer.route is not None:
            return
        elif state.leased.get(identifier) is delivery:
            lose(state, delivery, identifier, kind, alone=alone or delivery.alone)
    state.notice("warning", kind, worker=peer.name, jobs=jobs)
    state.credit_changed(peer)


def expire(state: State, delivery: Delivery, ids: list[bytes], kind: str) -> Steps:
    """Slow work: the many jobs of a delivery whose lease ran out."""
    for position, identifier in enumerate(ids, 1):
        expire_one(state, delivery, identifier, kind, alone=delivery.alone)
        if position % limits.STEP_ROWS == 0:
            state.credit_changed(delivery.peer)
            yield None
    state.credit_changed(delivery.peer)


def expire_one(state: State, delivery: Delivery, identifier: bytes, kind: str, *, alone: bool) -> None:
    """One job whose lease ran out: lost, or, where the run was too long, failed."""
    if state.leased.get(identifier) is not delivery:
        return
    if kind == "max_run":
        longest_s = delivery.queue.policy.max_run_ms / 1000
        error = {"type": "max_run", "text": f"it ran longer than the queue's max_run of {longest_s:g} s"}
        fail(state, delivery, identifier, kind, error, None)
    else:
        lose(state, delivery, identifier, kind, alone=alone)


def give_back_all(state: State, peer: Peer, deliveries: list[Delivery], kept: set[bytes] | None) -> Steps:
    """Slow work: what the peer was sent in these deliveries returns, but for the jobs ``kept``.

    Without ``kept`` the peer is gone; if it comes back meanwhile, its HELLO says what it keeps of the rest.
    """
    for delivery, identifier in _in_steps(state, deliveries):
        if identifier is None:
            state.credit_changed(peer)
            yield None
        elif kept is None and peer.route is not None:
            return
        elif identifier not in (kept or ()) and state.leased.get(identifier) is delivery:
            give_back(state, delivery, identifier, started=kept is None)
    state.credit_changed(peer)


def _in_steps(state: State, deliveries: list[Delivery]) -> Iterator[tuple[Delivery, bytes | None]]:
    """The unsettled jobs of the deliveries, with a None wherever a step ends."""
    for delivery in deliveries:
        for position, identifier in enumerate(held(state, delivery), 1):
            yield delivery, identifier
            if position % limits.STEP_ROWS == 0:
                yield delivery, None
        yield delivery, None
