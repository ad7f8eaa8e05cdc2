"""Who is there: HELLO and GOODBYE, workers that come, go silent and come back, and the batch numbers of producers."""

from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import history, leave, rows, streams, tails
from zbroker.core.entities import NEVER, Peer, Producer, Queue
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.waiting import tell_wished
from zclient.protocol import limits as wire
from zclient.protocol.messages import Capacity, Failure, Hello, Welcome
from zclient.protocol.options import TASK_OPTIONS, options_fault


def hello(state: State, route: bytes, message: Hello) -> None:
    """Register a connection of an incarnation; what it names it keeps, what it does not name never arrived."""
    if message.version != wire.PROTOCOL_VERSION:
        text = f"this broker speaks version {wire.PROTOCOL_VERSION} of the protocol, not {message.version}"
        state.tick.send(route, Failure(0, "unsupported_version", text, {"versions": [wire.PROTOCOL_VERSION]}))
        return
    for name in message.queues:
        fault = wire.queue_name_fault(name)
        if fault:
            state.tick.send(route, Failure(0, "invalid", fault, {}))
            return
    for name, options in message.tasks.items():
        fault = options_fault(TASK_OPTIONS, options)
        if fault:
            state.tick.send(route, Failure(0, "invalid", f"the task for {name!r:.140}: {fault}", {}))
            return
    if len(state.queues) + len(set(message.queues) - state.queues.keys()) > limits.MAX_QUEUES:
        text = f"the broker has {len(state.queues)} queues, as many as it may"
        state.tick.send(route, Failure(0, "too_many_queues", text, {}))
        return
    peer = state.peers.get(message.incarnation)
    if peer is None:
        if len(state.peers) >= state.settings.max_peers:
            text = f"the broker serves {len(state.peers)} peers, as many as it may"
            state.tick.send(route, Failure(0, "too_many_peers", text, {"retry_after_ms": 1000}))
            return
        peer = state.peers[message.incarnation] = Peer(message.incarnation, message.name)
        if message.capacity:
            state.notice("info", "worker joined", worker=message.name, queues=message.queues)
    _connect(state, peer, route, message)
    _serve(state, peer, message.queues)
    lost = _compare_held(state, peer, message)
    state.credit_changed(peer)
    welcome = Welcome(wire.PROTOCOL_VERSION, state.broker, state.epoch, told_limits(state), lost)
    state.tick.send(route, welcome)


def told_limits(state: State) -> dict[str, int]:
    return {
        "payload_bytes": state.settings.max_payload,
        "result_bytes": state.settings.max_payload,
        "batch_jobs": wire.MAX_BATCH_JOBS,
        "batch_bytes": wire.MAX_BATCH_BYTES,
        "probe_ms": state.settings.probe_ms,
    }


def _connect(state: State, peer: Peer, route: bytes, message: Hello) -> None:
    other = state.routes.get(route)
    if other is not None and other is not peer:  # one process began a new incarnation on its connection
        unreachable(state, route)
    if peer.route != route:
        if peer.route is not None:
            state.routes.pop(peer.route, None)
        peer.joined_ms = state.now
        history.unwatch(state, peer, list(peer.watched))
        tails.leave(state, peer)
    state.routes[route] = peer
    peer.route = route
    peer.seen = True
    peer.name = message.name
    peer.info = message.info
    peer.tasks = dict(message.tasks)
    peer.capacity = message.capacity
    peer.grace_until = None
    peer.congested_until = 0
    peer.wedged = False
    peer.reserved = False
    peer.probe_at = state.now + state.settings.probe_ms
    state.next_watch = min(state.next_watch, peer.probe_at)
    if peer.producer is None:
        peer.producer = load_producer(state, peer.incarnation, message.resend_below)


def _serve(state: State, peer: Peer, names: list[str]) -> None:
    served = dict.fromkeys(names)
    for queue in peer.queues:
        if queue.name not in served:
            _serves_no_more(state, peer, queue)
    peer.queues = [state.queue(name) for name in served]
    for queue in peer.queues:
        if not queue.workers:
            state.touched[queue] = None  # its row says that it is served
        queue.workers[peer] = None
        queue.free.setdefault(peer)
    peer.away.clear()


