"""Judges a history of any size, in bounded memory: it is cut into parts by job, and each part is judged by itself.

Three passes. The records of all files are dealt into parts, by a checksum of the job's id. Each part is read, sorted by
job and time, and judged by ``rules``; what a job means for its lane is written as a sorted row. These rows are merged
by time, and ``lanes`` judges the order. The first two passes use a process for each core.
"""

import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from zlib import crc32

import msgpack

from tests.history import records as r
from tests.history.lanes import LaneEvent, LaneOrder, events_of
from tests.history.records import BadHistory, Header, Reader, Record, files_of
from tests.history.rules import Fault, Told, faults_of, reason_of_repeat, story
from tests.history.world import World, policy_of

PART_BYTES = 6 << 20
"""How much of the history one part holds: some 100 MB of Python while it is judged."""

MAX_PARTS = 400
"""Files that are open at once in the merge. One of 2.4 GB and more has larger parts."""

DEALT_RECORDS = 50_000
"""Records that are gathered before they are written to their parts."""

TOLD_STORIES = 5
"""Stories in a report."""

KEPT_FAULTS = 100
"""Faults that a part keeps, unless said; the others are only counted."""

ROW_EVENTS = 1000
"""Events of lanes that are read at once."""


class Report(NamedTuple):
    """What came of it."""

    counts: Counter[str]
    """`records`, `sent`, `confirmed`, `unknown` (never confirmed), of these `recovered` (it is there) and `absent`,
    `failed`, `runs`, `repeats`, a repeat's reasons as `repeat: killed`, `late effects`, the states at the end as
    `done`, `dead`, `cancelled`, `ordered` (jobs compared with those before them), `torn` (files cut off by a kill)."""
    faults: list[Fault]
    """The first of them."""
    named: Counter[str]
    """How many of each name there are in all."""
    stories: list[str]
    peak_mib: int = 0
    """The most memory that any of its processes had."""

    @property
    def is_clean(self) -> bool:
        return not self.named

    def lines(self) -> list[str]:
        """For people."""
        told = [", ".join(f"{count} {name}" for name, count in self.counts.items() if count)]
        if self.is_clean:
            return [*told, "no fault"]
        told.append("faults: " + ", ".join(f"{count} {name}" for name, count in self.named.most_common()))
        told += [f"{fault.name}: job {fault.job}: {fault.what}" for fault in self.faults[: 4 * TOLD_STORIES]]
        return told + self.stories


