"""Jobs go out: which jobs of a queue, to which workers, one at a time in turn, then few messages a worker.

A job that lost a worker before is a *suspect*: it is delivered alone, to a worker that holds nothing else, so that a
job that kills its worker cannot take its neighbours along (``docs/operating.md``).

What may hold a job back is asked in the order that ``docs/limits.md`` tells: the queue is paused; its rate and what it
may have in flight; priority, the turns of keys, and what a key may do (``lanes.py``); expiry; then which worker.
"""

from collections.abc import Iterator, Sequence

from zbroker import limits
from zbroker.core import leave, rows, strategies, streams, unique, waiting
from zbroker.core.entities import Delivery, Peer, Queue, expiry_of, is_special, place_of
from zbroker.core.rows import Change
from zbroker.core.state import State
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zbroker.core.strategies import Taken
from zclient.protocol import limits as wire
from zclient.protocol.messages import Deliver
from zclient.protocol.record import SEQUENCE_BYTES, Header, header_bytes, header_of

CHUNK = 128
"""Entries taken at once: few enough that large payloads do not pile up, many enough that reads come in batches."""


def dispatch(state: State) -> None:
    """Hand out what there is for the workers that have credit anew, and what the hot queues have, as far as credit
    goes. A queue that has more stays hot."""
    eager, state.eager = state.eager, {}
    hot, state.hot = state.hot, {}
    if state.draining:
        return
    budget = limits.TURN_DELIVERIES
    for peer in eager:
        budget -= _feed(state, peer, budget)
        if budget <= 0 and peer.credit > 0:
            state.eager[peer] = None
    passed_over: dict[Queue, None] = {}
    for queue in hot:
        if budget <= 0:
            passed_over[queue] = None
        else:
            budget -= _dispatch_one(state, queue, budget)
    state.hot = passed_over | state.hot  # they come first in the next turn


def _feed(state: State, peer: Peer, budget: int) -> int:
    """Fill a worker's credit from the queues that it serves, in turn, beginning behind the one that was last; what
    these have for others with credit goes out as well. Returns how many jobs went out."""
    out = 0
    if len(peer.queues) <= len(state.waiting):
        for _ in range(len(peer.queues)):
            if out >= budget or peer.credit <= 0:
                break
            queue = peer.queues[peer.turn % len(peer.queues)]
            peer.turn = (peer.turn + 1) % len(peer.queues)
            if queue in state.waiting:
                state.waiting.move_to_end(queue)
                out += _dispatch_one(state, queue, budget - out)
        return out
    for _ in range(len(state.waiting)):
        if out >= budget or peer.credit <= 0 or not state.waiting:
            break
        queue = next(iter(state.waiting))
        state.waiting.move_to_end(queue)
        if peer in queue.workers:
            out += _dispatch_one(state, queue, budget - out)
    return out


def _dispatch_one(state: State, queue: Queue, budget: int) -> int:
    """What a queue has, suspects first; how many jobs went out, suspects not counted."""
    if queue.paused:
        return 0
    if queue.suspects:
        _dispatch_suspects(state, queue)
    return _dispatch_queue(state, queue, budget)


