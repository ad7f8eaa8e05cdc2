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
from zbroker.core.keys import Rate, rate_of
from zbroker.core.lanes import Budget, Place, Ring
from zbroker.core.policy import Options, QueuePolicy
from zbroker.core.rows import Change
from zbroker.core.states import Counts, Event
from zbroker.core.states import State as JobState
from zbroker.core.tick import Tick, View
from zbroker.storage.interface import Store
from zclient.protocol import limits as wire
from zclient.protocol.messages import Message
from zclient.protocol.record import Header, header_of, sequence_of

if TYPE_CHECKING:
    from random import Random

NEVER = 1 << 62
"""A time that does not come."""

_NOTHING: Options = {}

Steps = Iterator[int | None]
"""Slow work: each `next` is one step, and says when it wants the next: None for soon, or a time of the lease clock."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the core is told once. Milliseconds."""

    policy: QueuePolicy = field(default_factory=QueuePolicy)  # of a queue that says nothing
    sources: Mapping[str, str] = field(default_factory=dict)  # option of it -> where its value came from
    queues: Mapping[str, Options] = field(default_factory=dict)  # what the configuration file says of queues
    grace_ms: int = 1_000  # for a worker whose connection was reset
    return_ms: int = 5_000  # for workers to come back after a start of the broker
    probe_ms: int = wire.PROBE_INTERVAL_MS
    client_probe_ms: int = limits.CLIENT_PROBE_MS
    max_payload: int = wire.MAX_PAYLOAD_BYTES
    keep_done_count: int = 100_000
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


class Producer:
    """The batch numbers of one incarnation: what was applied, and the answers that were not plain."""

    __slots__ = ("answers", "applied", "low", "unknown_below")

    def __init__(self) -> None:
        self.low = 1
        self.applied: set[int] = set()
        self.answers: dict[int, Any] = {}
        self.unknown_below = 0  # numbers below it were sent to a broker whose memory of them is lost


class Peer:
    """One incarnation of a producer or worker, connected or expected back."""

    __slots__ = (
        "alone",
        "capacity",
        "congested_until",
        "deliveries",
        "grace_until",
        "incarnation",
        "info",
        "joined_ms",
        "name",
        "probe_at",
        "producer",
        "queues",
        "reserved",
        "route",
        "seen",
        "tasks",
        "unsettled",
        "watched",
        "wedged",
    )

    def __init__(self, incarnation: bytes, name: str) -> None:
        self.incarnation = incarnation
        self.name = name
        self.route: bytes | None = None  # ROUTER's id of its connection
        self.capacity = 0
        self.unsettled = 0  # jobs delivered and not settled
        self.queues: list[Queue] = []
        self.deliveries: dict[int, Delivery] = {}
        self.alone = False  # it holds a suspect, and gets nothing else
        self.seen = False  # it said HELLO since the broker started
        self.reserved = False  # it gets nothing until it is empty, and then a suspect
        self.grace_until: int | None = None  # lease clock; gone by then: its jobs return
        self.congested_until = 0  # lease clock; 0 while its connection takes what is sent
        self.wedged = False  # a lease of it ran out: it gets nothing until it says HELLO
        self.probe_at = 0  # lease clock
        self.joined_ms = 0  # lease clock
        self.watched: set[bytes] = set()
        self.producer: Producer | None = None
        self.info: dict[str, Any] = {}
        self.tasks: dict[str, Options] = {}  # queue -> what the worker's task says of its jobs

    @property
    def credit(self) -> int:
        if self.alone or self.reserved or self.wedged or self.congested_until or self.route is None:
            return 0
        return self.capacity - self.unsettled


class Delivery:
    """One hand-over of jobs to one worker, under one fence."""

    __slots__ = (
        "alone",
        "changes",
        "created_ms",
        "deadline",
        "external",
        "fence",
        "ids",
        "limit",
        "open",
        "peer",
        "queue",
        "route",
        "special",
        "started_ms",
    )

    def __init__(self, fence: int, queue: "Queue", peer: Peer, ids: list[bytes], started_ms: int) -> None:
        self.fence = fence
        self.queue = queue
        self.peer = peer
        self.ids = ids
        self.route = peer.route  # the connection it was sent on
        self.open = len(ids)  # jobs of it that are not settled
        self.started_ms = started_ms  # wall clock
        self.deadline = 0  # lease clock
        self.limit = NEVER  # lease clock: when its runs are too long, renewed or not
        self.created_ms: int | dict[bytes, int] = 0  # wall clock; one for all, or one a job
        self.alone = False  # a suspect, delivered to a worker that held nothing else
        self.changes: dict[bytes, Change] = {}  # of those of its jobs that have one
        self.external: set[bytes] = set()  # those of its jobs whose payload has a row of its own
        self.special: dict[bytes, Header] = {}  # those of its jobs with a key or a unique text

    @property
    def task(self) -> Options:
        """What the worker's task says of these jobs."""
        return self.peer.tasks.get(self.queue.name, _NOTHING)


