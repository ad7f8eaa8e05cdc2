"""Many jobs in a pipeline: batches of bounded size, a bounded number of them on their way, none kept afterwards.

The procedure behind `send_many`, and the cutting of its payloads. It runs as those in `verbs` do.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from zclient.errors import OutcomeUnknown, ProtocolFault, QueueFull, Refused, ZError
from zclient.handles import Jobs, as_text
from zclient.jobs import IdRun, IdRuns, IdSource, encode_payload
from zclient.protocol import limits
from zclient.protocol.messages import Group
from zclient.requests import Request
from zclient.session import Session
from zclient.verbs import LAST_TRY_MS, Feed, Procedure, Report, Wait, instead_of

BATCH_JOBS = 500
"""Jobs in one PUT: enough that its fixed cost vanishes, few enough that other peers' messages pass between."""

WINDOW, WINDOW_SMALL = 8, 32
"""Batches on their way at once, and small ones: more than the broker takes in a turn, which it answers together."""

WINDOW_JOBS, WINDOW_OCTETS = WINDOW * BATCH_JOBS, WINDOW * limits.MESSAGE_BYTES
"""Batches are small as long as those on their way are together not more than a window of full ones."""


class Chunks:
    """Cuts an iterable into lists of encoded payloads. Runs the caller's code: not to be called under a lock."""

    def __init__(self, payloads: Iterable[Any]) -> None:
        self._payloads: Iterator[Any] = iter(payloads)

    def next(self, feed: Feed) -> list[bytes]:
        """The next payloads, at most ``feed.jobs``; the one that crosses ``feed.octets`` is the last."""
        chunk: list[bytes] = []
        size = 0
        for payload in self._payloads:
            encoded = encode_payload(payload)
            chunk.append(encoded)
            size += len(encoded)
            if len(chunk) >= feed.jobs or size >= feed.octets:
                break
        return chunk


class Batch:
    """One PUT of the pipeline: what it carries, until when it has time, and its request or when to make one again."""

    __slots__ = ("again_ms", "group", "octets", "request", "run", "until_ms")

    def __init__(self, run: IdRun, group: Group, until_ms: float) -> None:
        self.run = run
        self.group = group
        self.until_ms = until_ms
        self.again_ms = 0.0
        self.octets = sum(map(len, group.payloads))
        self.request: Request | None = None


