"""What falls due: jobs that waited for a time, leases that ran out, workers that did not come back, probes."""

from heapq import heappop, heappush

from zbroker import limits
from zbroker.core import history, keeping, kept, leave, peers, rows, schedules, unique, waiting
from zbroker.core.entities import NEVER, Delivery, expiry_of, place_of
from zbroker.core.state import State
from zbroker.core.states import WAITING, Event
from zbroker.core.states import State as JobState
from zclient.protocol.messages import Lost, Ping, Who
from zclient.protocol.record import header_of, stored_bytes


def fire(state: State) -> None:
    """What is due happens, in the order of its times; a bounded number of jobs in one turn."""
    jobs = 0
    while state.next_due <= state.wall and jobs < limits.TURN_TIMERS:
        stop = rows.number8(state.wall + 1)
        read = 0
        for key, value in state.view.scan("timers", state.timers_from, stop):
            queue, rank, lane_key, sequence, ids = rows.unpack(value)
            timer = rows.TimerRow(queue, rank, lane_key, sequence, ids)
            jobs += _KINDS[rows.kind_of(key)](state, rows.due_of(key), timer)
            state.tick.rows["timers"][key] = None
            state.timers_from = key + b"\0"
            read += 1
            if jobs >= limits.TURN_TIMERS:
                break
        if jobs < limits.TURN_TIMERS:
            _look_ahead(state)
            if not read:
                return


def _look_ahead(state: State) -> None:
    row = next(state.view.scan("timers", state.timers_from, b"\xff"), None)
    state.next_due = rows.due_of(row[0]) if row is not None else NEVER


# Each returns what it weighs, in jobs that become ready.


def _become_ready(state: State, due_ms: int, timer: rows.TimerRow) -> int:
    """The jobs of a timer row that still wait for it; the others are ghosts."""
    due: list[tuple[bytes, rows.Change]] = []
    size = 0
    for identifier, record, change in state.read(timer.ids):
        if record is None or change is None or change.state is not JobState.SCHEDULED or change.due_ms != due_ms:
            continue
        header = header_of(record)
        if (header.queue, *place_of(header)) != (timer.queue, timer.rank, timer.key):
            continue  # of an earlier job of this id, or of this one before it was moved
        due.append((identifier, change))
        size += stored_bytes(record)
    if not due:
        return len(timer.ids)
    queue = state.queue(timer.queue)
    state.move(queue, JobState.SCHEDULED, Event.DUE, len(due), size)
    state.hot[queue] = None
    place = (timer.rank, timer.key)
    if timer.sequence and timer.sequence >= queue.floor:
        for identifier, change in due:
            state.write_change(identifier, change._replace(state=JobState.READY, due_ms=0))
            if not change.losses:  # a suspect keeps the turn of its key until it is delivered
                state.unkeep(queue, identifier, timer.key)
            state.put_back(queue, place, identifier, change)
        return len(timer.ids)
    first = queue.sequences(len(due))
    for sequence, (identifier, change) in enumerate(due, first):
        state.write_change(identifier, change._replace(state=JobState.READY, due_ms=0, sequence=sequence))
        state.unkeep(queue, identifier, timer.key)
    queue.ring.add(place, first, [identifier for identifier, _ in due], state.tick)
    return len(timer.ids)


def _expire(state: State, due_ms: int, timer: rows.TimerRow) -> int:
    """The jobs of an expiry row that were not begun; what runs is looked at when it comes back."""
    for identifier, record, change in state.read(timer.ids):
        if record is None or expiry_of(header_of(record), change) != due_ms:
            continue
        found = state.find(identifier)
        if found is not None and found.state in WAITING:
            waiting.expire(state, found)
        elif found is not None and found.delivery is not None:
            found.delivery.outlived.add(identifier)
    return len(timer.ids) * limits.EXPIRY_WEIGHT


def _lapse(state: State, due_ms: int, timer: rows.TimerRow) -> int:
    unique.lapse(state, timer, due_ms)
    return len(timer.ids)


_KINDS = {
    rows.TIMER_READY: _become_ready,
    rows.TIMER_EXPIRY: _expire,
    rows.TIMER_UNIQUE: _lapse,
    rows.TIMER_SCHEDULE: schedules.fire,
    rows.TIMER_BATCH: keeping.fire,
    rows.TIMER_TOPIC: kept.fire,
}


