"""The sections of ``make bench``: which work is done by whom. Sizes are for a machine of two cores."""

from collections.abc import Callable
from functools import partial

from benchmarks import bare_loop, workloads
from benchmarks.peers import lifecycles, tasks
from benchmarks.report import Run, Section

FSYNC = "Whatever is confirmed is on disk, fsynced, in every system."
DEFAULT = (
    "Each as it comes: zbroker with durability `os`, Redis with its log synced each second, NATS every two minutes, "
    "beanstalkd every 50 ms. A confirmed job survives the process, not the machine."
)


def lifecycle(jobs: int, durability: str) -> Section:
    ours = "fsync" if durability == "fsync" else "os"
    runs = [Run("zbroker", lambda: workloads.lifecycle(jobs, ours))]
    runs += [
        Run(peer.name, partial(lifecycles.measure, peer, jobs, workloads.BATCH, durability))
        for peer in lifecycles.PEERS
    ]
    if durability == "fsync":
        runs.append(Run("bare loop", partial(bare_loop.lifecycle, jobs)))
    note = "Put, taken and acked per second, in batches of 100; one producer and one consumer at once. "
    key = "lifecycle" if durability == "fsync" else "lifecycle-default"
    title = "Lifecycles, " + ("synced" if durability == "fsync" else "as they come")
    return Section(key, title, note + (FSYNC if durability == "fsync" else DEFAULT), "lifecycles/s", False, runs)


def batches(jobs: int) -> Section:
    redis = lifecycles.PEERS[0]
    runs = []
    for batch in (100, 10, 1):
        some = jobs if batch == 100 else jobs // 5
        runs.append(Run(f"zbroker, batches of {batch}", partial(workloads.lifecycle, some, batch=batch)))
        runs.append(Run(f"Redis Streams, batches of {batch}", partial(lifecycles.measure, redis, some, batch, "fsync")))
    runs.append(Run("zbroker, two producers and consumers", partial(workloads.lifecycle, jobs, pairs=2)))
    note = f"As above, with fewer jobs in a batch; with one, `send_many` still has many batches on their way. {FSYNC}"
    return Section("batches", "Batches", note, "lifecycles/s", False, runs)


def singles(jobs: int) -> Section:
    runs = []
    for how, at_once in (("tasks", 100), ("threads", 16)):
        runs.append(Run(f"zbroker, {at_once} {how}", partial(workloads.singles, jobs, how, at_once)))
        runs.append(
            Run(f"Redis Streams, {at_once} {how}", partial(lifecycles.redis_singles, jobs, how, at_once, "fsync"))
        )
    note = f"One job a call, from many threads or tasks of one client, which gathers them itself. {FSYNC}"
    return Section("singles", "Single sends", note, "puts/s", False, runs)


def no_op_tasks(number: int) -> Section:
    runs = [Run(one.name, partial(tasks.measure, one, number, 0, "fsync")) for one in tasks.LIBRARIES]
    note = (
        "Functions that do nothing, each through its library's own worker: one process, 32 threads where it has "
        "threads. The ack comes after the work, where the library can."
    )
    return Section("tasks", "Tasks", note, "tasks/s", False, runs)


def latency(rate: int, names: tuple[str, ...]) -> Section:
    chosen = [one for one in tasks.LIBRARIES if one.name in names]
    runs = [Run(one.name, partial(tasks.measure, one, max(500, 4 * rate), rate, "fsync")) for one in chosen]
    note = f"Milliseconds from the send to the start of the task, at {rate:,} jobs a second. {FSYNC}"
    return Section(f"latency-{rate}", f"Latency at {rate:,} a second", note, "p50 ms", True, runs)


def calls(number: int) -> Section:
    note = "Milliseconds that `client.call` takes: sent, stored, run, acked, answered."
    return Section("calls", "Calls", note, "p50 ms", True, [Run("zbroker", partial(workloads.calls, number))])


def payloads(jobs: int) -> Section:
    runs = [Run("256 bytes", partial(workloads.lifecycle, jobs))]
    for name, size, share, batch in (("4 KiB", 4096, 2, 100), ("64 KiB", 1 << 16, 25, 16), ("1 MB", 1_000_000, 250, 4)):
        run = partial(workloads.lifecycle, jobs // share, batch=batch, payload=b"x" * size)
        runs.append(Run(name, run))
    note = "Lifecycles with larger payloads. From 64 KiB on they travel as frames of their own."
    return Section("payloads", "Payloads", note, "lifecycles/s", False, runs)


def groups(jobs: int) -> Section:
    runs = [Run(f"group of {jobs:,} and a callback", partial(workloads.callback, jobs))]
    note = "A workflow of a group and a callback that reads all results, from its sending to the callback's result."
    return Section("groups", "Groups", note, "jobs/s", False, runs)


MAKERS: dict[str, Callable[[int], Section]] = {
    "lifecycle": lambda jobs: lifecycle(jobs, "fsync"),
    "lifecycle-default": lambda jobs: lifecycle(jobs, "default"),
    "batches": batches,
    "singles": lambda jobs: singles(jobs // 5),
    "tasks": lambda jobs: no_op_tasks(jobs // 4),
    "latency-100": lambda jobs: latency(100, ("zbroker",)),
    "latency-500": lambda jobs: latency(500, ("zbroker", "Dramatiq, RabbitMQ", "Celery, RabbitMQ", "taskiq", "Huey")),
    "calls": lambda jobs: calls(jobs // 100),
    "payloads": payloads,
    "groups": lambda jobs: groups(jobs // 10),
}
"""Each section by its name, made for a number of jobs in a round."""
