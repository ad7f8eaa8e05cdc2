"""Backups, and what is made of them: a data directory restored, or a fork that is served beside the original.

Owns what has to change in the rows of a copy, so that it and the original cannot be taken for each other. How a
directory is copied, while a broker may be serving it, is `zbroker.storage.backup`'s.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from zbroker.core import rows
from zbroker.core.recovery import FIRST_FENCE_BITS
from zbroker.core.schedules import Schedule
from zbroker.storage import Rows, Store, StoreError, open_store
from zbroker.storage.backup import MARK, Copy, copy_directory
from zbroker.storage.directory import store_of, sync_folder

RAISE_EPOCH = 1000
"""What restore and fork add to the epoch: more than the original was started since its copy was made, so that no fence
that it gave in that time is ever given again."""

LAST_EPOCH = (1 << 53 >> FIRST_FENCE_BITS) - 1
"""A fence is below 2**53, and its epoch the upper part of it."""

FORK = "FORK"
"""The file in a fork's directory that says what it is a fork of."""

PAGE = 1000
"""Schedules that are paused in one write."""


def back_up(data: Path, target: Path) -> Copy:
    """Copy the data directory of a broker that may be running to `target`: all that was confirmed before the call.

    Raises `StoreError` if that cannot be; then nothing is at `target`.
    """
    return copy_directory(data, target, _mark("backup", data), lambda copy, store: None)


def restore(backup: Path, data: Path) -> Copy:
    """Make a data directory of a backup, or of any other data directory, which stays as it is.

    Raises `StoreError` if `data` is there already, or something of the backup is missing; then nothing is at `data`.
    """

    def change(copy: Path, store: str) -> None:
        _change_rows(copy, store, _raise_epoch)
        (copy / MARK).unlink()

    return copy_directory(backup, data, _mark("restore", backup), change)


def fork(source: Path, target: Path) -> Copy:
    """Make a data directory to be served beside `source`, be that a backup or the directory of a running broker.

    It has another broker's name, so that no peer of the one goes on with the other, fences of its own, and all its
    schedules are paused; those that a file declares as well.
    """

    def change(copy: Path, store: str) -> None:
        def change_rows(opened: Store) -> None:
            _raise_epoch(opened)
            opened.write({"meta": {rows.META_BROKER: os.urandom(16)}}, [])
            _pause_schedules(opened)

        _change_rows(copy, store, change_rows)
        (copy / MARK).rename(copy / FORK)

    return copy_directory(source, target, _mark("fork", source), change)


def is_fork(path: Path) -> bool:
    """Whether the directory is a fork that was made before."""
    return (path / FORK).is_file() and store_of(path) is not None


def _mark(what: str, source: Path) -> str:
    """What the file in a copy says of it, for people and programs."""
    taken = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"what": what, "of": str(source.absolute()), "at": taken}) + "\n"


# ---- rows


def _change_rows(copy: Path, store: str, change: Callable[[Store], None]) -> None:
    opened = open_store(store, copy)
    try:
        change(opened)
        opened.sync()
    finally:
        opened.close()
    sync_folder(copy)


def _raise_epoch(store: Store) -> None:
    epoch = int.from_bytes(store.get("meta", rows.META_EPOCH) or b"", "big") + RAISE_EPOCH
    if epoch > LAST_EPOCH:
        raise StoreError(f"it was restored or forked so often that its fences are used up: epoch {epoch}")
    store.write({"meta": {rows.META_EPOCH: rows.number8(epoch)}}, [])


def _pause_schedules(store: Store) -> None:
    paused: dict[bytes, bytes | None] = {}
    for name, value in store.scan("schedules", b"", b"\xff"):
        schedule = Schedule(*rows.unpack(value))
        # What a file declares and what people made differ only in whether a start may change it: here none may.
        paused[name] = rows.pack(schedule._replace(paused=True, declared=False))
    names = list(paused)
    for first in range(0, len(names), PAGE):
        page: Rows = {"schedules": {name: paused[name] for name in names[first : first + PAGE]}}
        store.write(page, [])
