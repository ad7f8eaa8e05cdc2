"""``python -m benchmarks.stages``: what each stage of the main lifecycle costs a job, in time and in instructions.

Processor time comes from three real processes, broker (synced), producer and consumer, as in the section `lifecycle`;
each measures its own stages (`hooks`). Instructions come from valgrind, as in `instructions`: one process, no sockets,
no syncs. What no stage explains is told as well. A look at the clocks costs about a microsecond for each call of a
stage, so a hundredth of that for each of 100 jobs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import workloads
from benchmarks.harness import PAYLOAD, together
from benchmarks.hooks import BROKER, CONSUMER, OPERATORS, PRODUCER, STAGES, Marker, Meter, install
from benchmarks.instructions import FEW, MANY, work

THREADS, REST = "threads of libzmq and RocksDB", "in no stage"


# ---- processor time, from three processes


class Account:
    """What a process spent between two moments, and in which stages."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._began = (0, 0)

    def begin(self) -> None:
        """Count from here on."""
        self._meter.clear()
        self._began = time.process_time_ns(), _python_threads_ns()

    def end(self) -> dict[str, Any]:
        """Nanoseconds: in all, in threads that run Python, and of each stage, of the processor and on the wall."""
        process, ours = self._began
        spent = {"process": time.process_time_ns() - process, "python": _python_threads_ns() - ours}
        return {**spent, "cpu": dict(self._meter.cpu), "wall": dict(self._meter.wall)}


def _python_threads_ns() -> int:
    """What the threads of this process that run Python have spent. The first figure of schedstat is nanoseconds."""
    return sum(
        int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii").split()[0])
        for thread in threading.enumerate()
    )


class _Accounted:
    """The pipe of a role: from the start that it receives to the result that it sends, its process is measured."""

    def __init__(self, pipe: Connection, account: Account) -> None:
        self._pipe = pipe
        self._account = account
        self._is_ready = False

    def send(self, value: Any) -> None:
        self._pipe.send((value, self._account.end()) if self._is_ready else value)
        self._is_ready = True

    def recv(self) -> None:
        self._pipe.recv()
        self._account.begin()


def measured(role: "partial[None]", endpoint: str, pipe: Connection) -> None:
    """A role of `workloads`, with its stages measured."""
    meter = Meter()
    install(meter.run)
    role(endpoint, pipe=_Accounted(pipe, Account(meter)))


def serve(data: str, file: str) -> None:
    """A broker on this directory until SIGTERM, measured while it serves; the account goes to a file."""
    from zbroker.cli.program import program
    from zbroker.server import Server
    from zclient.cli.common import run

    meter = Meter()
    install(meter.run)
    account = Account(meter)
    turns = Server.serve

    def accounted(server: Server) -> None:
        account.begin()
        turns(server)
        Path(file).write_text(json.dumps(account.end()), encoding="utf-8")

    Server.serve = accounted  # type: ignore[method-assign]
    sys.exit(run(program, ["start", "--data", data, "--bind", "tcp://127.0.0.1:*"]))


@contextmanager
def _broker(data: str, file: str) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.stages", "--serve", data, file]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def processor_time(jobs: int) -> dict[str, dict[str, Any]]:
    """The accounts of the three processes, for so many jobs put, taken and acked."""
    produce = partial(workloads.produce, jobs=jobs, batch=workloads.BATCH, payload=PAYLOAD)
    consume = partial(workloads.consume, jobs=jobs, credit=workloads.CREDIT)
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as folder:
        file = f"{folder}/account.json"
        with _broker(f"{folder}/data", file) as endpoint:
            produced, consumed = together(partial(measured, produce, endpoint), partial(measured, consume, endpoint))
        broker = json.loads(Path(file).read_text(encoding="utf-8"))
    return {PRODUCER: produced[1], BROKER: broker, CONSUMER: consumed[1]}


# ---- instructions, from valgrind


def counted_work(jobs: int, file: str) -> None:
    """The work of `instructions`, each stage inside a C function of its own; how they were called goes to a file."""
    marker = Marker()
    install(marker.run)
    work(jobs)
    told = {"calls": marker.calls, "parents": {stage: sorted(found) for stage, found in marker.parents.items()}}
    Path(file).write_text(json.dumps(told), encoding="utf-8")


class Profile(NamedTuple):
    """What callgrind counted of the work."""

    whole: int
    functions: dict[str, tuple[int, int]]  # each C function's calls, and what they cost
    calls: dict[str, int]  # how often each stage was entered
    parents: dict[str, list[str]]  # inside which stages, or "" for none


def profile(jobs: int) -> Profile:
    """Do the work under valgrind, with so many jobs."""
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as folder:
        counts, file = f"{folder}/callgrind", f"{folder}/calls.json"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={counts}", "--dump-line=no"]
        command += [sys.executable, "-m", "benchmarks.stages", "--work", str(jobs), file]
        env = {**os.environ, "PYTHONHASHSEED": "0"}
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if told.returncode:
            raise RuntimeError(f"valgrind failed:\n{told.stderr[-2000:]}")
        marks = json.loads(Path(file).read_text(encoding="utf-8"))
        return Profile(*read_profile(Path(counts).read_text(encoding="utf-8")), marks["calls"], marks["parents"])


