"""The sections of ``make bench``: which work is done by whom. Sizes are for a machine of two cores."""

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks import backlog, bare_loop, delayed, scale, start, workloads
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
    for batch in (100, 10, 1, 1000):
        some = jobs if batch >= 100 else jobs // 5
        runs.append(Run(f"zbroker, batches of {batch:,}", partial(workloads.lifecycle, some, batch=batch)))
        theirs = partial(lifecycles.measure, redis, some, batch, "fsync")
        runs.append(Run(f"Redis Streams, batches of {batch:,}", theirs))
    runs.append(Run("zbroker, two producers and consumers", partial(workloads.lifecycle, jobs, pairs=2)))
    note = f"As above, with fewer or more jobs in a batch; of one as well `send_many` has many on their way. {FSYNC}"
    return Section("batches", "Batches", note, "lifecycles/s", False, runs)


def singles(jobs: int) -> Section:
    runs = []
    for how, at_once, some in (("tasks", 100, jobs // 2), ("threads", 16, jobs // 4)):
        runs.append(Run(f"zbroker, {at_once} {how}", partial(workloads.singles, some, how, at_once)))
        runs.append(
            Run(f"Redis Streams, {at_once} {how}", partial(lifecycles.redis_singles, some, how, at_once, "fsync"))
        )
    by_hand = partial(lifecycles.redis_singles, 2 * jobs, "by hand", 100, "fsync")
    runs.append(Run("zbroker, send_nowait", partial(workloads.singles, 2 * jobs, "nowait", 1)))
    runs.append(Run("Redis Streams, pipelines of 100 by hand", by_hand))
    note = (
        "One job a call, from many threads or tasks of one client, or from one that does not wait. zbroker's client "
        f"gathers them itself; Redis' does where the program says so. {FSYNC}"
    )
    return Section("singles", "Single sends", note, "puts/s", False, runs)


def no_op_tasks(number: int) -> Section:
    (ours,) = tasks.named("zbroker")
    others = tasks.named("Celery, RabbitMQ", "Dramatiq, Redis", "Huey")
    libraries = [*tasks.LIBRARIES, *(one.with_threads(128) for one in (ours, *others)), ours.with_processes(2)]
    runs = [Run(one.name, partial(tasks.measure, one, number, 0, "fsync")) for one in libraries]
    note = (
        "Functions that append eight bytes to a file, each through its library's own worker: one process, 32 threads "
        "where it has threads and nothing else is said. The ack comes after the work, where the library can."
    )
    return Section("tasks", "Tasks", note, "tasks/s", False, runs)


def latency_beside(rate: int, number: int, names: tuple[str, ...]) -> Section:
    runs = [Run(one.name, partial(tasks.measure, one, number, rate, "fsync")) for one in tasks.named(*names)]
    (ours,) = tasks.named("zbroker")
    runs.append(Run("zbroker, durability os", partial(tasks.measure, ours, number, rate, "default")))
    note = (
        f"Milliseconds from the send to the start of the task, at {rate:,} jobs a second, one send after the other. "
        f"{FSYNC} The last row has zbroker without syncs, since RabbitMQ hands a message on before it is synced."
    )
    return Section(f"latency-{rate}", f"Latency at {rate:,} a second", note, "p50 ms", True, runs)


def latency_rates(seconds: float) -> Section:
    runs = [
        Run(f"{rate:,} a second", partial(tasks.measure, tasks.OPEN_LOOP, max(10, int(rate * seconds)), rate, "fsync"))
        for rate in (100, 500, 2_000, 10_000)
    ]
    note = (
        "Milliseconds from the send to the start of the task. The sender keeps to its rate whatever the answers do, "
        f"with a task for each send that is not answered yet. {FSYNC}"
    )
    return Section("latency-rates", "Latency by rate", note, "p50 ms", True, runs)


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


def backlogs(waiting: int) -> Section:
    jobs = waiting // 20
    runs = [Run("nothing waiting", partial(backlog.measure, 0, jobs))]
    for some in (waiting // 50, waiting // 5, waiting):
        runs.append(Run(f"{some:,} waiting", partial(backlog.measure, some, jobs)))
    some = waiting // 5
    others = partial(backlog.measure, some, jobs, elsewhere=True)
    runs.append(Run(f"{some:,} waiting in {backlog.OTHERS} other queues", others))
    note = (
        f"Lifecycles of {jobs:,} jobs, in batches of 100, one producer and one consumer at once, while others wait. "
        f"The largest memory is since the start of the broker. {FSYNC}"
    )
    return Section("backlog", "Backlog", note, "lifecycles/s", False, runs)


def scaled(jobs: int, what: str, sizes: dict[str, scale.Size]) -> Section:
    runs = [Run(name, partial(scale.measure, jobs, size)) for name, size in sizes.items()]
    note = (
        f"Microseconds of the broker's processor time for a job that is put, delivered and acked, {jobs:,} of them, "
        f"{scale.IN_FLIGHT:,} in flight in each row unless it says so."
    )
    return Section(f"scale-{what}", f"As {what} grow", note, "us a job", True, runs, of_the_best=True)


def scaled_workers(jobs: int) -> Section:
    sizes = {_many(n, "worker"): scale.Size(workers=n) for n in (1, 10, 100, 500)}
    sizes["1 worker, 20 in flight"] = scale.Size(workers=1, in_flight=20)
    return scaled(jobs, "workers", sizes)


def scaled_queues(jobs: int) -> Section:
    return scaled(jobs, "queues", {_many(n, "queue"): scale.Size(queues=n) for n in (1, 10, 100, 1_000)})


def scaled_keys(jobs: int) -> Section:
    return scaled(jobs, "keys", {_many(n, "key"): scale.Size(keys=n) for n in (1, 100, 10_000, 100_000)})


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("s" if number > 1 else "")


def starts(waiting: int) -> Section:
    million = waiting // 5
    contents = {
        "nothing": start.Contents(),
        f"{million:,} waiting": start.Contents(million),
        f"{waiting:,} waiting": start.Contents(waiting),
        f"{million:,} timers": start.Contents(timers=million),
        f"{million // 10:,} lanes": start.Contents(lanes=million // 10),
        f"{million:,} waiting, {million // 100:,} leased": start.Contents(million, leased=million // 100),
    }
    runs = [Run(name, partial(start.measure, what)) for name, what in contents.items()]
    note = (
        "Seconds from the start of a process that was killed, on the same data, to the first job in a consumer's hands."
    )
    return Section("start", "Starts", note, "first delivery s", True, runs)


def falling_due(waiting: int) -> Section:
    jobs = waiting // 5
    seconds = min(60.0, jobs / delayed.EACH_S)
    run = Run(f"{jobs:,} jobs over {seconds:.0f} s", partial(delayed.measure, jobs, seconds))
    note = f"Delayed jobs that fall due, spread evenly: milliseconds from the moment to a consumer's hands. {FSYNC}"
    return Section("delayed", "Delayed jobs", note, "p99 ms", True, [run])


MAKERS: dict[str, Callable[[int], Section]] = {
    "lifecycle": lambda jobs: lifecycle(jobs, "fsync"),
    "lifecycle-default": lambda jobs: lifecycle(jobs, "default"),
    "batches": batches,
    "singles": singles,
    "tasks": no_op_tasks,
    "latency-500": lambda jobs: latency_beside(
        500, max(50, jobs // 50), ("zbroker", "Dramatiq, RabbitMQ", "Celery, RabbitMQ", "taskiq", "Huey")
    ),
    "latency-rates": lambda jobs: latency_rates(jobs / 10_000),
    "calls": lambda jobs: calls(jobs // 100),
    "payloads": payloads,
    "groups": lambda jobs: groups(jobs // 10),
    "scale-workers": lambda jobs: scaled_workers(2 * jobs),
    "scale-queues": lambda jobs: scaled_queues(2 * jobs),
    "scale-keys": lambda jobs: scaled_keys(2 * jobs),
}
"""Each section by its name, made for a number of jobs in a round."""

WAITING: dict[str, Callable[[int], Section]] = {
    "backlog": backlogs,
    "start": starts,
    "delayed": falling_due,
}
"""Likewise those that fill a broker first, made for the most jobs that wait in it."""


def named(names: Sequence[str]) -> list[str]:
    """The sections of these names; the beginning of some names, up to a dash, means all of them. Raises LookupError."""
    known = [*MAKERS, *WAITING]
    found = []
    for name in names:
        some = [name] if name in known else [one for one in known if one.startswith(f"{name}-")]
        if not some:
            raise LookupError(f"no such section: {name}; there are {', '.join(known)}")
        found += some
    return list(dict.fromkeys(found or known))


def make(name: str, jobs: int, waiting: int) -> Section:
    """The section of that name, for so many jobs in a round and at most so many that wait."""
    return MAKERS[name](jobs) if name in MAKERS else WAITING[name](waiting)
