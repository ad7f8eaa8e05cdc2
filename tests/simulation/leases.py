"""What every lease must be, worked out from the messages alone: when it runs out, and that it does not end before.

It listens to what the core is told and compares with what the core then holds. It decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.world import Violation
from zbroker.core.entities import NEVER
from zclient.protocol import messages as m

if TYPE_CHECKING:
    from tests.simulation.broker import HeardCore

LATE_MS = 1_100
"""A lease that is over is taken so soon, on the lease clock: the broker turns once a second at least."""


class Leases:
    """Until when each delivery's lease runs at least. Lease clock, ms; of one process of the broker."""

    def __init__(self, unsent: set[int]) -> None:
        """``unsent`` gets the deliveries that could not be sent, or of which a HELLO says that they never arrived."""
        self.until: dict[int, int] = {}  # by fence
        self.clock = 0  # the lease clock: monotonic time less what the broker stood still
        self.unsent = unsent
        self._shift = 0

    def opened(self, core: HeardCore) -> None:
        """A broker begins: each lease runs anew."""
        self.clock, self._shift = core.state.now, 0
        self.until = {fence: self._fresh(core, fence) for fence in core.state.deliveries}

    def turn(self, core: HeardCore, now: int, stalled_ms: int) -> None:
        """A turn begins, after the broker stood still for so long."""
        self._shift += stalled_ms
        self.clock = now - self._shift
        if core.state.now != self.clock:
            raise Violation(f"the lease clock says {core.state.now}, and should say {self.clock}")

    def hello(self, core: HeardCore, route: bytes, hello: m.Hello) -> None:
        """Before a HELLO is handled: what it does not name of another connection's deliveries never arrived."""
        peer = core.state.peers.get(hello.incarnation)
        if peer is not None:
            named = {held.fence for held in hello.held}
            unnamed = (one for one in peer.deliveries.values() if one.fence not in named and one.route != route)
            self.unsent.update(one.fence for one in unnamed)

    def heard(self, core: HeardCore, route: bytes, message: m.Message) -> None:
        """A message was handled."""
        state = core.state
        kind = type(message)
        if kind is m.Renew:
            peer = state.routes.get(route)
            fences = message.fences if peer is not None else []  # type: ignore[union-attr]
            held = peer.deliveries if peer is not None else {}
        elif kind is m.Hello:
            peer = state.peers.get(message.incarnation)  # type: ignore[union-attr]
            if peer is None or peer.route != route:
                return  # it was refused
            fences = [held.fence for held in message.held]  # type: ignore[union-attr]
            held = peer.deliveries
        else:
            return
        for fence in fences:
            if fence in held:
                self.until[fence] = max(self.until.get(fence, 0), self._fresh(core, fence))

    def _fresh(self, core: HeardCore, fence: int) -> int:
        delivery = core.state.deliveries[fence]
        return min(core.state.now + delivery.queue.policy.lease_ms, delivery.limit)

    def check(self, core: HeardCore) -> None:
        """After a turn: no lease ends before its time, and none lasts much longer than it."""
        state = core.state
        known = self.until
        for fence, delivery in state.deliveries.items():
            until = known.get(fence)
            if until is None:
                until = known[fence] = self._fresh(core, fence)
            if delivery.deadline < min(until, delivery.limit):
                raise Violation(f"the lease of {fence} runs until {delivery.deadline}, and was renewed until {until}")
            if delivery.deadline < state.now - LATE_MS and not core._hold_expiry and delivery.peer.seen:
                raise Violation(f"the lease of {fence} was over {state.now - delivery.deadline} ms ago")
        if len(known) > 2 * len(state.deliveries) + 50:
            self.until = {fence: known[fence] for fence in state.deliveries}

    def may_expire(self, core: HeardCore, fence: int) -> bool:
        """Whether the lease is over now."""
        return self.until.get(fence, NEVER) <= core.state.now
