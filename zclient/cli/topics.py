"""The verbs of `zclient topic`: publish, bind, keep, and follow."""

from pathlib import Path
from typing import Any

import click

from zclient.cli import output
from zclient.cli.arguments import copy_options, moment_or_age
from zclient.cli.common import VerbGroup, client_options, connect, duration, print_done, settings, usage
from zclient.cli.payloads import read_payload
from zclient.errors import InvalidArgument
from zclient.filters import parse_filter
from zclient.options import size
from zclient.topics import BEGINNING, Binding, KeptTopic, Publication


def _start(text: str) -> str | float:
    """``beginning``, or a time, or how long ago, for ``type=``."""
    return BEGINNING if text == BEGINNING else moment_or_age(text)


def _filter(text: str) -> list[Any]:
    try:
        return parse_filter(text)
    except InvalidArgument as error:
        raise click.BadParameter(str(error)) from None


def _bytes(text: str) -> int:
    try:
        return size(text)
    except InvalidArgument as error:
        raise click.BadParameter(str(error)) from None


_filters = click.option(
    "--filter",
    "filters",
    type=_filter,
    multiple=True,
    metavar="EXPR",
    help="Only with headers: region=eu, region in eu,us, name^=ab, amount>=10, exists region, !region; repeatable.",
)
_from = click.option(
    "--from",
    "start",
    type=_start,
    metavar="beginning|TIME",
    help="Begin in what is kept: at its beginning, at a time, or so long ago (10m).",
)


@click.group("topic", cls=VerbGroup)
@client_options
def topic() -> None:
    """Publish under topics, bind queues to them, keep what is published, and follow it."""


@topic.command("publish")
@click.argument("topic")
@click.argument("payload", required=False)
@click.option(
    "--file", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Publish these bytes."
)
@click.option("--stdin", is_flag=True, help="Publish the bytes that come on stdin.")
@click.option("--id", "identifier", metavar="ID", help="The same publication under the same id is published once.")
@copy_options
@client_options
def publish(
    topic: str,
    payload: str | None,
    file: Path | None,
    stdin: bool,
    identifier: str | None,
    headers: tuple[tuple[str, str], ...],
    **given: Any,
) -> None:
    """Publish under TOPIC; prints the id, and how many queues took it.

    PAYLOAD is JSON; without it, and without --file and --stdin, it is null. No queue is no error.
    """
    if sum((payload is not None, file is not None, stdin)) > 1:
        raise usage("give one of PAYLOAD, --file and --stdin")
    if given["delay"] is not None and given["at"] is not None:
        raise usage("give --delay or --at, not both")
    value = read_payload(payload, file, stdin)
    with connect() as client:
        done = client.publish(topic, value, id=identifier, headers=dict(headers) or None, **given)
    print_done({"id": done.id, "queues": done.queues}, f"{done.id} {done.queues}")


@topic.command("bind")
@click.argument("pattern")
@click.argument("queue")
@_filters
@_from
@client_options
def bind(pattern: str, queue: str, filters: tuple[list[Any], ...], start: str | float | None) -> None:
    """Let QUEUE have a copy of what is published under PATTERN; again, to give the binding other filters.

    In PATTERN * is one word, # any number of words. The queue is made if there is none.
    """
    with connect() as client:
        made = client.bind(pattern, queue, filters=filters, start=start)
    told = " and gets what is kept" if made.backfilling else ""
    print_done(_fields(made), f"{queue} is bound to {pattern}{told}")


@topic.command("unbind")
@click.argument("pattern")
@click.argument("queue")
@client_options
def unbind(pattern: str, queue: str) -> None:
    """Take the binding of QUEUE to PATTERN away. The copies that it has stay."""
    with connect() as client:
        client.unbind(pattern, queue)
    print_done({"pattern": pattern, "queue": queue, "bound": False}, f"{queue} is no longer bound to {pattern}")


