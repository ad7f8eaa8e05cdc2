"""``python -m benchmarks.plots FILE DIR``: the pictures of docs/benchmarks.md, from what ``make bench`` wrote to FILE.

It draws what the file has (``--json FILE``) and leaves out the rest. Bars begin at zero; where values lie far apart
there are points on a logarithmic scale instead. Colours are from Okabe and Ito's palette
(https://jfly.uni-koeln.de/color/), and no two things are told apart by colour alone. The same file gives the same
pictures, byte for byte.
"""

import argparse
import json
import logging
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OURS, PEER, OTHER, FLOOR = "#0072B2", "#9AA0A6", "#D55E00", "#E3E6EA"
INK, FAINT = "#202428", "#6B7280"
WIDTH = 8.0
"""Inches; at 72 points an inch a page shows it as wide as its text."""

Values = dict[str, dict[str, list[float]]]
"""Run -> figure -> one value a round."""


class Range(NamedTuple):
    """What the rounds gave for one figure of one run."""

    name: str
    low: float
    median: float
    high: float


class Point(NamedTuple):
    """One place on a curve: how much there was of something, and what was measured then."""

    number: int
    range: Range


# ---- what is drawn


def ranges(values: Values, figure: str) -> list[Range]:
    """The runs that have this figure, in their order."""
    found = [(name, figures[figure]) for name, figures in values.items() if figures.get(figure)]
    return [Range(name, min(each), statistics.median(each), max(each)) for name, each in found]


def pairs(values: Values, figure: str, ours: str, theirs: str) -> list[tuple[str, Range, Range]]:
    """Runs ``zbroker, batches of 10`` beside ``Redis Streams, batches of 10``: by what comes after the comma."""
    by_name = {one.name: one for one in ranges(values, figure)}
    ways = [name.removeprefix(f"{ours}, ") for name in by_name if name.startswith(f"{ours}, ")]
    return [
        (way, by_name[f"{ours}, {way}"], by_name[f"{theirs}, {way}"]) for way in ways if f"{theirs}, {way}" in by_name
    ]


def curves(values: Values, figure: str) -> dict[str, list[Point]]:
    """Runs that are named by a number, ``1,000 queues``: by what it is of. ``nothing`` is 0 of the rest."""
    found: dict[str, list[Point]] = {}
    for one in ranges(values, figure):
        counted = re.fullmatch(r"([\d,]+) (\w+)", one.name)
        if counted:
            noun = counted[2] if counted[2].endswith(("s", "ing")) else counted[2] + "s"
            found.setdefault(noun, []).append(Point(int(counted[1].replace(",", "")), one))
    for one in ranges(values, figure):
        if one.name in ("nothing", "nothing waiting"):
            for points in found.values():
                points.insert(0, Point(0, one))
    return {noun: sorted(points) for noun, points in found.items() if len(points) > 1}


def rates(sections: dict[str, Any], figure: str) -> list[Point]:
    """The runs of the section ``latency-rates``, by their rate."""
    found = ranges(sections.get("latency-rates", {}).get("values", {}), figure)
    return sorted(Point(int(one.name.partition(" ")[0].replace(",", "")), one) for one in found)


def short(number: float) -> str:
    """A number of a scale: ``5 M``, ``100 k``, ``1,500``."""
    if number and number % 1_000_000 == 0:
        return f"{number / 1_000_000:.0f} M"
    if number >= 10_000 and number % 1_000 == 0:
        return f"{number / 1_000:.0f} k"
    return exact(number)


def exact(number: float) -> str:
    """A number that was measured: ``91,000``, ``12.3``, ``0.48``."""
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


# ---- how it looks


def _bars(axes: Any, rows: Sequence[Range], title: str, unit: str) -> None:
    """One bar a system, the fastest above, from zero; a thin line from the least to the most of its rounds."""
    rows = sorted(rows, key=lambda row: row.median)
    colours = [OURS if row.name == "zbroker" else FLOOR if row.name == "bare loop" else PEER for row in rows]
    edges = [FAINT if row.name == "bare loop" else "none" for row in rows]
    places = range(len(rows))
    axes.barh(places, [row.median for row in rows], color=colours, edgecolor=edges, linewidth=0.8, height=0.72)
    for place, row in enumerate(rows):
        axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1.1)
        axes.annotate(
            exact(row.median), (row.high, place), (4, 0), textcoords="offset points", va="center", color=INK, fontsize=8
        )
    axes.set_yticks(places, [row.name for row in rows])
    _embolden(axes)
    axes.set_xlim(0, max(row.high for row in rows) * 1.16)
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    _plain_numbers(axes.xaxis)
    axes.grid(axis="x")


