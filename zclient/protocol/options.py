"""The options of jobs, tasks and queues as they travel: names, ranges, defaults; their only home.

Units are the wire's: durations in milliseconds, a rate as ``[jobs, milliseconds]``, 0 for "none". The broker judges by
these tables what peers send; clients and the broker's settings read from them how people write an option, and in which
range. How each works is on the pages of ``docs/``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from zclient.protocol import limits


class Option(NamedTuple):
    """One option. ``kind`` says what its value is, and how people write it."""

    kind: str
    default: Any
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    help: str = ""

    def fault(self, value: Any) -> str | None:
        """Why ``value`` cannot be this option's, or None if it can."""
        return _FAULTS[self.kind](self, value)


DAY_MS = 86_400_000
YEAR_MS = 366 * DAY_MS

BACKOFFS = ("exponential", "linear", "constant")
DELIVERIES = ("at_least_once", "at_most_once")
STRATEGIES = ("round_robin", "least_busy", "random")
PERIODS = ("done", "waiting")
PARENT_RULES = ("cancel", "run", "wait")
CONFLICTS = ("existing", "replace", "debounce")

_RETRY: dict[str, Option] = {
    "max_attempts": Option("count", 5, 1, limits.MAX_ATTEMPTS, help="runs, the first counts"),
    "backoff": Option(
        "backoff", "exponential", 0, YEAR_MS, BACKOFFS, "how the wait grows with each retry, or the waits themselves"
    ),
    "backoff_min": Option("duration", 1_000, 1, DAY_MS, help="wait before the first retry"),
    "backoff_max": Option("duration", 600_000, 1, YEAR_MS, help="longest wait before a retry"),
    "backoff_jitter": Option("share", 1.0, help="share of the wait that chance may take off"),
}

JOB_OPTIONS: dict[str, Option] = {
    "priority": Option("count", 0, limits.MIN_PRIORITY, limits.MAX_PRIORITY, help="higher is served first"),
    "key": Option("text", "", 0, limits.MAX_KEY_BYTES, help="jobs with one key share a lane"),
    "delay": Option("duration", 0, 0, limits.MAX_DELAY_MS, help="kept back for so long"),
    "at": Option("moment", 0, 0, 1 << 53, help="kept back until then"),
    "ttl": Option("duration", 0, 0, limits.MAX_DELAY_MS, help="time to begin in, once it may; 0: none"),
    **_RETRY,
    "after": Option("ids", (), 1, limits.MAX_PARENTS, help="wait until these jobs are over"),
    "on_parent_death": Option("choice", "cancel", choices=PARENT_RULES, help="when one of them dies or is cancelled"),
    "batch": Option("id", b"", help="the batch that it belongs to"),
    "unique": Option("text", "", 1, limits.MAX_KEY_BYTES, help="at most one job of the queue with this text"),
    "unique_for": Option("period", "done", 1, limits.MAX_DELAY_MS, PERIODS, "how long the text stays taken"),
    "on_conflict": Option("choice", "existing", choices=CONFLICTS, help="what becomes of a second job"),
    "headers": Option("headers", {}, 0, limits.MAX_HEADERS_BYTES, help="context beside the payload"),
    "stream": Option("flag", False, help="it has a reader, who takes what its handler yields"),
}
"""What a producer may say of a job."""

COPY_OPTIONS: dict[str, Option] = {
    name: option
    for name, option in JOB_OPTIONS.items()
    if name not in ("after", "on_parent_death", "unique", "unique_for", "on_conflict", "batch", "stream")
}
"""What somebody who publishes may say of the copies: what does not tie a job to others."""

SCHEDULE_OPTIONS: dict[str, Option] = {name: option for name, option in COPY_OPTIONS.items() if name != "at"}
"""What a schedule may say of its jobs: their times and ids it gives them itself."""

CALLED_OPTIONS = frozenset({"stream"})
"""Those of them that nobody writes: a call of its own (`Client.stream`) says them."""

TASK_OPTIONS: dict[str, Option] = dict(_RETRY)
"""What a worker may say of the jobs that it runs, for a queue at a time: it wins over the queue, the job over it."""

QUEUE_OPTIONS: dict[str, Option] = {
    "lease": Option("duration", 30_000, 100, DAY_MS, help="a delivered job's, unless it is renewed"),
    **_RETRY,
    "max_run": Option("duration", 0, 0, YEAR_MS, help="longest run, renewed or not; 0: none"),
    "ttl": Option("duration", 0, 0, limits.MAX_DELAY_MS, help="time for a job to begin in; 0: none"),
    "on_expiry": Option("choice", "dead", choices=("dead", "drop"), help="what becomes of a job that expired"),
    "delivery": Option("choice", "at_least_once", choices=DELIVERIES, help="whether a started job may start again"),
    "strategy": Option("choice", "round_robin", choices=STRATEGIES, help="which worker gets the next job"),
    "key_limit": Option("count", 0, 0, 1_000_000, help="jobs of one key in flight; 1: in order; 0: none"),
    "key_weights": Option("weights", {}, 1, 1_000, help="turns of a key among the others; 1 if not said"),
    "in_flight_limit": Option("count", 0, 0, 1_000_000_000, help="jobs in flight; 0: none"),
    "rate": Option("rate", 0, help="deliveries in a time; 0: none"),
    "key_rate": Option("rate", 0, help="deliveries of one key in a time; 0: none"),
    "max_jobs": Option("count", 0, 0, 1 << 52, help="jobs that wait; 0: none"),
    "max_bytes": Option("size", 0, 0, 1 << 52, help="bytes of the jobs that wait; 0: none"),
    "keep_done": Option("duration", 3_600_000, 0, 10 * YEAR_MS, help="how long finished jobs and results are kept"),
    "keep_dead": Option("duration", 0, 0, 10 * YEAR_MS, help="how long dead jobs are kept; 0: without end"),
    "keep_dead_count": Option("count", 0, 0, 1 << 52, help="dead jobs kept; 0: no limit"),
    "dead_to": Option("queue", "", help="the queue that gets dead jobs instead"),
    "poison_losses": Option("count", 3, 1, 1_000, help="workers lost with a job alone until it is dead"),
}
"""What a queue may say of its jobs. Each has a default for all queues among the broker's settings."""