def _serves_no_more(state: State, peer: Peer, queue: Queue) -> None:
    queue.free.pop(peer, None)
    peer.away.pop(queue, None)
    if queue.workers.pop(peer, 0) is None and not queue.workers:
        queue.served_ms = state.wall
        state.touched[queue] = None


def _compare_held(state: State, peer: Peer, message: Hello) -> list[tuple[int, list[bytes]]]:
    """What the peer names and does not have; what it has and does not name returns."""
    named: set[bytes] = set()
    lost: list[tuple[int, list[bytes]]] = []
    for fence, started, waiting in message.held:
        delivery = peer.deliveries.get(fence)
        gone = [
            identifier
            for identifier in (*started, *waiting)
            if delivery is None or state.leased.get(identifier) is not delivery
        ]
        if gone:
            lost.append((fence, gone))
        if delivery is not None:
            leave.renew(state, delivery, delivery.queue.policy.lease_ms)
            named.update((*started, *waiting))
            named.difference_update(gone)
            tell_wished(state, delivery)
            if state.streams and delivery.special:
                streams.told_again(state, delivery)
    # What was sent on this very connection is on its way or has arrived: HELLO may have crossed it.
    missed = [delivery for delivery in peer.deliveries.values() if delivery.route != peer.route]
    renewed = {fence for fence, _, _ in message.held} if missed else set()
    for delivery in missed:
        delivery.route = peer.route
        if delivery.fence not in renewed:
            delivery.deadline = NEVER  # it never arrived: it is not for its lease to run out first
    if missed:
        state.work(leave.give_back_all(state, peer, missed, named))
    return lost


def capacity(state: State, peer: Peer, message: Capacity) -> None:
    peer.capacity = message.capacity
    if not peer.capacity and peer.reserved:  # another one may run empty for the suspects
        peer.reserved = False
        state.hot.update((queue, None) for queue in peer.queues if queue.suspects)
    state.credit_changed(peer)


def goodbye(state: State, peer: Peer) -> None:
    """The incarnation ends: its jobs return, its batch numbers are forgotten."""
    if peer.producer is not None and peer.producer.applied:
        state.tick.rows["producers"][peer.incarnation] = None
    state.batches.pop(peer, None)
    peer.producer = None
    if peer.capacity or peer.deliveries:
        state.notice("info", "worker left", worker=peer.name, jobs=peer.unsettled)
    read = list(peer.streams)
    _disconnect(state, peer)
    if read:
        state.work(streams.leave_all(state, read))
    state.work(_return_and_forget(state, peer))


def _return_and_forget(state: State, peer: Peer) -> Steps:
    yield from leave.give_back_all(state, peer, list(peer.deliveries.values()), None)
    forget(state, peer)


def unreachable(state: State, route: bytes) -> None:
    """The connection of this routing id is gone; its worker may come back on another one."""
    peer = state.routes.pop(route, None)
    if peer is None or peer.route != route:
        return
    _disconnect(state, peer)
    if peer.deliveries:
        peer.grace_until = max(state.now + state.settings.grace_ms, state.return_until)
        state.next_watch = min(state.next_watch, peer.grace_until)
        state.notice("info", "worker silent", worker=peer.name, jobs=peer.unsettled)
    else:
        if peer.capacity:
            state.notice("info", "worker gone", worker=peer.name, jobs=0)
        forget(state, peer)


def await_return(state: State) -> None:
    """The broker stood still for so long that peers may have given up their connections: its own fault, so they have
    as long to come back as after a start."""
    state.return_until = state.now + state.settings.return_ms
    for peer in state.peers.values():
        if peer.grace_until is not None:
            peer.grace_until = max(peer.grace_until, state.return_until)


