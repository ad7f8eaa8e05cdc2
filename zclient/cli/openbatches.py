"""The verbs of `zclient batch`."""

from dataclasses import asdict
from operator import attrgetter

import click

from zclient.cli import output
from zclient.cli.common import VerbGroup, client_options, connect, print_done, settings
from zclient.cli.drawing import print_listing
from zclient.openbatches import BATCH_STATES, BatchStatus


@click.group("batch", cls=VerbGroup)
@client_options
def batch() -> None:
    """Look at batches: jobs that are counted together. (`zclient send --batch` is about a file of jobs.)"""


@batch.command("list")
@click.option("--state", type=click.Choice(BATCH_STATES), help="Only batches in this state.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options
def list_batches(state: str | None, limit: int) -> None:
    """List batches, the newest first.

    Steps of workflows are batches too, and not among them.
    """
    with connect() as client:
        found = list(client.batches(state=state, limit=limit + 1))  # one more tells whether there are more
    columns = {name: attrgetter(name) for name in ("id", "name", "state", "total", "done", "dead", "cancelled")}
    print_listing(found, limit, asdict, {**columns, "created": attrgetter("created_at")})


@batch.command("show")
@click.argument("identifier", metavar="ID")
@client_options
def show(identifier: str) -> None:
    """Show a batch: its counters, and which of its callbacks came."""
    with connect() as client:
        status = client.batch(id=identifier).status()
    if settings().json:
        output.print_json(asdict(status))
        return
    output.print_fields(
        {
            "id": status.id,
            "name": status.name or None,
            "state": status.state,
            "jobs": status.total,
            "done": status.done,
            "dead": status.dead or None,
            "cancelled": status.cancelled or None,
            "created": status.created_at,
            "over": status.over_at,
            **{kind: _callback(status, kind) for kind in status.callbacks},
        }
    )


@batch.command("close")
@click.argument("identifier", metavar="ID")
@client_options
def close(identifier: str) -> None:
    """Close a batch: it takes no more jobs.

    But for those that its own jobs add.
    """
    with connect() as client:
        status = client.batch(id=identifier).close()
    print_done(asdict(status), f"batch {identifier} is closed, and {status.state}")


def _callback(status: BatchStatus, kind: str) -> str:
    queue = status.callbacks[kind]
    if kind not in status.fired:
        return f"to {queue}"
    return f"to {queue}: job {status.id}.{kind.removeprefix('on_')}"
