"""Orders: what people and programs tell the broker to change. Each is applied once; long ones go on in slices."""

from collections.abc import Callable
from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import bindings, callbacks, dead, flowing, history, kept, rows, schedules, waiting
from zbroker.core.entities import Queue
from zbroker.core.policy import Options
from zbroker.core.put import refuse_new_queue
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zbroker.core.works import Work, begin, refuse_if_busy
from zclient.protocol import limits as wire
from zclient.protocol.options import QUEUE_OPTIONS, options_fault


def order(state: State, verb: str, arguments: dict[str, Any]) -> Any:
    """Apply an order and return its answer; `Refusal` if it cannot be."""
    handler = _VERBS.get(verb)
    if handler is None:
        raise Refusal("not_found", f"no such order: {verb!r:.40}")
    return handler(state, arguments)


# ---- arguments


def queue_of(state: State, arguments: dict[str, Any]) -> Queue:
    name = arguments.get("queue")
    queue = state.queues.get(name) if isinstance(name, str) else None
    if queue is None:
        raise Refusal("not_found", f"no queue {name!r:.140}")
    return queue


def id_of(arguments: dict[str, Any]) -> bytes:
    identifier = arguments.get("id")
    if type(identifier) is not bytes:
        raise Refusal("invalid", "id is bytes")
    fault = wire.id_fault(identifier)
    if fault:
        raise Refusal("invalid", fault)
    return identifier


def ids_of(arguments: dict[str, Any]) -> list[bytes]:
    ids = arguments["ids"]
    if type(ids) is not list or not ids or len(ids) > wire.MAX_ORDER_IDS:
        raise Refusal("invalid", f"ids is a list of 1 to {wire.MAX_ORDER_IDS} ids")
    return [id_of({"id": identifier}) for identifier in ids]


def no_such_job(identifier: bytes) -> Refusal:
    return Refusal("not_found", f"no job {identifier.decode()!r}")


def text_of(arguments: dict[str, Any], name: str) -> str:
    """A text to select by; empty if there is none."""
    value = arguments.get(name, "")
    if type(value) is not str or len(value) > wire.MAX_ERROR_CHARS:
        raise Refusal("invalid", f"{name} is a text")
    return value


def time_of(arguments: dict[str, Any], name: str, default: int) -> int:
    """A point in time (Unix ms)."""
    value = arguments.get(name, default)
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise Refusal("invalid", f"{name} is Unix milliseconds, not {value!r:.40}")
    return value


# ---- single jobs


def cancel(state: State, arguments: dict[str, Any]) -> dict[str, str]:
    """A waiting job is cancelled at once; a running one is told, and is cancelled unless it is done."""
    identifier = id_of(arguments)
    found = state.find(identifier)
    if found is None:
        ended = history.find(state, identifier)
        if ended is None:
            raise no_such_job(identifier)
        return {"state": ended.row.state}
    if found.state is JobState.DEAD:
        return {"state": found.state}
    if found.delivery is not None:
        waiting.wish_away(state, found)
        return {"state": JobState.LEASED}
    waiting.cancel(state, found, "cancelled")
    return {"state": JobState.CANCELLED}


# ---- queues


def pause(state: State, arguments: dict[str, Any]) -> dict[str, bool]:
    """No deliveries from the queue; it goes on taking jobs."""
    queue = queue_of(state, arguments)
    queue.paused = True
    state.unreserve(queue)
    return _open_or_not(state, queue)


def drain(state: State, arguments: dict[str, Any]) -> dict[str, bool]:
    """No new jobs for the queue; what it has is worked off."""
    queue = queue_of(state, arguments)
    queue.closed = True
    return _open_or_not(state, queue)


def resume(state: State, arguments: dict[str, Any]) -> dict[str, bool]:
    """Neither paused nor drained."""
    queue = queue_of(state, arguments)
    queue.paused = queue.closed = False
    state.hot[queue] = None
    return _open_or_not(state, queue)


