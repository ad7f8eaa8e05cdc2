"""The table of stages follows the code, and what it says adds up."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import hooks
from benchmarks.stages import Profile, own_costs, read_profile

ROOT = Path(__file__).resolve().parent.parent

PROFILE = """\
events: Ir
fn=(1) main
0 100
cfn=(2) PyNumber_InPlaceXor
calls=3 0
0 700
cfn=(3) other
calls=1 0
0 50
fn=(2)
+1 90
fn=(4) elsewhere
cfn=(2)
calls=2 0
* 11
totals: 1234
"""


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, name, _ in hooks.HOOKS])
def test_every_function_of_the_table_is_there(module: str, name: str) -> None:
    owner, last = hooks.found(module, name)
    assert callable(getattr(owner, last))


def test_every_stage_has_functions_and_every_counted_one_an_operator() -> None:
    plain = {stage for _, _, stage in hooks.HOOKS if isinstance(stage, str)}
    chosen = {"send", "reply", "take", "answers", "jobs", "encode", "acks"}
    assert plain | chosen == set(hooks.STAGES)
    assert len(hooks.OPERATORS) == sum(stage.is_counted for stage in hooks.STAGES.values())


def test_a_profile_of_callgrind_tells_calls_and_costs() -> None:
    whole, functions = read_profile(PROFILE)
    assert whole == 1234
    assert functions == {"PyNumber_InPlaceXor": (5, 711), "other": (1, 50)}


def stages(outer: int, inner: int, *, parents: list[str]) -> Profile:
    """As if the second stage had been entered twice inside the first one."""
    (first, _), (second, _), *others = hooks.OPERATORS
    functions = {name: (0, 0) for name, _ in others} | {first: (1, outer), second: (2, inner)}
    names = [stage for stage, what in hooks.STAGES.items() if what.is_counted]
    calls = dict.fromkeys(names, 0) | {names[0]: 1, names[1]: 2}
    return Profile(outer, functions, calls, {**{name: [] for name in names}, names[1]: parents})


def test_a_stage_costs_what_is_not_inside_it() -> None:
    nothing = stages(0, 0, parents=[])
    nothing = nothing._replace(
        functions=dict.fromkeys(nothing.functions, (0, 0)), calls=dict.fromkeys(nothing.calls, 0)
    )
    outer, inner, *_ = nothing.calls
    costs = own_costs(nothing, stages(1000, 300, parents=[outer]))
    assert (costs[outer], costs[inner], costs["all"]) == (700, 300, 1000)
    with pytest.raises(RuntimeError, match="inside several stages"):
        own_costs(nothing, stages(1000, 300, parents=["", outer]))
    with pytest.raises(RuntimeError, match="called 1 times, not 0"):
        own_costs(nothing, stages(1000, 300, parents=[])._replace(calls=nothing.calls))


def test_the_meter_charges_each_stage_for_its_own() -> None:
    meter = hooks.Meter()

    def inner() -> int:
        return sum(range(200_000))

    def outer() -> int:
        return meter.run("put", inner, (), {})

    assert meter.run("core", outer, (), {}) == sum(range(200_000))
    assert meter.cpu["put"] > 10 * meter.cpu["core"] > 0
    with pytest.raises(ZeroDivisionError):
        meter.run("put", lambda: 1 // 0, (), {})
    meter.clear()
    assert set(meter.cpu.values()) == {0}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc, where threads are accounted for")
def test_the_table_of_a_small_run_has_every_stage() -> None:
    command = [sys.executable, "-m", "benchmarks.stages", "--no-instructions", "--jobs", "3000"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    rows = re.findall(r"^\| (\w+) \| (.+?) \| (-?[\d.]+) \|", told, re.MULTILINE)
    of_stages = {(process, name): float(us) for process, name, us in rows}
    for stage in hooks.STAGES.values():
        assert of_stages[stage.process, stage.name] > 0
    for process in (hooks.PRODUCER, hooks.BROKER, hooks.CONSUMER):
        each = sum(us for (of, name), us in of_stages.items() if of == process and name != "**all**")
        assert each == pytest.approx(of_stages[process, "**all**"], abs=0.2)
