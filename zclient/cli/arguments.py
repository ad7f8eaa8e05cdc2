"""How the command line reads what people write of a job: its options, headers, and points in time.

Names, ranges and helps come from the table of options; here each becomes an option of click. It asks no broker.
"""

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from zclient.durations import parse_duration
from zclient.errors import InvalidArgument
from zclient.options import wire_value
from zclient.protocol.options import CALLED_OPTIONS, COPY_OPTIONS, JOB_OPTIONS, SCHEDULE_OPTIONS, Option

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_METAVARS = {"duration": "DURATION", "period": "done|waiting|DURATION", "count": "N", "share": "0..1", "text": "TEXT"}


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


def moment_or_age(text: str) -> float:
    """The same, or how long ago: ``10m``, ``2h ago``. A number without a unit is Unix seconds."""
    age = text.strip().removesuffix("ago").strip()
    if re.fullmatch(r"[\d.]+\s*[a-z]+", age, re.ASCII):
        try:
            return time.time() - parse_duration(age)
        except InvalidArgument:
            pass  # One message for whatever is no time, below.
    return moment(text)


def header(text: str) -> tuple[str, str]:
    """``KEY=VALUE``, for ``type=``, as a pair. The value may be empty, and may hold further ``=``."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is no header: write KEY=VALUE")
    return key, value


def _reader(name: str) -> Callable[[str], str]:
    """Checks what was written for an option of a job, and leaves it as it is: the client reads it once more."""

    def read(text: str) -> str:
        try:
            wire_value(name, JOB_OPTIONS[name], text)
        except InvalidArgument as error:
            raise click.BadParameter(str(error).removeprefix(f"{name}: ")) from None
        return text

    return read


def job_options(function: _Decorated) -> _Decorated:
    """All options of a job, under their names. What was not given is None; headers are a tuple of pairs."""
    return _with_options(function, JOB_OPTIONS)


def copy_options(function: _Decorated) -> _Decorated:
    """Those of what is published, likewise."""
    return _with_options(function, COPY_OPTIONS)


def schedule_options(function: _Decorated) -> _Decorated:
    """Those of a schedule's jobs, likewise."""
    return _with_options(function, SCHEDULE_OPTIONS)


def _with_options(function: _Decorated, options: dict[str, Option]) -> _Decorated:
    for name, option in reversed(options.items()):
        if name == "batch" or name in CALLED_OPTIONS:
            continue  # whoever opens a batch sends its jobs
        flag = "--" + name.replace("_", "-")
        told = option.help[0].upper() + option.help[1:] + "."
        if name == "headers":
            add = click.option("--header", name, type=header, multiple=True, metavar="KEY=VALUE", help=told)
        elif name == "after":
            add = click.option(
                "--after",
                name,
                multiple=True,
                metavar="ID",
                help=f"{told} Repeatable.",
                callback=lambda context, parameter, given: given or None,
            )
        elif name == "at":
            add = click.option(flag, name, type=moment, metavar="TIME", help=f"{told} ISO 8601, or Unix seconds.")
        else:
            choices = "|".join(option.choices) + ("|WAIT,..." if option.kind == "backoff" else "")
            metavar = _METAVARS.get(option.kind) or choices
            add = click.option(flag, name, type=_reader(name), metavar=metavar, help=told)
        function = add(function)
    return function
