"""Jobs that wait for others: `after`. Which children a job has, what they wait for, and what becomes of them.

An edge is a row (parent, child): empty while the child waits for this parent, `SETTLED` afterwards, for as long as the
child is there. A row (parent) beside them keeps how the parent ended, and its result, until no child is left that
could read it. A parent's change row says that it is one, so that a job without children costs nothing.

When a parent is over, its children are looked at in the same tick, a bounded number of them; a row in ``meta`` keeps
what is left to do, over a restart too.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import batches, history, rows, waiting
from zbroker.core.entities import Found, Queue
from zbroker.core.policy import Options
from zbroker.core.refusal import Refusal
from zbroker.core.rows import Change
from zbroker.core.state import State
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol import plans
from zclient.protocol.messages import Group
from zclient.protocol.record import stored_bytes

SETTLED = b"s"
"""The value of an edge whose child waits for this parent no more."""

DONE, DEAD, GONE = batches.DONE, batches.DEAD, batches.GONE
"""How a parent ended. One that is dead may come back by a replay; one that was dropped or purged is gone."""

_NO_ENDS = rows.pack([])


# ---- before a PUT


def judge(state: State, groups: list[Group], are_new: list[bool]) -> list[int]:
    """The order in which the groups are to be stored, parents first; `Refusal` for a circle, and for a parent that
    nobody knows, unless the children are there already."""
    home = {identifier: place for place, group in enumerate(groups) for identifier in group.ids}
    needs: list[set[int]] = []
    edges = sum(len(group.ids) * len(group.options.get("after", ())) for group in groups)
    if edges > wire.MAX_BATCH_EDGES:
        raise Refusal(
            "batch_too_large", f"{edges} pairs of job and parent in one batch; at most {wire.MAX_BATCH_EDGES}"
        )
    for place, group in enumerate(groups):
        parents = group.options.get("after", ())
        inside = {home[parent] for parent in parents if parent in home}
        if place in inside:
            raise Refusal("invalid", "after: a job cannot wait for itself, or for one that it is sent with as its like")
        for parent in parents if are_new[place] else ():
            if parent not in home and not _is_known(state, parent):
                raise _unknown(state, parent)
        needs.append(inside)
    order = plans.in_order(needs)
    if len(order) < len(needs):
        raise Refusal("invalid", "after: the jobs wait for each other in a circle")
    for group, is_new in zip(groups, are_new, strict=True):
        if is_new and "after" in group.options and "batch" in group.options:
            _refuse_circle(state, groups, home, group.options)
    return order


def _is_known(state: State, parent: bytes) -> bool:
    """Whether there is a job, or a batch, of this id; a job comes first."""
    if state.find(parent) is not None or history.holds(state, parent):
        return True
    return batches.look(state, parent) is not None


def _refuse_circle(state: State, groups: list[Group], home: dict[bytes, int], options: Options) -> None:
    """Raises `Refusal` if a job of a batch would wait for one that waits for this batch. What the jobs of other open
    batches wait for is not looked at, nor more than so many jobs."""
    batch = batches.look(state, options["batch"])
    if batch is None or not (batch.is_parent or any(batch.id in group.options.get("after", ()) for group in groups)):
        return
    todo = list(options["after"])
    seen = set(todo)
    for parent in islice(todo, limits.CIRCLE_JOBS):  # it grows meanwhile
        found = None if parent in home else _blocked(state, parent)
        before = groups[home[parent]].options.get("after", ()) if parent in home else _named_by(found)
        if batch.id in before and (found is None or batch.id in waits_for(state, found)):
            text = "a job of a batch cannot wait for others that wait for this batch"
            raise Refusal("invalid", f"after: {text}: {batch.id.decode()!r}")
        todo += [one for one in before if one not in seen][: max(0, limits.CIRCLE_JOBS - len(todo))]
        seen.update(before)


def _blocked(state: State, parent: bytes) -> Found | None:
    """The job, if it is blocked itself; of a step of a workflow the first one, since all wait for the same."""
    found = state.find(parent)
    if found is None and plans.is_step_id(parent):
        found = state.find(plans.job_id(parent, 0))
    return found if found is not None and found.state is JobState.BLOCKED else None


def _named_by(found: Found | None) -> list[bytes]:
    """The parents of a job, those included that it waits for no more."""
    return list(found.header.options.get("after", ())) if found is not None else []


def _unknown(state: State, parent: bytes) -> Refusal:
    """Why this cannot be a parent."""
    text = parent.decode(errors="backslashreplace")
    if state.view.get("workflows", parent) is not None:
        return Refusal("unknown_parent", f"after: {text!r} is a workflow; a parent is a step of it, by its id", id=text)
    return Refusal("unknown_parent", f"after: nobody knows a job or batch {text!r}", id=text)


def link(state: State, ids: list[bytes], options: Options) -> tuple[int, bytes | None]:
    """Make the edges of new jobs that wait for the same others: how many of these are not over, and one that died or
    was cancelled already, if that ends the children too."""
    pending = 0
    rule = options.get("on_parent_death", "cancel")
    for parent in dict.fromkeys(options["after"]):
        how, result = _state_of(state, parent)
        waits = how == "" or (how == DEAD and rule == "wait")
        if how in (DEAD, GONE) and rule != "run" and not waits:
            return 0, parent
        edges = state.tick.rows["edges"]
        value = b"" if waits else SETTLED
        edges.update((rows.edge_key(parent, identifier), value) for identifier in ids)
        if waits:
            pending += 1
            _mark(state, parent)
        else:
            _keep_end(state, parent, how, result)
    return pending, None


def _state_of(state: State, parent: bytes) -> tuple[str, bytes | None]:
    """How a parent ended, with its result; empty while it goes on."""
    found = state.find(parent)
    if found is not None:
        return (DEAD if found.state is JobState.DEAD else ""), None
    ended = history.find(state, parent)
    if ended is None:
        batch = batches.look(state, parent)
        return (GONE if batch is None else batch.end if batch.is_settled else ""), None
    return (DONE, ended.result) if ended.row.state == JobState.DONE else (GONE, None)


def _keep_end(state: State, parent: bytes, how: str, result: bytes | None) -> None:
    """How a parent ended stands beside its edges; it may have been dead before, and be done now."""
    key, before = rows.edge_key(parent, b""), None
    if how != DONE:
        before = state.view.get("edges", key)
    if before is None:
        state.tick.rows["edges"][key] = rows.pack((how, result))


def _mark(state: State, parent: bytes) -> None:
    """The parent has children: its change row says so."""
    found = state.find(parent)
    if found is None:
        batch = batches.look(state, parent)
        if batch is not None and not batch.is_parent:
            batches.touch(state, parent).is_parent = True
        return
    if found.change is not None and found.change.is_parent:
        return
    change = found.changed()._replace(is_parent=True)
    state.write_change(parent, change)
    state.forget_fresh(parent)  # whoever delivers it must read the row
    if found.delivery is not None:
        found.delivery.changes[parent] = change


def block(state: State, queue: Queue, ids: list[bytes], options: Options, due_ms: int) -> None:
    """New jobs, counted as blocked, get their edges and change rows. They are free at once where all parents are over,
    and cancelled where one is over for the worse; with a delay they wait for that afterwards."""
    pending, cause = link(state, ids, options)
    change = rows.encode_change(Change(JobState.BLOCKED, 0, due_ms=due_ms, pending=pending))
    state.tick.rows["changes"].update(dict.fromkeys(ids, change))
    if pending:
        return
    for identifier in ids:
        found = state.find(identifier)
        assert found is not None
        if cause is not None:
            waiting.cancel(state, found, "parent", parent=cause)
        else:
            _unblock(state, found)


# ---- a job is over


def over(
    state: State,
    identifier: bytes,
    options: Options,
    change: Change | None,
    how: str,
    result: bytes | None = None,
    *,
    moves: bool = False,
) -> None:
    """The job is done, dead or gone: its children and its batch learn of it, and unless it may be replayed, it reads
    its parents' results no more. One that ``moves`` to another queue has not ended for its batch."""
    if change is not None and change.is_parent:
        tell_children(state, identifier, how, result)
    if how != DEAD:
        leave_parents(state, identifier, options)
    batch = options.get("batch")
    if batch is not None and not moves:
        was_dead = change is not None and change.state is JobState.DEAD
        batches.ended(state, batch, identifier, how, result, was_dead=was_dead)


