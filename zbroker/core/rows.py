"""Keys and values of the rows: how what the core knows lies on disk. ``docs/storage.md`` lists the keyspaces.

Keys are big-endian, so that their order is the order of time, sequence or rank. It never reads or writes a store.
"""

import hashlib
from typing import Any, NamedTuple

import msgpack

from zbroker.core.states import COUNTED, TOTALS, WAITING, Counts, State
from zclient.protocol import limits as wire
from zclient.protocol.record import header_of, sequence_of

pack = msgpack.packb
unpack = msgpack.unpackb

RETURNED = b"r"
"""Suffix of the ready row of a job that came back: its first row may still stand under the same sequence."""

META_TICK = b"tick"
META_EPOCH = b"epoch"
META_BROKER = b"broker"
META_QUEUE = b"queue/"
META_POLICY = b"policy/"
META_OVER = b"over/"
META_WORK = b"work/"
META_BATCHES = b"batches"

_STATES = tuple(State)
_STATE_NUMBER = {state: number for number, state in enumerate(_STATES)}


def number8(number: int) -> bytes:
    """Eight bytes, so that keys sort as numbers."""
    return number.to_bytes(8, "big")


def beyond(prefix: bytes) -> bytes:
    """The first key behind all that begin with ``prefix`` (which does not end in 0xff)."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


# ---- ready: queue 0 rank key 0 sequence [r] -> ids


def queue_prefix(queue: str) -> bytes:
    return queue.encode() + b"\0"


def rank_of(priority: int) -> int:
    """One byte in which the highest priority sorts first."""
    return 100 - priority


def lane_prefix(queue: str, rank: int, key: bytes) -> bytes:
    return b"%b\0%c%b\0" % (queue.encode(), rank, key)


def split_ready_key(queue: str, row_key: bytes) -> tuple[int, bytes, int, bool]:
    """Rank, lane key, first sequence, and whether it is the row of a job that came back."""
    start = len(queue.encode()) + 1
    end = row_key.index(b"\0", start + 1)
    sequence = int.from_bytes(row_key[end + 1 : end + 9], "big")
    return row_key[start], row_key[start + 1 : end], sequence, len(row_key) > end + 9


# ---- changes: id -> Change


class Attempt(NamedTuple):
    """One run that did not end well."""

    number: int
    started_ms: int
    ended_ms: int
    worker: str
    kind: str  # "error", "rejected", "worker lost", "lease expired", "max_run", "lost"
    error: dict[str, Any]


class Change(NamedTuple):
    """What became of a job since it came; a job that nothing happened to has none."""

    state: State
    sequence: int
    fence: int = 0  # the delivery that it last came out of
    outcome: int = 0  # how it came out of it: an `Outcome`, or LOST
    runs: int = 0  # attempts burnt
    losses: int = 0  # workers or leases lost while they held it
    losses_alone: int = 0  # those of them that held nothing else
    due_ms: int = 0  # wall clock; while scheduled
    cancel: bool = False  # somebody wishes it to end
    reason: str = ""  # while dead: why; when cancelled because of a parent: which; with a wish: why, if nobody asked
    ended_ms: int = 0  # while dead: since when
    pending: int = 0  # while blocked: the parents that are not over
    is_parent: bool = False  # others wait, or waited, for it
    unexpiring: bool = False  # it was replayed or moved: its time to begin no longer runs
    progress: tuple[float | None, str, int] | None = None  # fraction, text, wall clock
    attempts: tuple[Attempt, ...] = ()

    def with_attempt(self, attempt: Attempt, most: int) -> "Change":
        """The same with one more attempt in its log, of which the latest ``most`` are kept."""
        return self._replace(runs=attempt.number, attempts=(*self.attempts, attempt)[-most:])


LOST = 9
"""The outcome of a delivery that no settlement ended."""


def encode_change(change: Change) -> bytes:
    return pack((_STATE_NUMBER[change.state], *change[1:]))  # type: ignore[no-any-return]


def decode_change(value: bytes) -> Change:
    fields = unpack(value)
    attempts = tuple(Attempt(*attempt) for attempt in fields[-1])
    return Change(_STATES[fields[0]], *(*fields[1:-1], attempts))


# ---- timers: due kind tick n -> TimerRow

TIMER_READY = 1
"""The jobs become ready. Kinds are never reused."""

TIMER_EXPIRY = 2
"""The jobs expire, if they were not begun; ``key`` and ``rank`` say nothing."""

TIMER_UNIQUE = 3
"""The unique text ``key`` of the queue is free again, if the job still has it."""

TIMER_SCHEDULE = 4
"""The schedule ``key`` has an occurrence."""


TIMER_BATCH = 5
"""The batch or workflow ``key`` is over long enough to be removed."""


class TimerRow(NamedTuple):
    queue: str
    rank: int
    key: bytes
    sequence: int  # 0: the jobs take new ones when they become ready
    ids: list[bytes]


def timer_key(due_ms: int, kind: int, tick: int, n: int) -> bytes:
    """Timers of one time are in the order in which they were written: the ``n``-th of a tick."""
    return timers_prefix(due_ms, kind) + number8(tick) + n.to_bytes(4, "big")


def timers_prefix(due_ms: int, kind: int) -> bytes:
    """What the timers of one time and kind begin with."""
    return b"%b%c" % (number8(due_ms), kind)


def due_of(timer: bytes) -> int:
    return int.from_bytes(timer[:8], "big")


def kind_of(timer: bytes) -> int:
    return timer[8]


# ---- unique: queue 0 text -> UniqueRow


class UniqueRow(NamedTuple):
    """Which job has a unique text, and until when: a job that is over, or for `waiting` delivered, has it no more."""

    id: bytes
    until_ms: int  # wall clock; 0: as long as the job goes on, or waits


def unique_key(queue: str, text: str) -> bytes:
    return queue_prefix(queue) + text.encode()


# ---- edges: parent 0 child -> nothing, or that the child waits for it no more; parent 0 -> how it ended, result


def edge_key(parent: bytes, child: bytes) -> bytes:
    return parent + b"\0" + child


def beyond_edges(parent: bytes) -> bytes:
    return parent + b"\1"


# ---- batches: id -> Batch; id 0 job -> how it ended, result; id 1 -> callbacks; id 2 job -> nothing


def result_key(batch: bytes, job: bytes) -> bytes:
    return batch + b"\0" + job


def beyond_results(batch: bytes) -> bytes:
    return batch + b"\1"


def callbacks_key(batch: bytes) -> bytes:
    return batch + b"\1"


def added_key(batch: bytes, job: bytes) -> bytes:
    return batch + b"\2" + job


def beyond_batch(batch: bytes) -> bytes:
    """Behind all rows of a batch. Those of its own id come first."""
    return batch + b"\3"


# ---- workflows: id -> Workflow; id 0 part n -> groups that came and are not stored; id 1 -> plan; id 2 -> stopped


def staged_key(workflow: bytes, part: int, n: int) -> bytes:
    return staged_prefix(workflow) + part.to_bytes(2, "big") + n.to_bytes(4, "big")


def staged_prefix(workflow: bytes) -> bytes:
    return workflow + b"\0"


def plan_key(workflow: bytes) -> bytes:
    return workflow + b"\1"


def stopped_key(workflow: bytes) -> bytes:
    return workflow + b"\2"


def beyond_workflow(workflow: bytes) -> bytes:
    return workflow + b"\3"


# ---- heads: queue 0 key 0 id -> nothing


def heads_prefix(queue: str, key: bytes) -> bytes:
    return b"%b%b\0" % (queue_prefix(queue), key)


def head_key(queue: str, key: bytes, identifier: bytes) -> bytes:
    return heads_prefix(queue, key) + identifier


def split_head_key(row_key: bytes) -> tuple[str, bytes, bytes]:
    """Queue, lane key, id."""
    queue, lane_key, identifier = row_key.split(b"\0", 2)
    return queue.decode(), lane_key, identifier


# ---- deliveries: fence -> DeliveryRow


class DeliveryRow(NamedTuple):
    incarnation: bytes
    worker: str
    queue: str
    started_ms: int
    alone: bool
    ids: list[bytes]
    sequences: list[int]  # of each job: an id may be used again while a neighbour of its first owner runs on

    def holds(self, fence: int, n: int, record: bytes | None, change: Change | None) -> bool:
        """Whether the delivery still has its job ``n``, whose rows are these: it counts if the job exists, is the one
        that was delivered, and came out of no delivery since."""
        if record is None or header_of(record).queue != self.queue:
            return False
        if change is None:
            return sequence_of(record) == self.sequences[n]
        return change.state is State.READY and change.sequence == self.sequences[n] and change.fence < fence


# ---- dead: queue 0 time id -> reason


def dead_key(queue: str, ended_ms: int, identifier: bytes) -> bytes:
    return queue_prefix(queue) + number8(ended_ms) + identifier


def split_dead_key(row_key: bytes) -> tuple[str, int, bytes]:
    end = row_key.index(b"\0")
    return row_key[:end].decode(), int.from_bytes(row_key[end + 1 : end + 9], "big"), row_key[end + 9 :]


# ---- history: tick n -> HistoryRow


class HistoryRow(NamedTuple):
    """Jobs that ended in one tick, of one queue, in one way, out of one delivery."""

    ended_ms: int
    queue: str
    state: str
    fence: int
    worker: str
    ids: list[bytes]
    created_ms: list[int]
    results: list[bytes | bool | None] | None  # True: in a row of its own
    changes: dict[bytes, bytes]  # of those jobs that had one
    reason: str
    digests: dict[bytes, bytes]  # of those jobs whose ids somebody chose
    started_ms: int = 0  # of the delivery; 0: they were in none, or the row was written before this was kept


def digest(queue: str, options: dict[str, Any], payload: bytes) -> bytes:
    """What a job was, in few bytes: whether an id that is sent again is the same job shows when its record is gone."""
    told = hashlib.blake2b(pack((queue, sorted(options.items()))), digest_size=8)
    told.update(payload)
    return told.digest()


def is_chosen(identifier: bytes) -> bool:
    """Whether the id is none of a client's own making, which nobody makes twice."""
    return len(identifier) != wire.MADE_ID_BYTES