def _row_by_row(axes: Any, rows: int, title: str, unit: str) -> None:
    """How a picture of so many rows below each other is framed."""
    axes.set_ylim(-0.7, rows - 0.3)
    axes.set_title(title)
    axes.set_xlabel(unit)
    _plain_numbers(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _points(axes: Any, rows: Sequence[Range], title: str, unit: str, *, best: str) -> None:
    """One point a system on a logarithmic scale, the best above, with what zbroker is to it."""
    rows = sorted(rows, key=lambda row: row.median, reverse=best == "least")
    ours = next((row.median for row in rows if row.name == "zbroker"), None)
    for place, row in enumerate(rows):
        mine = row.name == "zbroker"
        axes.plot([row.low, row.high], [place, place], color=OURS if mine else PEER, linewidth=1.4)
        axes.plot(row.median, place, "o" if mine else "s", color=OURS if mine else FAINT, markersize=7 if mine else 5.5)
        text = exact(row.median) + ("" if mine or ours is None else f"  ·  zbroker: {ours / row.median:,.1f} times")
        axes.annotate(text, (row.high, place), (9, 0), textcoords="offset points", va="center", color=INK, fontsize=8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    _embolden(axes)
    axes.set_xscale("log")
    axes.set_xlim(min(row.low for row in rows) / 1.6, max(row.high for row in rows) * 2.2)
    _row_by_row(axes, len(rows), title, unit)


def _dumbbells(axes: Any, rows: Sequence[tuple[str, Range, Range]], title: str, unit: str) -> None:
    """Two systems a row, joined by a line that says by how much they differ; a logarithmic scale."""
    for place, (_, ours, theirs) in enumerate(reversed(rows)):
        axes.plot([theirs.median, ours.median], [place, place], color=FLOOR, linewidth=5, zorder=1)
        axes.plot(ours.median, place, "o", color=OURS, markersize=8, zorder=3)
        axes.plot(theirs.median, place, "s", color=OTHER, markersize=6.5, zorder=2)
        right = max(ours.median, theirs.median)
        times = ours.median / theirs.median
        axes.annotate(
            f"{times:.1f} times", (right, place), (9, 0), textcoords="offset points", va="center", color=INK, fontsize=8
        )
    axes.set_yticks(range(len(rows)), [way for way, _, _ in reversed(rows)])
    axes.set_xscale("log")
    every = [one.median for _, ours, theirs in rows for one in (ours, theirs)]
    axes.set_xlim(min(every) / 1.5, max(every) * 2.2)
    _row_by_row(axes, len(rows), title, unit)


def _curve(axes: Any, points: Sequence[Point], title: str, below: str) -> None:
    """Points at equal distances, named by their number, joined by a line; the scale begins at zero."""
    places = range(len(points))
    axes.fill_between(places, [p.range.low for p in points], [p.range.high for p in points], color=OURS, alpha=0.15)
    axes.plot(places, [p.range.median for p in points], "o-", color=OURS, linewidth=1.6, markersize=5)
    for place, point in enumerate(points):
        axes.annotate(
            exact(float(f"{point.range.median:.3g}")),
            (place, point.range.median),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=8,
        )
    axes.set_xticks(places, [short(point.number) for point in points])
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_ylim(0, max(point.range.high for point in points) * 1.25)
    axes.set_title(title)
    axes.set_xlabel(below)
    _plain_numbers(axes.yaxis)
    axes.grid(axis="y")


def _embolden(axes: Any) -> None:
    for label in axes.get_yticklabels():
        if label.get_text() == "zbroker":
            label.set(fontweight="bold", color=OURS)
        elif label.get_text() == "bare loop":
            label.set_color(FAINT)


def _plain_numbers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda number, _: short(number)))
    axis.set_minor_formatter(NullFormatter())


# ---- the pictures


