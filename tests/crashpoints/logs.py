"""A log that is cut, has a bit flipped, or is gone: the store opens with all that was confirmed, or refuses.

It owns the damages and the verdict on one of them: nothing confirmed is missing, nothing is there that was not written,
a refusal names what to do and changes nothing, and a repair says what it would cost. Where a start would go over a
thousand damages that differ in nothing but their place, the first look of a start is taken for each of them, and the
whole start for the first of each kind.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from tests.crashpoints.log_writer import row
from tests.system.processes import ROOT
from zbroker.storage import Store, StoreBehind, StoreCorrupt, StoreError, open_store
from zbroker.storage.directory import DataDirectory
from zbroker.storage.repair import repair
from zbroker.storage.rocks import check_reach, open_database

CUT_BYTES, FLIP_BYTES = 64 << 10, 4 << 10
"""The end of the log that is cut at every byte, and the one in which every bit is flipped."""


class Lost(AssertionError):
    """A start went on without what was confirmed, or with what nobody wrote, or refused without a word."""


class Left(NamedTuple):
    """A data directory that a killed process left, and up to which sequence number it was confirmed."""

    store: str
    path: Path
    confirmed: int

    @property
    def logs(self) -> list[Path]:
        return sorted([*self.path.glob("rocksdb/*.log"), *self.path.glob("sqlite/*-wal")])


Damage = tuple[str, int]
"""``cut`` at a byte of the log, or ``flip`` of a bit of it."""


def leave(store: str, path: Path, *, synced: int, unsynced: int = 5, small: int = 0) -> Left:
    """Have a process write so many rows and die."""
    program = [sys.executable, "-m", "tests.crashpoints.log_writer", store, str(path), str(synced), str(unsynced)]
    ended = subprocess.run([*program, str(small)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    return Left(store, path, int(ended.stdout))


def every_damage(left: Left, cut_bytes: int = CUT_BYTES, flip_bytes: int = FLIP_BYTES, step: int = 1) -> list[Damage]:
    """Cuts at each byte of the log's end and flips of each bit, or each ``step``-th of them."""
    size = left.logs[-1].stat().st_size
    cuts: list[Damage] = [("cut", place) for place in range(max(0, size - cut_bytes), size, step)]
    return cuts + [("flip", place) for place in range(max(0, size - flip_bytes) * 8, size * 8, step)]


def judge_all(left: Left, damages: Iterable[Damage], folder: Path) -> Counter[str]:
    """Damage the newest log in each of these ways; what came of it, counted. Raises `Lost`."""
    log, seen = left.logs[-1], Counter[str]()
    sound = log.read_bytes()
    try:
        for damage in damages:
            write_damaged(log, sound, damage)
            verdict = look(left) if left.store == "rocksdb" else start(left, folder, damage)
            if left.store == "rocksdb" and not seen[verdict]:
                start(left, folder, damage)
            seen[verdict] += 1
    finally:
        log.write_bytes(sound)
    return seen


def write_damaged(log: Path, sound: bytes, damage: Damage) -> None:
    what, place = damage
    content = bytearray(sound[:place] if what == "cut" else sound)
    if what == "flip":
        content[place // 8] ^= 1 << place % 8
    log.write_bytes(content)


def look(left: Left) -> str:
    """What the first look of a start makes of the directory, which it does not change."""
    with held(left) as directory:
        try:
            reached = check_reach(directory, left.confirmed, cut_tail=False)
        except StoreBehind:
            return "refused: behind"
        except StoreCorrupt:
            try:
                return f"refused: damaged, {check_reach(directory, left.confirmed, cut_tail=True)} reached by a cut"
            except StoreError as error:
                return f"refused: damaged, a cut would be {type(error).__name__}"
        database = open_database(directory, read_only=True)
        try:
            found = {space: dict(database.get_column_family(space).items()) for space in ("jobs", "meta")}
        finally:
            database.close()
    compare(found, reached)
    return f"opened: {reached} reached"


def start(left: Left, folder: Path, damage: object) -> str:
    """What a whole start makes of a copy of the directory, and a repair of what refuses to start."""
    path = folder / "copy"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(left.path, path)
    try:
        return opened(left, path)
    except (StoreBehind, StoreCorrupt) as error:
        refusal = error
    if not any(advice in str(refusal) for advice in ("--repair", "restore a backup")):
        raise Lost(f"{damage}: a refusal without advice: {refusal}")
    try:
        report = repair(path)
    except StoreBehind as error:
        if "changes that were confirmed" not in str(error):
            raise Lost(f"{damage}: a repair that does not say what it would cost: {error}") from None
        return "refused: behind"
    except StoreCorrupt as error:
        if left.store == "rocksdb" and "without losing confirmed data" not in str(error):
            raise Lost(f"{damage}: a repair that does not say why it refuses: {error}") from None
        return "refused: damaged"
    if report.reached < left.confirmed or "no confirmed job is lost" not in report.summary():
        raise Lost(f"{damage}: repaired at a cost: {report.summary()}")
    return f"repaired: {opened(left, path)}"


def opened(left: Left, path: Path) -> str:
    """Open it as a broker does, and compare what is there."""
    store = open_store(left.store, path)
    try:
        reached = store.sequence()
        if reached < left.confirmed:
            raise Lost(f"opened at {reached}, and {left.confirmed} was confirmed")
        compare({space: dict(rows_of(store, space)) for space in ("jobs", "meta")}, reached)
    finally:
        store.close()
    return f"opened: {reached} reached"


def rows_of(store: Store, space: str) -> Iterator[tuple[bytes, bytes]]:
    return store.scan(space, b"", b"\xff" * 8)


def compare(found: dict[str, dict[bytes, bytes]], reached: int) -> None:
    """The rows are those that were written up to this sequence number, bit by bit."""
    written: dict[str, dict[bytes, bytes]] = {"jobs": {}, "meta": {}}
    for number in range(1, reached + 1):
        for space, changed in row(number).items():
            written[space] |= changed
    if found != written:
        raise Lost(f"opened at {reached}, with rows that were not written like that")


def without_logs(left: Left, folder: Path, most: int = 2) -> Counter[str]:
    """Take log files away, each of them, each two, and all; what came of it."""
    seen = Counter[str]()
    logs = left.logs
    away = folder / "away"
    away.mkdir(exist_ok=True)
    for count in (*range(1, most + 1), len(logs)):
        for missing in combinations(logs, count):
            for log in missing:
                log.rename(away / log.name)
            seen[start(left, folder, f"without {[log.name for log in missing]}")] += 1
            for log in missing:
                (away / log.name).rename(log)
    return seen


def with_older_logs_cut(left: Left, folder: Path, places: int) -> Counter[str]:
    """Cut each log but the newest at so many places; what came of it."""
    seen = Counter[str]()
    for log in left.logs[:-1]:
        sound = log.read_bytes()
        for part in range(places):
            place = len(sound) * part // places
            write_damaged(log, sound, ("cut", place))
            seen[start(left, folder, f"{log.name} cut at {place}")] += 1
        log.write_bytes(sound)
    return seen


@contextmanager
def held(left: Left) -> Iterator[DataDirectory]:
    directory = DataDirectory(left.path, left.store, create=False)
    try:
        yield directory
    finally:
        directory.let_go()