def tell_children(state: State, parent: bytes, how: str, result: bytes | None) -> None:
    """The job or batch is over: those that wait for it are looked at, some of them in this turn."""
    if _children(state, parent, b""):
        state.tick.rows["edges"][rows.edge_key(parent, b"")] = rows.pack((how, result or None))
        key = rows.META_OVER + parent
        ends = rows.unpack(state.view.get("meta", key) or _NO_ENDS)
        state.tick.rows["meta"][key] = rows.pack([*ends, how])
        state.over.append((parent, how, b""))


def has_children(state: State, parent: bytes) -> bool:
    """Whether somebody waits for it, or may still read how it ended."""
    return bool(_children(state, parent, b""))


def leave_parents(state: State, identifier: bytes, options: Options) -> None:
    """The job reads its parents' results no more: those that nobody else can read are deleted."""
    parents = dict.fromkeys(options.get("after", ()))
    last_of = [parent for parent in parents if not _has_another(state, parent, identifier)]
    edges = state.tick.rows["edges"]
    edges.update((rows.edge_key(parent, identifier), None) for parent in parents)
    for parent in last_of:
        key = rows.edge_key(parent, b"")
        if state.view.get("edges", key) is not None:
            edges[key] = None


def _has_another(state: State, parent: bytes, child: bytes) -> bool:
    """Whether the parent has other children. The next one behind is mostly there; from the first one on there may be
    many that are deleted."""
    if _children(state, parent, child):
        return True
    return any(other != child for other, _ in _children(state, parent, b"", 2))