def lifecycles(sections: dict[str, Any]) -> Any:
    """Put, taken and acked per second, in batches of 100: everybody synced, and everybody as he comes."""
    titles = {"lifecycle": "synced before confirmed", "lifecycle-default": "each system as it comes"}
    rows = {key: ranges(sections[key]["values"], "lifecycles/s") for key in titles if key in sections}
    rows = {key: each for key, each in rows.items() if each}
    if not rows:
        return None
    figure, every = _panels(len(rows), 1, [len(each) for each in rows.values()])
    for axes, (key, each) in zip(every, rows.items(), strict=True):
        _bars(axes, each, f"Put, taken and acked, batches of 100: {titles[key]}", "jobs a second")
    if len(every) == 2:
        most = max(axes.get_xlim()[1] for axes in every)
        for axes in every:
            axes.set_xlim(0, most)
    return figure


def batches(sections: dict[str, Any]) -> Any:
    """zbroker beside Redis Streams, from large batches to single sends."""
    panels = []
    for key, figure, title in (
        ("batches", "lifecycles/s", "Put, taken and acked, by size of batch"),
        ("singles", "puts/s", "One job a call, from one process"),
    ):
        rows = pairs(sections.get(key, {}).get("values", {}), figure, "zbroker", "Redis Streams")
        if rows:
            panels.append((rows, title))
    if not panels:
        return None
    figure, every = _panels(len(panels), 1, [len(rows) for rows, _ in panels])
    for axes, (rows, title) in zip(every, panels, strict=True):
        _dumbbells(axes, rows, title, "jobs a second, logarithmic")
    most, least = max(axes.get_xlim()[1] for axes in every), min(axes.get_xlim()[0] for axes in every)
    for axes in every:
        axes.set_xlim(least, most)
    every[0].plot([], [], "o", color=OURS, markersize=8, label="zbroker")
    every[0].plot([], [], "s", color=OTHER, markersize=6.5, label="Redis Streams")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def tasks(sections: dict[str, Any]) -> Any:
    """Functions that do nothing, through each library's worker."""
    rows = ranges(sections.get("tasks", {}).get("values", {}), "tasks/s")
    if not rows:
        return None
    figure, (axes,) = _panels(1, 1, [len(rows)])
    _points(
        axes,
        rows,
        "Short tasks, one worker process and 32 threads unless said",
        "tasks a second, logarithmic",
        best="most",
    )
    return figure


