"""Tails: those who follow a topic live. What is published is told after its commit, as far as the reader allows.

A tail costs its position and its allowance: a reader that stops is told no more, and what it missed is counted, not
kept. Tails belong to a connection, and are gone with it.
"""

from typing import Any

from zbroker import limits
from zbroker.core.entities import Peer
from zbroker.core.kept import overlapping
from zbroker.core.matching import TooManyMatches
from zbroker.core.refusal import Refusal
from zbroker.core.state import State
from zbroker.core.topics import Tail, filters_of, pattern_of
from zclient.protocol import limits as wire
from zclient.protocol import messages as m

Takers = list[dict[Tail, None] | None]
"""The tails that take each publication of a PUBLISH; None where that is too much to find out."""


def tail(state: State, peer: Peer, message: m.Tail) -> dict[str, Any]:
    """Begin a tail, allow it more, or end it. Tells the offset of what is published next, and where the tail stands."""
    followed = peer.tails.get(message.tail)
    if message.pattern is None:
        if followed is not None:
            _end(state, followed)
        return {}
    if followed is None:
        followed = _begin(state, peer, message)
    followed.until = max(followed.until, message.position)
    followed.allowed_octets = max(followed.allowed_octets, message.octets)
    return {
        "offset": state.topics.next_offset,
        "position": followed.position,
        "octets": followed.octets,
        "kept": bool(overlapping(state, followed.pattern)),
    }


def _begin(state: State, peer: Peer, message: m.Tail) -> Tail:
    pattern, filters = pattern_of({"pattern": message.pattern}), filters_of(message.filters)
    if len(peer.tails) >= wire.MAX_TAILS_PER_PEER:
        raise Refusal("invalid", f"a peer follows at most {wire.MAX_TAILS_PER_PEER} tails")
    if state.topics.tails.size >= limits.MAX_TAILS:
        raise Refusal("busy", f"{limits.MAX_TAILS} tails are followed, as many as there may be", retry_after_ms=1000)
    followed = peer.tails[message.tail] = Tail(peer, message.tail, pattern)
    state.topics.tails.add(pattern, followed, filters)
    return followed


def _end(state: State, followed: Tail) -> None:
    del followed.peer.tails[followed.number]
    state.topics.tails.remove(followed.pattern, followed)


def leave(state: State, peer: Peer) -> None:
    """The connection is gone, and its tails with it."""
    for followed in list(peer.tails.values()):
        _end(state, followed)


def takers(state: State, publications: list[m.Publication]) -> Takers:
    """Whose tails take each of them. `Refusal` where they are too many for one turn, and smaller batches are not."""
    found: Takers = []
    told = 0
    for publication in publications:
        taken: dict[Tail, None] | None = None
        try:
            taken = state.topics.tails.find(publication.topic, publication.options.get("headers", {}))
        except TooManyMatches:
            state.count("unmatched")
        found.append(taken)
        told += state.topics.tails.size if taken is None else len(taken)
        if told > limits.TOLD_COPIES and len(found) > 1:
            raise Refusal("batch_too_large", f"more than {limits.TOLD_COPIES} are told of what is published")
    return found


def _pass_over_all(state: State) -> None:
    """Nobody knows whose tail takes a publication: each reader learns that it may have missed one."""
    for peer in state.peers.values():
        for followed in peer.tails.values():
            followed.position += 1
            state.count("untold")


def tell(
    state: State, publications: list[m.Publication], offsets: list[int], fresh: list[bool], takers: Takers
) -> None:
    """Send each tail what it takes and what its reader allows; count the others."""
    pages: dict[Tail, tuple[int, list[m.Told], int]] = {}  # position of the first, publications, octets
    for publication, offset, is_fresh, taken in zip(publications, offsets, fresh, takers, strict=True):
        if not is_fresh:
            continue  # it was told when it came first
        if taken is None:
            _pass_over_all(state)
            continue
        told = m.Told(offset, publication.topic, publication.options, publication.id, state.wall, publication.payload)
        size = len(publication.payload)
        for followed in taken:
            position = followed.position
            followed.position = position + 1
            if position >= followed.until or followed.octets >= followed.allowed_octets:
                state.count("untold")
                continue
            followed.octets += size
            first, page, octets = pages.get(followed, (position, [], 0))
            if page and (first + len(page) != position or octets >= wire.MESSAGE_BYTES):
                state.send(followed.peer, m.Publications(followed.number, first, page))
                first, page, octets = position, [], 0
            page.append(told)
            pages[followed] = first, page, octets + size
    for followed, (first, page, _) in pages.items():
        state.send(followed.peer, m.Publications(followed.number, first, page))
