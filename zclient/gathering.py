"""Sends of few jobs that wait together leave together: one PUT for all of them, as one would have been for each.

What waits is what the link has not taken yet, so nothing waits for others to come. A `Gathered` request stands for its
members: it has their number, and its end is theirs. Refused as a whole, it comes apart, and each is sent alone: the
refusal of one is not that of the others. It holds no socket and no clock.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

from zclient.errors import OutcomeUnknown, ZError
from zclient.protocol import limits
from zclient.protocol.messages import Group
from zclient.requests import PUT, Request

GATHER_JOBS = 500
"""Jobs of one gathered PUT at most: with more its fixed cost is nothing any more."""

GATHER_BYTES = limits.MESSAGE_BYTES
"""Payload bytes of a gathered PUT: the member that crosses it is the last."""

TRAVEL_ALONE = frozenset({"unique", "after"})
"""Options whose jobs are judged by what came before them: they travel as they were sent."""


class Gathered(Request):
    """A PUT that carries those of its ``members``, in their order."""

    __slots__ = ("members",)

    def __init__(self, members: list[Request]) -> None:
        super().__init__(PUT, (_merged(members),))
        self.members = members
        for member in members:
            member.carrier, member.queued = self, False

    def sending(self, now: float) -> None:
        """Its members leave with it."""
        super().sending(now)
        for member in self.members:
            member.sending(now)

    def unsending(self) -> None:
        """Nor did they."""
        super().unsending()
        for member in self.members:
            member.unsending()

    def finish(self, value: Any, error: ZError | None = None) -> None:
        """End it, and each of its members. What is said of jobs with a unique text does not come: they travel alone."""
        super().finish(value, error)
        for member in self.members:
            if isinstance(error, OutcomeUnknown):
                member.finish(None, member.unanswered(str(error)))
            else:
                member.finish(value, error)

    @property
    def is_wanted(self) -> bool:
        """Whether one of its members still waits for the answer."""
        return not self.done and any(not member.done for member in self.members)

    def come_apart(self, *, alone: bool) -> list[Request]:
        """Those of its members that still want to be sent, as if they never had been. ``alone``: not together again."""
        left = [member for member in self.members if not member.done]
        for member in left:
            member.carrier, member.alone, member.sends = None, alone, 0
        return left


def alike(one: Group, other: Group) -> bool:
    """Whether the jobs of both may stand in one group: those of one queue with the same options. Headers are the same
    only if they are on the wire: 1, 1.0 and True are three values there."""
    if one.queue != other.queue or one.options != other.options:
        return False
    return "headers" not in one.options or repr(one.options["headers"]) == repr(other.options["headers"])


def gathered(first: Request, *lines: deque[Request]) -> Request:
    """``first``, or a request for it and those that stand next in the lines, one behind the other, and may travel with
    it; these are taken out."""
    if not any(lines) or not _may_travel(first):
        return first
    members = [first]
    jobs, size = _extent(first)
    for line in lines:
        while line and jobs < GATHER_JOBS and size < GATHER_BYTES and _may_travel(line[0]):
            request = line.popleft()
            if not request.done:
                more, larger = _extent(request)
                jobs, size = jobs + more, size + larger
                members.append(request)
        if line:
            break
    return Gathered(members) if len(members) > 1 else first


def _may_travel(request: Request) -> bool:
    """Whether the request is a small PUT that nobody has seen yet."""
    if request.kind is not PUT or request.number or request.alone:
        return False
    groups: list[Group] = request.body[0]
    return len(groups) == 1 and len(groups[0].ids) < GATHER_JOBS // 10 and TRAVEL_ALONE.isdisjoint(groups[0].options)


def _extent(request: Request) -> tuple[int, int]:
    payloads = request.body[0][0].payloads
    return len(payloads), sum(map(len, payloads))


def _merged(members: Iterable[Request]) -> list[Group]:
    """Their groups, neighbours of one queue with the same options as one."""
    groups: list[Group] = []
    for member in members:
        group: Group = member.body[0][0]
        last = groups[-1] if groups else None
        if last is not None and alike(last, group):
            last.ids.extend(group.ids)
            last.payloads.extend(group.payloads)
        else:
            groups.append(group._replace(ids=list(group.ids), payloads=list(group.payloads)))
    return groups
