"""What a benchmark is made of, and how it is told: sections of runs that take turns, medians, ratios first."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.servers import Missing

Figures = dict[str, float]


class Run(NamedTuple):
    """One system, or one way to do it, in a section."""

    name: str
    measure: Callable[[], Figures]


class Section(NamedTuple):
    """The same work, done by each of the runs. The first one is what the others are compared with."""

    key: str
    title: str
    note: str
    ratio_of: str  # the figure that is compared
    less_is_better: bool
    runs: Sequence[Run]
    of_the_best: bool = False  # whether each is compared with the best of them, and not with the first


class Table:
    """What the rounds gave for a section."""

    def __init__(self, section: Section) -> None:
        self.section = section
        self.values: dict[str, dict[str, list[float]]] = {}  # run -> figure -> one value a round
        self.missing: dict[str, str] = {}  # run -> why it was not measured
        self.failed: dict[str, list[str]] = {}  # run -> why it came to nothing, in each round in which it did

    def measure(self) -> None:
        """One round: each run once. One that cannot be measured here is named, and not tried again; one that fails is
        told as failed in this round, and costs nobody else's figures."""
        for run in self.section.runs:
            if run.name in self.missing:
                continue
            try:
                figures = run.measure()
            except Missing as missing:
                self.missing[run.name] = str(missing)
                continue
            except (RuntimeError, OSError) as error:
                self.failed.setdefault(run.name, []).append(str(error) or type(error).__name__)
                continue
            for name, value in figures.items():
                self.values.setdefault(run.name, {}).setdefault(name, []).append(value)

    def median(self, run: str, figure: str) -> float:
        return statistics.median(self.values[run][figure])

    def ratio(self, run: str) -> float:
        """How many times better the first run is than this one."""
        ours = self.median(self.section.runs[0].name, self.section.ratio_of)
        theirs = self.median(run, self.section.ratio_of)
        return theirs / ours if self.section.less_is_better else ours / theirs

    def share(self, run: str) -> float:
        """What part of the best run's figure this one reaches, 1 at the most."""
        best = min(self.values, key=self.ratio)
        return self.ratio(best) / self.ratio(run)

    def lines(self) -> list[str]:
        """The section in Markdown."""
        section = self.section
        figures = list(dict.fromkeys(name for values in self.values.values() for name in values))
        lines = [f"### {section.title}", "", section.note, ""]
        first = section.runs[0].name
        compared = "share of the best" if section.of_the_best else f"{first} is better by"
        lines.append(f"| | {compared} | " + " | ".join(figures) + " |")
        lines.append("|---|---|" + "---|" * len(figures))
        for name, values in self.values.items():
            cells = [_cell(values[figure]) if figure in values else "" for figure in figures]
            if section.of_the_best:
                times = f"{self.share(name):.2f}"
            else:
                times = "" if name == first or first not in self.values else f"{self.ratio(name):.2f}"
            lines.append(f"| {name} | {times} | " + " | ".join(cells) + " |")
        lines += ["", *(f"Not measured: {name}: {why}." for name, why in self.missing.items())]
        lines += [f"Failed in {len(whys)} rounds: {name}: {whys[-1]}." for name, whys in self.failed.items()]
        return lines

    def document(self) -> dict[str, object]:
        return {"title": self.section.title, "values": self.values, "missing": self.missing, "failed": self.failed}


def _cell(values: list[float]) -> str:
    """The median, and between what the rounds were."""
    median = statistics.median(values)
    digits = 0 if median >= 100 else 2
    if len(values) == 1:
        return f"{median:,.{digits}f}"
    return f"{median:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def run(sections: Sequence[Section], rounds: int, say: Callable[[str], None]) -> list[Table]:
    """Measure all sections, in turns: what disturbs the machine for a while so disturbs all of them."""
    tables = [Table(section) for section in sections]
    begun = time.monotonic()
    for number in range(1, rounds + 1):
        for table in tables:
            table.measure()
            say(f"round {number} of {rounds}: {table.section.key} done after {time.monotonic() - begun:.0f} s")
    return tables


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def write(tables: Sequence[Table], file: str) -> None:
    """All values of all rounds as JSON, for whoever draws them."""
    document = {"machine": machine(), "sections": {table.section.key: table.document() for table in tables}}
    Path(file).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
