"""What a producer makes of a job: ids that count, payloads, options."""

import os
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zclient.errors import InvalidArgument
from zclient.handles import Jobs, JobStatus, Progress, as_text
from zclient.joboptions import JobOptions
from zclient.jobs import (
    RUN_JOBS,
    IdRun,
    IdRuns,
    IdSource,
    decode_payload,
    encode_payload,
    id_bytes,
    new_id,
    new_prefix,
    queue_name,
    wire_options,
)
from zclient.protocol.options import CALLED_OPTIONS, JOB_OPTIONS

# ---- ids


def test_an_id_is_a_uuid_of_version_7() -> None:
    before = datetime.now(UTC).timestamp()
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    for identifier in made:
        assert len(identifier) == 32
        parsed = uuid.UUID(identifier.decode())
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122
        assert before - 1 < (parsed.int >> 80) / 1000 < before + 60


@given(st.integers(0, RUN_JOBS - 9000), st.integers(0, 9000))
def test_a_run_lists_the_ids_it_names(first: int, count: int) -> None:
    run = IdRun(new_prefix(), first, count)
    ids = run.ids()
    assert len(ids) == len(run) == count
    assert ids == sorted(set(ids))
    for position in {0, count // 2, count - 1} & set(range(count)):
        assert ids[position] == run.id(position)
        assert uuid.UUID(ids[position].decode()).version == 7


def test_a_source_counts_and_begins_a_new_prefix_at_the_end_of_one() -> None:
    source = IdSource()
    first, second = source.take(3), source.take(2)
    assert first.prefix == second.prefix
    assert [second.first, len(second)] == [3, 2]
    last = source.take(RUN_JOBS - 1)
    assert last.prefix != first.prefix
    assert last.first == 0
    assert len(last.id(RUN_JOBS - 2)) == 32


@given(st.lists(st.integers(0, 5000), max_size=8), st.booleans())
def test_runs_are_one_sequence(counts: list[int], together: bool) -> None:
    source = IdSource()
    ids, expected = IdRuns(), []
    for count in counts:
        run = source.take(count) if together else IdRun(new_prefix(), 5, count)
        ids.add(run)
        expected += run.ids()
    assert list(ids) == expected
    assert len(ids) == len(expected)
    assert [ids.id(position) for position in range(0, len(ids), 97)] == expected[::97]


def test_a_million_jobs_are_a_few_objects() -> None:
    ids = IdRuns()
    source = IdSource()
    for _ in range(2000):
        ids.add(source.take(500))
    jobs = Jobs(ids, as_text)
    assert len(jobs) == 1_000_000
    assert len(ids._runs) == 1
    assert jobs[-1] == jobs[999_999]
    assert list(jobs[10:16:2]) == [jobs[10], jobs[12], jobs[14]]
    assert jobs[::-1][0] == jobs[-1]
    assert jobs.ids[5] == jobs[5]
    with pytest.raises(IndexError):
        jobs[1_000_000]


@pytest.mark.parametrize("wrong", ["", "x" * 65, "a\nb", " ", "\ud800", 7, None, b"bytes"])
def test_what_cannot_be_an_id(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        id_bytes(wrong)


@pytest.mark.parametrize("wrong", ["", "a b", "-x", "mmi.service", "titanic.request", "q" * 129, 7, None])
def test_what_cannot_be_a_queue(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        queue_name(wrong)


# ---- payloads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=10,
)


@given(VALUES)
def test_payloads_come_back(value: Any) -> None:
    assert decode_payload(encode_payload(value)) == value


@pytest.mark.parametrize("wrong", [object(), {1, 2}, 2**64, 1j, "\ud800", datetime.now(UTC), [[object()]]])
def test_what_msgpack_cannot_carry(wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="a payload is made of"):
        encode_payload(wrong)
    assert encode_payload(1) == b"\x01", "the failure leaves nothing behind"


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidArgument):
        encode_payload(value)


def test_threads_encode_side_by_side() -> None:
    value = {"text": "x" * 1000, "list": list(range(300))}
    wrong: list[Any] = []

    def work() -> None:
        wrong.extend(1 for _ in range(300) if decode_payload(encode_payload(value)) != value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_bytes_that_are_no_value_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="not msgpack"):
        decode_payload(b"\xc1")
    with pytest.raises(ValueError, match="not msgpack"):
        decode_payload(b"")


# ---- options


def test_options_take_the_units_of_the_wire() -> None:
    headers = {"a": "b", "n": 1, "f": 0.5, "yes": True}
    assert wire_options(priority=-100, key="tenant-3", delay="5s", max_attempts=1, headers=headers, at=None) == {
        "priority": -100,
        "key": "tenant-3",
        "delay": 5000,
        "max_attempts": 1,
        "headers": headers,
    }
    assert wire_options() == {}


@pytest.mark.parametrize(
    "at", [1893456000, 1893456000.0, "2030-01-01T00:00:00Z", "2030-01-01T01:00+01:00", datetime(2030, 1, 1, tzinfo=UTC)]
)
def test_points_in_time(at: Any) -> None:
    assert wire_options(at=at) == {"at": 1893456000_000}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("priority", 101),
        ("priority", True),
        ("key", 7),
        ("key", "k" * 257),
        ("delay", "soon"),
        ("delay", "11000d"),
        ("at", "tomorrow"),
        ("at", -1),
        ("at", float("nan")),
        ("at", True),
        ("at", [1]),
        ("max_attempts", 0),
        ("max_attempts", 1.5),
        ("headers", ["a"]),
        ("headers", {"a": None}),
        ("headers", {1: "a"}),
        ("headers", {"a": "x" * 9000}),
        ("headers", {"a": 2**70}),
        ("headers", {"a": "\ud800"}),
        ("key", "\ud800"),
        ("key", "a\0b"),
        ("ttl", "-1s"),
        ("backoff", "quadratic"),
        ("backoff", []),
        ("backoff", ["1s"] * 101),
        ("backoff_min", 0),
        ("backoff_max", "400d"),
        ("backoff_jitter", 1.5),
        ("unique", ""),
        ("unique_for", "10m"),
        ("on_conflict", "replace"),
        ("prioritty", 1),
    ],
)
def test_options_that_cannot_be(option: str, value: Any) -> None:
    with pytest.raises(InvalidArgument):
        wire_options(**{option: value})


