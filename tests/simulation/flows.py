"""Workflows in a simulated world: what is sent, followed, cancelled and tried again, and what must come of each.

It owns the workflows of a world and its own idea of how each stands, from the rows of their jobs. That a step begins
after what it waits for is judged where every job's parents are, in ``parents.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.book import Book
from tests.simulation.world import Violation
from zbroker.core import workflows as core_workflows
from zbroker.core.states import State
from zbroker.storage.interface import Range, Rows
from zclient import workflows
from zclient.composition import Workflow
from zclient.errors import (
    AnswerTimeout,
    BrokerUnreachable,
    JobCancelled,
    JobFailed,
    NotFound,
    OutcomeUnknown,
    Refused,
    ResultExpired,
    ResultTimeout,
    ZError,
)
from zclient.jobs import decode_payload
from zclient.parts import Sending, parts_of
from zclient.protocol.limits import WORKFLOW_ID_BYTES
from zclient.protocol.plans import step_id

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.mix import Mix
    from tests.simulation.producer import ProducerProcess

MOST_FLOWS = 5
RULES = ("wait", "wait", "cancel", "run")
GOES_ON = (State.READY, State.SCHEDULED, State.LEASED)


class Flow:
    """One workflow, and what is known of it."""

    def __init__(self, identifier: bytes, flow: Workflow, jobs_a_part: int) -> None:
        self.id = identifier
        self.workflow = flow
        self.parts = parts_of(flow, identifier.decode(), jobs=jobs_a_part)
        self.steps = {step.name: step_id(identifier, place) for place, step in enumerate(flow)}
        self.jobs = [job for _, groups in self.parts.bodies for group in groups for job in group.ids]
        self.may_stop = False  # somebody cancels it
        self.is_confirmed = False
        self.was: set[str] = set()  # the states that it had

    @property
    def has_arrived(self) -> bool:
        """Whether all of it was there: one without any jobs is over at once."""
        return bool(self.was - {"coming"})


class Flows:
    """All workflows of one scenario."""

    def __init__(self, mix: Mix, book: Book) -> None:
        self._mix = mix
        self._book = book
        self._random: Random = mix.random
        self._flows: dict[bytes, Flow] = {}
        book.judges.append(self.write)

    # ---- what people do

    def act(self, producer: ProducerProcess) -> None:
        random = self._random
        known = list(self._flows.values())
        chance = random.random()
        if not known or (chance < 0.4 and len(known) < MOST_FLOWS):
            flow = self._draw()
            self._send(producer, flow, again=random.choice((0, 1, 3)))
            if random.random() < 0.6:
                self._await(producer, flow)
        elif chance < 0.6:
            self._await(producer, random.choice(known))
        elif chance < 0.7:
            flow = random.choice(known)
            flow.may_stop = True
            producer.verb(workflows.cancelled(flow.id), 5_000.0)
        elif chance < 0.85:
            producer.verb(workflows.retried(random.choice(known).id), 5_000.0)
        else:
            producer.verb(workflows.shown(random.choice(known).id), 5_000.0)

    def _draw(self) -> Flow:
        """A graph of a few steps, each of one job or several, or none."""
        random, mix = self._random, self._mix
        identifier = b"%012x%010x" % (0x0191_0000_0000, len(self._flows))
        workflow = Workflow(f"flow-{len(self._flows)}")
        names: list[str] = []
        for place in range(random.randint(1, 4)):
            name, queue = f"s{place}", random.choice(list(mix.queues))
            after = random.sample(names, random.randint(0 if random.random() < 0.3 else 1, len(names))) if names else []
            options = self._options()
            if random.random() < 0.5:
                workflow.step(name, queue, mix.payload(), after=after, **options)
            else:
                payloads = [mix.payload() for _ in range(random.choice((0, 1, 2, 4, 9)))]
                workflow.group(name, queue, payloads, after=after, **options)
            names.append(name)
        return Flow(identifier, workflow, random.choice((2, 500)))

    def _options(self) -> dict[str, Any]:
        random = self._random
        choices = {
            "on_parent_death": RULES,
            "key": ("a", "b"),
            "priority": (-5, 5),
            "delay": (0.05, 2.0),
            "ttl": (2.0, 30.0),
            "max_attempts": (1, 2),
            "backoff_min": (0.1,),
        }
        shares = {"on_parent_death": 0.7, "max_attempts": 0.5, "backoff_min": 0.5, "ttl": 0.1}
        return {name: random.choice(of) for name, of in choices.items() if random.random() < shares.get(name, 0.2)}

    def _send(self, producer: ProducerProcess, flow: Flow, *, again: int) -> None:
        """Send it; where the outcome is unknown ``again`` as often, which is safe."""
        book = self._book
        is_first = flow.id not in self._flows
        self._flows[flow.id] = flow
        for batch in flow.steps.values():
            book.batches.setdefault(batch, {})
            book.closed.add(batch)
        for _, groups in flow.parts.bodies:
            for group in groups:
                book.asked.update(dict.fromkeys(group.ids, producer.name))
                book.asked_in.update(dict.fromkeys(group.ids, group.queue))

        def told(_: None, error: ZError | None) -> None:
            if error is None:
                flow.is_confirmed = True
                if not flow.has_arrived:
                    raise Violation(f"the workflow {flow.id!r} is confirmed, and is not on disk")
            elif isinstance(error, OutcomeUnknown):
                if again:
                    self._send(producer, flow, again=again - 1)
            elif isinstance(error, Refused | BrokerUnreachable) or (isinstance(error, NotFound) and flow.may_stop):
                if is_first and flow.has_arrived:
                    raise Violation(f"the workflow {flow.id!r} is stored, and its producer was told {error}")
                if is_first:
                    book.refuse(flow.jobs, f"{type(error).__name__}: {error}")
            else:
                raise Violation(f"sending {flow.id!r} ended with {type(error).__name__}: {error}")

        sending = Sending(producer.session, flow.parts, self._random.choice((1_000.0, 10_000.0)))
        what = f"send {flow.workflow!r} {flow.id.decode()} in {len(flow.parts.bodies)} parts"
        producer.call(what, sending.run(producer.transport.now()), told)

    def _await(self, producer: ProducerProcess, flow: Flow) -> None:
        """Wait for its end and its results, and compare them with the rows."""
        was_confirmed = flow.is_confirmed

        def told(results: Any, error: ZError | None) -> None:
            if error is None:
                self._told_done(flow, results)
            elif isinstance(error, JobFailed):
                if not any(job in self._book.was_dead for job in self._members(flow)):
                    raise Violation(f"{flow.id!r} is told to be dead, and no job of it was")
            elif isinstance(error, JobCancelled):
                if "cancelled" not in flow.was:
                    raise Violation(f"{flow.id!r} is told to be cancelled, and was {flow.was}")
            elif isinstance(error, ResultExpired):
                if was_confirmed:
                    raise Violation(f"{flow.id!r} is told to be unknown, and was confirmed")
            elif not isinstance(error, ResultTimeout | AnswerTimeout | BrokerUnreachable):
                raise Violation(f"waiting for {flow.id!r} ended with {type(error).__name__}: {error}")

        timeout_ms = self._random.choice((100.0, 5_000.0, 300_000.0))
        now = producer.transport.now()
        procedure = workflows.collected(producer.session, now, flow.id, None, timeout_ms, 10_000.0)
        producer.call(f"await {flow.id.decode()}", procedure, told)

    def _told_done(self, flow: Flow, results: dict[str, Any]) -> None:
        if "done" not in flow.was:
            raise Violation(f"{flow.id!r} is told to be done, and was {flow.was}")
        for step in flow.workflow:
            values = [self._result(job) for job in sorted(self._book.batches[flow.steps[step.name]])]
            expected = values[0] if step.single else values
            if results[step.name] != expected:
                told = results[step.name]
                raise Violation(f"{step.name} of {flow.id!r} is told to have returned {told!r}, and did {expected!r}")

    def _result(self, job: bytes) -> Any:
        result = self._book.ended[job].result
        return None if result is None else decode_payload(result)

    # ---- what the rows say

    def _members(self, flow: Flow) -> list[bytes]:
        """Its jobs that ever were there: those that came with it, and those that jobs added."""
        return [job for batch in flow.steps.values() for job in self._book.batches[batch]]

    def write(self, written: Rows, ranges: Sequence[Range]) -> None:
        """A write is there for good; the book has looked at it."""
        for key, value in written["workflows"].items():
            if len(key) != WORKFLOW_ID_BYTES:
                continue
            flow = self._flows.get(key)
            if flow is None:
                raise Violation(f"nobody sent the workflow {key!r}")
            if value is None:
                if flow.has_arrived:
                    raise Violation(f"the workflow {key!r} is gone, and was {flow.was}")
                continue
            state = core_workflows.decode(key, value).state
            flow.was.add(state)
            if state not in ("coming", "running"):
                self._check_over(flow, state)

    def _check_over(self, flow: Flow, state: str) -> None:
        """It is said to be over, and is."""
        book = self._book
        members = self._members(flow)
        if state == "done":
            bad = [job for job in members if job not in book.ended or book.ended[job].how != "done"]
            if bad or len(members) < len(flow.jobs):
                raise Violation(f"{flow.id!r} is done, and of its {len(flow.jobs)} jobs not {bad}")
            return
        # One that was dead, and then moved to another queue or was replayed, may go on in a step that others hold; so
        # may one that ran although another was dead, which was replayed and is held since then.
        begun_before = self._begun_before_replays(flow)
        goes_on = [
            job
            for job in members
            if book.state_of(job) in GOES_ON and job not in book.was_dead and job not in begun_before
        ]
        if goes_on:
            raise Violation(f"{flow.id!r} is {state}, and {goes_on} go on")
        if state == "dead" and not any(book.state_of(job) is State.DEAD for job in members):
            raise Violation(f"{flow.id!r} is dead, and no job of it is")

    def _begun_before_replays(self, flow: Flow) -> set[bytes]:
        """The jobs of steps that are after one of which a job was replayed."""
        book, steps = self._book, flow.steps
        after: set[str] = set()
        for step in flow.workflow:  # each stands behind those that it is after
            if any(name in after or not book.replayed.isdisjoint(book.batches[steps[name]]) for name in step.after):
                after.add(step.name)
        return {job for name in after for job in book.batches[steps[name]]}

    def check_ends(self) -> None:
        """At the end: each is there as a whole or not at all, and is over."""
        book = self._book
        for flow in self._flows.values():
            heard = [job for job in flow.jobs if job in book.ended]
            arrived = flow.has_arrived
            if arrived and not flow.may_stop and len(heard) < len(flow.jobs):
                missing = [job for job in flow.jobs if job not in book.ended]
                raise Violation(f"{flow.id!r} is there, and its jobs {missing} never were")
            if not arrived and heard:
                raise Violation(f"{flow.id!r} is not there, and its jobs {heard} were")
            if arrived and not flow.was & {"done", "cancelled", "dead"}:
                raise Violation(f"{flow.id!r} is never over, and all its jobs are")


__all__ = ["Flows"]
