"""Whether a core is whole: its rows, and what it has in memory beside them.

It reads both and changes neither. The rows are judged by `zbroker.check`; what is in memory must agree with them and
with itself. It holds between two turns, for any core and any store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from zbroker.check import check_store
from zbroker.core import rows
from zbroker.core.core import Core
from zbroker.core.entities import Queue, is_special
from zbroker.core.states import WAITING, State
from zbroker.storage.interface import Store


def check_whole(
    core: Core, store: Store, *, lowered: bool, is_excused: Callable[[str], bool] = lambda fault: False
) -> None:
    """The rows are whole, and what the core has in memory agrees with them and with itself. ``lowered``: a limit was
    lowered below what was in flight. ``is_excused``: whether a fault of the rows is none here."""
    report = check_store(store)
    faults = [fault for fault in report.faults if not is_excused(fault)]
    assert faults == [], faults
    state = core.state
    assert state.view.ticks == [state.tick] and not state.tick.has_rows
    leased: dict[bytes, int] = {}
    for fence, delivery in state.deliveries.items():
        held = [identifier for identifier in delivery.ids if state.leased.get(identifier) is delivery]
        assert delivery.open == len(held) > 0, fence
        assert delivery.peer.deliveries[fence] is delivery, fence
        leased.update(dict.fromkeys(held, fence))
    assert leased.keys() == state.leased.keys()
    for peer in state.peers.values():
        assert peer.unsettled == sum(delivery.open for delivery in peer.deliveries.values()), peer.name
        assert peer.alone == any(delivery.alone for delivery in peer.deliveries.values()), peer.name
        for queue in peer.queues:
            assert peer in queue.free or peer.credit <= 0 or state.draining, peer.name
            assert ((peer in queue.free) != (queue in peer.away)) == (peer in queue.workers), peer.name
    ready = {queue for queue in state.queues.values() if queue.counts.jobs[State.READY] and not queue.paused}
    assert state.waiting.keys() == ready
    for queue in state.queues.values():
        _check_keys(core, store, queue, lowered=lowered)
        assert report.counts[f"{queue.name}: leased"] == sum(
            delivery.open for delivery in state.deliveries.values() if delivery.queue is queue
        ), queue.name
    assert all(identifier in state.leased or state.find(identifier) is not None for identifier in state.followers)
    assert state.fresh_bytes == sum(len(record) for record, _, _ in state.fresh.values()) >= 0


def _check_keys(core: Core, store: Store, queue: Queue, *, lowered: bool) -> None:
    """In flight of each key is what is leased, and what keeps the turn of its key while it waits."""
    state, keys = core.state, queue.ring.keys
    running: Counter[bytes] = Counter(keys.kept.values())
    for identifier, delivery in state.leased.items():
        if delivery.queue is queue:
            found = state.find(identifier)
            assert found is not None, identifier
            running[found.place[1]] += 1
            assert (identifier in delivery.special) == is_special(found.header), identifier
    assert keys.running == dict(running), (queue.name, keys.running, running)
    prefix = rows.queue_prefix(queue.name)
    heads = {rows.split_head_key(key)[2] for key, _ in store.scan("heads", prefix, rows.beyond(prefix))}
    assert heads <= keys.kept.keys(), queue.name
    for identifier, key in keys.kept.items():
        found = state.find(identifier)
        assert found is None or found.state is not State.SCHEDULED or identifier in heads, identifier
        assert found is not None and found.state in WAITING and found.place[1] == key, identifier
        assert queue.policy.key_limit == 1, queue.name
    if keys.limit:
        assert all(jobs <= keys.limit for jobs in running.values()) or lowered, queue.name
