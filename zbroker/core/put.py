"""Jobs come in: judge a PUT as a whole, then store it as a whole, once."""

from itertools import repeat
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core import batches, edges, history, rows, unique, waiting
from zbroker.core.entities import Queue
from zbroker.core.policy import Options, QueuePolicy
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zbroker.core.states import WAITING, Event
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Group, Put
from zclient.protocol.options import job_fault
from zclient.protocol.record import SEQUENCE_BYTES, Header, encode_header, header_of, payload_of, stored_bytes

RETRY_MS = 200
"""When a producer that met a full queue may try again."""


class Plan(NamedTuple):
    """A group's options, judged."""

    rank: int
    key: bytes
    due_ms: int  # 0: at once
    expires_ms: int  # 0: never
    kept: dict[str, Any]  # what the record's header keeps


Instead = list[tuple[bytes, bytes]]
"""Ids that were sent and not stored, each with the job that has their unique text."""


def put(state: State, message: Put, *, own_batch: bytes | None = None) -> dict[str, Instead] | None:
    """Store every job of the PUT in this tick; raises `Refusal` and stores none. Returns what is no plain OK.

    ``own_batch``: the batch of the job whose handler sends these; it may add to that one.
    """
    return put_judged(state, message.groups, judge(state, message.groups), own_batch=own_batch)


def put_judged(
    state: State, given: list[Group], plans: list[Plan], *, own_batch: bytes | None = None
) -> dict[str, Instead] | None:
    """The same for groups that were judged one by one, and are together not too many."""
    known = existing(state, given)
    groups = [without(group, known) for group in given] if known else given
    refuse_if_full(state, groups, plans)
    for group, plan in zip(groups, plans, strict=True):
        if "batch" in plan.kept and group.ids:
            batches.judge(state, plan.kept["batch"], own_batch)
    order: list[int] | range = range(len(groups))
    if any("after" in plan.kept for plan in plans):
        order = edges.judge(state, given, [bool(group.ids) for group in groups])
    instead: Instead = []
    for group, plan in ((groups[place], plans[place]) for place in order):
        if "unique" in plan.kept and group.ids:
            group = store_unique(state, group, instead)
        if group.ids:
            store(state, group, plan)
            if "batch" in plan.kept:
                batches.join(state, plan.kept["batch"], group.ids)
    return {"instead": instead} if instead else None


# ---- judging


def refuse_for_now(state: State) -> None:
    """Raises `Refusal` if nothing can be stored now."""
    if state.disk_low:
        raise Refusal("disk_full", "the broker's disk is below its floor of free space", retry_after_ms=1000)
    if not state.history.complete:
        raise Refusal("busy", "the broker is still reading which jobs are finished", retry_after_ms=200)


def judge(state: State, groups: list[Group]) -> list[Plan]:
    refuse_for_now(state)
    jobs = sum(len(group.ids) for group in groups)
    if jobs > wire.MAX_BATCH_JOBS:
        raise Refusal("batch_too_large", f"{jobs} jobs in one batch; at most {wire.MAX_BATCH_JOBS}")
    largest = max(max(map(len, group.payloads)) for group in groups)
    if largest > state.settings.max_payload:
        raise Refusal(
            "too_large",
            f"a payload of {largest} bytes; at most {state.settings.max_payload}",
            limit=state.settings.max_payload,
        )
    if largest * jobs > wire.MAX_BATCH_BYTES:
        size = sum(sum(map(len, group.payloads)) for group in groups)
        if size > wire.MAX_BATCH_BYTES:
            raise Refusal("batch_too_large", f"{size} payload bytes in one batch; at most {wire.MAX_BATCH_BYTES}")
    if jobs > 1 and len({identifier for group in groups for identifier in group.ids}) != jobs:
        raise Refusal("invalid", "the same id stands twice in one batch")
    return [judge_group(state, group) for group in groups]


_PLAIN = Plan(rows.rank_of(0), b"", 0, 0, {})


