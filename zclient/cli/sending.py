"""`zclient send`: what the options say, made into one job that is sent and perhaps waited for, or into a batch."""

from pathlib import Path
from typing import Any

import click

from zclient.cli import output
from zclient.cli.arguments import job_options
from zclient.cli.batch import send_batch
from zclient.cli.common import client_options, connect, print_done, settings, usage
from zclient.cli.payloads import read_payload
from zclient.errors import StreamRestarted
from zclient.joboptions import JobOptions


@click.command("send")
@click.argument("queue")
@click.argument("payload", required=False)
@click.option("--file", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Send these bytes.")
@click.option("--stdin", is_flag=True, help="Send the bytes that come on stdin.")
@click.option(
    "--batch",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Send a job for each line of FILE, which is its payload in JSON; - is stdin.",
)
@click.option("--wait", is_flag=True, help="Wait until the job is over, and print its result.")
@click.option("--stream", is_flag=True, help="Print what its handler yields, as it comes, a line of JSON each.")
@click.option("--id", "identifier", metavar="ID", help="The job's id; the same job under the same id is stored once.")
@job_options
@click.option("--quiet", "-q", is_flag=True, help="With --batch: print the number of jobs, not their ids.")
@client_options
def send(
    queue: str,
    payload: str | None,
    file: Path | None,
    stdin: bool,
    batch: str | None,
    wait: bool,
    stream: bool,
    identifier: str | None,
    quiet: bool,
    headers: tuple[tuple[str, str], ...],
    **given: Any,
) -> None:
    """Send a job to QUEUE and print its id, or with --wait its result, or with --stream what comes of it.

    PAYLOAD is JSON; without it, and without --file, --stdin and --batch, the payload is null. A text needs its JSON
    quotes: zclient send greet '"hello"'. A payload that starts with a minus goes behind --.
    """
    if sum((payload is not None, file is not None, stdin, batch is not None)) > 1:
        raise usage("give one of PAYLOAD, --file, --stdin and --batch")
    if given["delay"] is not None and given["at"] is not None:
        raise usage("give --delay or --at, not both")
    if given["unique"] is None and (given["unique_for"] is not None or given["on_conflict"] is not None):
        raise usage("--unique-for and --on-conflict go with --unique")
    if quiet and batch is None:
        raise usage("--quiet goes with --batch")
    options = JobOptions(headers=dict(headers) or None, **given)  # type: ignore[typeddict-item]
    if stream:
        if batch is not None or wait or given["unique"] is not None:
            raise usage("--stream goes with one job, without --wait and --unique")
        _stream_one(queue, read_payload(payload, file, stdin), identifier, options)
    elif batch is None:
        _send_one(queue, read_payload(payload, file, stdin), identifier, wait, options)
    elif wait or identifier is not None:
        raise usage("--wait and --id go with one job, not with --batch")
    elif given["unique"] is not None:
        raise usage("--unique goes with one job: of the lines of a batch, which all had it, one would be stored")
    else:
        send_batch(queue, batch, quiet, options)


def _stream_one(queue: str, payload: Any, identifier: str | None, options: JobOptions) -> None:
    given = settings()
    with (
        connect(timeout=given.broker_patience) as client,
        client.stream(queue, payload, id=identifier, timeout=given.timeout, **options) as stream,
    ):
        while True:
            try:
                for value in stream:
                    output.write(output.json_text(value, indent=None) + "\n")
                return
            except StreamRestarted as restarted:
                output.print_note(str(restarted))


def _send_one(queue: str, payload: Any, identifier: str | None, wait: bool, options: JobOptions) -> None:
    given = settings()
    deadline = given.deadline()
    with connect(timeout=given.broker_patience if wait else given.patience) as client:
        job = client.send(queue, payload, id=identifier, **options)
        if job.existing:
            output.print_note(f"job {job.id} has this unique text already; no other was stored")
        try:
            value = job.result(timeout=deadline()) if wait else None
        except KeyboardInterrupt:
            output.print_note(f"job {job.id} goes on; `zclient result {job.id} --wait` waits for it")
            raise
    if wait:
        output.print_value(value, as_json=given.json)
    elif options.get("unique") is None:
        print_done({"id": job.id}, job.id)
    else:
        print_done({"id": job.id, "existing": job.existing}, job.id)
