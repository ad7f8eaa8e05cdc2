"""The verbs of `zclient schedule`: jobs that come by themselves."""

from typing import Any

import click

from zclient.cli import output
from zclient.cli.arguments import schedule_options
from zclient.cli.common import VerbGroup, client_options, connect, duration, print_done, settings
from zclient.cli.payloads import read_payload
from zclient.schedules import CATCH_UPS, OVERLAPS, Schedule

_INTERVAL = ("every ", "@every ")


@click.group("schedule", cls=VerbGroup)
@client_options
def schedule() -> None:
    """Make jobs come by themselves: by a cron expression, or at intervals."""


@schedule.command("add")
@click.argument("name")
@click.argument("cron")
@click.argument("queue")
@click.argument("payload", required=False)
@click.option("--tz", default="UTC", show_default=True, metavar="ZONE", help="The time zone of the expression.")
@click.option("--overlap", type=click.Choice(OVERLAPS), default=OVERLAPS[0], help="While the job before goes on.")
@click.option("--catch-up", type=click.Choice(CATCH_UPS), default=CATCH_UPS[0], help="After a time without a broker.")
@click.option(
    "--catch-up-limit", type=click.IntRange(1, 100), default=100, metavar="N", help="With all: at most so many."
)
@click.option("--paused", is_flag=True, help="Wait for `zclient schedule resume`.")
@schedule_options
@client_options
def add(
    name: str,
    cron: str,
    queue: str,
    payload: str | None,
    tz: str,
    overlap: str,
    catch_up: str,
    catch_up_limit: int,
    paused: bool,
    headers: tuple[tuple[str, str], ...],
    **options: Any,
) -> None:
    """Make the schedule NAME, or change it: at the times of CRON a job comes to QUEUE.

    CRON is a cron expression of five fields (six with seconds), such as '30 3 * * mon-fri', or an interval: 'every 5m'.
    PAYLOAD is JSON. One job comes for each occurrence, also over a crash of the broker.
    """
    when: dict[str, Any] = {"cron": cron}
    for word in _INTERVAL:
        if cron.startswith(word):
            when = {"every": duration(cron.removeprefix(word))}
    with connect() as client:
        made = client.schedule(
            name,
            queue,
            read_payload(payload, None, False),
            tz=tz,
            overlap=overlap,
            catch_up=catch_up,
            catch_up_limit=catch_up_limit,
            paused=paused,
            headers=dict(headers) or None,
            **when,
            **options,
        )
    following = "paused" if made.paused else f"next at {output.plain(made.next_at)}"
    print_done(_fields(made), f"{name}: {made.words} ({made.tz}); {following}")


@schedule.command("list")
@client_options
def list_schedules() -> None:
    """List the schedules: when they run, in words, when they ran last, and when they run next."""
    with connect() as client:
        found = client.schedules()
    if settings().json:
        output.print_json([_fields(one) for one in found])
    elif not found:
        output.print_note("there are no schedules; `zclient schedule add` makes one")
    else:
        columns = ("name", "queue", "next", "last", "jobs", "when", "zone")
        rows = [
            (one.name, one.queue, "paused" if one.paused else one.next_at, one.last_at, one.jobs, one.words, one.tz)
            for one in found
        ]
        output.print_table(columns, rows)


@schedule.command("remove")
@click.argument("name")
@client_options
def remove(name: str) -> None:
    """Remove the schedule NAME; the jobs that it made stay."""
    with connect() as client:
        client.remove_schedule(name)
    print_done({"name": name, "removed": True}, f"{name} is removed")


@schedule.command("run")
@click.argument("name")
@client_options
def run(name: str) -> None:
    """Run NAME once now, beside its occurrences; prints the id of the job."""
    with connect() as client:
        job = client.run_schedule(name)
    print_done({"id": job.id}, job.id)


@schedule.command("pause")
@click.argument("name")
@client_options
def pause(name: str) -> None:
    """Let NAME rest. Occurrences that pass meanwhile are not caught up on."""
    with connect() as client:
        client.pause_schedule(name)
    print_done({"name": name, "paused": True}, f"{name} is paused; `zclient schedule resume {name}` goes on")


@schedule.command("resume")
@click.argument("name")
@client_options
def resume(name: str) -> None:
    """Let NAME go on, from its next occurrence."""
    with connect() as client:
        resumed = client.resume_schedule(name)
    print_done(_fields(resumed), f"{name}: next at {output.plain(resumed.next_at)}")


def _fields(one: Schedule) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}
