"""`Worker`: the functions that serve queues, and their life: run until told to stop, or embedded in a service.

It owns the registry of tasks, the thread of the loop, and the signals. What happens to jobs is the loop's.
"""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from zclient.config import Duration, OpenTransport, endpoints_of
from zclient.durations import format_duration, parse_duration
from zclient.errors import BrokerUnreachable, ClosedError, InvalidArgument
from zclient.jobs import whole
from zclient.protocol.limits import MAX_CAPACITY, MAX_QUEUES_PER_PEER
from zworker.loop import Loop
from zworker.station import Station
from zworker.task import Errors, Task, task_options

if TYPE_CHECKING:
    from zclient import Client

P = ParamSpec("P")
R = TypeVar("R")

JOIN_S = 0.25
"""How late a signal may be noticed that came at the worst moment."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """Serves queues with functions; connects when it runs, not when it is made.

    ``concurrency`` is how many handlers run at once, and so how many jobs the broker hands over: no job waits in a
    worker behind a slow one. (With a batch task it is that many batches; if the others are slow, give such a task a
    worker of its own.) ``drain_timeout`` is how long running handlers may take when it stops. ``transport`` puts
    something else in the place of a socket, such as a broker in the same process; the client's works the same.

    Without ``endpoints`` the broker is where ``ZBROKER_ENDPOINT`` says, as for `zclient.Client`. ``endpoints``,
    ``concurrency``, ``name``, ``credentials`` and ``drain_timeout`` may be set until it runs.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] | None = None,
        *,
        concurrency: int = 8,
        name: str | None = None,
        credentials: Any = None,
        drain_timeout: Duration = "30s",
        transport: OpenTransport | None = None,
    ) -> None:
        whole(concurrency, "concurrency", 1, MAX_CAPACITY)
        parse_duration(drain_timeout)
        self.endpoints: str | Sequence[str] = endpoints_of(endpoints)
        self.concurrency = concurrency
        self.name = name
        self.credentials = credentials
        self.drain_timeout = drain_timeout
        self.ready = threading.Event()
        """Set when the broker has heard of this worker and may hand it jobs."""
        self._transport = transport
        self._tasks: dict[str, Task[..., Any]] = {}
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._signalled = False
        self._pid = os.getpid()
        self._clients: dict[int, Client] = {}

    @property
    def queues(self) -> list[str]:
        """The queues that its tasks serve."""
        return list(self._tasks)

    @property
    def tasks(self) -> dict[str, Task[..., Any]]:
        """Its tasks, by queue."""
        return dict(self._tasks)

    @property
    def is_draining(self) -> bool:
        """Whether it runs, and was told to end."""
        loop = self._loop
        return loop is not None and loop.is_draining

    def task(
        self,
        queue: str,
        *,
        max_attempts: int | None = None,
        backoff: str | Sequence[Duration] | None = None,
        backoff_min: Duration | None = None,
        backoff_max: Duration | None = None,
        backoff_jitter: float | None = None,
        timeout: Duration | None = None,
        batch: int | None = None,
        batch_wait: Duration | None = None,
        retry_on: Errors | None = None,
        reject_on: Errors | None = None,
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Register a function to serve ``queue``.

        A dict payload becomes keyword arguments, a list positional ones, anything else one argument; a parameter
        annotated `Job` gets the job. A payload that does not fit the signature is rejected, since no retry can help.
        What a generator yields, asynchronous or not, goes to who reads the job (`zclient.Client.stream`).

        ``max_attempts``: how often a job is run before it is dead. ``backoff``: how the waits between its runs grow
        from ``backoff_min`` to ``backoff_max`` (``exponential``, ``linear``, ``constant``), or a list of them as they
        stand; chance takes off up to a share of each (``backoff_jitter``, 0 to 1). The broker goes by these, for the
        jobs that this worker runs: they win over the queue's, and a job's own win over them.

        ``retry_on``: only these exceptions (a class, or a tuple) are tried again; any other rejects the job at once.
        ``reject_on``: these reject it, whatever ``retry_on`` says. `Retry`, `Reject` and `Snooze` mean what they say.

        ``timeout``: a run that takes longer has failed, with a `TimeoutError` to these two; a coroutine is cancelled
        then, while a plain function goes on in its thread, unheard, and keeps its slot. ``batch``: the handler gets a
        list of up to so many jobs, gathered for at most ``batch_wait`` (10 ms), and returns a list of their results, or
        None. Raises `InvalidArgument`.
        """
        if not isinstance(queue, str):
            raise InvalidArgument('a task names its queue: @worker.task("email")')
        options = task_options(
            max_attempts=max_attempts,
            backoff=backoff,
            backoff_min=backoff_min,
            backoff_max=backoff_max,
            backoff_jitter=backoff_jitter,
            timeout=timeout,
            batch=batch,
            batch_wait=batch_wait,
            retry_on=retry_on,
            reject_on=reject_on,
        )

        def register(function: Callable[P, R]) -> Task[P, R]:
            if self._thread is not None:
                raise InvalidArgument("tasks are registered before the worker runs")
            if queue in self._tasks:
                raise InvalidArgument(f"queue {queue} has a task already: {self._tasks[queue]!r}")
            if len(self._tasks) >= MAX_QUEUES_PER_PEER:
                raise InvalidArgument(f"a worker serves at most {MAX_QUEUES_PER_PEER} queues")
            task = Task(function, queue, options, self._client)
            self._tasks[queue] = task
            return task

        return register

    # ---- its life

    def run(self, *, connect_timeout: Duration | None = None) -> None:
        """Serve until `stop`, SIGTERM or SIGINT; blocks.

        In the main thread it handles these signals, and puts the old handlers back: the first drains, a second one
        gives everything back and ends at once. With ``connect_timeout`` it raises `BrokerUnreachable` if the broker
        does not answer in that time at the start; otherwise it tries for ever. Raises what made it end by itself.
        """
        old = self._handle_signals()
        try:
            self.start(connect_timeout=connect_timeout)
            self._wait_for_end()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            self.stop()

    def start(self, *, connect_timeout: Duration | None = None) -> None:
        """Serve on threads of its own, and return at once. Raises `InvalidArgument` if there is no task."""
        self._check_process()
        with self._lock:
            if self._thread is not None:
                raise InvalidArgument("the worker runs already")
            if not self._tasks:
                raise InvalidArgument("the worker has no task: register a function with @worker.task(queue)")
            timeout_ms = None if connect_timeout is None else parse_duration(connect_timeout) * 1000
            self.ready.clear()
            station = Station(
                self.endpoints,
                queues=self.queues,
                tasks={queue: dict(task.options.told) for queue, task in self._tasks.items() if task.options.told},
                capacity=Loop.capacity(self._tasks, self.concurrency),
                name=self.name,
                credentials=self.credentials,
                transport=self._transport,
                ready=self.ready,
            )
            self._loop = Loop(
                self._tasks,
                station,
                concurrency=self.concurrency,
                drain_ms=parse_duration(self.drain_timeout) * 1000,
                connect_timeout_ms=timeout_ms,
            )
            self._thread = threading.Thread(target=self._loop.run, name="zworker", daemon=True)
            self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """Drain and end: take no more jobs, let running handlers end for ``drain_timeout``, give the rest back.

        Harmless if it does not run. A handler that stops its own worker says ``wait=False``. Raises what made the
        worker end by itself, if something did.
        """
        self._check_process()
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        loop.drain()
        if not wait:
            return
        _join(thread)
        with self._lock:
            if self._thread is not thread:
                return
            self._loop = self._thread = None
            self.ready.clear()
            while self._clients:
                self._clients.popitem()[1].close()
        if loop.failure is not None:
            raise loop.failure

    def wait_ready(self, timeout: Duration = 10.0) -> None:
        """Wait until the broker may hand over jobs. Raises `BrokerUnreachable` if that takes longer."""
        if not self.ready.wait(parse_duration(timeout)):
            where = self.endpoints if isinstance(self.endpoints, str) else " or ".join(self.endpoints)
            raise BrokerUnreachable(f"no broker at {where} within {format_duration(parse_duration(timeout))}")

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.stop()

    # ---- inside

    def _client(self) -> "Client":
        """The client with which tasks send, made when the first one does; a forked child gets its own."""
        from zclient import Client

        with self._lock:
            client = self._clients.get(os.getpid())
            if client is None:
                client = self._clients[os.getpid()] = Client(
                    self.endpoints, credentials=self.credentials, transport=self._transport
                )
            return client

    def _check_process(self) -> None:
        if self._thread is not None and os.getpid() != self._pid:
            raise ClosedError("this process was forked while the worker ran: make a new worker here")
        self._pid = os.getpid()

    def _wait_for_end(self) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        if self._signalled:
            loop.drain()
        _join(thread)

    def _handle_signals(self) -> dict[signal.Signals, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        self._signalled = False

        def handle(number: int, frame: FrameType | None) -> None:
            loop = self._loop
            if loop is None:
                self._signalled = True  # It is only being made; it hears of this when it is.
            elif loop.is_draining:
                loop.hurry()
            else:
                loop.drain()

        return {number: signal.signal(number, handle) for number in _STOP_SIGNALS}


def _join(thread: threading.Thread) -> None:
    """Wait for the thread's end in steps.

    A signal that comes between the interpreter's last look and an endless wait would run no handler: the worker would
    never hear of it.
    """
    while thread.is_alive():
        thread.join(JOIN_S)
