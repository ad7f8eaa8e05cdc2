"""The verbs `zbroker backup`, `restore` and `fork`."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zbroker.cli.serving import given, serve, setting_options
from zbroker.commit import Durability
from zbroker.config import Config, load_config
from zclient.cli.common import json_option, settings, usage
from zclient.cli.output import print_json, print_note, span

if TYPE_CHECKING:
    from zbroker.storage.backup import Copy

FORK_BIND = ("tcp://127.0.0.1:*",)
"""Where a fork listens that was not told: on no port that anybody knows of."""

_data = click.option("--data", metavar="DIR", help="The broker's data directory.  [default: as for start]")
_config = click.option("--config", "config_file", metavar="FILE", help="TOML file.  [default: ./zbroker.toml]")
_directory = click.argument("directory", type=click.Path(path_type=Path))


@click.command()
@_directory
@_data
@_config
@json_option
def backup(directory: Path, data: str | None, config_file: str | None) -> None:
    """Copy the broker's data to DIRECTORY, while it runs or not; everything confirmed before is in it.

    It reads the data directory, on the broker's host, and asks the broker nothing. Where DIRECTORY is on the same file
    system, tables are linked and take up no room. What is interrupted leaves no DIRECTORY.
    """
    from zbroker import copies

    source = _source(data, config_file)
    with contextlib.suppress(OSError):
        os.nice(10)  # whoever else wants the processor comes first
    _tell("backed up to", _timed(lambda: copies.back_up(source, directory)))


@click.command()
@_directory
@_data
@_config
@json_option
def restore(directory: Path, data: str | None, config_file: str | None) -> None:
    """Make a data directory, at --data, of the backup DIRECTORY. Nothing is overwritten.

    The epoch is raised by 1,000, so that no fence is given a second time. The backup stays as it is.
    """
    from zbroker import copies

    target = _source(data, config_file)
    _tell("restored to", _timed(lambda: copies.restore(directory, target)))


@click.command()
@_directory
@setting_options
def fork(directory: Path, config_file: str | None, **values: Any) -> None:
    """Serve a copy of the broker's data beside it, in DIRECTORY, with all schedules paused.

    The data at --data are copied, while their broker runs. A DIRECTORY that is a fork is served again. One that is a
    backup or another data directory is copied itself, to DIRECTORY.fork. Without --bind the fork listens on a free port
    of loopback, whatever the file or the environment say; all else is as for `start`.
    """
    from zbroker import copies
    from zbroker.storage.directory import store_of

    config = load_config(given(values), file=config_file)
    if config["durability"] == Durability.MEMORY:
        raise usage("a fork is served from disk: not with durability memory")
    source, target = Path(config["data"]), directory
    if not copies.is_fork(directory) and store_of(directory) is not None:
        source, target = directory, directory.with_name(f"{directory.name}.fork")
    if not copies.is_fork(target):
        copied = _timed(lambda: copies.fork(source, target))[0]
        print_note(f"forked {source} to {copied.path}; its schedules are paused")
    serve(_of_fork(config, target, store_of(target)))


def _of_fork(config: Config, path: Path, store: str | None) -> Config:
    """The settings of the original, but for what would touch it or would not be its copy."""
    bound = config["bind"] if config.sources["bind"] == "argument" else FORK_BIND
    changed: dict[str, Any] = {"data": str(path), "store": store, "bind": bound, "schedules": {}}
    return Config({**config.values, **changed}, {**config.sources, **dict.fromkeys(changed, "fork")})


def _source(data: str | None, config_file: str | None) -> Path:
    return Path(load_config({"data": data}, file=config_file)["data"])


def _timed(copy: "Callable[[], Copy]") -> "tuple[Copy, float]":
    """Make a copy; how many seconds it took."""
    began = time.monotonic()
    return copy(), time.monotonic() - began


def _tell(what: str, made: "tuple[Copy, float]") -> None:
    copied, took = made
    if settings().json:
        print_json(
            {
                "directory": str(copied.path),
                "store": copied.store,
                "sequence": copied.sequence,
                "bytes": copied.size,
                "took_ms": round(took * 1000),
            }
        )
        return
    click.echo(f"{what} {copied.path}: {copied.size} bytes, up to sequence number {copied.sequence}, in {span(took)}")