def history_key(tick: int, n: int) -> bytes:
    return number8(tick) + n.to_bytes(4, "big")


# ---- topics: b pattern 0 queue -> BindingRow; k pattern -> KeptRow; l number offset -> LogRow;
# i number id -> offset; o -> the next offset; r -> the offset of the last forget_topic

TOPICS_BINDING, TOPICS_KEPT, TOPICS_LOG, TOPICS_INDEX, TOPICS_OFFSET = b"b", b"k", b"l", b"i", b"o"
TOPICS_REMOVED = b"r"

TIMER_TOPIC = 6
"""The oldest of a kept topic may be too old."""


class BindingRow(NamedTuple):
    """Whose publications a queue gets copies of."""

    filters: list[list[Any]]
    created_ms: int
    backfill: int = 0  # the offset before which a backfill ends that goes on; 0: there is none
    since_ms: int = 0  # wall clock: of those that were published before it copies nothing


class KeptRow(NamedTuple):
    """A kept topic: its rule, and what lies in its log."""

    number: int
    keep_ms: int  # 0: as long as there is room
    keep_bytes: int  # 0: as many as come in that time
    created_ms: int
    first: int = 0  # no offset of it lies before this one
    publications: int = 0
    size: int = 0  # of its rows, without their index
    look_ms: int = 0  # wall clock: when its timer is; 0: it has none


