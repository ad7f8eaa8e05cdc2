"""A round of chaos: a bout of the kill loop to whose links, broker and disk harm is done as well.

It owns what is done, to whom and for how long: by chance from a seed, after so many effects or a time. How each harm is
done stands in ``links`` and ``disk``; what must be true nevertheless, in ``tests.history.rules``.
"""

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.disk import SmallDisk
from tests.chaos.links import Links
from tests.history.world import no_longer
from tests.kill_loop.bout import OPTIONS, PRODUCERS, WORKERS, Bout, Failed
from tests.kill_loop.processes import Broker, Harms

DISK_BYTES = 384 << 20
FLOOR_BYTES = 48 << 20
"""Below it the broker takes no new jobs."""

LOW_BYTES = 24 << 20
"""What is left of a disk that is low: settlements go on."""

LASTS_S = (0.2, 0.5, 1.0, 2.0, 6.0)
"""How long a harm to a link lasts: beyond a lease, and beyond what a silent host is given."""

STALL_S = (0.2, 1.0, 2.0)
"""How long the broker stands still, or its disk is full: less than the silence after which its peers give it up, so
that it is no reason to take a job from anybody."""

CHAOS_OPTIONS = (
    *OPTIONS,
    *("--heartbeat-interval", "500ms", "--heartbeat-timeout", "4s"),
    *("--disk-floor", str(FLOOR_BYTES), "--keep-done", "10m", "--drain-timeout", "2s"),
)

SEND_S = 3.0
"""How long producers wait for an answer: short enough that some stay without one."""

PAUSE_S = 1.0
"""The longest that two harms are apart, so that they meet."""

STILL_S = 40
"""So long may everything be without an effect."""

NO_ROOM, NO_ROOM_TEXT = 6, "no disk space left to open"
"""What a broker ends with, and says, that finds its disk full while it opens."""

QUIET_S = 1.0
"""More than what a proxy or a connection that was mended still holds takes to arrive."""

NAMES = [*WORKERS, *PRODUCERS]


class Round(Bout):
    """``links`` and ``disk`` are its own; without a disk nothing is filled up."""

    further = (0, 5, 20, 50, 100, 200)
    pause_s = PAUSE_S
    still_s = STILL_S
    quiet_s = QUIET_S

    def __init__(
        self,
        folder: Path,
        prefix: str,
        links: Links,
        disk: SmallDisk | None,
        data: Path,
        chance: random.Random,
        seed: int,
    ) -> None:
        self._links = links
        self._disk = disk
        self._had_room_at = -math.inf  # when the disk was last emptied
        harms = Harms()
        bind, control = links.bind()
        enter = [*(disk.enter if disk is not None else []), *links.enter("broker")]
        options = [*CHAOS_OPTIONS, *links.options()]
        broker = Broker(folder / "broker.log", harms, data, options, bind, enter=enter, control=control)
        super().__init__(folder, prefix, broker, harms, chance, seed)

    def endpoint_of(self, name: str) -> str:
        if name not in self._links.wires:
            self._links.connect(self.broker.endpoint)
        return self._links.endpoint_of(name)

    def enter(self, name: str) -> list[str]:
        return self._links.enter(name)

    def facts_of_producers(self) -> dict[str, Any]:
        return {"timeout": SEND_S}

    def harm(self) -> None:
        """One harm of all kinds."""
        steps: dict[Callable[[], None], int] = {
            super().harm: 30,
            self._harm_link: 35,
            self._part: 8,
            self._stop_somebody: 8,
            self._restart_broker: 7,
            self._harm_disk: 12 if self._disk is not None else 0,
        }
        (step,) = self.chance.choices(list(steps), list(steps.values()))
        step()

    def is_held(self) -> bool:
        """Whether the broker can neither end nor start now."""
        return "disk" in self.lasting or self.broker in self.lasting

    def may_kill_broker(self) -> bool:
        return not self.is_held()

    def _last(self, key: Any, seconds: tuple[float, ...], undo: Callable[[], None]) -> None:
        self.lasting[key] = (time.monotonic() + self.chance.choice(seconds), undo)

    def revive(self) -> None:
        """A broker that finds its disk full while it opens says so and ends: it is given room, and started again."""
        broker = self.broker
        if broker.has_ended() and broker.process.returncode == NO_ROOM and NO_ROOM_TEXT in broker.last_words():
            if not self._was_full():
                raise Failed(f"{broker.who} found no room on a disk that had some")
            if "disk" in self.lasting:
                _, empty = self.lasting.pop("disk")
                empty()
            broker.reap()
            self.lasting.pop(broker, None)
            self.harms.note(broker.who, "ended")
            broker.start()

    def _was_full(self) -> bool:
        """Whether the disk was full when the broker that runs now, or has just ended, was opening."""
        return "disk" in self.lasting or self._had_room_at >= self.broker.started_at

    def _harm_link(self) -> None:
        """Something happens to the link of one."""
        name = self.chance.choice(list(self._links.wires))
        if ("link", name) in self.lasting:
            return
        what, step = self.chance.choice(list(self._links.wires[name].harms().items()))
        # Of the broker's own link all others are the other end.
        concerned = NAMES if name == "broker" else [name]
        for other in concerned:
            self.harms.note(other, what)
        undo = step()
        if undo is not None:
            self._last(("link", name), LASTS_S, lambda: self._mend(undo, what, concerned))

    def _mend(self, undo: Callable[[], None], what: str, concerned: list[str]) -> None:
        undo()
        for name in concerned:
            self.harms.note(name, no_longer(what))

    def _part(self) -> None:
        """Several links at once."""
        for _ in range(self.chance.randint(2, len(NAMES))):
            self._harm_link()

    def _stop_somebody(self) -> None:
        """The broker or a producer stands still."""
        place = self.chance.choice([self.broker, *self.producers])
        if place not in self.lasting:
            place.stop()
            self._last(place, STALL_S, place.go_on)

    def _restart_broker(self) -> None:
        """It ends in peace, and is started again."""
        if not self.is_held():
            self.end_broker()
            self.broker.start()

    def _harm_disk(self) -> None:
        """The disk is low, or full."""
        disk = self._disk
        if disk is None or "disk" in self.lasting:
            return
        self.revive()
        is_full = self.chance.random() < 0.6
        self.harms.note(self.broker.who, "full" if is_full else "low")
        disk.fill(0 if is_full else LOW_BYTES)
        self._last("disk", STALL_S, lambda: self._empty(disk))

    def _empty(self, disk: SmallDisk) -> None:
        disk.empty()
        self._had_room_at = time.monotonic()
        self.harms.note(self.broker.who, "room")

    def abandon(self) -> None:
        super().abandon()
        self._links.close()
