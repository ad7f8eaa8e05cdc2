"""Frames to messages and back. It checks shapes, so that what it returns can be used without another look.

A message is one msgpack array ``[command, field, ...]``; payloads and results of `LARGE_BYTES` and more stand behind it
as frames of their own, and the array holds their frame number instead. The first byte of a message tells the native
protocol from the others on the same port: a msgpack array begins with 0x90..0x9f.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from zclient.protocol import limits, plans
from zclient.protocol import messages as m
from zclient.protocol.shapes import MalformedMessage
from zclient.protocol.shapes import blobs as _blobs
from zclient.protocol.shapes import ids as _ids
from zclient.protocol.shapes import list_of as _list_of
from zclient.protocol.shapes import need as _need
from zclient.protocol.shapes import number as _number
from zclient.protocol.shapes import spill as _spill
from zclient.protocol.shapes import typed as _typed

__all__ = ["MalformedMessage", "decode", "encode", "is_native"]

_COMMANDS: dict[type, int] = {
    m.Hello: 1,
    m.Goodbye: 2,
    m.Put: 3,
    m.Settle: 4,
    m.Renew: 5,
    m.Capacity: 6,
    m.Extend: 7,
    m.Watch: 8,
    m.Unwatch: 9,
    m.Ask: 10,
    m.Order: 11,
    m.Progress: 12,
    m.Workflow: 13,
    m.Publish: 14,
    m.Tail: 15,
    m.Read: 16,
    m.Partial: 17,
    m.Welcome: 64,
    m.Who: 65,
    m.Ok: 66,
    m.Answer: 67,
    m.Failure: 68,
    m.Deliver: 69,
    m.Finished: 70,
    m.Ping: 71,
    m.Lost: 72,
    m.Cancel: 73,
    m.Closing: 74,
    m.Changed: 75,
    m.Publications: 77,
    m.Part: 78,
    m.Flow: 79,
}


def is_native(first_frame: bytes) -> bool:
    """Whether a message that begins with this frame speaks the native protocol."""
    return bool(first_frame) and 0x90 <= first_frame[0] <= 0x9F


# ---- encoding


def encode(message: m.Message) -> list[bytes]:
    """The frames of a message, body first."""
    kind = type(message)
    command = _COMMANDS[kind]
    encoder = _ENCODERS.get(kind)
    if encoder is None:
        return [msgpack.packb((command, *message))]
    frames: list[bytes] = [b""]
    frames[0] = msgpack.packb((command, *encoder(message, frames)))
    return frames


def _encode_put(put: Any, frames: list[bytes]) -> Sequence[Any]:
    return put.number, put.low, _encode_groups(put.groups, frames)


def _encode_workflow(workflow: Any, frames: list[bytes]) -> Sequence[Any]:
    return (*workflow[:-1], _encode_groups(workflow.groups, frames))


def _encode_groups(groups: Sequence[m.Group], frames: list[bytes]) -> list[tuple[Any, ...]]:
    return [(queue, options, ids, _spill(payloads, frames)) for queue, options, ids, payloads in groups]


def _encode_settle(settle: Any, frames: list[bytes]) -> Sequence[Any]:
    settlements = [
        (fence, int(outcome), ids, values and _spill(values, frames))
        for fence, outcome, ids, values in settle.settlements
    ]
    sends = [
        (fence, identifier, _encode_groups(groups, frames), _encode_payloads(publications, frames))
        for fence, identifier, groups, publications in settle.sends
    ]
    return settle.number, settlements, sends


def _encode_deliver(deliver: Any, frames: list[bytes]) -> Sequence[Any]:
    large = {}
    for position, payload in deliver.large.items():
        large[position] = len(frames)
        frames.append(payload)
    return (*deliver[:6], large)


def _encode_finished(finished: Any, frames: list[bytes]) -> Sequence[Any]:
    results = _spill([end[2] for end in finished.ends], frames)
    return ([(end[0], end[1], result, end[3]) for end, result in zip(finished.ends, results, strict=True)],)


def _encode_publish(publish: Any, frames: list[bytes]) -> Sequence[Any]:
    return publish.number, publish.low, _encode_payloads(publish.publications, frames)


def _encode_publications(told: Any, frames: list[bytes]) -> Sequence[Any]:
    return told.tail, told.position, _encode_payloads(told.publications, frames)


def _encode_payloads(rows: Sequence[Any], frames: list[bytes]) -> list[Any]:
    """Rows whose last field is a payload."""
    payloads = _spill([row[-1] for row in rows], frames)
    return [(*row[:-1], payload) for row, payload in zip(rows, payloads, strict=True)]


def _encode_partials(partials: Any, frames: list[bytes]) -> Sequence[Any]:
    """A PARTIAL or a PART: their last fields are the same."""
    return (*partials[:3], _spill(partials.values, frames), partials.last)


_ENCODERS: dict[type, Callable[[Any, list[bytes]], Sequence[Any]]] = {
    m.Publish: _encode_publish,
    m.Publications: _encode_publications,
    m.Put: _encode_put,
    m.Workflow: _encode_workflow,
    m.Settle: _encode_settle,
    m.Partial: _encode_partials,
    m.Deliver: _encode_deliver,
    m.Finished: _encode_finished,
    m.Part: _encode_partials,
}


# ---- decoding

_NUMBERED = frozenset(
    _COMMANDS[kind] for kind in (m.Put, m.Settle, m.Extend, m.Ask, m.Order, m.Workflow, m.Publish, m.Tail)
)
"""Commands whose first field is the number that an answer names."""


def decode(frames: Sequence[bytes]) -> m.Message:
    """The message in these frames; `MalformedMessage` for whatever is not one."""
    number: int | None = None
    try:
        fields = msgpack.unpackb(frames[0], strict_map_key=False)
        command = fields[0]
        if command in _NUMBERED and type(fields[1]) is int and 0 <= fields[1] < 1 << 53:
            number = fields[1]
        decoder = _DECODERS.get(command)
        if decoder is None:
            raise MalformedMessage(f"no such command: {command!r:.40}")
        return decoder(fields, frames)
    except MalformedMessage as fault:
        fault.number = number
        raise
    except (ValueError, TypeError, LookupError, AttributeError, msgpack.exceptions.UnpackException) as error:
        raise MalformedMessage(f"not a message: {type(error).__name__}: {error}"[:200], number) from None


def _group(fields: Any, frames: Sequence[bytes]) -> m.Group:
    queue, options, ids, payloads = fields
    group = m.Group(
        _typed(queue, str, "queue"),
        _typed(options, dict, "options"),
        _ids(ids),
        _blobs(payloads, frames, optional=False),
    )
    _need(0 < len(group.ids) == len(group.payloads), "a group has at least one job, and one payload an id")
    return group


def _decode_put(fields: Any, frames: Sequence[bytes]) -> m.Put:
    _, number, low, groups = fields
    _need(type(groups) is list and len(groups) > 0, "a PUT has at least one group")
    return m.Put(_number(number, "number"), _number(low, "low"), [_group(group, frames) for group in groups])


def _decode_workflow(fields: Any, frames: Sequence[bytes]) -> m.Workflow:
    _, number, low, identifier, part, parts, plan, groups = fields
    fault = plans.workflow_id_fault(_typed(identifier, bytes, "id"))
    _need(fault is None, fault or "")
    _need(0 <= _number(part, "part") < _number(parts, "parts") <= limits.MAX_PARTS, "no such part")
    _need((type(plan) is dict) if part == 0 else plan is None, "part 0 has the plan, a map, and the others nil")
    _need(type(groups) is list and (len(groups) > 0 or part == 0), "a part has at least one group")
    told = [_group(group, frames) for group in groups]
    return m.Workflow(_number(number, "number"), _number(low, "low"), identifier, part, parts, plan, told)


def _settlement(fields: Any, frames: Sequence[bytes]) -> m.Settlement:
    fence, outcome, ids, values = fields
    _number(fence, "fence")
    _need(type(outcome) is int and m.Outcome.ACK <= outcome <= m.Outcome.SNOOZE, "no such outcome")
    _need(len(_ids(ids)) > 0, "a settlement names at least one job")
    if values is not None:
        _need(type(values) is list and len(values) == len(ids), "a settlement has one value an id, or none at all")
        if outcome == m.Outcome.ACK:
            _blobs(values, frames, optional=True)
        elif outcome == m.Outcome.SNOOZE:
            for value in values:
                _number(value, "a snooze")
        elif outcome == m.Outcome.RELEASE:
            _need(set(map(type, values)) <= {bool, type(None)}, "a release says whether the job was never started")
        else:
            _list_of(values, dict, "errors", limits.MAX_CAPACITY)
    _need(values is not None or outcome != m.Outcome.SNOOZE, "a snooze says how long")
    return m.Settlement(fence, outcome, ids, values)


def _decode_settle(fields: Any, frames: Sequence[bytes]) -> m.Settle:
    _, number, settlements, sends = fields
    _typed(settlements, list, "settlements")
    sent = [_sent(each, frames) for each in _list_of(sends, list, "sends", limits.MAX_BATCH_JOBS)]
    _need(len({(each.fence, each.id) for each in sent}) == len(sent), "what a job sends stands in one entry")
    return m.Settle(
        _number(number, "number"),
        [_settlement(settlement, frames) for settlement in settlements],
        sent,
    )


def _sent(fields: Any, frames: Sequence[bytes]) -> m.Sent:
    fence, identifier, groups, publications = fields
    _list_of(groups, list, "groups", limits.MAX_BATCH_JOBS)
    _list_of(publications, list, "publications", limits.MAX_BATCH_JOBS)
    _need(len(groups) + len(publications) > 0, "what a job sends has at least one group or publication")
    return m.Sent(
        _number(fence, "fence"),
        _ids([identifier])[0],
        [_group(group, frames) for group in groups],
        [_publication(row, frames) for row in publications],
    )


def _held(fields: Any) -> m.Held:
    fence, started, waiting = fields
    return m.Held(_number(fence, "fence"), _ids(started), _ids(waiting))


def _decode_hello(fields: Any, frames: Sequence[bytes]) -> m.Hello:
    _, version, incarnation, name, capacity, queues, held, resend_below, info, tasks = fields
    _need(
        type(incarnation) is bytes and len(incarnation) == limits.INCARNATION_BYTES,
        f"an incarnation is {limits.INCARNATION_BYTES} bytes",
    )
    _need(len(_typed(name, str, "name")) <= limits.MAX_NAME_CHARS, "the name is too long")
    _need(_number(capacity, "capacity") <= limits.MAX_CAPACITY, f"capacity is at most {limits.MAX_CAPACITY}")
    _list_of(queues, str, "queues", limits.MAX_QUEUES_PER_PEER)
    _need(len(msgpack.packb(_typed(info, dict, "info"))) <= limits.MAX_HEADERS_BYTES, "info is too long")
    for options in _typed(tasks, dict, "tasks").values():
        _typed(options, dict, "a task's options")
    _need(len(tasks) <= limits.MAX_QUEUES_PER_PEER, "there are more tasks than queues may be served")
    return m.Hello(
        _number(version, "version"),
        incarnation,
        name,
        capacity,
        queues,
        [_held(item) for item in _typed(held, list, "held")],
        _number(resend_below, "resend_below"),
        info,
        tasks,
    )


def _decode_renew(fields: Any, frames: Sequence[bytes]) -> m.Renew:
    return m.Renew([_number(fence, "fence") for fence in _list_of(fields[1], int, "fences", limits.MAX_CAPACITY)])


def _decode_capacity(fields: Any, frames: Sequence[bytes]) -> m.Capacity:
    _need(_number(fields[1], "capacity") <= limits.MAX_CAPACITY, f"capacity is at most {limits.MAX_CAPACITY}")
    return m.Capacity(fields[1])


def _decode_extend(fields: Any, frames: Sequence[bytes]) -> m.Extend:
    _, number, fence, identifier, duration_ms = fields
    return m.Extend(
        _number(number, "number"),
        _number(fence, "fence"),
        _ids([identifier])[0],
        _number(duration_ms, "duration"),
    )


def _decode_watch(fields: Any, frames: Sequence[bytes]) -> m.Watch:
    _, ids, changes = fields
    return m.Watch(_ids(ids, limits.MAX_BATCH_JOBS), _typed(changes, bool, "changes"))


def _decode_progress(fields: Any, frames: Sequence[bytes]) -> m.Progress:
    entries = []
    for fence, identifier, fraction, text in _list_of(fields[1], list, "entries", limits.MAX_ORDER_IDS):
        _need(fraction is None or (type(fraction) in (int, float) and 0 <= fraction <= 1), "a fraction is from 0 to 1")
        _need(len(_typed(text, str, "text")) <= limits.MAX_PROGRESS_CHARS, "the text is too long")
        entries.append((_number(fence, "fence"), _ids([identifier])[0], fraction, text))
    return m.Progress(entries)


def _decode_read(fields: Any, frames: Sequence[bytes]) -> m.Read:
    _, identifier, fence, have, upto, again = fields
    return m.Read(_ids([identifier])[0], _number(fence, "fence"), *_window(have, upto), _typed(again, bool, "again"))


def _decode_flow(fields: Any, frames: Sequence[bytes]) -> m.Flow:
    _, fence, identifier, have, upto, again = fields
    return m.Flow(_number(fence, "fence"), _ids([identifier])[0], *_window(have, upto), _typed(again, bool, "again"))


def _window(have: Any, upto: Any) -> tuple[int, int]:
    most = limits.MAX_STREAM_WINDOW
    _need(_number(have, "have") <= _number(upto, "upto") <= have + most, f"upto is from have to have + {most}")
    return have, upto


def _decode_partial(fields: Any, frames: Sequence[bytes]) -> m.Partial:
    _, fence, identifier, first, values, last = fields
    return m.Partial(_number(fence, "fence"), _ids([identifier])[0], *_partials(first, values, last, frames))


def _decode_part(fields: Any, frames: Sequence[bytes]) -> m.Part:
    _, identifier, fence, first, values, last = fields
    return m.Part(_ids([identifier])[0], _number(fence, "fence"), *_partials(first, values, last, frames))


def _partials(first: Any, values: Any, last: Any, frames: Sequence[bytes]) -> tuple[int, list[bytes], bool]:
    blobs = _blobs(values, frames, optional=False)
    _need(len(blobs) <= limits.MAX_STREAM_WINDOW, f"there are at most {limits.MAX_STREAM_WINDOW} partials in a message")
    return _number(first, "first"), blobs, _typed(last, bool, "last")


def _decode_ask(fields: Any, frames: Sequence[bytes]) -> m.Ask:
    _, number, verb, arguments = fields
    return m.Ask(_number(number, "number"), _typed(verb, str, "verb"), _typed(arguments, dict, "arguments"))


def _decode_order(fields: Any, frames: Sequence[bytes]) -> m.Order:
    _, number, low, verb, arguments = fields
    return m.Order(
        _number(number, "number"),
        _number(low, "low"),
        _typed(verb, str, "verb"),
        _typed(arguments, dict, "arguments"),
    )


def _decode_publish(fields: Any, frames: Sequence[bytes]) -> m.Publish:
    _, number, low, publications = fields
    told = _list_of(publications, list, "publications", limits.MAX_BATCH_JOBS)
    _need(len(told) > 0, "a PUBLISH has at least one publication")
    return m.Publish(_number(number, "number"), _number(low, "low"), [_publication(row, frames) for row in told])


def _publication(row: Any, frames: Sequence[bytes]) -> m.Publication:
    topic, options, identifier, payload = row
    return m.Publication(
        _typed(topic, str, "topic"),
        _typed(options, dict, "options"),
        _ids([identifier])[0],
        _blobs([payload], frames, optional=False)[0],
    )


def _decode_tail(fields: Any, frames: Sequence[bytes]) -> m.Tail:
    _, number, tail, pattern, filters, position, octets = fields
    return m.Tail(
        _number(number, "number"),
        _number(tail, "tail"),
        pattern if pattern is None else _typed(pattern, str, "pattern"),
        _typed(filters, list, "filters"),
        _number(position, "position"),
        _number(octets, "octets"),
    )


def _decode_publications(fields: Any, frames: Sequence[bytes]) -> m.Publications:
    _, tail, position, publications = fields
    told = _list_of(publications, list, "publications", limits.MAX_CAPACITY)
    return m.Publications(_number(tail, "tail"), _number(position, "position"), [_told(row, frames) for row in told])


def _told(row: Any, frames: Sequence[bytes]) -> m.Told:
    offset, *publication, at_ms, payload = row
    topic, options, identifier, payload = _publication((*publication, payload), frames)
    return m.Told(_number(offset, "offset"), topic, options, identifier, _number(at_ms, "time"), payload)


def _leases(value: Any) -> list[tuple[int, list[bytes]]]:
    return [(_number(fence, "fence"), _ids(ids)) for fence, ids in _typed(value, list, "leases")]


def _decode_welcome(fields: Any, frames: Sequence[bytes]) -> m.Welcome:
    _, version, broker, epoch, told, lost = fields
    for name, most in _typed(told, dict, "limits").items():
        _typed(name, str, "the name of a limit")
        _number(most, name)
    return m.Welcome(
        _number(version, "version"),
        _typed(broker, bytes, "broker"),
        _number(epoch, "epoch"),
        told,
        _leases(lost),
    )


def _decode_failure(fields: Any, frames: Sequence[bytes]) -> m.Failure:
    _, number, code, text, details = fields
    return m.Failure(
        _number(number, "number"),
        _typed(code, str, "code"),
        _typed(text, str, "text"),
        _typed(details, dict, "details"),
    )


def _decode_deliver(fields: Any, frames: Sequence[bytes]) -> m.Deliver:
    _, queue, fence, lease_ms, ids, attempts, records, large = fields
    _list_of(records, bytes, "records", limits.MAX_CAPACITY)
    _list_of(attempts, int, "attempts", limits.MAX_CAPACITY)
    _need(len(_ids(ids)) == len(attempts) == len(records), "a delivery has one record and one attempt an id")
    payloads = {}
    for position, frame in _typed(large, dict, "large").items():
        _need(type(frame) is int and 0 < frame < len(frames), f"no frame {frame!r}")
        payloads[_number(position, "position")] = frames[frame]
    return m.Deliver(
        _typed(queue, str, "queue"),
        _number(fence, "fence"),
        _number(lease_ms, "lease"),
        ids,
        attempts,
        records,
        payloads,
    )


def _decode_finished(fields: Any, frames: Sequence[bytes]) -> m.Finished:
    ends = _typed(fields[1], list, "ends")
    results = _blobs([end[2] for end in ends], frames, optional=True)
    return m.Finished(
        [
            (_ids([end[0]])[0], _typed(end[1], str, "state"), result, end[3])
            for end, result in zip(ends, results, strict=True)
        ]
    )


def _decode_lost(fields: Any, frames: Sequence[bytes]) -> m.Lost:
    return m.Lost(_leases(fields[1]), _typed(fields[2], str, "reason"))


_DECODERS: dict[int, Callable[[Any, Sequence[bytes]], m.Message]] = {
    1: _decode_hello,
    2: lambda fields, frames: m.Goodbye(),
    3: _decode_put,
    4: _decode_settle,
    5: _decode_renew,
    6: _decode_capacity,
    7: _decode_extend,
    8: _decode_watch,
    9: lambda fields, frames: m.Unwatch(_ids(fields[1], limits.MAX_BATCH_JOBS)),
    10: _decode_ask,
    11: _decode_order,
    12: _decode_progress,
    13: _decode_workflow,
    14: _decode_publish,
    15: _decode_tail,
    16: _decode_read,
    17: _decode_partial,
    64: _decode_welcome,
    65: lambda fields, frames: m.Who(),
    66: lambda fields, frames: m.Ok(_list_of(fields[1], int, "numbers", 1 << 20)),
    67: lambda fields, frames: m.Answer(_number(fields[1], "number"), fields[2]),
    68: _decode_failure,
    69: _decode_deliver,
    70: _decode_finished,
    71: lambda fields, frames: m.Ping(),
    72: _decode_lost,
    73: lambda fields, frames: m.Cancel(_number(fields[1], "fence"), _ids(fields[2])),
    74: lambda fields, frames: m.Closing(_typed(fields[1], str, "reason")),
    75: lambda fields, frames: m.Changed(_list_of(fields[1], dict, "jobs", limits.MAX_CAPACITY)),
    77: _decode_publications,
    78: _decode_part,
    79: _decode_flow,
}
