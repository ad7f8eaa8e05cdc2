"""The procedures that publish: one, or many in a pipeline. They run as those in `verbs` do."""

from typing import Any

from zclient.batches import Batch, Pipeline
from zclient.errors import BatchTooLarge, ProtocolFault, ZError
from zclient.jobs import IdRuns
from zclient.protocol.messages import Group, Publication
from zclient.requests import Request
from zclient.session import Session
from zclient.verbs import Procedure, storing

PUBLISH_BATCH = 100
"""Publications in one message: with ten queues that take them it makes as many jobs as one may."""


def publishing(session: Session, now: float, publication: Publication, timeout_ms: float) -> Procedure[int]:
    """Publish; how many queues took it."""
    value = yield from storing(session, now, lambda now: session.publish([publication], now), timeout_ms)
    return queues_of(value)[0]


def queues_of(answer: Any) -> list[int]:
    """From the answer to a PUBLISH: how many queues took each."""
    try:
        return [int(queues) for queues in answer["queues"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolFault(f"the answer to a PUBLISH cannot be read: {type(error).__name__} {error}") from None


class Publications(Pipeline):
    """The batches of one `publish_many`: a pipeline whose queue is a topic."""

    def __init__(self, session: Session, topic: str, options: dict[str, Any], timeout_ms: float, batch: int) -> None:
        super().__init__(session, topic, options, timeout_ms, batch)
        self.copies = 0
        self.unrouted = 0

    def published(self, now: float) -> Procedure[tuple[IdRuns, int, int]]:
        """Publish all; their ids, how many copies that made, and how many had none."""
        ids = yield from self.run(now)
        return ids, self.copies, self.unrouted

    def _request(self, group: Group, now: float) -> Request:
        topic, options, ids, payloads = group
        publications = [
            Publication(topic, options, identifier, payload) for identifier, payload in zip(ids, payloads, strict=True)
        ]
        return self._session.publish(publications, now)

    def _is_worth_halving(self, batch: Batch, error: ZError) -> bool:
        """More copies than one message may make: fewer publications make fewer."""
        too_large = isinstance(error, BatchTooLarge) or super()._is_worth_halving(batch, error)
        return too_large and batch.run.count > 1 and self._failure is None

    def _learn(self, answer: Any) -> None:
        try:
            queues = queues_of(answer)
        except ProtocolFault as fault:
            self._failure = self._failure or fault
        else:
            self.copies += sum(queues)
            self.unrouted += queues.count(0)