def _children(state: State, parent: bytes, cursor: bytes, most: int = 1) -> list[tuple[bytes, bytes]]:
    """The next children of a parent, behind the cursor: id, value of the edge."""
    start = rows.edge_key(parent, cursor) + b"\1"
    prefix = rows.edge_key(parent, b"")
    found = islice(state.view.scan("edges", start, rows.beyond_edges(parent)), most)
    return [(key[len(prefix) :], value) for key, value in found]


def settle(state: State) -> None:
    """Look at the children of parents that are over, in the order in which these were; a bounded number in one turn."""
    budget = limits.TURN_CHILDREN
    while state.over and budget > 0:
        parent, how, cursor = state.over.popleft()
        page = _children(state, parent, cursor, budget)
        for child, value in page:
            budget -= 1 if value else _parent_is_over(state, parent, child, how)
            cursor = child
            if budget <= 0:
                state.over.appendleft((parent, how, cursor))
                return
        budget -= 1
        key = rows.META_OVER + parent
        _, *later = rows.unpack(state.view.get("meta", key) or _NO_ENDS)
        state.tick.rows["meta"][key] = rows.pack(later) if later else None


def _parent_is_over(state: State, parent: bytes, child: bytes, how: str) -> int:
    """What it means for a child that waits for this parent; the rows that had to be looked at."""
    edge = rows.edge_key(parent, child)
    found = state.find(child)
    if found is None:  # a purge voided it, and its sweep comes by
        return 1
    rule = found.header.options.get("on_parent_death", "cancel")
    if how == DEAD and rule == "wait":
        return 1
    if found.state is not JobState.BLOCKED:
        state.tick.rows["edges"][edge] = SETTLED
        return 1
    if how == DONE or rule == "run":
        state.tick.rows["edges"][edge] = SETTLED
        change = found.changed()
        if change.pending > 1:
            state.write_change(child, change._replace(pending=change.pending - 1))
        else:
            _unblock(state, found)
        return 1
    waiting.cancel(state, found, "parent", parent=parent)
    return len(found.header.options["after"])


