"""A sample of what can be wrong with a log; `make crashpoints` cuts it at every byte and flips every bit of its end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crashpoints import logs


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> logs.Left:
    return logs.leave("rocksdb", tmp_path_factory.mktemp("left") / "data", synced=600)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[logs.Left]:
    """A directory with several logs."""
    left = logs.leave("rocksdb", tmp_path_factory.mktemp("many") / "data", synced=12_000, unsynced=1, small=512 << 10)
    assert len(left.logs) > 3
    yield left


def test_a_damaged_log_opens_with_all_that_was_confirmed_or_refuses(left: logs.Left, tmp_path: Path) -> None:
    damages = logs.every_damage(left, step=4999) + logs.every_damage(left, cut_bytes=500, flip_bytes=0, step=60)
    seen = logs.judge_all(left, damages, tmp_path)
    assert {verdict.partition(",")[0].partition(":")[0] for verdict in seen} == {"opened", "refused"}
    assert seen["refused: behind"] > 10  # the cuts


def test_a_damaged_log_of_sqlite(tmp_path: Path) -> None:
    left = logs.leave("sqlite", tmp_path / "data", synced=60)
    seen = logs.judge_all(left, logs.every_damage(left, step=4999), tmp_path)
    assert any(verdict.startswith("opened") for verdict in seen)
    assert seen["refused: behind"]


def test_logs_that_are_missing_refuse(many: logs.Left, tmp_path: Path) -> None:
    seen = logs.without_logs(many, tmp_path, most=1)
    assert seen["refused: damaged"] + seen["refused: behind"] == sum(seen.values()) == len(many.logs) + 1


def test_older_logs_that_were_cut_refuse(many: logs.Left, tmp_path: Path) -> None:
    assert set(logs.with_older_logs_cut(many, tmp_path, 2)) == {"refused: damaged"}


def test_the_verdict_sees_what_is_lost_and_what_is_invented(left: logs.Left, tmp_path: Path) -> None:
    """Else a start that lost rows could pass."""
    forgetful = left._replace(confirmed=left.confirmed + 50)
    with pytest.raises(logs.Lost, match="was confirmed"):
        logs.opened(forgetful, left.path)
    with pytest.raises(logs.Lost, match="not written like that"):
        logs.compare({"jobs": {b"000002": b"x"}, "meta": {}}, 2)
