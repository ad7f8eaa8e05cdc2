"""A graph of named steps as lines of text: one step a line, and rails that say what comes after what.

    ●─── fetch
    ├─●─ thumbnails      a line that a step feeds begins or passes at its ●;
    ╰─●─ texts           what is taken from a line hangs on it at ├ or, for the last, ╰
      ╰─ index

Steps that feed the same others share one rail, so a group of thirty side by side needs no more room than one of two. It
draws what it is given, and prints nothing.
"""

from collections.abc import Mapping, Sequence

MAX_RAILS = 12
"""Rails beside each other that an eye can follow; a graph that needs more is not drawn."""

_FEEDS, _CROSSING = "●", "│"
_TAKES = {(False, False): "├", (True, False): "┼", (False, True): "╰", (True, True): "┴"}
"""By whether the line comes from further left, and whether the rail ends here."""


Rail = tuple[str, ...]
"""A rail, known by the steps that take from it: all that feed the same ones feed one rail."""


class Rails:
    """The rails of a graph, and which of them each step feeds and takes from. ``after``: what each step is after."""

    def __init__(self, after: Mapping[str, Sequence[str]]) -> None:
        targets: dict[str, list[str]] = {name: [] for name in after}
        for name, parents in after.items():
            for parent in parents:
                targets[parent].append(name)
        self.feeds: dict[str, Rail] = {name: tuple(taken) for name, taken in targets.items() if taken}
        self.takes: dict[str, list[Rail]] = {name: [] for name in after}
        for rail in dict.fromkeys(self.feeds.values()):
            for name in rail:
                self.takes[name].append(rail)

    def in_rows(self, after: Mapping[str, Sequence[str]]) -> list[str]:
        """The steps in the order of their rows: each behind those that it is after, and so that few rails are open."""
        rows: list[str] = []
        done: set[str] = set()
        apart = [name for name in after if name not in self.feeds and not self.takes[name]]
        waiting = {name: place for place, name in enumerate(after) if name not in set(apart)}
        open_rails: dict[Rail, int] = {}  # with how many steps still to take from each

        def more_rails(name: str) -> int:
            feed = self.feeds.get(name)
            ended = sum(open_rails.get(rail) == 1 for rail in self.takes[name])
            return int(feed is not None and feed not in open_rails) - ended

        while waiting:
            ready = [name for name in waiting if done.issuperset(after[name])]
            name = min(ready, key=lambda each: (more_rails(each), waiting[each]))
            for rail in self.takes[name]:
                open_rails[rail] -= 1
                if not open_rails[rail]:
                    del open_rails[rail]
            feed = self.feeds.get(name)
            if feed is not None:
                open_rails.setdefault(feed, len(feed))
            rows.append(name)
            done.add(name)
            del waiting[name]
        return rows + apart


def drawn(after: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What stands before each step's name, in the order of the rows; blank if it would be too wide to follow.

    ``after``: what each step is after, by name; the broker refused a circle.
    """
    rails = Rails(after)
    rows = rails.in_rows(after)
    places: dict[Rail, int] = {}
    left: dict[Rail, int] = {}
    lines: list[list[str]] = []
    for name in rows:
        feed = rails.feeds.get(name)
        if feed is not None and feed not in places:
            places[feed] = next(place for place in range(len(places) + 1) if place not in places.values())
            left[feed] = len(feed)
        for rail in rails.takes[name]:
            left[rail] -= 1
        ended = {rail for rail in rails.takes[name] if not left[rail]}
        lines.append(_line(feed, rails.takes[name], ended, places))
        for rail in ended:
            del places[rail]
    width = max(map(len, lines), default=0)
    if width > 2 * MAX_RAILS:
        return dict.fromkeys(rows, "")
    ends = ["─" if name in rails.feeds or rails.takes[name] else " " for name in rows]
    return {name: "".join(line).ljust(width, end) for name, line, end in zip(rows, lines, ends, strict=True)}


def _line(feed: Rail | None, takes: list[Rail], ended: set[Rail], places: Mapping[Rail, int]) -> list[str]:
    """The row of one step: two characters for each rail, up to the last that there is."""
    marks: dict[int, str] = {}
    first = min((places[rail] for rail in ([feed] if feed else []) + takes), default=2 * len(places))
    for rail, place in places.items():
        if rail == feed:
            marks[place] = _FEEDS
        elif rail in takes:
            marks[place] = _TAKES[place > first, rail in ended]
        else:
            marks[place] = _CROSSING
    line: list[str] = []
    for place in range(max(marks, default=-1) + 1):
        line += [marks.get(place, "─" if place > first else " "), "─" if place >= first else " "]
    return line