def _dispatch_queue(state: State, queue: Queue, budget: int) -> int:
    """Returns how many jobs of the queue went out."""
    out = 0
    size = 0
    plans: dict[Peer, list[Taken]] = {}
    planned: set[bytes] = set()  # an id may stand twice: once is enough
    ghosts = 0
    ring = queue.ring
    ring.scans = 0
    if ring.wake_at is not None:
        ring.wake(state.now)
    room = queue.room(state.now)
    aside = strategies.set_aside(queue, budget, min(queue.counts.jobs[JobState.READY] - len(queue.suspects), room))
    suspects = len(queue.suspects)
    while queue.free and queue.counts.jobs[JobState.READY] - len(queue.suspects) > out and room > out:
        if out >= budget or size >= limits.DELIVERY_BYTES or ghosts >= limits.GHOSTS_PER_TURN:
            state.hot[queue] = None
            break
        want = strategies.free_credit(queue, plans, min(CHUNK, budget - out, room - out))
        if want <= 0:
            break
        entries = ring.take(want, state.tick, state.now)
        jobs = _check(state, queue, entries, planned)
        ghosts += len(entries) - len(jobs)
        for _, record, header, _, _ in jobs:
            size += len(record) if not header.external else state.settings.max_payload
        out += strategies.assign(state, queue, jobs, plans)
        if not entries:
            if ring.may_have_more:
                state.hot[queue] = None
            break
    if aside:
        queue.free = aside | queue.free  # their turn comes first
        state.hot[queue] = None
    for peer, jobs in plans.items():
        for part in [jobs] if size < wire.MESSAGE_BYTES else _parts(state, jobs):
            _deliver(state, queue, peer, part)
    if queue.suspects and (queue.passed is not None or len(queue.suspects) > suspects):  # else all were looked at
        if _dispatch_suspects(state, queue):
            state.hot[queue] = None
    _wake_later(state, queue)
    return out


def _wake_later(state: State, queue: Queue) -> None:
    """If a rate holds jobs back, look at the queue again when it lets the next one go."""
    if (
        queue.rate is not None
        and queue.counts.jobs[JobState.READY]
        and not queue.rate.free(queue.used_until, state.now)
    ):
        state.wake_later(queue, queue.rate.next_at(queue.used_until))
    if queue.ring.wake_at is not None:
        state.wake_later(queue, queue.ring.wake_at)


def _parts(state: State, jobs: list[Taken]) -> Iterator[list[Taken]]:
    """The jobs in deliveries of a size that slow links carry; the job that crosses it is the last of its delivery."""
    part: list[Taken] = []
    size = 0
    most = state.settings.max_payload  # of one whose payload is not in its record
    for job in jobs:
        part.append(job)
        size += most if job[2].external else len(job[1])
        if size >= wire.MESSAGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _check(
    state: State, queue: Queue, entries: list[tuple[tuple[int, bytes], int, bytes]], planned: set[bytes]
) -> list[Taken]:
    """The entries that count, with their records, but for those ``planned``; suspects go their own way."""
    jobs: list[Taken | None] = [None] * len(entries)
    unknown: Sequence[int] = range(len(entries))  # positions of the entries whose rows must be read
    if not state.fresh.keys().isdisjoint(entry[2] for entry in entries):
        unknown = _take_fresh(state, queue, entries, jobs)
        if not unknown:
            planned.update(entry[2] for entry in entries)
            return jobs  # type: ignore[return-value]  # none of them is None
        planned.update(job[0] for job in jobs if job is not None)
    _check_rows(state, queue, entries, unknown, jobs, planned)
    _put_down(queue, entries, jobs)
    return [job for job in jobs if job is not None]


def _take_fresh(
    state: State, queue: Queue, entries: list[tuple[tuple[int, bytes], int, bytes]], jobs: list[Taken | None]
) -> list[int]:
    """Fill in the jobs whose records are in memory; the positions of the others."""
    fresh, name, wall = state.fresh, queue.name, state.wall
    unknown: list[int] = []
    for position, (_, sequence, identifier) in enumerate(entries):
        known = fresh.get(identifier)
        if known is None or known[2] != sequence or known[1].queue != name:
            unknown.append(position)
            continue
        record, header, _ = fresh.pop(identifier)
        state.fresh_bytes -= len(record)
        if 0 < header.expires_ms <= wall:
            unknown.append(position)
        else:
            jobs[position] = (identifier, record, header, None, sequence)
    return unknown


_NO_HEADER = Header("", 0, {}, external=False)


