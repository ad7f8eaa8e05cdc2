"""The soak: a broker, workers and producers at a steady load for hours, looked at in intervals, and nothing may grow.

It owns what is looked at, how much each may grow, and the end: everything that was sent is over, and the data has no
fault. What the load is stands in ``load``, how growth is found in ``trend``.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.soak.load import POLICIES, QUEUES, TOPIC
from tests.soak.trend import Bound, Trend, trend
from tests.system.processes import ROOT, BrokerProcess, eventually, last_words, rss_bytes
from zbroker.check import check_directory
from zclient import Client

MIB = 1 << 20

BOUNDS = {
    "memory": Bound(10, 0.05, "MiB"),
    "broker's memory": Bound(24, 0.1, "MiB"),
    "descriptors": Bound(4, 0, "open"),
    "threads": Bound(6, 0, "threads"),
    "disk": Bound(48, 0.1, "MiB"),
    "waiting": Bound(300, 0.5, "jobs"),
    "latency": Bound(10, 0.5, "ms"),
    "slowest": Bound(40, 1.0, "ms"),
}
"""How much each may grow over a run. The broker has a store whose buffers and cache fill up, and whose files
grow to their size and are merged; a queue is as long as chance has it; the time of calls is that of a machine that has
other things to do; a worker begins its threads, six in the load, when they are first needed. Files of the store are
counted as disk, not as descriptors."""

PRELUDE_BYTES = 2000
"""The payload of each job of the prelude: it stays in the buffers."""

SETTINGS: dict[str, Any] = {
    "keep_done": "2m",
    "keep_done_count": 5000,
    "backoff_min": "10ms",
    "log_format": "json",
}
"""Short enough that what is kept has its full size after the warm-up, in a run of some minutes or more."""

DRAIN_S = 60

STILL_S = 30
"""So long may no call be answered."""

FEWEST_SAMPLES = 10
"""A run goes on until it has so many."""

LOADS = ("worker", "worker", "consumer", "producer")


class Fault(AssertionError):
    """Something grows, or something was lost; the text says what."""


class Load:
    """One process of the load; what it tells is read without keeping it."""

    def __init__(self, name: str, number: int, folder: Path, **facts: Any) -> None:
        self.name = f"{name} {number}"
        self._log = folder / f"{name}-{number}.log"
        self._rest = b""
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.load", name, json.dumps(facts)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it told since the last time; only when its pipe is readable."""
        assert self.process.stdout is not None
        *lines, self._rest = (self._rest + os.read(self.process.stdout.fileno(), 1 << 16)).split(b"\n")
        yield from map(json.loads, lines)

    def check(self) -> None:
        if self.process.poll() is not None:
            raise Fault(f"{self.name} ended by itself, with {self.process.returncode}:\n{last_words(self._log)}")

    def finish(self) -> None:
        """It ends in peace."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait(DRAIN_S):
            raise Fault(f"{self.name} ended with {self.process.returncode}:\n{last_words(self._log)}")

    def end(self) -> None:
        """Whatever its state."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Soak:
    """One run, on a data directory of its own in ``folder``."""

    def __init__(
        self, folder: Path, rate: float, bounds: dict[str, Bound] = BOUNDS, settings: dict[str, Any] = SETTINGS
    ) -> None:
        self._folder = folder
        self.bounds = bounds
        self._rate = rate
        self._broker = BrokerProcess(folder / "data", folder / "broker.log", **settings)
        self._loads: list[Load] = []
        self._rows: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        self._latencies: list[float] = []

    def run(self, seconds: float, interval_s: float, prelude_mib: int = 0) -> Iterator[str]:
        """A line for each interval. Raises `Fault`, at the end, for what grew.

        The prelude is so much payload that goes through the broker first, which fills the buffers of its store.
        """
        self._broker.start()
        with Client(self._broker.endpoint, timeout=60) as client:
            for queue in QUEUES:
                client.set_queue(queue, **POLICIES.get(queue, {"max_jobs": 0}))
            client.bind(TOPIC, "copies")
            endpoint = self._broker.endpoint
            for number, name in enumerate(LOADS):
                facts = {"rate": self._rate} if name == "producer" else {}
                self._loads.append(Load(name, number, self._folder, endpoint=endpoint, **facts))
            eventually(lambda: client.queue("quick")["totals"]["done"])
            self._fill(client, prelude_mib * MIB // PRELUDE_BYTES)
            began = time.monotonic()
            samples = 0
            due = began
            while due < began + seconds or samples < FEWEST_SAMPLES:
                due = max(due + interval_s, time.monotonic())
                self._listen(due)
                yield self._look(client, time.monotonic() - began)
                samples += 1
            self._finish(client)

    def trends(self) -> list[Trend]:
        """What became of each row of samples."""
        return [trend(f"{what} of {who}", row, self.bounds[what]) for (what, who), row in sorted(self._rows.items())]

    def verdict(self) -> None:
        """Raises `Fault` for what grew."""
        grown = [told.told() for told in self.trends() if told.grows]
        if grown:
            raise Fault("\n".join(grown))

    def end(self) -> None:
        """Nothing of it outlives this."""
        for load in self._loads:
            load.end()
        self._broker.end()

    def _fill(self, client: Client, jobs: int) -> None:
        client.send_many("taken", (bytes(PRELUDE_BYTES) for _ in range(jobs)), timeout=60)
        eventually(lambda: client.queue("taken")["totals"]["done"] >= jobs, within=DRAIN_S + jobs / 100)

    # ---- samples

    def _listen(self, until: float) -> None:
        """Take what the producers tell, until then, and until a call was answered."""
        producers = {load.process.stdout: load for load in self._loads if load.name.startswith("producer")}
        late = until + STILL_S
        while (left := (until if self._latencies else late) - time.monotonic()) > 0:
            for pipe in select.select(list(producers), [], [], left)[0]:
                producers[pipe].check()
                for line in producers[pipe].lines():
                    self._latencies += line["ms"]
        if not self._latencies:
            raise Fault(f"no call was answered for {STILL_S} s")

    def _look(self, client: Client, at: float) -> str:
        for load in self._loads:
            load.check()
        queues = client.queues()
        waiting = sum(queue["ready"] + queue["leased"] + queue["scheduled"] for queue in queues)
        done = sum(queue["totals"]["done"] for queue in queues)
        self._note("waiting", "all queues", at, waiting)
        self._note("latency", "calls", at, median(self._latencies))
        self._note("slowest", "calls", at, quantiles([0.0, *self._latencies], n=100)[-1])
        self._note("disk", "broker", at, disk_bytes(self._broker.data) / MIB)
        for name, pid in [("broker", self._broker.pid), *((load.name, load.pid) for load in self._loads)]:
            self._note("broker's memory" if name == "broker" else "memory", name, at, rss_bytes(pid) / MIB)
            self._note("descriptors", name, at, descriptors(pid, self._broker.data))
            self._note("threads", name, at, len(list(Path(f"/proc/{pid}/task").iterdir())))
        self._latencies.clear()
        return f"{at:7.0f} s  {done:9} done, {waiting:5} waiting, " + ", ".join(
            f"{what} {self._rows[what, who][-1][1]:.1f}"
            for what, who in (
                ("broker's memory", "broker"),
                ("descriptors", "broker"),
                ("disk", "broker"),
                ("latency", "calls"),
                ("slowest", "calls"),
            )
        )

    def _note(self, what: str, who: str, at: float, value: float) -> None:
        self._rows[what, who].append((at, value))

    # ---- the end

    def _finish(self, client: Client) -> None:
        """Producers first; then all that was sent is over; then the others; then what grew."""
        for load in self._loads:
            if load.name.startswith("producer"):
                load.finish()
        left = ("scheduled", "blocked", "ready", "leased")
        eventually(lambda: not any(queue[state] for queue in client.queues() for state in left), within=DRAIN_S)
        for load in self._loads:
            if not load.name.startswith("producer"):
                load.finish()
        totals = client.stats()["totals"]
        over = totals["done"] + totals["died"] + totals["cancelled"]
        if totals["put"] != over:
            raise Fault(f"{totals['put']} jobs were put, and {over} are over")
        if self._broker.stop() != 0:
            raise Fault("the broker did not end in peace")
        faults = check_directory(self._broker.data).faults
        if faults:
            raise Fault("\n".join(["zbroker check finds:", *faults]))
        self.verdict()


def disk_bytes(folder: Path) -> int:
    """What the files of a directory that is in use take."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue  # The store removed it meanwhile.
    return size


def descriptors(pid: int, data: Path) -> int:
    """How many a process has open, but for files in ``data``."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += not entry.readlink().is_relative_to(data)
        except FileNotFoundError:
            continue  # It was closed meanwhile.
    return count
