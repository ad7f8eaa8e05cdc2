"""Chaos: rounds of harm on one data directory, each drained to exactly zero and judged, and a check of the data after
each.

Rounds take turns between proxies on this machine and hosts of their own, where the machine permits hosts.
"""

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.disk import NoDisk, SmallDisk
from tests.chaos.links import Hosts, Links, Proxies
from tests.chaos.round import DISK_BYTES, NAMES, Round
from tests.history.records import BadHistory
from tests.hosts.network import Unavailable
from tests.kill_loop.bout import Came, Failed
from tests.kill_loop.loop import check_data
from tests.system.processes import Missing

ROUND_S = 45.0
"""Seconds of harm in a round, before it is drained and judged."""

FEWEST_HARMS = 8
"""A round goes on until so much was done, however slow the machine is."""


class Ground:
    """Where all rounds take place: a small disk if there can be one, hosts if there can be some. ``lacks`` says what
    this machine does not permit."""

    def __init__(self, folder: Path, *, hosts: bool) -> None:
        self.lacks: list[str] = []
        self._disk: SmallDisk | None = None
        try:
            self._disk = SmallDisk(folder / "disk", DISK_BYTES)
        except NoDisk as why:
            self.lacks.append(f"a disk of its own: {why}")
        self._folder = folder
        self._data = folder / "data" if self._disk is None else self._disk.where / "data"
        self._hosts = hosts
        if hosts and os.geteuid() != 0:
            self._hosts = False
            self.lacks.append("hosts: they need root")

    @property
    def data(self) -> Path:
        """The broker's data, as this process sees it."""
        return self._data if self._disk is None else self._disk.path / "data"

    def round(self, number: int, chance: random.Random, seed: int) -> Round:
        place = self._folder / f"round-{number:04d}"
        place.mkdir()
        return Round(place, f"c{number:04d}x", self._links(number), self._disk, self._data, chance, seed)

    def _links(self, number: int) -> Links:
        if self._hosts and number % 2:
            try:
                return Hosts(NAMES)
            except Unavailable as why:
                self._hosts = False
                self.lacks.append(f"hosts: {why}")
        return Proxies(NAMES)

    def save(self) -> None:
        """Keep the data for whoever looks into a failure."""
        if self._disk is not None and self.data.exists():
            self._disk.empty()
            shutil.copytree(self.data, self._folder / "data")

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()


def run_rounds(
    folder: Path, seconds: float, seed: int, *, hosts: bool = True, lacks: list[str] | None = None
) -> Iterator[Came]:
    """Rounds for so long. Raises `Failed`; the folder then has the history, all logs and the data.

    ``lacks`` is told what could not be tried on this machine.
    """
    chance = random.Random(seed)
    ground = Ground(folder, hosts=hosts)
    end = time.monotonic() + seconds
    number = 0
    try:
        while time.monotonic() < end or not number:
            for_s = min(ROUND_S, max(end - time.monotonic(), 1))
            came = _round(ground, number, for_s, chance, seed, folder)
            if lacks is not None:
                lacks[:] = ground.lacks
            number += 1
            yield came
    finally:
        ground.close()


def _round(ground: Ground, number: int, for_s: float, chance: random.Random, seed: int, folder: Path) -> Came:
    this = ground.round(number, chance, seed)
    try:
        came = this.run(lambda: this.harmed_s >= for_s and this.harms.counts.total() >= FEWEST_HARMS)
        check_data(ground.data)
    except (Failed, Missing, BadHistory) as failure:
        this.abandon()
        ground.save()
        raise Failed(f"make chaos SEED={seed}\nin round {number}, with everything in {folder}\n{failure}") from None
    except BaseException:
        this.abandon()
        raise
    this.abandon()
    shutil.rmtree(this.folder)
    return came
