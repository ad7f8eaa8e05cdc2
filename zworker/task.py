"""A task: a function that serves a queue, with its options; still callable, and able to send jobs to itself.

It owns what the decorator leaves behind and what a task's options may be. It never runs a job; `runs` does.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

from zclient.composition import Step
from zclient.composition import step as piece
from zclient.config import Duration
from zclient.durations import duration_ms
from zclient.errors import InvalidArgument
from zclient.options import wire_value
from zclient.protocol.limits import MAX_BATCH_JOBS, queue_name_fault
from zclient.protocol.options import TASK_OPTIONS
from zworker.binding import Binding

if TYPE_CHECKING:
    from zclient import Client, JobHandle

P = ParamSpec("P")
R = TypeVar("R")

Errors = type[BaseException] | tuple[type[BaseException], ...]


class TaskOptions(NamedTuple):
    """What a task may set. Times in ms; ``batch`` is None for a handler of one job at a time.

    ``told`` are the options that the broker judges by, as the wire has them; the others are this process's own.
    ``retry_on`` is None for all errors.
    """

    told: Mapping[str, Any] = MappingProxyType({})
    timeout_ms: int | None = None
    batch: int | None = None
    batch_wait_ms: int = 0
    retry_on: tuple[type[BaseException], ...] | None = None
    reject_on: tuple[type[BaseException], ...] = ()

    def retries(self, kind: type[BaseException]) -> bool:
        """Whether a job that failed with such an error may be tried again."""
        return not issubclass(kind, self.reject_on) and (self.retry_on is None or issubclass(kind, self.retry_on))


def task_options(
    *,
    timeout: Duration | None,
    batch: int | None,
    batch_wait: Duration | None,
    retry_on: Errors | None,
    reject_on: Errors | None,
    **written: Any,
) -> TaskOptions:
    """The options as the decorator takes them, checked; raises `InvalidArgument`."""
    told = {name: wire_value(name, TASK_OPTIONS[name], value) for name, value in written.items() if value is not None}
    if batch is not None and not 1 <= batch <= MAX_BATCH_JOBS:
        raise InvalidArgument(f"batch is 1 to {MAX_BATCH_JOBS}, not {batch}")
    if batch is None and batch_wait is not None:
        raise InvalidArgument("batch_wait goes with batch")
    timeout_ms = None if timeout is None else duration_ms(timeout)
    if timeout_ms == 0:
        raise InvalidArgument("a timeout is more than 0; leave it out for none")
    return TaskOptions(
        told,
        timeout_ms,
        batch,
        duration_ms("10ms" if batch_wait is None else batch_wait),
        None if retry_on is None else _error_classes("retry_on", retry_on),
        () if reject_on is None else _error_classes("reject_on", reject_on),
    )


def _error_classes(name: str, given: Any) -> tuple[type[BaseException], ...]:
    classes = given if isinstance(given, tuple) else (given,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in classes):
        raise InvalidArgument(f"{name} is an exception class, or a tuple of them, not {given!r:.60}")
    return classes


class Task(Generic[P, R]):
    """What ``@worker.task`` makes of a function: called, it is the function; ``send`` sends a job for it.

    The parameter that takes the job is left out in ``send``. A task with ``batch`` sends one payload.
    """

    def __init__(
        self, function: Callable[P, R], queue: str, options: TaskOptions, client: "Callable[[], Client]"
    ) -> None:
        fault = queue_name_fault(queue)
        if fault is not None:
            raise InvalidArgument(fault)
        if options.batch is not None and any(_is_generator(one) for one in (function, _call_of(function))):
            raise InvalidArgument(f"{function!r} is a generator: one with batch returns its results")
        self.function = function
        self.queue = queue
        self.options = options
        # A callable object is asynchronous if its __call__ is. What a decorator wraps is its own affair.
        self.is_async = any(
            inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)
            for one in (function, _call_of(function))
        )
        self.binding = None if options.batch is not None else Binding(function)
        self._client = client
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself, with nothing sent."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {getattr(self, '__qualname__', self.function)!s} of queue {self.queue}>"

    def send(self, *args: P.args, **kwargs: P.kwargs) -> "JobHandle":
        """Send a job with these arguments to the task's queue; returns when the broker has it.

        Raises `InvalidArgument` for arguments that do not fit the function, and what `zclient.Client.send` raises.
        """
        return self._client().send(self.queue, self.payload(*args, **kwargs))

    def send_with(self, **options: Any) -> "Callable[P, JobHandle]":
        """``send`` with a job's options, such as ``task.send_with(priority=5, delay="5s")("ada@example.org")``."""

        def send(*args: P.args, **kwargs: P.kwargs) -> "JobHandle":
            return self._client().send(self.queue, self.payload(*args, **kwargs), **options)

        return send

    def step(self, *args: P.args, **kwargs: P.kwargs) -> Step:
        """A step of a workflow with these arguments, for `zclient.chain`, `group`, `chord` and `Workflow`.

        It is a piece: nothing is sent. Raises `InvalidArgument` for arguments that do not fit the function.
        """
        return piece(self.queue, self.payload(*args, **kwargs))

    def step_with(self, **options: Any) -> Callable[P, Step]:
        """``step`` with a name and options, such as ``task.step_with(name="mail", priority=5)("ada@example.org")``."""

        def step(*args: P.args, **kwargs: P.kwargs) -> Step:
            return piece(self.queue, self.payload(*args, **kwargs), **options)

        return step

    def payload(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The payload that gives the function these arguments, for `zclient.Client.send_many` and the like."""
        if self.binding is not None:
            return self.binding.payload(args, kwargs)
        if len(args) + bool(kwargs) != 1:
            raise InvalidArgument(f"{self!r} takes jobs in batches: send it one payload, or keywords")
        return args[0] if args else dict(kwargs)


def _is_generator(function: Any) -> bool:
    """Whether it is a generator function, asynchronous or not."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _call_of(function: Callable[..., Any]) -> Any:
    return type(function).__dict__.get("__call__")
