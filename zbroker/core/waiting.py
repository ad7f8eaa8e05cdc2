"""The ways out of waiting that are no delivery: cancelled, replaced, or expired.

A job that waits is ready, scheduled or blocked. Its ready entry or timer stays on disk as a ghost, and is skipped when
it is met.
"""

from typing import Any

from zbroker.core import dead, edges, history, rows, unique
from zbroker.core.entities import Delivery, Found
from zbroker.core.state import State
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol.messages import Cancel
from zclient.protocol.record import stored_bytes


def take_out(state: State, found: Found) -> None:
    """The job is no longer among those that wait: neither fresh, nor a suspect, nor the one that its key waits for."""
    queue = found.queue
    state.forget_fresh(found.id)
    rank, key = found.place
    queue.suspects.discard((rank, found.sequence, found.id))
    if not queue.suspects:
        state.unreserve(queue)
    state.unkeep(queue, found.id, key)


def cancel(state: State, found: Found, reason: str, **cause: Any) -> None:
    """It is cancelled at once. ``cause`` is told beside the reason to those who watch it."""
    take_out(state, found)
    unique.release(state, found.queue.name, found.id, found.header.options)
    digests = {found.id: state.digest_of(found.id, found.record)} if rows.is_chosen(found.id) else None
    edges.over(state, found.id, found.header.options, found.change, edges.GONE)
    state.erase(found.id, changed=found.change is not None, external=found.header.external)
    state.move(found.queue, found.state, Event.CANCEL, 1, stored_bytes(found.record))
    change = found.changed()._replace(reason=cause["parent"].decode()) if "parent" in cause else found.change
    changes = {found.id: rows.encode_change(change)} if change else None
    history.add(
        state,
        found.queue,
        JobState.CANCELLED,
        [found.id],
        [found.header.created_ms],
        changes=changes,
        reason=reason,
        digests=digests,
    )
    history.tell(state, found.id, JobState.CANCELLED, None, {"reason": reason, **cause})


def wish_away(state: State, found: Found, reason: str = "") -> None:
    """It runs: its worker is told to end it. The wish is kept, also while no worker is there to be told. ``reason``:
    why, if nobody asked for it."""
    delivery = found.delivery
    assert delivery is not None
    change = found.changed()._replace(cancel=True, reason=reason)
    state.write_change(found.id, change)
    delivery.changes[found.id] = change
    state.send(delivery.peer, Cancel(delivery.fence, [found.id]))


def tell_wished(state: State, delivery: Delivery) -> None:
    """Tell its worker once more which of these runs are to end: the first word may be lost with a connection, or one
    that was full."""
    if not delivery.changes:
        return
    leased = state.leased
    wished = [one for one, change in delivery.changes.items() if change.cancel and leased.get(one) is delivery]
    if wished:
        state.send(delivery.peer, Cancel(delivery.fence, wished))


def replace(state: State, found: Found, by: bytes, *, running: bool) -> None:
    """Another job takes the place of this one: it is cancelled if it waits, and if ``running`` told to end if it
    runs."""
    if found.delivery is None:
        cancel(state, found, "replaced", by=by)
    elif running:
        wish_away(state, found)


def expire(state: State, found: Found) -> None:
    """Its time to begin is over: it is dead, or gone where the queue drops what expired."""
    take_out(state, found)
    queue = found.queue
    size = stored_bytes(found.record)
    if queue.policy.on_expiry == "drop":
        unique.release(state, queue.name, found.id, found.header.options)
        edges.over(state, found.id, found.header.options, found.change, edges.GONE)
        state.erase(found.id, changed=found.change is not None, external=found.header.external)
        state.move(queue, found.state, Event.DISCARD, 1, size)
        history.tell_dropped(state, found.id)
        return
    dead.bury(state, queue, found.id, found.record, found.changed(), "expired", (found.state, Event.EXPIRE, size))
