"""``python -m benchmarks.backups``: what senders notice of `zbroker backup`.

One process sends single jobs, one after the other, each waited for; another sends batches all the time, so that the
store writes, flushes and compacts. For a while nobody makes a backup, then one is made after the other. Told are the
times of the single sends in both, the backups, and the longest turn of the broker's loop.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.harness import SPAWN
from zclient import Client

BATCH = 500


def sender(pipe: Connection, endpoint: str, every_s: float) -> None:
    """Single sends at this pace until told; at each word from the pipe the times since the last one, in ms."""
    took_ms: list[float] = []
    over = threading.Event()

    def listen() -> None:
        while pipe.recv() == "lap":
            told = took_ms[:]
            del took_ms[: len(told)]
            pipe.send(told)
        over.set()

    with Client(endpoint, timeout=60) as client:
        client.send("single", 0)
        pipe.send("ready")
        threading.Thread(target=listen, daemon=True).start()
        while not over.wait(every_s):
            began = time.perf_counter()
            client.send("single", 1)
            took_ms.append((time.perf_counter() - began) * 1000)


def flood(pipe: Connection, endpoint: str, size: int, rate: int) -> None:
    """Batches of `BATCH` jobs with payloads that do not compress, so many jobs a second, until told."""
    chance = open("/dev/urandom", "rb", buffering=0)  # noqa: SIM115 - as long as the process
    with Client(endpoint, timeout=60) as client:
        pipe.send("ready")
        began, sent = time.monotonic(), 0
        while not pipe.poll(max(0.0, began + sent / rate - time.monotonic())):
            client.send_many("flood", [chance.read(size) for _ in range(BATCH)])
            sent += BATCH
        pipe.send(sent)


@contextmanager
def serving(folder: Path, store: str) -> Iterator[str]:
    command = [sys.executable, "-m", "zbroker", "start", "--data", str(folder / "data"), "--store", store]
    process = subprocess.Popen(
        [*command, "--bind", "tcp://127.0.0.1:*"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait()


def back_up(folder: Path) -> dict[str, Any]:
    """One backup, made and removed again: what it says of itself, and how long its process took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "zbroker", "backup", str(folder / "backup"), "--data", str(folder / "data")]
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    shutil.rmtree(folder / "backup")
    return {"bytes": told["bytes"], "took_ms": told["took_ms"], "process_ms": round((time.monotonic() - began) * 1000)}


def summary(took_ms: list[float]) -> dict[str, float]:
    """Of single sends, in ms."""
    times = sorted(took_ms)
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    told = {name: round(times[min(len(times) - 1, int(len(times) * share))], 2) for name, share in at.items()}
    return {"sends": len(times), **told, "worst": round(times[-1], 2)}


def measure(store: str, seconds: float, size: int, rate: int, every_s: float) -> dict[str, Any]:
    """Both phases on a fresh broker."""
    with tempfile.TemporaryDirectory(prefix="zbroker-copies-") as name, serving(Path(name), store) as endpoint:
        folder = Path(name)
        ours, theirs = SPAWN.Pipe()
        others, feeds = SPAWN.Pipe()
        roles = [
            SPAWN.Process(target=sender, args=(theirs, endpoint, every_s), daemon=True),
            SPAWN.Process(target=flood, args=(feeds, endpoint, size, rate), daemon=True),
        ]
        for role in roles:
            role.start()
        assert (ours.recv(), others.recv()) == ("ready", "ready")
        time.sleep(seconds)
        ours.send("lap")
        quiet = summary(ours.recv())
        until = time.monotonic() + seconds
        backups = [back_up(folder)]
        while time.monotonic() < until:
            backups.append(back_up(folder))
        ours.send("lap")
        during = summary(ours.recv())
        ours.send("end")
        others.send("end")
        flooded = others.recv()
        with Client(endpoint) as client:
            stats = client.stats()
        for role in roles:
            role.join()
    longest = {name: stats[name] for name in ("longest_turn_ms", "turns")}
    return {"store": store, "flood": flooded, "without": quiet, "during": during, "backups": backups, **longest}


def main() -> None:
    parser = argparse.ArgumentParser(prog="backups", description="what senders notice of a backup")
    parser.add_argument("--store", default="rocksdb")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--size", type=int, default=2048, help="bytes of a payload of the flood")
    parser.add_argument("--rate", type=int, default=4000, help="jobs a second of the flood")
    parser.add_argument("--every", type=float, default=0.005, help="seconds between two single sends")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    told = measure(given.store, given.seconds, given.size, given.rate, given.every)
    if given.json:
        print(json.dumps(told))
        return
    print(f"{told['store']}, {told['flood']} jobs of {given.size} bytes beside; single sends, in ms:")
    for phase in ("without", "during"):
        print(f"  {phase:8}", ", ".join(f"{name} {value}" for name, value in told[phase].items()))
    took = [backup["took_ms"] for backup in told["backups"]]
    sizes = [backup["bytes"] >> 20 for backup in told["backups"]]
    print(f"  {len(took)} backups of {sizes[0]} to {sizes[-1]} MiB, {min(took)} to {max(took)} ms each")
    print(f"  longest turn {told['longest_turn_ms']} ms; work of turns: {told['turns']}")


if __name__ == "__main__":
    main()