def _check_rows(
    state: State,
    queue: Queue,
    entries: list[tuple[tuple[int, bytes], int, bytes]],
    unknown: Sequence[int],
    jobs: list[Taken | None],
    planned: set[bytes],
) -> None:
    """Fill in the jobs of the positions ``unknown`` that count."""
    ids = [entries[position][2] for position in unknown]
    records, changes = state.view.get_many("jobs", ids), state.view.get_many("changes", ids)
    alike, header = b"", _NO_HEADER  # how the last plain record begins, and its header: those of a group begin alike
    for position, identifier, record, encoded in zip(unknown, ids, records, changes, strict=True):
        if record is None or identifier in planned:
            continue
        sequence = entries[position][1]
        if alike and encoded is None and record.startswith(alike + sequence.to_bytes(SEQUENCE_BYTES, "big")):
            if identifier not in state.leased:
                jobs[position] = (identifier, record, header, None, sequence)
                planned.add(identifier)
            continue
        change = rows.decode_change(encoded) if encoded is not None else None
        if not state.is_ready(queue, identifier, record, change, sequence):
            continue
        header = header_of(record)
        alike = record[: header_bytes(record)] if change is None else b""
        if _expires(state, identifier, header, change):
            alike = b""
            continue
        if change is not None and change.losses:
            # Its row is written again: it was taken, not delivered.
            place = place_of(header)
            state.put_back(queue, place, identifier, change)
            if queue.policy.key_limit == 1:
                queue.ring.keys.hold(place[1])
                queue.ring.keep(identifier, place[1])
        else:
            jobs[position] = (identifier, record, header, change, sequence)
            planned.add(identifier)


def _expires(state: State, identifier: bytes, header: Header, change: Change | None) -> bool:
    """Whether it is too late to begin a waiting job: then it expires here, since its entry is gone. Its timer was about
    to fire."""
    if not 0 < expiry_of(header, change) <= state.wall:
        return False
    found = state.find(identifier)
    if found is not None:
        waiting.expire(state, found)
    return True


def _put_down(queue: Queue, entries: list[tuple[tuple[int, bytes], int, bytes]], jobs: list[Taken | None]) -> None:
    """The entries that do not go are not in flight."""
    for (place, _, _), job in zip(entries, jobs, strict=True):
        if job is None:
            queue.ring.untake(place[1], 1)


# ---- suspects


def _dispatch_suspects(state: State, queue: Queue) -> bool:
    """Give each empty worker one suspect; where none is empty, let the one that holds least run empty. Whether a worker
    is empty still, and others than those that were looked at may be for it."""
    held_back = False
    for peer in list(queue.workers):
        if not queue.suspects:
            break
        if peer.unsettled or peer.wedged or peer.congested_until or peer.route is None or not peer.capacity:
            continue
        job = _next_suspect(state, queue) if queue.room(state.now) > 0 else None
        if job is None:
            held_back = True
            break
        peer.reserved = False
        _deliver(state, queue, peer, [job], alone=True)
    if not queue.suspects or held_back:
        state.unreserve(queue)
        return held_back and queue.room(state.now) > 0 and queue.passed is not None
    if not any(peer.alone or (peer.reserved and not peer.wedged) for peer in queue.workers):
        able = [peer for peer in queue.workers if peer.capacity and not (peer.wedged or peer.congested_until)]
        if able:
            chosen = min(able, key=lambda peer: peer.unsettled)
            chosen.reserved = True
            state.credit_changed(chosen)
    return False


def _next_suspect(state: State, queue: Queue) -> Taken | None:
    """The next suspect that its key lets go, out of the next few; None if there is none among them. A turn looks at so
    many, and the next one goes on behind them, until it was through with all."""
    keys = queue.ring.keys
    start = queue.suspects.bisect_right(queue.passed) if queue.passed is not None else 0
    looked_at = list(queue.suspects.islice(start, start + limits.STEP_ROWS))
    queue.passed = None
    for entry in looked_at:
        _, sequence, identifier = entry
        ((_, record, change),) = state.read([identifier])
        if record is None or not state.is_ready(queue, identifier, record, change, sequence):
            queue.suspects.discard(entry)
            continue
        header = header_of(record)
        if _expires(state, identifier, header, change):
            continue
        place = place_of(header)
        kept = identifier in keys.kept
        if keys.limited and keys.room(place[1], state.now, kept=kept) <= 0:
            queue.ring.wake_later(place[1], kept=kept)
            continue
        if kept:
            keys.unkeep(identifier)  # its key waited for it: that turn is its own
            keys.gave(place[1], 1)
            state.tick.rows["heads"][rows.head_key(queue.name, place[1], identifier)] = None
        keys.took(place[1], 1, state.now)
        queue.suspects.discard(entry)
        state.tick.take_ready(rows.lane_prefix(queue.name, *place) + rows.number8(sequence) + rows.RETURNED)
        return identifier, record, header, change, sequence
    if looked_at and queue.suspects.bisect_right(looked_at[-1]) < len(queue.suspects):
        queue.passed = looked_at[-1]
    return None


