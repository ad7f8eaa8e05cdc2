"""What follows from the counters of batches, once in each tick: callbacks, children, ends; and opening and closing one.

A callback is a job that the broker stores in the tick in which its time has come, under an id made of the batch's, so
each comes once over any crash. The limits of a queue's length do not hold for it: nobody could wait.
"""

from collections.abc import Mapping
from typing import Any

from zbroker import limits
from zbroker.core import batches, edges, history, rows, workflows
from zbroker.core.batches import CALLBACKS, DEAD, DONE, GONE, Batch
from zbroker.core.policy import Options
from zbroker.core.put import judge, judge_group, refuse_for_now, store
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zclient.protocol import limits as wire
from zclient.protocol.messages import Group
from zclient.protocol.plans import batch_id_fault

# ---- at the end of a tick


def settle(state: State) -> None:
    """Do what the counters say of the batches that were touched, and write their rows."""
    for batch in state.counted.values():
        _fire(state, batch)
        end = _end_of(batch)
        if end != batch.end:
            _ends(state, batch, end)
        if end and not batch.dead and not batch.workflow:
            keep_until(state, batch.id, batch.over_ms + limits.BATCH_KEPT_MS)
        state.tick.rows["batches"][batch.id] = batch.row()
    state.counted.clear()
    if state.flows:
        for flow in state.flows.values():
            if workflows.settle(state, flow):
                keep_until(state, flow.id, flow.over_ms + limits.BATCH_KEPT_MS)
        state.flows.clear()


def keep_until(state: State, identifier: bytes, at_ms: int) -> None:
    """Look then whether the batch or workflow is to be removed; twice is once."""
    state.add_timer(at_ms, rows.TimerRow("", 0, identifier, 0, []), rows.TIMER_BATCH, mark=identifier)


def _end_of(batch: Batch) -> str:
    """How the batch has ended for whoever waits for it; empty while it goes on."""
    if not batch.is_settled:
        return ""
    return GONE if batch.cancelled else DEAD if batch.dead else DONE


def _ends(state: State, batch: Batch, end: str) -> None:
    """It is over, or over in another way, or goes on after a replay."""
    batch.end = end
    batch.over_ms = state.wall if end else 0
    if batch.workflow:
        workflows.step_ends(state, batch)
    if not end:
        return
    if batch.is_parent:
        edges.tell_children(state, batch.id, end, None)
    history.tell(state, batch.id, end, None, None)


def _fire(state: State, batch: Batch) -> None:
    """Store the callbacks whose time has come."""
    if batch.has == batch.fired:
        return
    due = (batch.is_settled and batch.done == batch.total, batch.is_settled, batch.died)
    for bit, name in enumerate(CALLBACKS):
        if due[bit] and (batch.has & ~batch.fired) >> bit & 1:
            batch.fired |= 1 << bit
            group = _job_of(batch.id, name, batches.callbacks_of(state, batch)[name])
            if state.view.get("jobs", group.ids[0]) is None:  # else somebody has sent a job of this id
                store(state, group, judge_group(state, group, closed=True))


def _job_of(batch: bytes, name: str, callback: Mapping[str, Any]) -> Group:
    options = callback["options"]
    headers = {**options.get("headers", {}), "batch": batch.decode()}
    identifier = b"%b.%b" % (batch, name.removeprefix("on_").encode())
    return Group(callback["queue"], {**options, "headers": headers}, [identifier], [callback["payload"]])


# ---- orders


def batch_of(state: State, arguments: Mapping[str, Any]) -> Batch:
    """The batch that an order or a question names, with all that this tick did to it."""
    identifier = arguments.get("id")
    if type(identifier) is not bytes:
        raise Refusal("invalid", "id is bytes")
    settle(state)
    batch = batches.look(state, identifier)
    if batch is None:
        raise Refusal("not_found", f"no batch {identifier.decode(errors='backslashreplace')!r:.80}")
    return batch


def open_batch(state: State, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A new batch, open; or the one of this id, if it was opened with the same words."""
    identifier, name = arguments.get("id"), arguments.get("name", "")
    keeps = arguments.get("keep_results", False)
    fault = batch_id_fault(identifier) if type(identifier) is bytes else "id is bytes"
    if fault is None and (type(name) is not str or len(name) > wire.MAX_NAME_CHARS or type(keeps) is not bool):
        fault = f"name is a text of at most {wire.MAX_NAME_CHARS} characters, keep_results true or false"
    if fault is not None or type(identifier) is not bytes:
        raise Refusal("invalid", fault or "")
    wanted = {one: _callback(one, arguments[one]) for one in CALLBACKS if arguments.get(one) is not None}
    before = batches.look(state, identifier)
    if before is not None:
        if (before.name, before.keeps_results, batches.callbacks_of(state, before)) != (name, keeps, wanted):
            raise _other(identifier)
        return batches.told(state, batch_of(state, arguments))
    if state.find(identifier) is not None or history.holds(state, identifier):
        raise _other(identifier)
    refuse_another(state)
    groups = [_job_of(identifier, one, callback) for one, callback in wanted.items()]
    if groups:
        judge(state, groups)
    else:
        refuse_for_now(state)
    for group in groups:
        state.queue(group.queue)  # there it is when the callback comes
    has = sum(1 << bit for bit, one in enumerate(CALLBACKS) if one in wanted)
    state.counted[identifier] = Batch(identifier, name, b"", 0, True, keeps, has, state.wall)
    if wanted:
        state.tick.rows["batches"][rows.callbacks_key(identifier)] = rows.pack(wanted)
    count(state, 1)
    return batches.told(state, batch_of(state, arguments))


def _callback(name: str, callback: Any) -> dict[str, Any]:
    """A callback as it is kept; `Refusal` if it cannot be one."""
    if type(callback) is not dict:
        raise Refusal("invalid", f"{name} is a map of queue, options and payload")
    queue, options, payload = callback.get("queue"), callback.get("options", {}), callback.get("payload")
    if type(queue) is not str or type(options) is not dict or type(payload) is not bytes:
        raise Refusal("invalid", f"{name} has a queue, options, and an encoded payload")
    _refuse_options(name, options)
    return {"queue": queue, "options": options, "payload": payload}


def _refuse_options(name: str, options: Options) -> None:
    for option in ("after", "batch", "unique"):
        if option in options:
            raise Refusal("invalid", f"{name}: a callback has its time and its id from the batch: no {option}")


def _other(identifier: bytes) -> Refusal:
    text = identifier.decode()
    return Refusal("duplicate_id", f"something else has the id {text!r}", id=text)


def refuse_another(state: State) -> None:
    """Raises `Refusal` if there are as many batches and workflows as may be."""
    if state.batches_kept >= limits.MAX_BATCHES:
        text = f"the broker has {state.batches_kept} batches and workflows, as many as it may"
        raise Refusal("too_many_batches", text)


def count(state: State, more: int) -> None:
    """So many more batches and workflows are kept."""
    state.batches_kept += more
    state.tick.rows["meta"][rows.META_BATCHES] = rows.number8(state.batches_kept)


def close_batch(state: State, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Nobody can be added any more but by the batch's own jobs; it is over when these are."""
    batch = batch_of(state, arguments)
    if batch.open:
        batches.touch(state, batch.id).open = False
    return batches.told(state, batch_of(state, arguments))
