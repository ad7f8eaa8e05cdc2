"""What the core knows between two messages: queues, peers, deliveries, and the open tick.

Everything here is derived from the rows, or is forgotten by a restart on purpose (connections, credit, lease
deadlines). The functions that change it stand in the modules beside this one, one matter a file.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappush
from typing import TYPE_CHECKING, Any

from zbroker import limits
from zbroker.core import rows
from zbroker.core.entities import NEVER, NOTHING, Delivery, Found, HistoryIndex, Peer, Queue, Stream
from zbroker.core.lanes import Ring
from zbroker.core.policy import Options, QueuePolicy
from zbroker.core.recent import Recent
from zbroker.core.rows import Change
from zbroker.core.states import Event
from zbroker.core.states import State as JobState
from zbroker.core.tick import Tick, View
from zbroker.core.topics import Topics
from zbroker.core.window import Budget, Place
from zbroker.storage.interface import Store
from zclient.protocol import limits as wire
from zclient.protocol.messages import Message
from zclient.protocol.record import Header, header_of, payload_of, sequence_of

if TYPE_CHECKING:
    from random import Random

    from zbroker.core.batches import Batch
    from zbroker.core.schedules import Calendar
    from zbroker.core.workflows import Workflow

Steps = Iterator[int | None]
"""Slow work: each `next` is one step, and says when it wants the next: None for soon, or a time of the lease clock."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the core is told once. Milliseconds."""

    policy: QueuePolicy = field(default_factory=QueuePolicy)  # of a queue that says nothing
    sources: Mapping[str, str] = field(default_factory=dict)  # option of it -> where its value came from
    queues: Mapping[str, Options] = field(default_factory=dict)  # what the configuration file says of queues
    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # likewise, as orders have them
    calendar: "Calendar | None" = None  # when cron expressions fire; without it there are no schedules
    grace_ms: int = 1_000  # for a worker whose connection was reset
    return_ms: int = 5_000  # for workers to come back after a start of the broker, or a long stall
    cut_ms: int = limits.CUT_MS  # a stall so long is one after which connections may be gone
    reader_ms: int = limits.READER_RETURN_MS  # for the reader of a stream to come back
    probe_ms: int = wire.PROBE_INTERVAL_MS
    client_probe_ms: int = limits.CLIENT_PROBE_MS
    max_payload: int = wire.MAX_PAYLOAD_BYTES
    keep_done_count: int = 100_000
    durability: str = "memory"  # what a commit survives, and where its rows are: for who asks; the shell sees to it
    store: str = "memory"
    max_peers: int = limits.MAX_PEERS
    window_jobs: int = limits.WINDOW_JOBS
    resident_jobs: int = limits.RESIDENT_JOBS
    resident_lanes: int = limits.RESIDENT_LANES
    fresh_bytes: int = limits.FRESH_BYTES


@dataclass(slots=True)
class Notice:
    """One event that an operator cares about: the shell logs it. Never a payload."""

    level: str  # "info", "warning", "error"
    event: str
    facts: dict[str, Any]


Fresh = tuple[bytes, Header, int]
"""Of a job that came and was never delivered: its record, the header and the sequence that stand in there."""


