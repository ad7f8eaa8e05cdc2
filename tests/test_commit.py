"""The rule of durability by itself: what each setting does before a tick is handed out, and what a refusal means."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from zbroker import commit
from zbroker.commit import Commit, Durability
from zbroker.core.tick import Tick
from zbroker.storage import Range, Rows, Store, StoreFailed, StoreFull, open_store


class Told:
    """A store, and what it was asked to make durable. ``full`` writes are refused first, and ``broken`` is its sync."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        self.full = 0
        self.broken = False

    def write(self, rows: Rows, ranges: Sequence[Range]) -> None:
        self.calls.append("write")
        if self.full:
            self.full -= 1
            raise StoreFull("no room")
        self.store.write(rows, ranges)

    def sync(self) -> None:
        self.calls.append("sync")
        if self.broken:
            raise StoreFailed("no disk")
        self.store.sync()


def tick(number: int, *keys: bytes) -> Tick:
    made = Tick(number)
    made.rows["jobs"] = dict.fromkeys(keys, b"v")
    return made


def committing(store: Told, durability: Durability) -> tuple[Commit, list[float]]:
    waits: list[float] = []
    return Commit(store, durability, waits.append), waits  # type: ignore[arg-type]


@pytest.mark.parametrize(("durability", "calls"), [("fsync", ["write", "sync"]), ("os", ["write"])])
@pytest.mark.parametrize("name", ["rocksdb", "sqlite"])
def test_each_tick_with_rows_is_made_as_durable_as_the_setting_says(
    tmp_path: Path, name: str, durability: str, calls: list[str]
) -> None:
    store = Told(open_store(name, tmp_path / "data"))
    made, _ = committing(store, Durability(durability))
    for number in (1, 2):
        made.submit(told := tick(number, b"%d" % number))
        assert store.calls == calls * number
        assert made.completed() == [told]
    made.submit(tick(3))
    assert store.calls == calls * 2, "what changes no row has nothing to wait for"
    store.store.close()
    again = open_store(name, tmp_path / "data")
    assert again.get_many("jobs", [b"1", b"2"]) == [b"v", b"v"]
    again.close()


def test_a_write_without_room_is_tried_again_and_nothing_is_handed_out_before_it_is_taken() -> None:
    store = Told(open_store("memory", None))
    made, waits = committing(store, Durability.FSYNC)
    store.full = 3
    made.submit(told := tick(1, b"a"))
    assert store.calls == ["write"] * 4 + ["sync"]
    assert waits == [commit.RETRY_SECONDS] * 3
    assert (made.completed(), made.completed()) == ([told], [])


def test_what_is_never_written_or_not_synced_is_never_handed_out() -> None:
    store = Told(open_store("memory", None))
    made, waits = committing(store, Durability.FSYNC)
    store.full = 1 << 20
    with pytest.raises(StoreFull):
        made.submit(tick(1, b"a"))
    assert sum(waits) == commit.GIVE_UP_SECONDS == 30
    assert store.calls.count("sync") == 0
    store.full, store.broken = 0, True
    with pytest.raises(StoreFailed):
        made.submit(tick(2, b"b"))
    assert made.completed() == []
