"""`zclient bench`: a user's own broker, measured from where it is called. What is measured is `measuring`'s."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from zclient.cli import output
from zclient.cli.common import client_options, connect, duration, settings
from zclient.cli.measuring import MEASUREMENTS, Figures, Plan, prepared
from zclient.jobs import queue_name
from zclient.protocol import limits

QUEUE = "zclient.bench"

_SURVIVES = {
    "fsync": "a confirmed job is on disk, synced",
    "os": "a confirmed job survives the broker's process, not the machine",
    "memory": "a confirmed job survives nothing",
}
_FIGURES = (("per_second", "per s"), ("p50_ms", "p50 ms"), ("p99_ms", "p99 ms"), ("p99_9_ms", "p99.9 ms"))

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def _number(flag: str, default: int, most: int, text: str, metavar: str = "N") -> Callable[[_Decorated], _Decorated]:
    kind = click.IntRange(0 if flag == "--payload" else 1, most)
    return click.option(flag, type=kind, default=default, show_default=True, metavar=metavar, help=text)


@click.command("bench")
@click.argument("names", metavar="[lifecycle|sends|latency|calls]...", nargs=-1, type=click.Choice(list(MEASUREMENTS)))
@_number("--jobs", 50_000, 100_000_000, "Jobs of `lifecycle`; `sends` has a fifth of them.")
@_number("--batch", 100, limits.MAX_BATCH_JOBS, "Jobs in one message of `lifecycle`.")
@_number("--payload", 256, limits.MAX_PAYLOAD_BYTES - 64, "Bytes of payload of each job.", "BYTES")
@_number("--producers", 1, 64, "Processes of `lifecycle` that send.")
@_number("--consumers", 1, 64, "Processes of `lifecycle` that take and ack.")
@_number("--credit", 4000, limits.MAX_CAPACITY, "Jobs that each of those holds at once.")
@_number("--threads", 16, 1000, "Threads that send in `sends` and `latency`, and run tasks in `latency` and `calls`.")
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 1_000_000),
    default=500,
    show_default=True,
    metavar="N",
    help="Jobs a second in `latency`.",
)
@click.option(
    "--for",
    "seconds",
    type=duration,
    default="4s",
    show_default=True,
    metavar="DURATION",
    help="How long `latency` is.",
)
@_number("--calls", 500, 1_000_000, "How many `calls`.")
@click.option("--queue", "queue", default=QUEUE, show_default=True, metavar="QUEUE", help="An empty queue to use.")
@click.option("--history", is_flag=True, help="Keep the finished jobs, as the queue's policy says.")
@client_options
def bench(names: tuple[str, ...], queue: str, history: bool, seconds: float, **numbers: Any) -> None:
    """Measure the broker, from here: all four ways, or those that are named.

    \b
    lifecycle  jobs put, taken and acked, by producers and consumers at once
    sends      jobs sent one by one, from threads
    latency    from the send of a job to the start of its task, at a rate
    calls      one `client.call` after the other

    Its jobs are in a queue of its own, which must be empty and is empty again afterwards. They are not kept in history,
    where they would push out others (those of `calls` are, for a moment), unless --history is given. Other work goes
    on, and both feel it.
    """
    given = settings()
    credentials = None if given.credentials is None else str(given.credentials)
    plan = Plan(given.broker, credentials, queue_name(queue), given.patience, duration=seconds, **numbers)
    chosen = [name for name in MEASUREMENTS if name in names or not names]
    measured: dict[str, Figures] = {}
    with _ended_in_order(), connect() as client:
        told = client.stats()
        with prepared(client, plan, history=history) as measure:
            for name in chosen:
                if sys.stderr.isatty() and not given.json:
                    output.print_note(f"{name} ...")
                measured[name] = measure(name)
    document = {
        "broker": told.get("broker"),
        "durability": told.get("durability", "unknown"),
        "store": told.get("store", "unknown"),
        "queue": queue,
        "history": history,
        **{name: numbers[name] for name in ("batch", "payload", "producers", "consumers", "credit", "threads", "rate")},
        "measured": measured,
    }
    if given.json:
        output.print_json(document)
    else:
        _print(document, plan)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM tidies up as Ctrl-C does, and then ends the program."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(document: dict[str, Any], plan: Plan) -> None:
    durability = document["durability"]
    meaning = f": {_SURVIVES[durability]}" if durability in _SURVIVES else ""
    history = "finished jobs kept" if document["history"] else "finished jobs not kept"
    output.write(
        f"{' or '.join(plan.endpoints)}, store {document['store']}, durability {durability}{meaning}; {history}\n\n"
    )
    measured: dict[str, Figures] = document["measured"]
    texts = {
        "lifecycle": (
            f"put, taken and acked, {plan.payload} bytes, batches of {plan.batch}, "
            f"{_some(plan.producers, 'producer')}, {_some(plan.consumers, 'consumer')}"
        ),
        "sends": f"sent one by one, {_some(plan.threads, 'thread')}",
        "latency": f"from send to start, at {plan.rate:g} a second",
        "calls": "calls, one after the other",
    }
    rows = []
    for name, figures in measured.items():
        rows.append((texts[name], *(_shown(figures.get(figure)) for figure, _ in _FIGURES)))
        if "puts_per_second" in figures:
            rows.append(("  of these, until all were put", _shown(figures["puts_per_second"]), "-", "-", "-"))
    titles = [title for _, title in _FIGURES]
    widths = [max(len(row[n]) for row in [("", *titles), *rows]) for n in range(len(titles) + 1)]
    for row in [("", *titles), *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        output.write("  ".join(cells).rstrip() + "\n")
    reached = measured.get("latency", {}).get("per_second", plan.rate)
    if reached < 0.95 * plan.rate:
        output.print_note(f"the rate was not reached: {reached:,.0f} a second. More --threads may send faster")


def _some(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _shown(value: float | None) -> str:
    """A figure with as many digits as mean something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
