"""``python -m tests.simulation --seeds 1000``: the simulation by hand. See `docs/testing.md`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.simulation import plants

WHOLE = 100_000
"""Events of one seed that is run alone which its report shows."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description="run whole systems from seeds, and judge them")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--first", type=int, default=None, help="the first of them; any number")
    parser.add_argument("--seed", type=int, default=None, help="one seed alone, with its whole trace if it fails")
    parser.add_argument("--steps", type=int, default=None, help="events until the world is healed")
    parser.add_argument("--plant", choices=sorted(plants.PLANTS), help="put this bug into the product first")
    parser.add_argument("--plants", action="store_true", help="which seed finds each of the bugs that are put in")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first failure")
    arguments = parser.parse_args()
    if arguments.plants:
        return find_plants(arguments.seeds)
    if arguments.plant:
        plants.plant(arguments.plant)
    from tests.simulation.report import SHOWN, run_seed  # loads the product
    from tests.simulation.scenario import STEPS

    events = arguments.steps or STEPS
    first = arguments.first if arguments.first is not None else int.from_bytes(os.urandom(4), "big")
    seeds = [arguments.seed] if arguments.seed is not None else range(first, first + arguments.seeds)
    began, steps, failed = time.monotonic(), 0, []
    told = began
    for count, seed in enumerate(seeds, 1):
        outcome = run_seed(seed, events, SHOWN if arguments.seed is None else WHOLE)
        steps += outcome.steps
        if outcome.report:
            failed.append(seed)
            print(outcome.report, flush=True)
            if not arguments.go_on:
                break
        if time.monotonic() - told > 5:
            told = time.monotonic()
            print(_sum(count, steps, told - began, failed), flush=True)
    print(_sum(count, steps, time.monotonic() - began, failed))
    return 1 if failed else 0


def find_plants(seeds: int) -> int:
    """Look for each plant with the first seeds; 1 if one is not found."""
    missed = 0
    for name in plants.PLANTS:
        command = [sys.executable, "-m", "tests.simulation", "--plant", name, "--first", "0", "--seeds", str(seeds)]
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        found = next((line for line in lines if line.startswith("seed ") and " failed" in line), None)
        missed += found is None
        how = lines[-3] if found is not None else ""  # what was violated, before the way to run it again
        print(f"{name}: {found or f'NOT FOUND by {seeds} seeds'}  {how[:120]}", flush=True)
    return 1 if missed else 0


def _sum(seeds: int, steps: int, seconds: float, failed: list[int]) -> str:
    pace = 60 * steps / max(seconds, 0.001)
    return f"{seeds} seeds, {steps} steps in {seconds:.0f} s, {pace:.0f} a minute; failed: {failed or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