@topic.command("list")
@click.argument("queue", required=False)
@client_options
def list_topics(queue: str | None) -> None:
    """List the bindings, or those of QUEUE, and the kept topics with how much lies there."""
    with connect() as client:
        bindings = list(client.bindings(queue))
        kept = client.kept_topics() if queue is None else []
    if settings().json:
        told = {"bindings": [_fields(one) for one in bindings], "kept": [_fields(one) for one in kept]}
        output.print_json(told)
        return
    if bindings:
        rows = [(one.pattern, one.queue, "; ".join(one.filters), _state(one), one.created_at) for one in bindings]
        output.print_table(("pattern", "queue", "filters", "state", "since"), rows)
    else:
        output.print_note("no queue is bound; `zclient topic bind` binds one")
    if kept:
        columns = ("kept", "for", "up to bytes", "publications", "bytes", "since")
        told_rows = [
            (one.pattern, one.keep_for, one.keep_bytes, one.publications, one.bytes, one.created_at) for one in kept
        ]
        output.write("\n")
        output.print_table(columns, told_rows)


def _state(one: Binding) -> str:
    return "backfilling" if one.backfilling else "live"


@topic.command("keep")
@click.argument("pattern")
@click.option("--for", "keep_for", type=duration, metavar="DURATION", help="Keep each publication for so long.")
@click.option("--bytes", "keep_bytes", type=_bytes, metavar="SIZE", help="Keep so many bytes (100MB), the latest.")
@client_options
def keep(pattern: str, keep_for: float | None, keep_bytes: int | None) -> None:
    """Keep what is published under PATTERN from now on, or change for how long. --for, --bytes, or both."""
    if keep_for is None and keep_bytes is None:
        raise usage("say how long with --for, how much with --bytes, or both")
    with connect() as client:
        kept = client.keep_topic(pattern, keep_for=keep_for, keep_bytes=keep_bytes)
    bounds = [f"for {kept.keep_for}"] if kept.keep_for else []
    bounds += [f"up to {kept.keep_bytes} bytes"] if kept.keep_bytes else []
    print_done(_fields(kept), f"{pattern} is kept {', '.join(bounds)}")


@topic.command("forget")
@click.argument("pattern")
@click.option("--yes", is_flag=True, help="Needed: what was kept is removed for good.")
@client_options
def forget(pattern: str, yes: bool) -> None:
    """Keep PATTERN no longer, and remove what was kept. Queues and their jobs stay."""
    if not yes:
        raise usage(f"this removes all that is kept of {pattern}; say --yes")
    with connect() as client:
        kept = client.forget_topic(pattern)
    print_done({"pattern": pattern, "publications": kept.publications}, f"{kept.publications} publications are gone")


@topic.command("tail")
@click.argument("pattern")
@_from
@_filters
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@client_options
def tail(pattern: str, start: str | float | None, filters: tuple[list[Any], ...], limit: int | None) -> None:
    """Follow what is published under PATTERN (a topic, or with * and #), a line each; Ctrl-C ends it.

    With --timeout it ends when nothing came for so long. What did not arrive is told on stderr.
    """
    left = limit
    with connect(timeout=settings().broker_patience) as client:
        for publication in client.tail(pattern, start=start, filters=filters, timeout=settings().timeout):
            _print(publication)
            left = None if left is None else left - 1
            if left == 0:
                return


def _print(one: Publication) -> None:
    if one.missed is None:
        output.print_note("publications may be missing here: the connection was lost, or they were forgotten")
    elif one.missed:
        output.print_note(f"{one.missed} publications are missing here: they came faster than they were read")
    try:
        payload = one.payload
    except ValueError:
        payload = one.payload_bytes  # another program published it
    if settings().json:
        fields = ("topic", "id", "at", "offset", "headers", "options", "missed")
        told = {name: getattr(one, name) for name in fields} | {"payload": payload}
        output.write(output.json_text(told, indent=None) + "\n")
        return
    at = one.at.astimezone().isoformat(timespec="milliseconds")
    headers = " ".join(f"{name}={value}" for name, value in one.headers.items())
    line = "  ".join(output.plain(part) for part in (at, one.topic, one.id, output.json_text(payload, indent=None)))
    output.write(line + (f"  {output.plain(headers)}" if headers else "") + "\n")


def _fields(one: Binding | KeptTopic) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}
