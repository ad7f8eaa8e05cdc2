"""`zclient send`: what the options say, made into one job that is sent and perhaps waited for, or into a batch."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from zclient.cli import output
from zclient.cli.batch import send_batch
from zclient.cli.common import client_options, connect, duration, print_done, settings, usage
from zclient.cli.payloads import JobOptions, read_payload
from zclient.protocol import limits


def moment(text: str) -> float:
    """A point in time, for ``type=``: ISO 8601, local unless it names its zone, or Unix seconds; in Unix seconds."""
    try:
        return float(text)
    except ValueError:
        pass  # Not a number, so it is a date.
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time: write 2031-05-04T12:30, with Z or +02:00 if not local"
        ) from None


def header(text: str) -> tuple[str, str]:
    """``KEY=VALUE``, for ``type=``, as a pair. The value may be empty, and may hold further ``=``."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is no header: write KEY=VALUE")
    return key, value


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
@click.option(
    "--priority",
    type=click.IntRange(limits.MIN_PRIORITY, limits.MAX_PRIORITY),
    help="Higher is served first.  [default: 0]",
)
@click.option("--delay", type=duration, metavar="DURATION", help="Keep it back for so long.")
@click.option("--at", type=moment, metavar="TIME", help="Keep it back until then: ISO 8601, or Unix seconds.")
@click.option("--max-attempts", type=click.IntRange(1, limits.MAX_ATTEMPTS), help="Runs before it is dead.")
@click.option("--key", help="Jobs with the same key share a lane.")
@click.option("--id", "identifier", metavar="ID", help="The job's id; the same job under the same id is stored once.")
@click.option("--header", "headers", type=header, multiple=True, metavar="KEY=VALUE", help="Context; repeatable.")
@click.option("--quiet", "-q", is_flag=True, help="With --batch: print the number of jobs, not their ids.")
@client_options
def send(
    queue: str,
    payload: str | None,
    file: Path | None,
    stdin: bool,
    batch: str | None,
    wait: bool,
    identifier: str | None,
    quiet: bool,
    headers: tuple[tuple[str, str], ...],
    priority: int | None,
    delay: float | None,
    at: float | None,
    max_attempts: int | None,
    key: str | None,
) -> None:
    """Send a job to QUEUE and print its id, or with --wait its result.

    PAYLOAD is JSON; without it, and without --file, --stdin and --batch, the payload is null. A text needs its JSON
    quotes: zclient send greet '"hello"'. A payload that starts with a minus goes behind --.
    """
    if sum((payload is not None, file is not None, stdin, batch is not None)) > 1:
        raise usage("give one of PAYLOAD, --file, --stdin and --batch")
    if delay is not None and at is not None:
        raise usage("give --delay or --at, not both")
    if quiet and batch is None:
        raise usage("--quiet goes with --batch")
    options = JobOptions(
        priority=priority, delay=delay, at=at, max_attempts=max_attempts, key=key, headers=dict(headers) or None
    )
    if batch is None:
        _send_one(queue, read_payload(payload, file, stdin), identifier, wait, options)
    elif wait or identifier is not None:
        raise usage("--wait and --id go with one job, not with --batch")
    else:
        send_batch(queue, batch, quiet, options)


def _send_one(queue: str, payload: Any, identifier: str | None, wait: bool, options: JobOptions) -> None:
    given = settings()
    deadline = given.deadline()
    with connect(timeout=given.broker_patience if wait else given.patience) as client:
        job = client.send(queue, payload, id=identifier, **options)
        try:
            value = job.result(timeout=deadline()) if wait else None
        except KeyboardInterrupt:
            output.print_note(f"job {job.id} goes on; `zclient result {job.id} --wait` waits for it")
            raise
    if wait:
        output.print_value(value, as_json=given.json)
    else:
        print_done({"id": job.id}, job.id)
