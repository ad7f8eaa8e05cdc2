"""Bindings: which queues get copies of what is published, and the orders and questions about them."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import rows
from zbroker.core.entities import Peer
from zbroker.core.kept import take_offset
from zbroker.core.put import refuse_new_queue
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.topics import filters_of, load_binding, pattern_of, save_binding
from zbroker.core.works import Work, begin, refuse_if_busy
from zclient.protocol import limits as wire
from zclient.protocol.messages import Answer

Row = dict[str, Any]


# ---- orders


def bind(state: State, arguments: dict[str, Any]) -> Row:
    """Let a queue have copies of what is published under a pattern from now on, and, with a start, of what is kept from
    there on. Where it is bound by this pattern already, its filters are others from now on."""
    pattern, filters = pattern_of(arguments), filters_of(arguments.get("filters", []))
    queue, start = arguments.get("queue"), arguments.get("start")
    if type(queue) is not str:
        raise Refusal("invalid", "queue is the name of a queue")
    if start is not None and (type(start) is not int or not 0 <= start < 1 << 53):
        raise Refusal("invalid", f"start is Unix milliseconds, 0 for the beginning, not {start!r:.40}")
    if queue not in state.queues:
        refuse_new_queue(state, queue)
    before = load_binding(state, pattern, queue)
    if before is None and state.topics.bindings.size >= limits.MAX_BINDINGS:
        raise Refusal("invalid", f"there are {limits.MAX_BINDINGS} bindings, as many as there may be")
    row = before._replace(filters=filters) if before is not None else rows.BindingRow(filters, state.wall)
    if start is not None:
        refuse_if_busy(state)  # before anything is changed
        row = row._replace(backfill=take_offset(state), since_ms=start)
        begin(state, Work("backfill", queue, rows.number8(0), row.backfill, 0, reason=pattern))
    state.queue(queue)
    save_binding(state, pattern, queue, row)
    state.topics.bindings.add(pattern, queue, filters)
    if before is None or before.filters != filters:
        state.notice("info", "queue bound", queue=queue, pattern=pattern)
    return row_of(pattern, queue, row)


def unbind(state: State, arguments: dict[str, Any]) -> Row:
    """No more copies for the queue by this pattern; those that it has stay. A backfill ends with the binding."""
    pattern, queue = pattern_of(arguments), str(arguments.get("queue"))
    row = load_binding(state, pattern, queue)
    if row is None:
        raise Refusal("not_found", f"queue {queue!r:.140} is not bound to {pattern}")
    save_binding(state, pattern, queue, None)
    state.topics.bindings.remove(pattern, queue)
    state.notice("info", "queue unbound", queue=queue, pattern=pattern)
    return row_of(pattern, queue, row)


# ---- questions


def begin_listing(state: State, peer: Peer, number: int, arguments: Mapping[str, Any]) -> None:
    """Answer with a page of bindings, by pattern and queue, later."""
    queue, limit = arguments.get("queue"), arguments.get("limit", wire.MAX_PAGE)
    cursor = arguments.get("cursor", b"")
    if queue is not None and type(queue) is not str:
        raise Refusal("invalid", "queue is the name of a queue")
    if type(limit) is not int or not 1 <= limit <= wire.MAX_PAGE or type(cursor) is not bytes:
        raise Refusal("invalid", f"limit is 1 to {wire.MAX_PAGE}, cursor is what the page before told")
    refuse_if_busy(state)
    state.work(_tell(state, peer, number, queue, limit, rows.TOPICS_BINDING + cursor))


def _tell(state: State, peer: Peer, number: int, queue: str | None, limit: int, start: bytes) -> Steps:
    told: list[Row] = []
    route, stop = peer.route, rows.beyond(rows.TOPICS_BINDING)
    size = 0
    while page := list(islice(state.view.scan("topics", start, stop), limits.STEP_ROWS)):
        for key, value in page:
            start = key + b"\0"
            bound = rows.split_binding_key(key)
            if queue is None or bound[1] == queue:
                told.append(row_of(*bound, rows.BindingRow(*rows.unpack(value))))
                size += len(key) + len(value)
            if len(told) == limit or size >= wire.MESSAGE_BYTES:
                state.send(peer, Answer(number, {"bindings": told, "cursor": start[len(rows.TOPICS_BINDING) :]}))
                return
        yield None
        if peer.route is None or peer.route != route:
            return  # nobody waits for it
    state.send(peer, Answer(number, {"bindings": told, "cursor": None}))


def row_of(pattern: str, queue: str, row: rows.BindingRow) -> Row:
    """A binding as people see it."""
    return {
        "pattern": pattern,
        "queue": queue,
        "filters": row.filters,
        "created_at": row.created_ms,
        "backfilling": row.backfill > 0,
    }


# ---- at a start


def read(state: State) -> None:
    """All bindings, from their rows. Their queues are there: each has a row since it was bound."""
    for key, value in state.view.scan("topics", rows.TOPICS_BINDING, rows.beyond(rows.TOPICS_BINDING)):
        pattern, queue = rows.split_binding_key(key)
        state.topics.bindings.add(pattern, queue, rows.BindingRow(*rows.unpack(value)).filters)