class State:
    """All of it. The clocks are set by `Core.turn`; ``now`` is the lease clock, which a stall of the broker stops."""

    def __init__(self, store: Store, settings: Settings, random: "Random") -> None:
        self.settings = settings
        self.random = random
        self.view = View(store)
        self.tick = Tick(0)
        self.wall = 0  # Unix ms
        self.now = 0  # ms
        self.broker = b""
        self.epoch = 0
        self.next_fence = 0
        self.queues: dict[str, Queue] = {}
        self.peers: dict[bytes, Peer] = {}  # by incarnation
        self.routes: dict[bytes, Peer] = {}  # by routing id
        self.deliveries: dict[int, Delivery] = {}  # by fence
        self.leased: dict[bytes, Delivery] = {}  # by job id
        self.lease_heap: list[tuple[int, int]] = []  # (deadline, fence), corrected when popped
        self.budget = Budget(settings.resident_jobs, settings.resident_lanes)
        self.fresh: dict[bytes, Fresh] = {}  # by job id: jobs that were never delivered
        self.fresh_bytes = 0
        self.watchers: dict[bytes, dict[Peer, None]] = {}  # by job id; in an order that a seed repeats
        self.followers: dict[bytes, dict[Peer, None]] = {}  # those of them that are told of changes as well
        self.changed: dict[bytes, dict[Peer, None] | None] = {}  # followed jobs to be told: to these, or (None) to all
        self.hot: dict[Queue, None] = {}  # queues that dispatch should look at
        self.waiting: OrderedDict[Queue, None] = OrderedDict()  # queues with ready jobs, not paused, in turn
        self.eager: dict[Peer, None] = {}  # workers that have credit anew
        self.touched: dict[Queue, None] = {}  # queues whose row this tick must write
        self.batches: dict[Peer, None] = {}  # peers whose batch numbers this tick must write
        self.streams: dict[bytes, Stream] = {}  # by job id
        self.unread: list[tuple[int, bytes]] = []  # a heap of (lease clock, job id): streams that wait for a reader
        self.return_until = 0  # lease clock: until when workers may come back after a stall of the broker
        self.next_watch = 0  # lease clock: when peers are to be looked at again
        self.counted: dict[bytes, Batch] = {}  # batches that this tick touched, until what follows is done
        self.flows: dict[bytes, Workflow] = {}  # workflows of which this tick ended steps, likewise
        self.batches_kept = 0  # batches and workflows
        self.over: deque[tuple[bytes, str, bytes]] = deque()  # parents with children to look at: id, how, cursor
        self.wakes: list[tuple[int, str]] = []  # a heap of (lease clock, queue): when a rate lets it go on
        self.retain_at = NEVER  # wall clock: when queues that keep dead jobs for a time are to be looked at
        self.retaining = False  # they are being looked at, in slices
        self.next_due = 0  # wall ms of the earliest timer; far away if none
        self.timers_from = b""  # no timer row lies before this key
        self.works: deque[Steps] = deque()  # slow work under way
        self.resting: list[tuple[int, int, Steps]] = []  # a heap of (lease clock, n, slow work that goes on then)
        self.next_work = 0  # the number of the last long order
        self.schedules = 0  # how many there are
        self.topics = Topics()
        self.history = HistoryIndex()
        self.recent = Recent()
        self.notices: list[Notice] = []
        self.disk_low = False
        self.draining = False
        self.counters: dict[str, int] = {}
        self.turns = [0] * (len(limits.TURN_BOUNDS_MS) + 1)  # how many worked up to which time
        self.longest_turn_ms = 0.0

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def notice(self, level: str, event: str, **facts: Any) -> None:
        self.notices.append(Notice(level, event, facts))

    def send(self, peer: Peer, message: Message) -> None:
        self.tick.send(peer.route, message)

    # ---- queues

    def queue(self, name: str) -> Queue:
        """The queue of this name, made if there is none. The name was checked."""
        queue = self.queues.get(name)
        if queue is None:
            ring = Ring(name, self.view, self.budget, empty=True, window=self.settings.window_jobs)
            queue = self.queues[name] = Queue(name, ring, self.policy(name, NOTHING), self.wall)
            self.touched[queue] = None
            self.notice("info", "queue made", queue=name)
        return queue

    def policy(self, name: str, own: Options) -> QueuePolicy:
        """The policy of the queue: what was set (``own``), else what the file says, else what holds for all."""
        declared = self.settings.queues.get(name, NOTHING)
        return self.settings.policy.with_options({**declared, **own})

    def move(self, queue: Queue, before: JobState | None, event: Event, jobs: int = 1, size: int = 0) -> None:
        """Count a transition of ``jobs`` of the queue; its row is written at the end of the tick.

        ``size`` is what they take on disk in all; it counts for the states in which a job waits.
        """
        queue.counts.move(before, event, jobs, size)
        self.touched[queue] = None
        self.waits_or_not(queue)

    def waits_or_not(self, queue: Queue) -> None:
        """Note whether the queue has jobs for a worker with credit."""
        if queue.counts.jobs[JobState.READY] and not queue.paused:
            self.waiting.setdefault(queue)
        else:
            self.waiting.pop(queue, None)

    def put_back(self, queue: Queue, place: Place, identifier: bytes, change: Change) -> None:
        """A ready job returns to its place; one that lost a worker before waits there apart, as a suspect."""
        if not change.losses:
            queue.ring.put_back(place, change.sequence, identifier, self.tick)
            return
        key = rows.lane_prefix(queue.name, *place) + rows.number8(change.sequence) + rows.RETURNED
        self.tick.put_ready(key, rows.pack([identifier]))
        queue.suspects.add((place[0], change.sequence, identifier))

    def give(self, queue: Queue, key: bytes, jobs: int) -> None:
        """So many jobs of the key are in flight no more."""
        if queue.ring.give(key, jobs) or queue.suspects:
            self.hot[queue] = None

    def unkeep(self, queue: Queue, identifier: bytes, key: bytes) -> None:
        """A waiting job goes, or becomes ready: its key waits for it no longer, if it did."""
        if identifier in queue.ring.keys.kept:
            self.tick.rows["heads"][rows.head_key(queue.name, key, identifier)] = None
            if queue.ring.unkeep(identifier) or queue.suspects:
                self.hot[queue] = None

    def wake_later(self, queue: Queue, at: int) -> None:
        """Look at the queue again at this time of the lease clock."""
        if at < queue.wake_at:
            queue.wake_at = at
            heappush(self.wakes, (at, queue.name))

    # ---- jobs

    def find(self, identifier: bytes) -> Found | None:
        """The live job of this id, or None: never there, gone, or void by a purge that is still being swept."""
        record = self.view.get("jobs", identifier)
        if record is None:
            return None
        encoded = self.view.get("changes", identifier)
        change = rows.decode_change(encoded) if encoded is not None else None
        header = header_of(record)
        queue = self.queue(header.queue)
        delivery = self.leased.get(identifier)
        if delivery is not None:
            return Found(identifier, record, header, change, JobState.LEASED, delivery, queue)
        state = change.state if change else JobState.READY
        sequence = change.sequence if change else sequence_of(record)
        if state is JobState.READY and sequence < queue.floor:
            return None
        return Found(identifier, record, header, change, state, None, queue)

    def change_of(self, identifier: bytes) -> Change | None:
        """The change row of a job, if it has one."""
        encoded = self.view.get("changes", identifier)
        return rows.decode_change(encoded) if encoded is not None else None

    def is_ready(
        self, queue: Queue, identifier: bytes, record: bytes | None, change: Change | None, sequence: int
    ) -> bool:
        """Whether a ready entry counts: the rule of ``docs/storage.md``; what it does not let through is a ghost."""
        if record is None or identifier in self.leased or header_of(record).queue != queue.name:
            return False
        if change is None:
            return sequence_of(record) == sequence
        return change.state is JobState.READY and change.sequence == sequence

    def write_change(self, identifier: bytes, change: Change) -> None:
        self.tick.rows["changes"][identifier] = rows.encode_change(change)
        if identifier in self.followers:
            self.changed[identifier] = None

    def digest_of(self, identifier: bytes, record: bytes) -> bytes:
        """The digest of a job that is still there."""
        header = header_of(record)
        payload = self.view.get("payloads", identifier) or b"" if header.external else payload_of(record)
        return rows.digest(header.queue, header.options, payload)

    def erase(self, found_id: bytes, *, changed: bool, external: bool) -> None:
        """Delete a job's rows. Its ready entry or timer stays as a ghost and is skipped when met."""
        self.tick.rows["jobs"][found_id] = None
        if changed:
            self.tick.rows["changes"][found_id] = None
        if external:
            self.tick.rows["payloads"][found_id] = None
        self.forget_fresh(found_id)

    def forget_fresh(self, identifier: bytes) -> None:
        """The record in memory says no longer all there is of the job."""
        known = self.fresh.pop(identifier, None)
        if known is not None:
            self.fresh_bytes -= len(known[0])

    def add_timer(
        self, due_ms: int, timer: rows.TimerRow, kind: int = rows.TIMER_READY, *, mark: bytes | None = None
    ) -> None:
        """With a mark there is only one of that time and kind that has it."""
        if mark is not None:
            key = rows.timers_prefix(due_ms, kind) + mark
        else:
            key = rows.timer_key(due_ms, kind, self.tick.number, self.tick.timers)
            self.tick.timers += 1
        self.tick.rows["timers"][key] = rows.pack(timer)
        self.next_due = min(self.next_due, due_ms)
        self.timers_from = min(self.timers_from, key)

    def read(self, ids: list[bytes]) -> list[tuple[bytes, bytes | None, Change | None]]:
        """Id, record and change row of each of the jobs, read together."""
        changes = self.view.get_many("changes", ids)
        return [
            (identifier, record, rows.decode_change(encoded) if encoded is not None else None)
            for identifier, record, encoded in zip(ids, self.view.get_many("jobs", ids), changes, strict=True)
        ]

    def end_stream(self, identifier: bytes) -> None:
        """The job has no reader any more, if it had one."""
        stream = self.streams.pop(identifier, None)
        if stream is not None and stream.peer is not None:
            stream.peer.streams.pop(identifier, None)

    def work(self, steps: Steps) -> None:
        """Run slow work in slices, from the next turn on."""
        self.works.append(steps)

    # ---- workers

    def credit_changed(self, peer: Peer) -> None:
        """Let dispatch have a look at the peer, if it has credit. Its place in the queues that it serves is mended when
        they are looked at: a worker of many queues does not pay for each of them with each job."""
        if self.draining:
            return
        if peer.credit > 0:
            for queue in peer.away:
                queue.free[peer] = None
            peer.away.clear()
            self.eager[peer] = None
        elif peer.reserved and peer.unsettled == 0:
            self.hot.update((queue, None) for queue in peer.queues if queue.suspects)

    def unreserve(self, queue: Queue) -> None:
        """The queue has no suspect that waits for a worker to run empty: give them their work again."""
        for peer in queue.workers:
            if peer.reserved:
                peer.reserved = False
                self.credit_changed(peer)
