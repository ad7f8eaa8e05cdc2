"""What the workloads share: a broker process, roles as processes that start together, and medians over rounds."""

import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.servers import Missing

SPAWN = multiprocessing.get_context("spawn")
PAYLOAD = b"x" * 256


class Result(NamedTuple):
    """Figures of one workload: name -> one value a round."""

    workload: str
    figures: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.figures[name])


class BrokerProcess:
    """A broker on one directory and one port, over several lives."""

    def __init__(self, directory: str, durability: str = "fsync") -> None:
        self._directory = directory
        self._durability = durability
        self._process: subprocess.Popen[str] | None = None
        self.endpoint = "tcp://127.0.0.1:*"

    def start(self) -> float:
        """Seconds from the start of the process to its `ready` line."""
        begun = time.monotonic()
        command = [sys.executable, "-m", "zbroker", "start", "--data", self._directory, "--bind", self.endpoint]
        self._process = subprocess.Popen(
            [*command, "--durability", self._durability], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline().split()
        if len(ready) < 2:
            raise RuntimeError("the broker did not start")
        self.endpoint = ready[1]
        return time.monotonic() - begun

    def stop(self) -> None:
        """Have it end by itself."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """End it, as a crash does."""
        self._end(subprocess.Popen.kill)

    def _end(self, how: "Callable[[subprocess.Popen[str]], None]") -> None:
        process, self._process = self._process, None
        if process is not None:
            ended = process.poll()
            how(process)
            process.communicate()
            if ended is not None:
                raise RuntimeError(f"the broker ended by itself, with status {ended}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor time so far, user and system."""
        fields = self._told("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB of resident memory."""
        return self._status("VmRSS")

    def largest(self) -> float:
        """The most that it was since the process started."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        (line,) = (line for line in self._told("status").splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    def _told(self, file: str) -> str:
        """What the kernel says of the process; raises `Missing` where it says nothing."""
        path = Path(f"/proc/{self.pid}/{file}")
        if not path.exists():
            raise Missing(f"no {path}, which has a process's time and memory on Linux")
        return path.read_text(encoding="ascii", errors="replace")


@contextlib.contextmanager
def running_broker(durability: str = "fsync") -> Iterator[BrokerProcess]:
    """A broker process on a fresh directory on disk, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as directory:
        process = BrokerProcess(directory, durability)
        try:
            process.start()
            yield process
        finally:
            process.stop()


@contextlib.contextmanager
def broker(durability: str = "fsync") -> Iterator[str]:
    """The same for who needs no more than its endpoint."""
    with running_broker(durability) as process:
        yield process.endpoint


def together(*roles: Callable[[Connection], None]) -> list[Any]:
    """Run each role in a process of its own. A role sends None when it is ready, waits for the start, and sends its
    result. Returns the results in order."""
    pipes = []
    processes = []
    for role in roles:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=role, args=(theirs,), daemon=True)  # if another one fails, all end with us
        process.start()
        theirs.close()  # so that the end of the role is the end of its pipe, and nobody waits for it any more
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send(None)
    results = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return results


def started(pipe: Connection) -> None:
    """Say that the role is ready, and wait for the others."""
    pipe.send(None)
    pipe.recv()
