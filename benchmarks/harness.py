"""What the workloads share: a broker process, roles as processes that start together, and medians over rounds."""

import contextlib
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

SPAWN = multiprocessing.get_context("spawn")
PAYLOAD = b"x" * 256


class Result(NamedTuple):
    """Figures of one workload: name -> one value a round."""

    workload: str
    figures: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.figures[name])


@contextlib.contextmanager
def broker(durability: str = "fsync") -> Iterator[str]:
    """A broker process on a fresh directory on disk; yields its endpoint."""
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as directory:
        command = [sys.executable, "-m", "zbroker", "start", "--data", directory, "--bind", "tcp://127.0.0.1:*"]
        process = subprocess.Popen(
            [*command, "--durability", durability], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()
            process.wait()


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
