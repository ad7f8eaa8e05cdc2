"""Schedules: jobs that come by themselves, at the times of a cron expression or at intervals.

A schedule is a row, and a timer for its next occurrence. The job of an occurrence, the schedule's new next time and its
timer are in one commit, so each occurrence has one job over any crash. When cron expressions fire is for the calendar
to say that the core is given.
"""

from collections.abc import Iterator, Mapping
from itertools import chain, islice, takewhile
from typing import Any, NamedTuple, Protocol

from zbroker import limits
from zbroker.core import dead, history, rows
from zbroker.core.entities import Peer
from zbroker.core.policy import Options
from zbroker.core.put import judge_group, put, store
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.states import State as JobState
from zclient.protocol import limits as wire
from zclient.protocol.messages import Answer, Group, Put

OVERLAPS = ("allow", "skip", "queue_one")
CATCH_UPS = ("one", "none", "all")

LATE_MS = 60_000
"""An occurrence that is older than this when it is looked at was missed. A broker that crashes, or stands still for a
moment, so misses none, however often they come."""

AGAIN_MS = 1_000
"""When an occurrence is tried again that cannot be stored now: the disk is low, or a start is not through."""


class Calendar(Protocol):
    """When cron expressions fire; see ``zbroker/calendar.py``."""

    def fault(self, cron: str, zone: str) -> str | None: ...
    def after(self, cron: str, zone: str, ms: int) -> int | None: ...
    def until(self, cron: str, zone: str, ms: int) -> Iterator[int]: ...
    def words(self, cron: str) -> str: ...


class Schedule(NamedTuple):
    """A schedule as its row keeps it. Times are Unix milliseconds."""

    cron: str  # empty where it goes by intervals
    every_ms: int  # 0 where it goes by a cron expression
    zone: str
    queue: str
    payload: bytes
    options: dict[str, Any]
    overlap: str
    catch_up: str
    catch_up_limit: int
    paused: bool
    declared: bool  # by the configuration file
    begun_ms: int  # intervals are counted from here
    next_ms: int  # 0: never again
    last_ms: int = 0
    last_id: bytes = b""
    run_id: bytes = b""  # of the last job that somebody asked for beside the occurrences
    jobs: int = 0  # that it has made
    skipped: int = 0  # occurrences without a job, those left out that were missed
    words: str = ""  # what the cron expression says


def _save(state: State, name: str, schedule: Schedule) -> None:
    """Write the row, and the timer of its next occurrence; a timer of an earlier one is then a ghost."""
    state.tick.rows["schedules"][name.encode()] = rows.pack(schedule)
    if schedule.next_ms and not schedule.paused:
        _look_at(state, name, schedule.next_ms)


def _look_at(state: State, name: str, at_ms: int) -> None:
    key = name.encode()
    state.add_timer(at_ms, rows.TimerRow("", 0, key, 0, [key]), rows.TIMER_SCHEDULE, mark=key)


def _load(state: State, name: str) -> Schedule | None:
    value = state.view.get("schedules", name.encode())
    return Schedule(*rows.unpack(value)) if value is not None else None


def _needed(state: State, name: Any) -> Schedule:
    schedule = _load(state, name) if isinstance(name, str) else None
    if schedule is None:
        raise Refusal("not_found", f"no schedule {name!r:.60}")
    return schedule


# ---- when


def _next_after(state: State, schedule: Schedule, ms: int) -> int:
    """The first occurrence after that time; 0 if none comes."""
    if schedule.every_ms:
        passed = max(0, ms - schedule.begun_ms) // schedule.every_ms
        return schedule.begun_ms + (passed + 1) * schedule.every_ms
    return _calendar(state).after(schedule.cron, schedule.zone, ms) or 0


def _until(state: State, schedule: Schedule, ms: int) -> Iterator[int]:
    """Its occurrences up to that time, the latest first."""
    if not schedule.every_ms:
        return _calendar(state).until(schedule.cron, schedule.zone, ms)
    latest = (ms - schedule.begun_ms) // schedule.every_ms
    return (schedule.begun_ms + n * schedule.every_ms for n in range(latest, 0, -1))


