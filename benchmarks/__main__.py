"""``make bench``: the workloads, interleaved over several rounds, ratios first."""

import argparse
import os
import platform
from collections.abc import Callable

from benchmarks import bare_loop, workloads
from benchmarks.harness import Result

FLOORS = {"lifecycle": ("lifecycles/s", 20_000.0), "latency at 500/s": ("p99", 10.0)}
"""What must be reached on two cores with fsync: at least so many a second, at most so many milliseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs in one round of a throughput workload")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--durability", choices=("fsync", "os", "memory"), default="fsync")
    chosen = parser.parse_args()
    jobs, durability = chosen.jobs - chosen.jobs % workloads.BATCH, chosen.durability
    runs: dict[str, Callable[[], dict[str, float]]] = {
        "lifecycle": lambda: workloads.lifecycle(jobs, durability),
        "bare loop (fsync)": lambda: bare_loop.lifecycle(jobs),
        "tasks": lambda: workloads.tasks(jobs // 4, durability),
        "latency at 500/s": lambda: workloads.latency(2_000, 500, durability),
    }
    results = {name: Result(name, {}) for name in runs}
    for number in range(chosen.rounds):
        for name, run in runs.items():
            for figure, value in run().items():
                results[name].figures.setdefault(figure, []).append(value)
        print(f"round {number + 1} of {chosen.rounds} done", flush=True)
    report(results, jobs, durability)


def report(results: dict[str, Result], jobs: int, durability: str) -> None:
    """Ratios, then medians with the least and the most."""
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {jobs} jobs of 256 bytes,"
    )
    print(f"batches of {workloads.BATCH}, durability {durability}; medians of the rounds\n")
    ratio = results["lifecycle"].median("lifecycles/s") / results["bare loop (fsync)"].median("lifecycles/s")
    print(f"lifecycle / bare loop: {ratio:.2f}\n")
    print(f"{'workload':<20} {'figure':<14} {'median':>12} {'least':>12} {'most':>12}")
    for result in results.values():
        for name, values in result.figures.items():
            cells = (result.median(name), min(values), max(values))
            print(f"{result.workload:<20} {name:<14} " + " ".join(f"{value:>12,.2f}" for value in cells))
    print("\np50, p99, p99.9: milliseconds from send to the start of the task")
    for name, (figure, floor) in FLOORS.items():
        value = results[name].median(figure)
        reached = value <= floor if figure.startswith("p") else value >= floor
        print(f"floor {name} {figure} {floor:,.0f}: {'reached' if reached else 'MISSED'}")


if __name__ == "__main__":
    main()