class Pipeline:
    """The batches of one `send_many`. ``run`` is its procedure; the ids of all jobs stand in ``ids`` afterwards."""

    def __init__(self, session: Session, queue: str, options: dict[str, Any], timeout_ms: float, jobs: int) -> None:
        self.ids = IdRuns()
        self._session = session
        self._queue = queue
        self._options = options
        self._timeout_ms = timeout_ms
        self._jobs = min(jobs, limits.MAX_BATCH_EDGES // (len(options.get("after", ())) or 1))
        self._source = IdSource()
        self._batches: list[Batch] = []
        self._confirmed = IdRuns()
        self._confirmed.instead = self.ids.instead
        self._unknown = IdRuns()
        self._failure: Exception | None = None

    def run(self, now: float) -> Procedure[IdRuns]:
        """Send until the payloads end or a batch fails; then wait for those on their way, and raise the first failure.

        Batches may arrive in another order after a refusal that says when to try again.
        """
        fed, told = True, 0
        try:
            while fed or self._batches:
                payloads: list[bytes] = []
                if fed and self._has_room():
                    before = now
                    try:
                        now, payloads = yield self._feed()
                    except Exception as error:
                        self._failure = self._failure or error
                    # Waiting for the caller's next payload is not waiting for the broker.
                    for batch in self._batches:
                        batch.until_ms += now - before
                    fed = bool(payloads)
                else:
                    now = yield self._wait()
                self._reap(now)
                fed = fed and self._failure is None
                if fed and payloads:
                    self._add(payloads, now)
                if len(self._confirmed) > told:
                    told = len(self._confirmed)
                    now = yield Report(told)
        finally:
            for batch in self._batches:
                if batch.request is not None:
                    self._session.give_up(batch.request)
        if self._failure is not None:
            raise self._told(self._failure)
        return self.ids

    def _has_room(self) -> bool:
        """Whether another batch may be on its way."""
        flying = self._batches
        if len(flying) < WINDOW:
            return True
        jobs, octets = sum(batch.run.count for batch in flying), sum(batch.octets for batch in flying)
        return len(flying) < WINDOW_SMALL and jobs < WINDOW_JOBS and octets < WINDOW_OCTETS

    def _feed(self) -> Feed:
        told = self._session.limits
        jobs = min(self._jobs, told.get("batch_jobs", limits.MAX_BATCH_JOBS))
        return Feed(jobs, min(limits.MESSAGE_BYTES, told.get("batch_bytes", limits.MAX_BATCH_BYTES)))

    def _add(self, payloads: list[bytes], now: float) -> None:
        run = self._source.take(len(payloads))
        self.ids.add(run)
        batch = Batch(run, Group(self._queue, self._options, run.ids(), payloads), now + self._timeout_ms)
        batch.request = self._request(batch.group, now)
        self._batches.append(batch)

    def _request(self, group: Group, now: float) -> Request:
        return self._session.put([group], now)

    def _wait(self) -> Wait:
        requests = [batch.request for batch in self._batches if batch.request is not None]
        times = (batch.until_ms if batch.request is not None else batch.again_ms for batch in self._batches)
        return Wait(requests, min(times))

    def _reap(self, now: float) -> None:
        """Take out the batches that ended, give up those whose time is over, send again those that may."""
        left = []
        progress = False
        for batch in self._batches:
            request = batch.request
            if request is None:
                if now >= batch.again_ms:
                    batch.request = self._request(batch.group, now)
            elif not request.done and now >= batch.until_ms:
                self._session.give_up(request)
            if request is None or not request.done or self._again(batch, request.error, now):
                left.append(batch)
            elif request.error is None:
                self._confirmed.add(batch.run)
                self._learn(request.value)
                progress = True
            elif self._is_worth_halving(batch, request.error):
                left += self._halves(batch, now)
            else:
                self._failure = self._failure or request.error.with_traceback(None)
                if isinstance(request.error, OutcomeUnknown):
                    self._unknown.add(batch.run)
        self._batches = left
        if progress:
            # Those behind it had to wait until it was through: their own time begins now.
            for batch in left:
                batch.until_ms = max(batch.until_ms, now + self._timeout_ms)

    def _is_worth_halving(self, batch: Batch, error: ZError) -> bool:
        """Whether the batch as a whole is more than may ever wait in its queue, and its jobs one by one may be not."""
        never = isinstance(error, QueueFull) and error.retry_after is None
        return never and batch.run.count > 1 and self._failure is None

    def _halves(self, batch: Batch, now: float) -> list[Batch]:
        run, group, middle = batch.run, batch.group, batch.run.count // 2
        parts = (slice(middle), slice(middle, None))
        runs = (IdRun(run.prefix, run.first, middle), IdRun(run.prefix, run.first + middle, run.count - middle))
        halves = []
        for part, half in zip(parts, runs, strict=True):
            smaller = group._replace(ids=group.ids[part], payloads=group.payloads[part])
            halves.append(Batch(half, smaller, batch.until_ms))
            halves[-1].request = self._request(smaller, now)
        return halves

    def _learn(self, answer: Any) -> None:
        try:
            self.ids.instead.update(instead_of(answer))
        except ProtocolFault as fault:
            self._failure = self._failure or fault

    def _again(self, batch: Batch, error: ZError | None, now: float) -> bool:
        """Whether a refused batch is worth another try; it then waits for its time."""
        pause = error.retry_after if isinstance(error, Refused) else None
        if pause is None or self._failure is not None:
            return False
        batch.again_ms = min(now + pause * 1000, batch.until_ms - LAST_TRY_MS)
        if batch.again_ms <= now:
            return False
        batch.request = None
        return True

    def _told(self, failure: Exception) -> Exception:
        """The failure, with what became of the jobs."""
        if isinstance(failure, ZError):
            failure.confirmed = Jobs(self._confirmed, as_text)
            failure.unknown = Jobs(self._unknown, as_text)
        failure.add_note(
            f"{len(self._confirmed)} jobs are confirmed, {len(self._unknown)} unknown, none else is stored"
        )
        return failure
