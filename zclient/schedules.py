"""Schedules as people write and see them: jobs that come by themselves, by a cron expression or at intervals.

It turns what a caller says into the arguments of the orders, and answers into `Schedule`. It sends nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack

from zclient.config import Duration
from zclient.durations import duration_ms, format_duration
from zclient.errors import InvalidArgument
from zclient.handles import text_of
from zclient.joboptions import JobOptions
from zclient.jobs import encode_payload, moment, queue_name, whole, wire_options
from zclient.protocol.limits import MAX_CATCH_UP, MAX_DELAY_MS, MIN_INTERVAL_MS, schedule_name_fault
from zclient.protocol.options import JOB_OPTIONS, SCHEDULE_OPTIONS
from zclient.verbs import Verb

OVERLAPS = ("allow", "skip", "queue_one")
CATCH_UPS = ("one", "none", "all")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as the broker told it. Points in time are datetimes in UTC; what does not apply is None."""

    name: str
    queue: str
    cron: str | None
    every: str | None
    tz: str
    words: str
    next_at: datetime | None
    last_at: datetime | None
    last_id: str | None
    paused: bool
    declared: bool
    overlap: str
    catch_up: str
    catch_up_limit: int
    jobs: int
    skipped: int

    @classmethod
    def from_wire(cls, row: dict[str, Any]) -> "Schedule":
        """From a row of ``schedules``."""
        every = format_duration(row["every_ms"] / 1000) if row["every_ms"] else None
        return cls(
            name=row["name"],
            queue=row["queue"],
            cron=row["cron"] or None,
            every=every,
            tz=row["zone"],
            words=row["words"] or f"Every {every}",
            next_at=moment(row["next_at"]),
            last_at=moment(row["last_at"]),
            last_id=text_of(row["last_id"]),
            paused=row["paused"],
            declared=row["declared"],
            overlap=row["overlap"],
            catch_up=row["catch_up"],
            catch_up_limit=row["catch_up_limit"],
            jobs=row["jobs"],
            skipped=row["skipped"],
        )


def schedule_arguments(
    name: str,
    *,
    queue: str,
    payload: Any = None,
    cron: str | None = None,
    every: Duration | None = None,
    tz: str = "UTC",
    overlap: str = "allow",
    catch_up: str = "one",
    catch_up_limit: int = 100,
    paused: bool = False,
    **options: Unpack[JobOptions],
) -> dict[str, Any]:
    """What the broker is told of a schedule; `InvalidArgument` for what no schedule can say. The broker judges the cron
    expression and the zone."""
    if fault := schedule_name_fault(name):
        raise InvalidArgument(fault)
    if (cron is None) == (every is None):
        raise InvalidArgument("a schedule has either a cron expression or an interval (every)")
    if [type(given) for given in (tz, cron or "", paused)] != [str, str, bool]:
        raise InvalidArgument("cron and tz are texts, paused is true or false")
    for option, value in options.items():
        if value is not None and option in JOB_OPTIONS and option not in SCHEDULE_OPTIONS:
            text = "a schedule's jobs have their times and ids from it, and each is by itself"
            raise InvalidArgument(f"{text}: no at and no unique, no after and no batch; not {option}")
    if overlap not in OVERLAPS:
        raise InvalidArgument(f"overlap is one of {', '.join(OVERLAPS)}, not {overlap!r}")
    if catch_up not in CATCH_UPS:
        raise InvalidArgument(f"catch_up is one of {', '.join(CATCH_UPS)}, not {catch_up!r}")
    when = {"cron": cron} if cron is not None else {"every": _interval_ms(every)}
    return {
        "name": name,
        **when,
        "zone": tz,
        "queue": queue_name(queue),
        "payload": encode_payload(payload),
        "options": wire_options(**options),
        "overlap": overlap,
        "catch_up": catch_up,
        "catch_up_limit": whole(catch_up_limit, "catch_up_limit", 1, MAX_CATCH_UP),
        "paused": paused,
    }


def _interval_ms(every: Any) -> int:
    interval_ms = duration_ms(every)
    if not MIN_INTERVAL_MS <= interval_ms <= MAX_DELAY_MS:
        raise InvalidArgument(f"an interval is one second to ten years, not {every!r:.60}")
    return interval_ms


def put(arguments: dict[str, Any]) -> Verb[Schedule]:
    """Make or change a schedule."""
    return Verb("order", "set_schedule", arguments, Schedule.from_wire)


def change(verb: str, name: str) -> Verb[Schedule]:
    """``remove``, ``pause`` or ``resume`` a schedule; how it is then, or was."""
    return Verb("order", f"{verb}_schedule", {"name": name}, Schedule.from_wire)


def run_now(name: str) -> Verb[str]:
    """One job of a schedule at once; its id."""
    return Verb("order", "run_schedule", {"name": name}, lambda value: text_of(value["id"]) or "")


def listed() -> Verb[list[Schedule]]:
    """All schedules, by name."""
    return Verb("ask", "schedules", {}, lambda value: [Schedule.from_wire(row) for row in value])
