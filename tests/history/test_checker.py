"""The checker on histories that are large, cut into parts, cut off, or damaged.

ZBROKER_TEST_OPERATIONS makes the generated history larger; `make check-history OPS=10000000` is the way to try a size.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.history import records as r
from tests.history.checker import check, stories_of
from tests.history.generated import generate
from tests.history.records import BadHistory, Reader, Recorder, files_of
from tests.history.sound import sound
from tests.history.world import Policy, World, no_longer

OPERATIONS = int(os.environ.get("ZBROKER_TEST_OPERATIONS", "10000"))
PART_BYTES = 1 << 18
MEMORY_MIB = 56
"""More than the interpreter, the records that are dealt at once and a part of this size take together; a fraction of
what all records of five times as many operations would."""

MEASURED = """
import json, sys
from pathlib import Path
from tests.history.checker import check
report = check(Path(sys.argv[1]), part_bytes=int(sys.argv[2]), processes=1)
print(json.dumps([report.lines(), report.peak_mib]))
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generate(folder, OPERATIONS)
    return folder


def test_a_generated_history_is_sound_and_has_everything_in_it(generated: Path) -> None:
    report = check(generated, processes=1)
    assert report.lines()[1:] == ["no fault"]
    told = ("unknown", "recovered", "absent", "failed", "dead", "repeat: killed", "repeat: failed", "ordered")
    assert [name for name in told if not report.counts[name]] == []
    assert report.counts["sent"] + report.counts["runs"] >= OPERATIONS


def test_parts_and_processes_change_nothing(generated: Path) -> None:
    whole = check(generated, part_bytes=1 << 40, processes=1)
    assert check(generated, part_bytes=PART_BYTES, processes=2)[:4] == whole[:4]


def test_memory_does_not_grow_with_the_history(tmp_path: Path) -> None:
    generate(tmp_path, 5 * OPERATIONS)
    measured = [sys.executable, "-c", MEASURED, str(tmp_path), str(PART_BYTES)]
    told, mib = json.loads(subprocess.run(measured, capture_output=True, text=True, check=True).stdout)
    assert told[1:] == ["no fault"]
    assert mib < MEMORY_MIB


def test_one_fault_among_many_jobs_is_found(tmp_path: Path) -> None:
    jobs = generate(tmp_path, OPERATIONS // 4)
    job = f"g{jobs // 6 * 3 + 1:x}"  # one of those that have an effect
    effect = [record for path in files_of(tmp_path) for record in Reader(path) if record[0] == r.EFFECT]
    twice = next(record for record in effect if record[2] == job)
    extra = Recorder(tmp_path, "worker9/1")
    extra.note(r.EFFECT, *twice[2:], at=twice[1])
    extra.close()
    report = check(tmp_path, part_bytes=PART_BYTES)
    assert report.named == {"effect doubled": 1}
    assert [fault.job for fault in report.faults] == [job]
    assert report.stories[0].startswith(f"job {job}\n")


def test_a_record_that_a_kill_cut_off_is_left_out_and_counted(tmp_path: Path) -> None:
    sound().write(tmp_path)
    with (tmp_path / "threads.1.history").open("ab") as file:
        file.write(b"\x95\x05\xce")  # the beginning of a START
    report = check(tmp_path)
    assert (report.is_clean, report.counts["torn"]) == (True, 1)


@pytest.mark.parametrize(
    ("place", "junk", "says"),
    [
        ("threads.2.history", b"\x92\x05\x01", "is no record"),
        ("threads.2.history", b"\xa3abc", "damaged after"),
        ("threads.2.history", b"\xc1\xc1\xc1", "damaged after"),
        ("other.1.history", b"\x93\x02\x02\xa1j", "does not begin as a history"),
        ("empty.1.history", b"", "does not begin as a history"),
    ],
)
def test_what_is_no_history_is_refused(tmp_path: Path, place: str, junk: bytes, says: str) -> None:
    sound().write(tmp_path)
    with (tmp_path / place).open("ab") as file:
        file.write(junk)
    with pytest.raises(BadHistory, match=says):
        check(tmp_path)


def test_nothing_is_no_history(tmp_path: Path) -> None:
    with pytest.raises(BadHistory, match="there is no history"):
        check(tmp_path)


def test_a_header_pairs_the_clocks(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "sender/3", workers=4)
    before = r.now_us()
    recorder.note(r.CONFIRMED, "a")
    recorder.close()
    reader = Reader(tmp_path / "sender.3.history")
    assert (reader.header.who, reader.header.facts) == ("sender/3", {"workers": 4})
    (_, (kind, at, job)) = reader
    assert (kind, job) == (r.CONFIRMED, "a")
    assert reader.header.monotonic_us <= before <= at
    assert reader.header.wall_us > 1_700_000_000_000_000


def test_a_process_never_writes_into_the_history_of_another(tmp_path: Path) -> None:
    Recorder(tmp_path, "sender/1").close()
    with pytest.raises(FileExistsError):
        Recorder(tmp_path, "sender/1")


def test_stories_of_jobs_that_are_not_over(tmp_path: Path) -> None:
    sound().write(tmp_path)
    (story,) = stories_of(tmp_path, {"absent", "nobody's"})
    assert [line.split(maxsplit=1)[-1] for line in story.splitlines()] == [
        "absent",
        "sender/1 notes send plain None 0 {}",
        "sender/1 notes unknown",
    ]


def test_when_it_was_calm() -> None:
    world = World(Policy())
    second = 1_000_000
    for at, whom, what in (
        (10, "w", "dark"),
        (12, "w", no_longer("dark")),
        (20, "v/1", "killed"),
        (30, "u/1", "stopped"),
    ):
        world.add(at * second, whom, what)
    world.close()
    calm = [(begin, end) for begin, end in ((0, 9), (9, 11), (11, 12), (13, 13), (15, 19), (19, 21), (21, 29), (40, 41))
            if world.is_calm(begin * second, end * second)]  # fmt: skip
    assert calm == [(0, 9), (15, 19), (21, 29)]  # a peer has two seconds to come back after a harm that lasted
    harms = [world.harm("w/1", at * second, at * second) for at in (9, 11, 13, 15)]
    assert harms == ["", "dark", "dark", ""]
    assert [world.harm("u/1", at * second, at * second) for at in (29, 30, 99)] == ["", "stopped", "stopped"]
    assert (world.was_killed("v/1", 19 * second), world.was_killed("v/1", 20 * second)) == (False, True)


def test_two_harms_at_once_last_until_both_are_over() -> None:
    """A link is dark at its own end and at the broker's."""
    world = World(Policy())
    second = 1_000_000
    for at, what in ((10, "dark"), (12, "dark"), (13, no_longer("dark")), (20, no_longer("dark"))):
        world.add(at * second, "w", what)
    world.close()
    dark = [at for at in range(5, 30) if world.harm("w/1", at * second, at * second)]
    assert dark == list(range(10, 23))
