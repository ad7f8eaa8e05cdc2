"""The verbs of `zclient dead`: looking at jobs that will not be tried again, replaying and dropping them."""

import click

from zclient.cli import output
from zclient.cli.common import EXIT_NOT_FOUND, VerbGroup, client_options, connect, fail, print_done, settings, usage
from zclient.cli.drawing import job_document, print_job, print_jobs
from zclient.verbs import Bulk


@click.group("dead", cls=VerbGroup)
@client_options
def dead() -> None:
    """Look at dead jobs, replay or drop them."""


@dead.command("list")
@click.argument("queue", required=False)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options
def list_dead(queue: str | None, limit: int) -> None:
    """List dead jobs, of all queues or of QUEUE, with the reason of each."""
    with connect() as client:
        found = list(client.dead(queue, limit=limit + 1))
    print_jobs(found, limit, ("id", "queue", "attempts", "died", "reason", "error"))


@dead.command("show")
@click.argument("identifier", metavar="ID")
@client_options
def show_dead(identifier: str) -> None:
    """Show a dead job with the error, worker and time of every attempt."""
    with connect() as client:
        job = client.get(identifier)
    if job.state != "dead":
        raise fail(
            f"job {identifier} is not dead but {job.state}; `zclient show {identifier}` shows it", EXIT_NOT_FOUND
        )
    if settings().json:
        output.print_json(job_document(job))
    else:
        print_job(job)


@dead.command("replay")
@click.argument("targets", metavar="ID... | QUEUE --all", nargs=-1, required=True)
@click.option("--all", "whole", is_flag=True, help="All dead jobs of one QUEUE, which stands in the place of the ids.")
@click.option("--rate", type=click.IntRange(1, 1_000_000), metavar="N", help="With --all: N jobs a second.")
@client_options
def replay(targets: tuple[str, ...], whole: bool, rate: int | None) -> None:
    """Make dead jobs ready again, with their attempts counted afresh."""
    if rate is not None and not whole:
        raise usage("--rate goes with --all; jobs that are named are replayed at once")
    with connect() as client:
        if whole:
            answer = client.replay(queue=_one_queue(targets), rate=rate)
        else:
            answer = client.replay(ids=targets)
    _tell(answer, "replayed", targets)


@dead.command("drop")
@click.argument("targets", metavar="ID... | QUEUE --all", nargs=-1, required=True)
@click.option("--all", "whole", is_flag=True, help="All dead jobs of one QUEUE, which stands in the place of the ids.")
@click.option("--yes", is_flag=True, help="Yes, all dead jobs of this queue are to go for good.")
@client_options
def drop(targets: tuple[str, ...], whole: bool, yes: bool) -> None:
    """Remove dead jobs for good."""
    if whole and not yes:
        raise usage(f"this removes every dead job of {_one_queue(targets)} for good; --yes confirms it")
    with connect() as client:
        if whole:
            answer = client.drop(queue=_one_queue(targets))
        else:
            answer = client.drop(ids=targets)
    _tell(answer, "dropped", targets)


def _tell(done: Bulk, past: str, targets: tuple[str, ...]) -> None:
    if done.work is None:
        print_done({past: done.count}, f"{done.count} jobs {past}")
    else:
        print_done(
            {past: done.count, "work": done.work},
            f"{targets[0]}'s dead jobs are being {past}; `zclient queue show {targets[0]}` shows how many are left",
        )


def _one_queue(targets: tuple[str, ...]) -> str:
    if len(targets) != 1:
        raise usage(f"--all takes one QUEUE, not {len(targets)} names")
    return targets[0]
