"""Kept topics: publications that stay on disk for a time and a size, to be read from there.

Each pattern that is kept has a log of its own. A publication has one offset, which grows from one to the next, and lies
in the log of each pattern that takes it, written in the commit of its PUBLISH. What is too old, or too much, is
forgotten at the head, in slices.
"""

from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from operator import itemgetter
from typing import Any

from zbroker import limits
from zbroker.core import rows
from zbroker.core.entities import Peer
from zbroker.core.matching import compiled, overlap, passes
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.topics import Kept, filters_of, pattern_of
from zclient.protocol import limits as wire
from zclient.protocol.messages import Answer, Publication

Row = dict[str, Any]


def take_offset(state: State) -> int:
    """The next offset: of a publication, or of anything else that needs a number of its own among them."""
    offset = state.topics.next_offset
    state.topics.next_offset = offset + 1
    state.tick.rows["topics"][rows.TOPICS_OFFSET] = rows.number8(offset + 1)
    return offset


# ---- orders


def keep(state: State, arguments: Mapping[str, Any]) -> Row:
    """Keep what is published under a pattern from now on; or change for how long."""
    pattern = pattern_of(arguments)
    keep_ms, keep_bytes = arguments.get("keep_ms", 0), arguments.get("keep_bytes", 0)
    if type(keep_ms) is not int or type(keep_bytes) is not int:
        raise Refusal("invalid", "keep_ms and keep_bytes are whole numbers")
    if not 0 <= keep_ms <= wire.MAX_DELAY_MS or not 0 <= keep_bytes < 1 << 53 or not (keep_ms or keep_bytes):
        text = "a topic is kept for a time of up to ten years (keep_ms), up to a size (keep_bytes), or both"
        raise Refusal("invalid", text)
    topics = state.topics
    kept = topics.kept_by_pattern.get(pattern)
    if kept is None:
        if len(topics.kept_by_pattern) >= limits.MAX_KEPT_TOPICS:
            raise Refusal("invalid", f"there are {limits.MAX_KEPT_TOPICS} kept topics, as many as there may be")
        number = take_offset(state)
        kept = Kept(pattern, rows.KeptRow(number, keep_ms, keep_bytes, state.wall, number))
        _know(state, kept)
        state.notice("info", "topic kept", pattern=pattern)
    kept.row = kept.row._replace(keep_ms=keep_ms, keep_bytes=keep_bytes)
    if kept.row.publications:
        _look_at(state, kept, state.wall)
    topics.touched[kept] = None
    return row_of(kept)


def forget(state: State, arguments: Mapping[str, Any]) -> Row:
    """Keep it no longer: all that was kept is gone at once. It takes an offset, by which readers learn of it."""
    pattern = pattern_of(arguments)
    topics = state.topics
    kept = topics.kept_by_pattern.pop(pattern, None)
    if kept is None:
        raise Refusal("not_found", f"nothing is kept of the pattern {pattern}")
    number = kept.row.number
    del topics.kept_by_number[number]
    topics.kept.remove(pattern, kept)
    topics.touched.pop(kept, None)
    topics.removed = take_offset(state)
    state.tick.rows["topics"][rows.TOPICS_REMOVED] = rows.number8(topics.removed)
    state.tick.rows["topics"][rows.TOPICS_KEPT + pattern.encode()] = None
    for prefix in (rows.log_prefix, rows.index_prefix):
        state.tick.ranges.append(("topics", prefix(number), prefix(number + 1)))
    state.notice("info", "topic forgotten", pattern=pattern, publications=kept.row.publications)
    return row_of(kept)


def _know(state: State, kept: Kept) -> None:
    state.topics.kept_by_pattern[kept.pattern] = kept
    state.topics.kept_by_number[kept.row.number] = kept
    state.topics.kept.add(kept.pattern, kept)


def row_of(kept: Kept) -> Row:
    """A kept topic as people see it."""
    row = kept.row
    return {
        "pattern": kept.pattern,
        "keep_ms": row.keep_ms,
        "keep_bytes": row.keep_bytes,
        "created_at": row.created_ms,
        "publications": row.publications,
        "bytes": row.size,
    }


def rows_of_all(state: State, arguments: Mapping[str, Any]) -> list[Row]:
    """All kept topics, by pattern."""
    return [row_of(kept) for _, kept in sorted(state.topics.kept_by_pattern.items())]


# ---- writing


