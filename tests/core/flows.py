"""Workflows as tests write them: steps by name, the messages that they travel in, and what is told of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.core.harness import Peer
from zclient.protocol import messages as m
from zclient.protocol.plans import job_ids, step_id

W = "0123456789abcdef012345"
"""The id of a workflow."""


class Step(NamedTuple):
    """A step: its jobs go to the queue of its name, unless another is said."""

    name: str
    jobs: int = 1
    after: str = ""  # names, with blanks between them
    rule: str = "wait"
    single: bool = False
    queue: str = "q"
    options: dict[str, Any] = {}  # noqa: RUF012 (nobody changes it)


CHORD = [Step("fetch", 3, queue="f"), Step("report", 1, "fetch", single=True, queue="r")]


def plan_of(steps: list[Step], name: str = "flow") -> dict[str, Any]:
    places = {step.name: place for place, step in enumerate(steps)}
    told = [[one.name, one.jobs, [places[each] for each in one.after.split()], one.rule, one.single] for one in steps]
    return {"name": name, "steps": told}


def groups_of(steps: list[Step], identifier: str = W, most: int = 1000) -> list[m.Group]:
    """The groups of a workflow, each of at most so many jobs."""
    flow, places, groups = identifier.encode(), {step.name: place for place, step in enumerate(steps)}, []
    for place, step in enumerate(steps):
        options: dict[str, Any] = {**step.options, "batch": step_id(flow, place)}
        if step.after:
            options["after"] = [step_id(flow, places[name]) for name in step.after.split()]
            options["on_parent_death"] = step.rule
        for first in range(0, step.jobs, most):
            ids = job_ids(flow, place, first, min(most, step.jobs - first))
            groups.append(m.Group(step.queue, options, ids, [b"%d" % n for n in range(len(ids))]))
    return groups


def messages_of(steps: list[Step], identifier: str = W, most: int = 1000, name: str = "flow") -> list[m.Workflow]:
    """The parts of a workflow, numbers left out: one group a part, all in one if ``most`` is 1,000 and they fit."""
    groups = groups_of(steps, identifier, most)
    pages = [groups] if most == 1000 and sum(len(group.ids) for group in groups) <= most else [[one] for one in groups]
    return [
        m.Workflow(0, 0, identifier.encode(), n, len(pages) or 1, plan_of(steps, name) if n == 0 else None, page)
        for n, page in enumerate(pages or [[]])
    ]


def send(peer: Peer, *parts: m.Workflow) -> list[m.Message]:
    """Send parts, each under a number of its own; the answers."""
    answers = []
    for part in parts:
        number = peer.next_number()
        peer.send(part._replace(number=number, low=number))
        answers.append(peer.answer(number))
    return answers


def sent(peer: Peer, steps: list[Step], identifier: str = W, most: int = 1000, name: str = "flow") -> None:
    """Send a workflow whole; every part is confirmed."""
    for answer in send(peer, *messages_of(steps, identifier, most, name)):
        assert isinstance(answer, m.Ok), answer


def code(peer: Peer, part: m.Workflow) -> tuple[str, str]:
    """The code and text with which a part is refused."""
    (answer,) = send(peer, part)
    assert isinstance(answer, m.Failure), answer
    return answer.code, answer.text


def job(step: int, n: int = 0, identifier: str = W) -> str:
    return job_ids(identifier.encode(), step, n, 1)[0].decode()


def state_of(peer: Peer, identifier: str = W) -> str:
    """The state of a workflow; ``gone`` if the broker knows none."""
    number = peer.next_number()
    peer.send(m.Ask(number, "workflow", {"id": identifier.encode()}))
    answer = peer.answer(number)
    return "gone" if isinstance(answer, m.Failure) else str(answer.value["state"])  # type: ignore[union-attr]


def steps(peer: Peer, identifier: str = W) -> dict[str, str]:
    """State and counters of each step: ``running 3/1/0/0``, of all, done, dead, cancelled."""
    told = peer.ask("workflow", id=identifier.encode())["steps"]
    counters = ("total", "done", "dead", "cancelled")
    return {step["name"]: f"{step['state']} {'/'.join(str(step[name]) for name in counters)}" for step in told}


def order(peer: Peer, verb: str, identifier: str = W) -> Any:
    return peer.order(verb, id=identifier.encode())
