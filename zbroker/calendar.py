"""When cron expressions fire: time zones, summer time and all; and what they say in words.

It reads the time-zone database and knows no schedule. The core is given it, since it may read nothing itself. The rules
of summer time are those of Debian's cron, which `cronsim` follows: a job of a fixed hour runs once on either day of
change, and one of every so many minutes runs as the minutes really pass.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError


class Calendar:
    """Occurrences of cron expressions, in Unix milliseconds."""

    def fault(self, cron: str, zone: str) -> str | None:
        """Why the expression, or the zone, cannot be; None if both can."""
        try:
            moment = datetime.now(ZoneInfo(zone))
        except (ValueError, OSError, LookupError):
            return f"there is no time zone {zone!r}; write Europe/Berlin, UTC, ..."
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
        return str(CronSim(cron, datetime.now(UTC)).explain())

    @staticmethod
    def _run(cron: str, zone: str, ms: int, *, reverse: bool) -> Iterator[int]:
        # Occurrences are whole minutes or seconds. Backwards, the search begins before the second that it is given.
        second = -(-ms // 1000) if reverse else ms // 1000
        moment = datetime.fromtimestamp(second, UTC).astimezone(ZoneInfo(zone))
        for found in CronSim(cron, moment, reverse=reverse):
            yield round(found.timestamp() * 1000)
