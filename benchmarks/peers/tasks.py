"""No-op tasks through each library's own worker: how many a second, and how long from the send to the start.

A worker of one process runs, a producer of another sends. Both are the library's own programs and calls, in `apps`. The
task appends eight bytes to a file, which tells what was done and how long it took to begin; that costs each the same.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import harness, workloads
from benchmarks.peers import servers
from benchmarks.peers.apps import WAIT

PATIENCE_S = 120.0
APPS = "benchmarks.peers.apps"


class Library(NamedTuple):
    """A library with a worker of its own. ``worker`` is its command; ``{port}`` stands in it for the broker's, and
    ``{threads}`` for how many tasks run at once."""

    name: str
    app: str  # the module in `apps`
    server: Callable[[str], AbstractContextManager[int]]
    broker: str  # the kind of broker, for those that have several
    modules: tuple[str, ...]
    worker: tuple[str, ...]
    slowness: int = 1  # how many times fewer tasks a round has
    threads: int = 32
    processes: int = 1

    def with_threads(self, threads: int) -> "Library":
        return self._replace(name=f"{self.name}, {threads} threads", threads=threads)

    def with_processes(self, processes: int) -> "Library":
        return self._replace(name=f"{self.name}, {processes} worker processes", processes=processes)


@contextmanager
def zbroker(durability: str) -> Iterator[int]:
    with harness.broker("fsync" if durability == "fsync" else "os") as endpoint:
        yield int(endpoint.rpartition(":")[2])


@contextmanager
def _worker(library: Library, port: int, file: Path) -> Iterator[dict[str, str]]:
    """The library's worker processes; yields the environment in which its producers run."""
    env = {**os.environ, "BENCH_PORT": str(port), "BENCH_FILE": str(file), "BENCH_BROKER": library.broker}
    env |= {"PYTHONPATH": os.getcwd(), "BENCH_THREADS": str(library.threads)}
    words = [word.format(port=port, threads=library.threads) for word in library.worker[1:]]
    command = [servers.program(library.worker[0]), *words]
    processes = [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(library.processes)
    ]
    try:
        yield env
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(library: Library, tasks: int, rate: float, durability: str) -> dict[str, float]:
    """Send ``tasks`` as fast as it goes: tasks a second. Or at a rate a second, if it is not 0: milliseconds from the
    send to the start, the rate attained, and how late the sender itself was. Raises `Missing`."""
    servers.need(*library.modules)
    tasks = tasks if rate else max(1, tasks // library.slowness)
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as directory, library.server(durability) as port:
        file = Path(directory, "starts")
        file.touch()
        with _worker(library, port, file) as env:
            _send(library, env, 1, 0)
            _await(file, 1, library)
            begun = time.monotonic()
            sending = _sending(library, env, tasks, rate)
            _await(file, 1 + tasks, library)
            ended = time.monotonic()
            told = sending.communicate()[0].split()
        waits = [wait for (wait,) in WAIT.iter_unpack(file.read_bytes()[WAIT.size :])]
    attained = tasks / (ended - max(begun, float(told[0])))
    if not rate:
        return {"tasks/s": attained}
    return {**workloads.percentiles(waits), "tasks/s": attained, "sent late, p99 ms": float(told[1])}


def _sending(library: Library, env: dict[str, str], tasks: int, rate: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.peers.tasks", library.app, str(tasks), str(rate)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def _send(library: Library, env: dict[str, str], tasks: int, rate: float) -> None:
    if _sending(library, env, tasks, rate).wait():
        raise RuntimeError(f"{library.name}: the producer failed")


def _await(file: Path, tasks: int, library: Library) -> None:
    """Until so many tasks have begun."""
    deadline = time.monotonic() + PATIENCE_S
    while file.stat().st_size < tasks * WAIT.size:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{library.name}: {file.stat().st_size // WAIT.size} of {tasks} tasks were run")
        time.sleep(0.002)


def produce(app: str, tasks: int, rate: float) -> None:
    """The producer's process: prints when it began to send (monotonic clock), and at a rate by how many milliseconds
    it was later than that at p99."""
    import importlib

    module = importlib.import_module(f"{APPS}.{app}")
    begun = time.monotonic()
    print(begun, flush=True)
    if not rate:
        module.send_all([begun] * tasks)
        return
    at_rate = getattr(module, "send_at_rate", None) or partial(send_at_rate, module.send)
    print(workloads.percentiles(at_rate(tasks, rate))["p99 ms"])


def send_at_rate(send: Callable[[float], None], tasks: int, rate: float) -> list[float]:
    """One send after the other, each at its moment if the one before is through; returns the seconds each was late."""
    late = []
    begun = time.monotonic()
    for n in range(tasks):
        due = begun + n / rate
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        now = time.monotonic()
        late.append(now - due)
        send(now)
    return late


_ZWORKER = ("zworker", "run", f"{APPS}.zbroker_app:worker")
_CELERY = ("celery", "-A", f"{APPS}.celery_app", "worker", "--pool", "threads", "-c", "{threads}", "-l", "error")
_DRAMATIQ = ("dramatiq", f"{APPS}.dramatiq_app", "--processes", "1", "--threads", "{threads}")
_RQ = ("rq", "worker", "bench", "--url", "redis://127.0.0.1:{port}", "--quiet")

LIBRARIES = (
    Library("zbroker", "zbroker_app", zbroker, "", (), _ZWORKER),
    Library("Celery, Redis", "celery_app", servers.redis, "redis", ("celery", "redis"), _CELERY, 10),
    Library("Celery, RabbitMQ", "celery_app", servers.rabbitmq, "rabbitmq", ("celery",), _CELERY, 10),
    Library("Dramatiq, Redis", "dramatiq_app", servers.redis, "redis", ("dramatiq", "redis"), _DRAMATIQ, 10),
    Library("Dramatiq, RabbitMQ", "dramatiq_app", servers.rabbitmq, "rabbitmq", ("dramatiq", "pika"), _DRAMATIQ, 10),
    Library("RQ", "rq_app", servers.redis, "redis", ("rq",), _RQ, 50),
    Library("RQ, SimpleWorker", "rq_app", servers.redis, "redis", ("rq",), (*_RQ, "-w", "rq.SimpleWorker"), 10),
    Library(
        "Huey",
        "huey_app",
        servers.redis,
        "redis",
        ("huey", "redis"),
        ("huey_consumer", f"{APPS}.huey_app.huey", "-w", "{threads}", "-k", "thread", "-q"),
        10,
    ),
    Library(
        "taskiq",
        "taskiq_app",
        servers.redis,
        "redis",
        ("taskiq", "taskiq_redis"),
        ("taskiq", "worker", f"{APPS}.taskiq_app:broker", "--workers", "1"),
        10,
    ),
)

OPEN_LOOP = LIBRARIES[0]._replace(app="zbroker_open_app")
"""zbroker with a sender that does not wait for answers, for rates that one after the other does not reach."""


def named(*names: str) -> list[Library]:
    """The libraries of these names, in that order."""
    return [{one.name: one for one in LIBRARIES}[name] for name in names]


if __name__ == "__main__":
    produce(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
