"""What a row costs in each store: ``python -m benchmarks.stores``. Ratios to RocksDB first, then the figures.

Each round takes every store in turn, on a fresh directory on disk: rows as jobs make them, written in ticks of 100 with
a sync each, read, scanned, and deleted again; and jobs put, taken and acked through a broker. Medians of the rounds.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

from benchmarks import workloads
from benchmarks.harness import Result
from zbroker.storage import Store, open_store

TICK_ROWS = 100
VALUE = bytes(range(256)) + b"header of a job, some fifty bytes of it, all in all"
END = b"\xff"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="rows that a store holds at the most")
    parser.add_argument("--jobs", type=int, default=50_000, help="jobs through the broker; 0 leaves that out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", default="rocksdb,sqlite", help="the first is what the others are compared with")
    chosen = parser.parse_args()
    results = {name: Result(name, {}) for name in chosen.stores.split(",")}
    for number in range(chosen.rounds):
        for name, result in results.items():
            for figure, value in measure(name, chosen.rows, chosen.jobs).items():
                result.figures.setdefault(figure, []).append(value)
        print(f"round {number + 1} of {chosen.rounds} done", flush=True)
    report(list(results.values()), chosen.rows)


def measure(name: str, rows: int, jobs: int) -> dict[str, float]:
    """One round of one store: microseconds a row, and what has its unit in its name."""
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as folder:
        store = open_store(name, Path(folder) / "data")
        figures = of_rows(store, [b"0190b6c0a5c7%020d" % number for number in range(rows)])
        store.close()
    if jobs:
        os.environ["ZBROKER_STORE"] = name  # for the broker that the workload starts
        per_second = workloads.lifecycle(jobs)["lifecycles/s"]
        figures["a job put, taken and acked"] = 1e6 / per_second
    return figures


def of_rows(store: Store, keys: list[bytes]) -> dict[str, float]:
    ticks = [keys[n : n + TICK_ROWS] for n in range(0, len(keys), TICK_ROWS)]
    picked = Random(1).sample(ticks, min(len(ticks), 300))
    commits: list[float] = []

    def commit(rows: dict[bytes, bytes | None]) -> None:
        begun = time.perf_counter()
        store.write({"jobs": rows}, [])
        store.sync()
        commits.append(time.perf_counter() - begun)

    def each(act: Callable[[list[bytes]], object], ticks: list[list[bytes]]) -> float:
        begun = time.perf_counter()
        for tick in ticks:
            act(tick)
        return 1e6 * (time.perf_counter() - begun) / sum(map(len, ticks))

    figures = {"put, 100 a commit": each(lambda tick: commit(dict.fromkeys(tick, VALUE)), ticks)}
    figures["the longest commit, ms"] = 1000 * max(commits)
    figures["put, 1 a commit"] = each(lambda tick: commit({tick[0]: VALUE}), [tick[:1] for tick in picked])
    figures["get, 100 at a time"] = each(lambda tick: store.get_many("jobs", tick), picked)
    figures["get, none there"] = each(lambda tick: store.get_many("changes", tick), picked)
    figures["scan of all"] = each(lambda tick: sum(1 for _ in store.scan("jobs", b"", END)), [keys])
    figures["scan of 1"] = each(lambda tick: next(store.scan("jobs", tick[0], END)), [tick[:1] for tick in picked])
    figures["scan of 10"] = each(
        lambda tick: list(islice(store.scan("jobs", tick[0], END), 10)), [t[:10] for t in picked]
    )
    figures["delete, 100 a commit"] = each(lambda tick: commit(dict.fromkeys(tick)), ticks)
    return figures


def report(results: list[Result], rows: int) -> None:
    base, *others = results
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {rows} rows\n")
    columns = [f"{other.workload} / {base.workload}" for other in others] + [f"{r.workload}, us" for r in results]
    print(f"{'':28}" + "".join(f"{column:>18}" for column in columns))
    for figure in base.figures:
        ratios = [f"{other.median(figure) / base.median(figure):.2f}" for other in others]
        print(f"{figure:28}" + "".join(f"{x:>18}" for x in [*ratios, *(f"{r.median(figure):.2f}" for r in results)]))


if __name__ == "__main__":
    main()
