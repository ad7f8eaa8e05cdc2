"""What the tests of dependencies share: the rows of edges, which jobs are in which state, and running what is ready."""

from __future__ import annotations

from typing import Any

from tests.core.harness import Bench, Peer
from zclient.protocol import messages as m

END = b"\xff" * 300


def group(queue: str, *ids: str, after: str = "", payload: bytes = b"p", **options: Any) -> m.Group:
    """A group of a PUT; ``after`` names its parents, with blanks between them."""
    if after:
        options["after"] = [identifier.encode() for identifier in after.split()]
    return m.Group(queue, options, [identifier.encode() for identifier in ids], [payload] * len(ids))


def send(producer: Peer, *groups: m.Group) -> m.Message:
    """Groups in one PUT; the answer."""
    number = producer.next_number()
    producer.send(m.Put(number, number, list(groups)))
    return producer.answer(number)


def refused(producer: Peer, *groups: m.Group) -> tuple[str, str]:
    """A PUT that must be refused: the code, and the id that the details name."""
    number = producer.next_number()
    failure = producer.refused(m.Put(number, number, list(groups)))
    return failure.code, failure.details.get("id", "")


def edges(bench: Bench) -> list[str]:
    """The keys of the rows of edges, as "parent>child"; without a child it is how the parent ended."""
    return [key.replace(b"\0", b">").decode() for key, _ in bench.store.scan("edges", b"", END)]


def unfinished(bench: Bench) -> list[str]:
    """Parents whose children were not all looked at."""
    return [key[5:].decode() for key, _ in bench.store.scan("meta", b"over/", b"over0")]


def state_of(producer: Peer, identifier: str) -> str:
    """The state of a job; ``gone`` if the broker knows none of this id."""
    number = producer.next_number()
    producer.send(m.Ask(number, "show", {"id": identifier.encode()}))
    answer = producer.answer(number)
    return "gone" if isinstance(answer, m.Failure) else str(answer.value["state"])  # type: ignore[attr-defined]


def states(producer: Peer, ids: str) -> list[str]:
    return [state_of(producer, identifier) for identifier in ids.split()]


def parents(peer: Peer, identifier: str) -> dict[str, tuple[str, bytes | None]]:
    """What the broker says of the parents of a job."""
    answer = peer.ask("parents", id=identifier.encode())
    assert answer["next"] is None
    return {row["id"].decode(): (row["state"], row["result"]) for row in answer["parents"]}


def run_all(worker: Peer) -> list[str]:
    """Ack what comes until nothing comes any more; the ids in their order. Results are the ids."""
    ran: list[str] = []
    while jobs := worker.jobs():
        for identifier, fence in jobs:
            assert worker.ack(fence, identifier, results=[identifier.encode()]) == []
            ran.append(identifier)
    return ran
