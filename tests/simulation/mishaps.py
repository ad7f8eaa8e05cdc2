"""What goes wrong, and when: every fault of a simulated world, each entered as an event of its own.

It owns no part of what it breaks. Once ``over``, nothing new goes wrong, and what stands still goes on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tests.simulation.network import HEARTBEAT_MS
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario
    from tests.simulation.worker import WorkerProcess

DEATHS = ("die before write", "die after write", "die before sync", "die after sync")
FAILURES = ("fail write", "fail sync", "fail read")

MOST_JUMPED_MS = 1_500_000
"""So far is the wall clock off at most: what is done is kept for longer."""


class Mishaps:
    """The faults of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.over = False
        self._scenario = scenario
        self._world = scenario.world
        for name, mean_ms in vars(scenario.mix.faults).items():
            if mean_ms:
                self._enter(name, mean_ms)

    def _enter(self, name: str, mean_ms: float) -> None:
        wait_ms = -mean_ms * math.log(1.0 - self._world.random.random())
        self._world.after(wait_ms, self._happens, name, mean_ms)

    def _happens(self, name: str, mean_ms: float) -> Any:
        if self.over:
            return False
        self._enter(name, mean_ms)
        self._world.note("mishap", name.replace("_", " "))
        getattr(self, f"_{name}")()
        return True

    def end(self) -> None:
        """Nothing goes wrong any more, and all that was broken is mended."""
        self.over = True
        scenario = self._scenario
        broker, disk = scenario.broker, scenario.disk
        disk.mishap, disk.refusals, disk.low = "", 0, False
        broker.dies_after_sends = -1
        broker.dies_in_slices = False
        broker.slow_ms = 0.0
        # What is dated later than now would be out of the reach of a drop.
        self._world.jump(self._world.furthest - self._world.jumped)
        scenario.network.dark.clear()
        scenario.network.weather.late = 0.0
        for connection in scenario.network.connections.values():
            connection.congested_until = connection.deaf_until = 0.0
        scenario.network.deaf_ms.clear()
        for process in (broker, *scenario.workers, *scenario.producers):
            process.go_on()

    # ---- the network

    def _cut(self) -> None:
        connections = list(self._scenario.network.connections.values())
        if connections:
            late = self._world.chance(0.3)
            low, high = HEARTBEAT_MS if late else (0.1, 50.0)
            connection = self._world.random.choice(connections)
            connection.cut(self._world.between(0.1, 50.0), self._world.between(low, high))

    def _black_out(self) -> None:
        process = self._world.random.choice([*self._scenario.workers, *self._scenario.producers])
        self._scenario.network.black_out(process, self._world.between(100.0, 20_000.0))

    def _congest(self) -> None:
        if self._world.chance(0.3):
            self._scenario.network.deaf_ms.append(self._world.between(1.0, 300.0))
            return
        connections = list(self._scenario.network.connections.values())
        if connections:
            connection = self._world.random.choice(connections)
            longest_ms = self._world.random.choice((100.0, 3_000.0))
            connection.congested_until = self._world.now + self._world.between(1.0, longest_ms)

    # ---- workers and producers

    def _worker(self) -> WorkerProcess | None:
        alive = [worker for worker in self._scenario.workers if worker.alive]
        return self._world.random.choice(alive) if alive else None

    def _kill_worker(self) -> None:
        if worker := self._worker():
            worker.kill()

    def _leave_worker(self) -> None:
        if worker := self._worker():
            worker.leave()

    def _stop_worker(self) -> None:
        if worker := self._worker():
            self._stop(worker, self._world.random.choice((200.0, 2_000.0, 12_000.0, 40_000.0)))

    def _kill_producer(self) -> None:
        self._world.random.choice(self._scenario.producers).kill()

    def _stop_producer(self) -> None:
        self._stop(self._world.random.choice(self._scenario.producers), self._world.between(100.0, 20_000.0))

    def _stop(self, process: Process, ms: float) -> None:
        """A process stands still, and its connection may be full by then; one that does for long is given up by its
        heartbeats, if they stand still as well."""
        process.stop(ms)
        if self._world.chance(0.5):
            self._fill(process, ms)
        if ms > HEARTBEAT_MS[1] and self._world.chance(0.7):
            for connection in list(self._scenario.network.connections.values()):
                if connection.transport.process is process:
                    connection.cut(ms, self._world.between(*HEARTBEAT_MS))

    def _fill(self, process: Process, ms: float) -> None:
        """Nothing gets through to a process for so long."""
        for connection in self._scenario.network.connections.values():
            if connection.transport.process is process:
                connection.deaf_until = self._world.now + ms

    def last(self) -> float:
        """The last that goes wrong, so that nothing comes after it that would mend it by chance; how long it takes."""
        faults, network = self._scenario.mix.faults, self._scenario.network
        if faults.stop_worker and self._world.chance(0.5):
            ms = self._world.random.choice((700.0, 6_000.0))
            for worker in self._scenario.workers:
                worker.stop(ms)
                self._fill(worker, ms)
            return ms
        if faults.congest and network.connections:
            network.deaf_ms += [self._world.between(50.0, 300.0) for _ in range(2)]
            connections = list(network.connections.values())
            for connection in self._world.random.sample(connections, min(2, len(connections))):
                connection.cut(self._world.between(0.1, 50.0), self._world.between(0.1, 50.0))
            return 1_000.0
        return 0.0

    # ---- the broker

    def _kill_broker(self) -> None:
        if self._scenario.broker.alive:
            self._scenario.broker.kill(power=self._world.chance(0.5))

    def _die_in_commit(self) -> None:
        self._scenario.disk.mishap = self._world.random.choice(DEATHS)

    def _die_in_send(self) -> None:
        self._scenario.broker.dies_after_sends = self._world.random.randint(0, 2)

    def _die_in_slices(self) -> None:
        self._scenario.broker.dies_in_slices = True

    def _stop_broker(self) -> None:
        self._scenario.broker.stop(self._world.random.choice((100.0, 3_000.0, 20_000.0)))

    def _slow_disk(self) -> None:
        self._scenario.broker.slow_ms = self._world.between(10.0, 4_000.0)

    def _full_disk(self) -> None:
        self._scenario.disk.refusals = self._world.random.choice((1, 5, 40, 130))

    def _failing_disk(self) -> None:
        self._scenario.disk.mishap = self._world.random.choice(FAILURES)

    def _low_disk(self) -> None:
        self._scenario.disk.low = not self._scenario.disk.low

    def _jump_clock(self) -> None:
        ms = self._world.random.choice((-600_000, -5_000, -200, 200, 5_000, 60_000))
        if abs(self._world.jumped + ms) < MOST_JUMPED_MS:
            self._world.jump(ms)
