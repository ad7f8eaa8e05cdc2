"""What the verbs that start a broker share: the settings as options, and a broker that is all that a process does.

It owns no verb.
"""

import contextlib
import gc
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import click

from zbroker.commit import Durability
from zbroker.config import SETTINGS, Config

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_LISTS = {"bind"}
_FLAGS = {"insecure"}
FILE_ONLY = {"queues", "schedules"}
_COMMON = ("data", "bind", "durability", "store", "insecure", "log_format")


def setting_options(function: _Decorated) -> _Decorated:
    """One option for each setting; the common ones first in the help."""
    names = sorted(SETTINGS.keys() - FILE_ONLY, key=lambda name: (name not in _COMMON, list(SETTINGS).index(name)))
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


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What stood on the command line."""
    return {name: (value or None) if name in _LISTS else value for name, value in values.items()}


def serve(config: Config) -> None:
    """Be a broker with these settings until a signal ends it; prints `ready ENDPOINT` for each endpoint."""
    from zbroker.broker import Broker
    from zbroker.server import Server

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
