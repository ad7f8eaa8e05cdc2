"""Dead jobs: how one gets there, or to the queue that gets them instead; replay, drop, and how long they are kept.

It owns the rows of ``dead``. The changes to a whole queue run in slices; ``orders.py`` says how.
"""

from itertools import islice
from typing import Any

from zbroker import limits
from zbroker.core import batches, edges, history, rows, unique
from zbroker.core.entities import NEVER, Queue, place_of
from zbroker.core.refusal import Refusal
from zbroker.core.rows import Change
from zbroker.core.state import State, Steps
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol.record import Header, encode_header, header_of, payload_of, stored_bytes

RETAIN_MS = 1_000
"""How often queues that keep dead jobs for a time are looked at; what is too many goes at once."""

MOVED_TEXT_CHARS = 200
"""Of the last error, in the headers of a job that came from another queue."""

Way = tuple[JobState, Event, int]
"""Where a job comes from, how, and what it takes among those that wait (0 for one that was leased)."""


# ---- how one gets there


def bury(state: State, queue: Queue, identifier: bytes, record: bytes, change: Change, reason: str, way: Way) -> None:
    """Dead: it stays, with the reason, until it is replayed or dropped; or it goes to the queue that gets such jobs."""
    header = header_of(record)
    unique.release(state, queue.name, identifier, header.options, ran=way[0] is JobState.LEASED)
    moves = bool(queue.policy.dead_to) and queue.policy.dead_to != queue.name
    edges.over(state, identifier, header.options, change, edges.DEAD, moves=moves)
    ended_ms = max(state.wall, queue.dies_from)
    change = change._replace(reason=reason, ended_ms=ended_ms)
    cause = cause_of(change)
    if moves:
        cause["moved_to"] = queue.policy.dead_to
        _move(state, queue, identifier, record, change, way)
    else:
        state.write_change(identifier, change._replace(state=JobState.DEAD))
        state.tick.rows["dead"][rows.dead_key(queue.name, ended_ms, identifier)] = reason.encode()
        state.move(queue, *way[:2], 1, way[2])
        if queue.policy.keep_dead_ms or queue.policy.keep_dead_count:
            state.retain_at = min(state.retain_at, state.wall)
    history.tell(state, identifier, JobState.DEAD, None, cause)
    state.notice("warning", "job dead", job=identifier.decode(), queue=queue.name, reason=reason, attempts=change.runs)


def cause_of(change: Change) -> dict[str, Any]:
    """What FINISHED says of a dead job."""
    error = change.attempts[-1].error if change.attempts else {}
    return {"reason": change.reason, "error": error, "attempts": change.runs}


def _move(state: State, queue: Queue, identifier: bytes, record: bytes, change: Change, way: Way) -> None:
    """The job goes on under its id in the queue for dead jobs, with new attempts; its headers say where from and why.

    Its log of attempts and its batch come along; its parents do not, and children that wait for a replay wait there.
    The limits of that queue do not hold for it: it was accepted long ago.
    """
    target = state.queue(queue.policy.dead_to)
    header = header_of(record)
    error = change.attempts[-1].error if change.attempts else {}
    told = {
        "dead_queue": queue.name,
        "dead_reason": change.reason,
        "dead_error": ": ".join(str(error[part]) for part in ("type", "text") if error.get(part))[:MOVED_TEXT_CHARS],
        "dead_attempts": change.runs,
    }
    kept: dict[str, Any] = {
        name: header.options[name] for name in ("priority", "key", "batch") if name in header.options
    }
    options: dict[str, Any] = {**kept, "headers": {**header.options.get("headers", {}), **told}}
    moved_header = Header(target.name, header.created_ms, options, header.external)
    edges.leave_parents(state, identifier, header.options)
    first = target.sequences(1)
    moved = encode_header(moved_header) + rows.number8(first) + payload_of(record)
    state.tick.rows["jobs"][identifier] = moved
    state.write_change(identifier, _anew(change, first))
    state.move(queue, way[0], Event.MOVE, 1, way[2])
    state.move(target, None, Event.PUT, 1, stored_bytes(moved))
    target.ring.add(place_of(moved_header), first, [identifier], state.tick)
    state.hot[target] = None