def known(state: State, publication: Publication, keeping: Iterable[Kept]) -> int:
    """The offset of a publication that is kept already; 0 for a new one. `Refusal` if another one has its id."""
    for kept in keeping:
        value = state.view.get("topics", rows.index_prefix(kept.row.number) + publication.id)
        if value is None:
            continue
        offset = int.from_bytes(value, "big")
        found = state.view.get("topics", rows.log_key(kept.row.number, offset))
        if found is None:
            continue
        row = rows.LogRow(*rows.unpack(found))
        if (row.topic, row.options, row.payload) != (publication.topic, publication.options, publication.payload):
            name = publication.id.decode()
            raise Refusal("duplicate_id", f"another publication has the id {name!r}", id=name)
        return offset
    return 0


def append(state: State, publication: Publication, keeping: Iterable[Kept]) -> int:
    """Write a new publication into the logs of those that keep it; its offset."""
    offset = take_offset(state)
    topic, options, identifier, payload = publication
    value = rows.pack(rows.LogRow(topic, options, identifier, state.wall, payload))
    written = state.tick.rows["topics"]
    for kept in keeping:
        row = kept.row
        written[rows.log_key(row.number, offset)] = value
        written[rows.index_prefix(row.number) + identifier] = rows.number8(offset)
        kept.row = row._replace(publications=row.publications + 1, size=row.size + len(value))
        state.topics.touched[kept] = None
        if row.keep_bytes and kept.row.size > row.keep_bytes:
            _look_at(state, kept, state.wall)
        elif row.keep_ms and not row.look_ms:
            _look_at(state, kept, state.wall + max(row.keep_ms, limits.TRIM_EVERY_MS))
    return offset


def write_rows(state: State) -> None:
    """The rows of the kept topics that this tick touched."""
    for kept in state.topics.touched:
        state.tick.rows["topics"][rows.TOPICS_KEPT + kept.pattern.encode()] = rows.pack(kept.row)
    state.topics.touched.clear()


# ---- forgetting


def _look_at(state: State, kept: Kept, due_ms: int) -> None:
    """Set the timer of a kept topic, unless there is an earlier one."""
    row = kept.row
    if row.look_ms and row.look_ms <= due_ms:
        return
    kept.row = row._replace(look_ms=due_ms)
    state.topics.touched[kept] = None
    key = rows.number8(row.number)
    state.add_timer(due_ms, rows.TimerRow("", 0, key, 0, [key]), rows.TIMER_TOPIC, mark=key)


def fire(state: State, due_ms: int, timer: rows.TimerRow) -> int:
    """The timer of a kept topic: forget what is too old or too much. Returns what that weighs."""
    kept = state.topics.kept_by_number.get(int.from_bytes(timer.key, "big"))
    if kept is None or kept.row.look_ms != due_ms:
        return 1  # it was forgotten, or is looked at at another time
    row = kept.row._replace(look_ms=0)
    written = state.tick.rows["topics"]
    gone = octets = 0
    is_left = False  # something that is to go as well
    oldest_ms = 0  # of those that stay
    stop = rows.log_key(row.number, state.topics.next_offset)
    for key, value in state.view.scan("topics", rows.log_key(row.number, row.first), stop):
        publication = rows.LogRow(*rows.unpack(value))
        is_old = row.keep_ms and publication.at_ms <= state.wall - row.keep_ms
        is_much = row.keep_bytes and row.size > row.keep_bytes
        if not (is_old or is_much):
            oldest_ms = publication.at_ms
            break
        if gone == limits.TRIM_ROWS or octets > limits.STEP_BYTES:
            is_left = True
            break
        gone, octets = gone + 1, octets + len(value)
        written[key] = None
        written[rows.index_prefix(row.number) + publication.id] = None
        row = row._replace(first=rows.offset_of(key) + 1, publications=row.publications - 1, size=row.size - len(value))
    kept.row = row
    state.topics.touched[kept] = None
    if is_left:
        _look_at(state, kept, state.wall + 1)  # a timer of this very time would go with the one that fires
    elif oldest_ms and row.keep_ms:
        _look_at(state, kept, max(oldest_ms + row.keep_ms, state.wall + limits.TRIM_EVERY_MS))
    return 1 + gone * limits.TRIM_WEIGHT


# ---- reading


def overlapping(state: State, pattern: str) -> list[Kept]:
    """The kept topics in whose logs there may be something that the pattern takes."""
    return [kept for kept in state.topics.kept_by_pattern.values() if overlap(pattern, kept.pattern)]


def read(state: State, keeping: Iterable[Kept], start: int, until: int) -> Iterator[tuple[int, bytes]]:
    """Kept publications in order, each once: offset, encoded `LogRow`. Take few, and ask again from the last on."""
    scans = [_log(state, kept, start, until) for kept in keeping]
    last = 0
    for offset, value in merge(*scans, key=itemgetter(0)):
        if offset != last:
            yield offset, value
        last = offset