def _calendar(state: State) -> Calendar:
    calendar = state.settings.calendar
    if calendar is None:
        raise Refusal("not_found", "this broker has no calendar, and so no schedules")
    return calendar


def _due(state: State, schedule: Schedule) -> list[int]:
    """The occurrences that get a job now, oldest first: those on time, and of those that were missed as many as the
    schedule wants to catch up on, the latest. With `one` that is none if another comes anyway."""
    before = takewhile(lambda at: at > schedule.next_ms, _until(state, schedule, state.wall))
    due: list[int] = []
    missed = 0
    for at in chain(before, (schedule.next_ms,)):
        if at < state.wall - LATE_MS:
            most = {"none": 0, "one": 0 if due else 1, "all": schedule.catch_up_limit}[schedule.catch_up]
            if missed >= most:
                break
            missed += 1
        due.append(at)
    return due[::-1]


# ---- its timer


def fire(state: State, due_ms: int, timer: rows.TimerRow) -> int:
    """The timer of a schedule: its jobs, and its next time. Returns how many jobs of another timer that weighs."""
    name = timer.key.decode()
    schedule = _load(state, name)
    if schedule is None or schedule.paused or not schedule.next_ms or schedule.next_ms > state.wall:
        return 1  # it was changed since
    if state.disk_low or not state.history.complete:
        _look_at(state, name, state.wall + AGAIN_MS)
        return 1
    due = _due(state, schedule)
    for at in due:
        schedule = _occur(state, name, schedule, at)
    _save(state, name, schedule._replace(next_ms=_next_after(state, schedule, state.wall)))
    return limits.SCHEDULE_WEIGHT * (1 + len(due))


def _occur(state: State, name: str, schedule: Schedule, at: int) -> Schedule:
    """One occurrence: its job, unless the one before it is in the way; the schedule as it is then."""
    if _is_in_the_way(state, schedule):
        return schedule._replace(last_ms=at, skipped=schedule.skipped + 1)
    identifier = f"{name}@{at}".encode()
    try:
        _put(state, name, schedule, identifier, at)
    except Refusal as refusal:
        state.notice("warning", "schedule skipped", schedule=name, queue=schedule.queue, reason=refusal.code)
        return schedule._replace(last_ms=at, skipped=schedule.skipped + 1)
    return schedule._replace(last_ms=at, last_id=identifier, jobs=schedule.jobs + 1)


def _is_in_the_way(state: State, schedule: Schedule) -> bool:
    """Whether a job before forbids another one: at all where it goes on, or only while it waits. That holds for the
    last occurrence, and for the last run that somebody asked for."""
    if schedule.overlap == "allow":
        return False
    for identifier in (schedule.last_id, schedule.run_id):
        before = state.find(identifier) if identifier else None
        if before is None or before.state is JobState.DEAD or dead.is_moved(before.header):
            continue
        if schedule.overlap == "skip" or before.delivery is None:
            return True
    return False


def _put(state: State, name: str, schedule: Schedule, identifier: bytes, at: int) -> None:
    """Store the job of an occurrence, once. The limits of the queue's length do not hold for it: nobody could wait."""
    if state.find(identifier) is not None or history.holds(state, identifier):
        return
    group = _job_of(name, schedule, identifier, at)
    store(state, group, judge_group(state, group))


def _job_of(name: str, schedule: Schedule, identifier: bytes, at: int) -> Group:
    headers = {**schedule.options.get("headers", {}), "schedule": name, "occurrence": at}
    return Group(schedule.queue, {**schedule.options, "headers": headers}, [identifier], [schedule.payload])


# ---- orders