def is_moved(header: Header) -> bool:
    """Whether the job died in its own queue, and goes on in the one for dead jobs."""
    return "dead_queue" in header.options.get("headers", ())


def cause_of_move(header: Header) -> dict[str, Any]:
    """What FINISHED says of a job that died and was moved, as far as its headers tell it."""
    headers = header.options["headers"]
    error = headers.get("dead_error")
    return {
        "reason": headers.get("dead_reason", ""),
        "error": {"text": error} if error else {},
        "attempts": headers.get("dead_attempts", 0),
        "moved_to": header.queue,
    }


def _anew(change: Change, sequence: int) -> Change:
    """A dead job as a ready one in a new place, with all its attempts before it."""
    return change._replace(
        state=JobState.READY,
        sequence=sequence,
        runs=0,
        losses=0,
        losses_alone=0,
        reason="",
        ended_ms=0,
        due_ms=0,
        pending=0,
        cancel=False,
        unexpiring=True,
    )


# ---- how one leaves


def replay_one(state: State, identifier: bytes) -> bool:
    """A dead job becomes ready at the end of its lane, or blocked if it still waits for parents; false if it is not
    dead, or another has its unique text."""
    found = state.find(identifier)
    if found is None or found.state is not JobState.DEAD or found.change is None:
        return False
    queue, change, options = found.queue, found.change, found.header.options
    if "unique" in options:
        if unique.holder(state, queue.name, options["unique"]) not in (None, identifier):
            return False
        unique.claim(state, queue.name, identifier, options)
    state.tick.rows["dead"][rows.dead_key(queue.name, change.ended_ms, identifier)] = None
    batches.replayed(state, options, identifier)
    pending = edges.wait_again(state, found)
    if pending:
        state.write_change(identifier, _anew(change, 0)._replace(state=JobState.BLOCKED, pending=pending))
        state.move(queue, JobState.DEAD, Event.REPLAY_BLOCKED, 1, stored_bytes(found.record))
        return True
    first = queue.sequences(1)
    state.write_change(identifier, _anew(change, first))
    state.move(queue, JobState.DEAD, Event.REPLAY, 1, stored_bytes(found.record))
    queue.ring.add(found.place, first, [identifier], state.tick)
    state.hot[queue] = None
    return True


def newest_ms(state: State, queue: Queue) -> int:
    """The latest time at which a dead job of the queue died, by the wall clock of then: it may have been set back."""
    prefix = rows.queue_prefix(queue.name)
    newest = next(state.view.scan("dead", prefix, rows.beyond(prefix), backwards=True), None)
    return rows.split_dead_key(newest[0])[1] if newest is not None else 0


def refuse_replay(state: State, ids: list[bytes]) -> None:
    """Raises `Refusal` if another job has taken the unique text of one of these dead ones, or two of them have one."""
    wanted: dict[tuple[str, str], bytes] = {}
    for identifier in ids:
        found = state.find(identifier)
        text = found.header.options.get("unique") if found is not None else None
        if found is None or text is None:
            continue
        other = unique.holder(state, found.queue.name, text) or identifier
        other = wanted.setdefault((found.queue.name, text), other)
        if other != identifier:
            told = other.decode()
            raise Refusal("conflict", f"job {told!r} has the unique text {text!r} of {identifier.decode()!r}", id=told)


def drop_one(state: State, identifier: bytes) -> bool:
    """Nothing of a dead job is kept; false if it is not dead."""
    found = state.find(identifier)
    if found is None or found.state is not JobState.DEAD or found.change is None:
        return False
    state.tick.rows["dead"][rows.dead_key(found.queue.name, found.change.ended_ms, identifier)] = None
    unique.release(state, found.queue.name, identifier, found.header.options, ran=True)
    edges.over(state, identifier, found.header.options, found.change, edges.GONE)
    state.erase(identifier, changed=True, external=found.header.external)
    state.move(found.queue, JobState.DEAD, Event.DROP)
    return True


# ---- how long they are kept


def retain(state: State) -> None:
    """Begin to drop dead jobs beyond what their queues keep, when it is time."""
    if state.wall >= state.retain_at and not state.retaining:
        state.retaining = True
        state.retain_at = NEVER
        state.work(_retain_all(state))


