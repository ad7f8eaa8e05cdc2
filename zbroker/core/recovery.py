"""What a start reads: names, counters, and what was in flight. What waits stays on disk, so a start costs the same
whatever waits."""

from dataclasses import replace
from itertools import islice

from zbroker import limits
from zbroker.core import bindings, dead, edges, history, kept, leave, rows, schedules, streams, works
from zbroker.core.entities import NEVER, Delivery, Peer, Queue, expiry_of, is_special, place_of
from zbroker.core.lanes import Ring
from zbroker.core.state import State
from zbroker.core.states import State as JobState
from zbroker.core.tick import Tick
from zclient.protocol.record import header_of

FIRST_FENCE_BITS = 32
"""A fence is epoch x 2**32 + n: it grows over restarts, since the epoch is raised at each."""


def open_state(state: State, broker: bytes) -> None:
    """Fill an empty state from its store; the open tick raises the epoch."""
    view = state.view
    state.broker = view.get("meta", rows.META_BROKER) or broker
    state.epoch = int.from_bytes(view.get("meta", rows.META_EPOCH) or b"", "big") + 1
    state.next_fence = (state.epoch << FIRST_FENCE_BITS) + 1
    state.tick = Tick(int.from_bytes(view.get("meta", rows.META_TICK) or b"", "big") + 1)
    view.ticks.append(state.tick)
    meta = state.tick.rows["meta"]
    meta[rows.META_BROKER] = state.broker
    meta[rows.META_EPOCH] = rows.number8(state.epoch)
    _read_queues(state)
    _read_deliveries(state)
    _read_heads(state)
    edges.read_over(state)
    state.batches_kept = int.from_bytes(view.get("meta", rows.META_BATCHES) or b"", "big")
    state.retain_at = state.wall
    first = next(view.scan("timers", b"", b"\xff"), None)
    state.next_due = rows.due_of(first[0]) if first is not None else NEVER
    state.timers_from = first[0] if first is not None else b"\xff"
    if next(view.scan("history", b"", b"\xff"), None) is not None:
        state.history.complete = False
        steps = history.read_back(state)
        while not state.history.complete and state.history.jobs < limits.READ_BACK_JOBS:
            next(steps, None)
        if not state.history.complete:
            state.work(steps)
    kept.open_kept(state)
    bindings.read(state)
    for key, value in view.scan("meta", rows.META_WORK, rows.beyond(rows.META_WORK)):
        number = int.from_bytes(key[len(rows.META_WORK) :], "big")
        state.next_work = max(state.next_work, number)
        works.go_on(state, number, works.Work(*rows.unpack(value)))
    if state.settings.calendar is not None:
        schedules.declare(state)
    state.notice(
        "info",
        "opened",
        epoch=state.epoch,
        queues=len(state.queues),
        ready=sum(queue.counts.jobs[JobState.READY] for queue in state.queues.values()),
        leased=len(state.leased),
    )


def _read_queues(state: State) -> None:
    for key, value in state.view.scan("meta", rows.META_QUEUE, rows.beyond(rows.META_QUEUE)):
        row = rows.QueueRow(*rows.unpack(value))
        name = key[len(rows.META_QUEUE) :].decode()
        ring = Ring(name, state.view, state.budget, empty=False, floor=row.floor, window=state.settings.window_jobs)
        queue = state.queues[name] = Queue(name, ring, state.policy(name, {}), row.created_ms)
        queue.counts = rows.counts_from(row)
        queue.next_sequence = row.next_sequence
        queue.floor = row.floor
        queue.paused = row.paused
        queue.closed = row.closed
        queue.served_ms = state.wall if row.served_ms == rows.SERVED else row.served_ms
        state.waits_or_not(queue)
    for key, value in state.view.scan("meta", rows.META_POLICY, rows.beyond(rows.META_POLICY)):
        queue = state.queue(key[len(rows.META_POLICY) :].decode())
        queue.options = rows.unpack(value)
        queue.use(state.policy(queue.name, queue.options))
    for name in state.settings.queues:
        state.queue(name)
    _break_circles(state)