def put_schedule(state: State, arguments: Mapping[str, Any], *, declared: bool = False) -> dict[str, Any]:
    """Make a schedule, or change the one of this name; what it remembers of its past stays."""
    name = _name_of(arguments)
    before = _load(state, name)
    if before is None and state.schedules >= limits.MAX_SCHEDULES:
        raise Refusal("invalid", f"there are {state.schedules} schedules, as many as there may be")
    schedule = _judged(state, arguments)._replace(declared=declared)
    if before is None:
        state.schedules += 1
    else:
        same_times = (before.cron, before.every_ms, before.zone) == (schedule.cron, schedule.every_ms, schedule.zone)
        schedule = schedule._replace(
            last_ms=before.last_ms,
            last_id=before.last_id,
            run_id=before.run_id,
            jobs=before.jobs,
            skipped=before.skipped,
        )
        if same_times:
            schedule = schedule._replace(begun_ms=before.begun_ms)
            next_ms = _next_after(state, schedule, state.wall) if before.paused else before.next_ms
            schedule = schedule._replace(next_ms=next_ms)
    if schedule != before:
        _save(state, name, schedule)
        state.notice("info", "schedule set", schedule=name, queue=schedule.queue)
    return row_of(name, schedule)


def _name_of(arguments: Mapping[str, Any]) -> str:
    name = arguments.get("name")
    fault = wire.schedule_name_fault(name)
    if fault:
        raise Refusal("invalid", fault)
    return str(name)


def _judged(state: State, arguments: Mapping[str, Any]) -> Schedule:
    """The schedule that the arguments describe, from now on; `Refusal` if it cannot be."""
    cron, every, zone = arguments.get("cron", ""), arguments.get("every", 0), arguments.get("zone", "UTC")
    if type(cron) is not str or type(every) is not int or type(zone) is not str or bool(cron) == bool(every):
        raise Refusal("invalid", "a schedule has a cron expression, or an interval (every, in ms), and a zone")
    if every and not wire.MIN_INTERVAL_MS <= every <= wire.MAX_DELAY_MS:
        raise Refusal("invalid", f"an interval is {wire.MIN_INTERVAL_MS} ms to ten years, not {every} ms")
    fault = _calendar(state).fault(cron or "* * * * *", zone)
    if fault:
        raise Refusal("invalid", fault)
    overlap, catch_up = arguments.get("overlap", OVERLAPS[0]), arguments.get("catch_up", CATCH_UPS[0])
    most = arguments.get("catch_up_limit", wire.MAX_CATCH_UP)
    if overlap not in OVERLAPS or catch_up not in CATCH_UPS:
        raise Refusal("invalid", f"overlap is one of {', '.join(OVERLAPS)}; catch_up of {', '.join(CATCH_UPS)}")
    if type(most) is not int or not 1 <= most <= wire.MAX_CATCH_UP:
        raise Refusal("invalid", f"catch_up_limit is 1 to {wire.MAX_CATCH_UP}")
    payload, options = arguments.get("payload"), arguments.get("options", {})
    if type(payload) is not bytes or type(options) is not dict or type(arguments.get("queue")) is not str:
        raise Refusal("invalid", "a schedule has a queue, an encoded payload, and options")
    if len(payload) > state.settings.max_payload:
        raise Refusal("too_large", f"a payload of {len(payload)} bytes; at most {state.settings.max_payload}")
    if "at" in options or "unique" in options or "after" in options or "batch" in options:
        raise Refusal(
            "invalid", "a schedule's jobs have their times and ids from it: no at and no unique, no after and no batch"
        )
    if "stream" in options:
        raise Refusal("invalid", "a schedule's jobs have no reader: no stream")
    judge_group(state, Group(arguments["queue"], _with_room(options), [b"id"], [payload]), closed=True)
    schedule = Schedule(
        cron,
        every,
        zone,
        arguments["queue"],
        payload,
        dict(options),
        overlap,
        catch_up,
        most,
        bool(arguments.get("paused", False)),
        False,
        state.wall,
        0,
    )
    words = _calendar(state).words(cron) if cron else ""
    return schedule._replace(next_ms=_next_after(state, schedule, state.wall), words=words)


def _with_room(options: Options) -> dict[str, Any]:
    """The options with headers as long as those that an occurrence adds."""
    added = {"schedule": "n" * wire.MAX_SCHEDULE_CHARS, "occurrence": 1 << 52}
    headers = options.get("headers", {})
    return {**options, "headers": {**headers, **added} if isinstance(headers, dict) else headers}


