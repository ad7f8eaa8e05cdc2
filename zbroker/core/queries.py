"""Questions: what people and programs ask of the broker. They change nothing, and long ones run in slices."""

from collections.abc import Callable
from typing import Any

from zbroker import limits
from zbroker.core import bindings, composed, dead, edges, history, kept, listings, rows, schedules
from zbroker.core.entities import Peer, Queue
from zbroker.core.orders import id_of, no_such_job, policy_row, queue_of
from zbroker.core.refusal import Refusal
from zbroker.core.shown import Row, finished, live
from zbroker.core.state import State, Steps
from zbroker.core.states import State as JobState
from zbroker.core.why import why
from zbroker.core.works import refuse_if_busy
from zclient.protocol import limits as wire
from zclient.protocol.messages import Answer, Ask, Changed, Failure
from zclient.protocol.record import payload_of
from zclient.protocol.version import VERSION

_VERSION_CHARS, _VERSIONS = 40, 100
"""What of a version is told, and of how many at most: peers say what they like."""


def ask(state: State, peer: Peer, message: Ask) -> None:
    """Answer, at once or, where the answer takes a while, when it is there."""
    verb, arguments, number = message.verb, message.arguments, message.number
    if verb in listings.LISTINGS or verb == "dead_groups":
        refuse_if_busy(state)
        listings.begin(state, peer, number, verb, arguments)
    elif verb == "schedules":
        refuse_if_busy(state)
        state.work(schedules.tell_all(state, peer, number))
    elif verb == "versions":
        refuse_if_busy(state)
        state.work(_tell_versions(state, peer, number))
    elif verb == "bindings":
        bindings.begin_listing(state, peer, number, arguments)
    elif verb == "publications":
        refuse_if_busy(state)
        kept.begin_page(state, peer, number, arguments)
    elif verb == "show" and not state.history.complete:
        refuse_if_busy(state)
        state.work(_show_later(state, peer, number, arguments))
    elif verb in _VERBS:
        answer = _VERBS[verb](state, arguments)
        if verb == "show":
            state.tick.bytes_out += len(answer["payload"] or b"") + len(answer["result"] or b"")
        elif verb == "results":
            state.tick.bytes_out += sum(len(result or b"") for _, _, result in answer)
        elif verb == "parents":
            state.tick.bytes_out += sum(len(row["result"] or b"") for row in answer["parents"])
        state.send(peer, Answer(number, answer))
    else:
        raise Refusal("not_found", f"no such question: {verb!r:.40}")


# ---- one job


def show(state: State, arguments: dict[str, Any]) -> Row:
    identifier = id_of(arguments)
    found = state.find(identifier)
    if found is not None:
        row = live(state, found)
        external = found.header.external
        row["payload"] = state.view.get("payloads", identifier) if external else payload_of(found.record)
        row["result"] = None
        if "after" in found.header.options:
            row["after"] = found.header.options["after"]
        return row
    ended = history.find(state, identifier)
    if ended is None:
        raise no_such_job(identifier)
    return {**finished(ended), "payload": None, "result": ended.result}


def _show_later(state: State, peer: Peer, number: int, arguments: dict[str, Any]) -> Steps:
    """A job that is not there may be in the history that is still being read back."""
    while not state.history.complete:
        if state.find(id_of(arguments)) is not None or history.holds(state, id_of(arguments)):
            break
        yield None
    try:
        state.send(peer, Answer(number, show(state, arguments)))
    except Refusal as refusal:
        state.send(peer, Failure(number, refusal.code, refusal.text, refusal.details))


def tell_changes(state: State) -> None:
    """Tell those who follow jobs how those that this tick changed are now. Their end is told otherwise."""
    told: dict[Peer, list[Row]] = {}
    sizes: dict[Peer, int] = {}
    for identifier, newcomers in state.changed.items():
        found = state.find(identifier)
        if found is None or found.state is JobState.DEAD:
            continue
        row = live(state, found)
        size = len(rows.pack(row))
        for peer in state.followers.get(identifier, ()):
            if newcomers is not None and peer not in newcomers:
                continue
            told.setdefault(peer, []).append(row)
            sizes[peer] = sizes.get(peer, 0) + size
            if sizes[peer] >= wire.MESSAGE_BYTES:
                state.send(peer, Changed(told.pop(peer)))
                del sizes[peer]
    state.changed.clear()
    for peer, jobs in told.items():
        state.send(peer, Changed(jobs))


def _parents(state: State, arguments: dict[str, Any]) -> Row:
    """The parents of a job from a position on, as many as a message carries; None at the end."""
    identifier, start = id_of(arguments), arguments.get("start", 0)
    found = state.find(identifier)
    if found is None:
        raise no_such_job(identifier)
    if type(start) is not int or start < 0:
        raise Refusal("invalid", f"start is a position, not {start!r:.40}")
    told: list[Row] = []
    size = 0
    for row in edges.parents(state, found, start):
        if size >= wire.MESSAGE_BYTES:
            return {"parents": told, "next": start + len(told)}
        told.append(row)
        size += len(row["result"] or b"") + wire.MAX_ID_BYTES
    return {"parents": told, "next": None}


def _why(state: State, arguments: dict[str, Any]) -> Row:
    identifier = id_of(arguments)
    found = state.find(identifier)
    ended = history.find(state, identifier) if found is None else None
    if found is None and ended is None:
        raise no_such_job(identifier)
    return why(state, found, ended)