def _break_circles(state: State) -> None:
    """A circle of `dead_to` is refused when it is set; one can still come from a file that was changed meanwhile."""
    for queue in state.queues.values():
        fault = dead.chain_fault(state, queue.name, queue.policy.dead_to)
        if fault is not None and queue.policy.dead_to != queue.name:
            queue.use(replace(queue.policy, dead_to=""))
            state.notice("error", "dead_to ignored", queue=queue.name, reason=fault)


def _read_heads(state: State) -> None:
    """Jobs that wait for a time and whose keys wait with them."""
    for key, _ in state.view.scan("heads", b"", b"\xff"):
        name, lane_key, identifier = rows.split_head_key(key)
        queue = state.queue(name)
        found = state.find(identifier)
        if found is None or found.queue is not queue or found.place[1] != lane_key or queue.policy.key_limit != 1:
            state.tick.rows["heads"][key] = None
            continue
        is_suspect = found.state is JobState.READY and found.changed().losses > 0
        if is_suspect:
            queue.suspects.add((found.place[0], found.sequence, identifier))
        if is_suspect or found.state is JobState.SCHEDULED:
            queue.ring.keys.hold(lane_key)
            queue.ring.keep(identifier, lane_key)
        else:
            state.tick.rows["heads"][key] = None


def _read_deliveries(state: State) -> None:
    """Deliveries whose jobs still count; their workers have a while to come back and name them."""
    expiring: Expiring = {}
    for key, value in state.view.scan("deliveries", b"", b"\xff"):
        fence = int.from_bytes(key, "big")
        row = rows.DeliveryRow(*rows.unpack(value))
        delivery = _delivery(state, fence, row, expiring)
        if delivery is None:
            state.tick.rows["deliveries"][key] = None
    _note_outlived(state, expiring)


Expiring = dict[int, dict[bytes, Delivery]]
"""Leased jobs that expire later than now, by that time (wall clock)."""


def _note_outlived(state: State, expiring: Expiring) -> None:
    """Those that no timer names for their expiry. Of a time at which very many expire the first rows alone are read: a
    job may get a second timer, which does no harm."""
    for expires_ms, unnamed in expiring.items():
        first = rows.timers_prefix(expires_ms, rows.TIMER_EXPIRY)
        for _, value in islice(state.view.scan("timers", first, rows.beyond(first)), limits.STEP_ROWS):
            for identifier in rows.TimerRow(*rows.unpack(value)).ids:
                unnamed.pop(identifier, None)
            if not unnamed:
                break
        for identifier, delivery in unnamed.items():
            delivery.outlived.add(identifier)


def _delivery(state: State, fence: int, row: rows.DeliveryRow, expiring: Expiring) -> Delivery | None:
    peer = state.peers.get(row.incarnation)
    if peer is None:
        peer = Peer(row.incarnation, row.worker)
        peer.grace_until = state.now + state.settings.return_ms
    delivery = Delivery(fence, state.queue(row.queue), peer, [], row.started_ms)
    created: dict[bytes, int] = {}
    for start in range(0, len(row.ids), limits.BLOCK_JOBS):
        part = row.ids[start : start + limits.BLOCK_JOBS]
        for n, (identifier, record, change) in enumerate(state.read(part), start):
            if record is None or not row.holds(fence, n, record, change):
                continue  # it came out of the delivery before the end
            header = header_of(record)
            created[identifier] = header.created_ms
            delivery.ids.append(identifier)
            if change is not None:
                delivery.changes[identifier] = change
            expires_ms = expiry_of(header, change)
            if expires_ms > state.wall:
                expiring.setdefault(expires_ms, {})[identifier] = delivery
            if header.external:
                delivery.external.add(identifier)
            if rows.is_chosen(identifier):
                delivery.digests[identifier] = state.digest_of(identifier, record)
            if is_special(header):
                delivery.special[identifier] = header
                if header.options.get("stream"):
                    streams.await_reader(state, identifier)
            delivery.queue.ring.keys.hold(place_of(header)[1])
    if not delivery.ids:
        return None
    delivery.created_ms = created
    delivery.open = len(delivery.ids)
    delivery.alone = row.alone
    state.peers[peer.incarnation] = peer
    state.deliveries[fence] = peer.deliveries[fence] = delivery
    state.leased.update(dict.fromkeys(delivery.ids, delivery))
    peer.unsettled += delivery.open
    peer.alone = peer.alone or row.alone
    leave.start_lease(state, delivery)
    return delivery
