"""What falls due: jobs that waited for a time, leases that ran out, workers that did not come back, probes."""

from heapq import heappop, heappush

from zbroker import limits
from zbroker.core import history, leave, peers, rows
from zbroker.core.state import NEVER, State
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol.messages import Lost, Ping, Who


def fire(state: State) -> None:
    """Jobs whose time has come become ready, in the order of their times; a bounded number in one turn."""
    jobs = 0
    while state.next_due <= state.wall and jobs < limits.TURN_TIMERS:
        stop = rows.number8(state.wall + 1)
        read = 0
        for key, value in state.view.scan("timers", state.timers_from, stop):
            queue, rank, lane_key, sequence, ids = rows.unpack(value)
            _become_ready(state, rows.due_of(key), rows.TimerRow(queue, rank, lane_key, sequence, ids))
            state.tick.rows["timers"][key] = None
            state.timers_from = key + b"\0"
            jobs += len(ids)
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


def _become_ready(state: State, due_ms: int, timer: rows.TimerRow) -> None:
    """The jobs of a timer row that still wait for it; the others are ghosts."""
    waiting: list[tuple[bytes, rows.Change]] = []
    for identifier, encoded in zip(timer.ids, state.view.get_many("changes", timer.ids), strict=True):
        change = rows.decode_change(encoded) if encoded is not None else None
        if change is not None and change.state is JobState.SCHEDULED and change.due_ms == due_ms:
            waiting.append((identifier, change))
    if not waiting:
        return
    queue = state.queue(timer.queue)
    state.move(queue, JobState.SCHEDULED, Event.DUE, len(waiting))
    state.hot[queue] = None
    place = (timer.rank, timer.key)
    if timer.sequence and timer.sequence >= queue.floor:
        for identifier, change in waiting:
            state.write_change(identifier, change._replace(state=JobState.READY, due_ms=0))
            state.put_back(queue, place, identifier, change)
        return
    first = queue.sequences(len(waiting))
    for sequence, (identifier, change) in enumerate(waiting, first):
        state.write_change(identifier, change._replace(state=JobState.READY, due_ms=0, sequence=sequence))
    queue.ring.add(place, first, [identifier for identifier, _ in waiting], state.tick)


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
        peer = delivery.peer
        ids = leave.held(state, delivery)
        alone = delivery.alone or peer.unsettled == 1
        delivery.deadline = NEVER
        expired += len(ids)
        state.send(peer, Lost([(fence, ids)], "lease expired"))
        if not peer.wedged:  # what it is sent now may wait as long: first let it say that it is there
            peer.wedged = True
            state.send(peer, Who())
        state.notice("warning", "lease expired", worker=peer.name, queue=delivery.queue.name, jobs=len(ids))
        if len(ids) > limits.STEP_ROWS:
            state.work(leave.expire(state, delivery, ids))
            continue
        for identifier in ids:
            leave.lose(state, delivery, identifier, "lease expired", alone=alone)
        state.credit_changed(peer)


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
                works = peer.queues or peer.deliveries
                peer.probe_at = state.now + (state.settings.probe_ms if works else state.settings.client_probe_ms)
                state.send(peer, Ping())
            soonest = min(soonest, peer.probe_at)
    state.next_watch = max(soonest, state.now + limits.WATCH_MS)  # so that the probes of many peers fall together


def wanted_in(state: State) -> int:
    """Milliseconds until the core next wants a turn, whatever arrives; at least 0."""
    if state.works or state.hot:
        return 0
    wait = min(state.next_watch - state.now, state.next_due - state.wall)
    if state.resting:
        wait = min(wait, state.resting[0][0] - state.now)
    if state.lease_heap:
        wait = min(wait, state.lease_heap[0][0] - state.now)
    trim_at = history.trim_due(state)
    if trim_at is not None:
        wait = min(wait, trim_at - state.wall)
    return max(0, wait)
