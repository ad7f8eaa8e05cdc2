"""`zclient worker list` and `zclient stats`: who is connected, and the broker's counters."""

import click

from zclient.cli import output
from zclient.cli.common import VerbGroup, client_options, connect, settings


@click.group("worker", cls=VerbGroup)
@client_options
def worker() -> None:
    """Look at the workers that are connected."""


@worker.command("list")
@client_options
def list_workers() -> None:
    """List the connected workers, what they serve and how busy they are.

    `running for` is the age of the oldest delivery that a worker holds, `last progress` when it last told how far a job
    is: a worker that is alive and does not get on shows there.
    """
    with connect() as client:
        workers = [output.with_times(one) for one in client.workers()]
    if settings().json:
        output.print_json(workers)
    elif not workers:
        output.print_note("no worker is connected; `zworker run MODULE` starts one")
    else:
        output.print_table(
            ("id", "name", "capacity", "leased", "connected for", "running for", "last progress", "queues"),
            [
                (
                    one["id"],
                    one["name"],
                    one["capacity"],
                    one["leased"],
                    output.span(one["connected_for_ms"] / 1000),
                    _span_or_none(one.get("running_for_ms")),
                    _span_or_none(one.get("last_progress_ms"), " ago"),
                    " ".join(one["queues"]),
                )
                for one in workers
            ],
        )


def _span_or_none(milliseconds: int | None, behind: str = "") -> str:
    return "-" if milliseconds is None else output.span(milliseconds / 1000) + behind


@click.command("stats")
@client_options
def stats() -> None:
    """Print the broker's counters."""
    with connect() as client:
        counters = output.with_times(client.stats())
    if settings().json:
        output.print_json(counters)
    else:
        output.print_fields(counters)