def remove(state: State, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """No more jobs of it; those that it made stay."""
    name = str(arguments.get("name"))
    row = row_of(name, _needed(state, arguments.get("name")))
    _forget(state, name)
    return row


def _forget(state: State, name: str) -> None:
    state.tick.rows["schedules"][name.encode()] = None
    state.schedules -= 1
    state.notice("info", "schedule removed", schedule=name)


def run_now(state: State, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One job at once, beside its occurrences and whatever overlaps, also of a paused one; its id. It is judged as any
    job that somebody sends, and refused at the limits of its queue."""
    name = str(arguments.get("name"))
    schedule = _needed(state, arguments.get("name"))
    at = state.wall
    while state.find(identifier := f"{name}@{at}.run".encode()) or history.holds(state, identifier):
        at += 1  # one of the same millisecond
    put(state, Put(0, 0, [_job_of(name, schedule, identifier, at)]))
    changed = schedule._replace(run_id=identifier, last_ms=state.wall, jobs=schedule.jobs + 1)
    state.tick.rows["schedules"][name.encode()] = rows.pack(changed)
    return {"id": identifier}


def pause(state: State, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """No occurrences until it is resumed; those that pass meanwhile are not missed ones."""
    return _paused(state, arguments, paused=True)


def resume(state: State, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Its occurrences from now on."""
    return _paused(state, arguments, paused=False)


def _paused(state: State, arguments: Mapping[str, Any], *, paused: bool) -> dict[str, Any]:
    name = str(arguments.get("name"))
    schedule = _needed(state, arguments.get("name"))
    if schedule.paused != paused:
        schedule = schedule._replace(paused=paused, next_ms=_next_after(state, schedule, state.wall))
        _save(state, name, schedule)
        state.notice("info", "schedule paused" if paused else "schedule resumed", schedule=name)
    return row_of(name, schedule)


# ---- what people see


def tell_all(state: State, peer: Peer, number: int) -> Steps:
    """Slow work: all schedules, by name, to whoever asked."""
    told: list[dict[str, Any]] = []
    route, start = peer.route, b""
    while page := list(islice(state.view.scan("schedules", start, b"\xff"), limits.STEP_ROWS)):
        told += [row_of(key.decode(), Schedule(*rows.unpack(value))) for key, value in page]
        start = page[-1][0] + b"\0"
        yield None
        if peer.route is None or peer.route != route:
            return  # nobody waits for it
    state.send(peer, Answer(number, told))


def row_of(name: str, schedule: Schedule) -> dict[str, Any]:
    """A schedule as people see it."""
    return {
        "name": name,
        "cron": schedule.cron,
        "every_ms": schedule.every_ms,
        "words": schedule.words,
        "zone": schedule.zone,
        "queue": schedule.queue,
        "options": schedule.options,
        "overlap": schedule.overlap,
        "catch_up": schedule.catch_up,
        "catch_up_limit": schedule.catch_up_limit,
        "paused": schedule.paused,
        "declared": schedule.declared,
        "next_at": None if schedule.paused else schedule.next_ms or None,
        "last_at": schedule.last_ms or None,
        "last_id": schedule.last_id or None,
        "jobs": schedule.jobs,
        "skipped": schedule.skipped,
    }


# ---- at a start


def declare(state: State) -> None:
    """What the configuration file declares; what it declared before and does no more goes. What people made themselves
    under a name wins over the file, and so does their pausing and resuming of what it declares."""
    declared = state.settings.schedules
    known = [(key.decode(), Schedule(*rows.unpack(value))) for key, value in state.view.scan("schedules", b"", b"\xff")]
    state.schedules = len(known)
    for name, schedule in known:
        if schedule.declared and name not in declared:
            _forget(state, name)
    for name, arguments in declared.items():
        before = _load(state, name)
        if before is not None and not before.declared:
            continue
        paused = before.paused if before is not None else arguments.get("paused", False)
        try:
            put_schedule(state, {**arguments, "name": name, "paused": paused}, declared=True)
        except Refusal as refusal:
            state.notice("error", "schedule ignored", schedule=name, reason=refusal.text)