class LogRow(NamedTuple):
    """A kept publication."""

    topic: str
    options: dict[str, Any]
    id: bytes
    at_ms: int
    payload: bytes


def binding_key(pattern: str, queue: str) -> bytes:
    return b"%b%b\0%b" % (TOPICS_BINDING, pattern.encode(), queue.encode())


def split_binding_key(row_key: bytes) -> tuple[str, str]:
    """Pattern, queue."""
    pattern, _, queue = row_key[len(TOPICS_BINDING) :].partition(b"\0")
    return pattern.decode(), queue.decode()


def log_prefix(number: int) -> bytes:
    return TOPICS_LOG + number8(number)


def log_key(number: int, offset: int) -> bytes:
    return log_prefix(number) + number8(offset)


def offset_of(row_key: bytes) -> int:
    """Of the key of a row of a log."""
    return int.from_bytes(row_key[-8:], "big")


def index_prefix(number: int) -> bytes:
    return TOPICS_INDEX + number8(number)


# ---- meta


class QueueRow(NamedTuple):
    """A queue's durable facts, written once in a tick that touches it."""

    next_sequence: int
    floor: int
    paused: bool
    created_ms: int
    closed: bool  # takes no new jobs
    served_ms: int  # wall clock: when the last worker left; 0: none ever came; SERVED: there is one
    jobs: list[int]
    sizes: list[int]
    totals: list[int]


SERVED = 1
"""In a queue's row: workers serve it. Read back after a start, they left when the broker stopped."""


def counts_row(counts: Counts) -> tuple[list[int], list[int], list[int]]:
    jobs, sizes, totals = counts.jobs, counts.sizes, counts.totals
    return [jobs[state] for state in COUNTED], [sizes[state] for state in WAITING], [totals[name] for name in TOTALS]


def counts_from(row: QueueRow) -> Counts:
    counts = Counts()
    counts.jobs.update(zip(COUNTED, row.jobs, strict=True))
    counts.sizes.update(zip(WAITING, row.sizes, strict=True))
    counts.totals.update(zip(TOTALS, row.totals, strict=False))
    return counts