# ---- the hand-over


_MADE = {wire.MADE_ID_BYTES}
"""The lengths of the ids that clients make."""


def _deliver(state: State, queue: Queue, peer: Peer, jobs: list[Taken], *, alone: bool = False) -> None:
    """One delivery: its row, its lease, its message."""
    ids, records, headers, changes, sequences = map(list, zip(*jobs, strict=True))
    fence = state.next_fence
    state.next_fence = fence + 1
    delivery = Delivery(fence, queue, peer, ids, state.wall)
    delivery.alone = alone
    attempts = [1] * len(ids)
    large: dict[int, bytes] = {}
    read: list[bytes] = []  # those with a reader
    distinct = {id(header): header for header in headers}.values()  # few: those of a group share theirs
    created = {header.created_ms for header in distinct}
    if len(created) == 1:
        delivery.created_ms = created.pop()
    else:
        delivery.created_ms = {identifier: header.created_ms for identifier, header in zip(ids, headers, strict=True)}
    if any(changes):
        for position, change in enumerate(changes):
            if change is not None:
                delivery.changes[ids[position]] = change
                attempts[position] = change.runs + 1
    if any(header.external or (header.options and is_special(header)) for header in distinct):
        read = _note_special(state, delivery, headers, large)
    if set(map(len, ids)) != _MADE:  # see `rows.is_chosen`
        chosen = [pair for pair in zip(ids, records, strict=True) if rows.is_chosen(pair[0])]
        delivery.digests = {identifier: state.digest_of(identifier, record) for identifier, record in chosen}
    state.leased.update(dict.fromkeys(ids, delivery))
    state.deliveries[fence] = peer.deliveries[fence] = delivery
    peer.unsettled += len(ids)
    if alone:
        peer.alone = True
    row = rows.DeliveryRow(peer.incarnation, peer.name, queue.name, state.wall, alone, ids, sequences)
    state.tick.rows["deliveries"][rows.number8(fence)] = rows.pack(row)
    leave.start_lease(state, delivery)
    state.move(queue, JobState.READY, Event.DELIVER, len(ids), _stored(records, large))
    if queue.rate is not None:
        queue.used_until = queue.rate.take(queue.used_until, state.now, len(ids))
    if state.followers:
        state.changed.update((identifier, None) for identifier in ids if identifier in state.followers)
    state.send(peer, Deliver(queue.name, fence, queue.policy.lease_ms, ids, attempts, records, large))
    for identifier in read:
        streams.delivered(state, delivery, identifier)


def _note_special(state: State, delivery: Delivery, headers: list[Header], large: dict[int, bytes]) -> list[bytes]:
    """Note the jobs whose end means something for others, and read the payloads that are not in their records into
    ``large``, by position; returns the ids of those with a reader."""
    read: list[bytes] = []
    for position, (identifier, header) in enumerate(zip(delivery.ids, headers, strict=True)):
        if header.options and is_special(header):
            delivery.special[identifier] = header
            unique.delivered(state, delivery.queue.name, identifier, header.options)
            if header.options.get("stream"):
                read.append(identifier)
        if header.external:
            delivery.external.add(identifier)
            large[position] = state.view.get("payloads", identifier) or b""
    return read


def _stored(records: list[bytes], large: dict[int, bytes]) -> int:
    """What the jobs took on disk."""
    return sum(map(len, records)) + sum(map(len, large.values()))