def _open_or_not(state: State, queue: Queue) -> dict[str, bool]:
    state.touched[queue] = None
    state.waits_or_not(queue)
    return {"paused": queue.paused, "closed": queue.closed}


def purge(state: State, arguments: dict[str, Any]) -> dict[str, int]:
    """Every ready job of the queue is void from now on; a sweep removes what is left of them."""
    queue = queue_of(state, arguments)
    refuse_if_busy(state)  # before anything is changed: a refused order has no effect
    jobs = queue.counts.jobs[JobState.READY]
    queue.floor = queue.next_sequence
    queue.ring.forget(queue.floor)
    kept = queue.ring.keys.kept
    for _, _, identifier in queue.suspects:
        if identifier in kept:
            state.unkeep(queue, identifier, kept[identifier])
    if kept:  # what waits for a time has lost its place, and lines up anew: its key need not wait for it
        state.work(_let_line_up(state, queue, list(kept)))
    queue.suspects.clear()
    state.unreserve(queue)
    state.move(queue, JobState.READY, Event.PURGE, jobs, queue.counts.sizes[JobState.READY])
    if jobs:
        begin(state, Work("purge", queue.name, b"", queue.floor, 0))
    state.notice("info", "queue purged", queue=queue.name, jobs=jobs)
    return {"purged": jobs}


# ---- policies


def set_options(state: State, arguments: dict[str, Any]) -> dict[str, Any]:
    """Options of a queue, from now on and over restarts; they win over the configuration file. Makes the queue."""
    options = arguments.get("options")
    if type(options) is not dict or not options:
        raise Refusal("invalid", "options is a map of at least one option of a queue")
    fault = options_fault(QUEUE_OPTIONS, options)
    if fault:
        raise Refusal("invalid", fault)
    name = arguments.get("queue")
    if type(name) is not str:
        raise Refusal("invalid", "queue is the name of a queue")
    for needed in dict.fromkeys((name, options.get("dead_to") or name)):
        if needed not in state.queues:
            refuse_new_queue(state, needed)
    fault = dead.chain_fault(state, name, options.get("dead_to", ""))
    if fault:
        raise Refusal("invalid", fault)
    queue = state.queue(name)
    return _use(state, queue, {**queue.options, **options})


def unset_options(state: State, arguments: dict[str, Any]) -> dict[str, Any]:
    """What was set of these options holds no longer; the configuration file, or the broker's default, does."""
    queue = queue_of(state, arguments)
    names = arguments.get("options")
    if type(names) is not list or not names or not all(type(name) is str and name in QUEUE_OPTIONS for name in names):
        raise Refusal("invalid", f"options is a list of options of a queue: {', '.join(QUEUE_OPTIONS)}")
    kept = {name: value for name, value in queue.options.items() if name not in names}
    dead_to = state.policy(queue.name, kept).dead_to
    fault = dead.chain_fault(state, queue.name, dead_to) if "dead_to" in names and dead_to != queue.name else None
    if fault:
        raise Refusal("invalid", fault)
    return _use(state, queue, kept)


def _use(state: State, queue: Queue, options: Options) -> dict[str, Any]:
    """Let these options hold, with all that follows from them at once."""
    queue.options = options
    key = rows.META_POLICY + queue.name.encode()
    state.tick.rows["meta"][key] = rows.pack(options) if options else None
    queue.use(state.policy(queue.name, options))
    if queue.policy.key_limit != 1 and queue.ring.keys.kept:
        state.work(_set_keys_free(state, queue))
    state.retain_at = min(state.retain_at, state.wall)
    history.kept_anew(state, queue)
    state.hot[queue] = None
    state.notice("info", "policy set", queue=queue.name, options=sorted(options))
    return {"policy": policy_row(state, queue)}


def _let_line_up(state: State, queue: Queue, ids: list[bytes]) -> Steps:
    """Slow work: keys wait no more for jobs that kept their turn before a purge."""
    for start in range(0, len(ids), limits.STEP_ROWS):
        for identifier in ids[start : start + limits.STEP_ROWS]:
            lane_key = queue.ring.keys.kept.get(identifier)
            found = state.find(identifier) if lane_key is not None else None
            if lane_key is not None and found is not None and found.sequence < queue.floor:
                state.unkeep(queue, identifier, lane_key)
        yield None