def waits_for(state: State, found: Found) -> list[bytes]:
    """The parents that the job waits for, or, if it is dead, would wait for after a replay."""
    parents = dict.fromkeys(found.header.options.get("after", ()))
    died = found.state is JobState.DEAD and found.header.options.get("on_parent_death", "cancel") == "cancel"
    waited = {one: state.view.get("edges", rows.edge_key(one, found.id)) for one in parents}
    return [one for one, edge in waited.items() if edge == b"" or (died and edge == SETTLED and _died(state, one))]


def _died(state: State, parent: bytes) -> bool:
    """Whether the parent died, and may still be done: it is dead, or goes on after a replay."""
    if state.find(parent) is None:
        batch = batches.look(state, parent)
        if batch is None or batch.end not in ("", DEAD):
            return False
    end = state.view.get("edges", rows.edge_key(parent, b""))
    return end is not None and rows.unpack(end)[0] == DEAD


def wait_again(state: State, found: Found) -> int:
    """A dead child is replayed: it waits for the parents that it never saw done, and that may still be; how many."""
    parents = waits_for(state, found)
    for parent in parents:
        state.tick.rows["edges"][rows.edge_key(parent, found.id)] = b""
        _mark(state, parent)
    return len(parents)


def _unblock(state: State, found: Found) -> None:
    """The last parent is over: the job may run, or waits for its time."""
    queue, change, size = found.queue, found.changed()._replace(pending=0), stored_bytes(found.record)
    if change.due_ms > state.wall:
        state.write_change(found.id, change._replace(state=JobState.SCHEDULED))
        state.add_timer(change.due_ms, rows.TimerRow(queue.name, *found.place, 0, [found.id]))
        state.move(queue, JobState.BLOCKED, Event.UNBLOCK_LATER, 1, size)
        return
    first = queue.sequences(1)
    state.write_change(found.id, change._replace(state=JobState.READY, sequence=first, due_ms=0))
    state.move(queue, JobState.BLOCKED, Event.UNBLOCK, 1, size)
    queue.ring.add(found.place, first, [found.id], state.tick)
    state.hot[queue] = None


def read_over(state: State) -> None:
    """At a start: parents whose children were not all looked at."""
    for key, ends in state.view.scan("meta", rows.META_OVER, rows.beyond(rows.META_OVER)):
        state.over.extend((key[len(rows.META_OVER) :], how, b"") for how in rows.unpack(ends))


# ---- what people and handlers see


def state_of(state: State, parent: bytes) -> str:
    """The state of a job or a batch that is waited for."""
    live = state.find(parent)
    batch = batches.look(state, parent) if live is None else None
    return live.state if live is not None else f"batch, {batch.state}" if batch is not None else "gone"


def parents(state: State, found: Found, start: int = 0) -> Iterator[dict[str, Any]]:
    """The jobs that this one waits or waited for, in the order in which it names them: id, state, result."""
    for parent in list(dict.fromkeys(found.header.options.get("after", ())))[start:]:
        value = state.view.get("edges", rows.edge_key(parent, b""))
        live = state.find(parent)
        batch = batches.look(state, parent) if live is None else None
        if batch is not None:
            yield {"id": parent, "state": batch.state, "result": None, "batch": batches.told(state, batch)}
        elif value is not None and (live is None or live.state is JobState.DEAD):
            how, result = rows.unpack(value)
            yield {"id": parent, "state": how, "result": result}
        else:
            yield {"id": parent, "state": live.state if live is not None else "unknown", "result": None}