def judge_group(state: State, group: Group, *, closed: bool = False) -> Plan:
    """The options of a group, judged; raises `Refusal`. ``closed``: a queue that takes no new jobs now is no fault."""
    policy = judge_queue(state, group.queue, closed=closed)
    if not b"".join(group.ids).isalnum():  # not of the client's own making: look closer
        for identifier in group.ids:
            fault = wire.id_fault(identifier)
            if fault:
                raise Refusal("invalid", fault)
    return judge_options(state, group.options, policy)


def judge_queue(state: State, name: str, *, closed: bool = False) -> QueuePolicy:
    """What a queue that takes jobs says of them; raises `Refusal` if it takes none, or there can be none."""
    queue = state.queues.get(name)
    if queue is None:
        refuse_new_queue(state, name)
        return state.policy(name, {})
    if queue.closed and not closed:
        raise Refusal("closed", f"queue {name} takes no new jobs: it is being drained")
    return queue.policy


def judge_options(state: State, options: Options, policy: QueuePolicy) -> Plan:
    """The options of jobs for a queue with this policy, judged; raises `Refusal`."""
    if not options:
        return _PLAIN._replace(expires_ms=state.wall + policy.ttl_ms) if policy.ttl_ms else _PLAIN
    fault = job_fault(options)
    if fault:
        raise Refusal("invalid", fault)
    headers = options.get("headers")
    if headers and len(rows.pack(headers)) > wire.MAX_HEADERS_BYTES:
        raise Refusal("too_large", f"headers take at most {wire.MAX_HEADERS_BYTES} bytes, encoded")
    due_ms = _due(state, options)
    ttl_ms = options.get("ttl", policy.ttl_ms)
    return Plan(
        rows.rank_of(options.get("priority", 0)),
        options.get("key", "").encode(),
        due_ms,
        (due_ms or state.wall) + ttl_ms if ttl_ms else 0,
        _kept(options),
    )


def _due(state: State, options: Options) -> int:
    """When the job may first run (wall clock); 0 for at once."""
    due_ms = int(options.get("at", 0))
    if options.get("delay"):
        due_ms = state.wall + options["delay"]
    if due_ms > state.wall + wire.MAX_DELAY_MS:
        raise Refusal("invalid", "a job can wait ten years at most")
    return due_ms if due_ms > state.wall else 0


def _kept(options: Options) -> dict[str, Any]:
    """The options that say something of the job beyond its arrival."""
    return {name: value for name, value in options.items() if name not in ("delay", "at")}


def refuse_new_queue(state: State, name: str) -> None:
    """Raises `Refusal` if there can be no queue of this name, or no more of them."""
    fault = wire.queue_name_fault(name)
    if fault:
        raise Refusal("invalid", fault)
    if len(state.queues) >= limits.MAX_QUEUES:
        raise Refusal("too_many_queues", f"the broker has {len(state.queues)} queues, as many as it may")


Coming = dict[str, tuple[int, int]]
"""By how many jobs and bytes queues with a limit will grow."""


def refuse_if_full(state: State, groups: list[Group], plans: list[Plan], before: Coming | None = None) -> Coming:
    """Raises `Refusal` if these jobs would bring a queue above its limits, together with those that came ``before``
    and are not stored yet; returns by how much all of them are more."""
    coming: Coming = dict(before or {})
    for group, plan in zip(groups, plans, strict=True):
        queue = state.queues.get(group.queue)
        policy = queue.policy if queue is not None else state.policy(group.queue, {})
        if not (policy.max_jobs or policy.max_bytes) or not group.ids:
            continue
        more, larger = _growth(state, group, plan)
        if not more and larger <= 0:
            continue
        jobs, size = coming.get(group.queue, (0, 0))
        coming[group.queue] = jobs + more, size + larger
    for name, (jobs, size) in coming.items():
        queue = state.queues.get(name)
        policy = queue.policy if queue is not None else state.policy(name, {})
        waiting_jobs = queue.counts.waiting_jobs if queue is not None else 0
        waiting_bytes = queue.counts.waiting_bytes if queue is not None else 0
        if policy.max_jobs and waiting_jobs + jobs > policy.max_jobs:
            raise _full(name, "jobs", waiting_jobs, jobs, policy.max_jobs)
        if policy.max_bytes and waiting_bytes + size > policy.max_bytes:
            raise _full(name, "bytes", waiting_bytes, size, policy.max_bytes)
    return coming


