"""The stages of a job's way, as functions of the production code, and how each is wrapped to be measured from outside.

Nothing is switched off and nothing is left out: a wrapped function does what it did. A stage's cost is its own, without
that of the stages inside it. A function that is no longer there is an error that names it: then the table has to follow
the code.
"""

import importlib
import operator
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from zclient.protocol import messages as m

PRODUCER, BROKER, CONSUMER = "producer", "broker", "consumer"

CHOSEN = Callable[[tuple[Any, ...]], str]
"""From a call's arguments, the stage that it belongs to."""


class Stage(NamedTuple):
    """One row of the table: where it runs, what it is, and whether it happens without sockets and syncs as well."""

    process: str
    name: str
    is_counted: bool = True


STAGES: dict[str, Stage] = {
    "encode": Stage(PRODUCER, "payloads, ids and batches, encoded"),
    "send": Stage(PRODUCER, "sent", is_counted=False),
    "answers": Stage(PRODUCER, "confirmations received and taken"),
    "receive": Stage(BROKER, "received", is_counted=False),
    "decode": Stage(BROKER, "decoded and checked"),
    "put": Stage(BROKER, "core: put"),
    "dispatch": Stage(BROKER, "core: dispatch"),
    "settle": Stage(BROKER, "core: settle and history"),
    "core": Stage(BROKER, "core: the rest of a turn"),
    "rows": Stage(BROKER, "rows into a write batch"),
    "write": Stage(BROKER, "write"),
    "sync": Stage(BROKER, "sync", is_counted=False),
    "deliver": Stage(BROKER, "answers and deliveries encoded"),
    "out": Stage(BROKER, "sent", is_counted=False),
    "take": Stage(CONSUMER, "received", is_counted=False),
    "jobs": Stage(CONSUMER, "decoded, jobs made"),
    "acks": Stage(CONSUMER, "settlements gathered and encoded"),
    "reply": Stage(CONSUMER, "sent", is_counted=False),
}
"""In the order in which a job meets them."""


def _by_session(arguments: tuple[Any, ...], ours: str, theirs: str) -> str:
    """A session that serves queues is a consumer's."""
    return theirs if arguments[0].queues else ours


HOOKS: list[tuple[str, str, str | CHOSEN]] = [
    ("zclient.batches", "Chunks.next", "encode"),
    ("zclient.batches", "Pipeline._add", "encode"),
    ("zclient.session", "encode", lambda told: "acks" if isinstance(told[0], m.Settle) else "encode"),
    ("zclient.batches", "Pipeline._reap", "answers"),
    ("zclient.session", "Session.receive", lambda told: _by_session(told, "answers", "jobs")),
    ("zclient.link", "Link._send", lambda told: _by_session((told[0]._session,), "send", "reply")),
    ("zclient.link", "Link._receive", lambda told: _by_session((told[0]._session,), "answers", "take")),
    ("zbroker.server", "Server._receive", "receive"),
    ("zclient.protocol.codec", "decode", "decode"),
    ("zbroker.core.core", "put", "put"),
    ("zbroker.core.dispatch", "dispatch", "dispatch"),
    ("zbroker.core.settle", "settle", "settle"),
    ("zbroker.core.core", "Core.receive", "core"),
    ("zbroker.core.core", "Core.finish", "core"),
    ("zbroker.storage.rocks", "RocksStore._batch", "rows"),
    ("zbroker.storage.rocks", "RocksStore.write", "write"),
    ("zbroker.storage.rocks", "RocksStore.sync", "sync"),
    ("zbroker.dialects.native", "encode", "deliver"),
    ("zbroker.server", "Server._send", "out"),
    ("zworker.session", "WorkerSession.receive", "jobs"),
    ("zworker.session", "WorkerSession.flush", "acks"),
]
"""Module, name in it, and the stage that it belongs to."""


