"""Jobs go out: which jobs of a queue, to which workers, one at a time in turn, then few messages a worker.

A job that lost a worker before is a *suspect*: it is delivered alone, to a worker that holds nothing else, so that a
job that kills its worker cannot take its neighbours along (``docs/operating.md``).
"""

from collections.abc import Iterator

from zbroker import limits
from zbroker.core import leave, rows
from zbroker.core.rows import Change
from zbroker.core.state import Delivery, Peer, Queue, State
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Deliver
from zclient.protocol.record import header_of, sequence_of

CHUNK = 128
"""Entries taken at once: few enough that large payloads do not pile up, many enough that reads come in batches."""

Taken = tuple[bytes, bytes, Change | None]
"""Id, record, change of a job that may be delivered."""


def dispatch(state: State) -> None:
    """Hand out what the hot queues have, as far as credit goes. A queue that has more stays hot."""
    if state.draining:
        state.hot.clear()
        return
    hot, state.hot = state.hot, {}
    passed_over: dict[Queue, None] = {}
    budget = limits.TURN_DELIVERIES
    for queue in hot:
        if queue.paused:
            continue
        if budget <= 0:
            passed_over[queue] = None
            continue
        if queue.suspects:
            _dispatch_suspects(state, queue)
        budget -= _dispatch_queue(state, queue, budget)
    state.hot = passed_over | state.hot  # they come first in the next turn


def _dispatch_queue(state: State, queue: Queue, budget: int) -> int:
    """Returns how many jobs of the queue went out."""
    out = 0
    size = 0
    plans: dict[Peer, list[Taken]] = {}
    planned: set[bytes] = set()  # an id may stand twice: once is enough
    ghosts = 0
    queue.ring.scans = 0
    while queue.free and queue.counts.jobs[JobState.READY] - len(queue.suspects) > out:
        if out >= budget or size >= limits.DELIVERY_BYTES or ghosts >= limits.GHOSTS_PER_TURN:
            state.hot[queue] = None
            break
        want = _credit(queue, plans, min(CHUNK, budget - out))
        entries = queue.ring.take(want, state.tick)
        jobs = _check(state, queue, entries, planned)
        ghosts += len(entries) - len(jobs)
        for job in jobs:
            size += _size(state, job)
        out += _assign(queue, jobs, plans)
        if not entries:
            if queue.ring.may_have_more:
                state.hot[queue] = None
            break
    for peer, jobs in plans.items():
        for part in [jobs] if size < wire.MESSAGE_BYTES else _parts(state, jobs):
            _deliver(state, queue, peer, part)
    if queue.suspects:
        _dispatch_suspects(state, queue)
    return out


def _size(state: State, job: Taken) -> int:
    """Bytes of the job's payload and header; at most so many, if the payload is not in the record."""
    return len(job[1]) if not header_of(job[1]).external else state.settings.max_payload


def _parts(state: State, jobs: list[Taken]) -> Iterator[list[Taken]]:
    """The jobs in deliveries of a size that slow links carry; the job that crosses it is the last of its delivery."""
    part: list[Taken] = []
    size = 0
    for job in jobs:
        part.append(job)
        size += _size(state, job)
        if size >= wire.MESSAGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _credit(queue: Queue, plans: dict[Peer, list[Taken]], most: int) -> int:
    """Credit of the free workers, less what is planned for them already; not counted beyond ``most``."""
    credit = 0
    for peer in queue.free:
        credit += peer.credit - len(plans.get(peer, ()))
        if credit >= most:
            return most
    return credit


def _assign(queue: Queue, jobs: list[Taken], plans: dict[Peer, list[Taken]]) -> int:
    """Spread the jobs over the workers with credit, one at a time in turn."""
    free = queue.free
    if len(free) == 1 and jobs:
        peer = next(iter(free))
        plans.setdefault(peer, []).extend(jobs)
        if peer.credit <= len(plans[peer]):
            del free[peer]
        return len(jobs)
    for job in jobs:
        peer = next(iter(free))
        del free[peer]
        plan = plans.setdefault(peer, [])
        plan.append(job)
        if peer.credit > len(plan):
            free[peer] = None  # behind the others
    return len(jobs)


