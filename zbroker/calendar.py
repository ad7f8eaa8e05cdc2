"""When cron expressions fire: time zones, summer time and all; and what they say in words.

It reads the time-zone database and knows no schedule. The core is given it, since it may read nothing itself. The rules
of summer time are those of Debian's cron, which `cronsim` follows: a job of a fixed hour runs once on either day of
change, and one of every so many minutes runs as the minutes really pass.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import cronsim.explain  # it would else be loaded in the middle of a turn
from cronsim import CronSim, CronSimError

MAX_CRON_CHARS = 200
"""A cron expression. The longest that say something, sixty minutes one by one, have some 170."""


class Calendar:
    """Occurrences of cron expressions, in Unix milliseconds."""

    def fault(self, cron: str, zone: str) -> str | None:
        """Why the expression, or the zone, cannot be; None if both can."""
        try:
            moment = datetime.now(_zone(zone))
        except (ValueError, OSError, LookupError):
            return f"there is no time zone {zone!r:.60}; its name is like Europe/Berlin, or UTC"
        if len(cron) > MAX_CRON_CHARS:
            return f"a cron expression has at most {MAX_CRON_CHARS} characters, not {len(cron)}"
        try:
            next(CronSim(cron, moment))
        except CronSimError as error:
            return f"{cron!r} is no cron expression: {error}"
        except StopIteration:
            return f"{cron!r} never comes in the next fifty years"
        return None

    def after(self, cron: str, zone: str, ms: int) -> int | None:
        """The first occurrence after that time; None if none comes."""
        return next(self._run(cron, zone, ms, reverse=False), None)

    def until(self, cron: str, zone: str, ms: int) -> Iterator[int]:
        """The occurrences up to that time, the latest first, without end."""
        return self._run(cron, zone, ms + 1, reverse=True)

    def words(self, cron: str) -> str:
        """What the expression says, as a sentence without its stop."""
        parts = CronSim(cron, datetime.now(UTC)).parts
        return str(cronsim.explain.Expression(parts).explain())

    @staticmethod
    def _run(cron: str, zone: str, ms: int, *, reverse: bool) -> Iterator[int]:
        # Occurrences are whole minutes or seconds. Backwards, the search begins before the second that it is given.
        second = -(-ms // 1000) if reverse else ms // 1000
        moment = datetime.fromtimestamp(second, UTC).astimezone(_zone(zone))
        # Expressions of fixed hours are looked for by what the clock on the wall shows. While it shows an hour for the
        # second time, that of the first time is over, and is not found again.
        search = CronSim(cron, moment, reverse=reverse)
        if reverse and moment.fold and search.fixup_tz is not None:
            search = CronSim(cron, moment + _overlap(moment), reverse=True)
        for found in search:
            at = round(found.timestamp() * 1000)
            if (at < ms) if reverse else (at > ms):
                yield at
                ms = at


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _overlap(moment: datetime) -> timedelta:
    """How far the clocks were set back, at a time that they show again."""
    first, second = moment.replace(fold=0).utcoffset(), moment.utcoffset()
    return (first or timedelta()) - (second or timedelta())