MAX_BACKOFF_STEPS = 100
"""Waits in a list of them."""

MAX_WEIGHTS = 1_000
"""Keys that a queue may give a weight."""

MAX_RATE_JOBS = 1_000_000
"""Jobs in a rate."""


def job_fault(options: Mapping[Any, Any]) -> str | None:
    """Why these cannot be the options of a job, or None if they can. Values are judged by themselves, then together."""
    fault = options_fault(JOB_OPTIONS, options)
    if fault is not None:
        return fault
    if "delay" in options and "at" in options:
        return "delay and at exclude each other"
    if "unique" not in options and ("unique_for" in options or "on_conflict" in options):
        return "unique_for and on_conflict go with unique"
    if "on_parent_death" in options and "after" not in options:
        return "on_parent_death goes with after"
    if "batch" in options and options["batch"] in options.get("after", ()):
        return "after: a job cannot wait for the batch that it belongs to"
    if "stream" in options and "unique" in options:
        return "stream and unique exclude each other: a stream has one reader"
    return None


def options_fault(table: Mapping[str, Option], options: Mapping[Any, Any]) -> str | None:
    """Why these cannot be options of a table, each by itself, or None if they can."""
    for name, value in options.items():
        option = table.get(name)
        if option is None:
            return f"unknown option {name!r:.60}"
        fault = option.fault(value)
        if fault is not None:
            return f"{name}: {fault}"
    return None


# ---- one kind of value each


def _whole(option: Option, value: Any) -> str | None:
    if type(value) is int and option.low <= value <= option.high:
        return None
    return f"an integer from {option.low} to {option.high}, not {value!r:.40}"


def _share(option: Option, value: Any) -> str | None:
    if type(value) in (int, float) and 0 <= value <= 1:
        return None
    return f"a number from 0 to 1, not {value!r:.40}"


def _choice(option: Option, value: Any) -> str | None:
    if type(value) is str and value in option.choices:
        return None
    return f"one of {', '.join(option.choices)}, not {value!r:.40}"


def _flag(option: Option, value: Any) -> str | None:
    return None if type(value) is bool else f"true or false, not {value!r:.40}"


def _text(option: Option, value: Any) -> str | None:
    if type(value) is str and "\0" not in value and option.low <= len(value.encode()) <= option.high:
        return None
    return f"text of {option.low} to {option.high} bytes without NUL"


def _backoff(option: Option, value: Any) -> str | None:
    if type(value) is str:
        return _choice(option, value)
    if type(value) is list and 0 < len(value) <= MAX_BACKOFF_STEPS:
        if all(type(wait) is int and option.low <= wait <= option.high for wait in value):
            return None
    return f"one of {', '.join(option.choices)}, or a list of 1 to {MAX_BACKOFF_STEPS} waits, not {value!r:.40}"


def _period(option: Option, value: Any) -> str | None:
    return _choice(option, value) if type(value) is str else _whole(option, value)


def _ids(option: Option, value: Any) -> str | None:
    if type(value) is list and option.low <= len(value) <= option.high:
        if all(type(identifier) is bytes and limits.id_fault(identifier) is None for identifier in value):
            return None
    return f"a list of {option.low} to {option.high} job ids"


def _id(option: Option, value: Any) -> str | None:
    if type(value) is bytes and limits.id_fault(value) is None:
        return None
    return "an id, as bytes"


def _rate(option: Option, value: Any) -> str | None:
    if type(value) is int and value == 0:
        return None
    if type(value) is list and len(value) == 2 and all(type(part) is int for part in value):
        jobs, per_ms = value
        if 0 < jobs <= MAX_RATE_JOBS and 0 < per_ms <= DAY_MS:
            return None
    return f"0, or 1 to {MAX_RATE_JOBS} jobs in 1 ms to a day, not {value!r:.40}"


def _weights(option: Option, value: Any) -> str | None:
    if type(value) is not dict or len(value) > MAX_WEIGHTS:
        return f"a map of at most {MAX_WEIGHTS} keys"
    for key, weight in value.items():
        if JOB_OPTIONS["key"].fault(key) is not None or _whole(option, weight) is not None:
            return f"keys with weights from {option.low} to {option.high}, not {key!r:.40}: {weight!r:.40}"
    return None


def _queue(option: Option, value: Any) -> str | None:
    if type(value) is not str:
        return "the name of a queue"
    return limits.queue_name_fault(value) if value else None


def _headers(option: Option, value: Any) -> str | None:
    if type(value) is not dict:
        return "a map"
    for name, entry in value.items():
        if type(name) is not str or type(entry) not in (str, int, float, bool):
            return f"names are text, values text, numbers or booleans: {name!r:.40}"
    return None


_FAULTS = {
    "count": _whole,
    "duration": _whole,
    "moment": _whole,
    "size": _whole,
    "share": _share,
    "choice": _choice,
    "flag": _flag,
    "text": _text,
    "backoff": _backoff,
    "period": _period,
    "rate": _rate,
    "ids": _ids,
    "id": _id,
    "weights": _weights,
    "queue": _queue,
    "headers": _headers,
}
