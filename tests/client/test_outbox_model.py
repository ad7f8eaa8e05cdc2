"""Any mix of sends, answers, refusals, lost connections and time, without I/O: each job of `send_nowait` ends once, as
what the broker did with it, and nothing is left over."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.conversation import Peer
from zclient import BrokerUnreachable, DuplicateId, OutcomeUnknown, QueueFull
from zclient.outbox import Outbox, Parcel
from zclient.protocol import messages as m
from zclient.protocol.codec import decode
from zclient.verbs import advance

OPTIONS: tuple[dict[str, Any], ...] = ({}, {"priority": 1}, {"headers": {"n": 1}}, {"headers": {"n": True}})
TIMEOUTS = (0, 150, 220, 1000, 1050, 20_000)


class Broker:
    """What a broker does with PUTs: each number once, all of its jobs or none. It refuses ids that begin with ``bad``,
    and everything while it is full."""

    def __init__(self) -> None:
        self.is_full = False
        self.answers: dict[int, m.Message] = {}
        self.stored: dict[bytes, tuple[str, str, bytes]] = {}

    def hear(self, put: m.Put) -> m.Message:
        if put.number in self.answers:
            return self.answers[put.number]
        if self.is_full:
            return m.Failure(put.number, "queue_full", "full", {"retry_after_ms": 100})
        if any(identifier.startswith(b"bad") for group in put.groups for identifier in group.ids):
            return m.Failure(put.number, "duplicate_id", "bad", {})
        for group in put.groups:
            for identifier, payload in zip(group.ids, group.payloads, strict=True):
                assert identifier not in self.stored, "it was stored before, under another number"
                self.stored[identifier] = (group.queue, repr(group.options), payload)
        self.answers[put.number] = m.Ok([put.number])
        return self.answers[put.number]


class World:
    """A client, its broker, and what lies between them."""

    def __init__(self) -> None:
        self.peer = Peer()
        self.peer.connect()
        self.outbox = Outbox()
        self.broker = Broker()
        self.link: list[m.Put] = []
        self.sent: list[tuple[Parcel, int, m.Group, float]] = []
        self.others: list[Any] = []
        self.is_smooth = True  # nothing happened that may change the order

    def send(self, queue: str, options: int, timeout: int, bad: int) -> None:
        name = f"{'bad' if bad == 0 else 'job'}{len(self.sent)}".encode()
        group = m.Group(queue, OPTIONS[options], [name], [b"payload of " + name])
        told = m.Group(queue, group.options, [name], list(group.payloads))
        self.is_smooth &= bad != 0
        now, timeout_ms = self.peer.now, float(TIMEOUTS[timeout])
        parcel, position = self.outbox.add(self.peer.session, group, now, timeout_ms)
        self.sent.append((parcel, position, told, now + timeout_ms))

    def send_beside(self) -> None:
        """Another caller of the same client, who waits."""
        name = f"other{len(self.others)}".encode()
        self.others.append(self.peer.session.put([m.Group("q", {}, [name], [b"\x01"])], self.peer.now))

    def leave(self, fits: int) -> None:
        """What is to be sent leaves, or so many messages of it."""
        frames = self.peer.session.outgoing(self.peer.now)
        if fits < len(frames):
            self.peer.session.unsent(len(frames) - fits)
        self.link += [put for put in map(decode, frames[:fits]) if isinstance(put, m.Put)]

    def answer(self, count: int) -> None:
        for put in self.link[:count]:
            self.peer.hear(self.broker.hear(put))
        del self.link[:count]

    def lose(self, heard: int) -> None:
        """The connection breaks; the broker has heard so many of what was under way, and no answer arrives."""
        for put in self.link[:heard]:
            self.broker.hear(put)
        self.link.clear()
        self.is_smooth = False
        self.peer.lose()
        self.link += [put for put in self.peer.connect() if isinstance(put, m.Put)]

    def fill(self, is_full: bool) -> None:
        self.broker.is_full = is_full
        self.is_smooth &= not is_full

    def wait(self, ms: int) -> None:
        self.peer.now += ms
        self.is_smooth = False  # a job may have been given up
        advance(self.outbox.attending(self.peer.session, self.peer.now))

    def check(self) -> None:
        """The counts are those of the jobs that have no end; one that has an end had it in its time, or as it is."""
        open_jobs = [job for job in self.sent if not job[0].of(job[1]).done]
        assert self.outbox.jobs == len(open_jobs)
        assert self.outbox.size == sum(len(group.payloads[0]) for _, _, group, _ in open_jobs)
        assert len(self.outbox.parcels) == len({parcel.of(position) for parcel, position, _, _ in open_jobs})
        for parcel, position, group, _ in self.sent:
            now = parcel.of(position)
            assert now.done or group.payloads[0] in now.group.payloads
            assert parcel.identifier(position) == group.ids[0]

    def end(self) -> None:
        self.broker.is_full = False
        for _ in range(40):
            self.leave(1000)
            self.answer(1000)
            self.peer.now += 700
            advance(self.outbox.attending(self.peer.session, self.peer.now))
            self.check()
        assert not self.outbox.parcels and self.outbox.jobs == self.outbox.size == 0
        stored = self.broker.stored
        for parcel, position, (queue, options, ids, payloads), _ in self.sent:
            error = parcel.of(position).error
            assert not parcel.of(position).group.payloads
            if error is None:
                assert stored[ids[0]] == (queue, repr(options), payloads[0])
            elif isinstance(error, OutcomeUnknown):
                assert error.ids == (ids[0].decode(),)
            else:
                assert isinstance(error, DuplicateId | QueueFull | BrokerUnreachable) and ids[0] not in stored
                assert not isinstance(error, DuplicateId) or ids[0].startswith(b"bad")
        if self.is_smooth:
            ours = [identifier for identifier in stored if not identifier.startswith(b"other")]
            assert ours == [group.ids[0] for _, _, group, _ in self.sent]


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    return st.tuples(st.just(name), st.tuples(*arguments))


SEND = step("send", st.sampled_from("qr"), st.integers(0, 3), st.integers(0, 5), st.integers(0, 9))
STEPS = st.one_of(
    SEND,
    SEND,
    step("send", st.just("q"), st.just(0), st.just(5), st.just(1)),
    step("send_beside"),
    step("leave", st.sampled_from((0, 1, 2, 1000))),
    step("leave", st.just(1000)),
    step("answer", st.integers(1, 5)),
    step("lose", st.integers(0, 5)),
    step("fill", st.booleans()),
    step("wait", st.sampled_from((1, 60, 120, 400, 1100))),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_each_job_ends_once_as_what_the_broker_did_with_it(steps: list[tuple[str, tuple[Any, ...]]]) -> None:
    world = World()
    for name, arguments in steps:
        getattr(world, name)(*arguments)
        world.check()
    world.end()
