"""Streams: who reads the partials of which job, and partials passed on from its worker to its reader.

It keeps no partial and writes no row: of a stream it knows its reader's last words, and a restart forgets them. The
reader has a time to come back, and a delivered job that has none is cancelled, since nobody wants it.
"""

from heapq import heappop, heappush

from zbroker import limits
from zbroker.core import dead, waiting
from zbroker.core.entities import Delivery, Peer, Stream
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Flow, Part, Partial, Read

# ---- the reader


def read(state: State, peer: Peer, message: Read) -> None:
    """What a reader has and may be sent, passed on to the worker that has the job; `Refusal` if it cannot read it.

    Of a job that is over nothing is said: its end is told to who watches it. Of one that died and went to another
    queue, where it goes on, that end is told here.
    """
    stream = state.streams.get(message.id)
    if stream is None or stream.peer is not peer:
        stream = _begin(state, peer, message.id, stream)
        if stream is None:
            return
    if not stream.fence:  # what it was ready to take of any run its worker may have been told
        stream.upto = max(stream.upto, message.upto)
    else:
        stream.upto = message.upto
    stream.fence, stream.have = message.fence, message.have
    delivery = state.leased.get(message.id)
    if delivery is not None:
        _pass_on(state, delivery, message.id, stream, again=message.again)


def _begin(state: State, peer: Peer, identifier: bytes, stream: Stream | None) -> Stream | None:
    """Have the peer read the stream; None if there is nothing to read."""
    found = state.find(identifier)
    if found is None or found.state is JobState.DEAD:
        return None
    if dead.is_moved(found.header):  # it died before it was read, and is no stream where it went
        state.tick.end(peer.route, (identifier, JobState.DEAD, None, dead.cause_of_move(found.header)))
        return None
    if not found.header.options.get("stream"):
        raise _unreadable(identifier, "is no stream")
    if stream is not None and stream.peer is not None:
        raise _unreadable(identifier, "has another reader")
    if found.changed().cancel:
        return None
    if len(peer.streams) >= wire.MAX_STREAMS_PER_PEER:
        raise _unreadable(identifier, f"is one stream more than the {wire.MAX_STREAMS_PER_PEER} that a peer may read")
    if stream is None:
        stream = state.streams[identifier] = Stream()
    stream.peer = peer
    peer.streams[identifier] = None
    return stream


def _unreadable(identifier: bytes, why: str) -> Refusal:
    told = identifier.decode(errors="replace")
    return Refusal("invalid", f"job {told} {why}", id=told)


def reader_gone(state: State, peer: Peer) -> None:
    """The peer is not connected any more: what it reads waits for it to come back."""
    for identifier in peer.streams:
        await_reader(state, identifier)
    peer.streams.clear()


def await_reader(state: State, identifier: bytes) -> None:
    """Give a stream that nobody reads its time to get a reader."""
    stream = state.streams.get(identifier)
    if stream is None:
        stream = state.streams[identifier] = Stream()
    stream.peer = None
    stream.until = state.now + state.settings.reader_ms
    heappush(state.unread, (stream.until, identifier))


def watch_readers(state: State) -> None:
    """Streams whose reader did not come in time; a bounded number in one turn."""
    heap = state.unread
    for _ in range(limits.STEP_ROWS):
        if not heap or heap[0][0] > state.now:
            return
        until, identifier = heappop(heap)
        stream = state.streams.get(identifier)
        if stream is not None and stream.peer is None and stream.until == until:
            _leave(state, identifier)


def leave_all(state: State, identifiers: list[bytes]) -> Steps:
    """Slow work: the reader of these has said goodbye. What a crash leaves of it, the time to come back ends."""
    for position, identifier in enumerate(identifiers, 1):
        stream = state.streams.get(identifier)
        if stream is not None and stream.peer is None:
            _leave(state, identifier)
        if position % limits.STEP_ROWS == 0:
            yield None


def _leave(state: State, identifier: bytes) -> None:
    """Nobody reads it: the job is cancelled, or its worker told to end it."""
    state.end_stream(identifier)
    found = state.find(identifier)
    if found is None or found.state is JobState.DEAD:
        return
    state.count("streams_left")
    if found.delivery is not None:
        waiting.wish_away(state, found, "unread")
    else:
        waiting.cancel(state, found, "unread")


# ---- the worker


def delivered(state: State, delivery: Delivery, identifier: bytes) -> None:
    """A run of a stream begins: its worker learns what it may send, or its reader that there is another run."""
    stream = state.streams.get(identifier)
    if stream is None:
        await_reader(state, identifier)
    elif stream.peer is not None:
        _pass_on(state, delivery, identifier, stream, again=False)


def told_again(state: State, delivery: Delivery) -> None:
    """The worker is back with these jobs: what was on its way, both ways, may be lost."""
    for identifier in delivery.special:
        stream = state.streams.get(identifier)
        if stream is not None and stream.peer is not None:
            _pass_on(state, delivery, identifier, stream, again=True)


def _pass_on(state: State, delivery: Delivery, identifier: bytes, stream: Stream, *, again: bool) -> None:
    if stream.fence in (0, delivery.fence):
        state.send(delivery.peer, Flow(delivery.fence, identifier, stream.have, stream.upto, again))
    elif stream.peer is not None:
        state.send(stream.peer, Part(identifier, delivery.fence, 0, [], False))


def partial(state: State, peer: Peer, message: Partial) -> None:
    """What a handler yielded, passed on to its reader; dropped if nobody reads it now, since it will be asked for
    again. What comes for a lease that the worker no longer has, or was not asked for, says nothing."""
    delivery = state.leased.get(message.id)
    if delivery is None or delivery.fence != message.fence or delivery.peer is not peer:
        state.count("partials_late")
        return
    if message.values:
        largest = max(map(len, message.values))
        if largest > state.settings.max_payload:
            most = state.settings.max_payload
            raise Refusal("too_large", f"a partial of {largest} bytes; at most {most}", limit=most)
    stream = state.streams.get(message.id)
    if stream is None or stream.peer is None or stream.fence not in (0, message.fence):
        state.count("partials_unread")
    elif message.first + len(message.values) > stream.upto:
        state.count("partials_unasked")
    else:
        state.send(stream.peer, Part(message.id, message.fence, message.first, message.values, message.last))