class Queue:
    """A queue: counters, lanes, what its policy says, and the workers that serve it."""

    __slots__ = (
        "closed",
        "counts",
        "created_ms",
        "floor",
        "free",
        "name",
        "next_sequence",
        "options",
        "paused",
        "policy",
        "rate",
        "ring",
        "served_ms",
        "suspects",
        "used_until",
        "wake_at",
        "workers",
    )

    def __init__(self, name: str, ring: Ring, policy: QueuePolicy, created_ms: int) -> None:
        self.name = name
        self.ring = ring
        self.created_ms = created_ms
        self.counts = Counts()
        self.next_sequence = 1
        self.floor = 0  # entries of a smaller sequence are void: a purge took them
        self.paused = False
        self.closed = False  # takes no new jobs
        self.served_ms = 0  # wall clock: when its last worker left; 0: none ever came
        self.options: Options = {}  # what `set` said
        self.workers: dict[Peer, None] = {}
        self.free: dict[Peer, None] = {}  # workers with credit, in the order of their turns
        self.suspects = ring.aside  # (rank, sequence, id) of ready jobs that lost a worker before
        self.rate: Rate | None = None
        self.used_until = 0.0  # lease clock: until when the rate is used up
        self.wake_at = NEVER  # lease clock: when it is to be looked at again, because of a rate
        self.use(policy)

    def use(self, policy: QueuePolicy) -> None:
        """Take over a policy."""
        self.policy = policy
        self.rate = rate_of(policy.rate)
        self.ring.keys.configure(policy.key_limit, rate_of(policy.key_rate), policy.key_weights)
        self.ring.let_all_go()

    def row(self) -> rows.QueueRow:
        jobs, sizes, totals = rows.counts_row(self.counts)
        return rows.QueueRow(
            self.next_sequence,
            self.floor,
            self.paused,
            self.created_ms,
            self.closed,
            self.served_ms,
            jobs,
            sizes,
            totals,
        )

    def sequences(self, jobs: int) -> int:
        """The first of as many new sequences."""
        first = self.next_sequence
        self.next_sequence = first + jobs
        return first

    def room(self, now: int) -> int:
        """How many jobs may go out now, whatever their keys."""
        room = 1 << 30
        if self.policy.in_flight_limit:
            room = self.policy.in_flight_limit - self.counts.jobs[JobState.LEASED]
        if self.rate is not None:
            room = min(room, self.rate.free(self.used_until, now))
        return room


class HistoryIndex:
    """Where each finished job stands. See ``history.py``; the rows are the truth."""

    __slots__ = ("asked", "block_of", "blocks", "complete", "due", "jobs", "n", "of_queue")

    def __init__(self) -> None:
        self.block_of: dict[bytes, bytes] = {}  # id -> history key
        self.blocks: OrderedDict[bytes, tuple[str, list[bytes]]] = OrderedDict()  # key -> queue, ids; oldest first
        self.of_queue: dict[str, deque[tuple[int, bytes]]] = {}  # queue -> (ended, key), oldest first; some are gone
        self.due: list[tuple[int, str]] = []  # a heap of (wall clock, queue): when its oldest block is to go
        self.jobs = 0
        self.n = 0  # blocks written in this tick
        self.complete = True
        self.asked: dict[bytes, None] = {}  # watched jobs that may stand in what is still being read back


@dataclass(slots=True)
class Found:
    """A live job, as its rows and the deliveries say."""

    id: bytes
    record: bytes
    header: Header
    change: Change | None
    state: JobState
    delivery: Delivery | None
    queue: Queue

    @property
    def sequence(self) -> int:
        return self.change.sequence if self.change else sequence_of(self.record)

    @property
    def place(self) -> Place:
        return place_of(self.header)

    @property
    def expires_ms(self) -> int:
        """When it is too late to begin it (wall clock); 0 for never."""
        return expiry_of(self.header, self.change)

    def changed(self) -> Change:
        """Its change row, made if nothing happened to it yet."""
        return self.change or Change(JobState.READY, sequence_of(self.record))


def place_of(header: Header) -> Place:
    """The lane that a job's options put it in."""
    options = header.options
    return rows.rank_of(options.get("priority", 0)), options.get("key", "").encode()


