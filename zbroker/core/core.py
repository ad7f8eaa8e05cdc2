"""The core's face: messages and time in, a tick out. A shell around it brings sockets, clocks and a disk.

One turn: `begin` with the clocks, `receive` for each message, `finish` for what fell due, and the tick is handed over.
What it holds may leave only once it is committed; the core meanwhile reads it as done, through its view.
"""

from bisect import bisect_left
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from zbroker import limits
from zbroker.core import (
    callbacks,
    dead,
    dispatch,
    edges,
    flowing,
    history,
    kept,
    leave,
    orders,
    peers,
    queries,
    recovery,
    rows,
    settle,
    streams,
    tails,
    timers,
)
from zbroker.core.entities import NEVER, Peer
from zbroker.core.publish import publish
from zbroker.core.put import put
from zbroker.core.refusal import Refusal
from zbroker.core.state import Notice, Settings, State
from zbroker.core.tick import Tick
from zbroker.storage.interface import Store
from zclient.protocol import limits as wire
from zclient.protocol import messages as m

if TYPE_CHECKING:
    from random import Random

SWEEP_MS = 3_600_000
"""How often the batch numbers of producers that are long gone are looked for."""


class Core:
    """The state machine. ``wall`` is Unix milliseconds, ``now`` monotonic milliseconds; neither is read here."""

    def __init__(self, store: Store, settings: Settings, random: "Random") -> None:
        self.state = State(store, settings, random)
        self._shift = 0  # what stalls took from the monotonic clock: the lease clock lies behind it by as much
        self._hold_expiry = False
        self._next_sweep = 0
        self._works_begun = 0

    # ---- opening

    def open(self, wall: int, now: int, broker: bytes) -> Tick:
        """Read what was in flight. The tick that it returns must be committed before anything else happens.

        ``broker`` names a data directory that has no name yet.
        """
        state = self.state
        state.wall, state.now = wall, now
        recovery.open_state(state, broker)
        self._next_sweep = wall + SWEEP_MS
        return self.finish(drained=True)

    def serving(self, now: int) -> None:
        """Opening is over. What it took counts for nobody: workers have their time to come back from now on."""
        self._shift = now - self.state.now

    # ---- a turn

    def begin(self, wall: int, now: int) -> None:
        """A turn begins."""
        self.state.wall = wall
        self.state.now = now - self._shift

    def stalled(self, gap_ms: int) -> None:
        """The broker itself stood still that long: no deadline of others moves meanwhile, and none expires before
        what they sent was read. After a long one, workers whose connections are gone may come back as after a start."""
        self._shift += gap_ms
        self.state.now -= gap_ms
        self._hold_expiry = True
        if gap_ms >= self.state.settings.cut_ms:
            peers.await_return(self.state)
        self.state.notice("warning", "stalled", gap_ms=gap_ms)

    def receive(self, route: bytes, message: m.Message) -> None:
        """A message from the connection with this routing id."""
        state = self.state
        if type(message) is m.Hello:
            peers.hello(state, route, message)
            return
        peer = state.routes.get(route)
        if peer is None:
            state.tick.send(route, m.Who())
            return
        try:
            self._handle(peer, route, message)
        except Refusal as refusal:
            number = getattr(message, "number", 0)
            state.count(f"refused_{refusal.code}")
            state.tick.send(route, m.Failure(number, refusal.code, refusal.text, refusal.details))

    def _handle(self, peer: Peer, route: bytes, message: m.Message) -> None:
        state = self.state
        match message:
            case m.Put():
                answer = self._once(peer, message, lambda: put(state, message))
                if answer is None:
                    state.tick.confirm(route, message.number)
                else:
                    state.tick.send(route, m.Answer(message.number, answer))
            case m.Workflow():
                self._once(peer, message, lambda: flowing.take(state, message))
                state.tick.confirm(route, message.number)
            case m.Settle():
                refused = settle.settle(state, message)
                if refused:
                    state.tick.send(route, m.Answer(message.number, {"refused": refused}))
                else:
                    state.tick.confirm(route, message.number)
            case m.Renew():
                lost = settle.renew(state, peer, message.fences)
                if lost:
                    state.tick.send(route, m.Lost(lost, "the lease is no longer this worker's"))
            case m.Capacity():
                peers.capacity(state, peer, message)
            case m.Extend():
                settle.extend(state, peer, message)
                state.tick.confirm(route, message.number)
            case m.Watch():
                self._watch(peer, message)
            case m.Unwatch():
                history.unwatch(state, peer, message.ids)
            case m.Progress():
                settle.progress(state, peer, message)
            case m.Partial():
                streams.partial(state, peer, message)
            case m.Read():
                streams.read(state, peer, message)
            case m.Ask():
                queries.ask(state, peer, message)
            case m.Order():
                answer = self._once(peer, message, lambda: orders.order(state, message.verb, message.arguments))
                state.tick.send(route, m.Answer(message.number, answer))
            case m.Publish():
                answer = self._once(peer, message, lambda: publish(state, message))
                state.tick.send(route, m.Answer(message.number, answer))
            case m.Tail():
                state.tick.send(route, m.Answer(message.number, tails.tail(state, peer, message)))
            case m.Goodbye():
                peers.goodbye(state, peer)
            case _:
                raise Refusal("malformed", f"{type(message).__name__.upper()} is not a message to a broker")

    def _once(self, peer: Peer, message: m.Put | m.Order | m.Workflow | m.Publish, apply: Callable[[], Any]) -> Any:
        """Apply what has a number that is remembered, unless it was; its answer, as the first time."""
        seen, answer = peers.seen_before(self.state, peer, message.number, message.low)
        if not seen:
            answer = apply()
            peers.applied(self.state, peer, message.number, answer)
        return answer

    def _watch(self, peer: Peer, message: m.Watch) -> None:
        state = self.state
        if len(peer.watched) + len(message.ids) > wire.MAX_WATCHED_PER_PEER:
            raise Refusal("invalid", f"a peer watches at most {wire.MAX_WATCHED_PER_PEER} jobs")
        for identifier in message.ids:
            end = queries.end_of(state, identifier)
            if end is not None and (end[1] != "unknown" or state.history.complete):
                state.tick.end(peer.route, end)
                continue
            is_job = message.changes and state.view.get("jobs", identifier) is not None
            history.watch(state, peer, identifier, changes=is_job)
            if end is not None:  # it may stand in the history that is still being read back
                if not state.history.asked:
                    state.work(queries.watch_later(state))
                state.history.asked[identifier] = None

    def finish(self, *, drained: bool) -> Tick:
        """Do what fell due, hand out jobs, and close the tick. ``drained``: all that had arrived was received."""
        state = self.state
        timers.fire(state)
        if drained:
            self._hold_expiry = False
        if not self._hold_expiry:
            timers.expire_leases(state)
            timers.watch_peers(state)
            if state.unread:
                streams.watch_readers(state)
        self._slow_work()
        history.trim(state)
        dead.retain(state)
        timers.wake(state)
        if state.wall >= self._next_sweep:
            self._next_sweep = state.wall + SWEEP_MS
            state.work(peers.sweep_producers(state))
        if state.counted or state.flows:
            callbacks.settle(state)
        if state.over:
            edges.settle(state)
        if state.hot or state.eager:
            dispatch.dispatch(state)
        return self._close()

    def _slow_work(self) -> None:
        """A few steps of what runs in slices, one work after the other."""
        state = self.state
        while state.resting and state.resting[0][0] <= state.now:
            state.works.append(heappop(state.resting)[2])
        for _ in range(limits.TURN_STEPS):
            if not state.works:
                return
            steps = state.works.popleft()
            try:
                again_at = next(steps)
            except StopIteration:
                continue
            if again_at is None:
                state.works.append(steps)
            else:
                self._works_begun += 1
                heappush(state.resting, (again_at, self._works_begun, steps))

    def _close(self) -> Tick:
        """The tick with its last rows; the next one is open."""
        state = self.state
        if state.counted or state.flows:
            callbacks.settle(state)
        if state.changed:
            queries.tell_changes(state)
        tick = state.tick
        meta = tick.rows["meta"]
        for queue in state.touched:
            meta[rows.META_QUEUE + queue.name.encode()] = rows.pack(queue.row())
        state.touched.clear()
        if state.topics.touched:
            kept.write_rows(state)
        peers.write_batches(state)
        if tick.has_rows:
            meta[rows.META_TICK] = rows.number8(tick.number)
        state.tick = Tick(tick.number + 1)
        state.history.n = 0
        state.view.ticks.append(state.tick)
        return tick

    def committed(self, tick: Tick) -> None:
        """The tick's rows are in the store: the view need not hold them any longer."""
        self.state.view.ticks.remove(tick)

    # ---- what the shell reports

    def unreachable(self, route: bytes) -> None:
        """ROUTER knows no such connection any more."""
        peers.unreachable(self.state, route)

    def congested(self, route: bytes) -> None:
        """The connection takes nothing more for now."""
        peer = self.state.routes.get(route)
        if peer is not None and peer.capacity:
            peer.congested_until = self.state.now + limits.CONGESTED_MS
            self.state.next_watch = min(self.state.next_watch, peer.congested_until)
            self.state.credit_changed(peer)

    def undelivered(self, fence: int) -> None:
        """A delivery could not be sent: its jobs return, no attempt burnt."""
        delivery = self.state.deliveries.get(fence)
        if delivery is not None:
            delivery.deadline = NEVER  # it is not for its lease to run out first
            self.state.work(leave.give_back_all(self.state, delivery.peer, [delivery], set()))

    def malformed(self, route: bytes, number: int | None, reason: str) -> None:
        """What came from there was no message: told to whoever has said HELLO, silence for the others."""
        self.state.count("malformed")
        if route in self.state.routes:
            known = number if number is not None and 0 < number < 1 << 53 else 0
            self.state.tick.send(route, m.Failure(known, "malformed", reason, {}))

    def set_disk_low(self, low: bool) -> None:
        if low != self.state.disk_low:
            self.state.disk_low = low
            self.state.notice("error" if low else "info", "disk low" if low else "disk has room", refusing_jobs=low)

    def turn_took(self, took_ms: float, worked_ms: float) -> None:
        """A turn ended, its commit left out: how long it took, and its own work in that time. `stats` tells."""
        state = self.state
        state.longest_turn_ms = max(state.longest_turn_ms, took_ms)
        state.turns[bisect_left(limits.TURN_BOUNDS_MS, worked_ms)] += 1

    def drain(self) -> None:
        """No more deliveries; everything else goes on."""
        self.state.draining = True

    def say_closing(self, reason: str) -> None:
        for route in self.state.routes:
            self.state.tick.send(route, m.Closing(reason))

    @property
    def bytes_out(self) -> int:
        """Payload bytes that the open tick's answers carry so far."""
        return self.state.tick.bytes_out

    @property
    def leased(self) -> int:
        return len(self.state.leased)

    def wanted_in(self) -> int:
        """Milliseconds until the next turn is wanted, whatever arrives."""
        return timers.wanted_in(self.state)

    def notices(self) -> list[Notice]:
        notices, self.state.notices = self.state.notices, []
        return notices