def end_of(state: State, identifier: bytes) -> tuple[bytes, str, bytes | None, dict[str, Any] | None] | None:
    """What FINISHED says of a job, or None while it goes on."""
    found = state.find(identifier)
    if found is not None:
        if found.state is JobState.DEAD and found.change is not None:
            return (identifier, JobState.DEAD, None, dead.cause_of(found.change))
        return None
    if state.view.get("jobs", identifier) is not None:  # void: a purge that is still being swept took it
        return (identifier, JobState.CANCELLED, None, {"reason": "purged"})
    ended = history.find(state, identifier)
    if ended is not None:
        return history.end_of(ended)
    return state.recent.end_of(identifier) or composed.end_of(state, identifier)


def watch_later(state: State) -> Steps:
    """Tell the watchers of jobs that were not found, once the history is read back."""
    while not state.history.complete:
        yield None
    asked, state.history.asked = state.history.asked, {}
    for position, identifier in enumerate(asked, 1):
        end = end_of(state, identifier)
        if end is not None:
            history.tell(state, *end)
        if position % limits.STEP_ROWS == 0:
            yield None


# ---- queues, workers, the whole


def _queue_row(queue: Queue) -> Row:
    return {
        "queue": queue.name,
        **{job_state.value: jobs for job_state, jobs in queue.counts.jobs.items()},
        "paused": queue.paused,
        "closed": queue.closed,
        "waiting_bytes": queue.counts.waiting_bytes,
        "workers": len(queue.workers),
        "totals": queue.counts.totals,
        "created_at": queue.created_ms,
    }


def _queues(state: State, arguments: dict[str, Any]) -> list[Row]:
    return [_queue_row(state.queues[name]) for name in sorted(state.queues)]


def _queue(state: State, arguments: dict[str, Any]) -> Row:
    queue = queue_of(state, arguments)
    return {**_queue_row(queue), "policy": policy_row(state, queue)}


def _workers(state: State, arguments: dict[str, Any]) -> list[Row]:
    return [
        {
            "id": peer.incarnation.hex(),
            "name": peer.name,
            "queues": [queue.name for queue in peer.queues],
            "capacity": peer.capacity,
            "leased": peer.unsettled,
            "connected": peer.route is not None,
            "connected_for_ms": state.now - peer.joined_ms if peer.route is not None else 0,
            "running_for_ms": _running_for(state, peer),
            "last_progress_ms": _last_progress(state, peer),
            "info": peer.info,
        }
        for peer in sorted(state.peers.values(), key=lambda peer: peer.name)
        if peer.queues or peer.deliveries
    ]


def _running_for(state: State, peer: Peer) -> int | None:
    """How long the oldest delivery of the worker is under way, in ms; None if it has none."""
    started = min((delivery.started_ms for delivery in peer.deliveries.values()), default=None)
    return None if started is None else max(0, state.wall - started)


def _last_progress(state: State, peer: Peer) -> int | None:
    """How long ago the worker last told of progress of a job that it has, in ms; None if it never did."""
    told = [
        change.progress[2]
        for delivery in peer.deliveries.values()
        for change in delivery.changes.values()
        if change.progress and change.progress[2] >= delivery.started_ms  # else an earlier run told it
    ]
    return max(0, state.wall - max(told)) if told else None


def _tell_versions(state: State, peer: Peer, number: int) -> Steps:
    """Slow work: how many of the connected peers are of which version, workers apart from the others."""
    route = peer.route
    told: dict[tuple[str, bool], Row] = {}
    for seen, one in enumerate(list(state.routes.values()), 1):
        version = one.info.get("version")
        known = version[:_VERSION_CHARS] if isinstance(version, str) else ""
        row = {"version": known, "serves": bool(one.queues), "peers": 0, "example": one.name}
        told.setdefault((known, bool(one.queues)), row)["peers"] += 1
        if len(told) > _VERSIONS:
            break
        if seen % limits.STEP_ROWS == 0:
            yield None
            if peer.route is None or peer.route != route:
                return  # nobody waits for it
    state.send(peer, Answer(number, [row for _, row in sorted(told.items())]))


def _stats(state: State, arguments: dict[str, Any]) -> Row:
    jobs: dict[str, int] = {}
    totals: dict[str, int] = {}
    for queue in state.queues.values():
        for job_state, number in queue.counts.jobs.items():
            jobs[job_state.value] = jobs.get(job_state.value, 0) + number
        for name, number in queue.counts.totals.items():
            totals[name] = totals.get(name, 0) + number
    return {
        "broker": state.broker.hex(),
        "version": VERSION,
        "told_at": state.wall,
        "epoch": state.epoch,
        "durability": state.settings.durability,
        "store": state.settings.store,
        "tick": state.tick.number,
        "queues": len(state.queues),
        "peers": len(state.routes),
        "workers": sum(1 for peer in state.routes.values() if peer.queues),
        "jobs": jobs,
        "totals": totals,
        "finished_kept": state.history.jobs,
        "in_memory": {"entries": state.budget.jobs, "lanes": state.budget.lanes, "record_bytes": state.fresh_bytes},
        "streams": len(state.streams),
        "slow_work": len(state.works) + len(state.resting),
        "longest_turn_ms": round(state.longest_turn_ms, 3),
        "turns": dict(zip([f"{ms} ms" for ms in limits.TURN_BOUNDS_MS] + ["longer"], state.turns, strict=True)),
        "disk_low": state.disk_low,
        "draining": state.draining,
        "counters": dict(state.counters),
    }


_VERBS: dict[str, Callable[[State, dict[str, Any]], Any]] = {
    "show": show,
    "why": _why,
    "parents": _parents,
    "batch": composed.batch,
    "workflow": composed.workflow,
    "results": composed.results,
    "queues": _queues,
    "queue": _queue,
    "workers": _workers,
    "stats": _stats,
    "kept_topics": kept.rows_of_all,
}
