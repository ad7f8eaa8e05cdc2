"""The verbs of `zclient queue`: which queues there are, how full, their policy, and opening and closing them."""

from typing import Any

import click

from zclient.cli import output
from zclient.cli.common import VerbGroup, client_options, connect, print_done, settings, usage
from zclient.options import queue_options
from zclient.verbs import Policy

_COUNTS = ("ready", "scheduled", "leased", "blocked", "dead", "workers")


@click.group("queue", cls=VerbGroup)
@client_options
def queue() -> None:
    """Look at queues, set their policy, pause, drain and empty them."""


@queue.command("list")
@client_options
def list_queues() -> None:
    """List the queues with what is in them."""
    with connect() as client:
        found = [output.with_times(one) for one in client.queues()]
    if settings().json:
        output.print_json(found)
    elif found:
        columns = ("queue", *_COUNTS, "paused", "closed")
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
    policy: Policy = found.pop("policy")
    if settings().json:
        output.print_json({**found, "policy": _document(policy)})
    else:
        output.print_fields(found)
        output.write("\n")
        _print_policy(policy)


def _document(policy: Policy) -> dict[str, Any]:
    return {name: option._asdict() for name, option in policy.items()}


def _print_policy(policy: Policy) -> None:
    rows = [(name, output.plain(option.value), option.source) for name, option in policy.items()]
    output.print_table(("option", "value", "from"), rows)


def _print_changed(name: str, policy: Policy, options: tuple[str, ...]) -> None:
    """What a change came to: the options that were named, or in JSON the whole policy."""
    if settings().json:
        output.print_json({"queue": name, "policy": _document(policy)})
    else:
        _print_policy({option: policy[option] for option in options if option in policy})


@queue.command("set")
@click.argument("name", metavar="QUEUE")
@click.argument("assignments", metavar="OPTION=VALUE...", nargs=-1, required=True)
@client_options
def set_options(name: str, assignments: tuple[str, ...]) -> None:
    """Set options of QUEUE: lease=1m rate=10/1m. They win over the configuration until they are unset.

    A queue that is not there is made. `zclient queue show QUEUE` lists the options.
    """
    options: dict[str, str] = {}
    for assignment in assignments:
        written, equals, value = assignment.partition("=")
        option = written.replace("-", "_")
        if not equals:
            raise usage(f"{assignment!r} is no OPTION=VALUE")
        if option in options:
            raise usage(f"{option} is given twice")
        options[option] = value
    queue_options(options)  # what cannot be is told before anybody is asked
    with connect() as client:
        policy = client.set_queue(name, **options)
    _print_changed(name, policy, tuple(options))


@queue.command("unset")
@click.argument("name", metavar="QUEUE")
@click.argument("options", metavar="OPTION...", nargs=-1, required=True)
@client_options
def unset_options(name: str, options: tuple[str, ...]) -> None:
    """Let the configuration decide these options of QUEUE again."""
    options = tuple(option.replace("-", "_") for option in options)
    with connect() as client:
        policy = client.unset_queue(name, *options)
    _print_changed(name, policy, options)


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
    """Deliver from QUEUE again, and take new jobs: the end of pause and of drain."""
    with connect() as client:
        client.resume(name)
    print_done({"queue": name, "paused": False, "closed": False}, f"{name} delivers")


@queue.command("drain")
@click.argument("name", metavar="QUEUE")
@client_options
def drain(name: str) -> None:
    """Take no new jobs for QUEUE, and work off those it has. `zclient queue resume` opens it again."""
    with connect() as client:
        client.drain(name)
    print_done({"queue": name, "closed": True}, f"{name} takes no new jobs; `zclient queue resume {name}` opens it")


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