def _full(queue: str, what: str, there: int, coming: int, most: int) -> Refusal:
    """Why the jobs do not fit. If they never will, since they alone are too much, nothing is said of trying again."""
    if coming > most:
        text = f"{coming} {what} at once are more than may wait in queue {queue} (max_{what} {most})"
        return Refusal("queue_full", text, **{f"max_{what}": most})
    text = f"{there} {what} wait in queue {queue}, and {coming} more would be above max_{what} {most}"
    return Refusal("queue_full", text, retry_after_ms=RETRY_MS)


def _growth(state: State, group: Group, plan: Plan) -> tuple[int, int]:
    """By how many jobs and bytes a group makes its queue longer. Of jobs with one unique text at most one is stored:
    none if another job has the text, or in the place of that one if it waits."""
    header = Header(group.queue, state.wall, plan.kept, external=False, expires_ms=plan.expires_ms)
    beside = len(encode_header(header)) + SEQUENCE_BYTES  # what a record has beside its payload
    sizes = [beside + len(payload) + (8 if len(payload) >= wire.LARGE_BYTES else 0) for payload in group.payloads]
    if "unique" not in group.options:
        return len(sizes), sum(sizes)
    text, is_first = group.options["unique"], group.options.get("on_conflict", "existing") == "existing"
    if is_first and unique.holder(state, group.queue, text):
        return 0, 0
    size = sizes[0 if is_first else -1]
    found = unique.holding(state, group.queue, text)
    if found is not None and found.state in WAITING:
        return 0, size - stored_bytes(found.record)
    return 1, size


# ---- the same id again


def existing(state: State, groups: list[Group]) -> set[bytes]:
    """Ids of the PUT whose jobs exist already and are the same; `Refusal` if one differs."""
    known: set[bytes] = set()
    for group in groups:
        records = state.view.get_many("jobs", group.ids)
        if not any(records) and state.history.block_of.keys().isdisjoint(group.ids):
            continue  # all of them new, as nearly always: a record is never empty
        for identifier, payload, record in zip(group.ids, group.payloads, records, strict=True):
            if record is None:
                ended = history.find(state, identifier)
                if ended is not None:
                    told = rows.digest(group.queue, _kept(group.options), payload)
                    if ended.row.queue != group.queue or ended.row.digests.get(identifier, told) != told:
                        raise _other_job(identifier)
                    known.add(identifier)
                continue
            found = state.find(identifier)
            if found is None:  # void: a purge took it and the sweep has not come there yet
                header = header_of(record)
                unique.release(state, header.queue, identifier, header.options)
                edges.over(state, identifier, header.options, state.change_of(identifier), edges.GONE)
                state.erase(identifier, changed=True, external=True)
                history.tell(state, identifier, JobState.CANCELLED, None, {"reason": "purged"})
                continue
            before = state.view.get("payloads", identifier) if found.header.external else payload_of(record)
            if (found.header.queue, found.header.options, before) != (group.queue, _kept(group.options), payload):
                raise _other_job(identifier)
            known.add(identifier)
    return known


def _other_job(identifier: bytes) -> Refusal:
    return Refusal("duplicate_id", f"another job has the id {identifier.decode()!r}", id=identifier.decode())


def without(group: Group, known: set[bytes]) -> Group:
    kept = [
        (identifier, payload)
        for identifier, payload in zip(group.ids, group.payloads, strict=True)
        if identifier not in known
    ]
    return group._replace(ids=[identifier for identifier, _ in kept], payloads=[payload for _, payload in kept])


# ---- unique texts