def read_slice(
    state: State, keeping: Iterable[Kept], start: int, until: int
) -> tuple[list[tuple[int, rows.LogRow]], int | None]:
    """As many as one step of slow work reads, and the offset from which the next goes on; None at the end."""
    found: list[tuple[int, rows.LogRow]] = []
    octets = 0
    for offset, value in read(state, keeping, start, until):
        found.append((offset, rows.LogRow(*rows.unpack(value))))
        octets += len(value)
        if len(found) == limits.STEP_ROWS or octets >= limits.STEP_BYTES:
            return found, offset + 1
    return found, None


def _log(state: State, kept: Kept, start: int, until: int) -> Iterator[tuple[int, bytes]]:
    number, first = kept.row.number, max(start, kept.row.first)
    for key, value in state.view.scan("topics", rows.log_key(number, first), rows.log_key(number, until)):
        yield rows.offset_of(key), value


def begin_page(state: State, peer: Peer, number: int, arguments: Mapping[str, Any]) -> None:
    """Answer with a page of kept publications, later."""
    pattern, filters = pattern_of(arguments), filters_of(arguments.get("filters", []))
    start, since_ms = arguments.get("start", 0), arguments.get("since", 0)
    until, limit = arguments.get("until", state.topics.next_offset), arguments.get("limit", wire.MAX_PAGE)
    if any(type(value) is not int or not 0 <= value < 1 << 53 for value in (start, since_ms, until)):
        raise Refusal("invalid", "start and until are offsets, since is Unix milliseconds")
    if type(limit) is not int or not 1 <= limit <= wire.MAX_PAGE:
        raise Refusal("invalid", f"limit is 1 to {wire.MAX_PAGE}")
    until = min(until, state.topics.next_offset)
    state.work(_tell(state, peer, number, _Wanted(pattern, filters, since_ms, limit), start, until))


class _Wanted:
    """What a page is to have."""

    def __init__(self, pattern: str, filters: list[Any], since_ms: int, limit: int) -> None:
        self.pattern = pattern
        self.since_ms = since_ms
        self.limit = limit
        self._tests = compiled(filters)
        self._takes: dict[str, bool] = {}

    def takes(self, row: rows.LogRow) -> bool:
        if row.at_ms < self.since_ms:
            return False
        taken = self._takes.get(row.topic)
        if taken is None:
            taken = self._takes[row.topic] = overlap(self.pattern, row.topic)
        return taken and passes(self._tests, row.options.get("headers", {}))


def _tell(state: State, peer: Peer, number: int, wanted: _Wanted, start: int, until: int) -> Steps:
    """Slow work: the page, and where the next one begins; nil at the end. ``forgotten``: some that lay behind the start
    were kept once, and are no longer. ``removed``: the offset of the last `forget` before it; 0: there was none."""
    told: list[tuple[int, str, dict[str, Any], bytes, int, bytes]] = []
    route = peer.route
    firsts = {kept.row.number: kept.row.first for kept in overlapping(state, wanted.pattern)}
    is_forgotten = any(first > max(start, number) for number, first in firsts.items())
    removed = state.topics.removed
    size = looked = 0
    cursor: int | None = start
    is_full = False
    while cursor is not None and not is_full:
        keeping = overlapping(state, wanted.pattern)
        is_trimmed = any(kept.row.first > max(cursor, firsts.get(kept.row.number, kept.row.number)) for kept in keeping)
        if is_trimmed or state.topics.removed != removed:
            break  # some that this page would have told were forgotten meanwhile: the next one says so
        slice_, cursor = read_slice(state, keeping, cursor, until)
        for offset, row in slice_:
            looked += 1
            if wanted.takes(row):
                told.append((offset, *row))
                size += len(row.payload)
            is_full = len(told) == wanted.limit or size >= wire.MESSAGE_BYTES or looked >= limits.PAGE_LOOKED
            if is_full:
                cursor = offset + 1
                break
        yield None
        if peer.route is None or peer.route != route:
            return  # nobody waits for it
    state.tick.bytes_out += size
    answer = {"publications": told, "next": cursor, "forgotten": is_forgotten, "removed": removed}
    state.send(peer, Answer(number, answer))


# ---- at a start


def open_kept(state: State) -> None:
    """The kept topics from their rows, the next offset, and that of the last `forget`."""
    topics = state.topics
    topics.next_offset = int.from_bytes(state.view.get("topics", rows.TOPICS_OFFSET) or b"\1", "big")
    topics.removed = int.from_bytes(state.view.get("topics", rows.TOPICS_REMOVED) or b"", "big")
    for key, value in state.view.scan("topics", rows.TOPICS_KEPT, rows.beyond(rows.TOPICS_KEPT)):
        _know(state, Kept(key[len(rows.TOPICS_KEPT) :].decode(), rows.KeptRow(*rows.unpack(value))))
