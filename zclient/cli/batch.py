"""`zclient send --batch`: a job for each line of a file, in a stream, with nothing lost when a line is bad.

What was stored is told, whatever ended the stream: ids (or with --quiet their number) on stdout. The pipeline
itself is the client's.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import click

from zclient.cli import output
from zclient.cli.common import EXIT_USAGE, advice, connect, fail, settings
from zclient.cli.payloads import parse_json
from zclient.errors import ZError
from zclient.joboptions import JobOptions


class Lines:
    """The payloads in a stream of JSON lines, up to the first bad one; ``fault`` then says which and why.

    It stops there and does not raise, so that every job before the bad line is sent. Empty lines carry no job.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.number = 0
        self.octets = 0
        self.fault: str | None = None

    def __iter__(self) -> Iterator[Any]:
        for line in self._stream:
            self.number += 1
            self.octets += len(line)
            if line.isspace():
                continue
            try:
                value = parse_json(line)
            except ValueError as error:
                self.fault = f"line {self.number} is no payload: {error}"
                return
            yield value


def send_batch(queue: str, file: str, quiet: bool, options: JobOptions) -> None:
    """Send the lines of a file (``-`` is stdin), print what was stored, and fail with the reason if that is not all."""
    confirmed = 0
    stored: Sequence[str] = ()
    failure: ZError | None = None
    with click.open_file(file, "rb") as stream, connect() as client, _progress(stream) as show:
        lines = Lines(stream)

        def count(jobs: int) -> None:
            nonlocal confirmed
            confirmed = jobs
            show(jobs, lines.octets)

        try:
            stored = client.send_many(queue, lines, progress=count, **options).ids
        except ZError as error:
            stored, failure = error.confirmed, error
        except KeyboardInterrupt:
            output.print_note(f"interrupted after {confirmed} confirmed jobs; a few more may be stored")
            raise
    _print_stored(stored, failure.unknown if failure else (), quiet)
    if failure is not None:
        told = f"jobs stored: {len(stored)}, perhaps stored: {len(failure.unknown)}"
        raise fail(f"{advice(failure, settings())} ({told})", failure.exit_code)
    if lines.fault is not None:
        raise fail(f"{lines.fault} (jobs stored before it: {len(stored)}; after it: none)", EXIT_USAGE)


def _print_stored(confirmed: Sequence[str], unknown: Sequence[str], quiet: bool) -> None:
    """The ids of what is stored, one a line; in JSON those of what may be stored as well."""
    if settings().json:
        ids = {} if quiet else {"ids": list(confirmed), "unknown": list(unknown)}
        output.print_json({"sent": len(confirmed), **ids})
    elif quiet:
        output.write(f"{len(confirmed)}\n")
    else:
        for start in range(0, len(confirmed), _PRINTED_AT_ONCE):
            output.write("".join(f"{identifier}\n" for identifier in confirmed[start : start + _PRINTED_AT_ONCE]))


_PRINTED_AT_ONCE = 1000


@contextmanager
def _progress(stream: IO[bytes]) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr if that is a terminal. The function it gives takes jobs confirmed and bytes read."""
    if not sys.stderr.isatty():
        yield lambda jobs, octets: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.fields[jobs]:,} jobs"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("send", total=_size(stream), jobs=0)
        yield lambda jobs, octets: progress.update(task, completed=octets, jobs=jobs)


def _size(stream: IO[bytes]) -> int | None:
    """The bytes in a file; None for a pipe or a terminal, whose end nobody knows."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except OSError:
        return None
