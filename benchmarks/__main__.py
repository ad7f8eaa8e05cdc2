"""``make bench``: the sections of ``sections.py`` in turns over several rounds, told with the ratios first.

Other systems start from what the machine has; one that is missing is named. ``docs/benchmarks.md`` has the method.
"""

import argparse
import sys

from benchmarks import report, sections

FLOORS = {"lifecycle": (20_000.0, "at least"), "latency-500": (10.0, "at most")}
"""What the first run of a section must reach on two cores: of the figure that its ratios are of, and of p99."""


QUICK_JOBS = 5_000
WAITING_PER_JOB = 50
LEAST_JOBS, LEAST_WAITING = 1_000, 5_000
"""Fewer do not make a whole batch in each workload."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", help=f"which ones: {', '.join(sections.named([]))}; all if none is named"
    )
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs in one round of a throughput workload")
    parser.add_argument(
        "--waiting", type=int, help=f"the most jobs that wait in a broker, {WAITING_PER_JOB} times --jobs if not said"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help=f"one round with {QUICK_JOBS:,} jobs, which shows that all runs"
    )
    parser.add_argument("--json", metavar="FILE", help="write all values there as well")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.jobs, chosen.rounds = QUICK_JOBS, 1
    waiting = WAITING_PER_JOB * chosen.jobs if chosen.waiting is None else chosen.waiting
    if chosen.jobs < LEAST_JOBS or waiting < LEAST_WAITING or chosen.rounds < 1:
        parser.error(f"at least {LEAST_JOBS:,} jobs, {LEAST_WAITING:,} that wait, and a round")
    try:
        names = sections.named(chosen.sections)
    except LookupError as unknown:
        parser.error(str(unknown))
    made = [sections.make(name, chosen.jobs, waiting) for name in names]
    tables = report.run(made, chosen.rounds, lambda text: print(text, file=sys.stderr, flush=True))
    print(
        f"{report.machine()}; {chosen.jobs:,} jobs of 256 bytes a round unless said; medians of {chosen.rounds} rounds,"
    )
    print("with the least and the most of them.\n")
    for table in tables:
        print("\n".join(table.lines()), flush=True)
    if chosen.json:
        report.write(tables, chosen.json)
    missed = [] if chosen.quick else [floor for table in tables if (floor := missed_floor(table))]
    print("\n".join(missed))
    sys.exit(bool(missed) or any(table.failed for table in tables))


def missed_floor(table: report.Table) -> str:
    """What a section did not reach, if it has a floor; empty otherwise."""
    floor = FLOORS.get(table.section.key)
    if floor is None:
        return ""
    name = table.section.runs[0].name
    if name in table.failed:
        return ""  # told as that
    figure = "p99 ms" if table.section.less_is_better else table.section.ratio_of
    value, (bound, word) = table.median(name, figure), floor
    reached = value <= bound if word == "at most" else value >= bound
    return "" if reached else f"MISSED: {table.section.title}: {figure} {value:,.2f}, {word} {bound:,.0f}"


if __name__ == "__main__":
    main()
