"""``python -m benchmarks.million``: what a start costs when much is waiting.

Fills a broker, kills it with SIGKILL, starts it again on the same data, and measures the time until it is ready, until
the first delivery, its memory, and the longest turn of its loop while it serves.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import PAYLOAD
from zclient import Client
from zworker import Consumer

DRAINED = 20_000
"""Jobs taken and acked after the start, while the longest turn is watched."""


class BrokerProcess:
    """A broker on one directory and one port, over several lives."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        self.endpoint = "tcp://127.0.0.1:*"

    def start(self) -> float:
        """Seconds from the start of the process to its `ready` line."""
        begun = time.monotonic()
        command = [sys.executable, "-m", "zbroker", "start", "--data", self._directory, "--bind", self.endpoint]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().split()[1]
        return time.monotonic() - begun

    def kill(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time so far, user and system."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB of resident memory."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def payloads(jobs: int) -> Iterator[bytes]:
    return (PAYLOAD for _ in range(jobs))


def fill(endpoint: str, waiting: int, lanes: int, timers: int) -> None:
    """Put the jobs: one lane of ``waiting``, ``lanes`` keys with a job each, ``timers`` that fall due in days."""
    with Client(endpoint) as client, ThreadPoolExecutor(32) as pool:
        client.send_many("waiting", payloads(waiting))
        for _ in pool.map(lambda n: client.send("lanes", PAYLOAD, key=f"tenant-{n}"), range(lanes)):
            continue
        for _ in pool.map(lambda n: client.send_many("timers", payloads(100), delay=86_400 + n), range(timers // 100)):
            continue


def lease(endpoint: str, jobs: int) -> None:
    """Hold ``jobs`` in a process that dies with them."""
    code = f"""
import os, sys
from zclient import Client
from zworker import Consumer
Client({endpoint!r}).send_many("leased", range({jobs}))
with Consumer({endpoint!r}, "leased", credit={jobs}) as consumer:
    for taken, job in enumerate(consumer, 1):
        if taken == {jobs}:
            os.kill(os.getpid(), 9)
"""
    if jobs:
        subprocess.run([sys.executable, "-c", code], check=False)


def measure(waiting: int, lanes: int, timers: int, leased: int) -> dict[str, float]:
    """One filling, one kill, one start."""
    directory = tempfile.mkdtemp(prefix="zbroker-bench-")
    process = BrokerProcess(directory)
    try:
        process.start()
        fill(process.endpoint, waiting, lanes, timers)
        lease(process.endpoint, leased)
        filled = process.resident()
        process.kill()
        ready = process.start()
        begun = time.monotonic()
        queue = "waiting" if waiting else "lanes" if lanes else "none"
        figures = {"ready s": ready, "memory when filled MiB": filled, "memory after the start MiB": process.resident()}
        if queue != "none":
            with Consumer(process.endpoint, queue, credit=1000) as consumer:
                for taken, job in enumerate(consumer, 1):
                    if taken == 1:
                        figures["first delivery s"] = time.monotonic() - begun
                    job.ack()
                    if taken == min(DRAINED, waiting or lanes):
                        break
        with Client(process.endpoint) as client:
            figures["longest turn ms"] = float(client.stats().get("longest_turn_ms", float("nan")))
        figures["memory at the end MiB"] = process.resident()
        return figures
    finally:
        process.kill()
        shutil.rmtree(directory)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    scale = parser.parse_args().scale
    cases = {
        "nothing": (0, 0, 0, 0),
        "1,000,000 waiting": (1_000_000, 0, 0, 0),
        "5,000,000 waiting": (5_000_000, 0, 0, 0),
        "100,000 lanes": (0, 100_000, 0, 0),
        "1,000,000 timers": (0, 0, 1_000_000, 0),
        "1,000,000 waiting, 10,000 leased": (1_000_000, 0, 0, 10_000),
    }
    print("the longest turn is that of the loop's own work, the commit left out\n")
    for name, sizes in cases.items():
        figures = measure(*(int(size * scale) for size in sizes))
        print(f"{name:<34} " + "  ".join(f"{figure} {value:.3f}" for figure, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
