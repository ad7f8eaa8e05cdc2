"""The benchmarks run, tell what they measured and what they could not, and compare by the right end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.delayed import spread
from benchmarks.harness import running_broker
from benchmarks.peers.servers import Missing, need
from benchmarks.report import Figures, Run, Section, Table, run
from benchmarks.sections import make, named
from zclient.jobs import decode_payload

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
    best = Table(section._replace(of_the_best=True, less_is_better=True))
    best.values = table.values
    assert best.lines()[4].startswith("| | share of the best |")
    assert best.lines()[6].startswith("| ours | 0.25 |")
    assert best.lines()[7].startswith("| theirs | 1.00 |")


def test_what_is_missing_is_looked_for_once() -> None:
    looked = []

    def look() -> Figures:
        looked.append(1)
        raise Missing("it is not there")

    run([Section("key", "Title", "", "per s", False, [Run("absent", look)])], 3, lambda text: None)
    assert len(looked) == 1


def test_a_run_that_fails_is_told_and_costs_nobody_elses_figures() -> None:
    values = iter([5.0, None, 7.0])

    def theirs() -> Figures:
        value = next(values)
        if value is None:
            raise RuntimeError("no task was run")
        return {"per s": value}

    runs = [Run("ours", lambda: {"per s": 12.0}), Run("theirs", theirs)]
    (table,) = run([Section("key", "Title", "", "per s", False, runs)], 3, lambda text: None)
    lines = table.lines()
    assert "| theirs | 2.00 | 6.00 (5.00 to 7.00) |" in lines
    assert lines[-1] == "Failed in 1 rounds: theirs: no task was run."
    assert table.document()["failed"] == {"theirs": ["no task was run"]}


def bench(*arguments: str, file: Path) -> tuple[str, dict[str, Any]]:
    """What a run prints, and its sections in the file that it writes."""
    command = [sys.executable, "-m", "benchmarks", *arguments, "--rounds", "1", "--json", str(file)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True).stdout
    sections: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["sections"]
    return told, sections


def test_sections_run(tmp_path: Path) -> None:
    """Those that need nothing but zbroker, in the smallest size."""
    names = ["payloads", "calls", "groups", "latency-rates"]
    told, sections = bench(*names, "--jobs", "1000", file=tmp_path / "values.json")
    assert list(sections) == names
    for name in names:
        assert f"### {sections[name]['title']}" in told
        for figures in sections[name]["values"].values():
            assert all(value > 0 for values in figures.values() for value in values)


@pytest.mark.skipif(sys.platform != "linux", reason="a process's time and memory are read from /proc")
def test_sections_that_fill_a_broker_run(tmp_path: Path) -> None:
    names = ["backlog", "start", "delayed", "scale-keys"]
    told, sections = bench(*names, "--jobs", "1000", "--waiting", "5000", file=tmp_path / "values.json")
    assert list(sections) == names
    assert not any(section["missing"] for section in sections.values())
    values = {name: section["values"] for name, section in sections.items()}
    assert list(values["backlog"]) == [
        "nothing waiting",
        "100 waiting",
        "1,000 waiting",
        "5,000 waiting",
        "1,000 waiting in 100 other queues",
    ]
    assert all(figures["largest memory MiB"] > [10] for figures in values["backlog"].values())
    for figures in values["start"].values():
        assert figures["first delivery s"] > figures["ready s"] > [0]
    (due,) = values["delayed"].values()
    assert due["largest ms"] >= due["p99 ms"] >= due["p50 ms"]
    assert "| 1 key |" in told
    assert "| 100,000 keys |" in told


def test_what_senders_notice_of_a_backup() -> None:
    """The program runs; its figures are for whoever runs it with nothing else beside."""
    command = [sys.executable, "-m", "benchmarks.backups", "--seconds", "0.5", "--rate", "1000", "--json"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=100).stdout)
    assert told["backups"]
    assert all(0 < told[phase]["p50"] <= told[phase]["p99"] <= told[phase]["worst"] for phase in ("without", "during"))


def test_each_section_says_who_is_compared() -> None:
    for key in named([]):
        section = make(key, 10_000, 500_000)
        assert section.key == key
        assert section.runs
        assert len({one.name for one in section.runs}) == len(section.runs)


def test_the_beginning_of_names_means_all_of_them() -> None:
    assert named(["scale", "calls", "scale-keys"]) == ["scale-workers", "scale-queues", "scale-keys", "calls"]
    assert named(["lifecycle"]) == ["lifecycle"]
    with pytest.raises(LookupError, match="no such section: sca; there are lifecycle"):
        named(["sca"])


def test_jobs_fall_due_evenly() -> None:
    groups = spread(first_ms=1_000, jobs=200, over_ms=50)
    ids = [b"%032x" % n for n in range(200)]
    made = [*groups(0, ids[:100]), *groups(100, ids[100:])]
    assert [group.options["at"] for group in made] == [1_000 + n for n in range(50)]
    assert {len(group.ids) for group in made} == {4}
    assert [identifier for group in made for identifier in group.ids] == ids
    assert decode_payload(made[-1].payloads[0])[0] == 1_049


def test_a_broker_that_ended_by_itself_is_no_result() -> None:
    with pytest.raises(RuntimeError, match="ended by itself, with status -9"), running_broker() as process:
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