class Meter:
    """What the stages cost: processor time of the thread that runs them, and time on the wall, in nanoseconds."""

    def __init__(self) -> None:
        self.cpu: dict[str, int] = dict.fromkeys(STAGES, 0)
        self.wall: dict[str, int] = dict.fromkeys(STAGES, 0)
        self._local = threading.local()

    def clear(self) -> None:
        """Count from here on."""
        for counts in (self.cpu, self.wall):
            counts.update(dict.fromkeys(counts, 0))

    def run(self, stage: str, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call it, and charge its stage for what is not another stage's."""
        local = self._local
        outer = getattr(local, "inside", None)
        local.inside = (0, 0)
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        try:
            return function(*arguments, **named)
        finally:
            cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
            self.cpu[stage] += cpu - local.inside[0]
            self.wall[stage] += wall - local.inside[1]
            local.inside = None if outer is None else (outer[0] + cpu, outer[1] + wall)


class Marker:
    """Calls each stage through a C function of its own: so callgrind, which sees C functions only, tells them apart.

    These are functions of CPython behind operators that nothing else on the way uses; that they were called as often as
    the stages were is checked afterwards.
    """

    def __init__(self) -> None:
        counted = [stage for stage, what in STAGES.items() if what.is_counted]
        self.calls = dict.fromkeys(counted, 0)
        self.parents: dict[str, set[str]] = {stage: set() for stage in counted}
        self._operators = {stage: (of_stage, _Entry()) for stage, (_, of_stage) in zip(counted, OPERATORS, strict=True)}
        self._local = threading.local()

    def run(self, stage: str, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call it inside the C function of its stage."""
        if stage not in self._operators:
            return function(*arguments, **named)
        local = self._local
        outer = getattr(local, "stage", "")
        self.calls[stage] += 1
        self.parents[stage].add(outer)
        local.stage = stage
        enter, entry = self._operators[stage]
        try:
            return enter(entry, (function, arguments, named))
        finally:
            local.stage = outer


class _Entry:
    """What the operators of `Marker` are applied to."""

    def _enter(self, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> Any:
        function, arguments, named = call
        return function(*arguments, **named)

    __imatmul__ = __ipow__ = __ifloordiv__ = __imod__ = __ixor__ = __ilshift__ = _enter
    __irshift__ = __imul__ = __itruediv__ = __iand__ = __matmul__ = __pow__ = _enter


OPERATORS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("PyNumber_InPlaceMatrixMultiply", operator.imatmul),
    ("PyNumber_InPlacePower", operator.ipow),
    ("PyNumber_InPlaceFloorDivide", operator.ifloordiv),
    ("PyNumber_InPlaceRemainder", operator.imod),
    ("PyNumber_InPlaceXor", operator.ixor),
    ("PyNumber_InPlaceLshift", operator.ilshift),
    ("PyNumber_InPlaceRshift", operator.irshift),
    ("PyNumber_InPlaceMultiply", operator.imul),
    ("PyNumber_InPlaceTrueDivide", operator.itruediv),
    ("PyNumber_InPlaceAnd", operator.iand),
    ("PyNumber_MatrixMultiply", operator.matmul),
    ("PyNumber_Power", operator.pow),
]
"""The C function behind each operator; as many as there are stages that are counted."""


def install(run: Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Wrap every function of `HOOKS`, in this process, for good."""
    for module, name, stage in HOOKS:
        owner, last = found(module, name)
        setattr(owner, last, _wrapped(getattr(owner, last), stage, run))


def found(module: str, name: str) -> tuple[Any, str]:
    """What has the function, a module or a class, and the function's own name there; `AttributeError` if it is gone."""
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    getattr(owner, last)
    return owner, last


def _wrapped(function: Callable[..., Any], stage: str | CHOSEN, run: Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(stage, str):

        def call(*arguments: Any, **named: Any) -> Any:
            return run(stage, function, arguments, named)

        return call

    def choose(*arguments: Any, **named: Any) -> Any:
        return run(stage(arguments), function, arguments, named)

    return choose