def _retain_all(state: State) -> Steps:
    """Slow work: one queue after the other, so that many of them, or much in one, hold up nobody."""
    left = limits.STEP_ROWS
    for queue in list(state.queues.values()):
        is_through = False
        while not is_through and queue.counts.jobs[JobState.DEAD]:
            if not (queue.policy.keep_dead_ms or queue.policy.keep_dead_count):
                break
            seen = _retain_of(state, queue, left)
            is_through = seen < left
            left -= seen
            if not left:
                yield None
                left = limits.STEP_ROWS
    state.retaining = False


def _retain_of(state: State, queue: Queue, most: int) -> int:
    """Drop of one queue what is too old or too much, the oldest first; how many were looked at."""
    policy = queue.policy
    prefix = rows.queue_prefix(queue.name)
    surplus = queue.counts.jobs[JobState.DEAD] - policy.keep_dead_count if policy.keep_dead_count else 0
    seen = 0
    for key, _ in list(islice(state.view.scan("dead", prefix, rows.beyond(prefix)), most)):
        _, ended_ms, identifier = rows.split_dead_key(key)
        seen += 1
        is_old = policy.keep_dead_ms and ended_ms + policy.keep_dead_ms <= state.wall
        if not is_old and surplus <= 0:
            if policy.keep_dead_ms:
                state.retain_at = min(state.retain_at, max(ended_ms + policy.keep_dead_ms, state.wall + RETAIN_MS))
            break
        if not drop_one(state, identifier):
            state.tick.rows["dead"][key] = None
        surplus -= 1
    return seen


# ---- what they died of


class Group:
    """Dead jobs of one queue that died of the same."""

    __slots__ = ("example", "first_ms", "jobs", "last_ms")

    def __init__(self, ended_ms: int, example: bytes) -> None:
        self.jobs = 0
        self.first_ms = ended_ms
        self.last_ms = ended_ms
        self.example = example


Died = tuple[str, str, str, str]
"""Queue, reason, type of the last error, its first line."""


def died_of(change: Change) -> tuple[str, str, str]:
    """Reason, type of the last error, and the first line of its text."""
    error = change.attempts[-1].error if change.attempts else {}
    return change.reason, str(error.get("type", "")), str(error.get("text", "")).partition("\n")[0][:MOVED_TEXT_CHARS]


def is_of(change: Change, reason: str, error: str) -> bool:
    """Whether a dead job died of this reason and this type of error; an empty one says nothing."""
    return is_same(change.reason, change.attempts[-1].error if change.attempts else None, reason, error)


def is_same(died_of: str, last_error: dict[str, Any] | None, reason: str, error: str) -> bool:
    """The same for a reason and an error map."""
    return reason in ("", died_of) and error in ("", (last_error or {}).get("type", ""))


def grouped(state: State, queue: str | None, groups: dict[Died, Group]) -> Steps:
    """Slow work: sort all dead jobs, of one queue or of all, by what they died of. The least common are left out where
    there are too many."""
    start = rows.queue_prefix(queue) if queue else b""
    stop = rows.beyond(start) if queue else b"\xff"
    while page := list(islice(state.view.scan("dead", start, stop), limits.STEP_ROWS)):
        start = page[-1][0] + b"\0"
        split = [rows.split_dead_key(key) for key, _ in page]
        for (name, ended_ms, _), (identifier, record, change) in zip(
            split, state.read([identifier for _, _, identifier in split]), strict=True
        ):
            if record is None or change is None or change.state is not JobState.DEAD:
                continue
            group = groups.setdefault((name, *died_of(change)), Group(ended_ms, identifier))
            group.jobs += 1
            group.last_ms = ended_ms
        if len(groups) > limits.MAX_GROUPS:
            for died in sorted(groups, key=lambda died: groups[died].jobs)[: len(groups) - limits.MAX_GROUPS]:
                del groups[died]
        yield None


def chain_fault(state: State, name: str, target: str) -> str | None:
    """Why dead jobs of the queue ``name`` cannot go to ``target``: they would come back.

    The queue that gets the dead jobs of all, by the broker's own setting, keeps its own.
    """
    seen = {name}
    while target:
        if target in seen:
            return f"dead_to: dead jobs of {name} would come back to {target}"
        seen.add(target)
        known = state.queues.get(target)
        following = known.policy.dead_to if known is not None else state.policy(target, {}).dead_to
        target = following if following != target else ""
    return None
