"""`Consumer`: jobs for a loop of one's own, blocking or ``async``; the caller settles each.

It owns who works the connection when: the thread that iterates, while it waits for jobs, and otherwise a keeper thread,
which renews leases and sends what is settled for as long as the block lasts, whatever the loop does meanwhile.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any

from zclient.config import Duration, OpenTransport, endpoints_of
from zclient.durations import parse_duration
from zclient.errors import ClosedError, InvalidArgument, ZError
from zclient.jobs import queue_name
from zclient.protocol.limits import MAX_QUEUES_PER_PEER
from zclient.session import TICK_MS
from zworker.job import Job
from zworker.logs import LOGGER, log
from zworker.station import Station

KEEPER_MS = 100
"""How often the keeper looks at the connection while the loop is busy: so late may a lost lease be seen."""

ANSWER_MS = 2000
"""How long the last settlements may take to be answered at the end of the block."""

_FOREVER = float("inf")


class Consumer:
    """``with Consumer(endpoints, "orders", credit=10) as consumer: for job in consumer: ... job.ack()``.

    ``credit`` is how many jobs it holds at once: those in hand, and those that wait for the loop. The broker hands
    over once a turn, so a loop that is to take 100,000 jobs a second wants some thousands. ``idle`` ends the iteration
    after so long without a job; without it only `close` does. ``endpoints`` may be None, as those of `zclient.Client`.
    Leaving the block gives back what is not settled. Several threads may iterate. Raises `InvalidArgument`; a broker
    that is not there is waited for.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] | None,
        queues: str | Sequence[str],
        *,
        credit: int = 10,
        idle: Duration | None = None,
        name: str | None = None,
        credentials: Any = None,
        transport: OpenTransport | None = None,
    ) -> None:
        several = (queues,) if isinstance(queues, str) else tuple(dict.fromkeys(queues))
        if not 0 < len(several) <= MAX_QUEUES_PER_PEER:
            raise InvalidArgument(f"a consumer serves 1 to {MAX_QUEUES_PER_PEER} queues, not {len(several)}")
        self.queues = [queue_name(queue) for queue in several]
        self._idle_ms = _FOREVER if idle is None else parse_duration(idle) * 1000
        self._endpoints = endpoints_of(endpoints)
        self._credit = credit
        self._name = name
        self._credentials = credentials
        self._transport = transport
        self._station: Station | None = None
        self._buffer: deque[Job] = deque()
        self._turning = threading.Condition(threading.Lock())
        self._leading = False  # whether a thread waits for the connection
        self._watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._unsent = threading.Event()
        self._keeper: threading.Thread | None = None
        self._failure: Exception | None = None
        self._closing = threading.Event()

    # ---- its life

    def __enter__(self) -> "Consumer":
        if self._station is not None:
            raise ClosedError("a consumer lives for one block: make a new one")
        self._station = Station(
            self._endpoints,
            queues=self.queues,
            capacity=self._credit,
            name=self._name,
            credentials=self._credentials,
            transport=self._transport,
            nudge=self._nudge,
        )
        self._keeper = threading.Thread(target=self._keep, name="zworker-keeper", daemon=True)
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> "Consumer":
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Give back what is not settled, wait up to 2 s for what is, and end every iteration."""
        station, keeper = self._station, self._keeper
        if station is None or keeper is None:
            return
        station.check_process()
        self._closing.set()
        self._unsent.set()
        station.transport.wake()
        keeper.join()
        with self._turning:
            self._turning.notify_all()
            while self._leading:
                self._turning.wait(TICK_MS / 1000)
            self._buffer.clear()
            held = station.session.jobs
            station.close(ANSWER_MS)
        for job in held:
            job.interrupt()  # Another thread may be at work on it still.
        self._tell_watchers()

    # ---- iterating

    def __iter__(self) -> Iterator[Job]:
        """Jobs as they come, each to be settled. Ends after ``idle`` or `close`."""
        station = self._opened()
        buffer = self._buffer
        now = station.transport.now
        while self._fill(station):
            while buffer:
                try:
                    job = buffer.popleft()
                except IndexError:
                    break  # Another thread had the last one.
                if job.unsettled:
                    if now() < job.delivery.until_ms and not job.cancelled:
                        job.is_started = True
                        yield job
                    else:
                        self._give_back(station, job)

    async def __aiter__(self) -> AsyncIterator[Job]:
        """The same for an event loop; the keeper works the connection."""
        station = self._opened()
        arrived = asyncio.Event()
        watcher = (asyncio.get_running_loop(), arrived)
        self._watchers.add(watcher)
        station.transport.wake()
        self._unsent.set()
        try:
            while not self._closing.is_set():
                arrived.clear()
                job = self._take(station)
                if job is not None:
                    yield job
                    continue
                try:
                    async with asyncio.timeout(None if self._idle_ms == _FOREVER else self._idle_ms / 1000):
                        await arrived.wait()
                except TimeoutError:
                    return
        finally:
            self._watchers.discard(watcher)
        if self._failure is not None:
            raise self._failure

    def get(self, timeout: Duration | None = None) -> Job | None:
        """The next job, or None if none comes within ``timeout`` (or the consumer's ``idle``)."""
        station = self._opened()
        wait_ms = self._idle_ms if timeout is None else parse_duration(timeout) * 1000
        while self._fill(station, wait_ms):
            job = self._take(station)
            if job is not None:
                return job
        return None

    def _opened(self) -> Station:
        station = self._station
        if station is None:
            raise ClosedError("a consumer takes jobs inside its with block")
        station.check_process()
        return station

    def _take(self, station: Station) -> Job | None:
        """A job from the buffer that may still be run, marked as started."""
        while self._buffer:
            try:
                job = self._buffer.popleft()
            except IndexError:
                break  # Another thread had the last one.
            if job.unsettled:
                if station.transport.now() < job.delivery.until_ms and not job.cancelled:
                    job.is_started = True
                    return job
                self._give_back(station, job)
        return None

    def _give_back(self, station: Station, job: Job) -> None:
        """It must not start: nobody wants it any more, or its lease ran out here, as after a stop of the process."""
        station.session.release([job])
        self._nudge()

    def _fill(self, station: Station, wait_ms: float | None = None) -> bool:
        """Wait until the buffer has a job; False when the consumer is closed, or the time is over.

        One waiting thread leads: it watches the connection, without the lock. The others follow: they are notified of
        jobs, and of the lead being free.
        """
        transport = station.transport
        until = transport.now() + (self._idle_ms if wait_ms is None else wait_ms)
        with self._turning:
            while not self._closing.is_set():
                if not self._buffer or station.has_more:
                    self._turn(station)
                left = until - transport.now()
                if self._buffer or left <= 0:
                    self._turning.notify()
                    return bool(self._buffer)
                if self._leading:
                    self._turning.wait(min(left, TICK_MS) / 1000)
                else:
                    self._lead(station, left)
        if self._failure is not None:
            raise self._failure
        return False

    def _lead(self, station: Station, wait_ms: float) -> None:
        """Wait for the connection; the caller holds the lock, and has it again afterwards."""
        self._leading = True
        self._unsent.clear()
        # In this order: what is settled from now on wakes the one who waits; what was settled before is seen here.
        wait_ms = 0 if station.has_more else min(wait_ms, TICK_MS, station.progress_in_ms)
        self._turning.release()
        try:
            station.transport.wait(wait_ms)
        finally:
            self._turning.acquire()
            self._leading = False
            if self._closing.is_set():
                self._turning.notify_all()

    def _turn(self, station: Station) -> None:
        """One pass over the connection; the caller holds the lock."""
        self._unsent.clear()
        jobs = station.turn(station.transport.now())
        if jobs:
            self._buffer += jobs
            self._turning.notify(len(jobs))
            if self._watchers:
                self._tell_watchers()
        for job in station.session.interrupted():
            log(
                logging.WARNING,
                "lease lost" if job.lease_lost else "cancelled",
                job=job.id,
                fence=job.fence,
                reason=job.lost_reason or None,
            )
            job.interrupt()
        station.notice()

    # ---- the keeper

    def _nudge(self) -> None:
        """Something is to be sent: the keeper does it, unless an iterating thread comes first."""
        if not self._unsent.is_set():
            self._unsent.set()
            if self._leading and self._station is not None:
                self._station.transport.wake()

    def _keep(self) -> None:
        station = self._station
        if station is None:
            return
        try:
            while not self._closing.is_set():
                self._keep_once(station)
        except Exception as error:
            # Whoever iterates raises it; the jobs go back when the block is left.
            if not isinstance(error, ZError):
                LOGGER.exception("the consumer failed")
            self._failure = error
            self._end()

    def _end(self) -> None:
        """Have every iteration end."""
        self._closing.set()
        if self._station is not None:
            self._station.transport.wake()
        with self._turning:
            self._turning.notify_all()
        self._tell_watchers()

    def _keep_once(self, station: Station) -> None:
        with self._turning:
            led = (bool(self._watchers) or station.is_asking) and not self._leading
            if led:
                self._lead(station, TICK_MS)
        if not led:
            self._unsent.wait((TICK_MS if self._leading else KEEPER_MS) / 1000)
        with self._turning:
            if self._closing.is_set():
                return
            if self._leading and not station.has_more:
                self._unsent.clear()  # Whoever leads does the rest.
                return
            self._turn(station)
            if self._leading and self._buffer:
                station.transport.wake()

    def _tell_watchers(self) -> None:
        for loop, arrived in list(self._watchers):
            try:
                loop.call_soon_threadsafe(arrived.set)
            except RuntimeError:
                # That loop is closed; nobody iterates there any more.
                self._watchers.discard((loop, arrived))