def test_every_option_of_the_wire_can_be_said_and_is_typed() -> None:
    assert set(JobOptions.__annotations__) == set(JOB_OPTIONS) - CALLED_OPTIONS - {"batch"}  # an argument of its own
    assert wire_options(
        ttl="1h", backoff=["1s", 10, timedelta(minutes=1)], backoff_min="300ms", backoff_max="1d", backoff_jitter=0.5
    ) == {
        "ttl": 3_600_000,
        "backoff": [1000, 10_000, 60_000],
        "backoff_min": 300,
        "backoff_max": 86_400_000,
        "backoff_jitter": 0.5,
    }
    assert wire_options(unique="order-17", unique_for="10m", on_conflict="debounce") == {
        "unique": "order-17",
        "unique_for": 600_000,
        "on_conflict": "debounce",
    }
    assert wire_options(backoff="linear", unique="u", unique_for="waiting")["unique_for"] == "waiting"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"delay": 1, "at": 1893456000}, "delay and at exclude each other"),
        ({"after": []}, "after: a list of 1 to 1000 job ids"),
        ({"after": [7]}, "after: job ids, or handles of jobs, not [7]"),
        ({"after": 7}, "after: job ids, or handles of jobs, not 7"),
        ({"on_parent_death": "run"}, "on_parent_death goes with after"),
        ({"after": "a", "on_parent_death": "cry"}, "on_parent_death: one of cancel, run, wait, not 'cry'"),
        ({"delay": "11000d"}, "delay: from 0s to 3660d, not '11000d'"),
        ({"backoff_max": 0}, "backoff_max: from 1ms to 366d, not 0"),
        ({"unique": "u", "unique_for": "ever"}, "unique_for: done, waiting, from 1ms to 3660d, not 'ever'"),
        ({"on_conflict": "replace"}, "unique_for and on_conflict go with unique"),
        ({"prioritty": 1}, "no such option: prioritty"),
    ],
)
def test_what_is_wrong_is_said_in_the_units_of_people(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        wire_options(**options)
    assert str(error.value) == text


# ---- status


def test_a_row_becomes_a_status() -> None:
    status = JobStatus.from_wire(
        {
            "id": b"a",
            "queue": "q",
            "state": "dead",
            "attempt": 2,
            "attempts": [{"error": {"text": "no"}}],
            "created_at": 1893456000_500,
            "worker": bytes([200] * 16),
            "payload": b"\x01",
            "result": None,
            "something new": 1,
            "progress": {"fraction": 0.4, "text": "page 2", "at": 1893456000_500},
            "expires_at": 1893456000_000,
            "unique": "order-17",
        }
    )
    assert (status.id, status.attempts, status.payload, status.result) == ("a", 2, 1, None)
    assert status.created_at == datetime(2030, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    assert status.worker == "c8" * 16
    assert status.progress == Progress(0.4, "page 2", status.created_at) and str(status.progress) == "40% page 2"
    assert (status.expires_at, status.unique) == (datetime(2030, 1, 1, tzinfo=UTC), "order-17")
    assert status.is_over


def test_a_forked_child_makes_other_ids() -> None:
    new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, new_id())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(reading, 100), new_id()
    os.close(reading)
    os.close(writing)
    assert len(theirs) == len(ours) == 32 and theirs[16:] != ours[16:]
