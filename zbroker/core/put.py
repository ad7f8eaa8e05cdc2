"""Jobs come in: judge a PUT as a whole, then store it as a whole, once."""

from typing import Any, NamedTuple

from zbroker import limits
from zbroker.core import history, rows
from zbroker.core.state import Peer, Queue, State
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Group, Put
from zclient.protocol.record import Header, encode_header, payload_of


class Refusal(Exception):
    """The peer asked for what cannot be: answered with FAILURE, nothing done."""

    def __init__(self, code: str, text: str, **details: Any) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.details = details


class Plan(NamedTuple):
    """A group's options, judged."""

    rank: int
    key: bytes
    due_ms: int  # 0: at once
    kept: dict[str, Any]  # what the record's header keeps


def put(state: State, peer: Peer, message: Put) -> None:
    """Store every job of the PUT in this tick; raises `Refusal` and stores none."""
    plans = judge(state, message.groups)
    known = existing(state, message.groups)
    for group, plan in zip(message.groups, plans, strict=True):
        group = without(group, known) if known else group
        if group.ids:
            store(state, group, plan)


# ---- judging


def judge(state: State, groups: list[Group]) -> list[Plan]:
    if state.disk_low:
        raise Refusal("disk_full", "the broker's disk is below its floor of free space", retry_after_ms=1000)
    if not state.history.complete:
        raise Refusal("busy", "the broker is still reading which jobs are finished", retry_after_ms=200)
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
    return [_plan(state, group) for group in groups]


_PLAIN = Plan(rows.rank_of(0), b"", 0, {})


def _plan(state: State, group: Group) -> Plan:
    if group.queue not in state.queues:
        fault = wire.queue_name_fault(group.queue)
        if fault:
            raise Refusal("invalid", fault)
        if len(state.queues) >= limits.MAX_QUEUES:
            raise Refusal("too_many_queues", f"the broker has {len(state.queues)} queues, as many as it may")
    if not b"".join(group.ids).isalnum():  # not of the client's own making: look closer
        for identifier in group.ids:
            fault = wire.id_fault(identifier)
            if fault:
                raise Refusal("invalid", fault)
    options = group.options
    if not options:
        return _PLAIN
    unknown = options.keys() - _OPTIONS.keys()
    if unknown:
        raise Refusal("invalid", f"unknown option {sorted(map(str, unknown))[0]!r}")
    for name, value in options.items():
        fault = _OPTIONS[name](value)
        if fault:
            raise Refusal("invalid", f"{name}: {fault}")
    if "delay" in options and "at" in options:
        raise Refusal("invalid", "delay and at exclude each other")
    due_ms = 0
    if "delay" in options:
        due_ms = state.wall + options["delay"] if options["delay"] else 0
    elif "at" in options:
        due_ms = options["at"] if options["at"] > state.wall else 0
    if due_ms > state.wall + wire.MAX_DELAY_MS:
        raise Refusal("invalid", "a job can wait ten years at most")
    headers = options.get("headers")
    if headers and len(rows.pack(headers)) > wire.MAX_HEADERS_BYTES:
        raise Refusal("too_large", f"headers take at most {wire.MAX_HEADERS_BYTES} bytes, encoded")
    kept = {name: value for name, value in options.items() if name not in ("delay", "at")}
    return Plan(rows.rank_of(options.get("priority", 0)), options.get("key", "").encode(), due_ms, kept)


def _whole(low: int, high: int, value: Any) -> str | None:
    if type(value) is int and low <= value <= high:
        return None
    return f"an integer from {low} to {high}, not {value!r:.40}"


def _key_fault(value: Any) -> str | None:
    if type(value) is not str or "\0" in value or len(value.encode()) > wire.MAX_KEY_BYTES:
        return f"text of at most {wire.MAX_KEY_BYTES} bytes without NUL"
    return None


def _headers_fault(value: Any) -> str | None:
    if type(value) is not dict:
        return "a map"
    for name, entry in value.items():
        if type(name) is not str or type(entry) not in (str, int, float, bool):
            return f"names are text, values text, numbers or booleans: {name!r:.40}"
    return None


_OPTIONS = {
    "priority": lambda value: _whole(wire.MIN_PRIORITY, wire.MAX_PRIORITY, value),
    "key": _key_fault,
    "delay": lambda value: _whole(0, wire.MAX_DELAY_MS, value),
    "at": lambda value: _whole(0, 1 << 53, value),
    "max_attempts": lambda value: _whole(1, wire.MAX_ATTEMPTS, value),
    "headers": _headers_fault,
}


# ---- the same id again


def existing(state: State, groups: list[Group]) -> set[bytes]:
    """Ids of the PUT whose jobs exist already and are the same; `Refusal` if one differs."""
    known: set[bytes] = set()
    for group in groups:
        for identifier, payload, record in zip(
            group.ids, group.payloads, state.view.get_many("jobs", group.ids), strict=True
        ):
            if record is None:
                if history.holds(state, identifier):
                    known.add(identifier)
                continue
            found = state.find(identifier)
            if found is None:  # void: a purge took it and the sweep has not come there yet
                state.erase(identifier, changed=True, external=True)
                history.tell(state, identifier, JobState.CANCELLED, None, {"reason": "purged"})
                continue
            options = {name: value for name, value in group.options.items() if name not in ("delay", "at")}
            before = state.view.get("payloads", identifier) if found.header.external else payload_of(record)
            if (found.header.queue, found.header.options, before) != (group.queue, options, payload):
                raise Refusal("duplicate_id", f"another job has the id {identifier.decode()!r}", id=identifier.decode())
            known.add(identifier)
    return known


def without(group: Group, known: set[bytes]) -> Group:
    kept = [
        (identifier, payload)
        for identifier, payload in zip(group.ids, group.payloads, strict=True)
        if identifier not in known
    ]
    return group._replace(ids=[identifier for identifier, _ in kept], payloads=[payload for _, payload in kept])


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
    prefix = encode_header(Header(queue.name, state.wall, plan.kept, external))
    jobs = state.tick.rows["jobs"]
    if external:
        state.tick.rows["payloads"].update(zip(ids, payloads, strict=True))
        payloads = [b""] * len(ids)
    if plan.due_ms:
        for identifier, payload in zip(ids, payloads, strict=True):
            jobs[identifier] = b"%b%b%b" % (prefix, bytes(8), payload)
        _store_scheduled(state, queue, ids, plan)
        return
    first = queue.sequences(len(ids))
    kept = queue.ring.add((plan.rank, plan.key), first, ids, state.tick)
    records = [
        b"%b%b%b" % (prefix, sequence.to_bytes(8, "big"), payload) for sequence, payload in enumerate(payloads, first)
    ]
    arrived = dict(zip(ids, records, strict=True))
    jobs.update(arrived)
    if kept and state.fresh_bytes < state.settings.fresh_bytes:
        state.fresh.update(arrived)
        state.fresh_bytes += sum(map(len, records))
    state.move(queue, None, Event.PUT, len(ids))
    state.hot[queue] = None


def _store_scheduled(state: State, queue: Queue, ids: list[bytes], plan: Plan) -> None:
    change = rows.encode_change(rows.Change(JobState.SCHEDULED, 0, due_ms=plan.due_ms))
    state.tick.rows["changes"].update(dict.fromkeys(ids, change))
    for start in range(0, len(ids), limits.BLOCK_JOBS):
        part = ids[start : start + limits.BLOCK_JOBS]
        state.add_timer(plan.due_ms, rows.TimerRow(queue.name, plan.rank, plan.key, 0, part))
    state.move(queue, None, Event.PUT_LATER, len(ids))
