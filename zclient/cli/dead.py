"""The verbs of `zclient dead`: looking at jobs that will not be tried again, replaying and dropping them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from zclient.cli import output
from zclient.cli.arguments import moment_or_age
from zclient.cli.common import EXIT_NOT_FOUND, VerbGroup, client_options, connect, fail, print_done, settings, usage
from zclient.cli.drawing import error_line, job_document, print_job, print_jobs
from zclient.protocol.limits import MAX_PAGE
from zclient.verbs import Bulk

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@click.group("dead", cls=VerbGroup)
@client_options
def dead() -> None:
    """Look at dead jobs, replay or drop them."""


def _narrowed(function: _Decorated) -> _Decorated:
    """``--reason`` and ``--error``: which dead jobs are meant."""
    reason = click.option(
        "--reason", metavar="REASON", help="Only those: attempts, rejected, expired, poison, lost, ..."
    )
    error = click.option("--error", metavar="TYPE", help="Only those whose last error is of this type.")
    return reason(error(function))


def _selected(function: _Decorated) -> _Decorated:
    """The same with ``--all`` and ``--before``, for orders over a queue."""
    before = click.option(
        "--before", type=moment_or_age, metavar="TIME", help="Only those that died before then, or so long ago: 2d."
    )
    return click.option(
        "--all", "whole", is_flag=True, help="All dead jobs of one QUEUE, which stands in the place of the ids."
    )(_narrowed(before(function)))


@dead.command("list")
@click.argument("queue", required=False)
@_narrowed
@click.option("--grouped", is_flag=True, help="Count them by queue, reason and error.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options
def list_dead(queue: str | None, reason: str | None, error: str | None, grouped: bool, limit: int) -> None:
    """List dead jobs, of all queues or of QUEUE, with the reason of each."""
    if grouped:
        if reason is not None or error is not None:
            raise usage("--grouped shows all reasons and errors; --reason and --error go without it")
        _print_groups(queue, min(limit, MAX_PAGE))
        return
    with connect() as client:
        found = list(client.dead(queue, reason=reason, error=error, limit=limit + 1))
    print_jobs(found, limit, ("id", "queue", "attempts", "died", "reason", "error"))


def _print_groups(queue: str | None, limit: int) -> None:
    with connect() as client:
        groups = [output.with_times(group) for group in client.dead_groups(queue, limit=limit)]
    if settings().json:
        output.print_json(groups)
    elif groups:
        now = datetime.now(UTC)
        rows = [
            (
                group["jobs"],
                group["queue"],
                group["reason"],
                error_line(_group_error(group)),
                output.moment(group["last_at"], now),
                group["example"],
            )
            for group in groups
        ]
        output.print_table(("jobs", "queue", "reason", "error", "last", "example"), rows)
    else:
        output.print_note("there are none")


def _group_error(group: dict[str, Any]) -> dict[str, Any]:
    return {"type": group.get("error"), "text": group.get("text")}


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
@_selected
@click.option("--rate", type=click.IntRange(1, 1_000_000), metavar="N", help="N jobs a second.")
@client_options
def replay(targets: tuple[str, ...], whole: bool, rate: int | None, **narrowed: Any) -> None:
    """Make dead jobs ready again, with their attempts counted afresh."""
    _check(whole, narrowed)
    with connect() as client:
        if whole:
            answer = client.replay(queue=_one_queue(targets), rate=rate, **narrowed)
        else:
            answer = client.replay(ids=targets, rate=rate)
    _tell(answer, "replayed", targets if whole else ())


@dead.command("drop")
@click.argument("targets", metavar="ID... | QUEUE --all", nargs=-1, required=True)
@_selected
@click.option("--yes", is_flag=True, help="Yes, these dead jobs of this queue are to go for good.")
@client_options
def drop(targets: tuple[str, ...], whole: bool, yes: bool, **narrowed: Any) -> None:
    """Remove dead jobs for good."""
    _check(whole, narrowed)
    if whole and not yes:
        which = "the chosen dead jobs" if any(narrowed.values()) else "every dead job"
        raise usage(f"this removes {which} of {_one_queue(targets)} for good; --yes confirms it")
    with connect() as client:
        if whole:
            answer = client.drop(queue=_one_queue(targets), **narrowed)
        else:
            answer = client.drop(ids=targets)
    _tell(answer, "dropped", targets if whole else ())


def _check(whole: bool, narrowed: dict[str, Any]) -> None:
    if not whole and any(value is not None for value in narrowed.values()):
        raise usage("--reason, --error and --before go with --all")


def _tell(done: Bulk, past: str, queues: tuple[str, ...]) -> None:
    if done.work is None:
        print_done({past: done.count}, f"{done.count} jobs {past}")
        return
    whose = f"{queues[0]}'s dead jobs" if queues else f"{done.count} jobs"
    where = f"`zclient queue show {queues[0]}`" if queues else "`zclient queue list`"
    print_done({past: done.count, "work": done.work}, f"{whose} are being {past}; {where} shows how many are left")


def _one_queue(targets: tuple[str, ...]) -> str:
    if len(targets) != 1:
        raise usage(f"--all takes one QUEUE, not {len(targets)} names")
    return targets[0]
