"""What was asked for, what was promised, and what the rows say: the judge of a simulated world.

It reads every write that is there for good, row by row, and keeps its own idea of where each job stands. It shares
no bookkeeping with the core: only the shapes of the rows. Whatever may not be is a `Violation` at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tests.simulation.parents import check_parents
from tests.simulation.world import Violation, World
from zbroker.core import rows
from zbroker.core.entities import expiry_of, place_of
from zbroker.core.policy import QueuePolicy
from zbroker.core.rows import Change, DeliveryRow, HistoryRow
from zbroker.core.states import State
from zbroker.storage.interface import Range, Rows
from zclient.protocol.record import Header, header_of, sequence_of

UNKEPT = ("purged", "dropped", "expired")
"""Ends of which the broker keeps nothing."""

Lane = tuple[str, int, bytes]


class Ended(NamedTuple):
    """How a job ended for good."""

    how: str
    fence: int
    result: bytes | None


class Book:
    """The rows as they are for good, and the history of each job. Ids are bytes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.policy_of: Callable[[str], QueuePolicy | None] = lambda queue: None  # as the broker has it now
        self.may_expire: Callable[[int], bool] = lambda fence: True  # whether that lease is over
        self.capacity_of: Callable[[bytes], int | None] = lambda incarnation: None
        # what was asked for, and promised
        self.asked: dict[bytes, str] = {}  # id -> by whom
        self.forgets = False  # some queue keeps what is done for less than this lasts
        self.asked_in: dict[bytes, str] = {}  # id -> queue
        self.asked_again: set[bytes] = set()  # ids that were sent by several calls
        self.confirmed: set[bytes] = set()
        self.never: dict[bytes, str] = {}  # ids that were refused, or never left, and why they must not be there
        self.instead: set[bytes] = set()  # ids under which nothing was stored, since another job has the text
        self.sent_by: dict[bytes, tuple[bytes, int]] = {}  # id -> the job whose handler sent it, and in which delivery
        self.outcomes: dict[tuple[int, bytes], tuple[str, bytes | None]] = {}  # how runs ended, and with what result
        self.yielded: dict[tuple[int, bytes], int] = {}  # of runs with readers: how many values
        self.yielded_all: set[tuple[int, bytes]] = set()  # those whose readers had all of it
        self.starts: dict[bytes, list[int]] = {}  # id -> fences of its runs
        self.purged: set[str] = set()  # queues
        self.dropped: set[str] = set()  # queues of which somebody drops, or retention may drop, dead jobs
        self.cancelling: set[bytes] = set()
        # what makes jobs by itself
        self.publications: dict[bytes, str] = {}  # id -> why it must have no copies
        self.copies: Counter[bytes] = Counter()  # publication -> how many came
        self.copied: set[tuple[bytes, str]] = set()  # publications, and the queues that got them
        self.may_copy: Callable[[bytes, str], bool] = lambda source, queue: False
        self.may_return: Callable[[bytes, str], bool] = lambda source, queue: False  # though it was there before
        self.schedules: dict[str, None] = {}
        self.runs: Counter[str] = Counter()  # how many somebody asked for, less those that came
        self.batches: dict[bytes, dict[bytes, None]] = {}  # id -> its jobs
        self.closed: set[bytes] = set()  # batches that somebody closes
        self.counted: set[bytes] = set()  # jobs of batches
        self._called: list[tuple[bytes, bytes]] = []  # callbacks that came in this write: batch, kind
        self.callbacks: set[bytes] = set()  # ids of jobs that may follow a batch
        # what is there
        self.records: dict[bytes, bytes] = {}
        self.born: dict[bytes, int] = {}  # id -> when its record came, counted in records
        self.changes: dict[bytes, Change] = {}
        self.of_queue: dict[str, dict[bytes, None]] = {}
        self.deliveries: dict[int, DeliveryRow] = {}
        self.unsent: set[int] = set()  # deliveries that never arrived: the broker could not send them, or HELLO says so
        self.holder: dict[bytes, int] = {}  # id -> the delivery that has it
        self.ended: dict[bytes, Ended] = {}
        self.before: dict[bytes, Ended] = {}  # likewise, of jobs that were forgotten and sent again: their last life
        self.was_dead: set[bytes] = set()
        self.replayed: set[bytes] = set()
        self.floors: dict[str, int] = {}  # by queue: what waits below was purged, and is removed in slices
        self.purges = 0
        self.last_fence = 0
        self.delivered = 0
        self.stored = 0
        self.judges: list[Callable[[Rows, Sequence[Range]], None]] = []  # who else looks at each write, after the book

    # ---- what the rows say of a job

    def state_of(self, identifier: bytes) -> State | None:
        """Where the job stands; None if it is not there."""
        if identifier not in self.records:
            return None
        if identifier in self.holder:
            return State.LEASED
        change = self.changes.get(identifier)
        return change.state if change is not None else State.READY

    def sequence(self, identifier: bytes) -> int:
        change = self.changes.get(identifier)
        return change.sequence if change is not None else sequence_of(self.records[identifier])

    def is_void(self, identifier: bytes) -> bool:
        """Whether a purge took it, whose sweep has not come to it yet."""
        if self.state_of(identifier) is not State.READY:
            return False
        return self.sequence(identifier) < self.floors.get(header_of(self.records[identifier]).queue, 0)

    def _key(self, identifier: bytes) -> bytes:
        return place_of(header_of(self.records[identifier]))[1]

    def live(self) -> list[bytes]:
        """The jobs that are neither over nor dead."""
        return [identifier for identifier in self.records if self.state_of(identifier) is not State.DEAD]

    # ---- promises

    def promise(self, ids: Iterable[bytes], instead: Iterable[bytes]) -> None:
        """A producer is told that these are stored, but for those that another job stands for."""
        self.instead.update(instead)
        for identifier in ids:
            self.confirmed.add(identifier)
            if identifier not in self.instead:
                self._must_be_known(identifier, "was confirmed")

    def _must_be_known(self, identifier: bytes, why: str) -> None:
        if identifier not in self.records and identifier not in self.ended:
            raise Violation(f"{_text(identifier)} {why}, and is not on disk")

    def refuse(self, ids: Iterable[bytes], why: str) -> None:
        """A producer is told that these are not stored, and never will be."""
        for identifier in ids:
            self.never[identifier] = why
            if identifier in self.records or identifier in self.ended:
                raise Violation(f"{_text(identifier)} is stored, and its producer was told that it is not: {why}")

    # ---- a write

    def write(self, written: Rows, ranges: Sequence[Range]) -> None:
        """A write that is there for good."""
        before = dict(self.holder)
        left: set[bytes] = set()
        for value in written["history"].values():
            if value is not None:
                left |= self._history(HistoryRow(*rows.unpack(value)), before)
        for identifier, record in written["jobs"].items():
            if record is not None:
                self._stored(identifier, record)
        for identifier, encoded in written["changes"].items():
            if encoded is not None:
                self._changed(identifier, rows.decode_change(encoded))
        delivered = []
        for key, value in written["deliveries"].items():
            fence = int.from_bytes(key, "big")
            if value is None:
                self.deliveries.pop(fence, None)
            else:
                delivered.append((fence, DeliveryRow(*rows.unpack(value))))
        for key, value in written["dead"].items():
            if value is None:
                self.was_dead.add(rows.split_dead_key(key)[2])
        for identifier, record in written["jobs"].items():
            if record is None:
                self._removed(identifier, identifier in left)
        for identifier, encoded in written["changes"].items():
            if encoded is None:
                self.changes.pop(identifier, None)
        while self._called:
            self._check_callback(*self._called.pop())
        for key, value in written["meta"].items():
            if value is not None and key.startswith(rows.META_QUEUE):
                queue, floor = key.removeprefix(rows.META_QUEUE).decode(), rows.unpack(value)[1]
                self.purges += floor > self.floors.get(queue, 0)
                self.floors[queue] = floor
        for fence, row in sorted(delivered):
            self._delivered(fence, row)
        if delivered:
            self._check_delivered(delivered)
        for judge in self.judges:
            judge(written, ranges)

    def _history(self, row: HistoryRow, holder: dict[bytes, int]) -> set[bytes]:
        """Jobs ended together."""
        for position, identifier in enumerate(row.ids):
            result = row.results[position] if row.results else None
            end = self.ended.get(identifier)
            if end is not None and not ((self.forgets or end.how in UNKEPT) and identifier in self.asked_again):
                raise Violation(f"{_text(identifier)} ended twice: {end.how}, now {row.state}")
            if row.fence and holder.get(identifier) != row.fence:
                raise Violation(
                    f"{_text(identifier)} ended by the delivery {row.fence}, and {holder.get(identifier)} has it"
                )
            if row.state == State.DONE:
                self._done(identifier, row.fence, result)
            self.ended[identifier] = Ended(row.state, row.fence, result if isinstance(result, bytes) else None)
        return set(row.ids)

    def _done(self, identifier: bytes, fence: int, result: bytes | bool | None) -> None:
        outcome, value = self.outcomes.get((fence, identifier), ("", None))
        if outcome not in ("ack", "send"):
            raise Violation(
                f"{_text(identifier)} is done by the delivery {fence}, whose run said {outcome or 'nothing'}"
            )
        if result is not True and (result or None) != (value or None):
            raise Violation(f"{_text(identifier)} has the result {result!r}, and its run returned {value!r}")

    def _stored(self, identifier: bytes, record: bytes) -> None:
        end = self.ended.get(identifier)
        if end is not None:
            is_asked_again = identifier in self.asked_again or self._is_copied_again(identifier, record)
            if (end.how not in UNKEPT and not self.forgets) or not is_asked_again:
                raise Violation(f"{_text(identifier)} is there again, and was {end.how}")
            self.before[identifier] = self.ended.pop(identifier)  # nobody remembers it, and it was sent again
        if identifier in self.never:
            raise Violation(f"{_text(identifier)} is stored, and must not be: {self.never[identifier]}")
        header = header_of(record)
        old = self.records.get(identifier)
        if old is None:
            if identifier not in self.asked:
                self._came_by_itself(identifier, header.queue)
            if "batch" in header.options:
                self.batches[header.options["batch"]][identifier] = None
                self.counted.add(identifier)
            sender = self.sent_by.get(identifier)
            if sender is not None and (self.ended.get(sender[0]) or Ended("", 0, None))[:2] != ("done", sender[1]):
                raise Violation(f"{_text(identifier)} was sent by {_text(sender[0])}, which is not done by {sender[1]}")
            self.stored += 1
            self.born[identifier] = self.stored
        else:
            queue = header_of(old).queue
            if queue == header.queue:
                is_asked_again = (
                    identifier in self.asked_again
                    or self._is_run(identifier)
                    or self._is_copied_again(identifier, record)
                )
                if queue not in self.purged or not is_asked_again:
                    raise Violation(f"the record of {_text(identifier)} is written twice")
                self.before[identifier] = Ended("purged", 0, None)  # void, and sent again before its sweep came by
            else:
                self.was_dead.add(identifier)
            del self.of_queue[queue][identifier]
            self.holder.pop(identifier, None)
        self.records[identifier] = record
        self.of_queue.setdefault(header.queue, {})[identifier] = None

    def _is_copied_again(self, identifier: bytes, record: bytes) -> bool:
        """Whether it is the copy of what was published again, or in a queue whose bindings began in the past."""
        source = identifier.rpartition(b".")[0]
        return source in self.publications and self.may_return(source, header_of(record).queue)

    def _is_run(self, identifier: bytes) -> bool:
        """Whether it is one that somebody asks a schedule for; several of one millisecond have one id each that is
        free."""
        return identifier.partition(b"@")[0].decode() in self.schedules and identifier.endswith(b".run")

    def _came_by_itself(self, identifier: bytes, queue: str) -> None:
        """A job that nobody sent: the copy of a publication, an occurrence of a schedule, or what follows a batch."""
        schedule, at, _ = identifier.decode().partition("@")
        if at and schedule in self.schedules:
            if identifier.endswith(b".run"):
                self._ran(schedule)
            return
        source, _, kind = identifier.rpartition(b".")
        if source in self.publications:
            if self.publications[source]:
                raise Violation(f"{_text(source)} has a copy, and must not: {self.publications[source]}")
            if not self.may_copy(source, queue):
                raise Violation(f"{queue} has a copy of {_text(source)}, and no binding takes it")
            self.copies[source] += 1
            self.copied.add((source, queue))
            return
        if identifier not in self.callbacks:
            raise Violation(f"nobody sent {_text(identifier)}")
        self._called.append((source, kind))

    def _ran(self, schedule: str) -> None:
        """A schedule has a job as often as somebody asks for one, and no oftener."""
        self.runs[schedule] -= 1
        if self.runs[schedule] < 0:
            raise Violation(f"{schedule} has more jobs than somebody asked for")

    def _check_callback(self, batch: bytes, kind: bytes) -> None:
        """It comes when its time has come: closed, and all done; closed, and all over; one dead."""
        jobs = self.batches[batch]
        if kind == b"death":
            if not any(job in self.was_dead for job in jobs):
                raise Violation(f"{_text(batch)} is told a death, and none of its jobs was dead")
        elif batch not in self.closed:
            raise Violation(f"{_text(batch)} is told to be over, and nobody closed it")

    def promise_copies(self, publication: bytes, queues: int, purges: int) -> None:
        """A producer is told how many queues took what it published. When it published there had been so many purges:
        one of the same commit leaves no trace of a copy."""
        if self.copies[publication] < queues and self.purges == purges:
            raise Violation(f"{queues} queues took {_text(publication)}, and {self.copies[publication]} copies came")

    def refuse_copies(self, publication: bytes, why: str) -> None:
        """A producer is told that it was not published."""
        self.publications[publication] = why
        if self.copies[publication]:
            raise Violation(f"{_text(publication)} has copies, and its producer was told that it has none: {why}")

    def _changed(self, identifier: bytes, change: Change) -> None:
        if identifier not in self.records:
            return
        old = self.changes.get(identifier)
        header = header_of(self.records[identifier])
        holder = self.holder.get(identifier)
        if old is not None and change.fence < old.fence:
            raise Violation(f"the last fence of {_text(identifier)} fell from {old.fence} to {change.fence}")
        if holder is not None and change.fence >= holder:
            if change.fence > holder:
                raise Violation(f"{_text(identifier)} came out of {change.fence}, and {holder} has it")
            del self.holder[identifier]
            self._came_out(identifier, change, old)
        was = old.state if old is not None else State.READY
        moved = change.unexpiring and old is not None and not old.unexpiring
        if was is State.SCHEDULED and change.state is State.READY and old is not None and not moved:
            if self.world.wall < old.due_ms:
                raise Violation(f"{_text(identifier)} is ready {old.due_ms - self.world.wall} ms before its time")
        self._check_place(identifier, change, old)
        if change.state is State.DEAD and was is not State.DEAD:
            self.was_dead.add(identifier)
            self._dead(identifier, header, change)
        elif was is State.DEAD and change.state is not State.DEAD:
            self.replayed.add(identifier)
        self.changes[identifier] = change

    def _check_place(self, identifier: bytes, change: Change, old: Change | None) -> None:
        """A job keeps its sequence, unless it is replayed or moved, or its place was purged."""
        before = old.sequence if old is not None else sequence_of(self.records[identifier])
        queue = header_of(self.records[identifier]).queue
        anew = change.unexpiring and (old is None or not old.unexpiring or old.state is State.DEAD)
        if before and change.sequence != before and not anew and queue not in self.purged:
            raise Violation(f"{_text(identifier)} had the place {before}, and has {change.sequence}")

    def _came_out(self, identifier: bytes, change: Change, old: Change | None) -> None:
        """A job left its delivery, not done: what that burns."""
        runs = change.runs - (old.runs if old is not None else 0)
        moved = bool(change.unexpiring and not change.runs)
        if not moved and runs not in (0, 1):
            raise Violation(f"{_text(identifier)} burnt {runs} attempts in one delivery")
        if moved or not runs or not change.attempts:
            return
        kind = change.attempts[-1].kind
        if change.fence in self.unsent and kind != "lost":  # after a start nobody knows that it was not sent
            raise Violation(f"{_text(identifier)} burnt an attempt by {change.fence}, which never arrived: {kind}")
        outcome = self.outcomes.get((change.fence, identifier), ("", None))[0]
        if kind in ("error", "rejected") and outcome not in ("nack", "reject", "send"):
            raise Violation(f"{_text(identifier)} is said to have failed in {change.fence}; its run said {outcome!r}")
        if kind == "lease expired" and not self.may_expire(change.fence):
            raise Violation(f"the lease {change.fence} of {_text(identifier)} expired before its time")

    def _dead(self, identifier: bytes, header: Header, change: Change) -> None:
        policy = self.policy_of(header.queue)
        if policy is None:
            return
        if change.reason == "poison" and change.losses_alone < policy.poison_losses:
            raise Violation(f"{_text(identifier)} is poison after {change.losses_alone} losses alone")
        if change.reason == "lost" and not policy.once:
            raise Violation(f"{_text(identifier)} is lost, in a queue that delivers again")
        if change.reason == "expired" and not 0 < header.expires_ms <= self.world.wall:
            raise Violation(f"{_text(identifier)} expired before its time")
        if change.reason == "attempts" and not policy.once and change.runs < header.options.get("max_attempts", 1):
            raise Violation(f"{_text(identifier)} is dead after {change.runs} attempts")

    def _removed(self, identifier: bytes, ended: bool) -> None:
        record = self.records.pop(identifier, None)
        if record is None:
            if self.asked_in.get(identifier) in self.purged:  # it came and went in one tick
                self.ended.setdefault(identifier, Ended("purged", 0, None))
            return
        header = header_of(record)
        state = (self.changes.get(identifier) or Change(State.READY, 0)).state
        del self.of_queue[header.queue][identifier]
        self.holder.pop(identifier, None)
        self.changes.pop(identifier, None)
        if ended:
            return
        how = self._way_out(header, state, identifier in self.was_dead)
        if not how:
            raise Violation(f"{_text(identifier)} is gone without an end, and was {state}")
        self.ended[identifier] = Ended(how, 0, None)

    def _way_out(self, header: Header, state: State, was_dead: bool) -> str:
        """What removed a job that is in no history; empty if nothing may have."""
        policy = self.policy_of(header.queue)
        if header.queue in self.purged and state is not State.DEAD:
            return "purged"
        if was_dead and (header.queue in self.dropped or (policy is not None and policy.keep_dead_count)):
            return "dropped"
        if policy is not None and policy.on_expiry == "drop" and 0 < header.expires_ms <= self.world.wall:
            return "expired"
        return ""

    # ---- a delivery

    def _delivered(self, fence: int, row: DeliveryRow) -> None:
        if fence <= self.last_fence:
            raise Violation(f"the fence {fence} follows {self.last_fence}")
        self.last_fence = fence
        self.deliveries[fence] = row
        for position, identifier in enumerate(row.ids):
            record, change = self.records.get(identifier), self.changes.get(identifier)
            if not row.holds(fence, position, record, change):
                raise Violation(f"the delivery {fence} has {_text(identifier)}, which is {self.state_of(identifier)}")
            holder = self.holder.get(identifier)
            if holder is not None:
                raise Violation(f"{_text(identifier)} is delivered as {fence}, and {holder} has it still")
            self.holder[identifier] = fence
            self.delivered += 1
            header = header_of(record or b"")
            expires_ms = expiry_of(header, change)
            if 0 < expires_ms <= self.world.wall:
                raise Violation(f"{_text(identifier)} is delivered {self.world.wall - expires_ms} ms after it expired")
            if "after" in header.options:
                check_parents(self, identifier, header, change)

    def _check_delivered(self, delivered: list[tuple[int, DeliveryRow]]) -> None:
        """After a tick that delivered: the limits hold, and who was before in a lane was not passed over."""
        held: Counter[bytes] = Counter()
        for fence in self.holder.values():
            row = self.deliveries.get(fence)
            if row is not None:
                held[row.incarnation] += 1
        for _, row in delivered:
            capacity = self.capacity_of(row.incarnation)
            if capacity is not None and held[row.incarnation] > capacity:
                raise Violation(f"{row.worker} holds {held[row.incarnation]} jobs, and its capacity is {capacity}")
            if row.alone and held[row.incarnation] > 1:
                raise Violation(f"{row.worker} has a suspect, and {held[row.incarnation] - 1} jobs beside it")
        for queue in dict.fromkeys(row.queue for _, row in delivered):
            taken = [
                identifier for _, row in delivered if row.queue == queue if not row.alone for identifier in row.ids
            ]
            self._check_limits(
                queue, [identifier for _, row in delivered if row.queue == queue for identifier in row.ids]
            )
            self._check_order(queue, taken)

    def _check_limits(self, queue: str, delivered: list[bytes]) -> None:
        policy = self.policy_of(queue)
        if policy is None:
            return
        leased = [identifier for identifier in self.of_queue[queue] if identifier in self.holder]
        if policy.in_flight_limit and len(leased) > policy.in_flight_limit:
            raise Violation(f"{len(leased)} jobs of {queue} are in flight, and {policy.in_flight_limit} may be")
        if policy.key_limit:
            keys = Counter(self._key(identifier) for identifier in leased)
            for key in dict.fromkeys(map(self._key, delivered)):
                if keys[key] > policy.key_limit:
                    raise Violation(f"{keys[key]} jobs of the key {key!r} of {queue} are in flight")

    def _check_order(self, queue: str, taken: list[bytes]) -> None:
        """No job that was ready before another in its lane waits on while that one goes; nor in a lane before it,
        where nothing but the priority decides."""
        last: dict[Lane, int] = {}
        for identifier in taken:
            lane = (queue, *place_of(header_of(self.records[identifier])))
            last[lane] = max(last.get(lane, 0), self.sequence(identifier))
        policy = self.policy_of(queue)
        by_key = policy is None or policy.key_limit or policy.key_rate
        lowest = max((lane[1] for lane in last), default=0)
        for identifier in self.of_queue[queue]:
            change = self.changes.get(identifier)
            if self.state_of(identifier) is not State.READY or (change is not None and change.losses):
                continue
            lane = (queue, *place_of(header_of(self.records[identifier])))
            if self.is_void(identifier):
                continue
            if self.sequence(identifier) < last.get(lane, 0):
                raise Violation(f"{_text(identifier)} waits in the lane {lane}, and later ones are delivered")
            if not by_key and lane[1] < lowest:
                raise Violation(f"{_text(identifier)} waits, and jobs of {queue} with a lower priority are delivered")

    # ---- the rows as a whole

    def compare(self, found: dict[bytes, bytes]) -> None:
        """The records on disk are those that the writes made."""
        if found != self.records:
            lost = [_text(identifier) for identifier in self.records.keys() - found.keys()]
            new = [_text(identifier) for identifier in found.keys() - self.records.keys()]
            raise Violation(f"records are gone: {lost}; records came: {new}")


def _text(identifier: bytes) -> str:
    return identifier.decode(errors="backslashreplace")
