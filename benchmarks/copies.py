"""``python -m benchmarks.copies``: how often the bytes of a payload are copied on their way, in each process.

Broker, producer and consumer run under valgrind's DHAT in its mode for copies, which counts every byte that memcpy,
memmove and their like move, and tells where. The work is done with payloads of one byte and then with larger ones: what
is more is copies of the payload. What the kernel copies is not among them; what the broker writes to files is told
beside it. How many jobs a tick has, and so how far a write batch grows, is not the same under valgrind.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from zclient.cli.measuring import SENDERS, TAKERS
from zclient.cli.roles import Cast, Part

SIZES = {"256 B": 256, "4 KiB": 4 << 10, "64 KiB": 64 << 10, "1 MiB": (1 << 20) - 64}
"""Payloads, in bytes; encoded, the largest one just fits."""

PATIENCE_S = 300.0
"""Valgrind is some fifty times slower than the processor."""

SHOWN = 0.05
"""What is copied less often is told among the rest."""

KINDS: list[tuple[str, str]] = [
    (r"Packer_pack|_cmsgpack_6Packer", "encoded: into msgpack's buffer, and out of it"),
    (r"unpack_callback_bin", "decoded: out of the message"),
    (r"stringlib_bytes_join|_PyBytes_Join", "record: header and payload put together"),
    (r"WriteBatch::(Put|Delete)|WriteBatchInternal::(Put|Delete)", "write batch, as often as it grows"),
    (r"MemTable::Add", "memtable"),
    (r"WriteToWAL|WritableFileWriter", "log, before it is written"),
    (r"__pymethod_get__|RdictIter", "read back from the store"),
    (r"FlushJob|CompactionJob", "flush of a memtable"),
    (r"PyBytes_FromStringAndSize < _zmq", "received: out of libzmq's message"),
    (r"< _zmq", "sent: into libzmq's message"),
    (r"^mem\w+( < (\?\?\?|libzmq\S*))+ < start_thread", "sent: into libzmq's buffer"),
]
"""What a copy is, by the functions that make it; the first that fits."""

REST = "all else that grows with the payload"

INTERPRETER = re.compile(r"_?PyObject_(Vectorc|C)all|_PyEval_|_PyVectorcall|cfunction_|method_vectorcall|gen_")

Copied = Counter[str]
"""Bytes by where they were copied: the functions that called, the innermost first."""


class Way(NamedTuple):
    """What was copied in one run."""

    processes: dict[str, Copied]
    written: int  # bytes that the broker wrote to files


def way(jobs: int, batch: int, payload: int) -> Way:
    """So many jobs put, taken and acked at once, each process under valgrind."""
    with tempfile.TemporaryDirectory(prefix="zbroker-bench-") as folder:

        def python(name: str) -> tuple[str, ...]:
            # Stacks deep enough to leave the libraries: what is above them is the interpreter.
            options = ("--mode=copy", f"--dhat-out-file={folder}/{name}", "--log-file=/dev/null", "--num-callers=14")
            return ("valgrind", "--tool=dhat", *options, sys.executable)

        with _broker(python("broker"), f"{folder}/data") as (endpoint, pid):
            given = {"endpoints": [endpoint], "credentials": None, "queue": "bench", "timeout": PATIENCE_S}
            given |= {"jobs": jobs, "batch": batch, "payload": payload, "credit": 10 * batch}
            parts = [Part(SENDERS, "put", given, python("producer")), Part(TAKERS, "take", given, python("consumer"))]
            with Cast(*parts, leave_s=PATIENCE_S) as cast:
                before = _written(pid)
                cast.run()
                written = _written(pid) - before
        names = ("producer", "broker", "consumer")
        return Way({name: copied(json.loads(Path(folder, name).read_text())) for name in names}, written)


@contextmanager
def _broker(python: Sequence[str], data: str) -> Iterator[tuple[str, int]]:
    command = [*python, "-m", "zbroker", "start", "--data", data, "--bind", "tcp://127.0.0.1:*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _written(pid: int) -> int:
    """The bytes that a process gave to write() so far."""
    told = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    return int(told.partition("wchar: ")[2].split()[0])


def copied(profile: dict[str, Any]) -> Copied:
    """What a profile of DHAT tells, by functions, up to the interpreter, whose own functions say nothing."""
    names = [short_name(frame) for frame in profile["ftbl"]]
    found: Copied = Counter()
    for place in profile["pps"]:
        stack = takewhile(lambda name: not INTERPRETER.match(name), (names[frame] for frame in place["fs"]))
        found[" < ".join(stack)] += place["tb"]
    return found


def short_name(frame: str) -> str:
    """``Class::method`` of a frame ``0x4A2B: Class<T>::method(arguments) (place)``; the library if there is no name."""
    name, _, place = re.sub(r"^0x[0-9A-F]+: ", "", frame).rpartition(" (")
    if not name or name == "???":
        return Path(place.removeprefix("in ").rstrip(")")).name
    while (shorter := re.sub(r"<[^<>]*>|\([^()]*\)|\{[^{}]*\}", "", name)) != name:
        name = shorter
    return name.strip()


def per_payload(without: Copied, copied: Copied, octets: int) -> dict[str, float]:
    """How often each place copied the payloads, which are so many bytes: what it copied more than without them."""
    return {place: (copied[place] - without[place]) / octets for place in {**without, **copied}}


def by_kind(places: Mapping[str, float]) -> dict[str, float]:
    """The same by what the copies are."""
    kinds = dict.fromkeys([kind for _, kind in KINDS] + [REST], 0.0)
    for place, copies in places.items():
        kinds[next((kind for pattern, kind in KINDS if re.search(pattern, place)), REST)] += copies
    return kinds


def measure(size: int, total: int) -> tuple[dict[str, Mapping[str, float]], float]:
    """Copies of a payload of this size by process and place, and how often the broker wrote it to files."""
    batch = max(1, min(100, (256 << 10) // size))
    jobs = max(2, min(1000, total // size) // batch) * batch
    without, copied = way(jobs, batch, 1), way(jobs, batch, size)
    octets = jobs * (size - 1)
    names = copied.processes
    copies = {name: per_payload(without.processes[name], copied.processes[name], octets) for name in names}
    return copies, (copied.written - without.written) / octets


def lines(measured: Mapping[str, tuple[Mapping[str, Mapping[str, float]], float]]) -> Iterator[str]:
    """The table in Markdown: what is copied how often, by process, for each size."""
    yield "| | | " + " | ".join(measured) + " |"
    yield "|---|---|" + "---|" * len(measured)
    for process in ("producer", "broker", "consumer"):
        columns = [by_kind(copies[process]) for copies, _ in measured.values()]
        for kind in columns[0]:
            cells = [column[kind] for column in columns]
            if max(cells) >= SHOWN:
                yield f"| {process} | {kind} | " + " | ".join(f"{c:.1f}" if c >= SHOWN else "" for c in cells) + " |"
    totals = [sum(sum(places.values()) for places in copies.values()) for copies, _ in measured.values()]
    yield "| all | **copied** | " + " | ".join(f"{total:.1f}" for total in totals) + " |"
    yield "| broker | written to files | " + " | ".join(f"{written:.1f}" for _, written in measured.values()) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=__doc__)
    parser.add_argument("sizes", nargs="*", help=f"of {', '.join(SIZES)}; all if none is named")
    parser.add_argument("--total", type=int, default=24 << 20, help="bytes of payload in a run, at most 1,000 jobs")
    parser.add_argument("--places", action="store_true", help="tell the functions that make the copies, too")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.sizes if name not in SIZES]:
        parser.error(f"no such size: {', '.join(unknown)}; there are {', '.join(SIZES)}")
    if shutil.which("valgrind") is None:
        sys.exit("no program valgrind: copies cannot be counted here")
    measured = {name: measure(SIZES[name], chosen.total) for name in chosen.sizes or SIZES}
    print("\n".join(lines(measured)))
    if chosen.places:
        for name, (processes, _) in measured.items():
            for process, places in processes.items():
                for place, copies in sorted(places.items(), key=lambda each: -each[1]):
                    if copies >= SHOWN:
                        print(f"{name}, {process}, {copies:.2f}: {place}")


if __name__ == "__main__":
    main()
