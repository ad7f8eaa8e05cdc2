"""What the three command lines share: options that may stand before or after the verb, errors in one line, exit codes.

`zbroker` and `zworker` build on it too, so it loads nothing of a broker or a worker. How data is printed is `output`'s;
what the verbs do is theirs.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import click

from zclient import Client
from zclient.cli import output
from zclient.config import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE
from zclient.durations import parse_duration
from zclient.errors import (
    AnswerTimeout,
    BrokerUnreachable,
    InvalidArgument,
    OutcomeUnknown,
    Refused,
    ResultTimeout,
    ZError,
)

DEFAULT_TIMEOUT_S = 10.0

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4
EXIT_NOT_FOUND = 5
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a program that Ctrl-C ended
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for a program whose reader went away

_SETTINGS = "zclient.cli.settings"
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


# ---- options


@dataclass
class Settings:
    """The shared options of one invocation, wherever on the line they stood."""

    endpoints: tuple[str, ...] = ()  # as given; empty if neither --broker nor its variable names one
    credentials: Path | None = None
    timeout: float | None = None  # seconds; None if not given
    json: bool = False
    typed: set[str] = field(default_factory=set)  # names that stood on the command line
    connected: bool = False  # whether `connect` made a client of them

    @property
    def broker(self) -> tuple[str, ...]:
        """Where the broker is: as given, or the default."""
        return self.endpoints or (DEFAULT_ENDPOINT,)

    @property
    def patience(self) -> float:
        """Seconds to wait for the broker's answer."""
        return DEFAULT_TIMEOUT_S if self.timeout is None else self.timeout

    @property
    def broker_patience(self) -> float:
        """The same where a longer ``--timeout`` is meant for the job, not for the broker."""
        return min(self.patience, DEFAULT_TIMEOUT_S)

    def deadline(self) -> Callable[[], float | None]:
        """A clock that runs from now: the seconds that ``--timeout`` leaves, or None if it was not given."""
        if self.timeout is None:
            return lambda: None
        until = time.monotonic() + self.timeout
        return lambda: max(0.0, until - time.monotonic())


def settings(context: click.Context | None = None) -> Settings:
    """The shared options, once the command line is read."""
    context = context or click.get_current_context()
    kept: Settings = context.meta.setdefault(_SETTINGS, Settings())
    return kept


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Keep a shared option. The one nearest to the verb's end wins, and any of them wins over the environment."""
    name = str(parameter.name)
    source = context.get_parameter_source(name)
    kept = settings(context)
    if source is click.core.ParameterSource.COMMANDLINE:
        kept.typed.add(name)
    elif source is not click.core.ParameterSource.ENVIRONMENT or name in kept.typed:
        return value
    setattr(kept, name, value)
    return value


def duration(text: str) -> float:
    """A duration, for ``type=``: ``5s``, ``300ms``, ``10m``, ``2h``, ``1d``, or seconds. In seconds."""
    try:
        return parse_duration(text)
    except InvalidArgument as error:
        raise click.BadParameter(str(error)) from None


def _shared(*flags: str, **attributes: Any) -> Callable[[_Decorated], _Decorated]:
    return click.option(*flags, expose_value=False, callback=_keep, **attributes)


_broker = _shared(
    "--broker",
    "-b",
    "endpoints",
    multiple=True,
    metavar="ENDPOINT",
    envvar=ENDPOINT_VARIABLE,
    show_envvar=True,
    help=f"Where the broker is; again for another address of the same one.  [default: {DEFAULT_ENDPOINT}]",
)
_credentials = _shared(
    "--credentials",
    "credentials",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar="ZBROKER_CREDENTIALS",
    show_envvar=True,
    help="Who we are, for a broker that asks.",
)
timeout_option = _shared(
    "--timeout",
    "timeout",
    type=duration,
    metavar="DURATION",
    help="The longest to wait for the broker, and with --wait for the result.  [default: 10s for the broker]",
)
json_option = _shared("--json", "json", is_flag=True, help="Print one JSON document.")


def broker_options(function: _Decorated) -> _Decorated:
    """``--broker/-b`` and ``--credentials``; read them with `settings`."""
    return _broker(_credentials(function))


def client_options(function: _Decorated) -> _Decorated:
    """Everything that a verb which asks a broker takes: `broker_options`, ``--timeout``, ``--json``."""
    return broker_options(timeout_option(json_option(function)))


