"""The drawing of a graph: what a reader takes from the lines is the graph that was drawn, neither more nor less."""

from hypothesis import given
from hypothesis import strategies as st

from zclient.cli.graph import MAX_RAILS, drawn

Graph = dict[str, list[str]]


def read(lines: dict[str, str]) -> dict[str, set[str]]:
    """What each step is after, read from the rails alone, from the top to the bottom as the eye does."""
    found: dict[str, set[str]] = {}
    feeding: dict[int, set[str]] = {}  # of each rail that goes on downwards, who feeds it
    for name, line in lines.items():
        marks = {place // 2: mark for place, mark in enumerate(line) if place % 2 == 0}
        first = min((place for place, mark in marks.items() if mark in "●├┼╰┴"), default=None)
        assert all(mark not in "─┼┴" or (first is not None and place > first) for place, mark in marks.items())
        found[name] = set()
        for place, mark in marks.items():
            if mark in "├┼╰┴":
                found[name] |= feeding[place]
            if mark in "├┼│":
                assert feeding[place], "a rail that goes on has begun"
            elif mark in "╰┴":
                del feeding[place]
            elif mark == "●":
                feeding.setdefault(place, set()).add(name)
            else:
                assert place not in feeding, "a rail does not vanish"
    assert not feeding, "each rail ends"
    return found


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    names = [f"s{n}" for n in range(draw(st.integers(1, 14)))]
    graph: Graph = {}
    for place, name in enumerate(names):
        graph[name] = draw(st.lists(st.sampled_from(names[:place]), unique=True, max_size=4)) if place else []
    return {name: graph[name] for name in draw(st.permutations(names))}


@given(graphs())
def test_the_rails_say_what_comes_after_what(graph: Graph) -> None:
    lines = drawn(graph)
    assert sorted(lines) == sorted(graph)
    widths = {len(line) for line in lines.values()}
    assert len(widths) == 1
    above: set[str] = set()
    for name in lines:
        assert above.issuperset(graph[name]), "each step stands below those that it is after"
        above.add(name)
    if widths != {0}:
        assert read(lines) == {name: set(graph[name]) for name in graph}
    else:
        assert not any(graph.values()) or len(graph) > MAX_RAILS


def text(graph: Graph) -> list[str]:
    return [f"{rail} {name}" for name, rail in drawn(graph).items()]


def test_a_chord() -> None:
    assert text({"fetch": [], "a": ["fetch"], "b": ["fetch"], "c": ["fetch"], "index": ["a", "b", "c"]}) == [
        "●─── fetch",
        "├─●─ a",
        "├─●─ b",
        "╰─●─ c",
        "  ╰─ index",
    ]


def test_a_long_chain_stays_narrow() -> None:
    names = [f"s{n}" for n in range(40)]
    lines = drawn({name: names[:place][-1:] for place, name in enumerate(names)})
    assert {len(line) for line in lines.values()} == {4}
    assert list(lines.values())[:4] == ["●───", "╰─●─", "●─┴─", "╰─●─"]


def test_lanes_side_by_side_are_drawn_one_after_the_other() -> None:
    graph: Graph = {"begin": []}
    graph |= {f"load-{n}": ["begin"] for n in range(12)}
    graph |= {f"check-{n}": [f"load-{n}"] for n in range(12)}
    lines = drawn(graph | {"end": [f"check-{n}" for n in range(12)]})
    assert list(lines)[:5] == ["begin", "load-0", "check-0", "load-1", "check-1"]
    assert {len(line) for line in lines.values()} == {6}


def test_rails_cross_without_touching() -> None:
    graph: Graph = {"alone": [], "a": [], "b": [], "x": ["a"], "y": ["a", "b"], "z": ["b", "x"]}
    assert text(graph) == [
        "●───── a",
        "│ ●─── b",
        "├─┼─── y",
        "╰─│─●─ x",
        "  ╰─┴─ z",
        "       alone",
    ]


def test_a_graph_too_wide_to_follow_has_no_rails() -> None:
    graph: Graph = {f"a{n}": [] for n in range(2 * MAX_RAILS)}
    for n in range(2 * MAX_RAILS):
        graph[f"b{n}"] = [f"a{m}" for m in range(2 * MAX_RAILS) if m != n]
    assert set(drawn(graph).values()) == {""}
    assert drawn({}) == {}