def _set_keys_free(state: State, queue: Queue) -> Steps:
    """Slow work: keys wait for none of their jobs any more, unless they are to again meanwhile."""
    kept = queue.ring.keys.kept
    while kept and queue.policy.key_limit != 1:
        for identifier, lane_key in list(islice(kept.items(), limits.STEP_ROWS)):
            state.unkeep(queue, identifier, lane_key)
        yield None


def policy_row(state: State, queue: Queue) -> dict[str, tuple[Any, str]]:
    """Each option of the queue with its value, and where that comes from."""
    declared = state.settings.queues.get(queue.name, {})
    told: dict[str, tuple[Any, str]] = {}
    for name in QUEUE_OPTIONS:
        source = state.settings.sources.get(name, "default")
        if name in queue.options or name in declared:
            source = "set" if name in queue.options else "config"
        told[name] = (queue.policy.value(name), source)
    return told


# ---- dead jobs


def replay(state: State, arguments: dict[str, Any]) -> dict[str, int]:
    """Dead jobs are ready again: those named, or those of a queue, or those of them that died of the same."""
    rate = arguments.get("rate", 0)
    if type(rate) is not int or not 0 <= rate <= 1_000_000:
        raise Refusal("invalid", f"rate is jobs a second, a whole number from 1 to 1000000, not {rate!r:.40}")
    if "ids" not in arguments:
        return _begin_bulk(state, "replay", arguments, rate)
    ids = _all_dead(state, ids_of(arguments))
    dead.refuse_replay(state, ids)
    if rate:
        return {"work": begin(state, Work("replay", "", b"", 0, rate, ids=ids)), "dead": len(ids)}
    return {"replayed": sum(dead.replay_one(state, identifier) for identifier in ids)}


def drop(state: State, arguments: dict[str, Any]) -> dict[str, int]:
    """Nothing is kept of dead jobs, selected likewise."""
    if "ids" not in arguments:
        return _begin_bulk(state, "drop", arguments, 0)
    return {"dropped": sum(dead.drop_one(state, identifier) for identifier in _all_dead(state, ids_of(arguments)))}


def _begin_bulk(state: State, kind: str, arguments: dict[str, Any], rate: int) -> dict[str, int]:
    queue = queue_of(state, arguments)
    newest = max(state.wall, dead.newest_ms(state, queue))
    until = min(newest, time_of(arguments, "before", newest + 1) - 1)
    reason, error = text_of(arguments, "reason"), text_of(arguments, "error")
    number = begin(state, Work(kind, queue.name, b"", max(0, until), rate, reason, error))
    return {"work": number, "dead": queue.counts.jobs[JobState.DEAD]}


def _all_dead(state: State, ids: list[bytes]) -> list[bytes]:
    """The ids, each once; `Refusal` if one of them is not dead."""
    for identifier in ids:
        found = state.find(identifier)
        if found is None or found.state is not JobState.DEAD:
            raise Refusal("not_found", f"no dead job {identifier.decode()!r}")
    return list(dict.fromkeys(ids))


_VERBS: dict[str, Callable[[State, dict[str, Any]], Any]] = {
    "set_schedule": schedules.put_schedule,
    "remove_schedule": schedules.remove,
    "run_schedule": schedules.run_now,
    "pause_schedule": schedules.pause,
    "resume_schedule": schedules.resume,
    "open_batch": callbacks.open_batch,
    "close_batch": callbacks.close_batch,
    "cancel_workflow": flowing.cancel,
    "retry_workflow": flowing.retry,
    "bind": bindings.bind,
    "unbind": bindings.unbind,
    "keep_topic": kept.keep,
    "forget_topic": kept.forget,
    "cancel": cancel,
    "purge": purge,
    "pause": pause,
    "drain": drain,
    "resume": resume,
    "set": set_options,
    "unset": unset_options,
    "replay": replay,
    "drop": drop,
}