def expire_leases(state: State) -> None:
    """Deliveries whose lease ran out: the worker is wedged, or its renewals do not arrive."""
    heap = state.lease_heap
    expired = 0
    while heap and heap[0][0] <= state.now and expired < limits.TURN_RETURNS:
        _, fence = heappop(heap)
        delivery = state.deliveries.get(fence)
        if delivery is None:
            continue
        if not delivery.peer.seen:
            # It is not back since the start of the broker: its time to return decides, and that burns no attempt.
            delivery.deadline = max(delivery.deadline, state.now + delivery.queue.policy.lease_ms)
        if delivery.deadline > state.now:
            heappush(heap, (delivery.deadline, fence))
            continue
        expired += _expire_lease(state, delivery)


def _expire_lease(state: State, delivery: Delivery) -> int:
    """The lease ran out, or the runs took longer than the queue allows; how many jobs that were."""
    peer, queue = delivery.peer, delivery.queue
    ids = leave.held(state, delivery)
    alone = delivery.alone or peer.unsettled == 1
    kind = "max_run" if delivery.limit <= state.now else "lease expired"
    delivery.deadline = NEVER
    state.send(peer, Lost([(delivery.fence, ids)], kind))
    if kind == "lease expired" and not peer.wedged:
        peer.wedged = True  # what it is sent now may wait as long: first let it say that it is there
        peer.probe_at = state.now + state.settings.probe_ms
        state.send(peer, Who())
    state.notice("warning", kind, worker=peer.name, queue=queue.name, jobs=len(ids))
    if len(ids) > limits.STEP_ROWS:
        state.work(leave.expire(state, delivery, ids, kind))
        return len(ids)
    for identifier in ids:
        leave.expire_one(state, delivery, identifier, kind, alone=alone)
    state.credit_changed(peer)
    return len(ids)


def wake(state: State) -> None:
    """Queues whose rate lets them go on."""
    while state.wakes and state.wakes[0][0] <= state.now:
        at, name = heappop(state.wakes)
        queue = state.queues.get(name)
        if queue is not None and queue.wake_at == at:
            queue.wake_at = NEVER
            queue.ring.wake(state.now)
            state.hot[queue] = None


def watch_peers(state: State) -> None:
    """Probe connections, and give up on workers that did not come back in time."""
    if state.now < state.next_watch:
        return
    soonest = NEVER
    for peer in list(state.peers.values()):
        if peer.grace_until is not None:
            if peer.grace_until <= state.now:
                peers.give_up(state, peer)
                continue
            soonest = min(soonest, peer.grace_until)
        if peer.congested_until and peer.congested_until <= state.now:
            peer.congested_until = 0
            state.credit_changed(peer)
        elif peer.congested_until:
            soonest = min(soonest, peer.congested_until)
        if peer.route is not None:
            if peer.probe_at <= state.now:
                works = peer.queues or peer.deliveries or peer.streams
                peer.probe_at = state.now + (state.settings.probe_ms if works else state.settings.client_probe_ms)
                state.send(peer, Who() if peer.wedged else Ping())  # the first WHO may have been lost
            soonest = min(soonest, peer.probe_at)
    state.next_watch = max(soonest, state.now + limits.WATCH_MS)  # so that the probes of many peers fall together


def wanted_in(state: State) -> int:
    """Milliseconds until the core next wants a turn, whatever arrives; at least 0."""
    if state.works or state.hot or state.eager or state.over:
        return 0
    wait = min(state.next_watch - state.now, state.next_due - state.wall)
    wait = min(wait, state.retain_at - state.wall)
    if state.wakes:
        wait = min(wait, state.wakes[0][0] - state.now)
    if state.resting:
        wait = min(wait, state.resting[0][0] - state.now)
    if state.unread:
        wait = min(wait, state.unread[0][0] - state.now)
    if state.lease_heap:
        wait = min(wait, state.lease_heap[0][0] - state.now)
    trim_at = history.trim_due(state)
    if trim_at is not None:
        wait = min(wait, trim_at - state.wall)
    return max(0, wait)
