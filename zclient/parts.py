"""A workflow on its way: cut into messages that the broker takes one by one, and stores as a whole or not at all.

A small workflow is one message. The parts of a large one are staged by the broker in their order, and the last one
decides: nothing runs before. Cutting is done once, so that a workflow that is sent again is the same.
"""

import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from zclient.composition import Piece, Workflow
from zclient.errors import DuplicateId, InvalidArgument, OutcomeUnknown, Refused
from zclient.jobs import id_bytes
from zclient.protocol import limits, plans
from zclient.protocol.messages import Group
from zclient.requests import Request
from zclient.session import Session
from zclient.verbs import LAST_TRY_MS, Procedure, Wait

PART_JOBS = 500
"""Jobs in one part, as in a batch of `send_many`: other peers' messages pass between."""

WINDOW = 8
"""Parts on their way at once."""

TAKE_BACK_MS = 1000
"""How long a refused workflow tries to have its staged parts removed; the broker does so by itself in an hour."""


class Parts(NamedTuple):
    """A workflow as it is sent: its id, and of each part the plan (the first alone has it) and the groups of jobs."""

    id: bytes
    bodies: list[tuple[dict[str, Any] | None, list[Group]]]


def new_workflow_id() -> bytes:
    """12 digits of Unix milliseconds, and 10 of chance."""
    return b"%012x%b" % (time.time_ns() // 1_000_000, os.urandom(5).hex().encode())


def to_be_sent(flow: Workflow | Piece, name: str | None, identifier: Any) -> tuple[Workflow, Parts]:
    """A workflow, or one made of a piece, and what it is sent as; `InvalidArgument` for what cannot be sent."""
    if isinstance(flow, Piece):
        flow = flow.workflow(name)
    elif not isinstance(flow, Workflow):
        raise InvalidArgument(f"a Workflow, or what step(), group(), chain() or chord() make, not {flow!r:.60}")
    elif name is not None:
        raise InvalidArgument("a Workflow has its name already")
    if flow.sent:
        raise InvalidArgument(f"workflow {flow.name} was sent as {flow.id}: copy() makes another one")
    return flow, parts_of(flow, identifier)


def parts_of(flow: Workflow, identifier: Any = None, *, jobs: int = PART_JOBS) -> Parts:
    """The parts of a workflow, the same ones each time; they fix its id. `InvalidArgument` for what cannot be sent."""
    given = None if identifier is None else id_bytes(identifier)
    if flow.parts is None:
        plan = flow.plan()
        if given is not None and (fault := plans.workflow_id_fault(given)):
            raise InvalidArgument(fault)
        flow.parts = _cut(flow, plan, given or new_workflow_id(), jobs)
    elif given not in (None, flow.parts.id):
        raise InvalidArgument(f"workflow {flow.name} was sent as {flow.id}: copy() makes another one")
    return flow.parts


def _cut(flow: Workflow, plan: dict[str, Any], identifier: bytes, jobs: int) -> Parts:
    """Few enough parts: of `MESSAGE_BYTES` each if that will do, else of twice as much, and so on."""
    octets = limits.MESSAGE_BYTES
    while octets < limits.MAX_BATCH_BYTES:
        bodies = list(_bodies(flow, plan, identifier, jobs, octets))
        if len(bodies) <= limits.MAX_PARTS:
            return Parts(identifier, [(None if part else plan, groups) for part, groups in enumerate(bodies)])
        octets *= 2
    raise InvalidArgument(f"workflow {flow.name} is larger than {limits.MAX_PARTS} messages; a batch has no such limit")


def _bodies(
    flow: Workflow, plan: dict[str, Any], identifier: bytes, most: int, most_octets: int
) -> Iterator[list[Group]]:
    """The groups of each part: at most so many jobs, closed by the job that brings it over its bytes."""
    body: list[Group] = []
    jobs = octets = 0
    for place, (named, told) in enumerate(zip(flow, plans.steps_of(plan), strict=True)):
        belongs: dict[str, Any] = {"batch": plans.step_id(identifier, place)}
        if told.after:
            belongs["after"] = [plans.step_id(identifier, other) for other in told.after]
            belongs["on_parent_death"] = told.rule
        number = 0
        for run in named.runs:
            start = 0
            while start < len(run.payloads):
                if jobs >= most or octets >= most_octets:
                    yield body
                    body, jobs, octets = [], 0, 0
                end = start
                while end < len(run.payloads) and jobs < most and octets < most_octets:
                    jobs += 1
                    octets += len(run.payloads[end])
                    end += 1
                ids = plans.job_ids(identifier, place, number, end - start)
                body.append(Group(run.queue, {**run.options, **belongs}, ids, run.payloads[start:end]))
                number += end - start
                start = end
    yield body


class Sending:
    """One sending of a workflow. ``run`` is its procedure."""

    def __init__(self, session: Session, parts: Parts, timeout_ms: float) -> None:
        self._session = session
        self._parts = parts
        self._timeout_ms = timeout_ms
        self._flying: list[tuple[int, Request]] = []
        self._next = 0
        self._not_before_ms = 0.0

    def run(self, now: float) -> Procedure[None]:
        """Send all parts, and return when the broker has the last one on disk: then the workflow is there.

        ``timeout_ms`` is for each part. A refusal that says when to try again is followed as long as the time allows.
        Another one is raised, and what was staged is removed. Raises `OutcomeUnknown` only if all parts left.
        """
        until_ms = now + self._timeout_ms
        try:
            while self._next < len(self._parts.bodies) or self._flying:
                self._send(now)
                pause_ms = self._not_before_ms if not self._flying else until_ms
                now = yield Wait([request for _, request in self._flying], min(until_ms, pause_ms))
                if now >= until_ms:
                    self._give_up()
                before = len(self._flying)
                refused = self._reap()
                if refused is not None:
                    yield from self._refused(refused, now, until_ms)
                elif len(self._flying) < before:
                    until_ms = now + self._timeout_ms  # those behind had to wait for it
                elif now >= until_ms:
                    raise self._session.unreachable()
        finally:
            self._give_up()

    def _send(self, now: float) -> None:
        if now < self._not_before_ms:
            return
        while self._next < len(self._parts.bodies) and len(self._flying) < WINDOW:
            plan, groups = self._parts.bodies[self._next]
            body = (self._parts.id, self._next, len(self._parts.bodies), plan, groups)
            self._flying.append((self._next, self._session.workflow(body)))
            self._next += 1

    def _reap(self) -> tuple[int, Exception] | None:
        """Take out the parts that the broker has; the first that it has not, and why, takes out all behind it."""
        while self._flying and self._flying[0][1].done:
            part, request = self._flying[0]
            if request.error is not None:
                return part, request.error.with_traceback(None)
            del self._flying[0]
        return None

    def _refused(self, refused: tuple[int, Exception], now: float, until_ms: float) -> Procedure[None]:
        """Have the part wait for another try, or raise what it met."""
        part, error = refused
        last_left = self._next == len(self._parts.bodies) and all(request.sent for _, request in self._flying)
        self._give_up()
        self._flying.clear()
        if isinstance(error, OutcomeUnknown) and not last_left:
            raise self._session.unreachable()  # it cannot be whole: the broker lets go of its parts in time
        pause = error.retry_after if isinstance(error, Refused) else None
        if pause is not None:
            again_ms = min(now + pause * 1000, until_ms - LAST_TRY_MS)
            if again_ms > now:
                self._next, self._not_before_ms = part, again_ms
                return
        if isinstance(error, Refused) and not isinstance(error, DuplicateId) and len(self._parts.bodies) > 1:
            yield from self._take_back(now)
        raise error

    def _take_back(self, now: float) -> Procedure[None]:
        """Remove what is staged; best effort."""
        request = self._session.order("cancel_workflow", {"id": self._parts.id}, now)
        try:
            until_ms = now + TAKE_BACK_MS
            while not request.done and now < until_ms:
                now = yield Wait((request,), until_ms)
        finally:
            self._session.give_up(request)

    def _give_up(self) -> None:
        for _, request in self._flying:
            self._session.give_up(request)