def check(
    folder: Path, *, part_bytes: int = PART_BYTES, processes: int | None = None, kept_faults: int = KEPT_FAULTS
) -> Report:
    """Judge the history in a folder. Raises `BadHistory`. Needs free disk for another copy of it."""
    paths = files_of(folder)
    if not paths:
        raise BadHistory(f"there is no history in {folder}")
    world = _world(paths)
    size = sum(path.stat().st_size for path in paths)
    parts = min(max(size // part_bytes, 1), MAX_PARTS)
    processes = processes or min(os.cpu_count() or 1, parts)
    with TemporaryDirectory(prefix="history-", dir=folder) as work:
        hands = _Hands(Path(work), world, parts, kept_faults)
        with _Pool(processes) as pool:
            dealt = list(pool.map(hands.deal, [(n, share) for n, share in enumerate(_shares(paths, processes))]))
            for told in dealt:
                for harm in told.harm:
                    world.add(*harm)
            world.close()
            judged = list(pool.map(hands.judge, range(parts)))
        report = _sum(dealt, judged, kept_faults)
        _order(hands, report, world)
    return report._replace(peak_mib=max(peak_mib(), *(part.peak_mib for part in judged)))


def stories_of(folder: Path, jobs: set[str]) -> list[str]:
    """The stories of some jobs, from a history that may still be written."""
    paths = files_of(folder)
    world = _world(paths)
    records: dict[str, list[Record]] = {job: [] for job in jobs}
    for who, path in enumerate(paths):
        for record in Reader(path):
            if record[0] == r.HARM:
                world.add(record[1], record[3], record[4])
            elif record[2] in records and record[0] != r.HEADER:
                records[record[2]].append([*record, who])
    world.close()
    return [story(Told(job, sorted(mine, key=_by_time)), mine, world) for job, mine in records.items() if mine]


def _world(paths: list[Path]) -> World:
    """The processes, numbered as their files are, and what their headers say of the run."""
    facts: dict[str, Any] = {}
    headers: list[Header] = [Reader(path).header for path in paths]
    for header in headers:
        facts |= header.facts
    world = World(policy_of(facts))
    world.whos = [header.who for header in headers]
    return world


def _shares(paths: list[Path], count: int) -> list[list[tuple[int, Path]]]:
    """The files, dealt so that each share is of about one size."""
    shares: list[list[tuple[int, Path]]] = [[] for _ in range(count)]
    sizes = [0] * count
    for number, path in enumerate(paths):  # the largest first
        least = sizes.index(min(sizes))
        shares[least].append((number, path))
        sizes[least] += path.stat().st_size
    return shares


class _Dealt(NamedTuple):
    records: int
    torn: int
    harm: list[tuple[int, str, str]]


class _Judged(NamedTuple):
    counts: Counter[str]
    faults: list[Fault]
    named: Counter[str]
    stories: list[str]
    peak_mib: int


class _Hands:
    """What each process does. It is small: it travels with each piece of work."""

    def __init__(self, folder: Path, world: World, parts: int, kept_faults: int) -> None:
        self.folder = folder
        self.world = world
        self.parts = parts
        self.kept_faults = kept_faults

    def deal(self, work: tuple[int, list[tuple[int, Path]]]) -> _Dealt:
        """Deal the records of some files into the parts."""
        number, files = work
        parts: list[list[Record]] = [[] for _ in range(self.parts)]
        harm: list[tuple[int, str, str]] = []
        torn = count = gathered = 0
        modulus = self.parts
        for who, path in files:
            reader = Reader(path)
            for record in reader:
                count += 1
                if record[0] == r.HARM:
                    harm.append((record[1], record[3], record[4]))
                elif record[0] != r.HEADER:
                    record.append(who)
                    parts[crc32(record[2].encode()) % modulus].append(record)
                    gathered += 1
                    if gathered >= DEALT_RECORDS:
                        self._write(number, parts)
                        gathered = 0
            torn += bool(reader.torn)
        self._write(number, parts)
        return _Dealt(count, torn, harm)

    def _write(self, number: int, parts: list[list[Record]]) -> None:
        for part, gathered in enumerate(parts):
            if gathered:
                with (self.folder / f"part-{part}-{number}").open("ab") as file:
                    file.write(msgpack.packb(gathered))
                gathered.clear()

    def judge(self, part: int) -> _Judged:
        """Judge the jobs of one part, and write down what they mean for their lanes."""
        jobs: dict[str, list[Record]] = defaultdict(list)
        for path in self.folder.glob(f"part-{part}-*"):
            with path.open("rb") as file:
                for gathered in msgpack.Unpacker(file, read_size=1 << 20, max_buffer_size=0):
                    for record in gathered:
                        jobs[record[2]].append(record)
            path.unlink()
        judged = _Judged(Counter(), [], Counter(), [], 0)
        events: list[LaneEvent] = []
        counts: dict[str, int] = defaultdict(int)
        for job, records in jobs.items():
            records.sort(key=_by_time)
            told = Told(job, records)
            _count(told, self.world, counts)
            events += events_of(told, self.world)
            faults = list(faults_of(told, self.world))
            if faults:
                judged.named.update(fault.name for fault in faults)
                if len(judged.faults) < self.kept_faults:
                    judged.faults.extend(faults)
                if len(judged.stories) < TOLD_STORIES:
                    judged.stories.append(story(told, records, self.world))
        judged.counts.update(counts)
        events.sort()
        with self._lanes(part).open("wb") as file:
            for start in range(0, len(events), ROW_EVENTS):
                file.write(msgpack.packb(events[start : start + ROW_EVENTS]))
        return judged._replace(peak_mib=peak_mib())

    def _lanes(self, part: int) -> Path:
        return self.folder / f"lanes-{part}"

    def lane_events(self, part: int) -> Iterator[LaneEvent]:
        with self._lanes(part).open("rb") as file:
            for row in msgpack.Unpacker(file, max_buffer_size=0):
                yield from row


def _by_time(record: Record) -> tuple[int, int]:
    return record[1], record[0]


class _Pool:
    """A process for each core; with one there is none beside this."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn")) if processes > 1 else None

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, step: Any, work: Iterable[Any]) -> Iterable[Any]:
        return map(step, work) if self._pool is None else self._pool.map(step, work)


def _count(told: Told, world: World, counts: dict[str, int]) -> None:
    if told.sends:
        counts["sent"] += 1
        if told.confirmed_at is not None:
            counts["confirmed"] += 1
        elif told.failed == told.sends:
            counts["failed"] += 1
        else:
            counts["unknown"] += 1
            counts["recovered" if told.exists else "absent"] += 1
    runs = told.runs
    counts["runs"] += len(runs)
    if len(runs) > 1:
        counts["repeats"] += len(runs) - 1
        for before, after in pairwise(runs):
            counts[f"repeat: {reason_of_repeat(before, after, world) or 'for no reason'}"] += 1
    if told.final is not None:
        counts[told.final.state] += 1
        if told.effects and told.effects[0].fence != told.final.fence:
            counts["late effects"] += 1


def peak_mib() -> int:
    """The most memory that this process ever had; what `getrusage` tells begins with that of its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) >> 10


def _sum(dealt: list[_Dealt], judged: list[_Judged], kept_faults: int) -> Report:
    report = Report(Counter(), [], Counter(), [])
    report.counts["records"] = sum(told.records for told in dealt)
    for part in judged:
        report.counts.update(part.counts)
        report.faults.extend(part.faults)
        report.named.update(part.named)
        report.stories.extend(part.stories)
    report.counts["torn"] = sum(told.torn for told in dealt)
    del report.faults[kept_faults:], report.stories[TOLD_STORIES:]
    return report


def _order(hands: _Hands, report: Report, world: World) -> None:
    """Merge what all jobs mean for their lanes, and judge it."""
    order = LaneOrder(world.policy.workers)
    for event in heapq.merge(*map(hands.lane_events, range(hands.parts))):
        fault = order.take(event)
        if fault is not None:
            report.named[fault.name] += 1
            if len(report.faults) < hands.kept_faults:
                report.faults.append(fault)
    report.counts["ordered"] = order.asked