def store_unique(state: State, group: Group, instead: Instead) -> Group:
    """What is to be stored of a group whose jobs all want the same unique text: one of them, or none.

    The others are that job, or the one that has the text already.
    """
    options = group.options
    text, conflict = options["unique"], options.get("on_conflict", "existing")
    other = unique.holder(state, group.queue, text)
    if conflict == "existing" and other is not None:
        instead += [(identifier, other) for identifier in group.ids]
        return group._replace(ids=[], payloads=[])
    place = 0 if conflict == "existing" else len(group.ids) - 1
    chosen = group.ids[place]
    replaced = unique.holding(state, group.queue, text) if other is not None else None
    if replaced is not None:
        waiting.replace(state, replaced, chosen, running=conflict == "replace")
    instead += [(identifier, chosen) for identifier in group.ids if identifier != chosen]
    unique.claim(state, group.queue, chosen, options)
    return group._replace(ids=[chosen], payloads=[group.payloads[place]])


# ---- storing


def store(state: State, group: Group, plan: Plan) -> None:
    """Write the rows of a group. Large payloads get rows of their own and so a header of their own."""
    queue = state.queue(group.queue)
    if max(map(len, group.payloads)) < wire.LARGE_BYTES:
        _store_alike(state, queue, group.ids, group.payloads, plan, external=False)
        return
    start = 0
    sizes = [len(payload) >= wire.LARGE_BYTES for payload in group.payloads]
    for position in range(1, len(sizes) + 1):  # runs of alike jobs, so that their order stays
        if position == len(sizes) or sizes[position] != sizes[start]:
            part = slice(start, position)
            _store_alike(state, queue, group.ids[part], group.payloads[part], plan, external=sizes[start])
            start = position


def _store_alike(
    state: State, queue: Queue, ids: list[bytes], payloads: list[bytes], plan: Plan, *, external: bool
) -> None:
    header = Header(queue.name, state.wall, plan.kept, external, plan.expires_ms)
    prefix = encode_header(header)
    jobs = state.tick.rows["jobs"]
    size = 0
    if external:
        state.tick.rows["payloads"].update(zip(ids, payloads, strict=True))
        size = sum(map(len, payloads))
        payloads = [len(payload).to_bytes(8, "big") for payload in payloads]
    after = "after" in plan.kept
    first = 0 if plan.due_ms or after else queue.sequences(len(ids))
    sequences = range(first, first + len(ids)) if first else (0,) * len(ids)
    records = [
        b"".join((prefix, sequence.to_bytes(8, "big"), payload)) for sequence, payload in zip(sequences, payloads)
    ]
    stored = sum(map(len, records))
    jobs.update(zip(ids, records, strict=True))
    if plan.expires_ms:
        _store_timers(state, queue, ids, plan, plan.expires_ms, rows.TIMER_EXPIRY)
    if after:
        state.move(queue, None, Event.PUT_BLOCKED, len(ids), stored + size)
        edges.block(state, queue, ids, plan.kept, plan.due_ms)
        return
    if plan.due_ms:
        change = rows.encode_change(rows.Change(JobState.SCHEDULED, 0, due_ms=plan.due_ms))
        state.tick.rows["changes"].update(dict.fromkeys(ids, change))
        _store_timers(state, queue, ids, plan, plan.due_ms, rows.TIMER_READY)
        state.move(queue, None, Event.PUT_LATER, len(ids), stored + size)
        return
    kept = queue.ring.add((plan.rank, plan.key), first, ids, state.tick)
    if kept and state.fresh_bytes < state.settings.fresh_bytes:
        state.fresh.update(zip(ids, zip(records, repeat(header), sequences)))
        state.fresh_bytes += stored
    state.move(queue, None, Event.PUT, len(ids), stored + size)
    state.hot[queue] = None


def _store_timers(state: State, queue: Queue, ids: list[bytes], plan: Plan, due_ms: int, kind: int) -> None:
    for start in range(0, len(ids), limits.BLOCK_JOBS):
        part = ids[start : start + limits.BLOCK_JOBS]
        state.add_timer(due_ms, rows.TimerRow(queue.name, plan.rank, plan.key, 0, part), kind)