def _check(
    state: State, queue: Queue, entries: list[tuple[tuple[int, bytes], int, bytes]], planned: set[bytes]
) -> list[Taken]:
    """The entries that count, with their records, but for those ``planned``; suspects go their own way."""
    fresh = state.fresh
    jobs: list[Taken | None] = []
    unknown: list[int] = []  # positions of the entries whose rows must be read
    for position, (_, sequence, identifier) in enumerate(entries):
        record = fresh.get(identifier)
        if record is None or sequence_of(record) != sequence or header_of(record).queue != queue.name:
            unknown.append(position)
            jobs.append(None)
        else:
            del fresh[identifier]
            state.fresh_bytes -= len(record)
            jobs.append((identifier, record, None))
            planned.add(identifier)
    found = state.read([entries[position][2] for position in unknown]) if unknown else ()
    for position, (identifier, record, change) in zip(unknown, found, strict=True):
        if record is None or identifier in planned:
            continue
        if not state.is_ready(queue, identifier, record, change, entries[position][1]):
            continue
        if change is not None and change.losses:
            # Its row is written again: it was taken, not delivered.
            state.put_back(queue, leave.place_of(header_of(record)), identifier, change)
        else:
            jobs[position] = (identifier, record, change)
            planned.add(identifier)
    return [job for job in jobs if job is not None]


# ---- suspects


def _dispatch_suspects(state: State, queue: Queue) -> None:
    """Give each empty worker one suspect; where none is empty, let the one that holds least run empty."""
    for peer in list(queue.workers):
        if not queue.suspects:
            break
        if peer.unsettled or peer.wedged or peer.congested_until or peer.route is None or not peer.capacity:
            continue
        job = _next_suspect(state, queue)
        if job is None:
            break
        peer.reserved = False
        _deliver(state, queue, peer, [job], alone=True)
    if not queue.suspects:
        state.unreserve(queue)
        return
    if not any(peer.alone or (peer.reserved and not peer.wedged) for peer in queue.workers):
        able = [peer for peer in queue.workers if peer.capacity and not (peer.wedged or peer.congested_until)]
        if able:
            chosen = min(able, key=lambda peer: peer.unsettled)
            chosen.reserved = True
            state.credit_changed(chosen)


def _next_suspect(state: State, queue: Queue) -> Taken | None:
    while queue.suspects:
        _, sequence, identifier = queue.suspects.pop(0)
        ((_, record, change),) = state.read([identifier])
        if record is not None and state.is_ready(queue, identifier, record, change, sequence):
            key = (
                rows.lane_prefix(queue.name, *leave.place_of(header_of(record)))
                + rows.number8(sequence)
                + rows.RETURNED
            )
            state.tick.take_ready(key)
            return identifier, record, change
    return None


# ---- the hand-over


def _deliver(state: State, queue: Queue, peer: Peer, jobs: list[Taken], *, alone: bool = False) -> None:
    """One delivery: its row, its lease, its message."""
    ids = [identifier for identifier, _, _ in jobs]
    records = [record for _, record, _ in jobs]
    fence = state.next_fence
    state.next_fence = fence + 1
    delivery = Delivery(fence, queue, peer, ids, state.wall)
    delivery.alone = alone
    attempts = [1] * len(jobs)
    sequences = [change.sequence if change is not None else sequence_of(record) for _, record, change in jobs]
    large: dict[int, bytes] = {}
    headers = [header_of(record) for record in records]
    first = headers[0]
    delivery.created_ms = first.created_ms
    for position, (identifier, _, change) in enumerate(jobs):
        if change is not None:
            delivery.changes[identifier] = change
            attempts[position] = change.runs + 1
        header = headers[position]
        if header is not first and header.created_ms != first.created_ms and not isinstance(delivery.created_ms, dict):
            delivery.created_ms = {ids[n]: headers[n].created_ms for n in range(len(ids))}
        if header.external:
            delivery.external.add(identifier)
            large[position] = state.view.get("payloads", identifier) or b""
    state.leased.update(dict.fromkeys(ids, delivery))
    state.deliveries[fence] = peer.deliveries[fence] = delivery
    peer.unsettled += len(ids)
    if alone:
        peer.alone = True
    row = rows.DeliveryRow(peer.incarnation, peer.name, queue.name, state.wall, alone, ids, sequences)
    state.tick.rows["deliveries"][rows.number8(fence)] = rows.pack(row)
    leave.start_lease(state, delivery)
    state.move(queue, JobState.READY, Event.DELIVER, len(ids))
    if peer.credit <= 0:
        for served in peer.queues:
            served.free.pop(peer, None)
    state.send(peer, Deliver(queue.name, fence, queue.policy.lease_ms, ids, attempts, records, large))
