"""What a worker holds, and what it owes the broker, without a socket, a clock or a thread.

It stands around a `zclient.session.Session` and owns deliveries, leases, settlements and capacity. Messages from the
broker go in, jobs come out; outcomes go in, at most one SETTLE a pass comes out. Times are monotonic milliseconds and
arguments. Everything is called by one thread at a time, but for `settled`, to which any thread may append, and
`report`.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zclient.errors import AnswerTimeout, PayloadTooLarge, ProtocolFault, Refused, ZError
from zclient.protocol import messages as m
from zclient.protocol.limits import MAX_BATCH_JOBS, MAX_ORDER_IDS, MAX_PAYLOAD_BYTES, MAX_RESULT_BYTES, MESSAGE_BYTES
from zclient.requests import Request
from zclient.session import Session
from zworker.job import Delivery, Job, Owner
from zworker.outcomes import reason_map
from zworker.partials import Partials, Streams
from zworker.progress import Report, Reports

RENEWALS_PER_LEASE = 6
_KEPT_FENCES = 4096
_FOREVER = float("inf")

Entry = tuple[Job, int, Any]
_Groups = dict[tuple[int, int], tuple[list[bytes], list[Any]]]


class WorkerSession:
    """One incarnation of a worker; ``session`` is its conversation, to be given to a link.

    ``refused`` counts settlements that came too late, ``repeated`` deliveries that came twice; ``faults`` are answers
    that fit nothing.
    """

    def __init__(
        self,
        incarnation: bytes,
        *,
        owner: Owner,
        name: str,
        info: dict[str, Any],
        capacity: int,
        queues: Sequence[str],
        tasks: Mapping[str, dict[str, Any]] | None = None,
        one_broker: bool = False,
    ) -> None:
        self.session = Session(
            incarnation,
            name=name,
            info=info,
            capacity=capacity,
            queues=queues,
            held=self.held,
            tasks=dict(tasks or {}),
            one_broker=one_broker,
        )
        self.settled: deque[Entry] = deque()
        self.unsettled = 0
        self.unanswered = 0
        self.refused = 0
        self.repeated = 0
        self.faults: list[ZError] = []
        self.closing: str | None = None
        self._owner = owner
        self._reports = Reports()
        self._streams = Streams()
        self._deliveries: dict[int, Delivery] = {}
        self._past: dict[int, None] = {}
        self._renew_at_ms = _FOREVER
        self._interrupted: list[Job] = []
        self._ended = False

    @property
    def max_result_bytes(self) -> int:
        """What the broker takes as a job's result."""
        return self.session.limits.get("result_bytes", MAX_RESULT_BYTES)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that are not settled, oldest delivery first."""
        return [job for delivery in self._deliveries.values() for job in delivery.jobs.values() if job.unsettled]

    def held(self) -> list[m.Held]:
        """What HELLO names: all that was delivered and whose settlement is not answered."""
        told = []
        for delivery in self._deliveries.values():
            started = [identifier for identifier, job in delivery.jobs.items() if job.is_started]
            waiting = [identifier for identifier, job in delivery.jobs.items() if not job.is_started]
            told.append(m.Held(delivery.fence, started, waiting))
        return told

    # ---- from the broker

    def receive(self, messages: Iterable[m.Message], now: float) -> list[Job]:
        """Take what the conversation passed on; returns the jobs that are new here, in order."""
        jobs: list[Job] = []
        for message in messages:
            if isinstance(message, m.Deliver):
                self._deliver(message, now, jobs)
            elif isinstance(message, m.Lost):
                self._lose(message.leases, message.reason)
            elif isinstance(message, m.Cancel):
                self._cancel(message)
            elif isinstance(message, m.Flow):
                self._flow(message)
            elif isinstance(message, m.Welcome):
                self._welcome(message, now)
            elif isinstance(message, m.Closing):
                self.closing = message.reason
        # What was lost or given back in the same pass must not start.
        return [job for job in jobs if job.unsettled]

    def interrupted(self) -> list[Job]:
        """The jobs whose runs should end, each told once: their lease is lost, or they are cancelled."""
        told, self._interrupted = self._interrupted, []
        return told

    def _deliver(self, message: m.Deliver, now: float, jobs: list[Job]) -> None:
        queue, fence, lease_ms, ids, attempts, records, large = message
        if fence in self._deliveries or fence in self._past:
            self.repeated += 1
            return
        most = self.session.limits.get("payload_bytes", MAX_PAYLOAD_BYTES)
        delivery = self._deliveries[fence] = Delivery(queue, fence, lease_ms, self._owner, now, most)
        new = [
            Job(delivery, identifier, attempt, record, large.get(position) if large else None)
            for position, (identifier, attempt, record) in enumerate(zip(ids, attempts, records, strict=True))
        ]
        delivery.jobs = dict(zip(ids, new, strict=True))
        delivery.unsettled = len(delivery.jobs)
        self.unsettled += len(delivery.jobs)
        self._renew_at_ms = min(self._renew_at_ms, delivery.renew_at_ms)
        # Sent before the broker read a lower capacity: what has no place goes back, the newest first.
        surplus = min(self.unsettled - self.session.capacity, len(new))
        if surplus > 0:
            self.release(new[-surplus:])
            del new[-surplus:]
        jobs += new

    def _welcome(self, message: m.Welcome, now: float) -> None:
        self.closing = None
        self._lose(message.lost, "")
        # The leases may be from before a long silence: the next tick renews them all.
        for delivery in self._deliveries.values():
            delivery.renew_at_ms = now
        self._renew_at_ms = now if self._deliveries else _FOREVER

    def _lose(self, leases: Iterable[tuple[int, list[bytes]]], reason: str) -> None:
        for fence, ids in leases:
            delivery = self._deliveries.get(fence)
            if delivery is None:
                continue
            for identifier in ids or list(delivery.jobs):
                job = delivery.jobs.get(identifier)
                # What is settled already learns from the answer whether it counted.
                if job is not None and job.unsettled:
                    job.lease_lost = True  # before its run is told that nobody reads it
                    job.lost_reason = reason
                    self._end(job)
                    self._interrupted.append(job)
                    self._forget(fence, [identifier])

    def _cancel(self, message: m.Cancel) -> None:
        delivery = self._deliveries.get(message.fence)
        if delivery is None:
            return
        for identifier in message.ids:
            job = delivery.jobs.get(identifier)
            if job is not None and job.unsettled and not job.cancelled:
                job.cancelled = True
                self._interrupted.append(job)

    def _flow(self, message: m.Flow) -> None:
        delivery = self._deliveries.get(message.fence)
        job = delivery.jobs.get(message.id) if delivery is not None else None
        try:
            is_read = job is not None and job.unsettled and job.has_reader
        except ValueError as error:
            self.faults.append(ProtocolFault(f"a job was delivered with a record that is none: {error}"))
            return
        if job is not None and is_read:
            self._streams.of(job).flow(message.have, message.upto, again=message.again)

    # ---- to the broker

    def tick(self, now: float) -> float:
        """Renew the leases and tell the progress that is due; returns when it next wants to be called."""
        if now >= self.progress_due_ms:
            self._tell(self._reports.take(now))
        if self._streams.is_due and self.session.welcomed:
            for partial in self._streams.take():
                self.session.say(partial)
        if now >= self._renew_at_ms:
            self._renew(now)
        return min(self._renew_at_ms, self.progress_due_ms)

    def _renew(self, now: float) -> None:
        due = []
        welcomed = self.session.welcomed
        for delivery in self._deliveries.values():
            if now >= delivery.renew_at_ms:
                delivery.renew_at_ms = now + delivery.lease_ms / RENEWALS_PER_LEASE
                if delivery.unsettled and welcomed:
                    # Without a welcome nothing would arrive; the next one renews everything.
                    delivery.until_ms = now + delivery.lease_ms
                    due.append(delivery.fence)
        if due:
            self.session.say(m.Renew(due))
        times = [delivery.renew_at_ms for delivery in self._deliveries.values()]
        self._renew_at_ms = min(times, default=_FOREVER)

    def start(self, job: Job, now: float) -> bool:
        """Mark a waiting job as started. False if that must not be: settled, lost, or its lease ran out meanwhile.

        The last is a process that was stopped for so long that others may have the job; it is given back, in case they
        have not.
        """
        if not job.unsettled:
            return False
        if now >= job.delivery.until_ms:
            self.release([job])
            return False
        job.is_started = True
        return True

    def release(self, jobs: Iterable[Job]) -> None:
        """Give these jobs back, as far as they are not settled. The broker is told which of them never started.

        Where a job is delivered at most once, only such a one is delivered again.
        """
        for job in jobs:
            if not job.is_settled:
                job.is_settled = True
                self.settled.append((job, int(m.Outcome.RELEASE), None if job.is_started else True))

    def extend(self, job: Job, duration_ms: int, now: float) -> Request:
        """Ask for a longer lease."""
        job.delivery.until_ms = max(job.delivery.until_ms, now + duration_ms)
        return self.session.extend(job.fence, job.identifier, duration_ms, now)

    def report(self, job: Job, fraction: float | None, text: str) -> bool:
        """Take note of how far a job is; from any thread. Whether a pass should follow for it."""
        return self._reports.add(job, fraction, text)

    def partials(self, job: Job) -> Partials:
        """What the job's run yields; from any thread."""
        partials = self._streams.of(job)
        if not job.unsettled:  # seen after it was made, so that none stays behind
            self._streams.forget(job)
        return partials

    @property
    def progress_due_ms(self) -> float:
        """When there is progress to tell; infinite while there is none, or nobody to tell."""
        return self._reports.due_ms if self.session.welcomed else _FOREVER

    def _tell(self, reports: list[Report]) -> None:
        for start in range(0, len(reports), MAX_ORDER_IDS):
            self.session.say(m.Progress(reports[start : start + MAX_ORDER_IDS]))

    def set_capacity(self, capacity: int) -> None:
        """Take so many jobs at once from now on; what was delivered beyond it goes back when it arrives."""
        self.session.set_capacity(capacity)

    def flush(self, now: float) -> None:
        """Put everything that is settled into one SETTLE, or several if it is too much for one."""
        settled = self.settled
        reported = self._reports.latest
        streams = self._streams
        last: list[Report] = []
        sends: list[m.Sent] = []
        groups: _Groups = {}
        ids: list[bytes] = []
        values: list[Any] = []
        current: tuple[Delivery | None, int] = (None, 0)
        acks = others = sent = size = 0
        while settled:
            job, outcome, value = settled.popleft()
            if not job.unsettled:
                continue
            if reported:
                last += self._reports.take_last(job)
            if streams:
                streams.forget(job)
            job.unsettled = False
            delivery = job.delivery
            delivery.unsettled -= 1
            self.unsettled -= 1
            sending = job.sends if outcome == m.Outcome.ACK else ()
            if sending and groups and (sent + len(sending) > MAX_BATCH_JOBS or size + job.sent_bytes > MESSAGE_BYTES):
                self._settle(groups, sends, now)
                groups, sends, current = {}, [], (None, 0)
                acks = others = sent = size = 0
            if current[0] is not delivery or current[1] != outcome:
                current = (delivery, outcome)
                ids, values = groups.setdefault((delivery.fence, outcome), ([], []))
            ids.append(job.identifier)
            values.append(value)
            if value.__class__ is bytes:
                size += len(value)
            if outcome == m.Outcome.ACK:
                acks += 1
                if sending:
                    sends.append(job.sent())
                    sent += len(sending)
                    size += job.sent_bytes
            else:
                others += 1
            if max(acks, sent) >= MAX_BATCH_JOBS or others >= MAX_ORDER_IDS or size >= MESSAGE_BYTES:
                self._settle(groups, sends, now)
                groups, sends, current = {}, [], (None, 0)
                acks = others = sent = size = 0
        if groups:
            self._settle(groups, sends, now)
        # Without a number it leaves before what has one, so before these settlements.
        self._tell(last)

    def goodbye(self) -> None:
        """End the incarnation: what is still held returns to its queues, no attempt burnt."""
        self._ended = True
        self.session.goodbye()

    def _settle(self, groups: _Groups, sends: list[m.Sent], now: float) -> None:
        self._send(
            [
                m.Settlement(fence, outcome, ids, None if values.count(None) == len(values) else values)
                for (fence, outcome), (ids, values) in groups.items()
            ],
            now,
            sends,
        )

    def _send(
        self, settlements: list[m.Settlement], now: float, sends: Sequence[m.Sent] = (), *, again: bool = False
    ) -> None:
        self.unanswered += 1
        request = self.session.settle(settlements, now, sends)
        request.on_done(lambda request: self._answered(request, now, again or request.sends > 1))

    # ---- what became of a settlement

    def _answered(self, request: Request, now: float, again: bool) -> None:
        self.unanswered -= 1
        settlements: list[m.Settlement]
        sends: list[m.Sent]
        settlements, sends = request.body
        if request.error is None:
            kept = set() if request.value is None else self._refused(request, now, again)
            for fence, _, ids, _ in settlements:
                self._forget(fence, [identifier for identifier in ids if identifier not in kept] if kept else ids)
        elif self._ended:
            return
        elif isinstance(request.error, AnswerTimeout):
            # The broker forgot the number, not the fence: to settle again is answered as the first time.
            self._send(settlements, now, sends, again=True)
        else:
            self._not_taken(settlements, sends, request.error, now)

    def _refused(self, request: Request, now: float, again: bool) -> set[bytes]:
        """Take note of the verdicts; returns the ids of the jobs that are still this worker's, settled once more.

        ``again``: the settlements were said before, and the answer was lost. Then they may have counted the first time,
        and the job be gone or with another worker since: only of an ack, which ends it, is "lost" a word for sure.
        """
        kept: set[bytes] = set()
        refused = request.value.get("refused", ()) if isinstance(request.value, dict) else ()
        acked = {
            (one.fence, identifier) for one in request.body[0] if one.outcome == m.Outcome.ACK for identifier in one.ids
        }
        for entry in refused:
            if not isinstance(entry, list | tuple) or not 3 <= len(entry) <= 4:
                self.faults.append(ProtocolFault("a settlement was refused in words that are not known"))
                continue
            fence, identifier, verdict = entry[:3]
            delivery = self._deliveries.get(fence)
            job = None if delivery is None else delivery.jobs.get(identifier)
            if job is None:
                continue
            if verdict == "too_large":
                kept.add(identifier)
                self._reject(fence, identifier, PayloadTooLarge("the result is larger than the broker takes"), now)
            elif verdict == "unsent":
                kept.add(identifier)
                told = reason_map("SendRefused", f"what it sent was refused: {entry[-1]}")
                self.faults.append(Refused(f"job {job.id} is tried again: {told['text']}"))
                self._send([m.Settlement(fence, int(m.Outcome.NACK), [identifier], [told])], now)
            elif not again or (verdict == "lost" and (fence, identifier) in acked):
                self.refused += 1
                job.lease_lost = True
        return kept

    def _reject(self, fence: int, identifier: bytes, error: ZError, now: float) -> None:
        """In place of an ack that cannot travel: the work is done, and would be done again by a retry."""
        told = reason_map(type(error).__name__, f"the result was refused: {error}")
        self._send([m.Settlement(fence, int(m.Outcome.REJECT), [identifier], [told])], now)

    def _not_taken(self, settlements: list[m.Settlement], sends: list[m.Sent], error: ZError, now: float) -> None:
        """The broker took none of a SETTLE, for something in it: try one by one, and give up on what is at fault."""
        singles = [
            m.Settlement(fence, outcome, [identifier], values and [values[place]])
            for fence, outcome, ids, values in settlements
            for place, identifier in enumerate(ids)
        ]
        if len(singles) > 1:
            for single in singles:
                self._send(
                    [single], now, [sent for sent in sends if (sent.fence, sent.id) == (single.fence, *single.ids)]
                )
            return
        self.faults.append(error)
        fence, outcome, ids, _ = singles[0]
        if outcome == m.Outcome.ACK:
            self._reject(fence, ids[0], error, now)
        else:
            # Nothing that could be said in its place: the lease runs out, and the broker draws its own conclusion.
            self._forget(fence, ids)

    def _end(self, job: Job) -> None:
        job.unsettled = False
        self._streams.forget(job)
        job.delivery.unsettled -= 1
        self.unsettled -= 1

    def _forget(self, fence: int, ids: Sequence[bytes]) -> None:
        delivery = self._deliveries.get(fence)
        if delivery is None:
            return
        for identifier in ids:
            delivery.jobs.pop(identifier, None)
        if delivery.jobs:
            return
        del self._deliveries[fence]
        self._past[fence] = None
        if len(self._past) > _KEPT_FENCES:
            del self._past[next(iter(self._past))]
