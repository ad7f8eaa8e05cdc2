"""The one rule of durability, in one place: a tick's messages are handed out only after its rows are on disk.

Inline today, and spoken as submit and completed, with one tick in flight, so that a slower journal can stand here
(``docs/decisions/0002-inline-commit.md``). It knows no socket and no job.
"""

import time
from collections.abc import Callable
from enum import StrEnum

from zbroker.core.tick import Tick
from zbroker.storage.interface import Store, StoreFull

RETRY_SECONDS = 0.25
"""How often a write that was refused for space is tried again."""

GIVE_UP_SECONDS = 30.0
"""How long, until the process ends. Nothing is lost by that: nothing of the tick was told to anybody."""


class Durability(StrEnum):
    """What is true of a tick before its messages leave."""

    FSYNC = "fsync"  # it survives a loss of power
    OS = "os"  # it survives the process
    MEMORY = "memory"  # it survives nothing


class Commit:
    """Ticks in, ticks out, in order."""

    def __init__(self, store: Store, durability: Durability, wait: Callable[[float], None]) -> None:
        """``wait`` is called with the seconds to wait while the disk is full."""
        self._store = store
        self._sync = durability is Durability.FSYNC
        self._wait = wait
        self._completed: list[Tick] = []
        self.refusals = 0
        self.took_ms = 0.0
        self.synced_ms = 0.0  # the syncs alone

    def submit(self, tick: Tick) -> None:
        """Commit a tick. Raises `StoreFailed`, or `StoreFull` after `GIVE_UP_SECONDS`: the process must end."""
        if tick.has_rows:
            started = time.perf_counter()
            self._write(tick)
            if self._sync:
                written = time.perf_counter()
                self._store.sync()
                self.synced_ms += (time.perf_counter() - written) * 1000
            self.took_ms += (time.perf_counter() - started) * 1000
        self._completed.append(tick)

    def completed(self) -> list[Tick]:
        """The ticks that are on disk and were not handed out yet."""
        completed, self._completed = self._completed, []
        return completed

    def _write(self, tick: Tick) -> None:
        waited = 0.0
        while True:
            try:
                self._store.write(tick.rows, tick.ranges)
                return
            except StoreFull:
                self.refusals += 1
                if waited >= GIVE_UP_SECONDS:
                    raise
                self._wait(RETRY_SECONDS)
                waited += RETRY_SECONDS
