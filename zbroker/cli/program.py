"""The command line of `zbroker`: start a broker, look at its settings, check a data directory, see the demo."""

import contextlib
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zbroker.commit import Durability
from zbroker.config import SETTINGS, load_config, shown
from zclient.cli.common import VerbGroup, json_option, settings, version_option
from zclient.cli.output import print_json, print_table
from zclient.protocol.options import QUEUE_OPTIONS

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@click.group(
    "zbroker",
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 failed; 2 usage; 6 the data could not be opened or written.",
)
@version_option
def program() -> None:
    """A durable job queue and message broker."""


_LISTS = {"bind"}
_FLAGS = {"insecure"}
_FILE_ONLY = {"queues", "schedules"}
_COMMON = ("data", "bind", "durability", "store", "insecure", "log_format")


def _setting_options(function: _Decorated) -> _Decorated:
    """One option for each setting; the common ones first in the help."""
    names = sorted(SETTINGS.keys() - _FILE_ONLY, key=lambda name: (name not in _COMMON, list(SETTINGS).index(name)))
    for name in reversed(names):
        setting = SETTINGS[name]
        flag = "--" + name.replace("_", "-")
        help_text = f"{setting.help[0].upper()}{setting.help[1:]}.  [default: {_default(name)}]"
        if name in _FLAGS:
            function = click.option(flag, name, is_flag=True, default=None, help=help_text)(function)
        else:
            function = click.option(
                flag, name, multiple=name in _LISTS, default=None, metavar=_metavar(name), help=help_text
            )(function)
    return click.option("--config", "config_file", metavar="FILE", help="TOML file.  [default: ./zbroker.toml]")(
        function
    )


def _default(name: str) -> str:
    default = SETTINGS[name].default
    return (
        ",".join(default) if isinstance(default, tuple) else str(default).lower() if default is False else str(default)
    )


def _metavar(name: str) -> str:
    return {"data": "DIR", "bind": "ENDPOINT", "durability": "|".join(Durability), "log_format": "text|json"}.get(
        name, "VALUE"
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """What stood on the command line."""
    return {name: (value or None) if name in _LISTS else value for name, value in values.items()}


@program.command()
@_setting_options
def start(config_file: str | None, **values: Any) -> None:
    """Start a broker; prints `ready ENDPOINT` once it serves.

    SIGTERM or Ctrl-C stops deliveries, lets running jobs settle for a while, and ends; a second one ends at once.
    Workers keep what they run over a restart.
    """
    from zbroker.broker import Broker
    from zbroker.server import Server

    config = load_config(_given(values), file=config_file)

    _prepare_process()

    def on_ready(endpoint: str, server: Server) -> None:
        _stop_on_signals(server.stop, server.wake_fd)
        click.echo(f"ready {endpoint}")

    Broker(config=config).run(on_ready, _wake_nobody)


def _prepare_process() -> None:
    """What a process that is nothing but a broker may do to itself.

    As many connections as the system allows; and no full garbage collections, which would walk over every finished job
    that is remembered and hold the loop for tens of milliseconds: what the loop makes is freed by its reference counts.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on this system, or not allowed
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(100_000, 100, 1_000_000)


def _stop_on_signals(stop: Callable[[], None], wake_fd: int) -> None:
    """The first SIGTERM or SIGINT drains, the second ends the process at once: the store survives that."""
    signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    asked = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _wake_nobody() -> None:
    """While a store closes it opens files, and one may get the number of the closed descriptor: a signal must not be
    written there."""
    signal.set_wakeup_fd(-1)


@program.command("config")
@_setting_options
@json_option
def show_config(config_file: str | None, **values: Any) -> None:
    """Show each setting, its value, and where that came from: an argument, a variable, a file, or the default."""
    config = load_config(_given(values), file=config_file)
    if settings().json:
        print_json(
            {name: {"value": shown(name, config[name]), "source": config.sources[name]} for name in config.values}
        )
        return
    lines = []
    for name in config.values:
        value = shown(name, config[name])
        if name in _FILE_ONLY:
            lines += [
                [f"{name}.{own}.{option}", one, config.sources[name], _help_of(name, option)]
                for own, options in value.items()
                for option, one in options.items()
            ]
            continue
        lines.append(
            [name, ",".join(value) if isinstance(value, list) else value, config.sources[name], SETTINGS[name].help]
        )
    print_table(["setting", "value", "source", "what it is"], [[str(cell) for cell in line] for line in lines])


def _help_of(name: str, option: str) -> str:
    return QUEUE_OPTIONS[option].help if name == "queues" else f"{option} of a schedule"


@program.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Cut off a damaged end of the log, if nothing confirmed lies there.")
@json_option
def check(directory: Path, repair: bool) -> None:
    """Check the invariants of a data directory that no broker holds, and count what is in it."""
    from zbroker.check import check_directory
    from zbroker.storage.repair import repair as repair_directory

    if repair:
        click.echo(repair_directory(directory).summary(), err=True)
    report = check_directory(directory)
    if settings().json:
        print_json({"counts": report.counts, "faults": report.faults})
    else:
        print_table(["what", "rows"], [[name, str(number)] for name, number in report.counts.items()])
        for fault in report.faults:
            click.echo(f"fault: {fault}")
        click.echo("faults: none" if not report.faults else f"faults: {len(report.faults)}")
    if report.faults:
        raise click.exceptions.Exit(1)


@program.command()
@click.option("--keep", metavar="DIR", help="Keep the data directory and logs there.")
def demo(keep: str | None) -> None:
    """Run real work: index Python's standard library with several workers, killing one of them and the broker."""
    from zbroker.demo import run_demo

    raise click.exceptions.Exit(run_demo(keep))
