"""What every store does alike. Runs on each of `STORES`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.stores import STORES, Kind, fill, keys
from zbroker.storage import KEYSPACES, Store, StoreFailed


@pytest.fixture(params=STORES, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def store(kind: Kind, tmp_path: Path) -> Iterator[Store]:
    store = kind.open(tmp_path)
    yield store
    store.close()


def test_every_keyspace_is_there_and_apart(store: Store) -> None:
    store.write({space: {b"key": space.encode()} for space in KEYSPACES}, [])
    assert [store.get(space, b"key") for space in KEYSPACES] == [space.encode() for space in KEYSPACES]


def test_reads_of_one_and_many(store: Store) -> None:
    store.write({"jobs": {b"a": b"1", b"b": b"", b"\x00": b"\x00", b"big": b"x" * 100_000}}, [])
    assert store.get("jobs", b"b") == b""
    assert store.get("jobs", b"c") is None
    assert store.get("jobs", b"big") == b"x" * 100_000
    assert store.get_many("jobs", [b"b", b"c", b"a", b"\x00", b"a"]) == [b"", None, b"1", b"\x00", b"1"]
    assert store.get_many("jobs", []) == []
    assert store.get_many("changes", [b"a"]) == [None]


def test_the_last_write_wins(store: Store) -> None:
    fill(store, "jobs", b"a", b"b", value=b"old")
    store.write({"jobs": {b"a": b"new", b"b": None, b"never": None}}, [])
    assert store.get_many("jobs", [b"a", b"b", b"never"]) == [b"new", None, None]
    fill(store, "jobs", b"b", value=b"again")
    assert store.get("jobs", b"b") == b"again"


def test_ranges_come_after_the_rows_of_the_same_write(store: Store) -> None:
    fill(store, "ready", b"a", b"b", b"c", b"d")
    fill(store, "timers", b"b")
    store.write({"ready": {b"bb": b"new", b"d": b"new"}}, [("ready", b"b", b"d")])
    assert keys(store, "ready") == [b"a", b"d"]
    assert store.get("ready", b"d") == b"new"
    assert keys(store, "timers") == [b"b"]
    fill(store, "ready", b"b")
    assert keys(store, "ready") == [b"a", b"b", b"d"]


def test_a_range_without_room_removes_nothing(store: Store) -> None:
    fill(store, "ready", b"a", b"b")
    store.write({}, [("ready", b"b", b"a"), ("ready", b"a", b"a"), ("dead", b"b", b"a")])
    assert keys(store, "ready") == [b"a", b"b"]


@pytest.mark.parametrize("backwards", [False, True])
def test_scans_keep_to_their_bounds(store: Store, backwards: bool) -> None:
    there = [bytes([n]) * 2 for n in range(10, 20)]
    fill(store, "ready", *there)
    probes = [b"", b"\x0a", b"\x0a\x0a", b"\x0a\x0a\x00", b"\x0f\x0f", b"\x10", b"\x13\x13", b"\x13\x14", b"\xff"]
    for start in probes:
        for stop in probes:
            wanted = [key for key in there if start <= key < stop]
            found = keys(store, "ready", start, stop, backwards=backwards)
            assert found == (wanted[::-1] if backwards else wanted), (start, stop)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_scan_does_not_see_what_is_written_after_it_began(store: Store, backwards: bool) -> None:
    fill(store, "ready", b"b", b"d", b"f", value=b"old")
    wanted = [(key, b"old") for key in (b"b", b"d", b"f")]
    if backwards:
        wanted.reverse()
    fresh = store.scan("ready", b"", b"z", backwards=backwards)
    begun = store.scan("ready", b"", b"z", backwards=backwards)
    assert next(begun) == wanted[0]
    elsewhere = store.scan("dead", b"", b"z", backwards=backwards)
    store.write({"ready": {b"a": b"new", b"d": None, b"e": b"new", b"f": b"new", b"g": b"new"}}, [])
    store.write({}, [("ready", b"", b"z")])
    assert list(begun) == wanted[1:]
    assert list(fresh) == wanted
    assert list(elsewhere) == []
    assert keys(store, "ready") == []


def test_a_scan_holds_what_it_needs(store: Store) -> None:
    """The bounds may be objects that nobody else keeps."""
    rows = [b"%05d" % n for n in range(2000)]
    fill(store, "ready", *rows)
    scans = [store.scan("ready", b"%05d" % n, b"%05d" % (n + 10)) for n in range(1000)]
    gc.collect()
    other = [bytes([65 + n % 26]) * 5 for n in range(5000)]
    assert [[key for key, _ in scan] for scan in scans] == [rows[n : n + 10] for n in range(1000)]
    assert len(other) == 5000


def test_a_scan_may_be_left_in_the_middle(store: Store) -> None:
    fill(store, "ready", *(b"%03d" % n for n in range(100)))
    for turn in range(50):
        for key, _ in store.scan("ready", b"%03d" % turn, b"z"):
            assert key == b"%03d" % turn
            break
        store.write({"ready": {b"%03d" % turn: None}}, [])
    assert len(keys(store, "ready")) == 50


def test_the_sequence_grows_with_what_is_written(store: Store) -> None:
    seen = [store.sequence()]
    for rows, ranges in [
        ({"jobs": {b"a": b"1"}}, []),
        ({"jobs": {b"a": b"1", b"b": b"1"}}, []),
        ({"jobs": {b"a": None}}, []),
        ({}, [("jobs", b"a", b"z")]),
    ]:
        store.write(rows, ranges)  # type: ignore[arg-type]
        seen.append(store.sequence())
    assert seen == sorted(set(seen))
    store.write({}, [])
    store.sync()
    assert store.sequence() == seen[-1]


def test_a_keyspace_that_is_not_one_is_refused_whole(store: Store) -> None:
    before = store.sequence()
    with pytest.raises(KeyError):
        store.write({"jobs": {b"a": b"1"}, "nonsense": {b"a": b"1"}}, [])
    with pytest.raises(KeyError):
        store.write({"jobs": {b"a": b"1"}}, [("nonsense", b"a", b"b")])
    with pytest.raises(KeyError):
        store.get("nonsense", b"a")
    with pytest.raises(KeyError):
        store.get_many("nonsense", [b"a"])
    with pytest.raises(KeyError):
        store.scan("nonsense", b"a", b"b")
    assert store.sequence() == before
    assert store.get("jobs", b"a") is None


def test_room_and_size(kind: Kind, store: Store) -> None:
    before = store.used_bytes()
    fill(store, "jobs", *(b"%03d" % n for n in range(500)), value=bytes(1000))
    store.sync()
    free = store.free_bytes()
    assert store.used_bytes() > before
    assert free is None or free > 0
    assert (store.path is not None) == kind.durable


@pytest.mark.parametrize("kind", [kind for kind in STORES if kind.durable], ids=lambda kind: kind.name)
class TestDurable:
    """What only a store with a directory can do."""

    def test_rows_outlive_the_store(self, kind: Kind, tmp_path: Path) -> None:
        for turn in range(3):
            store = kind.open(tmp_path)
            assert keys(store, "jobs") == [b"%d" % n for n in range(turn)]
            assert keys(store, "ready") == []
            fill(store, "jobs", b"%d" % turn)
            fill(store, "ready", b"gone", b"too")
            store.write({"ready": {b"gone": None}}, [("ready", b"t", b"u")])
            reached = store.sequence()
            store.close()
            store = kind.open(tmp_path)
            assert store.sequence() >= reached
            store.close()

    def test_a_closed_store_refuses(self, kind: Kind, tmp_path: Path) -> None:
        store = kind.open(tmp_path)
        store.close()
        store.close()
        with pytest.raises(StoreFailed):
            fill(store, "jobs", b"a")
        with pytest.raises(StoreFailed):
            store.get("jobs", b"a")
        with pytest.raises(StoreFailed):
            store.scan("jobs", b"a", b"b")
