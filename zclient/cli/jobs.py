"""The verbs for single jobs and their listing: show, why, result, cancel, list. Dead ones have more in `dead`."""

import click

from zclient.cli import output
from zclient.cli.arguments import moment_or_age
from zclient.cli.common import EXIT_FAILED, client_options, connect, fail, print_done, settings
from zclient.cli.drawing import job_document, print_change, print_job, print_jobs, print_why, why_document
from zclient.errors import NotFound, ResultExpired

STATES = ("scheduled", "blocked", "ready", "leased", "done", "dead", "cancelled")


@click.command("show")
@click.argument("identifier", metavar="ID")
@click.option("--watch", is_flag=True, help="Print a line now and for each change, until the job is over.")
@client_options
def show(identifier: str, watch: bool) -> None:
    """Show a job: its state, its failed attempts, its payload and its result."""
    if watch:
        _watch(identifier)
        return
    with connect() as client:
        job = client.get(identifier)
    if settings().json:
        output.print_json(job_document(job))
    else:
        print_job(job)


def _watch(identifier: str) -> None:
    given = settings()
    state = ""
    with connect(timeout=given.broker_patience) as client:
        deadline = given.deadline()
        client.get(identifier)  # tells a job that nobody knows, and a broker that is not there, at once
        for job in client.watch(identifier, timeout=deadline()):
            state = job.state
            print_change(job)
    if state != "done":
        raise click.exceptions.Exit(EXIT_FAILED)


@click.command("why")
@click.argument("identifier", metavar="ID")
@client_options
def why(identifier: str) -> None:
    """Say why a job does not run, or what became of it."""
    with connect() as client:
        told = client.why(identifier)
    if settings().json:
        output.print_json(why_document(told))
    else:
        print_why(told)


@click.command("result")
@click.argument("identifier", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the job is over.")
@client_options
def result(identifier: str, wait: bool) -> None:
    """Print the result of a job: bytes as they are, a text as a line, anything else as JSON."""
    given = settings()
    with connect(timeout=given.broker_patience) as client:
        # Asking first tells a job that nobody knows, and a broker that is not there, from a job that takes its time.
        deadline = given.deadline()
        try:
            job = client.get(identifier)
        except NotFound as unknown:
            try:
                value = client.result(identifier, timeout=given.patience)  # it may have ended a moment ago
            except ResultExpired:
                raise unknown from None
        else:
            if not job.is_over and not wait:
                raise fail(f"job {identifier} is {job.state}; --wait waits for its end", EXIT_FAILED)
            value = client.result(identifier, timeout=deadline() if wait else given.patience)
    output.print_value(value, as_json=given.json)


@click.command("cancel")
@click.argument("identifier", metavar="ID")
@client_options
def cancel(identifier: str) -> None:
    """Cancel a job. If it runs, its worker is told, and what the worker then reports still counts."""
    with connect() as client:
        state = client.cancel(identifier)
    text = f"job {identifier} is {state}"
    print_done({"id": identifier, "state": state}, f"{text}; its worker is told" if state == "leased" else text)


@click.command("list")
@click.argument("queue", required=False)
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option(
    "--since", type=moment_or_age, metavar="TIME", help="Only jobs from then on, or from so long ago: 10m, 2h, 1d."
)
@click.option("--until", type=moment_or_age, metavar="TIME", help="Only jobs up to then, or up to so long ago.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options
def list_jobs(queue: str | None, state: str | None, since: float | None, until: float | None, limit: int) -> None:
    """List jobs, of all queues or of QUEUE.

    A job that is over counts by when it ended, another by when it was made. TIME is ISO 8601 or Unix seconds.
    """
    with connect() as client:
        # One more than is shown tells whether there are more.
        found = list(client.jobs(queue, state=state, since=since, until=until, limit=limit + 1))
    print_jobs(found, limit, ("id", "queue", "state", "attempts", "priority", "key", "created"))
