"""The benchmarks run, tell what they measured and what they could not, and compare by the right end."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.servers import Missing, need
from benchmarks.report import Figures, Run, Section, Table, run
from benchmarks.sections import MAKERS

ROOT = Path(__file__).resolve().parent.parent


def lacking() -> Figures:
    need("a_library_that_nobody_has")
    return {}


def test_a_table_compares_medians_and_names_what_is_missing() -> None:
    fast, slow = iter([10.0, 30.0, 20.0]), iter([5.0, 4.0, 90.0])
    runs = [Run("ours", lambda: {"per s": next(fast)}), Run("theirs", lambda: {"per s": next(slow), "ms": 1.0})]
    section = Section("key", "Title", "A note.", "per s", False, [*runs, Run("absent", lacking)])
    (table,) = run([section], 3, lambda text: None)
    assert table.ratio("theirs") == 4.0
    lines = table.lines()
    assert lines[:3] == ["### Title", "", "A note."]
    assert "| ours |  | 20.00 (10.00 to 30.00) |  |" in lines
    assert "| theirs | 4.00 | 5.00 (4.00 to 90.00) | 1.00 (1.00 to 1.00) |" in lines
    assert [line for line in lines if "absent" in line] == [
        "Not measured: absent: no Python library a_library_that_nobody_has: make peers."
    ]
    less = Table(section._replace(less_is_better=True))
    less.values = table.values
    assert less.ratio("theirs") == 0.25


def test_what_is_missing_is_looked_for_once() -> None:
    looked = []

    def look() -> Figures:
        looked.append(1)
        raise Missing("it is not there")

    run([Section("key", "Title", "", "per s", False, [Run("absent", look)])], 3, lambda text: None)
    assert len(looked) == 1


def test_sections_run(tmp_path: Path) -> None:
    """Those that need nothing but zbroker, in the smallest size."""
    file = tmp_path / "values.json"
    names = ["payloads", "calls", "groups"]
    command = [sys.executable, "-m", "benchmarks", *names, "--jobs", "1000", "--rounds", "1", "--json", str(file)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True).stdout
    sections = json.loads(file.read_text(encoding="utf-8"))["sections"]
    assert list(sections) == names
    for name in names:
        assert f"### {sections[name]['title']}" in told
        for figures in sections[name]["values"].values():
            assert all(value > 0 for values in figures.values() for value in values)


def test_what_senders_notice_of_a_backup() -> None:
    """The program runs; its figures are for whoever runs it with nothing else beside."""
    command = [sys.executable, "-m", "benchmarks.copies", "--seconds", "0.5", "--rate", "1000", "--json"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=100).stdout)
    assert told["backups"]
    assert all(0 < told[phase]["p50"] <= told[phase]["p99"] <= told[phase]["worst"] for phase in ("without", "during"))


def test_each_section_says_who_is_compared() -> None:
    for key, make in MAKERS.items():
        section = make(10_000)
        assert section.key == key
        assert section.runs
        assert len({one.name for one in section.runs}) == len(section.runs)
