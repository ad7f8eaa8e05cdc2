"""The verbs for single jobs and their listing: show, result, cancel, list. Dead ones have more in `dead`."""

import click

from zclient.cli import output
from zclient.cli.common import EXIT_FAILED, client_options, connect, fail, print_done, settings
from zclient.cli.drawing import job_document, print_job, print_jobs

STATES = ("scheduled", "blocked", "ready", "leased", "done", "dead", "cancelled")


@click.command("show")
@click.argument("identifier", metavar="ID")
@client_options
def show(identifier: str) -> None:
    """Show a job: its state, its failed attempts, its payload and its result."""
    with connect() as client:
        job = client.get(identifier)
    if settings().json:
        output.print_json(job_document(job))
    else:
        print_job(job)


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
        job = client.get(identifier)
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
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options
def list_jobs(queue: str | None, state: str | None, limit: int) -> None:
    """List jobs, of all queues or of QUEUE."""
    with connect() as client:
        # One more than is shown tells whether there are more.
        found = list(client.jobs(queue, state=state, limit=limit + 1))
    print_jobs(found, limit, ("id", "queue", "state", "attempts", "priority", "key", "created"))