def _print_version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        try:
            told = metadata.version("zbroker")
        except metadata.PackageNotFoundError:
            told = "(run from a checkout that is not installed)"
        click.echo(f"{context.info_name} {told}")
        context.exit()


version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)


class VerbGroup(click.Group):
    """A group whose help lists its verbs in the order in which they were written, the common ones first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the verbs, unsorted."""
        return list(self.commands)


def connect(timeout: float | None = None) -> Client:
    """A client of the broker that the command line names; to be closed. ``timeout``, in seconds, is for each answer."""
    given = settings()
    given.connected = True
    return Client(given.broker, credentials=given.credentials, timeout=given.patience if timeout is None else timeout)


def print_done(document: dict[str, Any], text: str) -> None:
    """What a verb changed, on stdout: the document with ``--json``, else the text as a line."""
    if settings().json:
        output.print_json(document)
    else:
        output.write(text + "\n")


# ---- running, and how it ends


def run(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; every foreseen error is one line on stderr, never a traceback.

    ``argv`` is what stands behind the program's name; None takes it from the process. An error that no one foresaw is a
    bug, and passes through with its traceback.
    """
    name = command.name or "zclient"
    if argv is None and f"_{name.upper()}_COMPLETE" in os.environ:
        command.main(prog_name=name)  # A shell asks what could follow; click answers and exits.
    context: click.Context | None = None
    if sys.stdout is None:  # closed by whoever started us: what we say goes nowhere
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it lives as long as the process
    try:
        try:
            with command.make_context(name, list(sys.argv[1:] if argv is None else argv)) as context:
                command.invoke(context)
        finally:
            sys.stdout.flush()
        return EXIT_DONE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        return _usage(name, error)
    except ZError as error:
        _complain(name, advice(error, settings(context) if context else Settings()))
        return error.exit_code
    except BrokenPipeError:
        _abandon_stdout()
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except OSError as error:
        _complain(name, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return EXIT_FAILED


def fail(text: str, code: int = EXIT_FAILED) -> click.exceptions.Exit:
    """One line on stderr, and the exception to raise that ends the command with ``code``."""
    context = click.get_current_context()
    _complain(str(context.find_root().info_name), text)
    return click.exceptions.Exit(code)


def usage(text: str) -> click.UsageError:
    """The exception to raise for options that do not go together, or a value that cannot be: exit code 2."""
    return click.UsageError(text, click.get_current_context())


def advice(error: ZError, given: Settings) -> str:
    """What an error says on the command line: what happened, and what to do about it."""
    text = str(error).rstrip(".")
    match error:
        case BrokerUnreachable():
            # A worker has its endpoints and its patience from elsewhere, so its error says where and how long.
            if given.connected:
                text = f"no broker at {' or '.join(given.broker)} within {output.span(given.patience)}"
            return f"{text}; is `zbroker start` running there? (-b names another)"
        case OutcomeUnknown() if len(error.ids) == 1:
            return (
                f"sent, but not confirmed in time: the job may be stored. `zclient show {error.id}` tells; "
                f"sending it again with --id {error.id} is safe"
            )
        case AnswerTimeout() if given.connected:
            where = " or ".join(given.broker)
            return f"the broker at {where} did not answer within {output.span(given.patience)}; --timeout waits longer"
        case ResultTimeout() if error.details.keys().isdisjoint(("cancelled", "expired")):
            return f"{text} (`zclient result ID --wait` waits again)"
        case Refused() if error.retry_after is not None:
            return f"{text}; try again in {output.span(error.retry_after)}"
    return text


def _usage(name: str, error: click.ClickException) -> int:
    text = error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if context else name
    if text.startswith("Usage:"):
        click.echo(text, err=True)  # A group without its verb: the help is the answer.
    elif isinstance(error, click.UsageError):
        _complain(path, f"{text.rstrip('.')} (`{path} --help` shows what it takes)")
    else:
        _complain(path, text)
    return EXIT_USAGE


def _complain(name: str, text: str) -> None:
    try:
        click.echo(f"{name}: {' '.join(text.split())}", err=True)
    except BrokenPipeError:
        sys.stderr = None  # Nobody reads it any more; the exit code still tells.


def _abandon_stdout() -> None:
    """Let what is still buffered go nowhere, or the interpreter would complain about the pipe once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
