"""Topics in a simulated world: publishing, binding with and without a start, keeping, forgetting, and tails.

It owns who follows which topic and what each was told, and judges that: what was kept in its order, each once, and
without a hole that is not told. What lies in the logs is judged in ``logs.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.logs import Logs, takes
from tests.simulation.world import Violation
from zclient import topics
from zclient.errors import AnswerTimeout, BrokerUnreachable, Refused, ZError
from zclient.jobs import encode_payload
from zclient.protocol.messages import Publication as WirePublication
from zclient.tailing import Tailing
from zclient.topics import Publication

if TYPE_CHECKING:
    from tests.simulation.producer import ProducerProcess
    from tests.simulation.scenario import Scenario

NAMES = ("orders.eu", "orders.us", "stock")
PATTERNS = ("orders.*", "orders.eu", "#")
KEPT = ("orders.*", "#", "stock")
EU = ("region", "=", "eu")

LAST = b"last-"
"""So begin the ids of what is published in a healed world, until all tails have told one of them."""

LAST_EVERY_MS = 10_000.0


class TailReader:
    """One tail of a producer, and what it told."""

    def __init__(
        self, owner: Topics, producer: ProducerProcess, pattern: str, filters: list[Any], since: int | None
    ) -> None:
        random = owner.random
        self.has_told_last = False
        self._owner = owner
        self._logs = owner.logs
        self._producer = producer
        self._life = producer.life
        self._said = pattern, filters
        self._tailing = Tailing(pattern, filters, since, random.choice((500.0, 5_000.0, 30_000.0)), 10_000.0)
        self._from_beginning = since == 0
        self._knows_ms = 0.0  # what was forgotten by then is no hole
        self._last = 0  # the offset that was told last
        self._missed: int | None = 0  # so many were told to be missing since then; None: nobody knows how many
        self._is_over = False
        self._leaves = random.choice((0.0, 0.0, 0.05))
        self._slow_ms = random.choice((0.0, 0.0, 300.0, 5_000.0))

    @property
    def is_open(self) -> bool:
        """Whether somebody follows it still."""
        return not self._is_over and self._producer.alive and self._producer.life == self._life

    def next(self) -> Any:
        producer = self._producer
        if not self.is_open:
            return False
        if producer.stopped:
            producer.world.after(producer.stopped_until - producer.world.now, self.next)
            return False
        procedure = self._tailing.next(producer.session, producer.transport.now())
        producer.call(f"tail {self._said[0]}", procedure, self._told, lasts=True)
        return True

    def leave(self) -> None:
        self._is_over = True
        self._tailing.leave()
        self._producer.wake()

    def _told(self, told: Publication | None, error: ZError | None) -> None:
        if isinstance(error, Refused | AnswerTimeout | BrokerUnreachable):
            self._is_over = True
            return
        if error is not None:
            raise Violation(f"the tail of {self._said[0]} ended with {type(error).__name__}: {error}")
        if told is not None:
            self._take(told)
        is_healed = self._owner.is_healed
        if not is_healed and self._owner.random.random() < self._leaves:
            self.leave()
            return
        slow_ms = 0.0 if is_healed or told is None else self._slow_ms * self._owner.random.random()
        self._producer.world.after(slow_ms, self.next)

    def _take(self, told: Publication) -> None:
        """It is one that was published, and what is kept comes in order, with no hole but those that are told."""
        pattern, filters = self._said
        self.has_told_last = self.has_told_last or told.id.encode().startswith(LAST)
        if told.id.encode() not in self._owner.published or not takes(pattern, filters, told.topic, told.headers):
            raise Violation(f"the tail of {pattern} tells {told}, which it does not take")
        unsure = told.missed is None or self._missed is None
        self._missed = missed = None if unsure else (told.missed or 0) + (self._missed or 0)
        if told.offset is None:
            return
        self._missed = 0
        row = self._logs.ever.get(told.offset)
        is_gone = told.offset in self._logs.gone
        facts = told.id.encode(), told.topic, told.payload_bytes
        if not is_gone and (row is None or (row.id, row.topic, row.payload) != facts):
            raise Violation(f"the tail of {pattern} tells {told}, and {row} was kept")
        if told.offset <= self._last:
            raise Violation(f"the tail of {pattern} tells {told.offset} after {self._last}")
        if missed is not None:
            holes = self._between(told.offset)
            if len(holes) > missed:
                raise Violation(f"the tail of {pattern} tells that {missed} are missing, and so are {holes}")
        else:
            self._knows_ms = self._producer.world.now
        self._last = told.offset

    def _between(self, offset: int) -> list[int]:
        """What was kept and is taken, between the one that was told last and this one; but for what was forgotten when
        the first one was told, since a tail begins with what is there."""
        if not self._last:
            self._knows_ms = self._producer.world.now
            if not self._from_beginning:
                return []
        logs, (pattern, filters) = self._logs, self._said
        present = logs.present()
        return [
            one
            for one, row in logs.ever.items()
            if self._last < one < offset and takes(pattern, filters, row.topic, row.options.get("headers", {}))
            if one in present or logs.left_ms.get(one, 0.0) > self._knows_ms
        ]


class Topics:
    """All that is published, bound, kept and followed in one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.logs = Logs(scenario.book)
        self.random = scenario.mix.random
        self.is_healed = False
        self.published: dict[bytes, tuple[str, dict[str, Any]]] = {}  # id -> topic, headers
        self._scenario = scenario
        self._book = scenario.book
        self._bound: dict[str, list[tuple[str, Sequence[Any]]]] = {}  # by queue: what somebody bound it to
        self._tails: list[TailReader] = []
        self._filled: set[str] = set()  # queues with bindings that began in the past
        self._last_ms = 0.0
        scenario.book.may_copy = self._may_copy
        scenario.book.may_return = lambda source, queue: source in self._again or queue in self._filled
        self._again: set[bytes] = set()
        self._keeping: dict[bytes, dict[int, int]] = {}  # by publication: what took its topic when it was first sent
        self._keeps = self.random.random() < 0.7  # whether something is kept from the beginning

    # ---- what people do

    def act(self, producer: ProducerProcess) -> None:
        random = self.random
        chance = random.random()
        if self._keeps and not self.logs.kept:
            self._keep(producer)
        elif chance < 0.25:
            self._bind(producer)
        elif chance < 0.3:
            self._keep(producer)
        elif chance < 0.45:
            self._tail(producer)
        else:
            for _ in range(random.choice((1, 1, 2, 5))):
                self._publish_another(producer)

    def _publish_another(self, producer: ProducerProcess) -> None:
        random = self.random
        identifier = b"publication-%d" % len(self.published)
        options: dict[str, Any] = {"priority": 5} if random.random() < 0.3 else {}
        if random.random() < 0.5:
            options["headers"] = {"region": random.choice(("eu", "us"))}
        publication = WirePublication(random.choice(NAMES), options, identifier, self._payload())
        self._publish(producer, publication, random.choice((50.0, 1_000.0, 10_000.0)), again=random.choice((0, 2)))

    def _payload(self) -> bytes:
        return encode_payload(self._scenario.mix.payload(1))

    def _publish(
        self, producer: ProducerProcess, publication: WirePublication, timeout_ms: float, *, again: int
    ) -> None:
        """Publish; where the outcome is unknown ``again`` as often, which is safe."""
        is_first = publication.id not in self.published
        if not is_first:
            self._again.add(publication.id)
        self.published[publication.id] = (publication.topic, publication.options.get("headers", {}))
        # as it was before the first time: what came then may be gone, and is known in another log
        keeping = self._keeping.setdefault(publication.id, self.logs.keeping(publication.topic))

        def told(queues: int | None) -> None:
            if queues is not None:
                self.logs.promise(publication.id, keeping)
            elif again:
                self._publish(producer, publication, timeout_ms, again=again - 1)

        def refused(why: str) -> None:
            if self.logs.has_kept(publication.id):
                raise Violation(
                    f"{publication.id!r} is kept, and its producer was told that it is not published: {why}"
                )

        producer.publish(publication, timeout_ms, told, refused if is_first else None)

    def _bind(self, producer: ProducerProcess) -> None:
        random = self.random
        pattern, queue = random.choice(PATTERNS), random.choice(list(self._scenario.mix.queues))
        if random.random() < 0.2:
            producer.verb(topics.unbind(pattern, queue), 5_000.0)
            return
        filters = [EU] if random.random() < 0.3 else []
        since = random.choice((None, "beginning"))
        self._bound.setdefault(queue, []).append((pattern, filters))
        if since is not None:
            self._filled.add(queue)
        producer.verb(topics.bind(pattern, queue, filters, since), 5_000.0)

    def _keep(self, producer: ProducerProcess) -> None:
        random = self.random
        pattern = random.choice(KEPT)
        if random.random() < 0.15:
            self.logs.forgetting.add(pattern)
            producer.verb(topics.forget(pattern), 5_000.0)
            return
        keep_for = random.choice((None, 0.5, 5.0, 600.0, 600.0))
        keep_bytes = random.choice((None, None, 300, 3_000)) if keep_for is not None else random.choice((300, 100_000))
        producer.verb(topics.keep(pattern, keep_for, keep_bytes), 5_000.0)

    def _tail(self, producer: ProducerProcess) -> None:
        random = self.random
        filters = [list(EU)] if random.random() < 0.3 else []
        tail = TailReader(self, producer, random.choice(PATTERNS), filters, random.choice((0, 0, None)))
        self._tails.append(tail)
        tail.next()

    # ---- what the book asks

    def _may_copy(self, source: bytes, queue: str) -> bool:
        """Whether somebody ever bound the queue to something that takes the publication."""
        topic, headers = self.published[source]
        return any(takes(pattern, filters, topic, headers) for pattern, filters in self._bound.get(queue, ()))

    # ---- the end

    def has_told_all(self) -> bool:
        """Whether each tail has told something that was published in the healed world; publishes if not."""
        waiting = [tail for tail in self._tails if tail.is_open and not tail.has_told_last]
        world, janitor = self._scenario.world, self._scenario.janitor
        if waiting and world.now >= self._last_ms + LAST_EVERY_MS:
            self._last_ms = world.now
            for name in NAMES:
                identifier = b"%b%d" % (LAST, len(self.published))
                publication = WirePublication(name, {"headers": {"region": "eu"}}, identifier, self._payload())
                self._publish(janitor, publication, 5_000.0, again=0)
        return not waiting

    def end(self) -> None:
        """Nobody follows any more."""
        for tail in self._tails:
            if tail.is_open:
                tail.leave()


__all__ = ["Topics"]
