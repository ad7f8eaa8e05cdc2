"""The verbs of `zclient workflow`, and how a workflow is drawn."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from operator import attrgetter
from shutil import get_terminal_size
from typing import Any

import click

from zclient.cli import output
from zclient.cli.common import EXIT_FAILED, VerbGroup, client_options, connect, fail, print_done, settings
from zclient.cli.drawing import print_listing
from zclient.cli.graph import drawn
from zclient.errors import ResultTimeout
from zclient.workflows import WORKFLOW_STATES, StepStatus, WorkflowStatus, step_of

BAR_CELLS = 10
_LEAST_NAME = 12


@click.group("workflow", cls=VerbGroup)
@client_options
def workflow() -> None:
    """Look at workflows, and cancel or retry them as a whole."""


@workflow.command("list")
@click.option("--state", type=click.Choice(WORKFLOW_STATES), help="Only workflows in this state.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@client_options
def list_workflows(state: str | None, limit: int) -> None:
    """List workflows, the newest first."""
    with connect() as client:
        found = list(client.workflows(state=state, limit=limit + 1))  # one more tells whether there are more
    columns = {name: attrgetter(name) for name in ("id", "name", "state", "jobs")}
    times = {"created": attrgetter("created_at"), "over": attrgetter("over_at")}
    print_listing(found, limit, asdict, {**columns, **times})


@workflow.command("show")
@click.argument("identifier", metavar="ID")
@client_options
def show(identifier: str) -> None:
    """Draw a workflow: a line for each step, with how far it is.

    A step feeds the line on which it has a ●, and is after the steps that feed a line from which it hangs.
    """
    with connect() as client:
        status = client.workflow(identifier).status()
    if settings().json:
        output.print_json(_document(status))
        return
    output.write(drawing(status, get_terminal_size().columns if sys.stdout.isatty() else None))
    if status.state == "dead":
        told = f"`zclient workflow retry {status.id}` replays the dead jobs"
        output.print_note(f"{told}; `zclient workflow cancel {status.id}` gives it up")


@workflow.command("cancel")
@click.argument("identifier", metavar="ID")
@client_options
def cancel(identifier: str) -> None:
    """Cancel a whole workflow.

    What waits is cancelled, and what runs is told.
    """
    with connect() as client:
        state = client.workflow(identifier).cancel()
    text = "is being cancelled" if state == "running" else f"is {state}"
    print_done({"id": identifier, "state": state}, f"workflow {identifier} {text}")


@workflow.command("retry")
@click.argument("identifier", metavar="ID")
@client_options
def retry(identifier: str) -> None:
    """Replay all dead jobs of a workflow.

    What waited for them goes on; what is done is not done again.
    """
    with connect() as client:
        dead = client.workflow(identifier).retry().count
    print_done({"id": identifier, "dead": dead}, f"dead jobs of {identifier} that are being replayed: {dead}")


@workflow.command("results")
@click.argument("identifier", metavar="ID")
@click.argument("step", required=False)
@click.option("--wait", is_flag=True, help="Wait until it is over.")
@client_options
def results(identifier: str, step: str | None, wait: bool) -> None:
    """Print what the steps of a workflow returned.

    As a map in JSON; of STEP alone, as `zclient result` does.
    """
    given = settings()
    with connect(timeout=given.broker_patience) as client:
        deadline = given.deadline()
        run = client.workflow(identifier)
        status = run.status()  # tells one that nobody knows, and a broker that is not there, at once
        told = status if step is None else step_of(status, step)
        if not (wait or told.is_over or status.is_over):
            what = f"workflow {identifier}" if step is None else f"step {step}"
            raise fail(f"{what} is {told.state}; --wait waits for its end", EXIT_FAILED)
        timeout = deadline() if wait else given.patience
        try:
            value = run.results(timeout) if step is None else run.result(step, timeout)
        except ResultTimeout as error:
            raise fail(f"{error}; the same again waits again", error.exit_code) from None
    output.print_value(value, as_json=given.json or step is None)


def _document(status: WorkflowStatus) -> dict[str, Any]:
    """All of a workflow, with its counters."""
    counted = {name: getattr(status, name) for name in ("done", "dead", "cancelled")}
    facts = asdict(status)
    steps = facts.pop("steps")
    return {**facts, **counted, "steps": list(steps.values())}


# ---- the drawing


def drawing(status: WorkflowStatus, width: int | None) -> str:
    """A workflow as lines of text, within a terminal's width if there is one."""
    rails = drawn({name: step.after for name, step in status.steps.items()})
    names = [output.plain(name) for name in rails]
    steps = [status.steps[name] for name in rails]
    counts = [f"{step.done:,}/{step.total:,}" for step in steps]
    room = max(map(len, names), default=0)
    wide = max(map(len, rails.values()), default=0) + max(map(len, counts), default=0)
    if width is not None:  # a remark of ordinary length has room as well
        room = max(min(room, width - wide - BAR_CELLS - len("   cancelled      9,999 dead")), min(room, _LEAST_NAME))
    lines = [_headline(status), ""]
    figures = max(map(len, counts), default=0)
    for name, step, count, rail in zip(names, steps, counts, rails.values(), strict=True):
        lead = f"{rail} " if rail else ""
        shown = name if len(name) <= room else name[: room - 1] + "…"
        text = f"{lead}{shown.ljust(room)}  {output.state(step.state, 9)}  {bar(step)}  {count.rjust(figures)}"
        lines.append("  ".join([text, *_remarks(step, bool(rail) or not step.after)]).rstrip())
    return "\n".join(lines) + "\n"


def bar(step: StepStatus) -> str:
    """How much of a step is done, in ten cells; all of them only if all is."""
    full = int(step.fraction * BAR_CELLS)
    return "█" * full + "░" * (BAR_CELLS - full)


def _headline(status: WorkflowStatus) -> str:
    now = datetime.now(UTC)
    told = [
        output.plain(status.name or status.id),
        output.state(status.state),
        f"{status.done:,} of {status.jobs:,} jobs done",
        f"{status.dead:,} dead" if status.dead else "",
        f"{status.cancelled:,} cancelled" if status.cancelled else "",
        f"sent {output.moment(status.created_at, now)}" if status.created_at else "",
    ]
    return ", ".join(part for part in told if part)


def _remarks(step: StepStatus, is_drawn: bool) -> Sequence[str]:
    told = [
        f"{step.dead:,} dead" if step.dead else "",
        f"{step.cancelled:,} cancelled" if step.cancelled else "",
        "" if is_drawn else f"after {', '.join(map(output.plain, step.after))}",
    ]
    return [part for part in told if part]
