"""The model of what handlers send: with the ack of their own job, in one commit, or not at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.core.model.broker import CRASHES, DELAYS, QUEUES, Broker
from tests.core.model.worker import Worker
from zclient.protocol import messages as m


class Sends(Broker):
    """A broker whose workers send jobs."""

    def begin_with(self, data: Any) -> None:
        super().begin_with(data)
        self.sent_with: dict[bytes, set[bytes]] = {}  # job that is done -> what was stored with its ack
        self.repeats: list[tuple[Worker, m.Settle]] = []  # settlements that sent something, and were committed

    @precondition(lambda self: any(worker.connected and worker.seen for worker in self.workers))
    @rule(
        data=st.data(),
        queue=st.sampled_from(QUEUES),
        jobs=st.integers(1, 3),
        delay=DELAYS,
        late=st.booleans(),
        crash=CRASHES,
    )
    def ack_and_send(self, data: Any, queue: str, jobs: int, delay: int, late: bool, crash: str) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.connected and worker.seen]))
        source = worker.seen if late or not worker.held else worker.held
        fence = data.draw(st.sampled_from(sorted(source)))
        identifier = data.draw(st.sampled_from(sorted(source[fence])))
        delivery = self.bench.core.state.leased.get(identifier)
        mine = delivery is not None and delivery.fence == fence
        held = identifier in worker.held.get(fence, ())
        ids = [b"%d" % next(self.ids) for _ in range(jobs)]
        group = m.Group(queue, {"delay": delay} if delay else {}, ids, [b"p"] * jobs)
        before = self.before_put(m.Put(0, 0, [group]))
        message = m.Settle(
            worker.next_number(),
            [m.Settlement(fence, m.Outcome.ACK, [identifier], None)],
            [m.Sent(fence, identifier, [group])],
        )
        worker.forget(fence, [identifier])  # unless it is refused: with its credit others come at once
        self.do(worker, message, crash)
        stored = self.rows() & set(ids)
        answer = None if crash else worker.answer(message.number)
        if stored:
            assert mine and crash != "before commit", "only a job that is done by this sends anything"
            assert stored == set(ids), "what a job sends is stored as a whole"
            assert crash or isinstance(answer, m.Ok)
            self.handler_sent(identifier, group, before)
            self.settled[fence, identifier] = m.Outcome.ACK
            self.repeats.append((worker, message))
            self.end(identifier, "done")
            return
        if held:
            worker.held.setdefault(fence, set()).add(identifier)
        if not crash and mine:
            assert isinstance(answer, m.Answer)
            ((_, _, verdict, reason),) = answer.value["refused"]
            assert verdict == "unsent"
            self.refused(m.Put(0, 0, [group]), m.Failure(0, reason.partition(":")[0], reason, {}), before)
            assert identifier in self.rows(), "a job that could not send is not done"
        elif isinstance(answer, m.Ok):
            repeated = self.settled.get((fence, identifier))
            assert repeated is m.Outcome.ACK, "only a repetition is answered like the first time"

    def handler_sent(self, identifier: bytes, group: m.Group, before: Any) -> None:
        """The group was stored with the ack of the job."""
        self.sent_with[identifier] = set(group.ids)
        self.alive.update(group.ids)

    @precondition(lambda self: any(worker.connected for worker, _ in self.repeats))
    @rule(data=st.data(), crash=CRASHES)
    def repeat_what_sent(self, data: Any, crash: str) -> None:
        """The answer was lost: the same settlement again stores nothing again."""
        worker, message = data.draw(st.sampled_from([one for one in self.repeats if one[0].connected]))
        before = self.rows()
        self.do(worker, message, crash)
        assert self.rows() <= before
        if not crash:
            worker.answer(message.number)

    def sent(self) -> set[bytes]:
        return super().sent().union(*self.sent_with.values())