def give_up(state: State, peer: Peer) -> None:
    """The worker did not come back in time: what it held is lost, or was never its to lose after our own restart."""
    peer.grace_until = None
    deliveries = list(peer.deliveries.values())
    if not peer.seen:  # it was read from disk, and never seen since
        state.notice("info", "worker did not return", worker=peer.name, jobs=peer.unsettled)
        state.work(_return_and_forget(state, peer))
    else:
        state.work(_lose_and_forget(state, peer, deliveries))


def _lose_and_forget(state: State, peer: Peer, deliveries: list[Any]) -> Steps:
    yield from leave.lose_all(state, peer, deliveries, "worker lost")
    forget(state, peer)


def forget(state: State, peer: Peer) -> None:
    """Nothing of the peer is kept in memory, if it has nothing and is not there."""
    if peer.route is None and not peer.deliveries and state.peers.get(peer.incarnation) is peer:
        del state.peers[peer.incarnation]


def _disconnect(state: State, peer: Peer) -> None:
    if peer.route is not None:
        state.routes.pop(peer.route, None)
        peer.route = None
    if peer.producer is not None and peer.producer.applied:
        state.batches[peer] = None  # the day that its numbers are kept begins now
    history.unwatch(state, peer, list(peer.watched))
    tails.leave(state, peer)
    if peer.streams:
        streams.reader_gone(state, peer)
    peer.reserved = False
    for queue in peer.queues:
        _serves_no_more(state, peer, queue)
        if queue.suspects:
            state.hot[queue] = None


# ---- producers


def load_producer(state: State, incarnation: bytes, resend_below: int) -> Producer:
    """The batch numbers of an incarnation, from its row if it has one."""
    producer = Producer()
    value = state.view.get("producers", incarnation)
    if value is None:
        producer.unknown_below = resend_below
    else:
        _, producer.low, applied, producer.answers = rows.unpack(value, strict_map_key=False)
        producer.applied = set(applied)
    return producer


def seen_before(state: State, peer: Peer, number: int, low: int) -> tuple[bool, Any]:
    """Whether this PUT or ORDER was applied, and its answer then; `Refusal` if nobody can know.

    Numbers below the peer's ``low`` are forgotten: it has their answers.
    """
    producer = peer.producer
    assert producer is not None
    if low > producer.low:
        producer.low = low
        producer.applied = {applied for applied in producer.applied if applied >= low}
        producer.answers = {n: answer for n, answer in producer.answers.items() if n >= low}
    if number in producer.applied:
        return True, producer.answers.get(number)
    if number < producer.low:
        raise Refusal("outcome_unknown", f"the peer has said that it needs no answer to a number below {producer.low}")
    if number < producer.unknown_below:
        raise Refusal("outcome_unknown", "this broker does not remember the batch: it may be stored, or not")
    if len(producer.applied) >= wire.MAX_OPEN_BATCHES:
        raise Refusal("invalid", f"{wire.MAX_OPEN_BATCHES} batches of this peer wait for answers; raise low")
    return False, None


def applied(state: State, peer: Peer, number: int, answer: Any = None) -> None:
    """Remember the number, in the commit of its effect."""
    producer = peer.producer
    assert producer is not None
    producer.applied.add(number)
    if answer is not None:
        producer.answers[number] = answer
    state.batches[peer] = None


def write_batches(state: State) -> None:
    """The rows of the producers that this tick touched."""
    for peer in state.batches:
        producer = peer.producer
        if producer is not None:
            value = rows.pack((state.wall, producer.low, list(producer.applied), producer.answers))
            state.tick.rows["producers"][peer.incarnation] = value
    state.batches.clear()


def sweep_producers(state: State) -> Steps:
    """Slow work: forget the numbers of producers that were not heard of for a day."""
    start = b""
    stop = b"\xff" * (wire.INCARNATION_BYTES + 1)
    while page := list(islice(state.view.scan("producers", start, stop), limits.STEP_ROWS)):
        start = page[-1][0] + b"\0"
        for key, value in page:
            if rows.unpack(value, strict_map_key=False)[0] < state.wall - limits.PRODUCER_KEPT_MS:
                if key not in state.peers:
                    state.tick.rows["producers"][key] = None
        yield None
