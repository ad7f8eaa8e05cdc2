"""What the tests of batches and workflows share: ids, opening, what is told of them, and rows that are left."""

from __future__ import annotations

from typing import Any

from tests.core.harness import Bench, Peer
from zclient.protocol import messages as m

A, B = "a" * 32, "b" * 32
BATCH = {"batch": A.encode()}
END = b"\xff" * 300


def opened(peer: Peer, identifier: str = A, **arguments: Any) -> dict[str, Any]:
    """Open a batch; what is told of it."""
    return peer.order("open_batch", id=identifier.encode(), **arguments)  # type: ignore[no-any-return]


def closed(peer: Peer, identifier: str = A) -> dict[str, Any]:
    return peer.order("close_batch", id=identifier.encode())  # type: ignore[no-any-return]


def callback(queue: str = "after", payload: bytes = b"called", **options: Any) -> dict[str, Any]:
    return {"queue": queue, "options": options, "payload": payload}


def counters(peer: Peer, identifier: str = A) -> tuple[str, int, int, int, int]:
    """State, total, done, dead, cancelled."""
    told = peer.ask("batch", id=identifier.encode())
    return told["state"], told["total"], told["done"], told["dead"], told["cancelled"]


def refusal(peer: Peer, verb: str, **arguments: Any) -> tuple[str, str]:
    """An order that must be refused: code and text."""
    number = peer.next_number()
    failure = peer.refused(m.Order(number, number, verb, arguments))
    return failure.code, failure.text


def question(peer: Peer, verb: str, **arguments: Any) -> tuple[str, str]:
    """A question that must be refused: code and text."""
    failure = peer.refused(m.Ask(peer.next_number(), verb, arguments))
    return failure.code, failure.text


def put_code(peer: Peer, queue: str, *ids: str, **options: Any) -> str:
    """The code with which a PUT is refused."""
    number = peer.next_number()
    group = m.Group(queue, options, [identifier.encode() for identifier in ids], [b"p"] * len(ids))
    return peer.refused(m.Put(number, number, [group])).code


def rows_of(bench: Bench, space: str) -> list[bytes]:
    return [key for key, _ in bench.store.scan(space, b"", END)]


def take(worker: Peer) -> dict[str, int]:
    """What the worker was given: id -> fence."""
    return dict(worker.jobs())
