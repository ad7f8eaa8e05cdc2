"""Bugs on purpose: what the simulation must find, each as an edit of one place of the product's source.

A plant is put into a process of its own, before the module is loaded: `python -m tests.simulation --plant NAME`. A
text that is no longer there is an error, so that a plant cannot come to nothing unseen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import NamedTuple


class Plant(NamedTuple):
    """A bug: in which module, which text, and what stands in its place."""

    module: str
    text: str
    instead: str
    breaks: str


PLANTS = {
    "confirm before sync": Plant(
        "zbroker.commit",
        "            if self._sync:\n",
        "            if self._sync and self._completed:\n",
        "messages leave when their rows are written, and the sync never comes",
    ),
    "skip the fence": Plant(
        "zbroker.core.settle",
        "        delivery = state.deliveries.get(settlement.fence)\n        if delivery is None:\n",
        "        delivery = state.deliveries.get(settlement.fence) or state.leased.get(settlement.ids[0])\n"
        "        if delivery is None:\n",
        "a settlement counts whose delivery is over",
    ),
    "lose a timer at a start": Plant(
        "zbroker.core.recovery",
        '    state.timers_from = first[0] if first is not None else b"\\xff"\n',
        '    state.timers_from = first[0] + b"\\0" if first is not None else b"\\xff"\n',
        "the first timer is passed over",
    ),
    "lease off by one": Plant(
        "zbroker.core.leave",
        "    delivery.deadline = min(max(before, state.now + duration_ms), delivery.limit)\n",
        "    delivery.deadline = min(max(before, state.now + duration_ms - 1), delivery.limit)\n",
        "a renewed lease ends a millisecond early",
    ),
    "renewals do nothing": Plant(
        "zbroker.core.leave",
        "    delivery.deadline = min(max(before, state.now + duration_ms), delivery.limit)\n",
        "    delivery.deadline = before\n",
        "a lease ends although it was renewed",
    ),
    "dedup forgotten on reconnect": Plant(
        "zbroker.core.peers",
        "    if peer.producer is None:\n        peer.producer = load_producer(state, peer.incarnation, "
        "message.resend_below)\n",
        "    peer.producer = Producer()\n",
        "a new connection begins with empty batch numbers",
    ),
    "batch numbers not written": Plant(
        "zbroker.core.peers",
        '            state.tick.rows["producers"][peer.incarnation] = value\n',
        '            state.tick.rows["producers"][peer.incarnation + b"?"] = value\n',
        "after a start of the broker a batch that is sent again is judged afresh",
    ),
    "credit leak": Plant(
        "zbroker.core.leave",
        "    peer.unsettled -= jobs\n",
        "    peer.unsettled -= jobs - (jobs > 1)\n",
        "a worker that settles several jobs at once has less credit than before",
    ),
    "epoch not raised": Plant(
        "zbroker.core.recovery",
        '    state.epoch = int.from_bytes(view.get("meta", rows.META_EPOCH) or b"", "big") + 1\n',
        '    state.epoch = int.from_bytes(view.get("meta", rows.META_EPOCH) or b"", "big") or 1\n',
        "fences begin again after a start",
    ),
    "double release of a child": Plant(
        "zbroker.core.edges",
        "        if change.pending > 1:\n",
        "        if change.pending > 2:\n",
        "a child goes on before its last parent is over",
    ),
    "a ghost comes alive": Plant(
        "zbroker.core.state",
        "        return change.state is JobState.READY and change.sequence == sequence\n",
        "        return change.state in (JobState.READY, JobState.SCHEDULED) and change.sequence == sequence\n",
        "the ready entry of a job that waits for a time counts",
    ),
    "returns at the end": Plant(
        "zbroker.core.leave",
        "    if change.sequence < queue.floor or not change.sequence:\n",
        "    if True:\n",
        "a job that comes back takes a new place",
    ),
    "key limit not given back": Plant(
        "zbroker.core.keys",
        "        left = self.running[key] - jobs\n",
        "        left = self.running[key] - jobs + (jobs > 1)\n",
        "several jobs of a key that end at once leave one in flight",
    ),
    "grace of nothing": Plant(
        "zbroker.core.recovery",
        "        peer.grace_until = state.now + state.settings.return_ms\n",
        "        peer.grace_until = None\n",
        "what a worker held that never comes back after a start of the broker stays leased",
    ),
    "undelivered forgotten": Plant(
        "zbroker.core.core",
        "        if delivery is not None:\n            self.state.work(",
        "        if delivery is not None and not delivery.peer.route:\n            self.state.work(",
        "a delivery that found a full connection is not taken back",
    ),
    "HELLO keeps what it does not name": Plant(
        "zbroker.core.peers",
        "    if missed:\n",
        "    if missed and not named:\n",
        "a delivery that never arrived stays with a worker that came back with another one",
    ),
    "stall expires leases": Plant(
        "zbroker.core.core",
        "        self._shift += gap_ms\n        self.state.now -= gap_ms\n",
        "",
        "what the broker stood still counts against the workers",
    ),
    "edges of a restart": Plant(
        "zbroker.core.edges",
        '        state.over.extend((key[len(rows.META_OVER) :], how, b"") for how in rows.unpack(ends))\n',
        '        state.over.extend((key[len(rows.META_OVER) :], how, b"") for how in rows.unpack(ends)[1:])\n',
        "parents whose children were not all looked at are forgotten at a start",
    ),
    "a lost WELCOME is waited for": Plant(
        "zclient.session",
        "                self._hellos = 0  # a full connection has lost the answer: the next one counts\n",
        "",
        "a peer whose first WELCOME was lost says HELLO for ever, and its leases never end",
    ),
    "WHO is asked once": Plant(
        "zbroker.core.timers",
        "Who() if peer.wedged else Ping()",
        "Ping()",
        "a worker that did not hear it after its lease ran out gets nothing any more",
    ),
    "a refusal of one copy ends both": Plant(
        "zclient.session",
        " or (request.is_batch and number in self._repeated)",
        "",
        "a producer is told that nothing is stored, and the second copy of its batch is",
    ),
}


class _Planter(MetaPathFinder):
    def __init__(self, plant: Plant) -> None:
        self._plant = plant

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._plant.module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.origin is not None, name
        spec.loader = _Planted(name, spec.origin, self._plant)
        return spec


class _Planted(SourceFileLoader, Loader):
    def __init__(self, name: str, path: str, plant: Plant) -> None:
        super().__init__(name, path)
        self._plant = plant

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        source = self.get_data(self.path).decode()
        if source.count(self._plant.text) != 1:
            raise ValueError(f"{self._plant.module} has not exactly one {self._plant.text!r}")
        return compile(source.replace(self._plant.text, self._plant.instead), self.path, "exec")


def plant(name: str) -> None:
    """From now on the module is loaded with the bug in it."""
    one = PLANTS[name]
    if one.module in sys.modules:
        raise RuntimeError(f"{one.module} is loaded already")
    sys.meta_path.insert(0, _Planter(one))
