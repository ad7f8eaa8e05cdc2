"""What the state is made of: producers, peers, deliveries, queues, the index of finished jobs, and a job as found.

Plain things: they know how to count and to compare, and change nothing beyond themselves.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from zbroker.core import rows
from zbroker.core.keys import Rate, rate_of
from zbroker.core.lanes import Ring
from zbroker.core.policy import Options, QueuePolicy
from zbroker.core.rows import Change
from zbroker.core.states import Counts
from zbroker.core.states import State as JobState
from zbroker.core.topics import Tail
from zbroker.core.window import Place
from zclient.protocol.record import Header, sequence_of

NEVER = 1 << 62
"""A time that does not come."""

NOTHING: Options = {}


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
        "away",
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
        "streams",
        "tails",
        "tasks",
        "turn",
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
        self.away: dict[Queue, None] = {}  # those whose `free` it left when it was found without credit
        self.turn = 0  # the position in `queues` of the one that is served next
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
        self.tails: dict[int, Tail] = {}  # by the number that it gave them
        self.streams: dict[bytes, None] = {}  # jobs whose partials it reads
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
        "digests",
        "external",
        "fence",
        "ids",
        "limit",
        "open",
        "outlived",
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
        self.outlived: set[bytes] = set()  # those of its jobs whose timer of expiry fired while they ran
        self.digests: dict[bytes, bytes] = {}  # of those of its jobs whose ids somebody chose
        self.special: dict[bytes, Header] = {}  # those of its jobs for which `is_special` holds

    @property
    def task(self) -> Options:
        """What the worker's task says of these jobs."""
        return self.peer.tasks.get(self.queue.name, NOTHING)


class Queue:
    """A queue: counters, lanes, what its policy says, and the workers that serve it."""

    __slots__ = (
        "closed",
        "counts",
        "created_ms",
        "dies_from",
        "floor",
        "free",
        "name",
        "next_sequence",
        "options",
        "passed",
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
        self.dies_from = 0  # wall clock: who dies from now on died then at the earliest, after those of an order
        self.paused = False
        self.closed = False  # takes no new jobs
        self.served_ms = 0  # wall clock: when its last worker left; 0: none ever came
        self.options: Options = {}  # what `set` said
        self.workers: dict[Peer, None] = {}
        self.free: dict[Peer, None] = {}  # workers in the order of their turns; all that have credit are among them
        self.suspects = ring.aside  # (rank, sequence, id) of ready jobs that lost a worker before
        self.passed: tuple[int, int, bytes] | None = None  # those up to here were looked at, and their keys hold them
        self.rate: Rate | None = None
        self.used_until = 0.0  # lease clock: until when the rate is used up
        self.wake_at = NEVER  # lease clock: when it is to be looked at again, because of a rate
        self.use(policy)

    def use(self, policy: QueuePolicy) -> None:
        """Take over a policy."""
        self.policy = policy
        rate = rate_of(policy.rate)
        if rate != self.rate:
            self.rate, self.used_until = rate, 0.0
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
            rows.SERVED if self.workers else self.served_ms,
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


class Stream:
    """What the broker knows of a stream: its reader's last words. Partials it never keeps."""

    __slots__ = ("fence", "have", "peer", "until", "upto")

    def __init__(self) -> None:
        self.peer: Peer | None = None  # its reader; None while nobody reads it
        self.until = 0  # lease clock: when it has waited too long for a reader
        self.fence = 0  # the run that the other two speak of; 0: whichever is first
        self.have = 0  # partials that the reader has
        self.upto = 0  # it may be sent those below


HistoryBlock = tuple[str, list[bytes], bool]
"""A queue, the jobs that ended together in it, and whether a result of theirs has a row of its own."""


class HistoryIndex:
    """Where each finished job stands. See ``history.py``; the rows are the truth."""

    __slots__ = ("asked", "block_of", "blocks", "complete", "due", "due_at", "jobs", "n", "of_queue")

    def __init__(self) -> None:
        self.block_of: dict[bytes, bytes] = {}  # id -> history key
        self.blocks: OrderedDict[bytes, HistoryBlock] = OrderedDict()  # by key; oldest first
        self.of_queue: dict[str, deque[tuple[int, bytes]]] = {}  # queue -> (ended, key), oldest first
        self.due: list[tuple[int, str]] = []  # a heap of (wall clock, queue): when its oldest block is looked at
        self.due_at: dict[str, int] = {}  # queue -> the entry of it that counts
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


_TELLING = frozenset(("key", "unique", "after", "batch", "stream"))


def is_special(header: Header) -> bool:
    """Whether the job's end means something for others: its key, its unique text, its parents' results, its batch, its
    reader."""
    options = header.options
    return bool(options) and not _TELLING.isdisjoint(options)