def latency(sections: dict[str, Any]) -> Any:
    """From send to start, in the section that compares most libraries."""
    shown = {key: section["values"] for key, section in sections.items() if re.fullmatch(r"latency-\d+", key)}
    if not any(shown.values()):
        return None
    key = max(shown, key=lambda each: len(shown[each]))
    figures = {"p50 ms": ("o", 1.0), "p99 ms": ("D", 0.7), "p99.9 ms": ("|", 0.9)}
    by_figure = {name: {one.name: one.median for one in ranges(shown[key], name)} for name in figures}
    names = sorted(by_figure["p50 ms"], key=lambda name: by_figure["p50 ms"][name], reverse=True)
    figure, (axes,) = _panels(1, 1, [round(1.5 * len(names))])
    for place, name in enumerate(names):
        colour = OURS if name == "zbroker" else FAINT
        found = [by_figure[each][name] for each in figures if name in by_figure[each]]
        axes.plot([min(found), max(found)], [place, place], color=colour, linewidth=1.2, alpha=0.5)
        for each, (marker, alpha) in figures.items():
            value = by_figure[each].get(name)
            if value is not None:
                size = 11 if marker == "|" else 6.5
                axes.plot(value, place, marker, color=colour, markersize=size, markeredgewidth=2, alpha=alpha)
                axes.annotate(
                    exact(value),
                    (value, place),
                    (0, 9),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                    color=INK,
                )
    for each, (marker, alpha) in figures.items():
        size = 11 if marker == "|" else 6.5
        label = each.removesuffix(" ms")
        axes.plot([], [], marker, color=FAINT, markersize=size, markeredgewidth=2, alpha=alpha, label=label)
    axes.set_yticks(range(len(names)), names)
    _embolden(axes)
    axes.set_xscale("log")
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_title(f"From send to start of the task, {short(int(key.partition('-')[2]))} jobs a second")
    axes.set_xlabel("milliseconds, logarithmic")
    _plain_numbers(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def by_rate(sections: dict[str, Any]) -> Any:
    """From send to start, as the rate grows."""
    shown = {figure: rates(sections, figure) for figure in ("p50 ms", "p99 ms", "p99.9 ms")}
    if len(shown["p50 ms"]) < 2:
        return None
    figure, every = _panels(1, len(shown), [5])
    for axes, (name, points) in zip(every, shown.items(), strict=True):
        _curve(axes, points, f"send to start, {name.replace(' ms', ', ms')}", "jobs a second")
    return figure


def growth(keys: Sequence[str], figures: Sequence[tuple[str, str]]) -> Callable[[dict[str, Any]], Any]:
    """A picture of sections whose runs are named by a number of something: a curve for each thing and figure."""

    def draw(sections: dict[str, Any]) -> Any:
        values = {run: told for name in keys for run, told in sections.get(name, {}).get("values", {}).items()}
        panels = [
            (points, label, f"jobs {noun}" if noun.endswith("ing") else noun)
            for name, label in figures
            for noun, points in curves(values, name).items()
        ]
        if not panels:
            return None
        columns = min(3, len(panels))
        figure, every = _panels(-(-len(panels) // columns), columns, [5] * -(-len(panels) // columns))
        for axes, (points, title, below) in zip(every, panels, strict=False):
            _curve(axes, points, title, below)
        for axes in every[len(panels) :]:
            axes.remove()
        return figure

    return draw


PICTURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "lifecycles": lifecycles,
    "batches": batches,
    "tasks": tasks,
    "latency": latency,
    "latency-by-rate": by_rate,
    "backlog": growth(
        ["backlog"], [("lifecycles/s", "lifecycles a second"), ("largest memory MiB", "largest memory, MiB")]
    ),
    "scale": growth(
        ["scale-workers", "scale-queues", "scale-keys"],
        [("us a job", "microseconds a job"), ("memory MiB", "memory, MiB")],
    ),
}
"""Each picture by the name of its file: from the sections of the JSON, or None if they do not have it."""


def _panels(rows: int, columns: int, heights: Sequence[int]) -> tuple[Any, list[Any]]:
    """An empty picture, and its panels; heights are in lines of text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.24 * sum(heights) + 0.85 * rows + 0.35), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": [max(2, h) for h in heights]})
    return figure, list(every.flat)


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """All pictures that the document has what is needed for; the files that were written."""
    import matplotlib

    style = {
        "font.size": 9,
        "font.family": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
        "text.color": INK,
        "axes.labelcolor": FAINT,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": PEER,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": FLOOR,
        "grid.linewidth": 0.7,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "ytick.labelcolor": INK,
        "svg.fonttype": "none",  # text stays text: small files, that can be searched
        "svg.hashsalt": "zbroker",
    }
    # Whoever looks at the picture has one of these fonts; here the first is measured, and the others may be missing.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(style):
        for name, picture in PICTURES.items():
            figure = picture(document["sections"])
            if figure is not None:
                figure.supxlabel(_caption(document), fontsize=7.5, color=FAINT, x=0.01, ha="left")
                file = folder / f"{name}.svg"
                figure.savefig(file, metadata={"Date": None, "Creator": None})
                written.append(file)
    return written


def _caption(document: dict[str, Any]) -> str:
    rounds = max((len(each) for each in _rounds(document["sections"].values())), default=0)
    what = "one round" if rounds == 1 else f"medians of {rounds} rounds, and from the least to the most of them"
    missing = dict.fromkeys(name for section in document["sections"].values() for name in section["missing"])
    return f"{document['machine']}; {what}" + (f"; not measured: {', '.join(missing)}" if missing else "")


def _rounds(sections: Iterable[dict[str, Any]]) -> Iterable[list[float]]:
    for section in sections:
        for figures in section["values"].values():
            yield from figures.values()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("file", type=Path, help='what `make bench ARGS="--json FILE"` wrote')
    parser.add_argument("folder", type=Path, help="where the pictures go, such as docs/images")
    chosen = parser.parse_args()
    for file in draw(json.loads(chosen.file.read_text(encoding="utf-8")), chosen.folder):
        print(file)


if __name__ == "__main__":
    main()