def read_profile(text: str) -> tuple[int, dict[str, tuple[int, int]]]:
    """From a profile of callgrind: all instructions; and of each function, how often it was called and what that cost.

    The format is told in valgrind's manual, "Callgrind Format Specification": a name is given in full once, and then by
    its number; the line after ``calls=`` ends with the cost of these calls, all that they called included.
    """
    names: dict[str, str] = {}
    functions: dict[str, tuple[int, int]] = {}
    whole, called, calls = 0, "", 0
    for line in text.splitlines():
        if calls:
            before = functions.get(called, (0, 0))
            functions[called] = (before[0] + calls, before[1] + int(line.split()[-1]))
            calls = 0
        elif line.startswith(("fn=", "cfn=")):
            number, _, name = line.partition("=")[2].partition(" ")
            if name:
                names[number] = name
            called = names.get(number, number)
        elif line.startswith("calls="):
            calls = int(line.removeprefix("calls=").split()[0])
        elif line.startswith("totals:"):
            whole = int(line.split()[1])
    return whole, functions


def own_costs(few: Profile, many: Profile) -> dict[str, int]:
    """By how much the second cost more: each stage, without those inside it, and ``all``.

    The start of the process, which may use the operators too, does not count so. A stage is always inside the same one,
    or in none: otherwise what is inside could not be told apart, and it raises `RuntimeError`.
    """
    costs: dict[str, int] = dict.fromkeys(many.calls, 0)
    for stage, (name, _) in zip(many.calls, OPERATORS, strict=True):
        came, cost = (after - before for before, after in zip(few.functions[name], many.functions[name], strict=True))
        entered = many.calls[stage] - few.calls[stage]
        if came != entered:
            raise RuntimeError(f"{name} was called {came} times, not {entered}: not only {stage} uses that operator")
        parents = many.parents[stage]
        if stage in parents or len(parents) > 1:
            raise RuntimeError(f"{stage} is inside several stages: {', '.join(parents)}")
        costs[stage] += cost
        for parent in filter(None, parents):
            costs[parent] -= cost
    return {**costs, "all": many.whole - few.whole}


def instructions_per_job(few: int = FEW, many: int = MANY) -> dict[str, float]:
    """Of each stage, and of ``all``."""
    return {name: cost / (many - few) for name, cost in own_costs(profile(few), profile(many)).items()}


# ---- the table


def lines(accounts: dict[str, dict[str, Any]], jobs: int, counted: dict[str, float]) -> Iterator[str]:
    """The table in Markdown: each stage, then what no stage explains, then the whole, process by process."""
    yield "| | | us of processor time | instructions |"
    yield "|---|---|---|---|"

    def row(process: str, name: str, ns: float, count: float | None) -> str:
        told = "" if count is None else f"{count:,.0f}"
        return f"| {process} | {name} | {ns / jobs / 1000:.2f} | {told} |"

    whole = 0.0
    for process, account in accounts.items():
        cpu = account["cpu"]
        for stage, what in STAGES.items():
            if what.process == process:
                yield row(process, what.name, cpu[stage], counted.get(stage))
        in_stages = sum(cpu[stage] for stage, what in STAGES.items() if what.process == process)
        yield row(process, THREADS, account["process"] - account["python"], None)
        yield row(process, REST, account["python"] - in_stages, None)
        yield row(process, "**all**", account["process"], None)
        whole += account["process"]
    rest = 2 * counted["all"] - sum(counted.values()) if counted else None  # all itself is among the values
    yield row("all", REST, sum(a["python"] - sum(a["cpu"].values()) for a in accounts.values()), rest)
    yield row("all", "**all**", whole, counted.get("all"))
    yield ""
    broker = accounts[BROKER]
    waited = (broker["wall"]["sync"] - broker["cpu"]["sync"]) / jobs / 1000
    yield f"The broker's thread waited {waited:.2f} us a job for syncs, beside what a sync costs the processor."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--no-instructions", action="store_true", help="only processor time: seconds, not minutes")
    parser.add_argument("--serve", nargs=2, metavar=("DATA", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, metavar=("JOBS", "FILE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(*chosen.serve)
    if chosen.work:
        counted_work(int(chosen.work[0]), chosen.work[1])
        return
    jobs = max(1, chosen.jobs // workloads.BATCH) * workloads.BATCH
    accounts = processor_time(jobs)
    counted: dict[str, float] = {}
    if chosen.no_instructions:
        print("instructions are not counted\n")
    elif shutil.which("valgrind") is None:
        print("no program valgrind: instructions are not counted\n")
    else:
        counted = instructions_per_job()
    print("\n".join(lines(accounts, jobs, counted)))


if __name__ == "__main__":
    main()
