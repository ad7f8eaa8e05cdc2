"""The verbs of `zclient queue`: which queues there are, how full they are, and pausing, resuming and emptying them."""

import click

from zclient.cli import output
from zclient.cli.common import VerbGroup, client_options, connect, print_done, settings, usage

_COUNTS = ("ready", "scheduled", "leased", "blocked", "dead", "workers")


@click.group("queue", cls=VerbGroup)
@client_options
def queue() -> None:
    """Look at queues, pause, resume and empty them."""


@queue.command("list")
@client_options
def list_queues() -> None:
    """List the queues with what is in them."""
    with connect() as client:
        found = [output.with_times(one) for one in client.queues()]
    if settings().json:
        output.print_json(found)
    elif found:
        columns = ("queue", *_COUNTS, "paused")
        output.print_table(columns, [[one.get(column) for column in columns] for one in found])
    else:
        output.print_note("there are no queues yet: a queue begins with its first job or worker")


@queue.command("show")
@click.argument("name", metavar="QUEUE")
@client_options
def show_queue(name: str) -> None:
    """Show one queue: what is in it, and its policy."""
    with connect() as client:
        found = output.with_times(client.queue(name))
    if settings().json:
        output.print_json(found)
    else:
        output.print_fields(found)


@queue.command("pause")
@click.argument("name", metavar="QUEUE")
@client_options
def pause(name: str) -> None:
    """Stop deliveries from QUEUE. Jobs that run go on, and new ones are taken and wait."""
    with connect() as client:
        client.pause(name)
    print_done({"queue": name, "paused": True}, f"{name} is paused; `zclient queue resume {name}` goes on")


@queue.command("resume")
@click.argument("name", metavar="QUEUE")
@client_options
def resume(name: str) -> None:
    """Deliver from QUEUE again."""
    with connect() as client:
        client.resume(name)
    print_done({"queue": name, "paused": False}, f"{name} delivers")


@queue.command("purge")
@click.argument("name", metavar="QUEUE")
@click.option("--yes", is_flag=True, help="Yes, the waiting jobs of this queue are to go for good.")
@client_options
def purge(name: str, yes: bool) -> None:
    """Remove the jobs of QUEUE that wait for a worker. Running, scheduled and dead ones stay."""
    if not yes:
        raise usage(f"this removes every waiting job of {name} for good; --yes confirms it")
    with connect() as client:
        purged = client.purge(name)
    print_done({"queue": name, "purged": purged}, f"{purged} jobs removed from {name}")
