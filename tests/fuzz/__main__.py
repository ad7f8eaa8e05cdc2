"""``python -m tests.fuzz --minutes 10``: each target in turn, guided by coverage, and then the sockets under a flood.

What is found is written to ``tests/fuzz/found/TARGET/``, which the default suite tries again from then on: give the
file a name that says what it does. What covers something new is kept in ``--corpus`` and begun with the next time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz import flood
from tests.fuzz.targets import TARGETS, seeds
from tests.system.processes import ROOT

FOUND = Path(__file__).parent / "found"
LONGEST_BYTES = 2000
FLOOD_SHARE = 0.15
"""Of the time, for the floods."""

WEIGHTS = {"broker": 6, "worker": 2, "client": 2}
"""How much longer than others a target is tried."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="say everything there is to whatever listens")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".fuzz", help="folder of what covers something new")
    parser.add_argument(
        "targets", nargs="*", choices=[*TARGETS, "flood", []], help="which of them; all if none is named"
    )
    arguments = parser.parse_args()
    chosen = arguments.targets or [*TARGETS, "flood"]
    seconds = arguments.minutes * 60
    broken: list[str] = []
    if "flood" in chosen:
        share = FLOOD_SHARE if len(chosen) > 1 else 1.0
        broken += flood.run(seconds * share)
        seconds *= 1 - share
    guided = [name for name in chosen if name != "flood"]
    if guided and find_spec("atheris") is None:
        print("left out: atheris is not installed (pip install 'zbroker[fuzz]'); `make test` tries some examples")
        guided = []
    whole = sum(WEIGHTS.get(name, 1) for name in guided)
    for name in guided:
        if not fuzz(name, seconds * WEIGHTS.get(name, 1) / whole, arguments.corpus / name):
            broken.append(name)
    print(f"broken: {', '.join(broken)}" if broken else "nothing was found")
    return 1 if broken else 0


def fuzz(name: str, seconds: float, corpus: Path) -> bool:
    """Whether the target stood for so long."""
    found = FOUND / name
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    began = time.monotonic()
    options = [f"-max_total_time={int(seconds) + 1}", f"-max_len={LONGEST_BYTES}", f"-artifact_prefix={found}/"]
    options += ["-timeout=20", "-len_control=0", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]
    program = [sys.executable, "-m", "tests.fuzz.guided", name, str(corpus), str(found), *options]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    told = [line for line in ended.stderr.splitlines() if "executed_units" in line]
    runs = told[0].split()[-1] if told else "?"
    print(f"{name}: {runs} inputs in {time.monotonic() - began:.0f} s, {len(list(corpus.iterdir()))} kept", flush=True)
    if ended.returncode:
        print(ended.stdout[-4000:], ended.stderr[-4000:])
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
