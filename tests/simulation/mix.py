"""What a seed decides: queues and their options, jobs and theirs, workers, the weather, and how often what goes wrong.

It draws; others act. Durations are milliseconds of virtual time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from zclient.jobs import encode_payload

QUEUES = ("email", "resize", "crawl")
KEYS = ("a", "b", "c")
GRAVEYARD = "graveyard"
"""The queue that gets dead jobs, in some worlds."""

SMALL = {"TURN_CHILDREN": 1, "TURN_TIMERS": 5, "BLOCK_JOBS": 4, "TURN_RETURNS": 3, "LOAD_BLOCKS": 1}
SMALL |= {"WORKFLOW_AT_ONCE": 3, "SLICE_JOBS": 2, "STEP_ROWS": 2, "PAGE_LOOKED": 3, "TRIM_ROWS": 2, "TURN_STEPS": 1}
"""Limits of the broker that make slices of what it does with few jobs."""

Options = dict[str, Any]


@dataclass
class Faults:
    """How often what goes wrong: the mean time between two, in ms; 0 for never."""

    cut: float = 0
    black_out: float = 0
    congest: float = 0
    kill_worker: float = 0
    stop_worker: float = 0
    leave_worker: float = 0
    kill_producer: float = 0
    stop_producer: float = 0
    kill_broker: float = 0
    die_in_commit: float = 0
    die_in_send: float = 0
    die_in_slices: float = 0
    stop_broker: float = 0
    slow_disk: float = 0
    full_disk: float = 0
    failing_disk: float = 0
    low_disk: float = 0
    jump_clock: float = 0


@dataclass
class Mix:
    """All of it."""

    random: Random
    queues: dict[str, Options] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    is_calm: bool = False  # nothing goes wrong that is not in the jobs themselves
    producers: int = 1
    workers: list[dict[str, Any]] = field(default_factory=list)
    latency: tuple[float, float] = (0.1, 1.0)
    late: float = 0.0
    late_ms: tuple[float, float] = (0.0, 0.0)
    small_turns: bool = False
    window_jobs: int = 8192
    limits: dict[str, int] = field(default_factory=dict)  # of `zbroker.limits`, where they are not the usual ones
    tail_window: int = 10_000  # publications that may be on their way to a tail
    between_sends: float = 200.0
    orders: bool = True
    sent: int = 0

    # ---- jobs

    def job_options(self, queue: str, known: list[bytes]) -> Options:
        """Options of the wire for a group of jobs of this queue."""
        random = self.random
        options: Options = {}
        if random.random() < 0.35:
            options["key"] = random.choice(KEYS)
        if random.random() < 0.3:
            options["priority"] = random.choice((-5, 0, 5))
        if random.random() < 0.25:
            options["delay"] = random.choice((1, 50, 700, 5_000, 20_000))
        if random.random() < 0.15:
            options["ttl"] = random.choice((200, 2_000, 30_000))
        if random.random() < 0.4:
            options["max_attempts"] = random.randint(1, 4)
        if random.random() < 0.4:
            options["backoff"] = random.choice(("constant", [1, 500], "exponential"))
            options["backoff_min"] = random.choice((1, 100, 1_000))
        if known and random.random() < 0.2:
            options["after"] = random.sample(known, min(len(known), random.randint(1, 3)))
            options["on_parent_death"] = random.choice(("cancel", "run", "wait"))
        elif random.random() < 0.12:
            options["unique"] = random.choice(("x", "y"))
            options["unique_for"] = random.choice(("done", "waiting", 3_000))
            options["on_conflict"] = random.choice(("existing", "replace", "debounce"))
        return options

    def payload(self, depth: int = 0) -> Any:
        """What each attempt of a job does, and how long it takes."""
        return {"steps": [self._step(depth) for _ in range(self.random.randint(1, 3))]}

    def yielding(self) -> Any:
        """The same for a job whose handler yields: how many values, with what pause, how it ends, large ones or not."""
        random = self.random
        steps: list[list[Any]] = []
        for _ in range(random.randint(1, 3)):
            if random.random() < 0.15:
                steps.append(self._step(1))
                continue
            gap_ms = random.choice((0.0, 1.0, 50.0, 300.0, 300.0))
            count = random.choice((0, 3, 10, 40, 40))
            end = "nack" if random.random() < 0.2 else "ack"
            steps.append(["yield", random.choice((0.0, 20.0)), count, gap_ms, end, random.random() < 0.05])
        return {"steps": steps}

    def encoded_payload(self) -> bytes:
        payload = encode_payload(self.payload())
        if self.random.random() < 0.01:
            return encode_payload({"steps": [["ack", 10.0]], "padding": b"p" * 70_000})
        return payload

    def _step(self, depth: int) -> list[Any]:
        random = self.random
        ms = random.choice((0.0, 1.0, 20.0, 300.0, 2_500.0, 8_000.0))
        chance = random.random()
        if chance < 0.45:
            return ["ack", ms]
        if chance < 0.6:
            return ["return", ms, random.randint(0, 1_000)]
        if chance < 0.7:
            return ["nack", ms]
        if chance < 0.75:
            return ["retry", ms, random.choice((0, 10, 3_000))]
        if chance < 0.78:
            return ["reject", ms]
        if chance < 0.83:
            return ["snooze", ms, random.choice((1, 800, 6_000))]
        if chance < 0.88:
            return ["report", ms]
        if chance < 0.91 and not self.is_calm:
            return ["die", ms]
        if chance < 0.93 and not self.is_calm:
            return ["hang", ms]
        if chance < 0.98 and depth == 0:
            return ["send", ms, [self._sent() for _ in range(random.randint(1, 2))]]
        return ["ack", ms]

    def _sent(self) -> list[Any]:
        """A job that a handler sends: queue, payload, options as `Job.send` takes them."""
        options: Options = {}
        if self.random.random() < 0.3:
            options["key"] = self.random.choice(KEYS)
        if self.random.random() < 0.3:
            options["delay"] = self.random.choice((0.05, 2.0))
        if self.random.random() < 0.2:
            options["own_batch"] = True  # to the batch or step of the job itself, if it has one
        return [self.random.choice(list(self.queues)), self.payload(1), options]

    def next_ids(self, count: int) -> list[bytes]:
        """Ids as clients make them, or as somebody chooses them."""
        first = self.sent
        self.sent += count
        if self.random.random() < 0.7:
            return [b"%032x" % (0x019000000000700080000000 << 32 | number) for number in range(first, first + count)]
        return [b"job-%d" % number for number in range(first, first + count)]


def draw(random: Random) -> Mix:
    """A world."""
    mix = Mix(random)
    kind = random.random()
    mix.is_calm = kind < 0.1
    for name in QUEUES[: random.randint(1, 3)]:
        mix.queues[name] = _queue(random, mix.is_calm)
    if random.random() < 0.2 and not mix.is_calm:
        mix.queues[GRAVEYARD] = {}
        for name in list(mix.queues)[:-1]:
            if random.random() < 0.5:
                mix.queues[name]["dead_to"] = GRAVEYARD
    mix.producers = random.randint(1, 3)
    mix.workers = [_worker(random, list(mix.queues), mix.is_calm) for _ in range(random.randint(1, 4))]
    for name in mix.queues:
        if not any(name in worker["queues"] for worker in mix.workers):
            mix.workers[0]["queues"].append(name)
    mix.between_sends = random.choice((50.0, 200.0, 1_000.0))
    mix.orders = random.random() < 0.7
    mix.small_turns = random.random() < 0.3
    mix.window_jobs = random.choice((1, 4, 8192))
    if random.random() < 0.4:
        mix.limits = dict(SMALL)
        mix.tail_window = 4
    if not mix.is_calm:
        mix.latency = random.choice(((0.1, 1.0), (0.1, 30.0), (50.0, 200.0)))
        mix.late = random.choice((0.0, 0.01, 0.1))
        mix.late_ms = random.choice(((10.0, 500.0), (1_000.0, 8_000.0)))
        mix.faults = _faults(random)
    return mix


def _queue(random: Random, is_calm: bool) -> Options:
    """Options of a queue, as the wire has them."""
    options: Options = {"lease": random.choice((5_000, 30_000) if is_calm else (300, 1_000, 5_000, 30_000))}
    options["backoff_max"] = 10_000
    choices: list[tuple[str, tuple[Any, ...]]] = [
        ("max_attempts", (1, 2, 4)),
        ("key_limit", (1, 1, 2)),
        ("in_flight_limit", (1, 3)),
        ("rate", ([5, 1_000], [100, 1_000])),
        ("key_rate", ([4, 1_000], [50, 1_000])),
        ("strategy", ("least_busy", "random")),
        ("max_jobs", (5, 20)),
        ("ttl", (3_000, 60_000)),
        ("on_expiry", ("drop",)),
        ("key_weights", ({"a": 3},)),
        ("poison_losses", (1, 2)),
        ("keep_done", (1, 500)),
    ]
    if not is_calm:
        choices += [("delivery", ("at_most_once",)), ("max_run", (2_000, 10_000)), ("keep_dead_count", (1,))]
    for name, values in choices:
        if random.random() < 0.2:
            options[name] = random.choice(values)
    return options


def _worker(random: Random, queues: list[str], is_calm: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if random.random() < 0.3 and not is_calm:
        options["timeout"] = random.choice((0.2, 2.0, 20.0))
    if random.random() < 0.2:
        options["batch"] = random.choice((2, 5))
    if random.random() < 0.2:
        options["max_attempts"] = random.randint(1, 3)
    return {
        "queues": random.sample(queues, random.randint(1, len(queues))),
        "concurrency": random.choice((1, 2, 5)),
        "yields": random.random() < 0.5,
        "options": options,
    }


def _faults(random: Random) -> Faults:
    """Some kinds of mishap, each rare or frequent."""
    faults = Faults()
    share = random.choice((0.15, 0.4, 0.8))
    for name in vars(faults):
        if random.random() < share:
            setattr(faults, name, random.choice((700.0, 3_000.0, 12_000.0)))
    return faults
