"""Handlers that yield: what they yield goes to the reader of their job, and they go on as far as it lets them.

A generator is paused at its ``yield`` until there is room for the value, and closed there when its run should end. What
was yielded before the end, or before an error, the reader has first. Without a reader values are dropped. It decides
nothing about how the run is settled.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from zclient.errors import InvalidArgument, PayloadTooLarge
from zclient.jobs import encode_payload
from zworker.job import MAX_RUN, Job
from zworker.partials import Partials


def run_generator(job: Job, generator: Generator[Any, Any, Any], max_bytes: int) -> Any:
    """Run it to its end, on this thread; returns what it returns, and raises what it raises.

    Raises what `Job.check` raises if the run should end before; the generator is closed then.
    """
    partials = _partials_of(job)
    resume: Callable[[], Any] = generator.__next__
    result = None
    try:
        while True:
            try:
                value = resume()
            except StopIteration as end:
                result = end.value
                break
            except BaseException as error:
                _deliver_before(error, job, partials)
                raise
            resume = generator.__next__
            if partials is not None:
                encoded = _encoded(value, max_bytes)
                if isinstance(encoded, Exception):
                    resume = _throwing(generator, encoded)
                else:
                    _wait(job, partials, _offering(partials, encoded))
            job.check()
        if partials is not None:
            _wait(job, partials, partials.end)
        return result
    finally:
        generator.close()


async def run_async_generator(job: Job, generator: AsyncGenerator[Any, Any], max_bytes: int) -> Any:
    """The same for an async generator, which returns nothing, on its event loop. It may be cancelled."""
    partials = _partials_of(job)
    changed = _Changed(partials)
    fault: Exception | None = None
    try:
        while True:
            try:
                value = await (anext(generator) if fault is None else generator.athrow(fault))
            except StopAsyncIteration:
                break
            except BaseException as error:
                if partials is not None and not isinstance(error, asyncio.CancelledError):
                    await changed.until(job, partials.end, error)
                raise
            fault = None
            if partials is None:
                await asyncio.sleep(0)  # so that one that never waits leaves the loop to others
            else:
                encoded = _encoded(value, max_bytes)
                if isinstance(encoded, Exception):
                    fault = encoded
                else:
                    await changed.until(job, _offering(partials, encoded))
            await _check(job)
        if partials is not None:
            await changed.until(job, partials.end)
    finally:
        try:
            await generator.aclose()
        finally:
            changed.close()


def _partials_of(job: Job) -> Partials | None:
    """Where the partials of this run go; None if nobody reads them. An interrupted run is woken."""
    if not job.has_reader:
        return None
    partials = job.delivery.owner.partials(job)
    job.on_interrupt(partials.wake)
    return partials


def _encoded(value: Any, max_bytes: int) -> bytes | Exception:
    """The value as it travels, or the error to be raised where it was yielded."""
    try:
        encoded = encode_payload(value)
    except (InvalidArgument, PayloadTooLarge) as error:
        return type(error)(f"what was yielded cannot travel: {error}")
    if len(encoded) > max_bytes:
        return PayloadTooLarge(f"what was yielded has {len(encoded)} bytes, and {max_bytes} is the limit")
    return encoded


def _throwing(generator: Generator[Any, Any, Any], fault: Exception) -> Callable[[], Any]:
    return lambda: generator.throw(fault)


def _offering(partials: Partials, encoded: bytes) -> Callable[[], bool]:
    return lambda: partials.offer(encoded)


def _wait(job: Job, partials: Partials, ready: Callable[[], bool]) -> None:
    """Wait, in a thread, until it is so; raises what `Job.check` raises when the run should end."""
    if ready():
        return
    with partials.changed:
        while not ready():
            job.check()
            partials.changed.wait()


def _deliver_before(error: BaseException, job: Job, partials: Partials | None) -> None:
    """Have the reader get what was yielded before the error, unless the run should end."""
    if partials is None:
        return
    with partials.changed:
        while not partials.end() and not job.is_interrupted:
            partials.changed.wait()


async def _check(job: Job) -> None:
    """What `Job.check` does. If the run's coroutine is being cancelled, that is waited for: it comes once, and should
    not come when the generator cleans up."""
    if not job.is_interrupted:
        return
    task = asyncio.current_task()
    if job.lease_lost and not job.cancelled and job.lost_reason != MAX_RUN:
        job.check()  # nobody cancels it for that
    elif task is not None and not task.cancelling():
        await asyncio.get_running_loop().create_future()
    job.check()


class _Changed:
    """`Partials.changed` for an event loop."""

    def __init__(self, partials: Partials | None) -> None:
        self._partials = partials
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if partials is not None:
            partials.on_change(self._rouse)

    def _rouse(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def until(self, job: Job, ready: Callable[[], bool], error: BaseException | None = None) -> None:
        """Wait until it is so; when the run should end raises what `Job.check` raises, or with ``error`` returns."""
        while True:
            self._event.clear()
            if ready():
                return
            if error is not None and job.is_interrupted:
                return
            await _check(job)
            await self._event.wait()

    def close(self) -> None:
        if self._partials is not None:
            self._partials.on_change(None)
