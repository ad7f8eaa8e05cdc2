"""One run of a task: from the payload of its jobs, through the handler, to how each of them is settled.

It owns what counts as success and as failure. Whatever a handler does, raising `SystemExit` included, ends here as an
outcome and never escapes into a thread or an event loop. It neither schedules runs nor talks to the broker.
"""

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

from zclient.errors import LeaseLost
from zclient.jobs import encode_payload
from zclient.protocol.messages import Outcome
from zworker.binding import PayloadMismatch
from zworker.generators import run_async_generator, run_generator
from zworker.job import Job
from zworker.outcomes import Cancelled, Settled, failed, reason_map, rejected
from zworker.task import Task

_VALUES = frozenset({type(None), bool, int, float, str, bytes, dict, list, tuple})
"""Types that are results and nothing else: most are of these, and the others are asked what they are."""


class Run:
    """A task at work on a job, or on a batch of them; it takes one slot of the worker until it ends.

    ``overdue`` says that its time ran out: its jobs are settled, and what it still returns is ignored.
    """

    __slots__ = ("deadline_ms", "future", "interrupted", "jobs", "overdue", "task")

    def __init__(self, task: Task[..., Any], jobs: list[Job], deadline_ms: float | None = None) -> None:
        self.task = task
        self.jobs = jobs
        self.deadline_ms = deadline_ms
        self.overdue = False
        self.interrupted = ""  # why a coroutine was cancelled by us; empty if it was not
        self.future: asyncio.Task[list[Settled]] | None = None


def run_plain(run: Run, max_result_bytes: int) -> list[Settled]:
    """Run a plain function; returns how each of the run's jobs ends, and never raises."""
    try:
        args, kwargs = _call(run)
        result = run.task.function(*args, **kwargs)
        is_value = type(result) in _VALUES
        if not is_value and inspect.isgenerator(result) and run.task.binding is not None:
            result = run_generator(run.jobs[0], result, max_result_bytes)
    except BaseException as error:
        # SystemExit and KeyboardInterrupt included: a handler cannot end the worker, least of all without a word.
        return _failure(run, error)
    if not is_value and (inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result)):
        return _not_a_result(run, result)
    return _success(run, result, max_result_bytes)


async def run_coroutine(run: Run, max_result_bytes: int) -> list[Settled]:
    """Run an ``async def``; returns how each of the run's jobs ends, and never raises, cancelled or not."""
    try:
        args, kwargs = _call(run)
        result = run.task.function(*args, **kwargs)
        if not inspect.isasyncgen(result):
            result = await result
        if inspect.isasyncgen(result) and run.task.binding is not None:
            result = await run_async_generator(run.jobs[0], result, max_result_bytes)
    except BaseException as error:
        # What asyncio lets through, SystemExit and KeyboardInterrupt, would stop the loop and every other coroutine.
        if isinstance(error, asyncio.CancelledError) and run.interrupted:
            return interruption(run)
        return _failure(run, error)
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return _not_a_result(run, result)
    return _success(run, result, max_result_bytes)


def interruption(run: Run) -> list[Settled]:
    """How the jobs of a coroutine end that was cancelled from outside: given up for good, or given back."""
    if run.interrupted == "cancelled":
        return [failed(Cancelled())] * len(run.jobs)
    return [Settled(Outcome.RELEASE)] * len(run.jobs)


def timeout(run: Run) -> list[Settled]:
    """How the jobs of a run end whose time ran out: to the task's options it is a `TimeoutError`."""
    options = run.task.options
    told = reason_map("timeout", f"it ran longer than its timeout of {(options.timeout_ms or 0) / 1000:g} s")
    return [Settled(Outcome.NACK if options.retries(TimeoutError) else Outcome.REJECT, told)] * len(run.jobs)


def _call(run: Run) -> tuple[Sequence[Any], Any]:
    if run.task.binding is None:
        return (run.jobs,), {}
    job = run.jobs[0]
    try:
        payload = job.payload
    except ValueError as error:
        raise PayloadMismatch(f"the payload cannot be read: {error}") from None
    return run.task.binding.call(payload, job)


def _failure(run: Run, error: BaseException) -> list[Settled]:
    if isinstance(error, PayloadMismatch):
        return [rejected("PayloadMismatch", str(error))]
    if isinstance(error, Cancelled | LeaseLost) and any(job.cancelled or job.lease_lost for job in run.jobs):
        # What `Job.check` raised for some jobs of a batch is not the fault of the others: they go back.
        return [failed(Cancelled()) if job.cancelled else Settled(Outcome.RELEASE) for job in run.jobs]
    return [failed(error, may_retry=run.task.options.retries(type(error)))] * len(run.jobs)


def _not_a_result(run: Run, result: Any) -> list[Settled]:
    """For what only looks like a result: nothing in it has run yet, so it must not pass as done."""
    kind = type(result).__name__
    if inspect.iscoroutine(result):
        result.close()
    text = f"{run.task!r} returned a {kind}, whose code never ran: use async def, or return a value"
    return [rejected("TypeError", text)] * len(run.jobs)


def _success(run: Run, result: Any, max_result_bytes: int) -> list[Settled]:
    if run.task.binding is not None:
        return [_acked(run, result, max_result_bytes)]
    if result is None:
        return [Settled(Outcome.ACK)] * len(run.jobs)
    if not isinstance(result, list | tuple) or len(result) != len(run.jobs):
        text = f"{run.task!r} returns None or a list of {len(run.jobs)} results, one a job, not {type(result).__name__}"
        return [rejected("TypeError", text)] * len(run.jobs)
    return [_acked(run, value, max_result_bytes) for value in result]


def _acked(run: Run, result: Any, max_result_bytes: int) -> Settled:
    """The ack that carries ``result``. One that cannot travel rejects the job: its work is done, and would be again."""
    if result is None:
        return Settled(Outcome.ACK)
    try:
        encoded = encode_payload(result)
    except Exception as error:
        return rejected("ResultNotEncodable", f"{run.task!r} returned what no result can carry: {error}")
    if len(encoded) > max_result_bytes:
        return rejected("ResultTooLarge", f"the result has {len(encoded)} bytes, and {max_result_bytes} is the limit")
    return Settled(Outcome.ACK, encoded)
