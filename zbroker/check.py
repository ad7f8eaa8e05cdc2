"""`zbroker check`: the invariants of a data directory, verified from the rows alone, with memory that does not grow.

Every live job is in exactly one place, the counters equal the rows, and what a job holds beside its place (a unique
text, the turn of its key, a timer for its expiry) it holds while it may. It changes no row; it shares the
encodings with the core, not its bookkeeping, so that it can find the core wrong.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from msgpack.exceptions import UnpackException

from zbroker import limits
from zbroker.batch_check import BatchCheck
from zbroker.check_topics import topic_faults
from zbroker.core import rows
from zbroker.core.schedules import Schedule
from zbroker.core.states import COUNTED, WAITING, State
from zbroker.storage import KEYSPACES, Store, StoreError, open_store
from zbroker.storage.directory import UNNAMED, store_of
from zclient.protocol.record import Header, header_of, sequence_of, stored_bytes

END = b"\xff" * 300
"""Behind every key."""

MAX_FAULTS = 100
"""Lines of faults; if there are more, the last one says so."""

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, UnpackException)
"""What a row raises that is none of ours: nobody wrote it, or not as it is."""


@dataclass
class Report:
    """Rows and jobs counted, and what is wrong."""

    counts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)
        else:
            self.faults[-1] = "... and more"


def check_directory(directory: Path) -> Report:
    """Open the directory with the store that made it, and check it. `StoreError` if it cannot be opened, or is none."""
    if not any((directory / name).is_file() for name in ("FORMAT", "WATERMARK")):  # opening would make a new one
        raise StoreError(f"{directory} is no data directory")
    store = open_store(store_of(directory) or UNNAMED, directory)
    try:
        return check_store(store)
    finally:
        store.close()


def check_store(store: Store) -> Report:
    """Check what a store holds."""
    return _Check(store).run()


class _Check:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._report = Report()
        self._leased: dict[bytes, int] = {}  # id -> fence; bounded by the workers' capacity
        self._queues: dict[str, rows.QueueRow] = {}
        self._placed: Counter[tuple[str, State]] = Counter()  # entries, timers, deliveries that count
        self._jobs: Counter[tuple[str, State]] = Counter()  # jobs by what their own rows say
        self._sizes: Counter[tuple[str, State]] = Counter()  # bytes of those that wait
        self._expiring: Counter[str] = Counter()  # jobs that wait and expire, by queue
        self._timed: Counter[str] = Counter()  # those of them that a timer of that time names
        self._looked_at: set[bytes] = set()  # schedules that have a timer
        self._void = 0
        self._batches = BatchCheck(store, self._report.fault)

    def run(self) -> Report:
        for space in KEYSPACES:
            self._report.counts[f"rows in {space}"] = sum(1 for _ in self._store.scan(space, b"", END))
        steps = (
            self._read_queues,
            self._read_deliveries,
            self._read_ready,
            self._read_timers,
            self._read_schedules,
            self._read_topics,
            self._read_dead,
            self._read_texts,
            self._read_heads,
            self._read_edges,
            self._read_jobs,
            self._read_orphans,
            self._batches.compare,
            self._compare,
        )
        for step in steps:
            try:
                step()
            except UNREADABLE as error:
                what = step.__name__.strip("_").removeprefix("read_")
                self._report.fault(f"{what}: a row cannot be read: {type(error).__name__}: {error}")
        return self._report

    def _read_topics(self) -> None:
        for text in topic_faults(self._store, self._queues):
            self._report.fault(text)

    # ---- places

    def _read_queues(self) -> None:
        for key, value in self._store.scan("meta", rows.META_QUEUE, rows.beyond(rows.META_QUEUE)):
            self._queues[key[len(rows.META_QUEUE) :].decode()] = rows.QueueRow(*rows.unpack(value))

    def _read_deliveries(self) -> None:
        epoch = int.from_bytes(self._store.get("meta", rows.META_EPOCH) or b"", "big")
        for key, value in self._store.scan("deliveries", b"", END):
            fence = int.from_bytes(key, "big")
            row = rows.DeliveryRow(*rows.unpack(value))
            if fence >> 32 > epoch:
                self._report.fault(f"delivery {fence} is of an epoch that has not begun")
            for n, (identifier, record, change) in enumerate(self._read(row.ids)):
                if not row.holds(fence, n, record, change):
                    continue
                if identifier in self._leased:
                    self._report.fault(f"job {_text(identifier)} is leased twice")
                self._leased[identifier] = fence
                self._placed[row.queue, State.LEASED] += 1

    def _read_ready(self) -> None:
        for key, value in self._store.scan("ready", b"", END):
            queue = key[: key.index(b"\0")].decode()
            rank, lane_key, first, returned = rows.split_ready_key(queue, key)
            prefix = rows.lane_prefix(queue, rank, lane_key)
            floor = self._queues[queue].floor if queue in self._queues else 0
            for sequence, (identifier, record, change) in enumerate(self._read(rows.unpack(value)), first):
                if sequence < floor or record is None or header_of(record).queue != queue:
                    continue
                if not self._counts(identifier, record, change, sequence):
                    continue
                if not returned and self._store.get("ready", prefix + rows.number8(sequence) + rows.RETURNED):
                    continue  # it came back: its place is the row that its return wrote
                if self._place_of(record) != (queue, rank, lane_key):
                    self._report.fault(f"job {_text(identifier)} waits in the lane of others")
                self._placed[queue, State.READY] += 1

    def _counts(self, identifier: bytes, record: bytes, change: rows.Change | None, sequence: int) -> bool:
        if identifier in self._leased:
            return False
        if change is None:
            return sequence_of(record) == sequence
        return change.state is State.READY and change.sequence == sequence

    @staticmethod
    def _place_of(record: bytes) -> tuple[str, int, bytes]:
        """Queue, rank and key of its lane."""
        header = header_of(record)
        rank, key = header.options.get("priority", 0), header.options.get("key", "")
        return header.queue, rows.rank_of(rank), key.encode()

    def _read_timers(self) -> None:
        scheduled: set[bytes] = set()  # a second row of the same time is of an earlier job of the id
        for key, value in self._store.scan("timers", b"", END):
            kind, due_ms = rows.kind_of(key), rows.due_of(key)
            timer = rows.TimerRow(*rows.unpack(value))
            if kind == rows.TIMER_SCHEDULE:
                self._looked_at.add(timer.key)
                continue
            if kind == rows.TIMER_BATCH:
                self._batches.timer(timer.key)
                continue
            if kind == rows.TIMER_TOPIC:
                continue
            for identifier, record, change in self._read(timer.ids) if kind != rows.TIMER_UNIQUE else ():
                if record is None or identifier in self._leased:
                    continue
                if kind == rows.TIMER_EXPIRY:
                    self._timed[timer.queue] += self._expires_at(record, change) == due_ms
                    continue
                due = change is not None and change.state is State.SCHEDULED and change.due_ms == due_ms
                if not due or identifier in scheduled:
                    continue
                if self._place_of(record) == (timer.queue, timer.rank, timer.key):
                    scheduled.add(identifier)
                    self._placed[timer.queue, State.SCHEDULED] += 1

    def _read_schedules(self) -> None:
        for name, value in self._store.scan("schedules", b"", END):
            schedule = Schedule(*rows.unpack(value))
            if schedule.next_ms and not schedule.paused and name not in self._looked_at:
                self._report.fault(f"no timer has the next occurrence of schedule {_text(name)}")

    def _expires_at(self, record: bytes, change: rows.Change | None) -> int:
        """When a job that waits expires; 0 for never, and for one that does not wait."""
        is_over = change is not None and (change.unexpiring or change.state not in WAITING)
        return 0 if is_over else header_of(record).expires_ms

    def _read_dead(self) -> None:
        for key, _ in self._store.scan("dead", b"", END):
            queue, ended_ms, identifier = rows.split_dead_key(key)
            ((_, record, change),) = self._read([identifier])
            if record is None or change is None or change.state is not State.DEAD or change.ended_ms != ended_ms:
                self._report.fault(f"the index of dead jobs names {_text(identifier)}, which is not dead")
            else:
                self._placed[queue, State.DEAD] += 1

    # ---- what jobs hold

    def _read_texts(self) -> None:
        """A unique text is held by a job that goes on, or for a time at whose end a timer sets it free."""
        for key, value in self._store.scan("unique", b"", END):
            queue, text = key.split(b"\0", 1)
            row = rows.UniqueRow(*rows.unpack(value))
            if row.until_ms:
                first = rows.timers_prefix(row.until_ms, rows.TIMER_UNIQUE)
                found = self._store.scan("timers", first, rows.beyond(first))
                timers = [rows.TimerRow(*rows.unpack(timer)) for _, timer in found]
                if not any((timer.queue.encode(), timer.key, timer.ids) == (queue, text, [row.id]) for timer in timers):
                    self._report.fault(f"no timer sets free the unique text {_text(text)} of {_text(row.id)}")
                continue
            ((_, record, change),) = self._read([row.id])
            options = header_of(record).options if record is not None else {}
            is_its_own = options.get("unique", "").encode() == text and header_of(record or b"").queue.encode() == queue
            is_delivered = options.get("unique_for") == "waiting" and row.id in self._leased
            if not is_its_own or is_delivered or (change is not None and change.state is State.DEAD):
                self._report.fault(f"job {_text(row.id)} has the unique text {_text(text)}, and does not go on")

    def _read_heads(self) -> None:
        """A key waits for jobs that wait for a time, or came back from it and wait apart."""
        for key, _ in self._store.scan("heads", b"", END):
            queue, lane_key, identifier = rows.split_head_key(key)
            ((_, record, change),) = self._read([identifier])
            waits = change is not None and identifier not in self._leased
            waits = waits and change.state in (State.SCHEDULED, State.READY)  # type: ignore[union-attr]
            header = header_of(record) if record is not None else None
            its_key = header.options.get("key", "").encode() if header is not None else None
            if not waits or header is None or header.queue != queue or its_key != lane_key:
                self._report.fault(f"a key of queue {queue} waits for {_text(identifier)}, which does not wait")

    def _read_edges(self) -> None:
        """An edge is of a child that names the parent; how a parent ended is kept for the edges behind it."""
        ended: bytes | None = None  # the parent whose row of that kind no edge has followed yet
        for key, value in self._store.scan("edges", b"", END):
            parent, _, child = key.partition(b"\0")
            if not child:
                self._read_childless(ended)
                ended = parent
                continue
            if ended == parent:
                ended = None
            ((_, record, change),) = self._read([child])
            options = header_of(record).options if record is not None else {}
            if parent not in options.get("after", ()):
                self._report.fault(f"an edge is of {_text(child)}, which has no parent {_text(parent)}")
            elif not value and change is not None and change.state is State.BLOCKED:
                rule = options.get("on_parent_death", "cancel")
                was_replayed = rule == "cancel" and change.unexpiring
                self._read_waiting(parent, child, "wait" if was_replayed else rule)
        self._read_childless(ended)

    def _read_childless(self, parent: bytes | None) -> None:
        if parent is not None:
            self._report.fault(f"how {_text(parent)} ended is kept, and it has no children")

    def _read_waiting(self, parent: bytes, child: bytes, rule: str) -> None:
        """What a child waits for goes on and knows that it is waited for, or is over and its children are looked at."""
        ((_, record, change),) = self._read([parent])
        if record is None and self._batches.waits(parent, rule):
            return
        is_dead = change is not None and change.state is State.DEAD and rule != "wait"
        if record is None or change is None or not change.is_parent or is_dead:
            if self._store.get("meta", rows.META_OVER + parent) is None:
                self._report.fault(f"job {_text(child)} waits for {_text(parent)}, which does not release it")

    # ---- jobs

    def _read_jobs(self) -> None:
        for batch in _batches(key for key, _ in self._store.scan("jobs", b"", END)):
            for identifier, record, change in self._read(batch):
                if record is not None:
                    self._read_job(identifier, record, change)

    def _read_job(self, identifier: bytes, record: bytes, change: rows.Change | None) -> None:
        header = header_of(record)
        if header.queue not in self._queues:
            self._report.fault(f"job {_text(identifier)} is of queue {header.queue}, which does not exist")
            return
        if header.external and self._store.get("payloads", identifier) is None:
            self._report.fault(f"job {_text(identifier)} has lost its payload")
        state = State.LEASED if identifier in self._leased else change.state if change else State.READY
        sequence = change.sequence if change else sequence_of(record)
        self._batches.job(header, state)
        if state is State.READY and sequence < self._queues[header.queue].floor:
            self._void += 1
            return
        self._jobs[header.queue, state] += 1
        if state is State.BLOCKED and change is not None:
            self._read_blocked(identifier, header, change)
        if state in WAITING:
            self._sizes[header.queue, state] += stored_bytes(record)
            self._expiring[header.queue] += self._expires_at(record, change) > 0
        if "unique" in header.options and state is not State.DEAD:
            self._read_unique(identifier, header, change)

    def _read_blocked(self, identifier: bytes, header: Header, change: rows.Change) -> None:
        """A blocked job waits for as many parents as it has edges that say so."""
        parents = dict.fromkeys(header.options.get("after", ()))
        waits = sum(self._store.get("edges", rows.edge_key(parent, identifier)) == b"" for parent in parents)
        if waits == change.pending > 0:
            self._placed[header.queue, State.BLOCKED] += 1
        else:
            self._report.fault(f"job {_text(identifier)} waits for {change.pending} parents, and has {waits} edges")

    def _read_unique(self, identifier: bytes, header: Header, change: rows.Change | None) -> None:
        """A job that goes on has its unique text, unless the text is taken for a time, or until it is delivered, or a
        later job took its place while it ran: that one may be over when it is back in its queue."""
        if "unique_for" in header.options or identifier in self._leased or (change is not None and change.fence):
            return
        value = self._store.get("unique", rows.unique_key(header.queue, header.options["unique"]))
        if value is None:
            self._report.fault(f"job {_text(identifier)} waits, and nobody has its unique text")

    def _read_orphans(self) -> None:
        for space in ("changes", "payloads"):
            for batch in _batches(key for key, _ in self._store.scan(space, b"", END)):
                for identifier, record in zip(batch, self._store.get_many("jobs", batch), strict=True):
                    if record is None:
                        self._report.fault(f"{space} has a row of {_text(identifier)}, which is no job")

    # ---- the verdict

    def _compare(self) -> None:
        report = self._report
        for name, row in sorted(self._queues.items()):
            counted = dict(zip(COUNTED, row.jobs, strict=True))
            for state in COUNTED:
                jobs, placed = self._jobs[name, state], self._placed[name, state]
                report.counts[f"{name}: {state}"] = jobs
                if placed != jobs:
                    report.fault(f"queue {name}: {jobs} jobs are {state}, and {placed} have their place there")
                if state in WAITING:
                    size, told = self._sizes[name, state], row.sizes[WAITING.index(state)]
                    if size != told:
                        report.fault(f"queue {name}: {size} bytes are {state}, and its counter says {told}")
                if counted[state] != jobs:
                    report.fault(f"queue {name}: {jobs} jobs are {state}, and its counter says {counted[state]}")
        for name, jobs in self._expiring.items():
            if self._timed[name] < jobs:
                report.fault(f"queue {name}: {jobs} jobs that wait expire, and timers name {self._timed[name]}")
        for name, state in self._jobs:
            if state not in COUNTED:
                report.fault(f"queue {name}: live jobs in the state {state}")
        works = self._store.scan("meta", rows.META_WORK, rows.beyond(rows.META_WORK))
        purging = next((work for _, work in works if rows.unpack(work)[0] == "purge"), None)
        if self._void:
            report.counts["void by a purge that goes on"] = self._void
            if purging is None:
                report.fault(f"{self._void} jobs are void, and no purge goes on")

    def _read(self, ids: list[bytes]) -> Iterator[tuple[bytes, bytes | None, rows.Change | None]]:
        records = self._store.get_many("jobs", ids)
        for identifier, record, encoded in zip(ids, records, self._store.get_many("changes", ids), strict=True):
            yield identifier, record, rows.decode_change(encoded) if encoded is not None else None


def _batches(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(keys, limits.BLOCK_JOBS)):
        yield batch


def _text(identifier: bytes) -> str:
    return identifier.decode(errors="backslashreplace")