def expiry_of(header: Header, change: Change | None) -> int:
    """When it is too late to begin a job (wall clock); 0 for never."""
    return 0 if change is not None and change.unexpiring else header.expires_ms


def is_special(header: Header) -> bool:
    """Whether the job's end has something to set free: its key's turn, its unique text."""
    return bool(header.options) and ("key" in header.options or "unique" in header.options)


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
        self.fresh: dict[bytes, bytes] = {}  # records of jobs that were never delivered
        self.fresh_bytes = 0
        self.watchers: dict[bytes, dict[Peer, None]] = {}  # by job id; in an order that a seed repeats
        self.followers: dict[bytes, dict[Peer, None]] = {}  # those of them that are told of changes as well
        self.changed: dict[bytes, None] = {}  # followed jobs that this tick changed
        self.hot: dict[Queue, None] = {}  # queues that dispatch should look at
        self.touched: dict[Queue, None] = {}  # queues whose row this tick must write
        self.batches: dict[Peer, None] = {}  # peers whose batch numbers this tick must write
        self.next_watch = 0  # lease clock: when peers are to be looked at again
        self.wakes: list[tuple[int, str]] = []  # a heap of (lease clock, queue): when a rate lets it go on
        self.retain_at = NEVER  # wall clock: when queues that keep dead jobs for a time are to be looked at
        self.next_due = 0  # wall ms of the earliest timer; far away if none
        self.timers_from = b""  # no timer row lies before this key
        self.works: deque[Steps] = deque()  # slow work under way
        self.resting: list[tuple[int, int, Steps]] = []  # a heap of (lease clock, n, slow work that goes on then)
        self.next_work = 0  # the number of the last long order
        self.history = HistoryIndex()
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
            queue = self.queues[name] = Queue(name, ring, self.policy(name, _NOTHING), self.wall)
            self.touched[queue] = None
            self.notice("info", "queue made", queue=name)
        return queue

    def policy(self, name: str, own: Options) -> QueuePolicy:
        """The policy of the queue: what was set (``own``), else what the file says, else what holds for all."""
        declared = self.settings.queues.get(name, _NOTHING)
        return self.settings.policy.with_options({**declared, **own})

    def move(self, queue: Queue, before: JobState | None, event: Event, jobs: int = 1, size: int = 0) -> None:
        """Count a transition of ``jobs`` of the queue; its row is written at the end of the tick.

        ``size`` is what they take on disk in all; it counts for the states in which a job waits.
        """
        queue.counts.move(before, event, jobs, size)
        self.touched[queue] = None

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
        if queue.ring.give(key, jobs):
            self.hot[queue] = None

    def unkeep(self, queue: Queue, identifier: bytes, key: bytes) -> None:
        """A waiting job goes, or becomes ready: its key waits for it no longer, if it did."""
        if identifier in queue.ring.keys.kept:
            self.tick.rows["heads"][rows.head_key(queue.name, key)] = None
            if queue.ring.unkeep(identifier):
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

    def erase(self, found_id: bytes, *, changed: bool, external: bool) -> None:
        """Delete a job's rows. Its ready entry or timer stays as a ghost and is skipped when met."""
        self.tick.rows["jobs"][found_id] = None
        if changed:
            self.tick.rows["changes"][found_id] = None
        if external:
            self.tick.rows["payloads"][found_id] = None
        record = self.fresh.pop(found_id, None)
        if record is not None:
            self.fresh_bytes -= len(record)

    def add_timer(self, due_ms: int, timer: rows.TimerRow, kind: int = rows.TIMER_READY) -> None:
        key = rows.timer_key(due_ms, timer.ids[0], kind)
        while self.view.get("timers", key) is not None:  # a cancelled job of this id left it, and others are in it
            key += b"\0"
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

    def work(self, steps: Steps) -> None:
        """Run slow work in slices, from the next turn on."""
        self.works.append(steps)

    # ---- workers

    def credit_changed(self, peer: Peer) -> None:
        """Give the peer its place among those with credit, and its queues a look."""
        if peer.credit > 0 and not self.draining:
            for queue in peer.queues:
                queue.free.setdefault(peer, None)
                if queue.counts.jobs[JobState.READY] and not queue.paused:
                    self.hot[queue] = None
            return
        for queue in peer.queues:
            queue.free.pop(peer, None)
        if peer.reserved and peer.unsettled == 0 and not self.draining:
            for queue in peer.queues:
                self.hot[queue] = None

    def unreserve(self, queue: Queue) -> None:
        """The queue has no suspect that waits for a worker to run empty: give them their work again."""
        for peer in queue.workers:
            if peer.reserved:
                peer.reserved = False
                self.credit_changed(peer)
